"""Chunks of arrays, from bytes to numbers without a library in between.

A `ChunkedArray` (made by `workbench.data.layouts`) knows where each chunk lies and which decoders turn its bytes into
numbers. `ChunkedArray.load` costs a system call and the decoder: 0.01 ms for a chunk of 33 kB, where zarr-python
takes 0.4 to 0.9 ms of its own per chunk.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from workbench.data.decoders import DECODING_ERRORS, Decoder, compare_crc32c, read_only
from workbench.data.remote import Unreachable
from workbench.errors import DamagedChunk, InputError, unreadable

OPEN_FILES = 256
"""Shards whose file and index stay open."""

LARGEST_CHUNK = 2**31 - 2**16
"""One read system call returns at most about 2 GiB."""

ABSENT = 2**64 - 1
"""Offset and length in a shard index of a chunk that was never written."""

READ_ERRORS: tuple[type[Exception], ...] = (OSError, *DECODING_ERRORS)

READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC

FETCHES = 3
"""Times that a remote chunk is fetched before it counts as damaged: bits flip on the way, too."""

Index = tuple[int, ...]


class Scratch:
    """Buffers of one thread, reused from chunk to chunk."""

    def __init__(self) -> None:
        self._encoded = self._read_only = np.empty(0, np.uint8)
        self._decoded = np.empty(0, np.uint8)
        self.tail = np.empty(8, np.uint8)
        self.fetched: object = None  # a chunk that had to be fetched again, held until it is read

    def encoded(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """At least `size` bytes for a chunk as it is stored, and a read-only view of them."""
        if len(self._encoded) < size:
            self._encoded = np.empty(size + size // 8, np.uint8)
            self._read_only = read_only(self._encoded)
        return self._encoded, self._read_only

    def decoded(self, shape: Index, dtype: np.dtype) -> np.ndarray:
        """An array for a decoded chunk."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._decoded) < size:
            self._decoded = np.empty(size, np.uint8)
        return self._decoded[:size].view(dtype).reshape(shape)


class Files(Protocol):
    """Where the bytes of chunks lie."""

    def read(self, index: Index, buffers: list[Any]) -> int:
        """Fill `buffers` with the stored bytes of a chunk; their number, or -1 for a chunk that is not there."""

    def path(self, index: Index) -> str:
        """The file that holds a chunk."""

    def size(self, index: Index) -> int:
        """Stored bytes of a chunk."""


class RemoteFiles(Files, Protocol):
    """Where the bytes of chunks lie, if it takes long to get them."""

    def fetch(self, index: Index, afresh: bool = False) -> object:
        """Begin to fetch a chunk; `read` finds it as long as somebody holds the result.

        Args:
            index: of the chunk.
            afresh: fetch it even if it was fetched before, because it is damaged.
        """


@dataclass(frozen=True)
class ChunkedArray:
    """An array in chunks.

    Attributes:
        name: of the variable, for messages.
        shape, chunks: in the order in which the axes are stored.
        dtype: as stored.
        fill: value of a chunk that was never written; None where every chunk must be there.
        files: where the bytes lie.
        decoders: applied to the stored bytes, one after the other; the last one writes the numbers.
        checked: whether the stored bytes end in a CRC-32C that is the only thing to decode.
        shards: numbers per axis in one file, where a file holds several chunks.
        remote: `files`, if they are not on a local disk.
    """

    name: str
    shape: Index
    chunks: Index
    dtype: np.dtype
    fill: Any
    files: Files
    decoders: tuple[Decoder, ...] = ()
    checked: bool = False
    shards: Index | None = None
    remote: RemoteFiles | None = None

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one decoded chunk."""
        return math.prod(self.chunks) * self.dtype.itemsize

    def load(self, index: Index, out: np.ndarray, scratch: Scratch) -> None:
        """Decode one chunk.

        Args:
            index: of the chunk.
            out: C-contiguous array of `nbytes` bytes; filled whole.
            scratch: of the calling thread.

        Raises:
            DamagedChunk: the chunk is damaged, or missing where every chunk must be there.
            InputError: the chunk cannot be fetched.
        """
        try:
            found = self._read(index, out, scratch)
        except Unreachable as error:
            raise InputError(f"variable '{self.name}', chunk {index} cannot be fetched: {error}") from error
        except READ_ERRORS as error:
            raise unreadable(error)(
                f"variable '{self.name}', chunk {index} is damaged ({error}): {self.files.path(index)}"
                f"{f', fetched {FETCHES} times' if self.remote else ''}; restore it from its source "
                "(workbench dataset verify lists every bad chunk)"
            ) from error
        if not found:
            if self.fill is None:
                raise DamagedChunk(
                    f"variable '{self.name}', chunk {index} is missing from a store that was complete: no "
                    f"{self.files.path(index)}; restore it from its source or build the store again"
                )
            out.reshape(-1).view(self.dtype)[...] = self.fill

    def _read(self, index: Index, out: np.ndarray, scratch: Scratch) -> bool:
        """Whether the chunk is there. A remote one that is damaged is fetched again: bits flip on the way, too."""
        once = self._decode if self.decoders else self._copy
        if self.remote:
            for _ in range(FETCHES - 1):
                try:
                    return once(index, out, scratch)
                except Unreachable:
                    raise
                except DECODING_ERRORS:
                    scratch.fetched = self.remote.fetch(index, afresh=True)
        return once(index, out, scratch)

    def _copy(self, index: Index, out: np.ndarray, scratch: Scratch) -> bool:
        count = self.files.read(index, [out, scratch.tail])
        if count < 0:
            return False
        expected = self.nbytes + (4 if self.checked else 0)
        if count != expected:
            raise ValueError(f"{count} bytes, expected {expected}")
        if self.checked:
            compare_crc32c(read_only(out.reshape(-1).view(np.uint8)), scratch.tail)
        return True

    def _decode(self, index: Index, out: np.ndarray, scratch: Scratch) -> bool:
        buffer, read_only = scratch.encoded(self.nbytes + 4096)
        count = self.files.read(index, [buffer])
        if count == len(buffer):  # then there may be more of it
            buffer, read_only = scratch.encoded(self.files.size(index) + 1)
            count = self.files.read(index, [buffer])
        if count < 0:
            return False
        data: Any = read_only[:count]
        for decoder in self.decoders[:-1]:
            data = decoder(data, None)
        self.decoders[-1](data, out)
        return True


# ---------------------------------------------------------------------------------------------- where bytes lie


class OpenFile:
    """A file descriptor that is closed when the last user lets go of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, READ_FLAGS)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.fd).st_size

    def read(self, buffers: list[Any], offset: int, length: int) -> int:
        """Fill `buffers` with at most `length` bytes from `offset`."""
        first: Any = buffers[0].reshape(-1).view(np.uint8)
        if len(first) >= length:
            return os.preadv(self.fd, [first[:length]], offset)
        return os.preadv(self.fd, [first, buffers[1][: length - len(first)]], offset)


class FilePerChunk:
    """Zarr without shards: one file a chunk."""

    def __init__(self, folder: str, template: str) -> None:
        self._template = os.path.join(folder.replace("%", "%%"), template)

    def path(self, index: Index) -> str:
        """The file that holds a chunk."""
        return self._template % index

    def size(self, index: Index) -> int:
        """Stored bytes of a chunk."""
        return os.path.getsize(self.path(index))

    def read(self, index: Index, buffers: list[Any]) -> int:
        """Fill `buffers` with the bytes of a chunk file."""
        try:
            fd = os.open(self._template % index, READ_FLAGS)
        except FileNotFoundError:
            return -1
        try:
            return os.preadv(fd, buffers, 0)
        finally:
            os.close(fd)


def parse_shard_index(stored: np.ndarray, per_shard: Index, checked: bool) -> np.ndarray:
    """Offset and length of every chunk in a shard, ``uint64[*per_shard, 2]``.

    Raises:
        ValueError: it does not match its checksum.
    """
    length = 16 * math.prod(per_shard)
    if checked:
        compare_crc32c(read_only(stored[:length]), stored[length:])
    return stored[:length].view("<u8").reshape(*per_shard, 2)


class Shards:
    """Zarr with shards: many chunks in one file, with an index of offsets and lengths at its start or end."""

    def __init__(self, folder: str, template: str, per_shard: Index, at_end: bool, checked: bool) -> None:
        self._outer = FilePerChunk(folder, template)
        self._per_shard = per_shard
        self._at_end = at_end
        self._checked = checked
        self._open = lru_cache(OPEN_FILES)(self._open_shard)

    def _open_shard(self, shard: Index) -> tuple[OpenFile, np.ndarray] | None:
        try:
            file = OpenFile(self._outer.path(shard))
        except FileNotFoundError:
            return None
        stored = np.empty(16 * math.prod(self._per_shard) + (4 if self._checked else 0), np.uint8)
        total = file.size()
        count = file.read([stored], max(0, total - len(stored)) if self._at_end else 0, len(stored))
        if count != len(stored):
            raise ValueError(f"the file of {total} bytes is too short for its index")
        index = parse_shard_index(stored, self._per_shard, self._checked)
        written = index[index[..., 0] != ABSENT].astype(object)
        if any(offset + size > total for offset, size in written):
            raise ValueError(f"the shard index points beyond the {total} bytes of the file")
        return file, index

    def _find(self, index: Index) -> tuple[OpenFile, int, int] | None:
        opened = self._open(tuple(i // n for i, n in zip(index, self._per_shard, strict=True)))
        if opened is None:
            return None
        file, table = opened
        offset, length = table[tuple(i % n for i, n in zip(index, self._per_shard, strict=True))].tolist()
        return None if offset == ABSENT else (file, offset, length)

    def path(self, index: Index) -> str:
        """The file that holds a chunk."""
        return self._outer.path(tuple(i // n for i, n in zip(index, self._per_shard, strict=True)))

    def size(self, index: Index) -> int:
        """Stored bytes of a chunk."""
        found = self._find(index)
        return found[2] if found else 0

    def read(self, index: Index, buffers: list[Any]) -> int:
        """Fill `buffers` with the bytes of a chunk inside its shard."""
        found = self._find(index)
        return -1 if found is None else found[0].read(buffers, found[1], found[2])


@lru_cache(OPEN_FILES)
def _kept_open(path: str, modified: int) -> OpenFile:
    """A file that several tables share; `modified` tells it from one that was at the same place before."""
    return OpenFile(path)


class Extents:
    """One file with a table of where each chunk lies in it: HDF5.

    Of many such tables only `OPEN_FILES` files stay open.
    """

    def __init__(self, path: str, offsets: np.ndarray, sizes: np.ndarray) -> None:
        self._path, self._modified = path, os.stat(path).st_mtime_ns
        self._offsets, self._sizes = offsets, sizes

    def path(self, index: Index) -> str:
        """The file that holds a chunk."""
        return self._path

    def size(self, index: Index) -> int:
        """Stored bytes of a chunk."""
        return int(self._sizes[index])

    def read(self, index: Index, buffers: list[Any]) -> int:
        """Fill `buffers` with the bytes of a chunk."""
        offset = int(self._offsets[index])
        if offset < 0:
            return -1
        return _kept_open(self._path, self._modified).read(buffers, offset, int(self._sizes[index]))
