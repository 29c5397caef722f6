"""Which indices make a sample: splits, gaps and shards, in pure integers.

A *window* is ``length`` states, `stride` record steps apart, of one trajectory. Windows never cross a
trajectory, a split or a gap in time, because they are laid out inside each uniform run of one part only.

Where an experiment names several input deltas or leads, each sample draws one pair of them (`Timings`); its window then
reaches as far as the longest pair, whichever was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from workbench.data.config import DataConfig, Split
from workbench.data.spec import TIME, TRAJECTORY, segments, time_step
from workbench.errors import InputError


@dataclass(frozen=True)
class Part:
    """One part of a split: the trajectories and the uniform runs of time steps that belong to it.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        trajectories: positions along the trajectory dimension (``[0]`` where there is none).
        runs: half-open ranges of record time indices, each uniformly spaced.
    """

    name: str
    trajectories: np.ndarray
    runs: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> int:
        """Number of record time steps in the part, of one trajectory."""
        return sum(hi - lo for lo, hi in self.runs)

    def select(self, dataset: xr.Dataset) -> xr.Dataset:
        """The part of `dataset` that belongs to this part."""
        if TRAJECTORY in dataset.dims:
            dataset = dataset.isel({TRAJECTORY: self.trajectories})
        if TIME in dataset.dims:
            if len(self.runs) == 1:
                return dataset.isel({TIME: slice(*self.runs[0])})
            dataset = dataset.isel({TIME: np.concatenate([np.arange(lo, hi) for lo, hi in self.runs])})
        return dataset

    def in_years(self, dataset: xr.Dataset, first: int, last: int) -> Part:
        """What lies in some years, both included.

        Raises:
            InputError: a year is not wholly or partly in this part, or the record has no dates.
        """
        if not np.issubdtype(dataset[TIME].dtype, np.datetime64):
            raise InputError(f"years {first} to {last} need calendar dates on the time axis")
        years = dataset[TIME].dt.year.values
        mine = np.concatenate([years[lo:hi] for lo, hi in self.runs])
        absent = sorted(set(range(first, last + 1)) - set(mine.tolist()))
        if absent or last < first:
            raise InputError(
                f"years {first} to {last} are not all in the {self.name} split, which has {mine.min()} to {mine.max()}"
            )
        inside = [lo + np.flatnonzero((years[lo:hi] >= first) & (years[lo:hi] <= last)) for lo, hi in self.runs]
        return replace(self, runs=tuple((int(i[0]), int(i[-1]) + 1) for i in inside if len(i)))

    def label(self, dataset: xr.Dataset) -> str:
        """What the part covers, for people and provenance, such as ``2001-01-01 .. 2008-06-30``."""
        pieces = []
        if TRAJECTORY in dataset.dims:
            pieces.append(f"{len(self.trajectories)} of {dataset.sizes[TRAJECTORY]} trajectories")
        if TIME in dataset.dims:
            time = dataset[TIME].values
            first, last = (str(time[i])[:19] for i in (self.runs[0][0], self.runs[-1][1] - 1))
            pieces.append(f"{first} .. {last}")
        return ", ".join(pieces) or "all"


@dataclass(frozen=True)
class Timings:
    """The pairs of input delta and lead time, of which each sample has one.

    Attributes:
        offsets: ``int64[pair, length]``, record steps from the start of a window to each of its states.
        input_delta: ``float32[pair]``, between two inputs, in hours (in the units of time, where that has no dates).
        lead_time: ``float32[pair]``, from the latest input to the target and from one target to the next, likewise.
    """

    offsets: np.ndarray
    input_delta: np.ndarray
    lead_time: np.ndarray

    @classmethod
    def of(cls, deltas: Sequence[int], leads: Sequence[int], history: int, horizon: int, step: float) -> Timings:
        """Every pair of a delta and a lead, in record steps of `step` hours."""
        pairs = np.array([(delta, lead) for delta in deltas for lead in leads], dtype=np.int64)
        inputs, targets = np.arange(1 - history, 1), np.arange(1, horizon + 1)
        offsets = np.concatenate([pairs[:, :1] * inputs, pairs[:, 1:] * targets], axis=1)
        hours = (step * pairs).astype(np.float32)
        return cls(offsets - offsets.min(), hours[:, 0], hours[:, 1])


@dataclass(frozen=True)
class Windows:
    """The samples of one part: window `i` is states ``start[i] + stride * (0 .. length - 1)`` of a trajectory.

    Attributes:
        trajectory: ``int64[n]`` positions along the trajectory dimension.
        start: ``int64[n]`` record time index of the first state.
        length: number of states in a window.
        stride: record steps between two states.
        timings: what takes the place of the stride; the latest input of a window is the same under every pair.
        drawn: ``int64[n]``, the pair that each window has in this epoch.
    """

    trajectory: np.ndarray
    start: np.ndarray
    length: int
    stride: int = 1
    timings: Timings | None = None
    drawn: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def span(self) -> int:
        """Record steps from the first state of a window to one past its last."""
        return (self.length - 1) * self.stride + 1 if self.timings is None else int(self.timings.offsets.max()) + 1

    def times(self, index: int | np.ndarray) -> np.ndarray:
        """Record time indices ``int64[..., length]`` of the windows `index`."""
        if self.timings is None:
            return np.asarray(self.start[index])[..., None] + self.stride * np.arange(self.length)
        if self.drawn is None:
            raise RuntimeError("the windows of an epoch come from workbench.data.order.draw_timings")
        return np.asarray(self.start[index])[..., None] + self.timings.offsets[self.drawn[index]]


def sample_windows(dataset: xr.Dataset, part: Part, config: DataConfig) -> Windows:
    """The samples that an experiment takes from one part of a record.

    Raises:
        InputError: no window fits.
    """
    horizon = config.horizon if part.name == "train" else config.validation_horizon or config.horizon
    timings = None
    if config.input_deltas or config.leads:
        step, _, calendar = time_step(dataset)
        deltas, leads = config.input_deltas or (config.stride,), config.leads or (config.stride,)
        timings = Timings.of(deltas, leads, config.history, horizon, step / 3600 if calendar else step)
    return lay_out(part, config.history + horizon, config.stride, config.every, timings)


def lay_out(part: Part, length: int, stride: int = 1, every: int = 1, timings: Timings | None = None) -> Windows:
    """Every window of `length` states that fits into one run of `part`, in the order of the record.

    Args:
        part: trajectories and uniform runs of one split.
        length: states in a window (history + horizon).
        stride: record steps between two states.
        every: record steps between the starts of two windows.
        timings: pairs of input delta and lead time, instead of the stride.

    Raises:
        InputError: no window fits.
    """
    nothing = np.empty(0, np.int64)
    span = Windows(nothing, nothing, length, stride, timings).span
    starts = np.concatenate([np.arange(lo, hi - span + 1, every, dtype=np.int64) for lo, hi in part.runs])
    if not len(starts) or not len(part.trajectories):
        longest = max((hi - lo for lo, hi in part.runs), default=0)
        raise InputError(
            f"no window fits into the {part.name} split: a window spans {span} steps (history + horizon = {length}, "
            f"{f'stride {stride}' if timings is None else 'with the longest input delta and lead'}), the longest run "
            f"has {longest} steps and {len(part.trajectories)} trajectories; lower data.history or data.horizon, or "
            "widen the split"
        )
    trajectories = np.asarray(part.trajectories, dtype=np.int64)
    trajectory, start = np.repeat(trajectories, len(starts)), np.tile(starts, len(trajectories))
    return Windows(trajectory, start, length, stride, timings)


def parts(dataset: xr.Dataset, config: DataConfig) -> dict[str, Part]:
    """The parts ``train``, ``validation`` and ``test`` of a record.

    Raises:
        InputError: parts overlap, are empty, or name what the record does not have.
    """
    runs = segments(dataset, config.gaps) if TIME in dataset.dims else [(0, 1)]
    everyone = np.arange(dataset.sizes.get(TRAJECTORY, 1))
    split = config.split
    found: dict[str, Part] = {}
    for name in ("train", "validation", "test"):
        if split.by == "time":
            lo, hi = _time_range(dataset, split, name)
            lo += split.gap if name != "train" else 0
            clipped = tuple((max(a, lo), min(b, hi)) for a, b in runs if min(b, hi) > max(a, lo))
            found[name] = Part(name, everyone, clipped)
        else:
            found[name] = Part(name, _trajectories(dataset, split, name), tuple(runs))
    _refuse_overlap(found, split)
    return found


def _refuse_overlap(found: dict[str, Part], split: Split) -> None:
    for name, part in found.items():
        if not part.runs or not len(part.trajectories):
            raise InputError(f"the {name} split {list(split.part(name))} (by {split.by}) selects nothing")
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            a, b = found[one], found[other]
            if split.by == "time":
                overlap = min(a.runs[-1][1], b.runs[-1][1]) > max(a.runs[0][0], b.runs[0][0])
            else:
                overlap = bool(np.intersect1d(a.trajectories, b.trajectories).size)
            if overlap:
                raise InputError(
                    f"the {one} and {other} splits overlap: {list(split.part(one))} and {list(split.part(other))} "
                    f"(by {split.by}); separate them"
                )


def _time_range(dataset: xr.Dataset, split: Split, name: str) -> tuple[int, int]:
    bounds = split.part(name)
    if len(bounds) != 2:
        raise InputError(f"data.split.{name} is {list(bounds)}: expected [first, last]")
    if TIME not in dataset.dims:
        raise InputError("data.split.by is time, but the record has no time dimension; split by trajectory")
    count = dataset.sizes[TIME]
    if all(isinstance(b, (int, float)) and 0 <= b <= 1 for b in bounds):
        return round(float(bounds[0]) * count), round(float(bounds[1]) * count)
    try:
        chosen = dataset[TIME].to_index().slice_indexer(bounds[0], bounds[1])
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"data.split.{name} {list(bounds)} does not fit the time axis, which runs "
            f"{str(dataset[TIME].values[0])[:19]} .. {str(dataset[TIME].values[-1])[:19]}: "
            "expected fractions of the record or two times on that axis"
        ) from error
    return int(chosen.start or 0), int(count if chosen.stop is None else chosen.stop)


def _trajectories(dataset: xr.Dataset, split: Split, name: str) -> np.ndarray:
    if TRAJECTORY not in dataset.dims:
        raise InputError(f"data.split.by is '{split.by}', but the record has no trajectory dimension; split by time")
    bounds, count = split.part(name), dataset.sizes[TRAJECTORY]
    if split.by != TRAJECTORY:
        return _labelled(dataset, split.by, bounds)
    if len(bounds) != 2 or any(isinstance(b, str) for b in bounds):
        raise InputError(f"data.split.{name} is {list(bounds)}: expected [first, last] as fractions or positions")
    lo, hi = (float(b) for b in bounds)
    if 0 <= lo <= 1 and 0 <= hi <= 1:
        lo, hi = lo * count, hi * count
    return np.arange(round(lo), min(round(hi), count))


def _labelled(dataset: xr.Dataset, coordinate: str, labels: Sequence[float | str]) -> np.ndarray:
    if coordinate not in dataset.coords or dataset[coordinate].dims != (TRAJECTORY,):
        along = [str(n) for n, c in dataset.coords.items() if c.dims == (TRAJECTORY,)]
        raise InputError(
            f"data.split.by is '{coordinate}': expected time, trajectory, or a coordinate along trajectory "
            f"({', '.join(along)})"
        )
    return np.flatnonzero(np.isin(dataset[coordinate].values.astype(str), [str(label) for label in labels]))
