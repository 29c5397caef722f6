"""What was submitted, and how far it is: ``launch/chain.json`` of a run, the scheduler, and the jobs' own notes."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.exit_status import REQUEUE
from workbench.launch.scheduler import Queued, history, queued
from workbench.launch.script import Paths

DONE, RUNNING, WAITING = "done", "running", "waiting"
STOPPED = (str(REQUEUE), "143")
"""A training that has saved and wants to go on, and a job that was told to end."""


@dataclass(frozen=True)
class Entry:
    """One submitted job.

    Attributes:
        name: of the job.
        number: that the scheduler gave it.
        tasks: jobs of the array; 1 is no array.
        command: after ``workbench``.
        log: where it prints.
    """

    name: str
    number: str
    tasks: int
    command: str
    log: str


@dataclass(frozen=True)
class State:
    """How far a job is, an array as a whole.

    Attributes:
        entry: which job.
        counts: state -> number of its tasks; `DONE`, `RUNNING`, `WAITING`, or in words what went wrong.
        note: why it waits, where it runs, how far a training is.
        attempts: how often it, or its tasks, began.
    """

    entry: Entry
    counts: dict[str, int]
    note: str
    attempts: int

    @property
    def alive(self) -> bool:
        """Whether anything of it waits or runs."""
        return bool({WAITING, RUNNING} & self.counts.keys())


@dataclass(frozen=True)
class Ledger:
    """A chain as it was submitted.

    Attributes:
        site: name of the profile.
        scheduler: that has the jobs.
        done: stages that were left out, being done.
        jobs: in their order.
    """

    site: str
    scheduler: str
    done: tuple[str, ...]
    jobs: tuple[Entry, ...]

    def write(self, paths: Paths) -> None:
        """Keep it in the run directory."""
        temporary = paths.folder / ".chain.json.partial"
        temporary.write_text(json.dumps(asdict(self), indent=1))
        os.replace(temporary, paths.folder / "chain.json")

    @classmethod
    def read(cls, paths: Paths) -> Ledger | None:
        """The last chain of a run; None if there was none."""
        file = paths.folder / "chain.json"
        if not file.exists():
            return None
        try:
            plain: dict[str, Any] = json.loads(file.read_text())
            jobs = tuple(Entry(**job) for job in plain.pop("jobs"))
            return cls(jobs=jobs, **{**plain, "done": tuple(plain["done"])})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is no chain of jobs: {error}") from error


def states(ledger: Ledger, paths: Paths) -> list[State]:
    """How far each job of a chain is."""
    found = queued(ledger.scheduler, [job.number for job in ledger.jobs])
    return [_state(ledger.scheduler, job, found, paths) for job in ledger.jobs]


def _state(scheduler: str, job: Entry, found: dict[tuple[str, str], Queued], paths: Paths) -> State:
    tasks = [str(k) for k in range(1, job.tasks + 1)] if job.tasks > 1 else [""]
    notes = {task: _notes(paths.record(job.name), task, job.number) for task in tasks}
    past: dict[str, str] | None = None
    counts: Counter[str] = Counter()
    places = []
    for task in tasks:
        held = found.get((job.number, task)) or (None if _ended(notes[task]) else found.get((job.number, "")))
        if held is not None:
            running = held.running and (task == "" or notes[task][-1:] == ["began"] or (job.number, task) in found)
            counts[RUNNING if running else WAITING] += 1
            places.append(held.reason)
            continue
        if not _ended(notes[task]) and past is None:
            past = history(scheduler, job.number)
        counts[_outcome(notes[task], past or {}, task)] += 1
    return State(
        job,
        dict(counts),
        "; ".join([*dict.fromkeys(filter(None, places)), *_progress(job, paths.run)]),
        sum(words.count("began") for words in notes.values()),
    )


def _notes(record: Path, task: str, number: str) -> list[str]:
    """What the attempts of one submitted job noted: ``began``, or the status that they ended with."""
    file = record.with_name(f"{record.name}.{task}") if task else record
    if not file.exists():
        return []
    lines = [line.split() for line in file.read_text().splitlines()]
    return [words[0] for words in lines if len(words) > 2 and words[2] == number.partition(".")[0].rstrip("[]")]


def _ended(notes: Sequence[str]) -> bool:
    return bool(notes) and notes[-1] != "began"


def _outcome(notes: Sequence[str], past: dict[str, str], task: str) -> str:
    """In words, of a job that the scheduler does not have any more."""
    if _ended(notes):
        how = "stopped" if notes[-1] in STOPPED else "failed"
        return DONE if notes[-1] == "0" else f"{how} with status {notes[-1]}"
    said = past.get(task) or past.get("", "")
    if said in ("COMPLETED", "COMPLETING"):
        return DONE
    if said and said not in ("RUNNING", "PENDING"):
        return said.lower().replace("_", " ").rstrip("+")
    return "killed" if notes else "never began"


def _progress(job: Entry, run: Path) -> list[str]:
    """How far the training is: the last line of its log."""
    file = run / "metrics.csv"
    if job.name != "fit" or not file.exists():
        return []
    with open(file, newline="") as rows:
        last = next(iter(list(csv.DictReader(rows))[-1:]), None)
    return [f"step {last['step']}"] if last else []
