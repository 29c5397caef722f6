"""What a user gets from the wheel, outside the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_declarations_and_no_strangers(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "workbench/py.typed",
        "workbench/_datasets/kolmogorov_flow/recipe.yaml",
        "workbench/_experiments/kolmogorov/fno.yaml",
        "workbench/_experiments/weather/ncep_slp_fno.yaml",
        "workbench/_hpc/job.sh",
        "workbench/_hpc/sites/frontier.yaml",
    ):
        assert needed in names
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"workbench"}


def test_the_wheel_works_outside_the_repository(wheel, tmp_path):
    """Unpacked away from the checkout, the command finds experiments and recipes by name."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site), "WORKBENCH_DATA": str(tmp_path / "data")}
    for words, expected in (
        (["--help"], "kolmogorov/fno"),
        (["dataset", "list"], "kolmogorov_flow/tiny"),
        (["fit", "-c", "kolmogorov/fno", "--print_config"], "a recipe that has not been built"),
    ):
        command = [sys.executable, "-P", "-c", "import sys; from workbench.cli import main; sys.exit(main())", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        if words[0] == "fit":
            assert "class_path: workbench.tasks.ForecastTask" in done.stdout, done.stderr
        else:
            assert expected in done.stdout, done.stderr
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import workbench; print(workbench.__file__)"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert str(site) in where.stdout
