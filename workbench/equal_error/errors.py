"""The errors of every contestant, from the same starts; what is finished is kept when the run is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        errors: relative L2 ``(start, lead)``; infinite where it failed, NaN where forecasts were left out.
        moments: of long runs, ``(run, 2, 3, y)``; infinite where they did not last, NaN where they were left out,
            empty where there are none.
        seconds: rough wall time of one lead of one forecast.
        note: why it failed or was left out altogether; empty if it ran.
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
    least = starts.problem.steps if starts.at_rest else 1
    return Runner(contestant.prepare(), start.to(device), least, contestant.batched)


@dataclass(frozen=True)
class Wanted:
    """What is still worth measuring of a contestant."""

    forecasts: bool = True
    long_runs: bool = True


def measure(
    contestant: Contestant,
    starts: Starts,
    device: str,
    profiles: Profiles | None = None,
    wanted: Wanted = Wanted(),
    progress: Callable[[int], None] = lambda states: None,
) -> Result:
    """The errors of one contestant at every lead, and the statistics of its long runs.

    A solver that refuses its settings or leaves the finite numbers from one start has failed from all: settings are
    chosen before the flow is known.

    Args:
        contestant: who forecasts.
        starts: the forecasts.
        device: where to compute.
        profiles: statistics of long runs, if there are any.
        wanted: what to measure.
        progress: called with the number of states after each batch of them.
    """
    errors = np.full((len(starts), starts.problem.steps), np.nan)
    try:
        runner = runner_of(contestant, starts, device)
        seconds = probe(runner)
        if wanted.forecasts:
            errors = _forecasts(contestant, runner, starts, device, progress)
    except InputError as error:
        failed = np.full_like(errors, np.inf)
        return Result(failed, np.empty(0), note=str(error))
    if profiles is None:
        return Result(errors, np.empty(0), seconds)
    chosen = _long_starts(starts)
    moments = np.full((len(chosen), *profiles.truth.shape), np.nan)
    if wanted.long_runs:
        begin = starts.before(contestant.reads, chosen, contestant.history).to(device)
        try:
            moments = profiles.of_runs(runner.forecast(begin), lambda: progress(1))
        except InputError:  # unstable in the long run: its short-term errors stand
            moments = np.full_like(moments, np.inf)
    return Result(errors, moments, seconds)


def as_far_as_useful(surrogate: Contestant, starts: Starts, device: str, least: int = 1) -> tuple[Starts, Result]:
    """The same starts, with forecasts as long as the surrogate is better than what costs nothing; and its result.

    They are at least `least` leads long.
    """
    found = measure(surrogate, starts, device)
    free = np.min([errors.mean(0) for errors in starts.without_a_model().values()], axis=0)
    useful = int(np.argmin(np.append(found.errors.mean(0) < free, False)))
    steps = min(max(useful, least), starts.problem.steps)
    shorter = replace(starts, problem=replace(starts.problem, steps=steps))
    return shorter, replace(found, errors=found.errors[:, :steps])


def _forecasts(
    contestant: Contestant, runner: Runner, starts: Starts, device: str, progress: Callable[[int], None]
) -> np.ndarray:
    errors = []
    for batch in starts.batches():
        truth = starts.truth(batch)
        size = starts.size(truth)
        begin = starts.before(contestant.reads, batch, contestant.history).to(device)
        columns = []
        for lead, state in enumerate(leads(runner.forecast(begin), starts.problem.steps)):
            _refuse_other_grid(contestant, tuple(state.shape), tuple(truth[:, 0].shape))
            this = slice(lead, lead + 1)
            columns.append(relative_l2(state.cpu()[:, None], truth[:, this], size[:, this]))
            progress(1)
        errors.append(np.concatenate(columns, 1))
    return np.concatenate(errors)


def _refuse_other_grid(contestant: Contestant, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise RuntimeError(f"{contestant.label} makes fields {found}, the record holds {expected}")


def _long_starts(starts: Starts) -> list[int]:
    """The few starts of long runs, evenly among all."""
    evenly = np.linspace(0, len(starts) - 1, min(RUNS, len(starts))).round().astype(int)
    return [int(number) for number in np.unique(evenly)]


def measure_all(
    surrogate: Contestant,
    candidates: Sequence[Contestant],
    starts: Starts,
    notebook: Notebook,
    device: str,
    scores: Callable[[Result], tuple[np.ndarray, np.ndarray]],
    *,
    known: Result | None = None,
    profiles: Profiles | None = None,
    all_of_them: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """The results of the surrogate and of the candidates, cheapest first.

    Once a candidate is better than the surrogate at all leads, the forecasts of those that take more than `DEARER`
    times as long decide nothing: they are left out, unless `all_of_them` is set or they alone are cheaper in batches.
    Likewise the long runs, once a candidate is better in all statistics.

    Args:
        surrogate: its result is the first.
        candidates: of the solver.
        starts: the forecasts.
        notebook: keeps finished results.
        device: where to compute.
        scores: errors at the leads that are compared, and distances of the statistics.
        known: what `as_far_as_useful` found of the surrogate, whose forecasts are then not made again.
        profiles: statistics of long runs, if there are any.
        all_of_them: leave nothing out.
        progress: called with work done and in all.

    Raises:
        InputError: the surrogate cannot forecast.
    """
    each = len(starts.batches()) * starts.problem.steps + (profiles.steps if profiles else 0)
    total = (1 + len(candidates)) * each
    results: list[Result] = []
    enough = {batched: np.full(2, np.inf) for batched in (False, True)}
    for number, contestant in enumerate([surrogate, *candidates]):
        done = number * each

        def states(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        result = notebook.find(contestant.label)
        if result is None:
            if number == 0 and known is not None:
                result = _with_long_runs(known, contestant, starts, device, profiles, states)
            else:
                few = enough[True] if contestant.batched else np.minimum(*enough.values())
                limits = DEARER * (few if number and not all_of_them else np.full(2, np.inf))
                result = _measure_within(limits, contestant, starts, device, profiles, states)
            notebook.keep(contestant.label, result)
        progress((number + 1) * each, total)
        results.append(result)
        if not number and result.note:
            raise InputError(f"the surrogate cannot forecast: {result.note}")
        if number and not result.note:
            pairs = zip(scores(result), scores(results[0]), strict=True)
            better = [bool((np.isfinite(own) & (own <= limit)).all()) for own, limit in pairs]
            least = enough[contestant.batched]
            enough[contestant.batched] = np.where(better, np.minimum(least, result.seconds), least)
    return results


def _with_long_runs(
    known: Result,
    contestant: Contestant,
    starts: Starts,
    device: str,
    profiles: Profiles | None,
    progress: Callable[[int], None],
) -> Result:
    """A result with the statistics of long runs, where there are any."""
    if profiles is None or known.note:
        return known
    found = measure(contestant, starts, device, profiles, Wanted(forecasts=False), progress)
    return replace(found, errors=known.errors)


def _measure_within(
    limits: np.ndarray,
    contestant: Contestant,
    starts: Starts,
    device: str,
    profiles: Profiles | None,
    progress: Callable[[int], None],
) -> Result:
    """Measure what a contestant is cheap enough for: `limits` in seconds a lead, of forecasts and of long runs."""
    wanted = Wanted(long_runs=profiles is not None)
    if np.isfinite(limits).any():
        try:
            seconds = probe(runner_of(contestant, starts, device))
        except InputError:
            seconds = 0.0  # measuring it will say what is wrong
        wanted = Wanted(bool(seconds <= limits[0]), profiles is not None and bool(seconds <= limits[1]))
        if wanted == Wanted(False, False):
            note = f"{NOT_RUN}: a candidate of half its cost is better than the surrogate in everything"
            return Result(np.full((len(starts), starts.problem.steps), np.nan), np.empty(0), seconds, note)
    return measure(contestant, starts, device, profiles, wanted, progress)
