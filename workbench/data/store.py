"""Open and check records: Zarr and NetCDF, local or remote.

`open_record` takes a recipe name, a Zarr store, a NetCDF file, a glob, an fsspec address, or a folder of published
MERRA-2 files, and returns one lazy xarray Dataset. `workbench.data.writer` is the other direction, and
`workbench.data.integrity` finds damage.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from workbench.data.config import DataConfig
from workbench.data.derived import with_derived
from workbench.data.integrity import damaged_chunks
from workbench.data.layouts import LocalStore
from workbench.data.readers import merra2
from workbench.data.remote import connect, zarr_store
from workbench.data.remote_cache import CacheLimit
from workbench.data.remote_chunks import RemoteStore
from workbench.errors import DamagedChunk, InputError
from workbench.resources import data_root, folder

NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".netcdf")

LARGE_GRAPH = 20_000
"""Chunks that dask gets to see of a variable: with 10^6, a graph takes 80 MB and a read of one of them four seconds."""


# ---------------------------------------------------------------------------------------------- reading


def locate(source: str) -> str:
    """The path or address behind `source`: itself, or the built store of a recipe ``name/preset``.

    Raises:
        InputError: nothing is there; a recipe that is not built names the command that builds it.
    """
    if "://" in source:
        return source
    if any(c in source for c in "*?["):
        if not glob.glob(source):
            raise InputError(f"no file matches '{source}' (looked in {Path.cwd()})")
        return source
    if Path(source).exists():
        return source
    recipe, _, preset = source.partition("/")
    if (folder("datasets") / recipe / "recipe.yaml").is_file():
        built = data_root() / recipe / f"{preset or 'tiny'}.zarr"
        if not built.exists():
            raise InputError(
                f"the record '{source}' is a recipe that has not been built yet (no {built}); "
                f"build it with: workbench dataset build {recipe}/{preset or 'tiny'}"
            )
        return str(built)
    known = sorted(p.parent.name for p in folder("datasets").glob("*/recipe.yaml"))
    raise InputError(
        f"no record at '{source}': expected a Zarr store, a NetCDF file or glob, an address (s3://, gs://, https://), "
        f"or a recipe ({', '.join(known)}); nothing is at {Path(source).resolve()}"
    )


def is_zarr(path: str) -> bool:
    """Whether `path` (local or remote) is a Zarr store rather than NetCDF or a folder of MERRA-2 files."""
    if "://" in path:
        return not path.split("?")[0].endswith(NETCDF_SUFFIXES)
    return Path(path).is_dir() and not merra2.is_folder(path)


def open_record(
    source: str,
    crop: Mapping[str, tuple[int, int]] | None = None,
    *,
    chunks: Mapping[str, int] | None = None,
    cache: CacheLimit | None = None,
) -> xr.Dataset:
    """Open a record lazily as one Dataset on dask.

    Args:
        source: recipe name, path, glob or address: see `locate`.
        crop: index range ``[first, last)`` per dimension.
        chunks: dask chunks; by default those of the files, of large stores several in one.
        cache: where chunks of a remote Zarr store are kept; nowhere by default.

    Returns:
        the Dataset; its ``encoding`` keeps the located path (``source``), the `crop` and the `cache`.

    Raises:
        InputError: there is nothing, or what is there cannot be read.
    """
    path = locate(source)
    # A contiguous NetCDF variable has no chunks of its own: "auto" keeps dask from reading all of it at once.
    asked: Any = chunks or "auto"
    try:
        if is_zarr(path):
            stored = open_zarr(path, cache)
            dataset = _on_dask(stored, chunks or {})
        elif Path(path).is_dir():
            dataset = _on_dask(merra2.open_folder(path), chunks or {})
        elif any(c in path for c in "*?["):
            dataset = xr.open_mfdataset(
                sorted(glob.glob(path)), combine="by_coords", chunks=asked, decode_timedelta=False
            )
        elif "://" in path:
            filesystem = connect(path)
            file = filesystem.open(filesystem.root)
            dataset = xr.open_dataset(file, engine="h5netcdf", chunks=asked, decode_timedelta=False)
        else:
            dataset = xr.open_dataset(path, chunks=asked, decode_timedelta=False)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise InputError(f"cannot open '{path}' as {'Zarr' if is_zarr(path) else 'NetCDF'}: {error}") from error
    dataset = apply_crop(_decode_durations(_plain_text(dataset)), crop or {})
    dataset.encoding["source"], dataset.encoding["crop"] = path, dict(crop or {})
    if cache:
        dataset.encoding["remote_cache"] = cache
    return dataset


def open_zarr(path: str, cache: CacheLimit | None = None) -> xr.Dataset:
    """A Zarr store as it is stored: without dask, without decoded durations, nothing in memory but coordinates."""
    if "://" not in path:
        consolidated = _consolidated(LocalStore(path))
        return xr.open_dataset(path, engine="zarr", consolidated=consolidated, decode_timedelta=False, cache=False)
    consolidated, store = _consolidated(RemoteStore(path, cache)), zarr_store(path, cache)
    dataset = xr.open_dataset(store, engine="zarr", consolidated=consolidated, decode_timedelta=False, cache=False)
    if not dataset.variables and not consolidated:
        raise InputError(
            f"no variable can be seen in {path}: a web server lists no folders; write the metadata of the store into "
            "one place where it lies (zarr.consolidate_metadata)"
        )
    dataset.encoding["source"] = path
    return dataset


def _on_dask(dataset: xr.Dataset, asked: Mapping[str, int]) -> xr.Dataset:
    """Each variable in the chunks of its store, or in multiples of them where there are more than `LARGE_GRAPH`."""
    on_dask = {}
    for name, variable in dataset.variables.items():
        if name not in dataset.xindexes:
            chunks = variable.encoding.get("preferred_chunks", {})
            stored = [int(np.max(chunks.get(d, n))) for d, n in variable.sizes.items()]
            sizes = _merged(stored, variable.shape)
            on_dask[name] = variable.chunk({d: asked.get(str(d), n) for d, n in zip(variable.dims, sizes, strict=True)})
    return dataset.assign(on_dask)


def stored_chunks(array: xr.DataArray) -> dict[str, int]:
    """Chunk length of each dimension as it lies on disk, of which a dask chunk may hold several; 1 in memory."""
    stored = array.encoding.get("preferred_chunks") or {}
    on_dask = {d: array.variable.chunksizes[d][0] if array.chunks else 1 for d in array.dims}
    return {str(d): min(int(np.max(stored.get(d, on_dask[d]))), max(1, array.sizes[d])) for d in array.dims}


def _merged(chunks: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Chunks of so many whole stored ones that there are at most `LARGE_GRAPH`."""
    merged = np.array(chunks, dtype=np.int64)
    while len(merged) and math.prod((counts := -(-np.array(shape) // merged)).tolist()) > LARGE_GRAPH:
        merged[np.argmax(counts)] *= 2
    return [int(n) for n in merged]


def _plain_text(dataset: xr.Dataset) -> xr.Dataset:
    """Text of variable length (``StringDType`` of Zarr) as Python strings, which NumPy can compare with other text."""
    for name in [n for n, v in dataset.variables.items() if v.dtype.kind == "T"]:
        dataset[name] = dataset[name].variable.astype(object)
    return dataset


def _decode_durations(dataset: xr.Dataset) -> xr.Dataset:
    """Durations become timedelta64 where they are coordinates (``lead_time``); fields stay numbers with their units.

    A field in hours (sunshine, age) is a quantity like any other. What xarray wrote from timedelta64 is known by an
    attribute ``dtype``.
    """
    durations = [n for n, v in dataset.variables.items() if str(v.attrs.get("dtype", "")).startswith("timedelta64")]
    for name in durations:
        if name in dataset.coords:
            decoded = xr.conventions.decode_cf_variable(name, dataset[name].variable, decode_timedelta=True)
            dataset = dataset.assign_coords({name: decoded})
        else:
            del dataset[name].attrs["dtype"]
    return dataset


def open_data(config: DataConfig) -> xr.Dataset:
    """The record of an experiment: opened, cropped, with the units that it declares and what it derives from the grid.

    Raises:
        InputError: the file says other units than the experiment.
    """
    cache = None
    if config.remote_cache is not None:
        cache = CacheLimit(config.remote_cache, int(config.remote_cache_gb * 1e9))
    dataset = open_record(config.record, config.crop, cache=cache)
    for name, units in config.units.items():
        if name not in dataset.data_vars:
            raise InputError(f"data.units names '{name}', the record has {', '.join(map(str, dataset.data_vars))}")
        found = dataset[name].attrs.get("units", units)
        if found != units:
            raise InputError(f"variable '{name}' is in '{found}' in the file, data.units says '{units}'")
        dataset[name].attrs["units"] = units
    return with_derived(dataset, config.variables())


def apply_crop(dataset: xr.Dataset, crop: Mapping[str, tuple[int, int]]) -> xr.Dataset:
    """Keep the index range ``[first, last)`` of each dimension named in `crop`.

    Raises:
        InputError: the dimension is missing or shorter than the range.
    """
    for dim, (first, last) in crop.items():
        if dim not in dataset.dims:
            raise InputError(f"data.crop names '{dim}', the record has {', '.join(map(str, dataset.dims))}")
        if not 0 <= first < last <= dataset.sizes[dim]:
            raise InputError(f"data.crop {dim}: [{first}, {last}] does not lie in 0 .. {dataset.sizes[dim]}")
    return dataset.isel({dim: slice(first, last) for dim, (first, last) in crop.items()})


def _consolidated(store: LocalStore | RemoteStore) -> bool:
    """Whether a store holds all its metadata in one place: ``.zmetadata`` (v2), or a part of ``zarr.json`` (v3)."""
    return '"consolidated_metadata"' in (store.text("zarr.json") or "") or store.text(".zmetadata") is not None


# ---------------------------------------------------------------------------------------------- integrity


@contextmanager
def naming_bad_chunks(dataset: xr.Dataset) -> Iterator[None]:
    """Turn a decoding failure inside the block into a `DamagedChunk` that names variable and chunk."""
    path = str(dataset.encoding.get("source", ""))
    try:
        yield
    except InputError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        if path and Path(path).is_dir() and is_zarr(path):
            bad = next(damaged_chunks(path), None)
            if bad:
                raise DamagedChunk(
                    f"damaged chunk in {path}: {bad}; restore the store from its source (workbench dataset verify "
                    f"{path} lists every bad chunk)"
                ) from error
        elif path and Path(path).is_file():
            raise DamagedChunk(f"cannot read {path}: {error}; the file is truncated or damaged") from error
        raise


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise unless `path` is free or may be replaced.

    Raises:
        InputError: `path` exists and `overwrite` is not set.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it (it stays until the new one is whole)")
