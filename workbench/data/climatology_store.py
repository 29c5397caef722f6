"""Climatologies too large for memory, or made elsewhere: written as they are computed, opened and checked.

A store of climatology holds for every variable ``float32(dayofyear, hour, *field)``, one field a chunk (several days
where fields are small), and the mean square of its anomalies over the training states, area-weighted, as
``NAME_anomaly_variance ([level])``: the scale of the targets of a model that predicts anomalies.

Source of that scale: Schmude et al. (2024), Prithvi WxC, arXiv:2409.13598.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from workbench.data.climatology import Table, refuse_leak
from workbench.data.config import FIT, DataConfig
from workbench.data.grid import grid_weights
from workbench.data.slot_means import SlotMeans, field_dims, slot_means
from workbench.data.spec import ANOMALY_VARIANCE, LEVEL_NAMES, TIME, TRAJECTORY, RecordSpec
from workbench.data.statistics import kept_path, statistics_key
from workbench.data.store import open_record
from workbench.data.windows import Part
from workbench.data.writer import StoreWriter
from workbench.errors import InputError

CHUNK_BYTES = 16 * 2**10
"""Fields of fewer bytes are put together in one chunk."""
SHARD_BYTES = 64 * 2**20

Progress = Callable[[int, int], None]


def write_climatology(
    record: xr.Dataset,
    names: Sequence[str],
    part: Part,
    path: str | Path,
    *,
    missing: str = "error",
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Fit a climatology by dask and write it as it comes; killed at any moment, the same call goes on.

    Args:
        record: the whole record.
        names: variables with a time dimension.
        part: the training part, or some of its years.
        path: the new Zarr store.
        missing: ``error`` refuses non-finite values, ``mask`` leaves them out.
        overwrite: replace an existing store.
        progress: called with variables done and in all.

    Returns:
        `path`.

    Raises:
        InputError: the part is not the training part, the store exists, or values are missing.
    """
    table = Table.of(record, part)
    weights = grid_weights(RecordSpec.of(record, names).axes)
    template = xr.Dataset({n: a for name in names for n, a in _template(record[name], table).items()})
    template = template.assign_coords(table.coordinates(part)).assign_attrs(
        {"title": f"Climatology of {', '.join(names)}", **table.attributes(record, part)}
    )
    largest = max(4 * int(np.prod([record.sizes[d] for d in field_dims(record[n])])) for n in names)
    days = table.shape[0]
    chunk = int(np.clip(CHUNK_BYTES // largest, 1, days))
    shard = int(np.clip(SHARD_BYTES // (largest * chunk), 1, -(-days // chunk)))
    writer = StoreWriter(
        path,
        template,
        chunks={"dayofyear": chunk, "hour": 1},
        shards={"dayofyear": shard},
        identity={"climatology": statistics_key(record, names, part, 0, weights is not None)},
        overwrite=overwrite,
    )
    try:
        for number, name in enumerate(names):
            if name not in writer.done:
                means = slot_means(
                    record, name, part, table.slots, table.window, missing=missing, weights=weights, every=chunk * shard
                )
                _write_variable(writer, record[name], table, means)
            progress(number + 1, len(names))
        return writer.finish()
    finally:
        writer.close()


def _write_variable(writer: StoreWriter, array: xr.DataArray, table: Table, means: Iterator[SlotMeans]) -> None:
    """Write the climatology of one variable as it comes, then the variance of its anomalies."""
    name, squares, weights = str(array.name), np.zeros(()), np.zeros(())
    for found in means:
        region = {"dayofyear": found.days, "hour": found.hours}
        values = table.labelled(array, found.mean).values
        writer.write(f"{name} {found.days.start} {found.hours.start}", {name: values}, region)
        squares, weights = squares + found.anomalies[0], weights + found.anomalies[1]
    variance = np.divide(squares, weights, out=np.zeros_like(squares), where=weights > 0)
    levels = [array.sizes[d] for d in field_dims(array) if d in LEVEL_NAMES]
    writer.write(name, {name + ANOMALY_VARIANCE: variance.reshape(levels)}, {})


def _template(array: xr.DataArray, table: Table) -> dict[str, xr.DataArray]:
    """A variable of the climatology and the variance of its anomalies, without values."""
    name, dims = str(array.name), field_dims(array)
    shape = (*table.shape, *(array.sizes[d] for d in dims))
    empty = table.labelled(array, da.zeros(shape, dtype=np.float32, chunks=-1))
    levels = [d for d in dims if d in LEVEL_NAMES]
    attrs = {
        "units": f"({array.attrs.get('units', '1')})2",
        "long_name": f"mean square of the anomaly of {name}, area-weighted",
    }
    variance = xr.DataArray(
        da.zeros([array.sizes[d] for d in levels], dtype=np.float64, chunks=-1), dims=levels, attrs=attrs
    )
    return {name: empty, name + ANOMALY_VARIANCE: variance}


def climatology_path(record: xr.Dataset, config: DataConfig, train: Part) -> Path:
    """Where the climatology of an experiment's training split is kept: beside the record."""
    return kept_path(record, f"climatology-{statistics_key(record, config.state, train, 0, True)}.zarr")


def training_climatology(
    record: xr.Dataset, config: DataConfig, train: Part, progress: Progress = lambda done, total: None
) -> Path:
    """Where the climatology of the state on the training split is kept: beside the record; fitted if it is not there.

    Raises:
        InputError: values are missing while ``data.missing`` is ``error``.
    """
    path = climatology_path(record, config, train)
    if not path.exists():
        write_climatology(record, config.state, train, path, missing=config.missing, progress=progress)
    return path


def open_climatology(record: xr.Dataset, config: DataConfig, parts: Mapping[str, Part]) -> xr.Dataset:
    """The climatology that an experiment names, lazy, on the grid of its record.

    Args:
        record: of the experiment.
        config: its ``data:`` section, with a `climatology`.
        parts: train, validation and test.

    Raises:
        InputError: variables, units or grid are not those of the record, or it was fitted on states of validation or
            test and the experiment does not insist on it.
    """
    if config.climatology == FIT:
        return open_record(str(training_climatology(record, config, parts["train"])))
    path = str(config.climatology)
    found = matching_climatology(record, config.state, path, config.crop)
    if not config.leaky_climatology:
        for name in ("validation", "test"):
            try:
                refuse_leak(found, parts[name].select(record)[TIME], parts[name].trajectories)
            except InputError as error:
                raise InputError(f"{path}, {name} split: {error} (or set data.leaky_climatology: true)") from error
    return found


def matching_climatology(
    record: xr.Dataset, names: Sequence[str], path: str, crop: Mapping[str, tuple[int, int]] | None = None
) -> xr.Dataset:
    """A climatology from a store or folder, lazy, compared with a record.

    Args:
        record: whose variables and grid it must have.
        names: variables.
        path: of the climatology.
        crop: of the record; applied where the climatology covers more.

    Raises:
        InputError: variables, units or grid are not those of the record.
    """
    found = open_record(path)
    more = {d: c for d, c in (crop or {}).items() if d in found.dims and found.sizes[d] != record.sizes[d]}
    if more:
        found = open_record(path, more)
    missing = [n for n in names if n not in found or n + ANOMALY_VARIANCE not in found]
    if missing:
        raise InputError(
            f"{path} is no climatology of {', '.join(missing)}: expected variables of these names, and of these names "
            f"followed by {ANOMALY_VARIANCE}; make one with workbench dataset climatology"
        )
    steps = {"dayofyear": TRAJECTORY, "hour": TIME}
    there = found.rename({d: n for d, n in steps.items() if d in found.dims})
    wanted, has = (RecordSpec.of(dataset, names) for dataset in (record, there))
    if differences := wanted.differences(has, check_time=False):
        raise InputError(f"the climatology {path} does not fit the record: " + "; ".join(differences))
    return found
