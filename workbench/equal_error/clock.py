"""What forecasts cost: all contestants timed in turns, in one run, on the same hardware and threads.

What is timed begins with the starting fields in memory and ends with the fields of every lead in memory, in physical
units on the record's nodes, for both sides alike. Reading, writing and preparing (weights, transforms, factorised
operators) are not part of it, nor is the first run of each contestant.

Other work on the machine and its changing clock frequency slow down whatever runs at that moment. Therefore everybody
is timed once in every round, in an order drawn anew, and ratios are taken between medians over the same rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.simulate.coarsening import Forecaster

SHORTEST = 0.1
"""Seconds that one measurement takes at least: far above what the clocks resolve."""
BATCH_SIZES = (2, 4, 8, 16, 32, 64)
HOPELESS = 1.25
"""Where a batch takes this many times the least time per forecast, larger ones are not tried."""


@dataclass(frozen=True)
class Runner:
    """A contestant ready to run.

    Attributes:
        forecast: see `workbench.simulate.coarsening.Forecaster`.
        start: fields of several starts; the first axis is the batch.
        least: leads of a forecast that are timed at least: all, where they are made in one go.
        batched: several forecasts together may cost less than one by one.
    """

    forecast: Forecaster
    start: Tensor
    least: int = 1
    batched: bool = True

    def batch(self, size: int) -> Tensor:
        """`size` starts, taken in turns."""
        return self.start[torch.arange(size, device=self.start.device) % len(self.start)]


@dataclass(frozen=True)
class Timings:
    """Seconds per forecast and lead.

    Attributes:
        wall: elapsed time ``(contestant, batch, round)``; batch is one forecast, then the best number together.
        cpu: time of all threads of this process, the same shape.
        sizes: forecasts together ``(contestant, batch)``.
    """

    wall: np.ndarray
    cpu: np.ndarray
    sizes: np.ndarray


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block on `count` torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def elapsed(forecast: Forecaster, start: Tensor, leads: int, repeats: int = 1) -> tuple[float, float]:
    """Wall and CPU seconds of `repeats` forecasts of a batch over `leads` leads."""
    _wait(start.device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        with torch.inference_mode():
            states = forecast(start)
            for _ in range(leads):
                next(states)
    _wait(start.device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def probe(runner: Runner) -> float:
    """Rough seconds of one lead of one forecast, after a warm-up."""
    return _rough(runner, 1)


def _rough(runner: Runner, size: int) -> float:
    """Least seconds of one lead of a batch, after a warm-up; of one thread CPU time, which others do not disturb."""
    start = runner.batch(size)
    alone = start.device.type == "cpu" and torch.get_num_threads() == 1
    first = elapsed(runner.forecast, start, runner.least)[alone]
    again = [elapsed(runner.forecast, start, runner.least)[alone] for _ in range(0 if first > 0.25 else 3)]
    return min(again or [first]) / runner.least


def best_batch(runner: Runner) -> int:
    """How many forecasts to make together so that each is cheapest."""
    if not runner.batched:
        return 1
    best, least = 1, probe(runner)
    for size in BATCH_SIZES:
        each = _rough(runner, size) / size
        if each > HOPELESS * least:
            break
        if each < least:
            best, least = size, each
    return best


def take_turns(
    runners: Sequence[Runner],
    leads: int,
    rounds: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    together: int | None = None,
) -> Timings:
    """Time every contestant once a round, alone and in its best batch, or so many `together`.

    Args:
        runners: the contestants.
        leads: leads of a forecast; of a long forecast only as many as take `SHORTEST` seconds are run.
        rounds: how often everybody has a turn.
        seed: of the order in each round.
        progress: called with measurements done and in all.
        together: size of the batch; those that are not batched are timed one by one all the same.
    """
    total = len(runners) * (rounds + 1)
    plans = []
    for done, runner in enumerate(runners, start=1):
        batch = together if together and runner.batched else best_batch(runner)
        plans.append([_plan(runner, size, leads) for size in (1, batch)])
        progress(done, total)
    wall, cpu = (np.empty((len(runners), 2, rounds)) for _ in range(2))
    generator = np.random.default_rng(seed)
    for turn in range(rounds):
        for done, number in enumerate(generator.permutation(len(runners)), start=1):
            for kind, (start, length, repeats) in enumerate(plans[number]):
                spent = elapsed(runners[number].forecast, start, length, repeats)
                wall[number, kind, turn], cpu[number, kind, turn] = np.divide(spent, len(start) * length * repeats)
            progress(len(runners) * (turn + 1) + done, total)
    return Timings(wall, cpu, np.array([[len(start) for start, _, _ in plan] for plan in plans]))


def _plan(runner: Runner, size: int, leads: int) -> tuple[Tensor, int, int]:
    """Starts, leads and repeats of one measurement."""
    start = runner.batch(size)
    once = elapsed(runner.forecast, start, runner.least)[0] / runner.least
    length = int(np.clip(np.ceil(SHORTEST / once), runner.least, leads))
    return start, length, max(1, round(SHORTEST / (once * length)))
