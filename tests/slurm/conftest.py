"""Tests here run on a real SLURM of two virtual nodes, or say why they cannot."""

from pathlib import Path

import pytest
import slurm_sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(900))  # jobs wait for each other, and start Python several times


@pytest.fixture(scope="module")
def slurm():
    """A controller that answers, for one module of tests at a time; commands find it by SLURM_CONF."""
    try:
        with slurm_sandbox.used():
            yield
    except (slurm_sandbox.Unavailable, OSError) as reason:
        pytest.skip(f"no SLURM: {reason}")
