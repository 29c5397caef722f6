"""Whether a store is what was written: its manifest covers every byte, the checksums in its chunks what is read.

The manifest lies beside a finished store (``NAME.zarr.manifest.json``). It lists size and CRC-32C of every file,
metadata and shard indices included, and holds a CRC-32C of itself. A CRC-32C finds every single changed byte, and every
burst of up to 32 bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

from workbench.errors import InputError

PIECE = 2**24
"""Bytes of a file that are in memory at a time."""


def manifest_path(store: Path) -> Path:
    """Where the manifest of a store lies."""
    return store.with_name(f"{store.name}.manifest.json")


def checksums(store: Path, threads: int = 4) -> dict[str, list[int]]:
    """Relative path -> ``[bytes, CRC-32C]`` of every file of a store."""
    files = sorted(p for p in store.rglob("*") if p.is_file())
    with ThreadPoolExecutor(threads) as pool:
        sums = pool.map(_checksum, files)
        return {file.relative_to(store).as_posix(): found for file, found in zip(files, sums, strict=True)}


def _checksum(file: Path) -> list[int]:
    size = crc = 0
    with open(file, "rb") as opened:
        while piece := opened.read(PIECE):
            size, crc = size + len(piece), google_crc32c.extend(crc, piece)
    return [size, crc]


def render_manifest(files: Any) -> str:
    """The text of a manifest: one line of JSON, and only one way to write it."""
    return json.dumps({"files": files, "crc32c": google_crc32c.value(json.dumps(files).encode())}) + "\n"


def read_manifest(store: Path) -> dict[str, list[int]]:
    """Relative path -> ``[bytes, CRC-32C]``, as they were when the store was finished.

    Raises:
        InputError: there is no manifest, or it is not as it was written.
    """
    path = manifest_path(store)
    try:
        text = path.read_bytes()
        files = json.loads(text)["files"]
        whole = text == render_manifest(files).encode()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: missing; it lies beside a finished store and has to be copied with it (without it, only the "
            "chunks can be checked)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error})") from error
    if not whole:
        raise InputError(f"{path}: damaged (it does not match its own checksum)")
    return dict(files)


def faults(path: str, threads: int = 2) -> Iterator[str]:
    """Everything that is wrong with a local Zarr store, a line each.

    A finished store of Workbench is compared with its manifest, file by file. Of any other store, and where the
    manifest is missing or damaged, every chunk is decoded, which checks what has a checksum in it.
    """
    store = Path(path)
    written_here = manifest_path(store).exists() or b"workbench_complete" in _content(store / "zarr.json")
    if written_here:
        try:
            yield from _changed_files(store, read_manifest(store), threads)
            return
        except InputError as error:
            yield str(error)
    yield from damaged_chunks(path, threads)


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _changed_files(store: Path, written: dict[str, list[int]], threads: int) -> Iterator[str]:
    found = checksums(store, threads)
    for file in sorted(written.keys() | found.keys()):
        if file not in found:
            yield f"{_describe(store, file)}: missing"
        elif file not in written:
            yield f"{store / file}: surplus (not part of the store when it was finished)"
        elif found[file][0] != written[file][0]:
            yield f"{_describe(store, file)}: {found[file][0]} bytes, {written[file][0]} were written"
        elif found[file] != written[file]:
            yield f"{_describe(store, file)}: its CRC-32C does not match"


def _describe(store: Path, file: str) -> str:
    """The path of a file, and which chunk or whose metadata it is."""
    chunk = re.fullmatch(r"(.+)/c((?:/\d+)+)", file)
    if not chunk:
        return str(store / file)
    index = tuple(map(int, chunk[2].split("/")[1:]))
    return f"variable '{chunk[1]}', chunk {index}: {store / file}"


def damaged_chunks(path: str, threads: int = 2) -> Iterator[str]:
    """Decode every chunk of a local Zarr store; yield ``variable, chunk (i, j): reason`` for each bad one.

    A chunk is bad when it cannot be decoded, fails its checksum, or is missing from a store that says
    (attribute ``workbench_complete``) that every chunk was written. A store that cannot be opened is one fault.
    """
    try:
        group = zarr.open_group(path, mode="r")
        complete = bool(group.attrs.get("workbench_complete", False))
        arrays = sorted(group.arrays())
    except (ValueError, KeyError, TypeError, OSError, zarr.errors.BaseZarrError) as error:
        yield f"{path}: its metadata cannot be read ({error})"
        return
    for name, array in arrays:
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
            yield from (found for found in pool.map(fault, np.ndindex(*grid)) if found)
