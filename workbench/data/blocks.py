"""One pass over a part of a record in blocks of states that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.statistics import first_missing
from workbench.data.store import naming_bad_chunks, stored_chunks
from workbench.data.windows import Part
from workbench.errors import InputError

BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Block:
    """Consecutive states of some trajectories.

    Attributes:
        values: variable -> ``float64[trajectory, time, *space]``; the trajectory axis is there even for one.
        time: ``int64[time]`` record time indices.
        trajectory: ``int64[trajectory]`` positions along the trajectory dimension.
        own: number of states that belong to this block; those after them are read ahead for lagged products.
    """

    values: dict[str, np.ndarray]
    time: np.ndarray
    trajectory: np.ndarray
    own: int


def blocks(
    record: xr.Dataset, names: Sequence[str], part: Part, *, ahead: int = 0, missing: str = "error"
) -> Iterator[Block]:
    """Every state of a part once, run by run, in blocks of about `BLOCK_BYTES`.

    Args:
        record: the whole record.
        names: variables with a time dimension.
        part: trajectories and uniform runs to visit.
        ahead: states that are read beyond each block, within its run.
        missing: ``error`` refuses non-finite values, ``mask`` passes them on as NaN.

    Raises:
        InputError: a value is not finite while `missing` is ``error``; a chunk is damaged.
    """
    chosen = record[list(names)]
    state_bytes = sum(8 * v.size // v.sizes[TIME] // v.sizes.get(TRAJECTORY, 1) for v in chosen.data_vars.values())
    group = int(np.clip(BLOCK_BYTES // (state_bytes * (1 + ahead)), 1, len(part.trajectories)))
    chunk = max(stored_chunks(v)[TIME] for v in chosen.data_vars.values())
    length = max(BLOCK_BYTES // (state_bytes * group) - ahead, ahead, 1)
    length = length // chunk * chunk or min(chunk, 4 * length)  # whole chunks, so that none is decoded twice
    for first in range(0, len(part.trajectories), group):
        members = np.asarray(part.trajectories[first : first + group], dtype=np.int64)
        for lo, hi in part.runs:
            for start in range(lo, hi, length):
                time = np.arange(start, min(start + length + ahead, hi))
                yield read_block(record, names, members, time, own=min(length, hi - start), missing=missing)


def read_block(
    record: xr.Dataset, names: Sequence[str], trajectory: np.ndarray, time: np.ndarray, *, own: int, missing: str
) -> Block:
    """Load the states of `record` at some trajectories and times.

    Raises:
        InputError: a value is not finite while `missing` is ``error``; a chunk is damaged.
    """
    chosen = record[list(names)].isel({TIME: as_slice(time)})
    if TRAJECTORY in record.dims:
        chosen = chosen.isel({TRAJECTORY: trajectory})
    with naming_bad_chunks(record):
        loaded = chosen.load(scheduler="threads")
    if missing == "error":
        _refuse_missing(loaded)
    return Block({name: _as_array(loaded[name]) for name in names}, time, trajectory, own)


def as_slice(time: np.ndarray) -> slice | np.ndarray:
    """Rising indices as a slice, where they have no gap."""
    contiguous = len(time) and time[-1] - time[0] + 1 == len(time)
    return slice(int(time[0]), int(time[-1]) + 1) if contiguous else time


def _as_array(array: xr.DataArray) -> np.ndarray:
    full = array if TRAJECTORY in array.dims else array.expand_dims(TRAJECTORY)
    return np.asarray(full.transpose(TRAJECTORY, TIME, ...).values, dtype=np.float64)


def _refuse_missing(loaded: xr.Dataset) -> None:
    for name, array in loaded.data_vars.items():
        if not np.isfinite(array.values).all():
            raise InputError(
                f"variable '{name}' has missing (NaN) values, {first_missing(array)}; set data.missing: mask to work "
                "around them"
            )
