"""A lock file that keeps other processes out; it ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def take_lock(path: Path) -> IO[str] | None:
    """The open lock file, held until it is closed; None if another process holds it.

    Remove the file before closing it, as `release` does.
    """
    while True:
        lock = open(path, "w")  # noqa: SIM115  held as long as the caller wants
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        if _is_file_of(lock, path):
            return lock
        lock.close()  # a holder that ended has removed it after we had opened it


def release(lock: IO[str]) -> None:
    """Let others take a lock, and leave no file behind."""
    Path(lock.name).unlink(missing_ok=True)
    lock.close()


def _is_file_of(opened: IO[str], path: Path) -> bool:
    """Whether `path` still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
