from pathlib import Path

import pytest
from project import EXPERIMENT, waves


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The folder of a user with a record and an experiment; of the shell that submits, nothing else counts."""
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "WORKBENCH_DATA", "WORKBENCH_SITE", "WORKBENCH_THREADS"):
        monkeypatch.delenv(name, raising=False)
    waves().to_netcdf("waves.nc")
    (tmp_path / "waves.yaml").write_text(EXPERIMENT)
    return tmp_path
