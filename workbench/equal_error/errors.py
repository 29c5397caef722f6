"""The errors of every contestant, from the same starts; what is finished is kept when the run is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.equal_error.clock import Runner, probe
from workbench.equal_error.contestants import Contestant
from workbench.equal_error.profiles import RUNS, Profiles
from workbench.equal_error.sheet import NOT_RUN
from workbench.equal_error.starts import Starts, leads, relative_l2
from workbench.errors import InputError

DEARER = 2.0
"""A candidate that takes longer than this times one that is better than the surrogate everywhere is left out."""


@dataclass(frozen=True)
class Result:
    """What a contestant came to.

    Attributes:
        errors: relative L2 ``(start, lead)``; infinite where it failed.
        moments: of long runs, ``(run, 2, 3, y)``; empty where there are none.
        seconds: rough wall time of one lead of one forecast.
        note: why it failed or was left out; empty if it ran.
    """

    errors: np.ndarray
    moments: np.ndarray
    seconds: float = np.nan
    note: str = ""


class Notebook:
    """Keeps results on disk until the comparison is written.

    Args:
        folder: where; a folder with another identity is emptied first.
        identity: what results must have in common: weights, record, starts, leads.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        stamp = json.dumps(identity, sort_keys=True, default=str)
        file = folder / "identity.json"
        if not file.exists() or file.read_text(encoding="utf-8") != stamp:
            self.close()
            folder.mkdir(parents=True)
            file.write_text(stamp, encoding="utf-8")

    def _file(self, label: str) -> Path:
        return self.folder / f"{hashlib.sha256(label.encode()).hexdigest()[:16]}.npz"

    def find(self, label: str) -> Result | None:
        """An earlier result."""
        if not self._file(label).exists():
            return None
        with np.load(self._file(label), allow_pickle=False) as kept:
            return Result(kept["errors"], kept["moments"], float(kept["seconds"]), str(kept["note"]))

    def keep(self, label: str, result: Result) -> None:
        """Write a result, atomically."""
        temporary = self.folder / ".writing.npz"
        np.savez(temporary, **vars(result))
        os.replace(temporary, self._file(label))

    def close(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def runner_of(contestant: Contestant, starts: Starts, device: str) -> Runner:
    """A contestant ready to be timed, on as many starts as one batch holds."""
    start = starts.before(contestant.reads, starts.batches()[0], contestant.history)
    return Runner(contestant.prepare(), start.to(device))


def measure(
    contestant: Contestant,
    starts: Starts,
    device: str,
    profiles: Profiles | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """The errors of one contestant at every lead, and the statistics of its long runs.

    A solver that refuses its settings or leaves the finite numbers from one start has failed from all: settings are
    chosen before the flow is known.
    """
    steps, batches = starts.problem.steps, starts.batches()
    errors = []
    try:
        runner = runner_of(contestant, starts, device)
        seconds = probe(runner)
        for done, batch in enumerate(batches, start=1):
            truth = starts.truth(batch)
            begin = starts.before(contestant.reads, batch, contestant.history).to(device)
            columns = []
            for lead, state in enumerate(leads(runner.forecast(begin), steps)):
                _refuse_other_grid(contestant, tuple(state.shape), tuple(truth[:, 0].shape))
                columns.append(relative_l2(state.cpu()[:, None], truth[:, lead : lead + 1]))
            errors.append(np.concatenate(columns, 1))
            progress(done, len(batches))
    except InputError as error:
        progress(len(batches), len(batches))
        return Result(np.full((len(starts), steps), np.inf), np.empty(0), note=str(error))
    return Result(np.concatenate(errors), _long_runs(contestant, runner, starts, device, profiles), seconds)


def _refuse_other_grid(contestant: Contestant, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise RuntimeError(f"{contestant.label} makes fields {found}, the record holds {expected}")


def _long_runs(
    contestant: Contestant, runner: Runner, starts: Starts, device: str, profiles: Profiles | None
) -> np.ndarray:
    """Moments of runs from a few starts, NaN where they do not last."""
    if profiles is None:
        return np.empty(0)
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(RUNS, len(starts))).round().astype(int))
    begin = starts.before(contestant.reads, chosen.tolist(), contestant.history).to(device)
    try:
        return profiles.of_runs(runner.forecast(begin))
    except InputError:  # unstable in the long run: its short-term errors stand
        return np.full((len(chosen), *profiles.truth.shape), np.nan)


def measure_all(
    surrogate: Contestant,
    candidates: Sequence[Contestant],
    starts: Starts,
    notebook: Notebook,
    device: str,
    scores: Callable[[Result], np.ndarray],
    *,
    profiles: Profiles | None = None,
    all_of_them: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """The results of the surrogate and of the candidates, cheapest first.

    Once a candidate is better than the surrogate by all its `scores`, those that take more than `DEARER` times as long
    cannot be the cheapest at equal error: they are left out, unless `all_of_them` is set.
    """
    batches = len(starts.batches())
    total = (1 + len(candidates)) * batches
    results: list[Result] = []
    enough = np.inf
    for number, contestant in enumerate([surrogate, *candidates]):
        result = notebook.find(contestant.label)
        if result is None and number and enough < np.inf and not all_of_them:
            result = _left_out(contestant, starts, device, DEARER * enough)
        if result is None:
            done = number * batches
            result = measure(contestant, starts, device, profiles, lambda n, _, done=done: progress(done + n, total))  # type: ignore[misc]
            if not number and result.note:
                raise InputError(f"the surrogate cannot forecast: {result.note}")
            notebook.keep(contestant.label, result)
        progress((number + 1) * batches, total)
        results.append(result)
        if number and not result.note and (scores(result) <= scores(results[0])).all():
            enough = min(enough, result.seconds)
    return results


def _left_out(contestant: Contestant, starts: Starts, device: str, limit: float) -> Result | None:
    """The empty result of a candidate that takes longer than `limit` seconds a lead; None if it does not."""
    try:
        seconds = probe(runner_of(contestant, starts, device))
    except InputError:
        return None  # measuring it will say what is wrong
    if seconds <= limit:
        return None
    errors = np.full((len(starts), starts.problem.steps), np.nan)
    note = f"{NOT_RUN}: a candidate of half its cost is better than the surrogate at every lead"
    return Result(errors, np.empty(0), seconds, note)
