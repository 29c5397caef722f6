"""The words of each scheduler: submit a script after another job, ask for what waits or runs, cancel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import InputError


@dataclass(frozen=True)
class Queued:
    """What a scheduler says of a job that it still has.

    Attributes:
        running: whether it has nodes.
        reason: why it waits, or where it runs.
    """

    running: bool
    reason: str = ""


def submission(scheduler: str, script: Path, after: str | None) -> list[str]:
    """The command that submits `script`, to start when the job `after` has ended well."""
    if scheduler == "slurm":
        wait = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
        return ["sbatch", "--parsable", *wait, str(script)]
    return ["qsub", *(["-W", f"depend=afterok:{after}"] if after else []), str(script)]


def refusal(scheduler: str, script: str) -> str:
    """What SLURM has against a script, in its own words; empty where it would take it, or cannot be asked."""
    if scheduler != "slurm" or shutil.which("sbatch") is None:
        return ""
    done = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    return " ".join(done.stderr.split()) if done.returncode else ""


def submit(scheduler: str, script: Path, after: str | None) -> str:
    """Submit a script; returns the job's number.

    Raises:
        InputError: the scheduler refuses it, with its own words.
    """
    words = submission(scheduler, script, after)
    done = _run(words)
    if done.returncode:
        raise InputError(f"{words[0]} refused {script}: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout.strip().split(";")[0]


def queued(scheduler: str, jobs: Sequence[str]) -> dict[tuple[str, str], Queued]:
    """Jobs that wait or run: (number, task) -> what is said; the task is empty for a job that is no array.

    The waiting tasks of an array are one entry with an empty task.

    Raises:
        InputError: the scheduler does not answer.
    """
    if scheduler == "slurm":
        return _squeue(jobs)
    return _qstat(jobs) if scheduler == "pbs" else {}


def _squeue(jobs: Sequence[str]) -> dict[tuple[str, str], Queued]:
    done = _run(["squeue", "--noheader", "--me", "--format=%F|%K|%T|%r|%N"])
    if done.returncode:
        raise InputError(f"squeue does not answer: {' '.join(done.stderr.split())}")
    found = {}
    for line in done.stdout.splitlines():
        number, task, state, reason, nodes = line.strip().split("|")
        if number in jobs:
            waiting = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
            place = reason if waiting else nodes
            found[number, task if task.isdigit() else ""] = Queued(not waiting, place)
    return found


def _qstat(jobs: Sequence[str]) -> dict[tuple[str, str], Queued]:
    found = {}
    for job in jobs:
        done = _run(["qstat", "-f", "-F", "json", job])
        if done.returncode == 0:  # else it has ended
            for said in json.loads(done.stdout).get("Jobs", {}).values():
                running = said.get("job_state") in ("R", "E", "B")
                found[job, ""] = Queued(running, said.get("exec_host" if running else "comment", ""))
    return found


def history(scheduler: str, job: str) -> dict[str, str]:
    """How a job ended that noted nothing itself: task (empty if it is no array) -> state, as far as anybody knows."""
    if scheduler != "slurm":
        return {}
    done = _run(["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={job}"])
    if done.returncode == 0 and done.stdout.strip():
        pairs = [line.split("|") for line in done.stdout.splitlines()]
        return {name.partition("_")[2]: state.split()[0] for name, state in pairs}
    done = _run(["scontrol", "--oneliner", "show", "job", job])  # without accounting, for some minutes
    found = {}
    for line in done.stdout.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        task = fields.get("ArrayTaskId", "")
        found[task if task.isdigit() else ""] = fields.get("JobState", "")
    return found


def cancel(scheduler: str, jobs: Sequence[str]) -> None:
    """Cancel jobs, last ones first, so that none starts because of the end of another.

    Raises:
        InputError: the scheduler refuses.
    """
    program = {"slurm": "scancel", "pbs": "qdel"}[scheduler]
    done = _run([program, *reversed(jobs)])
    if done.returncode:
        raise InputError(f"{program} failed: {' '.join(done.stderr.split())}")


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(words[0]) is None:
        raise InputError(f"no command {words[0]} here: submit from a login node of the cluster, or with --site local")
    return subprocess.run(words, capture_output=True, text=True)
