"""Statistic -> weighted sums -> metric: the one way in which a score is averaged.

A *statistic* maps a prediction and its truth to an averageable field, for example (p - t)^2. Its weighted sums

    S = sum_i w_i s_i,    W = sum_i w_i

are all that is kept. Sums of parts add up to the sums of the whole, so an evaluation may be chunked, streamed,
spread over processes or resumed, and ends in the same numbers. A *metric* is a function of the means S / W,
applied last: the root of RMSE is taken of the mean over everything, never averaged over chunks.

Some scores are defined for one forecast and then averaged over forecasts (relative L2 error, the anomaly
correlation of a single start). Such a score is itself a statistic of the forecast: a `SampleStatistic`, which
counts with the forecast's total weight. The dimensions that number the forecasts are the *starts*,
``("trajectory", "init_time")`` unless told otherwise.

Missing values are never skipped. A point that is known to be invalid is excluded by a mask, which enters the
weights; any other NaN reaches the score and is seen there. All sums are kept in float64.

The design follows Rasp et al. (2024), WeatherBench 2, doi:10.1029/2023MS004019, and its successor WeatherBench-X.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import as_names, require_dims, require_same_coordinates

START_DIMS = ("trajectory", "init_time")
COMPONENT = "vector_component"
"""Dimension of the components of a vector, which is one quantity: its statistics are summed over them."""


@dataclass(frozen=True)
class Fields:
    """What a statistic sees of one variable: arrays in float64 with equal coordinates.

    Attributes:
        prediction: The forecast; the ensemble mean where there are members.
        truth: What happened, same dimensions as ``prediction``.
        members: The forecast with its ``member`` dimension, where it has one.
        reference: Climatology at the valid times, where one was given; may lack dimensions of ``truth``.
    """

    prediction: xr.DataArray
    truth: xr.DataArray
    members: xr.DataArray | None = None
    reference: xr.DataArray | None = None

    @cached_property
    def error(self) -> xr.DataArray:
        """Return p - t."""
        return self.prediction - self.truth

    @cached_property
    def prediction_anomaly(self) -> xr.DataArray:
        """Return p - c."""
        return self.prediction - self._climatology

    @cached_property
    def truth_anomaly(self) -> xr.DataArray:
        """Return t - c."""
        return self.truth - self._climatology

    @property
    def _climatology(self) -> xr.DataArray:
        if self.reference is None:
            raise InputError(
                "an anomaly was asked for but no climatology was given: pass climatology=, selected at the valid "
                "times, for example climatology.sel(dayofyear=truth.valid_time.dt.dayofyear)"
            )
        return self.reference

    def ensemble(self, at_least: int = 1) -> xr.DataArray:
        """Return the members, in one dask chunk along ``member``; raises where there are fewer than needed."""
        found = 0 if self.members is None else self.members.sizes["member"]
        if self.members is None or found < at_least:
            raise InputError(
                f"an ensemble metric needs a 'member' dimension with at least {at_least} "
                f"member{'s' if at_least > 1 else ''}, found {found}: roll out an ensemble, or leave this metric out"
            )
        return self.members.chunk({"member": -1}) if self.members.chunks is not None else self.members


@dataclass(frozen=True)
class Statistic:
    """A named averageable field: ``of(fields)`` has the dimensions of the truth.

    With ``reduce="max"`` the largest value is kept in place of the weighted mean.
    """

    name: str
    of: Callable[[Fields], xr.DataArray]
    reduce: Literal["mean", "max"] = "mean"


@dataclass(frozen=True)
class SampleStatistic:
    """A named number of one forecast: ``of`` the means, within that forecast, of the statistics it ``needs``."""

    name: str
    needs: tuple[Statistic, ...]
    of: Callable[..., Any]


@dataclass(frozen=True)
class Metric:
    """A score: ``of(*means)`` of the means of its ``statistics``, in their order.

    Attributes:
        name: Name in tables.
        statistics: What it is computed from; statistics with equal names are computed once.
        of: Function of the means; works on NumPy and xarray arrays alike.
        definition: The equation in one line; p prediction, t truth, c climatology, <> weighted mean.
        source: Where the definition comes from.
        optimum: The value of a perfect forecast; None where larger or smaller is neither better nor worse.
        unit_power: 0 dimensionless, 1 in the variable's units, 2 in their square.
    """

    name: str
    statistics: tuple[Statistic | SampleStatistic, ...]
    of: Callable[..., Any]
    definition: str
    source: str
    optimum: float | None
    unit_power: int


def sample_mean(metric: Metric, name: str, source: str) -> Metric:
    """Return ``metric`` taken of each forecast by itself and then averaged over the forecasts."""
    if any(isinstance(s, SampleStatistic) or s.reduce != "mean" for s in metric.statistics):
        raise InputError(f"metric '{metric.name}' is not a function of means of point statistics alone")
    statistic = SampleStatistic(name, metric.statistics, metric.of)  # type: ignore[arg-type]
    definition = f"mean over starts of [{metric.definition}], <> within one start"
    return Metric(name, (statistic,), _identity, definition, source, metric.optimum, metric.unit_power)


def _identity(mean: Any) -> Any:
    return mean


@dataclass(frozen=True)
class WeightedSums:
    """Weighted sums of statistics: a commutative monoid under ``+``.

    Attributes:
        sums: S, one variable per field, dimensions ``(statistic, *kept)``.
        weights: W, one variable per field, dimensions ``kept``.
        maxima: Largest values of the statistics that keep them, ``(statistic, *kept)``; empty where there are none.
    """

    sums: xr.Dataset
    weights: xr.Dataset
    maxima: xr.Dataset

    def __add__(self, other: "WeightedSums") -> "WeightedSums":
        """Return the sums of both parts together."""
        self._require_like(other, exclude=())
        return WeightedSums(
            self.sums + other.sums,
            self.weights + other.weights,
            xr.apply_ufunc(np.maximum, self.maxima, other.maxima, dask="allowed"),
        )

    def sum(self, dims: str | Iterable[str]) -> "WeightedSums":
        """Return the sums with ``dims`` summed over as well, for example the starts."""
        dims = as_names(dims)
        for variable in self.weights:
            require_dims(self.weights[variable], dims, f"the sums of '{variable}'")
        return WeightedSums(
            self.sums.sum(dims, skipna=False) if self.sums else self.sums,
            self.weights.sum(dims, skipna=False),
            self.maxima.max(dims, skipna=False) if self.maxima else self.maxima,
        )

    def means(self, names: Sequence[str]) -> dict[str, list[xr.DataArray]]:
        """Return, for each variable, the means (or maxima) of the named statistics.

        Raises:
            InputError: One of them was not accumulated.
        """
        return {str(v): [self._mean(v, name) for name in names] for v in self.weights}

    def _mean(self, variable: Any, name: str) -> xr.DataArray:
        if name in _statistic_names(self.maxima):
            return self.maxima[variable].sel(statistic=name, drop=True)
        if name not in _statistic_names(self.sums):
            raise InputError(
                f"statistic '{name}' is not among the accumulated "
                f"{_statistic_names(self.sums) + _statistic_names(self.maxima)}: name every metric when accumulating"
            )
        return self.sums[variable].sel(statistic=name, drop=True) / self.weights[variable]

    def _require_like(self, other: "WeightedSums", exclude: tuple[str, ...]) -> None:
        if set(self.weights) != set(other.weights):
            raise InputError(
                f"sums of {sorted(map(str, self.weights))} and of {sorted(map(str, other.weights))} do not combine: "
                f"accumulate the same variables in every part"
            )
        for mine, theirs in ((self.sums, other.sums), (self.maxima, other.maxima)):
            if set(mine.dims) != set(theirs.dims):
                raise InputError(
                    f"sums with dimensions {sorted(map(str, mine.dims))} and {sorted(map(str, theirs.dims))} do not "
                    f"combine: accumulate every part over the same dimensions"
                )
            dims = [d for d in mine.dims if d not in exclude]
            require_same_coordinates(mine, theirs, dims, "the first sums", "the second sums")


def _statistic_names(state: xr.Dataset) -> list[str]:
    return list(state.indexes["statistic"]) if "statistic" in state.indexes else []


def concatenate(parts: Sequence[WeightedSums], dim: str) -> WeightedSums:
    """Return sums that keep ``dim`` (for example the starts), joined from parts along it."""
    if not parts:
        raise InputError("there is nothing to concatenate: give at least one part")
    for part in parts[1:]:
        parts[0]._require_like(part, exclude=(dim,))
    sums, weights, maxima = (
        [part.sums for part in parts],
        [part.weights for part in parts],
        [part.maxima for part in parts],
    )
    return WeightedSums(*(xr.concat(p, dim=dim, join="exact") if p[0] else p[0] for p in (sums, weights, maxima)))


def aggregate(
    statistics: Sequence[Statistic | SampleStatistic],
    fields: Mapping[str, Fields],
    weights: Mapping[str, xr.DataArray],
    *,
    over: Sequence[str],
    mask: Mapping[str, xr.DataArray] | None = None,
    starts: Sequence[str] = START_DIMS,
) -> WeightedSums:
    """Return the weighted sums of ``statistics`` over the dimensions ``over``; lazy on dask.

    Args:
        statistics: What to sum; equal names are summed once.
        fields: The fields of every variable.
        weights: Non-negative weights of every variable, broadcast against it; normalised by their own sum.
        over: Dimensions to sum over. Those among ``starts`` are summed last, after the sample statistics.
        mask: True where a point is valid, for every variable.
        starts: The dimensions that number the forecasts.
    """
    inner = [dim for dim in over if dim not in starts]
    outer = [dim for dim in over if dim in starts]
    parts = {
        name: _aggregate_one(statistics, field, weights[name], None if mask is None else mask[name], inner)
        for name, field in fields.items()
    }
    columns = ({n: part[i] for n, part in parts.items() if part[i] is not None} for i in range(3))
    per_start = WeightedSums(*(xr.Dataset(column) for column in columns))
    return per_start.sum(outer) if outer else per_start


def _aggregate_one(
    statistics: Sequence[Statistic | SampleStatistic],
    fields: Fields,
    weights: xr.DataArray,
    mask: xr.DataArray | None,
    inner: Sequence[str],
) -> tuple[xr.DataArray | None, xr.DataArray, xr.DataArray | None]:
    """Return sums, weights and maxima of one variable over the dimensions inside a forecast."""
    template = fields.truth
    if COMPONENT in template.dims:
        template = template.isel({COMPONENT: 0}, drop=True)
        if mask is not None and COMPONENT in mask.dims:
            mask = mask.all(COMPONENT)
    total = _total_weight(weights if mask is None else weights * mask, template, inner)
    sums: dict[str, xr.DataArray] = {}
    maxima: dict[str, xr.DataArray] = {}
    for point in {p.name: p for p in _point_statistics(statistics)}.values():
        field = point.of(fields)
        if COMPONENT in field.dims:
            field = field.sum(COMPONENT, skipna=False)
        if point.reduce == "max":
            valid = field if mask is None else field.where(mask, -np.inf)
            maxima[point.name] = valid.max(inner, skipna=False)
        else:
            valid = field if mask is None else field.where(mask, 0.0)
            sums[point.name] = (valid * weights).sum(inner, skipna=False)
    for statistic in statistics:
        if isinstance(statistic, SampleStatistic):
            means = [sums[need.name] / total for need in statistic.needs]
            sums[statistic.name] = (statistic.of(*means) * total).where(total > 0, 0.0)
    asked = {s.name: sums[s.name] for s in statistics if s.name in sums}
    return _stack(asked, total), total, _stack(maxima, total)


def _point_statistics(statistics: Sequence[Statistic | SampleStatistic]) -> list[Statistic]:
    return [p for s in statistics for p in (s.needs if isinstance(s, SampleStatistic) else (s,))]


def _total_weight(weights: xr.DataArray, template: xr.DataArray, inner: Sequence[str]) -> xr.DataArray:
    """Return the sum of the weights, broadcast to the field, over ``inner``, with every remaining dimension."""
    summed = weights.sum([d for d in inner if d in weights.dims], skipna=False)
    repeats = prod(template.sizes[d] for d in inner if d not in weights.dims)
    kept = template.isel(dict.fromkeys(inner, 0), drop=True)
    return (summed * float(repeats)).broadcast_like(kept).transpose(*kept.dims)


def _stack(arrays: Mapping[str, xr.DataArray], template: xr.DataArray) -> xr.DataArray | None:
    if not arrays:
        return None
    names = pd.Index(list(arrays), name="statistic")
    return xr.concat([a.transpose(*template.dims) for a in arrays.values()], dim=names)
