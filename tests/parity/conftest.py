"""Every published reference case is one test, found through the index of its folder and run by no code of its own.

A module ``test_<domain>.py`` asks for the fixture ``case`` and says how a case of its domain is run; the cases are the
entries of ``index.json`` in the domain's folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file


@dataclass(frozen=True)
class Case:
    """One entry of a golden folder's index: what was run and the tensors that went in and came out."""

    name: str
    folder: Path
    entry: dict[str, Any]

    def arrays(self) -> dict[str, np.ndarray]:
        path = self.folder / self.entry.get("file", f"{self.name}.npz")
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path) as arrays:
            return dict(arrays)


def domain_folder(golden: Path, domain: str) -> Path:
    """The folder of a domain's cases: GOLDEN itself where it holds an index and is not another domain's folder."""
    others = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")} - {domain}
    return golden if (golden / "index.json").is_file() and golden.name not in others else golden / domain


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    domain = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    folder = domain_folder(metafunc.config.getoption("--golden"), domain)
    index = folder / "index.json"
    if not index.is_file():
        missing = pytest.mark.skip(reason=f"no published references: {index} does not exist (--golden DIR)")
        metafunc.parametrize("case", [pytest.param(None, marks=missing, id="absent")])
        return
    entries = json.loads(index.read_text())
    cases = [Case(name, folder, entry) for name, entry in entries.items()]
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])
