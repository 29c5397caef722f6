"""Copy a record into the layout that training wants: streamed in bounded memory, resumable, compared bit by bit.

Every variable is copied in regions of whole shard files, as many as memory allows, so that a chunk of the source that
reaches over several shards is decoded once for all of them. Where chunks would still be decoded more than `TWO_PASSES`
times (a source in small tiles of space over all time), the variable goes through an intermediate store beside the
target. Its shards are regions that are cheap to read from the source, and its chunks are what such a region has in
common with a region that is cheap to write: each pass then decodes each chunk about once.

What was written is read back and compared with what was read, bit by bit, before a region counts as done.
"""

from __future__ import annotations

import itertools
import math
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.allocator import return_freed_memory
from workbench.data.rechunk_plan import PIECE_BYTES, Box, Plan, Sizes, boxes, grown, plans
from workbench.data.spec import STEPS, TIME
from workbench.data.statistics import fingerprint
from workbench.data.store import is_zarr, naming_bad_chunks, open_record, refuse_existing
from workbench.data.writer import StoreWriter, open_for_writing
from workbench.errors import InputError
from workbench.workers import executor

CHUNK_BYTES = (16 * 2**10, 128 * 2**20)
"""Steps below the first are put together in one chunk, fields above the second are cut."""
SHARD_BYTES = 64 * 2**20
SHARD_CHUNKS = 1024
"""Most chunks in a shard file: its index is read with the first of them, and zarr takes 0.2 ms to write each."""
WORKERS = 2

Progress = Callable[[int, int], None]


def rechunk(
    source: str,
    target: str | Path,
    *,
    chunks: Mapping[str, int] | None = None,
    shards: Mapping[str, int] | None = None,
    variables: Sequence[str] = (),
    memory: int = 10**9,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Copy a record to a Zarr v3 store with other chunks; killed at any moment, the same call goes on.

    Values, coordinates and attributes stay as `open_record` shows them, to the last bit, and the attribute ``history``
    gets a line. Packed integers (``scale_factor``, ``add_offset``) become the float32 that training makes of them at
    every read. Variables that hold no numbers (text, dates) become coordinates. Regions are copied by threads, or by
    the workers of an active `distributed.Client`, who must see the same files.

    Args:
        source: whatever `open_record` understands.
        target: the new store.
        chunks: chunk size per dimension, -1 for the whole; by default one time step, whole fields (`default_chunks`).
        shards: chunks per file and dimension; by default files of about 64 MiB before compression.
        variables: the data variables to copy; all by default.
        memory: bytes that the process never exceeds (each worker, with a client).
        overwrite: replace an existing target.
        progress: called with the regions done and in all.

    Returns:
        the path of the target.

    Raises:
        InputError: the target exists or is being written, the source cannot be read, `memory` does not hold a chunk of
            the source or a shard of the target, or what was written differs from what was read.
    """
    return_freed_memory()
    target = Path(target)
    refuse_existing(target, overwrite)
    dataset = _chosen(open_record(source), variables)
    path = str(dataset.encoding["source"])
    chunks = {**default_chunks(dataset), **_checked(dataset, chunks or {}, "chunks")}
    shards = _checked(dataset, shards, "shards") if shards else default_shards(dataset, chunks)
    template = _template(dataset, source)
    identity = _identity(dataset, template, chunks, shards)
    with executor(WORKERS) as (pool, workers):
        together, planned = plans(dataset, template, chunks, shards, memory, workers)
        writer = StoreWriter(target, template, chunks=chunks, shards=shards, identity=identity, overwrite=overwrite)
        try:
            crew = Crew(pool, together, progress, sum(p.regions for p in planned))
            with naming_bad_chunks(dataset), writer.needing_room():
                for number, todo in enumerate(planned):
                    _copy_variable(dataset[todo.name], path, number, todo, writer, identity, crew)
            return writer.finish()
        finally:
            writer.close()


# ---------------------------------------------------------------------------------------------- layout


def default_chunks(dataset: xr.Dataset) -> dict[str, int]:
    """One time step of one trajectory, or one slot of a climatology, per chunk; within the bounds of `CHUNK_BYTES`."""
    chunks = {str(d): 1 if d in STEPS else -1 for d in dataset.dims}
    largest = max(dataset.data_vars.values(), key=lambda a: _chunk_bytes(a, chunks))
    if TIME in largest.dims:
        together = CHUNK_BYTES[0] // max(1, _chunk_bytes(largest, chunks))
        chunks[TIME] = min(max(1, together), dataset.sizes[TIME])
    for dim in [str(d) for d in largest.dims if d not in STEPS]:
        parts = -(-_chunk_bytes(largest, chunks) // CHUNK_BYTES[1])
        if parts > 1:
            chunks[dim] = max(1, dataset.sizes[dim] // parts)
    return chunks


def default_shards(dataset: xr.Dataset, chunks: Mapping[str, int]) -> dict[str, int]:
    """Consecutive chunks of a trajectory, then of several trajectories, that make a file of about `SHARD_BYTES`."""
    largest = max(_chunk_bytes(a, chunks) for a in dataset.data_vars.values())
    count = min(SHARD_CHUNKS, max(1, SHARD_BYTES // max(1, largest)))
    shards = {}
    for dim in STEPS:
        if dim in dataset.dims:
            size = dataset.sizes[dim] if chunks[dim] == -1 else chunks[dim]
            shards[dim] = min(count, -(-dataset.sizes[dim] // size))
            count //= shards[dim]
    return shards


def _chunk_bytes(array: xr.DataArray, chunks: Mapping[str, int]) -> int:
    sizes = (n if chunks[str(d)] == -1 else min(n, chunks[str(d)]) for d, n in array.sizes.items())
    return math.prod(sizes) * _stored_dtype(array).itemsize


def _checked(dataset: xr.Dataset, sizes: Mapping[str, int], what: str) -> dict[str, int]:
    for dim, size in sizes.items():
        if dim not in dataset.dims:
            raise InputError(f"{what} names the dimension '{dim}', the record has {', '.join(map(str, dataset.dims))}")
        if size < 1 and (size, what) != (-1, "chunks"):
            raise InputError(f"{what} {dim}={size}: expected a whole number from 1" + ", or -1 for the whole dimension")
    return dict(sizes)


# ---------------------------------------------------------------------------------------------- what is copied


def _chosen(dataset: xr.Dataset, variables: Sequence[str]) -> xr.Dataset:
    for name in variables:
        if name not in dataset.data_vars:
            raise InputError(f"variable '{name}' is not in the record, which has {', '.join(map(str, dataset))}")
    source = dataset.encoding["source"]
    dataset = dataset[list(variables)] if variables else dataset
    dataset = dataset.set_coords([n for n, a in dataset.data_vars.items() if a.dtype.kind not in "iufb"])
    if not dataset.data_vars:
        raise InputError(f"{source} has no variable that holds numbers: there is nothing to copy")
    dataset.encoding["source"] = source
    return dataset


def _stored_dtype(array: xr.DataArray) -> np.dtype:
    return np.dtype(np.float32) if _packing(array) and array.dtype.kind == "f" else array.dtype


def _packing(array: xr.DataArray) -> tuple[float, float] | None:
    """Scale and offset of packed numbers."""
    keys = ("scale_factor", "add_offset")
    if not any(key in array.encoding for key in keys):
        return None
    scale, offset = (
        float(np.ravel(array.encoding.get(key, neutral))[0]) for key, neutral in zip(keys, (1, 0), strict=True)
    )
    return scale, offset


def _template(dataset: xr.Dataset, source: str) -> xr.Dataset:
    """The target without its values."""
    import dask.array as da

    variables = {}
    for name, array in dataset.data_vars.items():
        attrs, packing = dict(array.attrs), _packing(array)
        for key in ("valid_min", "valid_max", "valid_range"):
            if packing and key in attrs:  # they speak of the packed numbers
                attrs[key] = (np.asarray(attrs[key]) * packing[0] + packing[1]).tolist()
        variables[name] = (array.dims, da.zeros(array.shape, dtype=_stored_dtype(array), chunks=-1), attrs)
    line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: workbench {__version__}, dataset rechunk {source}"
    history = "\n".join(filter(None, [str(dataset.attrs.get("history", "")).rstrip("\n"), line]))
    return xr.Dataset(variables, coords=dataset.coords, attrs={**dataset.attrs, "history": history})


def _identity(
    dataset: xr.Dataset, template: xr.Dataset, chunks: Mapping[str, int], shards: Mapping[str, int]
) -> dict[str, Any]:
    path = str(dataset.encoding["source"])
    return {
        "rechunk": path,
        "record": [fingerprint(file) for file in sorted(glob(path)) or [path]],
        "variables": {str(n): [list(a.dims), a.shape, str(a.dtype)] for n, a in template.data_vars.items()},
        "chunks": dict(chunks),
        "shards": dict(shards),
    }


# ---------------------------------------------------------------------------------------------- copying


@dataclass(frozen=True)
class Job:
    """One region to copy; plain enough to travel to another process.

    Attributes:
        run: tells apart two runs, between which the source may have changed.
        source: path or address.
        name: of the variable.
        pieces: what is read of the source at once, per dimension.
        store: a partial store.
        box: the region.
    """

    run: str
    source: str
    name: str
    pieces: tuple[tuple[str, int], ...]
    store: str
    box: Box


@dataclass
class Crew:
    """Who copies, and how far they are.

    Attributes:
        pool: the workers.
        together: regions that they are given at a time.
        progress: told after every region.
        total: regions in all.
        done: regions done.
    """

    pool: Executor
    together: int
    progress: Progress
    total: int
    done: int = 0

    def copy(self, jobs: Mapping[tuple[str, ...], Job], writer: StoreWriter) -> None:
        """Copy the regions that the journal of `writer` does not have; each has the keys of the files in it."""
        todo = {keys: job for keys, job in jobs.items() if not writer.done.issuperset(keys)}
        self._tell(len(jobs) - len(todo))
        waiting = iter(todo.items())
        pending: dict[Future[None], tuple[str, ...]] = {}
        while True:
            for keys, job in itertools.islice(waiting, self.together - len(pending)):
                pending[self.pool.submit(copy_region, job)] = keys
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                keys = pending.pop(future)
                future.result()
                writer.note(*keys)
                self._tell(1)

    def _tell(self, regions: int) -> None:
        self.done += regions
        self.progress(self.done, self.total)


def _copy_variable(
    array: xr.DataArray, path: str, number: int, todo: Plan, writer: StoreWriter, identity: Any, crew: Crew
) -> None:
    dims = tuple(map(str, array.dims))
    if todo.detour is None:
        crew.copy(_jobs(path, dims, todo, todo.stored, todo.region, todo.unit, writer), writer)
        return
    first, chunks = todo.detour.region, todo.detour.chunks
    between = StoreWriter(
        writer.path.with_name(f"{writer.path.name}.between{number}"),
        _placeholder(todo.name, dims, todo.shape, writer),
        chunks=dict(zip(dims, chunks, strict=True)),
        shards={d: -(-n // c) for d, n, c in zip(dims, first, chunks, strict=True)},
        identity={**identity, "name": todo.name, "region": first, "between": chunks},
    )
    try:
        onward = _jobs(str(between.partial), dims, todo, chunks, todo.region, todo.unit, writer)
        inward = _jobs(path, dims, todo, todo.stored, first, first, between)
        if all(writer.done.issuperset(keys) for keys in onward):
            inward = {}  # killed when only the removal was left
        crew.copy(inward, between)
        crew.copy(onward, writer)
        between.discard()
    finally:
        between.close()


def _placeholder(name: str, dims: tuple[str, ...], shape: Sizes, writer: StoreWriter) -> xr.Dataset:
    import dask.array as da

    dtype = open_for_writing(writer.partial, name).dtype
    return xr.Dataset({name: (dims, da.zeros(shape, dtype=dtype, chunks=-1))})


def _jobs(
    path: str, dims: Sequence[str], todo: Plan, stored: Sizes, region: Sizes, unit: Sizes, writer: StoreWriter
) -> dict[tuple[str, ...], Job]:
    """The regions to copy, by the keys of the files in each."""
    itemsize = open_for_writing(writer.partial, todo.name).dtype.itemsize
    pieces = tuple(zip(dims, grown(stored, todo.shape, region, PIECE_BYTES // itemsize), strict=True))
    run = uuid.uuid4().hex
    return {
        _keys(todo.name, box, unit): Job(run, path, todo.name, pieces, str(writer.partial), box)
        for box in boxes(todo.shape, region)
    }


def _keys(name: str, box: Box, unit: Sizes) -> tuple[str, ...]:
    """A line of the journal for every file of a region: they say the same when memory allows other regions."""
    ranges = [range(lo // n, -(-hi // n)) for (lo, hi), n in zip(box, unit, strict=True)]
    return tuple(f"{name} {'.'.join(map(str, index))}" for index in itertools.product(*ranges))


def copy_region(job: Job) -> None:
    """Read one region of the source, write it, and compare what was written with what was read.

    Raises:
        InputError: they differ.
    """
    return_freed_memory()  # in a worker of a cluster nobody has
    with _turn(job.source):
        source = _opened(job.run, job.source, job.name, job.pieces)
    target = open_for_writing(Path(job.store), job.name)
    values = np.empty([hi - lo for lo, hi in job.box], target.dtype)
    for inside, place in _pieces(job.box, tuple(n for _, n in job.pieces)):
        with _turn(job.source):
            values[inside] = source[place].compute(scheduler="synchronous").values
    target[tuple(slice(*bounds) for bounds in job.box)] = values
    rows = grown(target.chunks, values.shape, values.shape, PIECE_BYTES // target.dtype.itemsize)
    for inside, place in _pieces(job.box, rows):
        if np.asarray(target[place]).tobytes() != values[inside].tobytes():
            raise InputError(
                f"variable '{job.name}': what was written to {job.store} is not what was read, at {place}; look for a "
                "fault of the disk, then run the same command again"
            )


def _turn(source: str) -> AbstractContextManager[Any]:
    """Held to open or read: two threads in the NetCDF library at once, one of them opening a file, end in a crash."""
    return nullcontext() if is_zarr(source) else _NETCDF


_NETCDF = threading.Lock()


@lru_cache(16)
def _opened(run: str, source: str, name: str, pieces: tuple[tuple[str, int], ...]) -> xr.Variable:
    return open_record(source, chunks=dict(pieces))[name].variable


def _pieces(box: Box, size: Sizes) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """The pieces of a region, cut where multiples of `size` lie: places in the region, and in the whole array."""
    cuts = []
    for (lo, hi), step in zip(box, size, strict=True):
        edges = [lo, *range(lo // step * step + step, hi, step), hi]
        cuts.append([(slice(a - lo, b - lo), slice(a, b)) for a, b in itertools.pairwise(edges)])
    for combination in itertools.product(*cuts):
        yield tuple(inside for inside, _ in combination), tuple(place for _, place in combination)
