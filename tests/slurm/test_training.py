"""Trainings as jobs of SLURM: on two nodes, stopped, preempted, and with a rank that is killed."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import Server
from trainings import Trainings, differences

from workbench.cluster.job import attempts

SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time=10 --requeue --open-mode=append --output={name}.out --signal=USR1@60
srun --kill-on-bad-exit=1 {python} -W ignore -m workbench fit -c {file} --run-dir {name} --resume-or-start {words}
"""


@pytest.fixture(scope="module")
def trainings(slurm, tmp_path_factory):
    with Server() as server:
        yield Trainings(tmp_path_factory.mktemp("jobs"), server)


def command(*words, **options):
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True, **options)
    return done.stdout.strip()


class Job:
    """One training of a project, submitted."""

    def __init__(self, trainings, name, *words, **environment):
        self.folder, self.name = trainings.folder, name
        file = trainings.write(name, accumulate=1)
        script = self.folder / f"{name}.sh"
        script.write_text(SCRIPT.format(name=name, python=sys.executable, file=file, words=" ".join(words)))
        environment |= {"WORKBENCH_DATA": str(self.folder / "data"), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{self.folder}"
        self.number = command("sbatch", "--parsable", str(script), cwd=self.folder, env=os.environ | environment)

    @property
    def out(self):
        file = self.folder / f"{self.name}.out"
        return file.read_text() if file.exists() else ""

    def wait(self, condition, what, seconds=240):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what}\n{self.state}\n{self.out}"
            time.sleep(0.2)

    @property
    def state(self):
        return re.search(r"JobState=(\w+)", command("scontrol", "show", "job", self.number))[1]

    def wait_for_steps(self, count):
        """Until the first rank has written down so many steps, over all attempts."""
        seen = self.folder / self.name / "seen0.jsonl"
        self.wait(lambda: seen.exists() and seen.read_text().count("\n") >= count, f"step {count}")


def test_on_two_nodes_stopped_and_preempted_in_an_epoch_it_ends_as_two_local_ranks_do(trainings):
    """The first time it is told to stop, as before its time limit; then a job of higher priority takes its nodes."""
    job = Job(trainings, "preempted", PAUSE="1.5")
    job.wait_for_steps(2)
    command("scancel", "--signal=USR1", job.number)
    job.wait(lambda: "USR1: saved at step" in job.out, "a checkpoint")
    stopped = int(re.search(r"saved at step (\d+)", job.out)[1])
    job.wait_for_steps(stopped + 1)
    command(
        "sbatch",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 1",
        cwd=trainings.folder,
    )
    job.wait(lambda: "TERM: saved at step" in job.out, "a second checkpoint")
    job.wait(lambda: job.state in ("COMPLETED", "FAILED"), "the end")
    assert job.state == "COMPLETED", job.out
    (a, rows_a), (b, rows_b) = trainings.whole(2, 1), trainings.end("preempted")
    assert differences(a, b) == []
    assert rows_a == rows_b
    told = attempts(trainings.folder / "preempted")
    assert [line["event"] for line in told] == ["started", "stopped"] * 2 + ["started", "finished"]
    assert told[0]["nodes"] == ["node1", "node2"] and told[4]["attempt"] == 3
    assert stopped % 4 or told[3]["step"] % 4, "in the middle of an epoch"


def test_a_rank_that_is_killed_is_named_and_ends_the_job(trainings):
    job = Job(trainings, "killed", KILL=json.dumps([6, "backward", 1]))
    job.wait_for_steps(4)
    began = time.monotonic()
    job.wait(lambda: job.state in ("COMPLETED", "FAILED"), "the end")
    assert job.state == "FAILED" and time.monotonic() - began < 60
    assert "rank 1 on node node2 has ended: it was killed" in job.out
    assert attempts(trainings.folder / "killed")[-1]["event"] == "lost"
    statuses, out, _ = trainings.run("killed", "--resume-or-start", ranks=2, accumulate=1)
    assert statuses == [0, 0], out
    assert differences(trainings.whole(2, 1)[0], trainings.end("killed")[0]) == []
