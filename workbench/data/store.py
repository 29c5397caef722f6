"""Open and check records: Zarr and NetCDF, local or remote.

`open_record` takes a recipe name, a Zarr store, a NetCDF file, a glob, or an fsspec address, and returns one lazy
xarray Dataset; `damaged_chunks` finds what does not decode. `workbench.data.writer` is the other direction.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from workbench.data.config import DataConfig
from workbench.errors import InputError
from workbench.resources import data_root, folder

NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".netcdf")


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
    """Whether `path` (local or remote) is a Zarr store rather than NetCDF."""
    if "://" in path:
        return not path.split("?")[0].endswith(NETCDF_SUFFIXES)
    return Path(path).is_dir()


def open_record(
    source: str, crop: Mapping[str, tuple[int, int]] | None = None, *, chunks: Mapping[str, int] | None = None
) -> xr.Dataset:
    """Open a record lazily as one Dataset on dask.

    Args:
        source: recipe name, path, glob or address: see `locate`.
        crop: index range ``[first, last)`` per dimension.
        chunks: dask chunks; by default those of the files.

    Returns:
        the Dataset; its ``encoding`` keeps the located path (``source``) and the `crop`.

    Raises:
        InputError: there is nothing, or what is there cannot be read.
    """
    path = locate(source)
    # A contiguous NetCDF variable has no chunks of its own: "auto" keeps dask from reading all of it at once.
    asked: Any = chunks or ({} if is_zarr(path) else "auto")
    try:
        if is_zarr(path):
            dataset = xr.open_zarr(path, chunks=asked, consolidated=_consolidated(path))
        elif any(c in path for c in "*?["):
            dataset = xr.open_mfdataset(sorted(glob.glob(path)), combine="by_coords", chunks=asked)
        elif "://" in path:
            import fsspec

            dataset = xr.open_dataset(fsspec.open(path).open(), engine="h5netcdf", chunks=asked)
        else:
            dataset = xr.open_dataset(path, chunks=asked)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise InputError(f"cannot open '{path}' as {'Zarr' if is_zarr(path) else 'NetCDF'}: {error}") from error
    dataset = apply_crop(dataset, crop or {})
    dataset.encoding["source"], dataset.encoding["crop"] = path, dict(crop or {})
    return dataset


def open_data(config: DataConfig) -> xr.Dataset:
    """The record of an experiment: opened, cropped, and with the units that the experiment declares.

    Raises:
        InputError: the file says other units than the experiment.
    """
    dataset = open_record(config.record, config.crop)
    for name, units in config.units.items():
        if name not in dataset.data_vars:
            raise InputError(f"data.units names '{name}', the record has {', '.join(map(str, dataset.data_vars))}")
        found = dataset[name].attrs.get("units", units)
        if found != units:
            raise InputError(f"variable '{name}' is in '{found}' in the file, data.units says '{units}'")
        dataset[name].attrs["units"] = units
    return dataset


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


def _consolidated(path: str) -> bool:
    """Whether a store holds all its metadata in one place: ``.zmetadata`` (v2), or a part of ``zarr.json`` (v3)."""
    import fsspec

    filesystem, inside = fsspec.core.url_to_fs(path)
    if filesystem.exists(f"{inside}/.zmetadata"):
        return True
    root = f"{inside}/zarr.json"
    return bool(filesystem.exists(root)) and b'"consolidated_metadata"' in filesystem.cat_file(root)


# ---------------------------------------------------------------------------------------------- integrity


def damaged_chunks(path: str, threads: int = 2) -> Iterator[str]:
    """Decode every chunk of a local Zarr store; yield ``variable, chunk (i, j): reason`` for each bad one.

    A chunk is bad when it cannot be decoded, fails its checksum, or is missing from a store that says
    (attribute ``workbench_complete``) that every chunk was written.
    """
    group = zarr.open_group(path, mode="r")
    complete = bool(group.attrs.get("workbench_complete", False))
    for name, array in sorted(group.arrays()):
        size = array.shards or array.chunks

        def fault(index: tuple[int, ...], name: str = name, array: Any = array, size: Any = size) -> str | None:
            region = tuple(slice(i * s, min((i + 1) * s, n)) for i, s, n in zip(index, size, array.shape, strict=True))
            where = f"variable '{name}', chunk {tuple(index)}"
            if complete and not (Path(path) / name / array.metadata.encode_chunk_key(index)).exists():
                return f"{where}: missing"
            try:
                array[region]
            except (ValueError, RuntimeError, OSError, TypeError) as error:
                return f"{where}: {error}"
            return None

        grid = [-(-n // s) for n, s in zip(array.shape, size, strict=True)]
        with ThreadPoolExecutor(threads) as pool:
            yield from (found for found in pool.map(fault, list(np.ndindex(*grid))) if found)


@contextmanager
def naming_bad_chunks(dataset: xr.Dataset) -> Iterator[None]:
    """Turn a decoding failure inside the block into an `InputError` that names variable and chunk."""
    path = str(dataset.encoding.get("source", ""))
    try:
        yield
    except InputError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        if path and Path(path).is_dir():
            bad = next(damaged_chunks(path), None)
            if bad:
                raise InputError(
                    f"damaged chunk in {path}: {bad}; restore the store from its source (workbench dataset verify "
                    f"{path} lists every bad chunk)"
                ) from error
        elif path and Path(path).is_file():
            raise InputError(f"cannot read {path}: {error}; the file is truncated or damaged") from error
        raise


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise unless `path` is free or may be replaced.

    Raises:
        InputError: `path` exists and `overwrite` is not set.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it (it stays until the new one is whole)")
