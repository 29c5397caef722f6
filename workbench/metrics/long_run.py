"""Long runs: means over non-overlapping batches, how sure they are, and whether a forecast stays where the truth is.

A *batch* is a stretch of consecutive states of one run (a trajectory, a member). Batches are long beside the memory of
the flow, so that they count as independent samples: the number of batches, not of states, says how sure a mean is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import require_dims

BATCHES = 20
"""Enough for a t quantile near that of the normal (2.09 against 1.96 at 95 %), few enough to be long."""

BAND_EXTENSION = 0.5
"""Part of the truth's range that is added to it on either side."""


def batch_numbers(runs: int, states: int, first: int = 0, wanted: int = BATCHES) -> np.ndarray:
    """Divide runs of equal length into at least `wanted` batches of equal length (to one state).

    Args:
        runs: number of runs.
        states: states in each.
        first: states left out at the beginning of each run, the transient.
        wanted: batches in all runs together, at least two; fewer where there are fewer states.

    Returns:
        ``int[runs, states]``, the number of the batch that a state belongs to, -1 where it is left out.

    Raises:
        InputError: nothing is left after the transient.
    """
    if wanted < 2:
        raise InputError(f"batch means need at least two batches, {wanted} were asked for")
    left = states - first
    if left < 1:
        raise InputError(f"all {states} states lie in the transient of {first}: forecast further, or discard fewer")
    segments = min(max(1, -(-wanted // runs)), left)
    numbers = np.full((runs, states), -1)
    numbers[:, first:] = np.arange(left) * segments // left + segments * np.arange(runs)[:, None]
    return numbers


# -------------------------------------------------------------------------------------------------- uncertainty


@dataclass(frozen=True)
class Estimate:
    """A function of means over batches.

    Attributes:
        value: of all batches together.
        variance: of the sampling error of `value`, by the jackknife; NaN for fewer than two batches.
        batches: number of batches.
    """

    value: xr.Dataset
    variance: xr.Dataset
    batches: int

    def interval(self, confidence: float) -> tuple[xr.Dataset, xr.Dataset]:
        """Lower and upper bound: value -+ t s, t the quantile of Student's distribution of batches - 1 degrees."""
        half = t_quantile(confidence, self.batches) * np.sqrt(self.variance)
        return self.value - half, self.value + half


def t_quantile(confidence: float, batches: int) -> float:
    """Two-sided quantile of Student's t for means of `batches` batches; NaN for fewer than two."""
    return float(scipy.stats.t.ppf(0.5 + 0.5 * confidence, batches - 1)) if batches > 1 else np.nan


def jackknife(sums: xr.Dataset, of: Callable[[xr.Dataset], xr.Dataset]) -> Estimate:
    """Estimate a function of sums over batches, and its sampling variance by leaving out one batch at a time.

    Args:
        sums: additive, on ``(batch, ...)``.
        of: function of summed sums; must act on extra dimensions element by element.
    """
    without = of(leave_one_out(sums))
    return Estimate(of(sums.sum("batch", skipna=False)), jackknife_variance(without), sums.sizes["batch"])


def leave_one_out(sums: xr.Dataset) -> xr.Dataset:
    """Return the sums of all batches but one, for each in turn."""
    require_dims(sums, ("batch",), "sums over batches")
    return sums.sum("batch", skipna=False) - sums


def jackknife_variance(without: xr.Dataset) -> xr.Dataset:
    """Return the sampling variance of a function f of sums, from its values f_(i) with batch i left out.

        s^2 = (n - 1) / n sum_i (f_(i) - mean_j f_(j))^2

    For a mean of equal batches it is the variance of the batch means over n; for what is not linear (a root, a ratio,
    a variance about the mean) it follows the function, where an average of per-batch values would be biased.

    Args:
        without: f_(i) on ``(batch, ...)``; NaN comes of fewer than two batches.

    Source: Efron & Stein (1981), doi:10.1214/aos/1176345462, for the jackknife; Schmeiser (1982),
    doi:10.1287/opre.30.3.556, for batch means.
    """
    count = without.sizes["batch"]
    deviation = without - without.mean("batch", skipna=False)
    variance = (count - 1) / count * (deviation**2).sum("batch", skipna=False)
    return variance if count > 1 else variance * np.nan


def random_halves(sums: xr.Dataset, splits: int, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Sum the batches into two halves, many times at random.

    Args:
        sums: additive, on ``(batch, ...)``, at least two batches.
        splits: number of ways to divide them.
        seed: of the drawing.

    Returns:
        both halves, with the dimension ``split`` in place of ``batch``.
    """
    count = sums.sizes["batch"]
    if count < 2:
        raise InputError("two halves need at least two batches, found 1: average over a longer record")
    order = np.argsort(np.random.default_rng(seed).random((splits, count)), axis=1)
    chosen = xr.DataArray((order < count // 2).astype(np.float64), dims=("split", "batch"))
    plain = sums.drop_vars("batch", errors="ignore")
    return tuple(plain.map(xr.dot, args=(part,), dim="batch") for part in (chosen, 1.0 - chosen))  # type: ignore[return-value]


def neighbour_correlation(history: xr.DataArray, numbers: np.ndarray) -> float:
    """Return the correlation of the means of successive batches: near 0 where batches are long enough.

    Args:
        history: one number a state, ``(run, time)``.
        numbers: as from `batch_numbers`.
    """
    pairs = []
    for values, batches in zip(history.values, numbers, strict=True):
        means = [values[batches == number].mean() for number in np.unique(batches[batches >= 0])]
        pairs += list(zip(means[:-1], means[1:], strict=True))
    if len(pairs) < 3:
        return np.nan
    first, second = np.array(pairs).T
    centre = 0.5 * (first.mean() + second.mean())
    spread = np.mean((first - centre) ** 2 + (second - centre) ** 2) / 2
    return float(np.mean((first - centre) * (second - centre)) / spread) if spread > 0 else np.nan


# ----------------------------------------------------------------------------------------------------- distances


def relative_l2(found: xr.DataArray, truth: xr.DataArray, dims: str | list[str]) -> xr.DataArray:
    """Return sqrt(sum (f - t)^2) / sqrt(sum t^2) over the points of `dims`, each counted once."""
    error = ((found - truth) ** 2).sum(dims, skipna=False)
    square: xr.DataArray = error / (truth**2).sum(dims, skipna=False)
    return square**0.5


def wasserstein(
    found: xr.DataArray,
    found_at: xr.DataArray,
    truth: xr.DataArray,
    truth_at: xr.DataArray,
    dim: str,
    points: int = 400,
) -> xr.DataArray:
    """Return W_1 = int_0^1 |F^-1(p) - T^-1(p)| dp of two distributions given by their cumulative shares.

    The inverse is linear between the given values, and constant beyond the outermost ones. The integral is the
    midpoint rule in p.

    Args:
        found: cumulative share F at the values `found_at`, both ``(..., dim)``.
        found_at: rising values.
        truth: the same of the truth.
        truth_at: rising values.
        dim: the dimension of the values.
        points: of the midpoint rule.
    """
    share = (np.arange(points) + 0.5) / points

    def inverse(cumulative: np.ndarray, values: np.ndarray) -> np.ndarray:
        flat = zip(cumulative.reshape(-1, cumulative.shape[-1]), values.reshape(-1, values.shape[-1]), strict=True)
        return np.array([np.interp(share, c, v) for c, v in flat]).reshape(*cumulative.shape[:-1], points)

    def quantiles(cumulative: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
        both = xr.broadcast(cumulative, values)
        found = xr.apply_ufunc(inverse, *both, input_core_dims=[[dim], [dim]], output_core_dims=[["share"]])
        return found.where(both[0].notnull().all(dim) & both[1].notnull().all(dim))

    return abs(quantiles(found, found_at) - quantiles(truth, truth_at)).mean("share", skipna=False)


# ------------------------------------------------------------------------------------------------------ stability


def band(
    history: xr.DataArray, over: list[str], extension: float = BAND_EXTENSION
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the range of the truth's history, extended on either side by a part of its width.

        low = min - a (max - min),    high = max + a (max - min)

    The truth itself never leaves it, whatever the distribution, which k standard deviations do not promise.

    Args:
        history: of a volume average, ``(..., *over)``.
        over: dimensions of time and runs.
        extension: a.
    """
    low, high = history.min(over), history.max(over)
    return low - extension * (high - low), high + extension * (high - low)


def exit_step(history: xr.DataArray, low: xr.DataArray, high: xr.DataArray, dim: str = "step") -> xr.DataArray:
    """Return the number of the first step (the first is 1) outside the band; infinity if there is none.

    A value that is not finite is outside.
    """
    outside = ~((history >= low) & (history <= high))
    return xr.where(outside.any(dim), outside.argmax(dim) + 1.0, np.inf)
