"""How one variable of a record is read: chunk by chunk straight from disk, or in slabs through a library.

A *source* is asked for steps, pairs of trajectory and time index, and told in which row of a buffer each belongs. It
answers with *jobs* that threads may run in any order; every chunk is read and decoded once, however many rows
want a piece of it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr

from workbench.data.chunks import ChunkedArray, Scratch
from workbench.data.remote import Unreachable
from workbench.data.spec import TIME, TRAJECTORY
from workbench.errors import InputError, unreadable

log = logging.getLogger(__name__)

SLAB_BYTES = 64 * 2**20
"""Largest slab that is read in one call."""

Job = tuple[Any, ...]
"""``(function, *arguments)``, to be called as ``function(scratch, *arguments)``."""


@dataclass(frozen=True)
class Axes:
    """What the axes of a stored variable mean, and which range of each is kept.

    Attributes:
        trajectory, time: positions of these axes, None where the variable has none.
        first, size: kept range per axis.
    """

    trajectory: int | None
    time: int | None
    first: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, array: xr.DataArray, crop: Mapping[str, tuple[int, int]]) -> Axes:
        """The axes of a variable that was cropped when it was opened."""
        dims = tuple(map(str, array.dims))
        return cls(
            dims.index(TRAJECTORY) if TRAJECTORY in dims else None,
            dims.index(TIME) if TIME in dims else None,
            tuple(crop[d][0] if d in crop else 0 for d in dims),
            array.shape,
        )

    @property
    def rest(self) -> tuple[int, ...]:
        """Positions of the axes that are neither trajectory nor time."""
        return tuple(a for a in range(len(self.size)) if a not in (self.trajectory, self.time))

    def offsets(self) -> tuple[int, int]:
        """First kept trajectory and time index."""
        trajectory = 0 if self.trajectory is None else self.first[self.trajectory]
        return trajectory, 0 if self.time is None else self.first[self.time]

    def steps_in(self, chunks: Sequence[int]) -> tuple[int, int]:
        """Trajectories and time steps in a chunk of the given sizes per axis."""
        trajectory = 1 if self.trajectory is None else chunks[self.trajectory]
        return trajectory, 1 if self.time is None else chunks[self.time]


@dataclass(frozen=True)
class Unpacking:
    """CF decoding of stored numbers: missing values become NaN, then ``scale_factor`` and ``add_offset`` apply.

    Step by step what xarray does, so that the result is equal to the last bit.
    """

    dtype: np.dtype
    missing: tuple[Any, ...]
    scale: Any
    offset: Any
    filled: float | None = None
    """Stands where a value is missing, instead of NaN."""

    @classmethod
    def of(cls, array: xr.DataArray) -> Unpacking | None:
        """The decoding that xarray applied to `array`; None where numbers are stored as they are."""
        return cls.from_attributes(array.dtype, array.encoding)

    @classmethod
    def from_attributes(
        cls, dtype: np.dtype, attributes: Mapping[str, Any], filled: float | None = None
    ) -> Unpacking | None:
        """The decoding that CF attributes ask for; None where numbers are stored as they are."""
        candidates = [v for key in ("_FillValue", "missing_value") for v in np.ravel(attributes.get(key, []))]
        missing = tuple(v for v in candidates if not np.isnan(v))
        scale, offset = (
            v if v is None or np.ndim(v) == 0 else np.asarray(v).item()
            for v in (attributes.get("scale_factor"), attributes.get("add_offset"))
        )
        plain = not missing and (scale, offset, filled) == (None, None, None)
        return None if plain else cls(dtype, missing, scale, offset, filled)

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Stored numbers -> physical numbers."""
        values = raw.astype(self.dtype)
        for missing in self.missing:
            values[values == missing] = np.nan
        if self.scale is not None:
            values *= self.scale
        if self.offset is not None:
            values += self.offset
        if self.filled is not None:
            values[np.isnan(values)] = self.filled
        return values


@dataclass(frozen=True)
class Target:
    """Rows to read steps of one variable into.

    Attributes:
        rows: ``float32[row, *axes]``, the axes in the order in which the variable is stored.
        incomplete: ``bool[row]``, set where a NaN was read; None leaves that to the caller.
    """

    rows: np.ndarray
    incomplete: np.ndarray | None

    def note_missing(self, row: int, values: np.ndarray) -> None:
        """Look for a NaN in what was just read, while it is in the cache of the processor: 2 times as fast as later."""
        if self.incomplete is not None and np.isnan(values.max()):
            self.incomplete[row] = True


class Source(Protocol):
    """Reads steps of one variable."""

    unit: tuple[int, int]
    """Trajectories and time steps that are read together, whether wanted or not."""

    def plan(self, target: Target, trajectory: np.ndarray, time: np.ndarray, rows: np.ndarray) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of the target."""


# ---------------------------------------------------------------------------------------------- whole chunks


class ChunkSource:
    """Decodes the chunks that hold the wanted steps, in place where chunk and buffer have one layout.

    Attributes:
        unit: trajectories and time steps in a chunk.
        shard: time steps in a file.
        nbytes: of a decoded chunk.
        remote: whether chunks come from behind an address.
    """

    def __init__(self, array: ChunkedArray, axes: Axes, unpack: Unpacking | None) -> None:
        self._array, self._axes, self._unpack = array, axes, unpack
        self.unit = axes.steps_in(array.chunks)
        self.shard = axes.steps_in(array.shards or array.chunks)[1]
        self.nbytes, self.remote = array.nbytes, array.remote is not None
        self._times = 1 if axes.time is None else -(-array.shape[axes.time] // array.chunks[axes.time])
        self._pieces = list(self._cut_space())
        if len(self._pieces) == 1:
            self._pieces[0] = (*self._pieces[0][:2], (), self._pieces[0][3])  # no need to slice the whole
        self._plain = unpack is None and array.dtype == np.float32 and array.dtype.isnative and self.unit == (1, 1)

    def _cut_space(self) -> Any:
        """For every chunk of the kept space: its index, where the kept part lies in it, and in the buffer."""
        axes, chunks = self._axes, self._array.chunks
        along = []
        for a in axes.rest:
            first, last, step = axes.first[a], axes.first[a] + axes.size[a], chunks[a]
            cut = []
            for q in range(first // step, -(-last // step)):
                lo, hi = max(first, q * step), min(last, (q + 1) * step)
                cut.append((q, slice(lo - q * step, hi - q * step), slice(lo - first, hi - first)))
            along.append(cut)
        for combination in itertools.product(*along):
            index, inside = [0] * len(chunks), [slice(None)] * len(chunks)
            for a, (q, within, _) in zip(axes.rest, combination, strict=True):
                index[a], inside[a] = q, within
            whole = all(within == slice(0, chunks[a]) for a, (_, within, _) in zip(axes.rest, combination, strict=True))
            yield index, inside, tuple(target for *_, target in combination), whole

    def plan(self, target: Target, trajectory: np.ndarray, time: np.ndarray, rows: np.ndarray) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of the target."""
        first = self._axes.offsets()
        chunk_r, inside_r = np.divmod(trajectory + first[0], self.unit[0])
        chunk_t, inside_t = np.divmod(time + first[1], self.unit[1])
        chunk = chunk_r * self._times + chunk_t
        order = np.argsort(chunk, kind="stable")
        places = list(zip(*(x[order].tolist() for x in (rows, inside_r, inside_t)), strict=True))
        starts = np.flatnonzero(np.diff(chunk[order], prepend=-1))
        groups = zip(
            chunk_r[order[starts]].tolist(),
            chunk_t[order[starts]].tolist(),
            starts.tolist(),
            [*starts[1:].tolist(), len(order)],
            strict=True,
        )
        runs = [self._run_of(target.rows, part, whole) for _, _, part, whole in self._pieces]
        axes, jobs = self._axes, []
        for r, t, lo, hi in groups:
            for (index, inside, part, _), run in zip(self._pieces, runs, strict=True):
                if axes.trajectory is not None:
                    index[axes.trajectory] = r
                if axes.time is not None:
                    index[axes.time] = t
                jobs.append((run, tuple(index), inside, target, part, places[lo:hi]))
        if self._array.remote:  # every request is under way before the first thread waits for an answer
            return [(_run_fetched, self._array.remote.fetch(job[1]), *job) for job in jobs]
        return jobs

    @property
    def chunks_a_step(self) -> int:
        """Chunks that hold one step."""
        return len(self._pieces)

    def _run_of(self, rows: np.ndarray, part: tuple[slice, ...], whole: bool) -> Callable[..., None]:
        in_place = self._plain and whole and rows[0][part].flags.c_contiguous
        return self._decode_in_place if in_place else self._decode_and_copy

    def _decode_in_place(
        self, scratch: Scratch, index: tuple[int, ...], _: Any, target: Target, part: Any, places: list[Any]
    ) -> None:
        row = places[0][0]
        values = target.rows[row][part]
        self._array.load(index, values, scratch)
        target.note_missing(row, values)
        for row, _, _ in places[1:]:
            target.rows[row][part] = values

    def _decode_and_copy(
        self, scratch: Scratch, index: tuple[int, ...], inside: Any, target: Target, part: Any, places: list[Any]
    ) -> None:
        chunk = scratch.decoded(self._array.chunks, self._array.dtype)
        self._array.load(index, chunk, scratch)
        axes, select = self._axes, list(inside)
        for row, r, t in places:
            if axes.trajectory is not None:
                select[axes.trajectory] = r
            if axes.time is not None:
                select[axes.time] = t
            values = chunk[tuple(select)]
            target.rows[row][part] = values if self._unpack is None else self._unpack(values)
            target.note_missing(row, target.rows[row][part])


def _run_fetched(scratch: Scratch, fetched: object, run: Callable[..., None], *arguments: Any) -> None:
    """Run a job whose chunk is being fetched; `fetched` is held until then."""
    run(scratch, *arguments)


# ---------------------------------------------------------------------------------------------- slabs


class SlabSource:
    """Reads runs of consecutive time steps through a function that takes a tuple of integers and slices.

    Args:
        fetch: ``fetch(key)`` returns physical numbers, in storage order without the integer axes.
        axes: of the variable.
        label: names the variable and its file in messages.
        unit: trajectories and time steps of a stored chunk.
    """

    def __init__(
        self, fetch: Callable[[tuple[Any, ...]], np.ndarray], axes: Axes, label: str, unit: tuple[int, int] = (1, 1)
    ) -> None:
        self._fetch, self._axes, self._label, self.unit = fetch, axes, label, unit
        step = max(1, 8 * int(np.prod([axes.size[a] for a in axes.rest])))
        self._longest = max(1, SLAB_BYTES // step)

    def plan(self, target: Target, trajectory: np.ndarray, time: np.ndarray, rows: np.ndarray) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of the target."""
        order = np.lexsort((time, trajectory))
        r, t = trajectory[order], time[order]
        breaks = (np.diff(r, prepend=-1) != 0) | (np.diff(t, prepend=-2) > 1)
        starts = np.flatnonzero(breaks).tolist()
        jobs: list[Job] = []
        for lo, hi in zip(starts, [*starts[1:], len(order)], strict=True):
            for begin in range(int(t[lo]), int(t[hi - 1]) + 1, self._longest):
                a, b = lo + np.searchsorted(t[lo:hi], [begin, begin + self._longest])
                places = list(zip(rows[order[a:b]].tolist(), (t[a:b] - begin).tolist(), strict=True))
                jobs.append((self._copy, int(r[lo]), begin, int(t[b - 1]) + 1, target, places))
        return jobs

    def _copy(self, _: Scratch, r: int, begin: int, end: int, target: Target, places: list[tuple[int, int]]) -> None:
        axes = self._axes
        key: list[Any] = [slice(f, f + n) for f, n in zip(axes.first, axes.size, strict=True)]
        if axes.trajectory is not None:
            key[axes.trajectory] = axes.first[axes.trajectory] + r
        if axes.time is not None:
            key[axes.time] = slice(axes.first[axes.time] + begin, axes.first[axes.time] + end)
        try:
            slab = self._fetch(tuple(key))
        except Unreachable as error:
            raise InputError(f"{self._label}, time steps {begin} to {end - 1} cannot be fetched: {error}") from error
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, EOFError) as error:
            raise unreadable(error)(
                f"{self._label}, time steps {begin} to {end - 1} cannot be read ({error}); the file is damaged: "
                "restore it from its source"
            ) from error
        if axes.time is not None:
            slab = np.moveaxis(slab, axes.time - (axes.trajectory is not None and axes.trajectory < axes.time), 0)
        for row, t in places:
            target.rows[row] = slab[t] if axes.time is not None else slab
            target.note_missing(row, target.rows[row])


class ConsecutiveFiles:
    """One variable in several files, one after the other in time.

    Args:
        parts: source of each file.
        steps: time steps in each file.
        first: first kept time step of the whole.
    """

    def __init__(self, parts: Sequence[Source], steps: Sequence[int], first: int) -> None:
        self._parts, self._first = parts, first
        self._edges = np.concatenate([[0], np.cumsum(steps)])
        self.unit = (max(p.unit[0] for p in parts), max(p.unit[1] for p in parts))

    def plan(self, target: Target, trajectory: np.ndarray, time: np.ndarray, rows: np.ndarray) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of the target."""
        time = time + self._first
        file = np.searchsorted(self._edges, time, side="right") - 1
        jobs: list[Job] = []
        for number in np.unique(file).tolist():
            mine = file == number
            part = self._parts[number]
            jobs += part.plan(target, trajectory[mine], time[mine] - self._edges[number], rows[mine])
        return jobs
