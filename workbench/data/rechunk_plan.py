"""How a record is copied into another layout: which regions, through which intermediate store."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.data.writer import array_encoding
from workbench.errors import InputError

Sizes = tuple[int, ...]
Box = tuple[tuple[int, int], ...]

TWO_PASSES = 3.0
"""Times that the source is decoded above which an intermediate store, written and read once, is cheaper."""
PROCESS_BYTES = 200 * 2**20
"""What the process takes before it reads anything, with some room."""
COPIES = 4.0
"""Regions in memory at once: the values, and their encoded chunks before and after they are joined to a shard."""
PIECE_BYTES = 16 * 2**20
"""What is read, or compared, in one call."""


@dataclass(frozen=True)
class Detour:
    """An intermediate store: the regions in which it is filled, each one file, and its chunks."""

    region: Sizes
    chunks: Sizes


@dataclass(frozen=True)
class Plan:
    """How one variable is copied, in numbers per axis.

    Attributes:
        name: of the variable.
        shape: of the variable.
        stored: chunks of the source.
        unit: what one file of the target holds.
        region: what is written to the target at once.
        detour: the way through an intermediate store, where it is shorter.
    """

    name: str
    shape: Sizes
    stored: Sizes
    unit: Sizes
    region: Sizes
    detour: Detour | None = None

    @property
    def regions(self) -> int:
        """How many regions are copied."""
        first = len(boxes(self.shape, self.detour.region)) if self.detour else 0
        return first + len(boxes(self.shape, self.region))


def plans(
    dataset: xr.Dataset,
    template: xr.Dataset,
    chunks: Mapping[str, int],
    shards: Mapping[str, int],
    memory: int,
    workers: int,
) -> tuple[int, list[Plan]]:
    """The plan of every variable, with as many regions at once as `memory` allows."""
    encoding = {n: array_encoding(a, chunks, shards) for n, a in template.data_vars.items()}
    units = {n: tuple(map(min, e.get("shards", e["chunks"]), template[n].shape)) for n, e in encoding.items()}
    shard = max(math.prod(units[n]) * template[n].dtype.itemsize for n in units)
    stored = {n: source_chunks(a) for n, a in dataset.data_vars.items()}
    chunk = max(math.prod(stored[n]) * a.dtype.itemsize for n, a in dataset.data_vars.items())
    together = workers
    while together > 1 and room(memory, together) < max(shard, chunk):
        together -= 1
    if room(memory, together) < max(shard, chunk):
        what = "a chunk of the source" if chunk > shard else "a shard of the target (chunks x shards)"
        needed = PROCESS_BYTES + 4 * PIECE_BYTES + COPIES * max(shard, chunk)
        raise InputError(
            f"{what} takes {max(shard, chunk) / 1e6:,.0f} MB: --memory must be at least {math.ceil(needed / 1e6)}MB, "
            f"not {memory / 1e6:,.0f}MB"
        )
    found = [
        plan(str(n), a.shape, a.dtype, stored[n], units[n], room(memory, together))
        for n, a in template.data_vars.items()
    ]
    return together, found


def room(memory: int, workers: int) -> int:
    """Bytes of a region when `workers` are to stay within `memory` together."""
    return max(0, int(((memory - PROCESS_BYTES) / workers - 4 * PIECE_BYTES) / COPIES))


def source_chunks(array: xr.DataArray) -> Sizes:
    """Chunks in which a variable is stored; of a file without chunks, single planes."""
    chunks = array.encoding.get("preferred_chunks") or {}
    planes = {d: 1 for d in array.dims[:-2]}
    return tuple(min(n, int(np.max(chunks.get(d, n if chunks else planes.get(d, n))))) for d, n in array.sizes.items())


def plan(name: str, shape: Sizes, dtype: np.dtype, stored: Sizes, unit: Sizes, nbytes: int) -> Plan:
    """Regions of at most `nbytes` that decode the `stored` chunks as seldom as possible."""
    count = nbytes // dtype.itemsize
    region = grown(unit, shape, stored, count)
    if times_decoded(shape, stored, region) <= TWO_PASSES:
        return Plan(name, shape, stored, unit, region)
    first = grown(stored, shape, unit, count)
    between = tuple(map(min, first, region))
    first = tuple(n if n == s else n // b * b for n, s, b in zip(first, shape, between, strict=True))
    return Plan(name, shape, stored, unit, region, Detour(first, between))


def grown(size: Sizes, shape: Sizes, wanted: Sizes, count: int) -> Sizes:
    """`size` repeated along each axis until it covers `wanted` or holds `count` numbers, neediest axis first."""
    found = list(size)
    for axis in sorted(range(len(size)), key=lambda a: wanted[a] / size[a], reverse=True):
        most = count // max(1, math.prod(found) // found[axis])
        repeats = max(1, min(-(-wanted[axis] // size[axis]), most // size[axis]))
        found[axis] = min(shape[axis], repeats * size[axis])
    return tuple(found)


def times_decoded(shape: Sizes, chunks: Sizes, region: Sizes) -> float:
    """How often a chunk is decoded, on average, when an array is read region by region."""
    times = 1.0
    for n, chunk, step in zip(shape, chunks, region, strict=True):
        touched = sum(-(-min(lo + step, n) // chunk) - lo // chunk for lo in range(0, n, step))
        times *= touched / max(1, -(-n // chunk))
    return times


def boxes(shape: Sizes, size: Sizes) -> list[Box]:
    """The bounds per axis of all pieces of at most `size` that an array falls into."""
    cuts = [[(lo, min(lo + step, n)) for lo in range(0, n, step)] for n, step in zip(shape, size, strict=True)]
    return list(itertools.product(*cuts))
