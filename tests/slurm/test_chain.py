"""An experiment as a chain of jobs on two virtual nodes: preempted, robbed of a rank, submitted again, and finished.

It is one story in one test, because every job starts Python anew: ten seconds of a core each.
"""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from jobs import command, rank_of, until
from project import EXPERIMENT, run
from trainings import Trainings, differences

from workbench import cli
from workbench.cluster.job import attempts
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
HELD = SITE.replace("time:", 'options: ["--hold"], time:')
STEPS = 14
"""Of an epoch."""
WORDS = ["--data.batch_size=2", "--rollout.batch_size=2"]
RUN = Path("runs/waves")
URGENT = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]


@pytest.fixture(scope="module")
def project(slurm, server, tmp_path_factory):
    """Trainings of `helpers`, and the file of the experiment whose run is runs/waves."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("WORKBENCH_DATA", str(folder / "data"))
        Path("site.yaml").write_text(SITE)
        yield Trainings(folder, server)


def experiment(trainings, run_dir):
    """The file of a run with all its sections."""
    file = trainings.write(run_dir, accumulate=1)
    rest = EXPERIMENT.partition("rollout:")[2].replace("starts: 4", "starts: 8")
    file.write_text(f"{file.read_text()}rollout:{rest}")
    return str(file)


def submit(trainings, *words):
    file = experiment(trainings, str(RUN))
    words = ["-c", file, "--run-dir", str(RUN), "--site", "site.yaml", "--nodes", "2", "--shares", "2", *words]
    return cli.main(["submit", *words, *WORDS])


def chain(run_dir=RUN):
    paths = Paths(run_dir)
    return states(Ledger.read(paths), paths)


def ended(run_dir=RUN):
    """What became of the chain's jobs, once none waits or runs."""
    until(lambda: not any(state.alive for state in chain(run_dir)), lambda: (chain(run_dir), logs()))
    return {state.entry.name: state.counts for state in chain(run_dir)}


def logs():
    return "".join(f"== {path}\n{path.read_text()}" for path in sorted(RUN.glob("launch/*.out")))


def wait_for_steps(count):
    """Until the first rank has written down so many steps, over all attempts."""
    seen = RUN / "seen0.jsonl"
    until(lambda: seen.exists() and seen.read_text().count("\n") >= count, logs)


def test_a_chain_is_preempted_loses_a_rank_is_submitted_again_and_ends_as_an_undisturbed_one(
    project, monkeypatch, capsys
):
    monkeypatch.setenv("PAUSE", "1")
    assert submit(project) == 0
    fit = chain()[0].entry
    wait_for_steps(2)
    command("sbatch", *URGENT)
    alone(project, "fit", ranks=2)  # while the job waits
    until(lambda: "attempt 2, from step" in logs(), logs)
    told = attempts(RUN)
    assert told[1]["signal"] == "SIGTERM" and told[1]["step"] == told[2]["step"]
    assert told[1]["step"] % STEPS, "in the middle of an epoch"

    wait_for_steps(told[1]["step"] + 2)
    began = time.monotonic()
    os.kill(rank_of(fit.number, 1), signal.SIGKILL)
    assert ended() == {
        "fit": {"failed with status 137": 1},
        "rollout": {"cancelled": 2},
        **{name: {"cancelled": 1} for name in ("rollout-finish", "evaluate", "report")},
    }, logs()
    assert time.monotonic() - began < 60
    assert "rank 1 on node node2 has ended: it was killed" in logs()
    assert attempts(RUN)[-1]["event"] == "lost"

    monkeypatch.delenv("PAUSE")
    assert submit(project) == 0
    alone(project, "rollout")
    scores_by_dask(project)
    done = {name: {"done": 1} for name in ("fit", "rollout", "rollout-finish", "evaluate", "report")}
    assert ended() == {**done, "rollout": {"done": 2}}, logs()
    as_an_undisturbed_training(project)
    as_one_rollout()
    as_scored_on_threads()
    capsys.readouterr()
    assert submit(project) == 0
    assert f"nothing to submit: {RUN} is complete" in capsys.readouterr().out
    assert cli.main(["jobs", "--run-dir", str(RUN)]) == 0
    assert re.search(r"fit +\d+ +done \(step 4\d\)\nrollout +\d+ +2 done\n", capsys.readouterr().out)


def alone(trainings, verb, ranks=1):
    """The same without a scheduler."""
    words = [verb, "-c", experiment(trainings, "alone"), "--run-dir", "alone", *WORDS]
    data = str(trainings.folder / "data")
    statuses, printed, _ = trainings.server.run(trainings.folder, *words, ranks=ranks, WORKBENCH_DATA=data)
    assert set(statuses) == {0}, printed


def as_an_undisturbed_training(project):
    """Two nodes with one rank each, in three attempts, against two local ranks: to the bit."""
    told = [(line["event"], line.get("nodes", line.get("step"))) for line in attempts(RUN)]
    nodes = ["node1", "node2"]
    assert [line for line in told if line[0] in ("started", "finished")] == [
        *[("started", nodes)] * 3, ("finished", 3 * STEPS),
    ]  # fmt: skip
    (a, rows_a), (b, rows_b) = (project.end(run) for run in ("alone", str(RUN)))
    assert differences(a, b) == [] and rows_a == rows_b
    here, there = (json.loads(Path(run, "fit.json").read_text()) for run in ("alone", RUN))
    assert there["best_validation_loss"] == here["best_validation_loss"] and there["steps"] == here["steps"]


def as_one_rollout():
    """Two jobs, four batches, at once, against one process: the same bytes."""
    chunks = [
        {name: sum for name, sum in integrity.checksums(Path(run, "rollout.zarr")).items() if "/c/" in name}
        for run in ("alone", RUN)
    ]
    assert chunks[0] == chunks[1] and len(chunks[0]) > 4
    assert list(integrity.faults(RUN / "rollout.zarr")) == []
    assert np.isfinite(xr.open_zarr(RUN / "rollout.zarr").height).all()
    notes = [(RUN / f"launch/rollout.attempts.{task}").read_text().split() for task in "12"]
    assert max(words[1] for words in notes) < min(words[5] for words in notes), "both ran at once"


def scores_by_dask(trainings):
    """Scores computed on the workers of a job."""
    words = ["-c", experiment(trainings, "alone"), "--run-dir", "alone", "--dask", "slurm:1", *WORDS]
    run(trainings.folder, "evaluate", *words, WORKBENCH_SITE="site.yaml")
    assert "Start worker" in "".join(path.read_text() for path in Path("dask-jobs").iterdir())


def as_scored_on_threads():
    """Scores of workers of dask are those that the chain's evaluation computed."""
    there, here = (xr.load_dataset(Path(run, "scores.nc"), decode_timedelta=True) for run in ("alone", RUN))
    xr.testing.assert_equal(there, here)


def test_what_slurm_would_not_take_is_not_submitted(project, capsys):
    """It would leave the job with too many nodes in the queue for ever."""
    words = ["submit", "-c", experiment(project, "runs/none"), "--run-dir", "runs/none", "--site", "site.yaml"]
    assert cli.main([*words, "--nodes", "3"]) == 2
    assert "fit: allocation failure: Requested node configuration is not available" in capsys.readouterr().err
    Path("gpuu.yaml").write_text(SITE.replace("gpu: {partition: debug", "gpu: {partition: gpuu"))
    assert cli.main([*words[:-1], "gpuu.yaml", "--dry-run"]) == 2
    assert "fit: sbatch: error: invalid partition specified: gpuu" in capsys.readouterr().err
    assert not Path("runs/none").exists()


def test_a_chain_is_cancelled(project, capsys):
    Path("held.yaml").write_text(HELD)
    words = ["submit", "-c", experiment(project, "runs/held"), "--site", "held.yaml", "--run-dir", "runs/held"]
    assert cli.main(words) == 0
    assert cli.main(words) == 2
    assert "still wait or run: fit" in capsys.readouterr().err
    assert cli.main(["cancel", "--run-dir", "runs/held"]) == 0
    assert {name for counts in ended(Path("runs/held")).values() for name in counts} == {"cancelled"}
    assert cli.main(["cancel", "--run-dir", "runs/held"]) == 0
    assert "no job waits or runs" in capsys.readouterr().out
