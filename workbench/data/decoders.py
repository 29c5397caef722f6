"""From the stored bytes of a chunk to its numbers: one function per codec, without a wrapper in between.

A decoder is called as ``decoder(data, out)``. With `out` it fills that array exactly or raises; with None it returns
what it decoded, for the next decoder. All of them release the GIL, except the checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
from isal import isal_zlib
from numcodecs import blosc, lz4, zstd

Decoder = Callable[[np.ndarray, "np.ndarray | None"], Any]

ISAL_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub calls it an instance
DECODING_ERRORS = (ValueError, RuntimeError, TypeError, EOFError, ISAL_ERROR, struct.error)
"""What decoders raise on damaged bytes."""


def check_crc32c(data: Any, out: np.ndarray | None) -> Any:
    """Compare the CRC-32C in the last four bytes with that of the bytes before, and take it off."""
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8)
    body = data[:-4]
    compare_crc32c(body, data[-4:])
    return body if out is None else _fill(out, body)


def compare_crc32c(body: Any, stored: Any) -> None:
    """Refuse a read-only `body` whose CRC-32C is not the little-endian number `stored`."""
    if google_crc32c.value(body) != _LITTLE_UINT32.unpack_from(stored, 0)[0]:
        raise ValueError("its CRC-32C does not match")


def read_only(data: np.ndarray) -> np.ndarray:
    """A view that cannot be written to: the library for checksums takes nothing else."""
    view = data.view()
    view.flags.writeable = False
    return view


def decoder(codec: Any) -> Decoder:
    """Decoder of a numcodecs codec that refuses data which would not fill `out` exactly."""
    if codec.codec_id in _WINDOW_BITS:
        return _inflater(_WINDOW_BITS[codec.codec_id])
    # Where a codec is one compiled function it is called without the wrapper, which costs 3 us a chunk.
    plain = codec.decode, len if codec.codec_id == "shuffle" else None
    function, declared = _COMPILED.get(codec.codec_id, plain)

    def decode(data: np.ndarray, out: np.ndarray | None) -> Any:
        if out is None:
            return function(data)
        size = declared(data) if declared else None
        if size is None:
            return _fill(out, function(data))
        if size != out.nbytes:
            raise ValueError(f"{size} bytes when decoded, expected {out.nbytes}")
        return function(data, out)

    return decode


def _inflater(window_bits: int) -> Decoder:
    """Decoder of a zlib or gzip stream: ISA-L takes 0.6 of the time of zlib."""
    expected = 2**14  # all chunks of a variable decode to one size: that of the last is what to make room for

    def decode(data: np.ndarray, out: np.ndarray | None) -> Any:
        nonlocal expected
        decoded = isal_zlib.decompress(data, window_bits, expected)
        expected = len(decoded) or expected
        return decoded if out is None else _fill(out, decoded)

    return decode


def _fill(out: np.ndarray, data: Any) -> np.ndarray:
    plain = np.frombuffer(data, np.uint8)
    if len(plain) != out.nbytes:
        raise ValueError(f"{len(plain)} bytes when decoded, expected {out.nbytes}")
    out.reshape(-1).view(np.uint8)[...] = plain
    return out


def _zstd_size(data: Any) -> int | None:
    """Decoded size that a Zstandard frame declares (RFC 8878, section 3.1.1.1), None where it does not."""
    head = bytes(data[:18])
    if len(head) < 6:
        raise ValueError("too short for Zstandard")
    descriptor = head[4]
    single = descriptor >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0) if width else None


def _blosc_size(data: Any) -> int:
    """Decoded size in the header of Blosc data."""
    if len(data) < 16:
        raise ValueError(f"only {len(data)} bytes")
    return _LITTLE_UINT32.unpack_from(data, 4)[0]


def _lz4_size(data: Any) -> int:
    """Decoded size in the header that numcodecs puts before an LZ4 block."""
    if len(data) < 4:
        raise ValueError(f"only {len(data)} bytes")
    return _LITTLE_UINT32.unpack_from(data, 0)[0]


_WINDOW_BITS = {"zlib": 15, "gzip": 31}

_LITTLE_UINT32 = struct.Struct("<I")

_COMPILED: dict[str, tuple[Callable[..., Any], Callable[[Any], int | None] | None]] = {
    "blosc": (blosc.decompress, _blosc_size),
    "lz4": (lz4.decompress, _lz4_size),
    "zstd": (zstd.decompress, _zstd_size),
}
