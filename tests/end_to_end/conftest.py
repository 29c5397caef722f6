import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from project import EXPERIMENT, run, waves


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder in which the whole pipeline has run once: a copy of the one that the first to ask has made."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "trained"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            folder = place.with_name("training")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            waves().to_netcdf(folder / "waves.nc")
            (folder / "waves.yaml").write_text(EXPERIMENT)
            done = run(folder, "pipeline", "-c", "waves.yaml")
            (folder / "stdout.txt").write_text(done.stdout)
            folder.rename(place)
    return shutil.copytree(place, tmp_path_factory.mktemp("project") / "waves")
