"""Every site's scripts are shell, ask for what the profile has, and are what they were when a person last read them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.launch.chain import Request, chain
from workbench.launch.script import Paths, render
from workbench.launch.site import Site, read_site, seconds, site_names, walltime

GOLDEN = Path(__file__).parent / "golden"


def scripts(name, **asked):
    """Job's name -> script, of the whole pipeline of an experiment whose record is there."""
    site = read_site(name)
    experiment = experiments.load(["waves.yaml"])
    request = Request(configs=("waves.yaml",), overrides=("--trainer.max_epochs=3",), shares=2, **asked)
    jobs, _ = chain(experiment, site, request)
    return {job.name: render(job, site, Paths(experiment.run_dir), "abc123") for job in jobs}


@pytest.mark.parametrize("name", site_names())
def test_scripts_are_shell_and_the_golden_ones(project, name):
    """To accept a change: WORKBENCH_GOLDEN=write pytest tests/launch, and read the difference."""
    found = scripts(name, nodes=2)
    finish = [] if name == "local" else ["rollout-finish"]  # job after job, nothing is gained by shares
    assert list(found) == ["fit", "rollout", *finish, "evaluate", "report"]
    for job, text in found.items():
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, (job, done.stderr)
        assert "@{" not in text
    text = "".join(f"### {job}\n{found[job]}" for job in ("fit", "rollout", "evaluate"))
    text = text.replace(str(project), "FOLDER").replace(sys.executable, "PYTHON")
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("WORKBENCH_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", site_names())
def test_cpu_work_holds_no_gpu(project, name):
    for job, text in scripts(name).items():
        if job not in ("fit", "rollout"):
            assert not re.search(r"--gpus|ngpus|constraint=gpu|standard-g|gpu_h100", text), job


def test_packaged_profiles_say_whether_they_were_run():
    for name in set(site_names()) - {"slurm", "pbs", "local"}:
        site = read_site(name)
        assert not site.tested and site.documentation.startswith("https://")
        assert "not run here" in (Path(__file__).parents[2] / "hpc" / "sites" / f"{name}.yaml").read_text()


def test_times():
    assert [seconds(t) for t in ("10:00", "90:00", "1:00:00", "1-02:00:00")] == [600, 5400, 3600, 93600]
    assert walltime("1-02:00:05") == "26:00:05"
    for wrong in ("3h", "90", "1:2:3:4", "1:60:00", "10:60", ""):
        with pytest.raises(InputError, match="is no walltime"):
            seconds(wrong)


def test_wrong_profiles_are_named(tmp_path):
    with pytest.raises(InputError, match="no site 'frontire'.*did you mean 'frontier'"):
        read_site("frontire")
    file = tmp_path / "mine.yaml"
    for text, message in (
        ("title: x\nschedular: slurm", "mine.yaml.*schedular"),
        ("title: x\nscheduler: lsf", "mine.yaml.*scheduler"),
        ("title: x\ncpu: {cores: 3, time: 3h}", "mine.yaml.*'3h' is no walltime"),
        ("- a list", "holds list"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_site(str(file))


def test_what_compute_nodes_see(tmp_path, monkeypatch):
    monkeypatch.setenv("PSCRATCH", str(tmp_path))
    assert Site("a", visible=("$PSCRATCH",)).sees(tmp_path / "runs")
    assert not Site("a", visible=("$PSCRATCH",)).sees(tmp_path.parent)
    assert not Site("a").sees(Path("/tmp/x")) and Site("a").sees(Path("/home/x"))
    assert Site("a", scheduler="local").sees(Path("/tmp/x"))
