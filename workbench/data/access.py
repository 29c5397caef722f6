"""Which way each variable of a record is read: decided once, from what the record lies in.

From the fastest to the slowest: chunks straight from a Zarr store or a local HDF5 file; slabs through the netCDF4
library; slabs through xarray without dask; and, for a lazy expression that lies in no file, through dask.
"""

from __future__ import annotations

import functools
import glob
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from workbench.data.layouts import UnknownLayout, hdf5_chunks, zarr_chunks
from workbench.data.readers import merra2
from workbench.data.remote import Unreachable, connect
from workbench.data.remote_chunks import RemoteStore
from workbench.data.sources import Axes, ChunkSource, ConsecutiveFiles, SlabSource, Source, Unpacking
from workbench.data.spec import TIME
from workbench.data.store import LARGE_GRAPH, apply_crop, is_zarr, open_zarr
from workbench.errors import InputError

log = logging.getLogger(__name__)

Crop = Mapping[str, tuple[int, int]]


def open_sources(dataset: xr.Dataset, names: Sequence[str], crop: Crop) -> dict[str, Source]:
    """A source for each variable of a record.

    Args:
        dataset: as `workbench.data.store.open_record` returned it, or held in memory.
        names: variables to read.
        crop: the crop that the dataset was opened with.

    Raises:
        InputError: a variable is not there, or does not hold numbers, or the crop does not explain its size.
    """
    for name in names:
        if name not in dataset.data_vars:
            raise InputError(f"variable '{name}' is not in the record, which has {', '.join(map(str, dataset))}")
        if dataset[name].dtype.kind not in "iufb":
            raise InputError(
                f"variable '{name}' holds {dataset[name].dtype}: expected numbers (durations need a units attribute "
                "that xarray does not decode, such as 's' or 'h', or decode_timedelta=False)"
            )
    path = str(dataset.encoding.get("source", ""))
    store: str | RemoteStore = RemoteStore(path, dataset.encoding.get("remote_cache")) if "://" in path else path
    return {name: _open(dataset[name], path, crop, store) for name in names}


def reference(dataset: xr.Dataset, names: Sequence[str], crop: Crop) -> xr.Dataset:
    """What a direct read is compared with: the dataset itself, or its file without dask where dask would be slow."""
    path = str(dataset.encoding.get("source", ""))
    chunks = max((dataset[name].data.npartitions for name in names if dataset[name].chunks), default=0)
    if not path or any(c in path for c in "*?[") or chunks <= LARGE_GRAPH:
        return dataset
    return apply_crop(_open_plain(path)[list(names)], {d: c for d, c in crop.items() if d in dataset.dims})


def _open(array: xr.DataArray, path: str, crop: Crop, store: str | RemoteStore) -> Source:
    if not path or not array.chunks:
        return _from_dataset(array)
    if any(c in path for c in "*?["):
        return _from_files(array, path, crop)
    if merra2.is_folder(path):
        return merra2.folder_source(array, path, crop)
    try:
        if "_Unsigned" in array.encoding:
            raise UnknownLayout("attribute _Unsigned")
        if is_zarr(path):
            return _from_zarr(array, path, crop, store)
        if "://" in path:
            raise UnknownLayout("it is a NetCDF file that is not on a local disk")
        return _from_netcdf(array, path, crop)
    except UnknownLayout as reason:
        return _through_xarray(array, path, crop, str(reason))


def _from_zarr(array: xr.DataArray, path: str, crop: Crop, store: str | RemoteStore) -> Source:
    try:
        chunks = zarr_chunks(store, str(array.name))
    except Unreachable as error:
        raise InputError(f"the metadata of variable '{array.name}' cannot be fetched: {error}") from error
    return ChunkSource(chunks, _axes(array, path, crop, chunks.shape), Unpacking.of(array))


def _from_netcdf(array: xr.DataArray, path: str, crop: Crop) -> Source:
    name = str(array.name)
    axes = Axes.of(array, crop)
    try:
        chunks = hdf5_chunks(path, name, [a for a in (axes.trajectory, axes.time) if a is not None])
        return ChunkSource(chunks, _axes(array, path, crop, chunks.shape), Unpacking.of(array))
    except UnknownLayout as reason:
        log.info("'%s' of %s is read through the netCDF4 library: %s", name, path, reason)
    variable = _netcdf_variable(path, name)
    unpack = Unpacking.of(array)

    def fetch(key: tuple[Any, ...]) -> np.ndarray:
        with NETCDF4_PYTHON_LOCK:
            raw = np.asarray(variable[key])
        return raw if unpack is None else unpack(raw)

    chunking = variable.chunking()
    unit = axes.steps_in(chunking) if isinstance(chunking, list) else (1, 1)
    return SlabSource(fetch, _axes(array, path, crop, variable.shape), f"variable '{name}' of {path}", unit)


def _netcdf_variable(path: str, name: str) -> Any:
    """The variable as the netCDF4 library has it, without decoding."""
    import netCDF4

    with NETCDF4_PYTHON_LOCK:
        try:
            variable = netCDF4.Dataset(path).variables[name]
        except (OSError, KeyError) as error:
            raise UnknownLayout(f"the netCDF4 library cannot read it ({error})") from error
        variable.set_auto_maskandscale(False)
        return variable


def _through_xarray(array: xr.DataArray, path: str, crop: Crop, reason: str) -> Source:
    _note(f"'{array.name}' of {path} is read through xarray, which is slower: {reason}")
    stored = _open_plain(path)[array.name].variable
    axes = _axes(array, path, crop, stored.shape)
    chunks = array.encoding.get("preferred_chunks") or {}
    unit = axes.steps_in([int(chunks.get(str(d), 1)) for d in array.dims])
    return SlabSource(lambda key: np.asarray(stored[key].values), axes, f"variable '{array.name}' of {path}", unit)


def _open_plain(path: str) -> xr.Dataset:
    """Open a record without dask, and without keeping whole variables in memory."""
    if is_zarr(path):
        return open_zarr(path)
    if "://" in path:
        filesystem = connect(path)
        opened = filesystem.open(filesystem.root)
        return xr.open_dataset(opened, engine="h5netcdf", decode_timedelta=False, cache=False)
    return xr.open_dataset(path, decode_timedelta=False, cache=False)


def _from_dataset(array: xr.DataArray) -> Source:
    """From memory, or through dask where the variable is a lazy expression."""
    variable, axes = array.variable, Axes.of(array, {})
    if array.chunks:
        _note(f"'{array.name}' is a dask expression that lies in no file; every batch is computed, slowly")

    def fetch(key: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(variable[key].compute(scheduler="synchronous").values)

    unit = axes.steps_in([max(sizes) for sizes in array.chunks]) if array.chunks else (1, 1)
    return SlabSource(fetch, axes, f"variable '{array.name}'", unit)


def _from_files(array: xr.DataArray, pattern: str, crop: Crop) -> Source:
    """From NetCDF files that follow each other in time; any other combination is read through dask."""
    holders = []
    for path in sorted(glob.glob(pattern)):
        with xr.open_dataset(path, decode_timedelta=False, cache=False) as dataset:
            if array.name in dataset and TIME in dataset[str(array.name)].dims and TIME in dataset.coords:
                holders.append((dataset[TIME].values, path, dataset[str(array.name)]))
    holders.sort(key=lambda holder: holder[0][0])
    together = np.concatenate([time for time, *_ in holders]) if holders else np.empty(0)
    first, last = crop.get(TIME, (0, len(together)))
    if TIME not in array.coords or not np.array_equal(together[first:last], array[TIME].values):
        return _from_dataset(array)
    space = {dim: kept for dim, kept in crop.items() if dim != TIME}
    parts = []
    for _, path, whole in holders:
        kept = whole.isel({d: slice(*bounds) for d, bounds in space.items() if d in whole.dims})
        parts.append(_open(kept.chunk(), path, space, path))
    return ConsecutiveFiles(parts, [len(time) for time, *_ in holders], first)


@functools.cache
def _note(message: str) -> None:
    """Log a message the first time that it comes up."""
    log.warning(message)


def _axes(array: xr.DataArray, path: str, crop: Crop, stored: Sequence[int]) -> Axes:
    """The axes of `array`, once it is sure that `crop` leads from what is stored to what `array` holds."""
    axes = Axes.of(array, crop)
    for dim, first, size, there in zip(map(str, array.dims), axes.first, axes.size, stored, strict=True):
        expected = crop[dim][1] - first if dim in crop else there
        if size != expected or first + size > there:
            raise InputError(
                f"variable '{array.name}' has {size} points along '{dim}', its file {path} has {there}: expected the "
                f"record as it was opened, cropped by {dict(crop)}; write a changed record to a store of its own "
                "(workbench.data.writer.write_record)"
            )
    return axes
