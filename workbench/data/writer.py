"""Write records: region by region, atomic, resumable, with a checksum in every chunk.

`StoreWriter` fills a *partial* store, keeps a journal of finished regions, and renames the store when it is whole. A
store under its final name is therefore complete, and every chunk of it carries its own CRC-32C, which any Zarr reader
checks when it decodes. Beside it lies a manifest with the checksum of every file. Stopped at any moment, by a signal or
by a full disk, the writer goes on with what is missing.

Several jobs fill one store at once as *shares*: the first one creates it, each writes whole chunks of its own and notes
them in a journal of its own, and a writer of the whole store, which comes last, counts what all of them have noted.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from workbench.data.integrity import checksums, manifest_path, render_manifest
from workbench.data.journal import Journal
from workbench.data.spec import TRAJECTORY
from workbench.data.store import refuse_existing
from workbench.errors import InputError
from workbench.share import Share


def partial_path(path: Path) -> Path:
    """Where a store is written until it is complete: hidden, beside its final place."""
    return path.with_name(f".{path.name}.partial")


class StoreWriter:
    """Fills a Zarr v3 store region by region, and gives it its name only when every region is there.

    A writer that was killed continues: regions listed in the journal are kept, if the new run has the same
    `identity` (recipe, preset, seed, checkpoint …), and a partial store of another identity is removed.
    A second writer of the same store is refused while the first one lives; a share refuses only its like.

    Args:
        path: final place of the store.
        template: Dataset with the full shape, coordinates and attributes; data variables lazy (dask).
        chunks: chunk size per dimension, ``-1`` for the whole; dimensions not named are whole.
        shards: chunks per shard file and dimension.
        identity: what decides whether a partial store is ours to continue.
        overwrite: replace an existing store.
        compress: whether chunks are compressed.
        share: write as one of several jobs; `finish` is left to a writer without a share.

    Raises:
        InputError: the store exists, another process is writing it, or (from any method) the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        template: xr.Dataset,
        *,
        chunks: Mapping[str, int],
        shards: Mapping[str, int] | None = None,
        identity: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        compress: bool = True,
        share: Share | None = None,
    ) -> None:
        self.path = Path(path)
        refuse_existing(self.path, overwrite)
        self.partial = partial_path(self.path)
        self._share = share
        self._nbytes = template.nbytes
        stamp = json.dumps(identity or {}, sort_keys=True, default=str)
        with self.needing_room():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(self.path, self.partial, share)
        try:
            with self.needing_room(), self.journal.whole_store():
                done = self.journal.resume(stamp)
                if done is None or not (done or share):
                    self._create(template, dict(chunks), dict(shards or {}), compress)
                    self.journal.begin(stamp)
                elif not share:
                    for left in self.partial.rglob("*.partial"):  # chunks that were being written
                        left.unlink()
                self.done: set[str] = done or set()
        except BaseException:
            self.close()
            raise
        group = zarr.open_group(self.partial, mode="r+")
        self._arrays = {
            name: open_for_writing(self.partial, name) for name in map(str, template.data_vars) if name in group
        }
        self._dims = {str(name): tuple(map(str, array.dims)) for name, array in template.data_vars.items()}

    @contextmanager
    def needing_room(self) -> Iterator[None]:
        """Say what to do when the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            written = sum(p.stat().st_size for p in self.partial.rglob("*") if p.is_file())
            raise InputError(
                f"the disk is full: {self.path} takes at most {self._nbytes / 1e6:,.1f} MB (before compression), "
                f"{written / 1e6:,.1f} MB of it are written, {shutil.disk_usage(self.path.parent).free / 1e6:,.1f} MB "
                "are free; free some space and run the same command again: it goes on with what is missing"
            ) from error

    def _remove_partial(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        self.journal.remove()

    def _create(self, template: xr.Dataset, chunks: dict[str, int], shards: dict[str, int], compress: bool) -> None:
        self._remove_partial()
        encoding = {
            str(name): array_encoding(array, chunks, shards, compress) for name, array in template.data_vars.items()
        }
        template = template.drop_encoding()
        template = template.assign_coords({name: coordinate.compute() for name, coordinate in template.coords.items()})
        for name, coordinate in template.coords.items():
            if np.issubdtype(coordinate.dtype, np.datetime64):
                template[name].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
        # Chunks that hold the fill value are written too: a missing chunk always means damage.
        with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
            warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
            template.assign_attrs(workbench_complete=1).to_zarr(
                self.partial, mode="w", compute=False, zarr_format=3, consolidated=False, encoding=encoding
            )

    def write(self, key: str, values: Mapping[str, np.ndarray], region: Mapping[str, slice]) -> None:
        """Write one chunk-aligned region of every variable in `values`, then note `key` in the journal.

        Args:
            key: name of the region in the journal (one line).
            values: variable -> array of the region's shape.
            region: slice per dimension; dimensions not named are written whole.
        """
        with self.needing_room():
            for name, array in values.items():
                self._arrays[name][tuple(region.get(dim, slice(None)) for dim in self._dims[name])] = array
            self.note(key)

    def note(self, *keys: str) -> None:
        """Note in the journal that the regions `keys` are written, by this process or by another one."""
        self.journal.note(*keys)
        self.done.update(keys)

    def spend(self, seconds: float, count: float = 1.0) -> None:
        """Keep how long `count` pieces of work took; `journal.spent` sums over stops of the writer and all shares."""
        with self.needing_room():
            self.journal.spend(seconds, count)

    def finish(self, attrs: Mapping[str, Any] | None = None) -> Path:
        """Write the manifest, give the store its final name, and return that path; a share only lets go of it.

        Args:
            attrs: global attributes that are known only now (measured statistics, seconds taken).
        """
        if self._share:
            self.close()
            return self.path
        manifest = manifest_path(self.path)
        temporary = manifest.with_name(f".{manifest.name}.partial")
        with self.needing_room():
            if attrs:
                zarr.open_group(self.partial, mode="r+").attrs.update(dict(attrs))
            # With metadata in one place xr.open_zarr(path) opens the store without a word; readers of v3 ignore it.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
                warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
                zarr.consolidate_metadata(str(self.partial))
            temporary.write_text(render_manifest(checksums(self.partial)))
        retired = self.path.with_name(f".{self.path.name}.old")
        if self.path.exists():
            os.replace(self.path, retired)
        os.replace(temporary, manifest)  # first, so that no store stands under its name beside a wrong manifest
        os.replace(self.partial, self.path)
        shutil.rmtree(retired, ignore_errors=True)
        self._remove_partial()
        self.close()
        return self.path

    def discard(self) -> None:
        """Remove what has been written: the store was only a means."""
        self._remove_partial()
        self.close()

    def close(self) -> None:
        """Let go of the store; an unfinished one keeps its partial state and can be continued."""
        self.journal.close()


def open_for_writing(store: Path, name: str) -> zarr.Array:
    """An array of a partial store; chunks that hold nothing but the fill value are written too."""
    return zarr.open_array(store=str(store), path=name, mode="r+", config={"write_empty_chunks": True, "order": "C"})


def array_encoding(
    array: xr.DataArray, chunks: Mapping[str, int], shards: Mapping[str, int], compress: bool = True
) -> dict[str, Any]:
    """Zarr encoding of one variable: chunk and shard sizes, LZ4 with byte shuffle, CRC-32C in every chunk."""
    sizes = [
        array.sizes[d] if chunks.get(str(d), -1) == -1 else min(chunks[str(d)], array.sizes[d]) for d in array.dims
    ]
    codecs: list[Any] = [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")] if compress else []
    encoding: dict[str, Any] = {"chunks": tuple(sizes), "compressors": [*codecs, Crc32cCodec()]}
    if any(shards.get(str(d), 1) > 1 for d in array.dims):
        per_shard = [
            min(shards.get(str(d), 1), -(-array.sizes[d] // s)) for d, s in zip(array.dims, sizes, strict=True)
        ]
        encoding["shards"] = tuple(s * n for s, n in zip(sizes, per_shard, strict=True))
    return encoding


def lazy_like(dims: Mapping[str, int], chunk: Mapping[str, int] | None = None) -> Any:
    """A dask array of zeros of the given dims: a placeholder in a template, never computed."""
    import dask.array as da

    return da.zeros(tuple(dims.values()), dtype=np.float32, chunks=tuple((chunk or {}).get(d, -1) for d in dims))


def default_chunks(dataset: xr.Dataset) -> dict[str, int]:
    """One step per chunk: what random windows want."""
    return {str(d): 1 if d in (TRAJECTORY, "time") else -1 for d in dataset.dims}


def write_record(
    dataset: xr.Dataset,
    path: str | Path,
    *,
    chunks: Mapping[str, int] | None = None,
    shards: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a small in-memory (or lazily computed) Dataset as one whole store; see `StoreWriter`."""
    writer = StoreWriter(
        path, dataset.chunk(), chunks=chunks or default_chunks(dataset), shards=shards, overwrite=overwrite
    )
    try:
        writer.write("all", {str(n): np.asarray(v.values) for n, v in dataset.data_vars.items()}, {})
        return writer.finish()
    finally:
        writer.close()
