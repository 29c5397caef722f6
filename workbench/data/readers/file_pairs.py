"""One record in many pairs of NetCDF files, surface and model levels, opened as they are wanted.

Nothing about a file is assumed because another one had it: at first use its grid, levels and times are compared with
what the record says, and levels are found by their numbers, whichever way up they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from workbench.data.layouts import UnknownLayout, hdf5_chunks
from workbench.data.readers.merra2_file import (
    compare_times,
    coordinate,
    level_places,
    open_h5,
    refuse_other_globe,
    text_of,
)
from workbench.data.readers.merra2_layout import FILL, LEVELS, UNITS, Kind
from workbench.data.sources import Axes, ChunkSource, Job, SlabSource, Source, Target, Unpacking
from workbench.errors import DamagedChunk, InputError

Crop = Mapping[str, tuple[int, int]]

PARTS = 1024
"""Files of a variable whose tables of chunks stay in memory."""


@dataclass(frozen=True)
class Field:
    """One variable of one kind of file.

    Attributes:
        kind: ``surface`` or ``vertical``.
        timed: whether the files hold it at several times.
        attrs: units and long name.
        chunks: of the first file, per axis.
        dtype: of the numbers that it is read as.
        unpack: how stored numbers become physical ones; None where they are stored as they are.
    """

    kind: Kind
    timed: bool
    attrs: dict[str, str]
    chunks: tuple[int, ...]
    dtype: np.dtype
    unpack: Unpacking | None

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims besides time."""
        return ("lev", "lat", "lon") if self.kind == "vertical" else ("lat", "lon")


class FilePairs:
    """Pairs of files with one grid, and the variables in them.

    Args:
        paths: of each pair, by kind.
        present: whether each pair is there.
        times: ``datetime64[pair, step]``; None where the files have no time.

    Attributes:
        fields: variable -> where it is and how it is read.
        lat, lon: degrees north and east.

    Raises:
        InputError: the first pair is not what it should be.
    """

    def __init__(self, paths: Sequence[Mapping[Kind, str]], present: Sequence[bool], times: np.ndarray | None) -> None:
        self._paths, self.present, self._times = list(paths), list(present), times
        self._levels: dict[tuple[str, int], np.ndarray] = {}
        first = self.present.index(True)
        with open_h5(self.path(first, "surface")) as file:
            self.lat, self.lon = (coordinate(file, name) for name in ("lat", "lon"))
            refuse_other_globe(file.filename, self.lat, self.lon)
        self.fields: dict[str, Field] = {}
        for kind in ("surface", "vertical"):
            self.check(first, kind)
            with open_h5(self.path(first, kind)) as file:
                self.fields |= {n: f for n in file if (f := self._field(file[n], kind)) is not None}

    @property
    def steps(self) -> int:
        """Times in each pair."""
        return 1 if self._times is None else self._times.shape[1]

    @property
    def sizes(self) -> dict[str, int]:
        """Points along each dim of a field."""
        return {"lev": len(LEVELS), "lat": len(self.lat), "lon": len(self.lon)}

    def path(self, pair: int, kind: Kind) -> str:
        """A file.

        Raises:
            DamagedChunk: the pair is absent.
        """
        path = self._paths[pair][kind]
        if not self.present[pair]:
            raise DamagedChunk(f"{path} is not there: fetch it")
        return path

    def check(self, pair: int, kind: Kind) -> np.ndarray:
        """Compare a file with what the record says of it, once.

        Returns:
            where in the file each of `LEVELS` lies, ``int64[level]``; empty for a surface file.

        Raises:
            InputError: grid, levels or times are not those of the record.
        """
        path = self.path(pair, kind)
        seen = path, Path(path).stat().st_mtime_ns if Path(path).exists() else 0
        if seen not in self._levels:
            with open_h5(path) as file:
                for name, expected in (("lat", self.lat), ("lon", self.lon)):
                    if not np.array_equal(found := coordinate(file, name), expected):
                        raise InputError(
                            f"{path}: '{name}' has {len(found)} points from {found[0]:g} to {found[-1]:g}, expected "
                            f"{len(expected)} from {expected[0]:g} to {expected[-1]:g} as in the first file"
                        )
                if self._times is not None:
                    compare_times(path, file, self._times[pair])
                self._levels[seen] = level_places(path, file) if kind == "vertical" else np.empty(0, np.int64)
        return self._levels[seen]

    def _field(self, dataset: Any, kind: Kind) -> Field | None:
        """What a dataset of the first file holds; None if it is no field."""
        levels = (len(coordinate(dataset.file, "lev")),) if kind == "vertical" else ()
        space = (*levels, len(self.lat), len(self.lon))
        timed = dataset.shape == (self.steps, *space) and self._times is not None
        if dataset.dtype.kind not in "iuf" or not (timed or dataset.shape == space):
            return None
        name = dataset.name.rpartition("/")[2]
        units, long_name = (text_of(dataset.attrs.get(key)) for key in ("units", "long_name"))
        usual = UNITS.get(name, ("", name))
        attrs = {"units": units or usual[0], "long_name": long_name or usual[1]}
        dtype = np.dtype(np.float32) if dataset.dtype.itemsize <= 4 else np.dtype(np.float64)
        unpack = Unpacking.from_attributes(dtype, dict(dataset.attrs), FILL.get(name))
        return Field(kind, timed, {k: v for k, v in attrs.items() if v}, dataset.chunks or (), dtype, unpack)

    # ------------------------------------------------------------------------------------------ reading

    def read(self, name: str, pair: int, steps: Any, space: tuple[Any, ...]) -> np.ndarray:
        """Physical numbers of one variable in one file, through the HDF5 library.

        Args:
            name: of the variable.
            pair: number of the file.
            steps: an index along time; not looked at where the variable has no time.
            space: an index along each of the field's dims, in the order of the record.
        """
        field = self.fields[name]
        levels = self.check(pair, field.kind)
        key = (steps,) if field.timed else ()
        with open_h5(path := self.path(pair, field.kind)) as file:
            try:
                if field.kind == "surface":
                    values = file[name][(*key, *space)]
                else:
                    wanted = levels[space[0]]
                    lowest = int(np.min(wanted))
                    block = file[name][(*key, slice(lowest, int(np.max(wanted)) + 1), *space[1:])]
                    axis = 1 if field.timed and not isinstance(steps, int) else 0
                    values = np.take(block, wanted - lowest, axis=axis)
            except (OSError, KeyError, ValueError) as error:
                raise DamagedChunk(f"variable '{name}' of {path} cannot be read ({error}): fetch it again") from error
        return field.unpack(values) if field.unpack else values.astype(field.dtype)

    def part(self, name: str, pair: int, crop: Crop) -> Source:
        """Reads one variable of one file: each run of neighbouring levels by a source of its own.

        Raises:
            InputError: the file is not what the record says of it, or lacks the variable.
        """
        field, path = self.fields[name], self.path(pair, self.fields[name].kind)
        levels = self.check(pair, field.kind)
        ranges = [crop.get(d, (0, self.sizes[d])) for d in field.dims]
        runs = _runs(levels[slice(*ranges[0])]) if field.kind == "vertical" else [(0, 0, slice(None))]
        parts = []
        for low, high, rows in runs:
            kept = [(low, high), *ranges[1:]] if field.kind == "vertical" else ranges
            time = [(0, self.steps)] if field.timed else []
            first, last = zip(*time, *kept, strict=True)
            size = tuple(b - a for a, b in zip(first, last, strict=True))
            axes = Axes(None, 0 if field.timed else None, first, size)
            parts.append((self._chunks(name, path, field, axes), rows))
        return Arranged(parts) if field.kind == "vertical" else parts[0][0]

    @staticmethod
    def _chunks(name: str, path: str, field: Field, axes: Axes) -> Source:
        try:
            array = hdf5_chunks(path, name, [0] if field.timed else [])
        except UnknownLayout as reason:
            if "no dataset" in str(reason):
                raise InputError(f"{path} has no variable '{name}', the first file has it: fetch it again") from reason

            def fetch(key: tuple[Any, ...]) -> np.ndarray:
                with open_h5(path) as file:
                    values = file[name][key]
                return field.unpack(values) if field.unpack else values

            return SlabSource(fetch, axes, f"variable '{name}' of {path}")
        return ChunkSource(array, axes, field.unpack)


class ManyFiles:
    """Steps of one variable in many files, each with the same number of steps.

    Args:
        pairs: the files.
        name: of the variable.
        crop: index range per dim of the field.
        numbers: times per trajectory, and the number of the step that comes first: step ``(trajectory, time)`` has
            the number ``trajectory * numbers[0] + time + numbers[1]``.
    """

    def __init__(self, pairs: FilePairs, name: str, crop: Crop, numbers: tuple[int, int]) -> None:
        self._numbers, self._steps, self._timed = numbers, pairs.steps, pairs.fields[name].timed
        self._part = lru_cache(PARTS)(lambda pair: pairs.part(name, pair, crop))
        chunks = pairs.fields[name].chunks
        self.unit = (1, chunks[0] if self._timed and chunks else 1)

    def plan(self, target: Target, trajectory: np.ndarray, time: np.ndarray, rows: np.ndarray) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of the target."""
        number = trajectory * self._numbers[0] + time + self._numbers[1]
        pair, inside = np.divmod(number, self._steps)
        if not self._timed:
            inside = np.zeros_like(inside)
        jobs: list[Job] = []
        for one in np.unique(pair).tolist():
            mine = pair == one
            jobs += self._part(one).plan(target, np.zeros_like(inside[mine]), inside[mine], rows[mine])
        return jobs


class Arranged:
    """Sources of pieces of the first axis besides time, put side by side."""

    def __init__(self, parts: Sequence[tuple[Source, slice]]) -> None:
        self._parts = parts
        self.unit = parts[0][0].unit

    def plan(self, target: Target, trajectory: np.ndarray, time: np.ndarray, rows: np.ndarray) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of the target."""
        jobs: list[Job] = []
        for source, place in self._parts:
            jobs += source.plan(Target(target.rows[:, place], target.incomplete), trajectory, time, rows)
        return jobs


class StackedFiles(BackendArray):
    """One variable of all files as a lazy array ``[*lead, *field]`` for xarray.

    Args:
        pairs: the files.
        name: of the variable.
        lead: sizes of the leading axes, over which pairs and their steps run in order.
    """

    def __init__(self, pairs: FilePairs, name: str, lead: tuple[int, ...]) -> None:
        field = pairs.fields[name]
        self._pairs, self._name, self._lead = pairs, name, lead
        self.shape = (*lead, *(pairs.sizes[d] for d in field.dims))
        self.dtype = field.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._get)

    def _get(self, key: tuple[Any, ...]) -> np.ndarray:
        numbers = np.arange(np.prod(self._lead)).reshape(self._lead)[key[: len(self._lead)]]
        space, timed = key[len(self._lead) :], self._pairs.fields[self._name].timed
        pair, inside = np.divmod(numbers.ravel(), self._pairs.steps)
        blocks = []
        for one in dict.fromkeys(pair.tolist()):
            steps = inside[pair == one]
            if not timed:
                field = self._pairs.read(self._name, one, 0, space)
                blocks.append(np.broadcast_to(field, (len(steps), *field.shape)))
            elif np.all(np.diff(steps) == 1):  # one read, so that no chunk is decoded twice
                blocks.append(self._pairs.read(self._name, one, slice(int(steps[0]), int(steps[-1]) + 1), space))
            else:
                blocks.append(np.stack([self._pairs.read(self._name, one, int(step), space) for step in steps]))
        shape = np.shape(blocks[0])[1:]
        return np.concatenate(blocks).reshape(*numbers.shape, *shape) if blocks else np.empty((0, *shape), self.dtype)


def _runs(places: np.ndarray) -> list[tuple[int, int, slice]]:
    """Runs of neighbours among places in a file: the range there, and the rows here, upwards or downwards.

    ``[3, 2, 1, 6]`` gives ``(1, 4, rows 2, 1, 0)`` and ``(6, 7, row 3)``.
    """
    runs, start = [], 0
    while start < len(places):
        step = places[start + 1] - places[start] if start + 1 < len(places) else 1
        stop = start + 1
        while abs(step) == 1 and stop < len(places) and places[stop] - places[stop - 1] == step:
            stop += 1
        low, high = int(min(places[start], places[stop - 1])), int(max(places[start], places[stop - 1])) + 1
        rows = slice(start, stop) if step != -1 else slice(stop - 1, start - 1 if start else None, -1)
        runs.append((low, high, rows))
        start = stop
    return runs
