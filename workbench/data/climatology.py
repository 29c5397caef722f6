"""Climatology: the mean state at each time of year, fitted on training years only.

For a record with calendar dates, the climatology of day of year d (and hour h, where states come more often than
daily) is the mean of all training states at that hour within 30 days of d, weighted by

    w(k) = 1 - (k / 31)^2,   k = -30 .. 30 days,

a 61-day window of second order that closes over the year. Day 366 of a leap year counts as day 365. For any other
record the climatology is the mean over time and training trajectories.

The window is that of Schmude et al. (2024), Prithvi WxC, arXiv:2409.13598, who leave the polynomial open: this one is
zero at the first days outside the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from workbench.data.slot_means import field_dims, slot_means
from workbench.data.spec import ANOMALY_VARIANCE, TIME
from workbench.data.windows import Part
from workbench.errors import InputError

DAYS = 365
HALF_WINDOW = 30
CALENDAR_DEFINITION = "mean of training states within 30 days of the day of the year, weights 1 - (days / 31)^2"
CONSTANT_DEFINITION = "mean of training states over time and trajectories"


def window_weights() -> np.ndarray:
    """Weight of day j in the climatology of day i, ``float64[365, 365]``."""
    days = np.arange(DAYS)
    apart = (days[:, None] - days + DAYS // 2) % DAYS - DAYS // 2
    weights: np.ndarray = np.where(np.abs(apart) <= HALF_WINDOW, 1.0 - (apart / (HALF_WINDOW + 1.0)) ** 2, 0.0)
    return weights


def fit_climatology(record: xr.Dataset, names: Sequence[str], part: Part, missing: str = "error") -> xr.Dataset:
    """Climatology of the variables `names` over the training part, in one pass over it, by dask.

    Takes the memory of its result, a field of float64 per day of the year and hour; for records of which that is too
    much, `workbench.data.climatology_store` writes it as it comes.

    Args:
        record: the whole record.
        names: variables with a time dimension.
        part: the training part.
        missing: ``error`` refuses non-finite values, ``mask`` leaves them out of the mean.

    Returns:
        Variables ``(dayofyear[, hour], *space)`` for calendar dates, else ``(*space)``. The coordinate ``states``
        counts the training states behind each mean; the attributes say where they came from, for `refuse_leak`.

    Raises:
        InputError: the part is not the training part, or values are missing while `missing` is ``error``.
    """
    table = Table.of(record, part)
    fields = {}
    for name in names:
        dims = field_dims(record[name])
        mean = np.empty((*table.shape, *(record.sizes[d] for d in dims)))
        for found in slot_means(record, name, part, table.slots, table.window, missing=missing):
            mean[found.days, found.hours] = found.mean
        fields[name] = table.labelled(record[name], mean)
    return xr.Dataset(fields).assign_coords(table.coordinates(part)).assign_attrs(table.attributes(record, part))


@dataclass(frozen=True)
class Table:
    """The slots of a climatology: days of the year and times of day, or one slot for a record without dates.

    Attributes:
        calendar: whether the record has dates.
        hours: times of day.
        slots: ``int64[time, 2]``, day and hour, from 0, of each step of the record.
        window: weight of one day in the climatology of another, ``float64[day, day]``.
    """

    calendar: bool
    hours: np.ndarray
    slots: np.ndarray
    window: np.ndarray

    @classmethod
    def of(cls, record: xr.Dataset, part: Part) -> Table:
        """The table of a record whose climatology is fitted on `part`.

        Raises:
            InputError: the part is not the training part.
        """
        if part.name != "train":
            raise InputError(f"a climatology must come from the train split, not from '{part.name}'")
        if not np.issubdtype(record[TIME].dtype, np.datetime64):
            return cls(False, np.zeros(1), np.zeros((record.sizes[TIME], 2), np.int64), np.ones((1, 1)))
        hours = _hours_of_day(part.select(record)[TIME])
        slots = np.stack(np.divmod(_slots(record[TIME], hours), len(hours)), axis=-1)
        return cls(True, hours, slots, window_weights())

    @property
    def shape(self) -> tuple[int, int]:
        """Days and hours."""
        return len(self.window), len(self.hours)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of a climatology besides those of a field."""
        return ("dayofyear", "hour") if len(self.hours) > 1 else ("dayofyear",) if self.calendar else ()

    def labelled(self, array: xr.DataArray, values: Any) -> xr.DataArray:
        """``values[day, hour, *field]`` of the variable `array`, with its attributes, in the order of its dims."""
        dims = field_dims(array)
        values = values[(slice(None),) * len(self.dims) + (0,) * (2 - len(self.dims))]
        coords = {d: array[d] for d in dims if d in array.coords}
        named = xr.DataArray(values, dims=(*self.dims, *dims), coords=coords, attrs=array.attrs)
        return named.transpose(*self.dims, *(d for d in array.dims if d in dims))

    def coordinates(self, part: Part) -> dict[str, Any]:
        """Labels of the slots, and how many states of `part` are behind each mean."""
        found: dict[str, Any] = {
            "dayofyear": ("dayofyear", np.arange(1, DAYS + 1), {"long_name": "day of the year", "units": "1"}),
            "hour": ("hour", self.hours, {"long_name": "time of day", "units": "h"}),
        }
        times = np.concatenate([np.arange(lo, hi) for lo, hi in part.runs])
        states = np.zeros(self.shape, np.int64)
        np.add.at(states, tuple(self.slots[times].T), len(part.trajectories))
        behind = (self.window > 0).astype(np.int64) @ states
        kept = behind[(slice(None),) * len(self.dims) + (0,) * (2 - len(self.dims))]
        return {**{d: found[d] for d in self.dims}, "states": (self.dims, kept)}

    def attributes(self, record: xr.Dataset, part: Part) -> dict[str, Any]:
        """What the climatology is and what it was fitted on."""
        return {
            "definition": CALENDAR_DEFINITION if self.calendar else CONSTANT_DEFINITION,
            **_provenance(record, part),
        }


def climatology_at(
    climatology: xr.Dataset, valid_time: xr.DataArray, chunks: Mapping[str, int] | None = None
) -> xr.Dataset:
    """The climatology at `valid_time`.

    Args:
        climatology: from `fit_climatology`.
        valid_time: times, on any dimensions.
        chunks: sizes of dask chunks along the dimensions of `valid_time`; by default the result is in memory.

    Returns:
        Variables ``(*valid_time.dims, *space)``; ``(*space)`` where the climatology is one mean for all times.

    Raises:
        InputError: no training state lies within 30 days of the day of the year, or at the time of day.
    """
    if "dayofyear" not in climatology.dims:
        aside = [n for n in climatology.variables if n == "states" or str(n).endswith(ANOMALY_VARIANCE)]
        return climatology.drop_vars(aside)
    hours = climatology["hour"].values if "hour" in climatology.dims else np.zeros(1)
    index = _slots(valid_time, hours)
    if "states" in climatology.coords and not climatology["states"].values.ravel()[index].all():
        bad = valid_time.values[climatology["states"].values.ravel()[index] == 0][0]
        raise InputError(
            f"the climatology has no training state within {HALF_WINDOW} days of {str(bad)[:10]} in any year (it was "
            f"fitted on {climatology.attrs.get('fit_period', 'an unnamed period')}): train on at least one whole year, "
            "or leave 'climatology' out of evaluate.baselines and 'acc' out of evaluate.metrics"
        )
    slot = (
        xr.DataArray(index, dims=valid_time.dims).chunk(chunks or {})
        if chunks
        else xr.DataArray(index, dims=valid_time.dims)
    )
    fields = {}
    for name, array in climatology.data_vars.items():
        if str(name).endswith(ANOMALY_VARIANCE):
            continue
        space = [d for d in array.dims if d not in ("dayofyear", "hour")]
        sizes = {d: array.sizes[d] for d in space}
        table = array.transpose(*climatology["states"].dims, *space).values.reshape(-1, *sizes.values())
        fields[name] = xr.apply_ufunc(
            partial(np.take, table, axis=0),
            slot,
            output_core_dims=[space],
            dask="parallelized",
            dask_gufunc_kwargs={"output_sizes": sizes},
            output_dtypes=[table.dtype],
        ).assign_attrs(array.attrs)
    grid = {d: climatology[d] for d in climatology.dims if d in climatology.coords and d not in ("dayofyear", "hour")}
    labels = {d: valid_time[d] for d in valid_time.dims if d in valid_time.coords}
    return xr.Dataset(fields).assign_coords({**grid, **labels})


def refuse_leak(climatology: xr.Dataset, valid_time: xr.DataArray, trajectories: np.ndarray) -> None:
    """Raise if the climatology was fitted on a state that it is compared with.

    Args:
        climatology: with the attributes that `fit_climatology` writes.
        valid_time: times that are scored.
        trajectories: positions of the trajectories that are scored; ``[0]`` where there are none.

    Raises:
        InputError: the fit period overlaps, or is not known.
    """
    missing = [key for key in ("fit_first", "fit_last", "fit_trajectories") if key not in climatology.attrs]
    if missing:
        raise InputError(
            f"the climatology does not say what it was fitted on (it lacks the attributes {', '.join(missing)}): fit "
            "it with workbench.climatology.fit_climatology on the train split"
        )
    first, last = (np.array(climatology.attrs[key]).astype(valid_time.dtype) for key in ("fit_first", "fit_last"))
    shared = np.intersect1d(np.atleast_1d(climatology.attrs["fit_trajectories"]), trajectories)
    inside = (valid_time.values >= first) & (valid_time.values <= last)
    if shared.size and inside.any():
        raise InputError(
            f"the climatology was fitted on {climatology.attrs.get('fit_period', f'{first} .. {last}')}, which holds "
            f"{int(inside.sum())} of the times that are scored ({str(valid_time.values[inside].min())[:19]} first): "
            "the score would know its answer; fit it on the train split (data.split.train), apart from what is scored"
        )


def slots_of(climatology: xr.Dataset, times: xr.DataArray) -> np.ndarray:
    """Where in a climatology each time belongs, ``int64[*times, 2]``: positions along day of the year and hour.

    -1 where the climatology has nothing; 0 along an axis that it does not have.

    Raises:
        InputError: it has other hours than `times`.
    """
    found = np.zeros((*times.shape, 2), np.int64)
    if "dayofyear" not in climatology.dims:
        return found
    hours = climatology["hour"].values if "hour" in climatology.dims else np.zeros(1)
    day, hour = np.divmod(_slots(times, hours), len(hours))
    days = climatology["dayofyear"].values - 1
    place = np.minimum(np.searchsorted(days, day), len(days) - 1)
    states = climatology["states"].values.reshape(len(days), len(hours))
    known = (days[place] == day) & (states[place, hour] > 0)
    found[..., 0], found[..., 1] = np.where(known, place, -1), np.where(known, hour, -1)
    return found


def _hours_of_day(time: xr.DataArray) -> np.ndarray:
    """Distinct times of day in hours, rising; the 24 whole hours where there are more than 24."""
    hours = np.unique(_time_of_day(time.values))
    return hours if len(hours) <= 24 else np.arange(24.0)


def _time_of_day(times: np.ndarray) -> np.ndarray:
    seconds = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "s")
    return np.round(seconds) / 3600.0


def _slots(times: xr.DataArray, hours: np.ndarray) -> np.ndarray:
    """Row of the (day of year, hour) table that each time belongs to, same shape as `times`."""
    day = np.minimum(times.dt.dayofyear.values, DAYS) - 1
    if len(hours) == 1:
        return np.asarray(day, dtype=np.int64)
    clock = _time_of_day(times.values)
    hour = np.searchsorted(hours, clock, side="right") - 1
    if len(hours) < 24 and not np.array_equal(hours[hour], clock):
        found = ", ".join(f"{h:g}" for h in hours)
        raise InputError(
            f"the climatology holds the hours {found} and is asked for {clock[hours[hour] != clock][0]:g} h: states of "
            "one time of day are compared with means of that time; train on a record with the same hours"
        )
    return np.asarray(day * len(hours) + hour, dtype=np.int64)


def _provenance(record: xr.Dataset, part: Part) -> dict[str, Any]:
    first, last = (record[TIME].values[i] for i in (part.runs[0][0], part.runs[-1][1] - 1))
    number = not np.issubdtype(record[TIME].dtype, np.datetime64)
    return {
        "fit_period": part.label(record),
        "fit_first": float(first) if number else str(first),
        "fit_last": float(last) if number else str(last),
        "fit_trajectories": [int(t) for t in part.trajectories],
    }
