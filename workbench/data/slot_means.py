"""Means of a record's states by time of year and day, by dask: the sums behind a climatology.

A *slot* is a day of the year and a time of day. The steps of some slots are summed by tasks that each read a few steps,
on threads or on the cluster of an active `distributed.Client`; the sums of neighbouring days stay in memory while a
window over days needs them. So every step is read once, and memory does not grow with the length of the record.

How far states depart from the climatology comes from the same pass: with n states of mean m in a slot and the
climatology c there, the squares of their anomalies add up to ``M2 + n (m - c)^2``, where M2 are the squares about m,
merged as in Chan, Golub & LeVeque (1983, eq. 1.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr

from workbench.data.blocks import as_slice
from workbench.data.spec import LEVEL_NAMES, TIME, TRAJECTORY
from workbench.data.statistics import first_missing
from workbench.data.store import naming_bad_chunks
from workbench.data.windows import Part
from workbench.errors import InputError

PIECE_BYTES = 32 * 2**20
"""What one task reads, as float64."""
SUM_BYTES = 256 * 2**20
"""Sums that are computed at once."""
MERGED = 8
"""Partial sums that are merged by one task."""


@dataclass(frozen=True)
class SlotSums:
    """Sums over the states of some slots; ``+`` merges two disjoint sets of states.

    Attributes:
        number: of states ``float64[day, hour, level, point]``, 1 for the last two where nothing is missing.
        total: their sum ``float64[day, hour, level, point]``.
        squares: weighted squared deviations from the mean of the slot, over all slots and points ``float64[level]``.
        weight: area weights ``float64[point]``.
        missing: number of missing values.
    """

    number: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    weight: np.ndarray
    missing: int

    @property
    def mean(self) -> np.ndarray:
        """Mean of each slot; 0 where there is no state."""
        return np.divide(self.total, self.number, out=np.zeros_like(self.total), where=self.number > 0)

    def __add__(self, other: SlotSums) -> SlotSums:
        number = self.number + other.number
        both = np.divide(self.number * other.number, number, out=np.zeros_like(number), where=number > 0)
        between = (both * (self.mean - other.mean) ** 2).sum((0, 1)) @ self.weight
        squares, missing = self.squares + other.squares + between, self.missing + other.missing
        return SlotSums(number, self.total + other.total, squares, self.weight, missing)

    def anomalies(self, climatology: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sum of squared anomalies from `climatology`, and sum of weights, ``float64[level]`` each."""
        departed = np.where(self.number > 0, self.number * (self.mean - climatology) ** 2, 0.0)
        weights = np.broadcast_to(self.number, self.total.shape).sum((0, 1)) @ self.weight
        return self.squares + departed.sum((0, 1)) @ self.weight, weights


@dataclass(frozen=True)
class SlotMeans:
    """Climatology of one variable in some slots.

    Attributes:
        days, hours: which slots.
        mean: ``float64[day, hour, *field]``; NaN where there is no state.
        anomalies: weighted sum of squared anomalies in these slots, and sum of weights, ``float64[level]`` each.
    """

    days: slice
    hours: slice
    mean: np.ndarray
    anomalies: tuple[np.ndarray, np.ndarray]


def field_dims(array: xr.DataArray) -> tuple[str, ...]:
    """Dims of a field of `array`: levels, then space."""
    rest = [str(d) for d in array.dims if d not in (TIME, TRAJECTORY)]
    return tuple(sorted(rest, key=lambda d: d not in LEVEL_NAMES))


def slot_means(
    record: xr.Dataset,
    name: str,
    part: Part,
    slots: np.ndarray,
    window: np.ndarray,
    *,
    missing: str = "error",
    weights: xr.DataArray | None = None,
    every: int = 1,
) -> Iterator[SlotMeans]:
    """Windowed means of one variable over the states of a part, a few slots at a time.

    Args:
        record: the whole record.
        name: a variable with a time dimension.
        part: whose states are averaged.
        slots: ``int64[time, 2]``, day of the year and time of day, from 0, of each step of the record.
        window: weight ``float64[day, day]`` of one day in the mean of another.
        missing: ``error`` refuses non-finite values, ``mask`` leaves them out.
        weights: area weights of the squared anomalies, on some of the space dims.
        every: the days of all results but the last are a multiple of it.

    Raises:
        InputError: values are missing while `missing` is ``error``; a chunk is damaged.
    """
    days, hours = len(window), int(slots[:, 1].max()) + 1
    passes = _Passes(record, name, part, slots, missing, weights)
    at_once = max(1, SUM_BYTES // (8 * passes.size))
    together = min(hours, max(1, at_once // days))
    step = days if at_once >= days else max(every, at_once // every * every)
    blocks = [slice(d, min(d + step, days)) for d in range(0, days, step)]
    needs = [[bool(window[a, b].any()) for b in blocks] for a in blocks]
    for h in range(0, hours, together):
        at, sums = slice(h, min(h + together, hours)), dict[int, SlotSums]()
        for k, own in enumerate(blocks):
            wanted = [j for j, needed in enumerate(needs[k]) if needed]
            sums |= {j: passes.sums(blocks[j], at) for j in wanted if j not in sums}
            mean = _smooth([window[own, blocks[j]] for j in wanted], [sums[j] for j in wanted])
            anomalies = sums[k].anomalies(mean)
            yield SlotMeans(own, at, mean.reshape(*mean.shape[:2], *passes.shape), anomalies)
            for j in [j for j in sums if not any(later[j] for later in needs[k + 1 :])]:
                del sums[j]


def _smooth(windows: Sequence[np.ndarray], sums: Sequence[SlotSums]) -> np.ndarray:
    """Weighted mean over the window of days, ``[day, hour, level, point]``; NaN where no state was seen."""
    total: Any = sum(np.tensordot(w, s.total, 1) for w, s in zip(windows, sums, strict=True))
    number: Any = sum(np.tensordot(w, s.number, 1) for w, s in zip(windows, sums, strict=True))
    return np.divide(total, number, out=np.full_like(total, np.nan), where=np.broadcast_to(number > 0, total.shape))


class _Passes:
    """Sums of one variable over the steps of chosen slots."""

    def __init__(
        self,
        record: xr.Dataset,
        name: str,
        part: Part,
        slots: np.ndarray,
        missing: str,
        weights: xr.DataArray | None,
    ) -> None:
        array = record[name]
        dims = field_dims(array)
        if TRAJECTORY not in array.dims:
            array = array.expand_dims(TRAJECTORY)
        else:
            array = array.isel({TRAJECTORY: part.trajectories})
        self.array = array.transpose(TRAJECTORY, TIME, *dims)
        self.shape = tuple(array.sizes[d] for d in dims)
        self.size = int(np.prod(self.shape))
        self.levels = int(np.prod([array.sizes[d] for d in dims if d in LEVEL_NAMES]))
        self.record, self.slots, self.missing = record, slots, missing
        self.times = np.concatenate([np.arange(lo, hi) for lo, hi in part.runs])
        self.weight = self._point_weights(weights, [d for d in dims if d not in LEVEL_NAMES])

    def _point_weights(self, weights: xr.DataArray | None, space: Sequence[str]) -> np.ndarray:
        if weights is None or not set(map(str, weights.dims)) <= set(space):
            return np.ones(self.size // self.levels)
        template = xr.DataArray(np.ones([self.array.sizes[d] for d in space]), dims=space)
        return np.asarray((template * weights.drop_vars(list(weights.coords))).transpose(*space).values.ravel())

    def sums(self, days: slice, hours: slice) -> SlotSums:
        """Sums over all states of some slots, computed by dask.

        Raises:
            InputError: a value is missing, which is not allowed; a chunk is damaged.
        """
        day, hour = (self.slots[self.times, axis] for axis in (0, 1))
        mine = (day >= days.start) & (day < days.stop) & (hour >= hours.start) & (hour < hours.stop)
        times, count = self.times[mine], hours.stop - hours.start
        place = (day[mine] - days.start) * count + hour[mine] - hours.start
        shape = (days.stop - days.start, count)
        with naming_bad_chunks(self.record):
            found: SlotSums = dask.compute(_tree(self._tasks(times, place, shape)))[0]
        if found.missing and self.missing == "error":
            raise InputError(
                f"variable '{self.array.name}' has missing (NaN) values, "
                f"{first_missing(self.array.isel({TIME: times}).squeeze(drop=True))}; set data.missing: mask to work "
                "around them"
            )
        return found

    def _tasks(self, times: np.ndarray, place: np.ndarray, shape: tuple[int, int]) -> list[Any]:
        members = self.array.sizes[TRAJECTORY]
        group = int(np.clip(PIECE_BYTES // (8 * self.size), 1, members))
        length = max(1, PIECE_BYTES // (8 * self.size * group))
        partial, weight = dask.delayed(_sums_of), dask.delayed(self.weight)
        tasks = []
        for first in range(0, members, group):
            some = self.array.isel({TRAJECTORY: slice(first, first + group)})
            for at in range(0, max(len(times), 1), length):
                here = slice(at, at + length)
                block = some.isel({TIME: as_slice(times[here])}).data
                tasks.append(partial(block, place[here], shape, self.levels, weight, self.missing == "mask"))
        return tasks


def _sums_of(
    block: Any, place: np.ndarray, shape: tuple[int, int], levels: int, weight: np.ndarray, masked: bool
) -> SlotSums:
    """Sums of a block ``[trajectory, time, *field]`` whose steps belong to the slots `place`, counted day by day."""
    values = np.asarray(block, dtype=np.float64)
    values = values.reshape(*values.shape[:2], levels, len(weight))
    valid = np.isfinite(values)
    bad = int(valid.size - np.count_nonzero(valid))
    order = np.argsort(place, kind="stable")
    present, starts = np.unique(place[order], return_index=True)
    total = np.zeros((shape[0] * shape[1], levels, len(weight)))
    number = np.zeros((len(total), *((levels, len(weight)) if masked else (1, 1))))
    if len(present):
        clean = np.where(valid, values, 0.0) if bad else values
        total[present] = np.add.reduceat(clean.sum(0)[order], starts, axis=0)
        seen = valid.sum(0) if masked else np.full((len(place), 1, 1), len(values))
        number[present] = np.add.reduceat(seen[order], starts, axis=0)
        mean = np.divide(total, number, out=np.zeros_like(total), where=number > 0)
        values = np.where(valid, values - mean[place], 0.0)
    squares = np.einsum("rtlp,rtlp,p->l", values, values, weight)
    number_by_day, total_by_day = (a.reshape(*shape, *a.shape[1:]) for a in (number, total))
    return SlotSums(number_by_day, total_by_day, squares, weight, bad)


def _tree(tasks: list[Any]) -> Any:
    """One task that merges all, in groups and always in one order."""
    while len(tasks) > 1:
        tasks = [dask.delayed(_merge)(tasks[i : i + MERGED]) for i in range(0, len(tasks), MERGED)]
    return tasks[0]


def _merge(sums: Sequence[SlotSums]) -> SlotSums:
    merged = sums[0]
    for more in sums[1:]:
        merged = merged + more
    return merged
