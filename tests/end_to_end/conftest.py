from pathlib import Path

import pytest
from project import EXPERIMENT, run, waves


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder in which the whole pipeline has run once."""
    folder = tmp_path_factory.mktemp("project")
    waves().to_netcdf(folder / "waves.nc")
    (folder / "waves.yaml").write_text(EXPERIMENT)
    done = run(folder, "pipeline", "-c", "waves.yaml")
    (folder / "stdout.txt").write_text(done.stdout)
    return folder
