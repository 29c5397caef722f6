"""Options and switches that every test shares."""

import os
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook
from ranks import Server

# Threads that wait must sleep: tests share their two cores with their own subprocesses (see workbench.cli).
os.environ.setdefault("GOMP_SPINCOUNT", "100")

# Shapes written in signatures are checked in every call during the tests; WORKBENCH_SHAPE_CHECKS=0 turns it off.
# The hook must be there before the first import of a module that it checks.
SHAPE_CHECKED = [
    "workbench.models",
    "workbench.tasks",
    "workbench.data.packing",
    "workbench.rollout",
    "workbench.simulate.vorticity",
    "workbench.simulate.channel_solver",
    "workbench.simulate.channel_nodes",
    "workbench.simulate.channel_les",
]
if os.environ.get("WORKBENCH_SHAPE_CHECKS", "1") != "0":
    install_import_hook(SHAPE_CHECKED, "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the studies that take minutes")
    parser.addoption(
        "--golden",
        type=Path,
        metavar="DIR",
        default=Path(__file__).parents[2] / "shared" / "golden",
        help="published references: the folder of one domain's cases, or of one folder a domain "
        "(default: ../shared/golden beside the repository)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The same examples every time, however long they take, so that no test fails by chance; others with --slow."""
    hypothesis.settings.register_profile(
        "suite",
        deadline=None,
        derandomize=not config.getoption("--slow"),
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not (item.get_closest_marker("slurm") or item.get_closest_marker("long")))
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a study that takes minutes: run with --slow"))


@pytest.fixture(scope="session")
def server():
    """Starts processes that tests kill, or have many of."""
    with Server() as server:
        yield server
