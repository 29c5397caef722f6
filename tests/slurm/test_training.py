"""Trainings as jobs that a scheduler stops in ways that take minutes, and one whose weights lie in parts."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import weather as small
from jobs import command, rank_of, until
from trainings import Trainings, differences

from workbench.cluster.job import attempts
from workbench.models.stored import read_state

pytestmark = pytest.mark.slow

SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time={minutes} --requeue --open-mode=append --output={name}.out --signal=USR1@60
srun --kill-on-bad-exit=1 {python} -W ignore -m workbench fit -c {file} --run-dir {name} --resume-or-start {words}
"""


@pytest.fixture(scope="module")
def trainings(slurm, server, tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("jobs"), server)


class Job:
    """One training, submitted; on two nodes."""

    def __init__(self, folder, name, file, *words, minutes=10, **environment):
        self.folder, self.name = folder, name
        script = folder / f"{name}.sh"
        values = {"name": name, "python": sys.executable, "file": file, "words": " ".join(words), "minutes": minutes}
        script.write_text(SCRIPT.format(**values))
        environment |= {"WORKBENCH_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{folder}"
        self.number = command("sbatch", "--parsable", str(script), cwd=folder, env=os.environ | environment)

    @property
    def out(self):
        file = self.folder / f"{self.name}.out"
        return file.read_text() if file.exists() else ""

    @property
    def state(self):
        return re.search(r"JobState=(\w+)", command("scontrol", "show", "job", self.number))[1]

    @property
    def events(self):
        return [line["event"] for line in attempts(self.folder / self.name)]

    def wait(self, condition, seconds=240):
        until(condition, lambda: (self.state, self.out), seconds)

    def wait_for_steps(self, count):
        """Until the first rank has written down so many steps, over all attempts."""
        seen = self.folder / self.name / "seen0.jsonl"
        self.wait(lambda: seen.exists() and seen.read_text().count("\n") >= count)

    def wait_for_the_end(self, seconds=600):
        self.wait(lambda: self.state in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"), seconds)
        assert self.state == "COMPLETED", self.out


def ends_undisturbed(trainings, name):
    (a, rows_a), (b, rows_b) = trainings.whole(2, 1), trainings.end(name)
    assert differences(a, b) == [] and rows_a == rows_b


def test_a_time_limit_stops_a_training_that_goes_on_in_the_next_job(trainings):
    """A limit of three minutes for what takes four; SLURM sends USR1 up to a minute before the minute asked for."""
    job = Job(trainings.folder, "limited", trainings.write("limited", accumulate=1), minutes=3, PAUSE="20")
    job.wait_for_the_end()
    assert job.events[:2] == ["started", "stopped"] and job.events[-1] == "finished"
    assert "USR1: saved at step" in job.out and "back in the queue" in job.out
    ends_undisturbed(trainings, "limited")


@pytest.mark.parametrize("how", ["declared down", "without a word"])
def test_a_node_that_fails_brings_the_job_back(trainings, how):
    """A node that an operator takes down, which comes back by itself, and one whose rank is silent."""
    name = how.replace(" ", "-")
    job = Job(trainings.folder, name, trainings.write(name, accumulate=1), PAUSE="1.5")
    job.wait_for_steps(3)
    if how == "declared down":
        command("scontrol", "update", "nodename=node2", "state=down", "reason=test")
    else:
        os.kill(rank_of(job.number, 1), signal.SIGSTOP)
        job.wait(lambda: "rank 1 on node node2 has given no sign of life for 30 s" in job.out)
    job.wait_for_the_end()
    assert job.events.count("started") == 2 and job.events[-1] == "finished"
    ends_undisturbed(trainings, name)


def test_weights_in_parts_on_two_nodes(slurm, server, tmp_path):
    small.stored(tmp_path)
    (tmp_path / "e.yaml").write_text(small.EXPERIMENT)
    words = ["--trainer.strategy=fsdp", "--trainer.limit_train_batches=4"]
    Job(tmp_path, "parts", "e.yaml", *words).wait_for_the_end()
    statuses, out, _ = server.run(tmp_path, "fit", "-c", "e.yaml", "--run-dir", "here", *words, ranks=2)
    assert statuses == [0, 0], out
    there, here = (read_state(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("parts", "here"))
    assert differences(there, here) == []
    assert len(list((tmp_path / "parts" / "checkpoints").glob("last.parts-*/*.safetensors"))) == 2
