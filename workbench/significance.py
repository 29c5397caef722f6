"""Is one forecast better than another, and up to which lead: paired block bootstrap over the starts.

The scores of consecutive starts are correlated, so starts are resampled in blocks: circular moving blocks (Politis &
Romano 1992) of consecutive starts that never cross from one trajectory into another. Both forecasts are resampled
with the same starts, and what is resampled are the weighted sums behind a metric, not its values: a resampled RMSE
is the root of a mean, as the score itself.

The block length, unless given, follows `workbench.metrics.resampling.automatic_block_length`.

With n starts in blocks of l there are m = n / l independent values. Intervals are percentiles of the resampled values,
expanded for small m: in place of alpha / 2 the level Phi(-sqrt(m / (m - 1)) t_{alpha/2, m-1}) (Hesterberg 2015,
doi:10.1080/00031305.2015.1089789), which gives Student's interval for a mean of normal values. A p-value is the level
at which that interval touches zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from workbench.errors import InputError
from workbench.metrics.alignment import require_same_coordinates
from workbench.metrics.base import START_DIMS, Metric, WeightedSums
from workbench.metrics.evaluation import find_metric
from workbench.metrics.resampling import MIN_BLOCKS, automatic_block_length, block_counts


def compare(
    metric: str,
    first: WeightedSums,
    second: WeightedSums,
    variable: str,
    *,
    lead: str = "lead_time",
    starts: Sequence[str] = START_DIMS,
    block_length: int | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Return the scores of two forecasts, their difference with interval and p-value, and the horizon of the first.

    The horizon is the last lead up to which the first forecast beats the second at every lead, that is, its score is
    nearer to the metric's optimum; 0 where it does not at the first.

    Args:
        metric: Name of a metric with an optimum.
        first: Sums that keep the starts: ``accumulate([metric], ..., over=space)``.
        second: The same of the other forecast, with the same starts, leads and truth.
        variable: The variable to compare.
        lead: The lead dimension.
        starts: The dimensions that number the forecasts: ``(trajectories, initial times)``. Either may be absent.
        block_length: Starts in a block; default `automatic_block_length`.
        resamples: Number of bootstrap resamples.
        confidence: Of the intervals, two-sided.
        seed: Of the resampling.

    Returns:
        ``first``, ``second``, ``difference`` (first - second), ``lower``, ``upper`` (its interval) and ``p_value``
        (two-sided, of no difference) on the kept dimensions; ``horizon``, ``horizon_lower``, ``horizon_upper``
        without ``lead``, counted in leads. Attributes: ``starts``, ``block_length``, ``blocks`` and the arguments.

    Raises:
        InputError: The sums are not comparable, keep no starts, or leave fewer than `MIN_BLOCKS` blocks.
    """
    rule = _comparable_metric(metric)
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise InputError(f"expected 0 < confidence < 1 and resamples >= 1, found {confidence} and {resamples}")
    pair = _pair(first, second, variable, starts, lead)
    samples = pair[0].groups * pair[0].length
    if block_length is None:
        influence = [_loss(rule, sums.without_each_start(rule)) for sums in pair]
        series = (influence[0] - influence[1]).reshape(pair[0].groups, pair[0].length, -1)
        block_length = automatic_block_length(series)
    blocks = _count_blocks(pair[0], block_length)
    counts = block_counts(pair[0].groups, pair[0].length, block_length, resamples, seed).astype(np.float64)
    dataset = _summarise(rule, pair, counts, blocks, 0.5 * (1.0 - confidence), lead)
    return dataset.assign_attrs(
        metric=metric, variable=variable, lead=lead, starts=samples, block_length=block_length, blocks=blocks,
        resamples=resamples, confidence=confidence, seed=seed,
    )  # fmt: skip


def headline(comparison: xr.Dataset, opponent: str) -> str:
    """Return the horizon of `compare` in words: "beats persistence to step 34 ± 3 (...)".

    The number after ± is half the width of the horizon's interval, rounded up.
    """
    if "horizon" not in comparison or comparison["horizon"].ndim:
        raise InputError("a headline needs one horizon: compare with a lead dimension, and select along the others")
    step = int(comparison["horizon"])
    width = int(comparison["horizon_upper"] - comparison["horizon_lower"])
    about = comparison.attrs
    method = f"paired block bootstrap, {about['starts']} starts in blocks of {about['block_length']}"
    if step == 0:
        return f"does not beat {opponent} at the first step ({method})"
    margin = f" ± {-(-width // 2)}" if width else ""
    last = " (the last)" if step == comparison.sizes[comparison.attrs["lead"]] else ""
    return f"beats {opponent} to step {step}{margin}{last} ({method})"


def time_mean(series: xr.DataArray, dim: str = "time", *, confidence: float = 0.95) -> xr.Dataset:
    """Return the mean of an autocorrelated series over ``dim`` and its interval, by batch means.

    The series is cut into batches of floor(sqrt n) values (Flegal & Jones 2010, doi:10.1214/09-AOS735); the m batch
    means are nearly independent, so their standard deviation over sqrt m is the standard error, with Student's t of
    m - 1 degrees of freedom. A remainder at the beginning enters the mean but no batch. Lazy on dask.

    Returns:
        ``mean``, ``standard_error``, ``lower`` and ``upper``; attributes ``batches`` and ``batch_length``.
    """
    size = series.sizes.get(dim, 0)
    if size < MIN_BLOCKS**2:
        raise InputError(
            f"batch means need at least {MIN_BLOCKS**2} values along '{dim}', found {size}: average a longer record"
        )
    length = int(np.sqrt(size))
    batches = size // length
    values = series.astype(np.float64)
    whole = values.drop_vars(dim, errors="ignore").isel({dim: slice(size - batches * length, None)})
    means = whole.coarsen({dim: length}).construct({dim: ("batch", "within")}).mean("within", skipna=False)
    error = means.std("batch", ddof=1, skipna=False) / np.sqrt(batches)
    mean = values.mean(dim, skipna=False)
    half = stats.t.ppf(0.5 + 0.5 * confidence, batches - 1) * error
    result = xr.Dataset({"mean": mean, "standard_error": error, "lower": mean - half, "upper": mean + half})
    return result.assign_attrs(batches=batches, batch_length=length, confidence=confidence)


def _comparable_metric(name: str) -> Metric:
    metric = find_metric(name)
    if metric.optimum is None:
        raise InputError(
            f"metric '{name}' has no optimum, so neither forecast can be the better one: compare by an error, "
            f"for example 'rmse'"
        )
    return metric


@dataclass(frozen=True)
class _Sums:
    """The sums behind one metric of one forecast, as arrays with the starts first and the kept points flattened.

    Attributes:
        groups: Number of trajectories.
        length: Starts in each.
        statistics: Sums by name, each ``(start, point)``.
        maxima: Maxima by name, each ``(start, point)``.
        weights: ``(start, point)``.
        labels: The weights with all their dimensions, trajectories and starts first, then leads.
        kept: The weights of one start, for the labels of the kept points.
    """

    groups: int
    length: int
    statistics: dict[str, np.ndarray]
    maxima: dict[str, np.ndarray]
    weights: np.ndarray
    labels: xr.DataArray
    kept: xr.DataArray

    @classmethod
    def of_state(cls, state: WeightedSums, variable: str, starts: Sequence[str], lead: str) -> "_Sums":
        if variable not in state.weights:
            raise InputError(f"the sums are of {list(state.weights)} and lack variable '{variable}'")
        labels = state.weights[variable]
        serial = [dim for dim in starts if dim in labels.dims]
        if not serial or len(starts) > 2:
            raise InputError(
                f"the sums of '{variable}' have dimensions {tuple(map(str, labels.dims))} and keep none of the one or "
                f"two start dimensions {tuple(starts)}: accumulate over the spatial dimensions only"
            )
        sizes = [labels.sizes[dim] if dim in labels.dims else 1 for dim in starts]
        labels = labels.transpose(*serial, *(dim for dim in (lead,) if dim in labels.dims), ...)

        def flat(array: xr.DataArray) -> np.ndarray:
            return array.transpose(*labels.dims).values.reshape(int(np.prod(sizes)), -1)

        statistics, maxima = (
            {str(n): flat(part[variable].sel(statistic=n)) for n in part.indexes.get("statistic", ())}
            for part in (state.sums, state.maxima)
        )
        kept = labels.isel(dict.fromkeys(serial, 0), drop=True)
        return cls(int(np.prod(sizes[:-1])), sizes[-1], statistics, maxima, flat(labels), labels, kept)

    def resampled(self, metric: Metric, counts: np.ndarray) -> np.ndarray:
        """Return the metric of each row of start counts, ``(row, point)``."""
        weights = counts @ self.weights
        return self._metric(
            metric, lambda s: (counts @ self.statistics[s]) / weights, lambda s: self._highest(s, counts)
        )

    def without_each_start(self, metric: Metric) -> np.ndarray:
        """Return the metric with one start left out at a time, ``(start, point)``."""
        weights = self.weights.sum(axis=0) - self.weights
        return self._metric(
            metric,
            lambda s: (self.statistics[s].sum(axis=0) - self.statistics[s]) / weights,
            lambda s: np.broadcast_to(self.maxima[s].max(axis=0), self.maxima[s].shape),
        )

    def _highest(self, name: str, counts: np.ndarray) -> np.ndarray:
        return np.stack([self.maxima[name][row > 0].max(axis=0) for row in counts])

    def _metric(self, metric: Metric, mean: Callable[[str], np.ndarray], highest: Callable[[str], np.ndarray]) -> Any:
        missing = [s.name for s in metric.statistics if s.name not in self.statistics | self.maxima]
        if missing:
            raise InputError(
                f"metric '{metric.name}' needs the statistics {missing}, and the sums hold "
                f"{sorted(self.statistics | self.maxima)}: name '{metric.name}' when accumulating"
            )
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a diverged forecast scores NaN
            means = (mean(s.name) if s.name in self.statistics else highest(s.name) for s in metric.statistics)
            return metric.of(*means)


def _pair(
    first: WeightedSums, second: WeightedSums, variable: str, starts: Sequence[str], lead: str
) -> tuple[_Sums, _Sums]:
    a, b = _Sums.of_state(first, variable, starts, lead), _Sums.of_state(second, variable, starts, lead)
    if set(a.labels.dims) != set(b.labels.dims):
        raise InputError(
            f"the first sums keep {tuple(map(str, a.labels.dims))} and the second {tuple(map(str, b.labels.dims))}: "
            f"accumulate both over the same dimensions"
        )
    require_same_coordinates(a.labels, b.labels, a.labels.dims, "the first sums", "the second sums")
    return a, b


def _count_blocks(sums: _Sums, block_length: int) -> float:
    """Return the number of independent values, samples over block length."""
    samples = sums.groups * sums.length
    if not 1 <= block_length <= sums.length:
        raise InputError(f"expected a block_length of 1 to {sums.length} starts, found {block_length}")
    if samples / block_length < MIN_BLOCKS:
        raise InputError(
            f"{samples} starts in blocks of {block_length} make {samples / block_length:.1f} independent blocks, and "
            f"an interval needs at least {MIN_BLOCKS}: roll out from more starts, or pass a smaller block_length"
        )
    return samples / block_length


def _summarise(
    metric: Metric, pair: tuple[_Sums, _Sums], counts: np.ndarray, blocks: float, alpha: float, lead: str
) -> xr.Dataset:
    """Return the labelled scores, intervals and horizon of both forecasts; ``alpha`` is the level of one tail."""
    scores = [sums.resampled(metric, np.ones((1, counts.shape[1]))) for sums in pair]
    resampled = [sums.resampled(metric, counts) for sums in pair]
    levels = [expanded_level(alpha, blocks), 1.0 - expanded_level(alpha, blocks)]
    gain = _loss(metric, scores[1]) - _loss(metric, scores[0])
    resampled_gain = _loss(metric, resampled[1]) - _loss(metric, resampled[0])
    resampled_difference = np.where(np.isfinite(resampled_gain), resampled[0] - resampled[1], np.nan)
    lower, upper = np.quantile(resampled_difference, levels, axis=0)
    difference, p_value = scores[0] - scores[1], _p_value(resampled_gain, blocks)
    kept = pair[0].kept
    values = dict(first=scores[0], second=scores[1], difference=difference, lower=lower, upper=upper, p_value=p_value)
    dataset = xr.Dataset({name: kept.copy(data=value.reshape(kept.shape)) for name, value in values.items()})
    if lead not in kept.dims:
        return dataset
    one_lead = kept.isel({lead: 0}, drop=True)
    horizon = _horizon(gain, kept.sizes[lead])
    low, high = np.quantile(_horizon(resampled_gain, kept.sizes[lead]), levels, axis=0, method="inverted_cdf")
    horizons = dict(horizon=horizon, horizon_lower=low, horizon_upper=high)
    return dataset.assign({n: one_lead.copy(data=value.reshape(one_lead.shape)) for n, value in horizons.items()})


def expanded_level(level: float, blocks: float) -> float:
    """Return the quantile of resampled values that bounds an interval with tails of ``level``, as said at the top."""
    t = stats.t.ppf(level, blocks - 1.0)
    return float(stats.norm.cdf(np.sqrt(blocks / (blocks - 1.0)) * t))


def _p_value(difference: np.ndarray, blocks: float) -> np.ndarray:
    """Return the two-sided p-value of no difference from resampled differences ``(resample, point)``."""
    resamples = difference.shape[0]
    tail = np.minimum((difference <= 0).sum(axis=0), (difference >= 0).sum(axis=0))
    normal = stats.norm.ppf(np.minimum((tail + 1.0) / (resamples + 1.0), 0.5))
    p_value = 2.0 * stats.t.cdf(np.sqrt((blocks - 1.0) / blocks) * normal, blocks - 1.0)
    return np.where(np.isfinite(difference).all(axis=0), p_value, np.nan)


def _loss(metric: Metric, score: np.ndarray) -> np.ndarray:
    """Return the distance from the score of a perfect forecast."""
    return np.abs(score - metric.optimum)


def _horizon(gain: np.ndarray, leads: int) -> np.ndarray:
    """Return the number of leads before the first without gain, ``(row, rest)``, of gains ``(row, lead * rest)``."""
    better = gain.reshape(gain.shape[0], leads, -1) > 0
    return np.logical_and.accumulate(better, axis=1).sum(axis=1)
