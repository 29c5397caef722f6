"""What the solver takes at the surrogate's error, over what the surrogate takes; and how sure that is; free of torch.

The interval is a paired bootstrap: starts are drawn in blocks (`workbench.metrics.resampling`), the same for surrogate
and candidates, and rounds of the timing one by one, the same for all contestants. Levels are expanded for few blocks
(`workbench.significance`). A resample in which the cheapest candidate is already better counts as 0 for the lower
bound, one in which none is as good as infinite for the upper: then the interval is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.equal_error.front import AT_LEAST, AT_MOST, equal_cost
from workbench.metrics.resampling import MIN_BLOCKS, automatic_block_length, block_counts
from workbench.significance import expanded_level

FAILED = 1e15
"""Stands for an infinite error in sums."""


@dataclass(frozen=True)
class Point:
    """Where errors are compared.

    Attributes:
        label: such as ``step 8`` or ``steps 1 to 30``.
        leads: indices of the leads that are averaged.
        power: of the mean over them: 1 arithmetic, 2 root mean square.
    """

    label: str
    leads: tuple[int, ...]
    power: int = 1


def points_of(steps: Sequence[int], last: int, power: int = 1) -> list[Point]:
    """One point a step (from 1), and the mean over all leads if there are several."""
    single = [Point(f"step {step}", (step - 1,)) for step in steps]
    return single if last == 1 else [*single, Point(f"steps 1 to {last}", tuple(range(last)), power)]


def mean_errors(errors: np.ndarray, counts: np.ndarray, points: Sequence[Point]) -> np.ndarray:
    """Mean over starts ``(row, contestant, point)`` of errors ``(contestant, start, lead)``, infinite if one is.

    Args:
        errors: of every contestant.
        counts: how often each start is drawn ``(row, start)``.
        points: leads to average.
    """
    finite = np.where(np.isfinite(errors), errors, FAILED)
    each = np.stack([(finite[:, :, list(p.leads)] ** p.power).mean(2) ** (1 / p.power) for p in points], -1)
    mean = np.einsum("rn,cnp->rcp", counts, each) / counts.sum(1)[:, None, None]
    return np.where(mean < 1e-6 * FAILED, mean, np.inf)


@dataclass(frozen=True)
class Draws:
    """The resamples; row 0 is what was measured.

    Attributes:
        starts: how often each start is drawn ``(row, start)``.
        rounds: which rounds are drawn ``(row, round)``.
        blocks: independent blocks of starts.
    """

    starts: np.ndarray
    rounds: np.ndarray
    blocks: float

    @classmethod
    def of(cls, groups: tuple[int, int], series: np.ndarray, rounds: int, resamples: int, seed: int = 0) -> Draws:
        """Draw blocks as long as the autocorrelation of `series` ``(start, ...)`` asks for.

        Args:
            groups: trajectories, and starts in each.
            series: errors from which the length of blocks follows.
            rounds: of the timing.
            resamples: rows besides the first; none for too few starts.
            seed: of the drawing.
        """
        count = groups[0] * groups[1]
        measured = np.ones((1, count)), np.arange(rounds)[None]
        length = automatic_block_length(series.reshape(*groups, -1)) if count >= MIN_BLOCKS else count
        if count / length < MIN_BLOCKS:
            return cls(*measured, count / length)
        drawn = block_counts(*groups, length, resamples, seed)
        turns = np.random.default_rng([seed, 1]).integers(rounds, size=(resamples, rounds))
        return cls(np.concatenate([measured[0], drawn]), np.concatenate([measured[1], turns]), count / length)


@dataclass(frozen=True)
class Ratios:
    """Cost of the solver over that of the surrogate, at equal error, on any leading axes.

    Attributes:
        ratio: over 1, the surrogate is faster; a bound where `bound` says so.
        low, high: interval; NaN for too few starts.
        bound: `workbench.equal_error.front.BETWEEN`, `AT_MOST` or `AT_LEAST`.
        solver: number of the cheapest candidate that is at least as good.
    """

    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bound: np.ndarray
    solver: np.ndarray


def ratio_at(
    errors: np.ndarray,
    target: np.ndarray,
    seconds: np.ndarray,
    own_seconds: np.ndarray,
    draws: Draws,
    confidence: float,
) -> Ratios:
    """The ratio at one point for one kind of batch and one clock.

    Args:
        errors: of the candidates ``(row, candidate)``, a row a resample.
        target: error of the surrogate ``(row,)``.
        seconds: of the candidates ``(candidate, round)``.
        own_seconds: of the surrogate ``(round,)``.
        draws: the resamples.
        confidence: of the interval, two-sided.
    """
    cost = np.median(seconds[:, draws.rounds], axis=2).T
    found = equal_cost(cost, errors, target)
    ratio = found.cost / np.median(own_seconds[draws.rounds], axis=1)
    low = high = np.asarray(np.nan)
    if len(ratio) > 1:
        level = expanded_level(0.5 * (1.0 - confidence), draws.blocks)
        least, most = np.where(found.bound == AT_MOST, 0.0, ratio), np.where(found.bound == AT_LEAST, np.inf, ratio)
        low = np.quantile(least[1:], level, method="inverted_cdf")
        high = np.quantile(most[1:], 1.0 - level, method="inverted_cdf")
    return Ratios(ratio[0], low, high, found.bound[0], found.solver[0])


def stack(ratios: Sequence[Ratios], shape: tuple[int, ...]) -> Ratios:
    """Many ratios as one, on axes of `shape`."""
    fields = zip(*(vars(one).values() for one in ratios), strict=True)
    return Ratios(*(np.array(values).reshape(shape) for values in fields))
