"""An experiment as a chain of jobs on two virtual nodes: what it trains, what jobs write together, how it restarts."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from project import EXPERIMENT, run, waves
from ranks import Server

from workbench import cli
from workbench.data import integrity
from workbench.launch.ledger import Ledger, states
from workbench.launch.script import Paths

SITE = """
title: two virtual nodes
scheduler: slurm
cpu: {partition: debug, cores: 1, time: "0:05:00"}
gpu: {partition: debug, cores: 1, time: "0:05:00"}
visible: [/]
"""
EPOCHS = "--trainer.max_epochs=3"
WORDS = ["-c", "waves.yaml", "--site", "site.yaml", "--nodes", "2", "--shares", "3", EPOCHS]
MISSING = "--evaluate.beside={other: runs/other/rollout.zarr}"
JOBS = ["fit", "rollout", "rollout-finish", "evaluate", "report"]


@pytest.fixture(scope="module")
def project(slurm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    waves(steps=12).to_netcdf(folder / "waves.nc")
    (folder / "waves.yaml").write_text(EXPERIMENT)
    (folder / "site.yaml").write_text(SITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("WORKBENCH_DATA", str(folder / "data"))
        yield folder


def ended(seconds=240):
    """The states of the chain's jobs, once none waits or runs."""
    paths, deadline = Paths(Path("runs/waves")), time.monotonic() + seconds
    while True:
        found = states(Ledger.read(paths), paths)
        if not any(state.alive for state in found):
            return {state.entry.name: state.counts for state in found}
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def logs():
    return "".join(f"== {path}\n{path.read_text()}" for path in sorted(Path("runs/waves/launch").glob("*.out")))


@pytest.fixture(scope="module")
def failed(project):
    """A chain whose evaluation asks for a forecast that is not there."""
    assert cli.main(["submit", *WORDS, MISSING]) == 0
    return ended()


def test_a_chain_ends_at_the_stage_that_fails(failed):
    assert [*failed] == JOBS
    assert failed == {
        "fit": {"done": 1},
        "rollout": {"done": 3},
        "rollout-finish": {"done": 1},
        "evaluate": {"failed with status 2": 1},
        "report": {"cancelled": 1},
    }, logs()
    assert "runs/other/rollout.zarr" in next(Path("runs/waves/launch").glob("evaluate-*.out")).read_text()


def test_two_nodes_train_to_the_loss_of_two_local_ranks(project, failed):
    with Server() as server:
        words = ["fit", "-c", "waves.yaml", "--run-dir", "local", EPOCHS]
        statuses, printed, _ = server.run(project, *words, ranks=2)
    assert statuses == [0, 0], printed
    here, there = (json.loads(Path(folder, "fit.json").read_text()) for folder in ("local", "runs/waves"))
    assert there["best_validation_loss"] == here["best_validation_loss"] and there["steps"] == here["steps"]
    assert Path("local/metrics.csv").read_text() == Path("runs/waves/metrics.csv").read_text()


def test_jobs_that_roll_out_at_once_write_one_whole_store(project, failed):
    """Three jobs, four batches: the same bytes as one rollout of the same batches."""
    from workbench import experiment as experiments
    from workbench.commands.rollout import roll_out

    alone = experiments.load(["waves.yaml"], ["--rollout.batch_size=2"], "runs/waves")
    path = roll_out(alone, device="cpu", output=Path("alone.zarr"))
    chunks = [
        {name: sum for name, sum in integrity.checksums(store).items() if "/c/" in name}
        for store in (path, Path("runs/waves/rollout.zarr"))
    ]
    assert chunks[0] == chunks[1] and len(chunks[0]) > 4
    assert list(integrity.faults("runs/waves/rollout.zarr")) == []
    assert np.isfinite(xr.open_zarr("runs/waves/rollout.zarr").height).all()
    notes = [Path(f"runs/waves/launch/rollout.attempts.{task}").read_text().split() for task in "123"]
    assert max(words[1] for words in notes) < min(words[5] for words in notes), "all three ran at once"


@pytest.fixture(scope="module")
def repaired(project, failed):
    """The same command again, now that the forecast is there; which jobs it submits, when the model was trained."""
    fitted = Path("runs/waves/checkpoints/best.ckpt").stat().st_mtime_ns
    shutil.copytree("runs/waves/rollout.zarr", "runs/other/rollout.zarr")
    assert cli.main(["submit", *WORDS, MISSING]) == 0
    return ended(), fitted


def test_the_same_command_goes_on_with_what_failed(repaired, capsys):
    found, fitted = repaired
    assert found == {"evaluate": {"done": 1}, "report": {"done": 1}}, logs()
    assert Path("runs/waves/report.html").exists()
    assert Path("runs/waves/checkpoints/best.ckpt").stat().st_mtime_ns == fitted
    assert cli.main(["jobs", "-c", "waves.yaml"]) == 0
    assert re.search(r"fit +done before\nrollout +done before\nevaluate +\d+ +done\n", capsys.readouterr().out)
    assert cli.main(["submit", *WORDS, MISSING]) == 0
    assert "nothing to submit: runs/waves is complete" in capsys.readouterr().out


def test_workers_of_dask_are_jobs(project, repaired):
    """Scores computed on the workers of a job are those that the chain's evaluation computed on threads."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install '.[hpc]'")
    before = xr.load_dataset("runs/waves/scores.nc", decode_timedelta=True)
    words = ["--overwrite", "--dask", "slurm:1"]
    run(project, "evaluate", "-c", "waves.yaml", MISSING, *words, WORKBENCH_SITE="site.yaml")
    xr.testing.assert_identical(xr.load_dataset("runs/waves/scores.nc", decode_timedelta=True), before)
    assert "Start worker" in "".join(path.read_text() for path in Path("dask-jobs").iterdir())


def test_a_chain_is_cancelled(project, capsys):
    assert cli.main(["submit", "-c", "waves.yaml", "--site", "site.yaml", "--run-dir", "runs/waves2"]) == 0
    assert cli.main(["submit", "-c", "waves.yaml", "--site", "site.yaml", "--run-dir", "runs/waves2"]) == 2
    assert "still wait or run: fit" in capsys.readouterr().err
    assert cli.main(["cancel", "--run-dir", "runs/waves2"]) == 0
    paths, deadline = Paths(Path("runs/waves2")), time.monotonic() + 30
    while any(state.alive for state in states(Ledger.read(paths), paths)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert cli.main(["cancel", "--run-dir", "runs/waves2"]) == 0
    assert "no job waits or runs" in capsys.readouterr().out
