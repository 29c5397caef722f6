"""What becomes of freed memory: kept for the next training step, or handed back at once by what promises a limit."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30
RETURNED_BYTES = 2**20


def keep_freed_memory() -> bool:
    """Tell glibc not to hand freed buffers of up to 1 GiB back to the kernel; does nothing elsewhere.

    By default every activation above 32 MB at most is mapped, zeroed page by page and unmapped in each step. Keeping
    them takes 24 % off the CPU time of a training step of an FNO at 64 x 64, batch 16 (0.201 to 0.154 s).

    Returns:
        whether the allocator was told.
    """
    return _tell({M_TRIM_THRESHOLD: KEPT_BYTES, M_MMAP_THRESHOLD: KEPT_BYTES})


def return_freed_memory() -> bool:
    """Tell glibc to hand freed buffers above 1 MiB back to the kernel at once; does nothing elsewhere.

    By default the bound rises to 32 MB with use, and every thread keeps buffers of its own: copying a record in regions
    of 20 MB then takes 377 MB at its peak, with this 224 MB.

    Returns:
        whether the allocator was told.
    """
    return _tell({M_MMAP_THRESHOLD: RETURNED_BYTES})


def _tell(options: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return all(libc.mallopt(option, value) for option, value in options.items())
    except (OSError, AttributeError):  # another C library than glibc
        return False
