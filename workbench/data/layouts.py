"""Where the chunks of an array lie, and how they are encoded: read off the metadata of Zarr and HDF5 once.

Known: Zarr v2 and v3 with any of blosc, zstd, lz4, gzip, zlib, shuffle, crc32c, and sharding; HDF5 (so NetCDF-4),
contiguous or chunked, with shuffle and deflate or zstd. Anything else raises `UnknownLayout`, and the caller reads
through a library instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numcodecs
import numpy as np

from workbench.data.chunks import LARGEST_CHUNK, ChunkedArray, Extents, FilePerChunk, Files, Shards
from workbench.data.decoders import Decoder, check_crc32c, decoder
from workbench.data.remote_chunks import RemoteChunks, RemoteStore

KNOWN_CODECS = ("blosc", "zstd", "lz4", "gzip", "zlib", "shuffle")
COMPLETE = "workbench_complete"
"""Root attribute of a store of which every chunk was written."""


class UnknownLayout(Exception):
    """This array cannot be read directly; the message says why."""


class Store(Protocol):
    """A Zarr store: its metadata, and access to its chunks."""

    def text(self, name: str) -> str | None:
        """A file of metadata; None if it is not there."""

    def chunks(self, name: str, template: str) -> Files:
        """The chunks of an array without shards, at keys made by `template`."""

    def shards(self, name: str, template: str, per_shard: tuple[int, ...], at_end: bool, checked: bool) -> Files:
        """The chunks of an array with shards, whose index is at the start or end, with or without a CRC-32C."""


class LocalStore:
    """A Zarr store in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def text(self, name: str) -> str | None:
        """A file of metadata; None if it is not there."""
        path = self._folder / name
        return path.read_text() if path.is_file() else None

    def chunks(self, name: str, template: str) -> FilePerChunk:
        """The chunks of an array without shards."""
        return FilePerChunk(str(self._folder / name), template)

    def shards(self, name: str, template: str, per_shard: tuple[int, ...], at_end: bool, checked: bool) -> Shards:
        """The chunks of an array with shards."""
        return Shards(str(self._folder / name), template, per_shard, at_end, checked)


def zarr_chunks(store: str | RemoteStore, name: str) -> ChunkedArray:
    """The chunks of array `name` in a Zarr store, v2 or v3, in a local folder or behind an address.

    Raises:
        UnknownLayout: a codec, data type or chunk grid that is not known here.
    """
    place = LocalStore(store) if isinstance(store, str) else store
    if (text := place.text(f"{name}/zarr.json")) is not None:
        return _zarr_v3(place, name, json.loads(text))
    if (text := place.text(f"{name}/.zarray")) is not None:
        return _zarr_v2(place, name, json.loads(text))
    raise UnknownLayout(f"no zarr.json or .zarray of '{name}' in {store}")


# ---------------------------------------------------------------------------------------------- Zarr v3


def _zarr_v3(store: Store, name: str, meta: dict[str, Any]) -> ChunkedArray:
    if meta["chunk_grid"]["name"] != "regular":
        raise UnknownLayout(f"chunk grid '{meta['chunk_grid']['name']}'")
    if meta.get("storage_transformers"):
        raise UnknownLayout("storage transformers")
    outer = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    template = _key_template(meta["chunk_key_encoding"], len(outer))
    codecs = meta["codecs"]
    files, inner = store.chunks(name, template), outer
    if codecs[0]["name"] == "sharding_indexed":
        if len(codecs) > 1:
            raise UnknownLayout("codecs around a shard")
        shard = codecs[0]["configuration"]
        inner, codecs = tuple(shard["chunk_shape"]), shard["codecs"]
        index_codecs = [c["name"] for c in shard["index_codecs"]]
        if index_codecs not in (["bytes"], ["bytes", "crc32c"]) or _endian(shard["index_codecs"][0]) != "<":
            raise UnknownLayout(f"shard index encoded by {index_codecs}")
        per_shard = tuple(o // i for o, i in zip(outer, inner, strict=True))
        at_end = shard.get("index_location", "end") == "end"
        files = store.shards(name, template, per_shard, at_end, "crc32c" in index_codecs)
    dtype = _dtype(meta["data_type"]).newbyteorder(_endian(codecs[0]))
    found = [_v3_decoder(c["name"], c.get("configuration") or {}) for c in reversed(codecs[1:])]
    fill = None if _complete(store, "zarr.json") else _fill_value(meta["fill_value"], dtype)
    return _array(name, meta["shape"], inner, dtype, fill, files, found, outer)


def _key_template(encoding: dict[str, Any], ndim: int) -> str:
    kind = encoding["name"]
    default = {"default": "/", "v2": "."}
    if kind not in default:
        raise UnknownLayout(f"chunk keys '{kind}'")
    separator = (encoding.get("configuration") or {}).get("separator", default[kind])
    numbers = ["%d"] * ndim
    return separator.join(["c", *numbers]) if kind == "default" else separator.join(numbers) or "0"


def _endian(codec: dict[str, Any]) -> Literal["<", ">"]:
    if codec["name"] != "bytes":
        raise UnknownLayout(f"codec '{codec['name']}'")
    return ">" if (codec.get("configuration") or {}).get("endian", "little") == "big" else "<"


def _v3_decoder(name: str, configuration: dict[str, Any]) -> Decoder:
    if name == "crc32c":
        return check_crc32c
    codec = name.removeprefix("numcodecs.")
    if codec not in KNOWN_CODECS:
        raise UnknownLayout(f"codec '{name}'")
    # Only shuffle needs its parameters to decode; the others carry theirs in the data.
    return decoder(numcodecs.get_codec({"id": codec, **(configuration if codec == "shuffle" else {})}))


# ---------------------------------------------------------------------------------------------- Zarr v2


def _zarr_v2(store: Store, name: str, meta: dict[str, Any]) -> ChunkedArray:
    chunks = tuple(meta["chunks"])
    if meta.get("order", "C") != "C" and len(chunks) > 1:
        raise UnknownLayout("order F")
    dtype = _dtype(meta["dtype"])
    found = []
    for codec in [meta.get("compressor"), *reversed(meta.get("filters") or [])]:
        if codec is not None:
            if codec["id"] not in KNOWN_CODECS:
                raise UnknownLayout(f"codec '{codec['id']}'")
            found.append(decoder(numcodecs.get_codec(codec)))
    separator = meta.get("dimension_separator", ".")
    files = store.chunks(name, separator.join(["%d"] * len(chunks)) or "0")
    fill = None if _complete(store, ".zattrs") else _fill_value(meta["fill_value"] or 0, dtype)
    return _array(name, meta["shape"], chunks, dtype, fill, files, found)


# ---------------------------------------------------------------------------------------------- HDF5

HDF5_DEFLATE, HDF5_SHUFFLE, HDF5_ZSTD = 1, 2, 32015


def hdf5_chunks(path: str, name: str, record_axes: Sequence[int]) -> ChunkedArray:
    """The chunks of dataset `name` in a local HDF5 (NetCDF-4) file.

    Args:
        path: of the file.
        name: of the dataset.
        record_axes: positions of trajectory and time; a contiguous dataset is taken as chunks of one step.

    Raises:
        UnknownLayout: a filter or storage that is not known here, or not an HDF5 file.
    """
    import h5py

    if not h5py.is_hdf5(path):
        raise UnknownLayout("not HDF5")
    with h5py.File(path, "r") as file:
        if name not in file:
            raise UnknownLayout(f"no dataset '{name}' in the HDF5 file")
        dataset = file[name]
        dtype = _dtype(dataset.dtype.str)
        fill = _fill_value(dataset.fillvalue, dtype)
        if dataset.chunks is None:
            chunks, offsets, sizes = _contiguous(dataset, record_axes)
            return _array(name, dataset.shape, chunks, dtype, fill, Extents(path, offsets, sizes), [])
        found = _hdf5_decoders(dataset)
        grid = tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        offsets, sizes = np.full(grid, -1, np.int64), np.zeros(grid, np.int64)

        def note(chunk: Any) -> None:
            if chunk.filter_mask:
                raise UnknownLayout("a chunk that skips a filter")
            at = tuple(o // c for o, c in zip(chunk.chunk_offset, dataset.chunks, strict=True))
            offsets[at], sizes[at] = chunk.byte_offset, chunk.size

        dataset.id.chunk_iter(note)
        return _array(name, dataset.shape, dataset.chunks, dtype, fill, Extents(path, offsets, sizes), found)


def _contiguous(dataset: Any, record_axes: Sequence[int]) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    start, leading = dataset.id.get_offset(), len(record_axes)
    if sorted(record_axes) != list(range(leading)):
        raise UnknownLayout("contiguous, and time is not its first axis")
    if start is None:
        raise UnknownLayout("compact, external or never written")
    chunks = (1,) * leading + tuple(dataset.shape[leading:])
    grid = tuple(dataset.shape[:leading]) + (1,) * (dataset.ndim - leading)
    nbytes = math.prod(chunks) * dataset.dtype.itemsize
    return chunks, (start + nbytes * np.arange(math.prod(grid))).reshape(grid), np.full(grid, nbytes)


def _hdf5_decoders(dataset: Any) -> list[Decoder]:
    properties = dataset.id.get_create_plist()
    found = []
    for number in reversed(range(properties.get_nfilters())):
        code = properties.get_filter(number)[0]
        if code == HDF5_DEFLATE:
            found.append(decoder(numcodecs.Zlib()))
        elif code == HDF5_ZSTD:
            found.append(decoder(numcodecs.Zstd()))
        elif code == HDF5_SHUFFLE:
            found.append(decoder(numcodecs.Shuffle(dataset.dtype.itemsize)))
        else:
            raise UnknownLayout(f"HDF5 filter {code}")
    return found


# ---------------------------------------------------------------------------------------------- shared


def _array(
    name: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: np.dtype,
    fill: Any,
    files: Files,
    decoders: list[Decoder],
    shards: tuple[int, ...] | None = None,
) -> ChunkedArray:
    if math.prod(chunks) * dtype.itemsize > LARGEST_CHUNK:
        raise UnknownLayout("chunks of more than 2 GiB")
    checked = decoders == [check_crc32c]
    steps = () if checked else tuple(decoders)
    remote = files if isinstance(files, RemoteChunks) else None
    return ChunkedArray(name, tuple(shape), tuple(chunks), dtype, fill, files, steps, checked, shards, remote)


def _complete(store: Store, attributes: str) -> bool:
    """Whether the root of a store says that every chunk was written."""
    text = store.text(attributes)
    if text is None:
        return False
    found = json.loads(text)
    return bool((found.get("attributes", {}) if attributes == "zarr.json" else found).get(COMPLETE, False))


def _dtype(name: Any) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise UnknownLayout(f"data type {name}") from error
    if dtype.kind not in "iufb":
        raise UnknownLayout(f"data type {name}")
    return dtype


def _fill_value(value: Any, dtype: np.dtype) -> Any:
    if isinstance(value, str) and value.startswith("0x"):
        return np.frombuffer(int(value, 16).to_bytes(dtype.itemsize, "little"), dtype.newbyteorder("<"))[0]
    return np.array(value, dtype)[()]
