"""Chunks of remote records on local disk: many processes share one folder, and none depends on it.

Every entry is a file named by a hash of what it holds, with a CRC-32C at its end. It is written under a temporary name
and renamed, so it is whole or not there; it is checked before it is used. When the folder has grown to its limit, one
process at a time (a lock file says which) removes the entries that were used least recently.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from workbench.errors import InputError

log = logging.getLogger(__name__)

SHARE = 16
"""A process looks how full the folder is whenever it has written this fraction of the limit."""

KEEP = 0.7
"""Fraction of the limit that stays when entries are removed, so that four writers together do not exceed the limit."""

ABANDONED = 3600.0
"""Seconds after which a temporary file has lost its writer."""


@dataclass(frozen=True)
class CacheLimit:
    """Where chunks are kept, and how many bytes of them."""

    folder: str
    limit: int


class ChunkCache:
    """Keeps bytes by name.

    Args:
        place: folder and limit.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, place: CacheLimit) -> None:
        self._folder, self._limit = Path(place.folder).expanduser().resolve(), place.limit
        self._unseen = self._limit  # bytes since the last look: look before the first write
        self._lock = threading.Lock()
        self._writes = True
        try:
            (self._folder / "tmp").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.remote_cache: {place.folder} is no folder to write to ({error})") from error

    def path(self, name: str) -> Path:
        """The file of an entry."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self._folder / digest[:2] / digest[2:]

    def get(self, name: str) -> bytes | None:
        """The bytes of an entry; None if it is not there, or is damaged (then it is removed)."""
        path = self.path(name)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        body = stored[:-4]
        if len(stored) < 4 or google_crc32c.value(body) != int.from_bytes(stored[-4:], "little"):
            log.warning("%s is damaged and is fetched again", path)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: the file system's own record of this is too coarse, or off
        return body

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes, if there is room for them; a full or broken disk is no reason to stop."""
        size = len(data) + 4
        if not self._writes or size > self._limit // SHARE:
            return
        try:
            if self._makes_room(size):
                self._write(self.path(name), data)
        except OSError as error:
            if self._writes:
                self._writes = False
                log.warning("no more chunks are kept in %s: %s", self._folder, error)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._folder / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.write(google_crc32c.value(data).to_bytes(4, "little"))
            path.parent.mkdir(exist_ok=True)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _makes_room(self, size: int) -> bool:
        """Whether an entry may be written: not while another process is clearing, which may take a while."""
        with self._lock:
            if self._unseen + size > self._limit // SHARE:
                if not self._evict(size):
                    return False
                self._unseen = 0
            self._unseen += size
            return True

    def _evict(self, coming: int) -> bool:
        """Remove the oldest entries if the folder is full; False if another process is at it."""
        with open(self._folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            entries = sorted(self._entries())
            excess = sum(size for _, size, _ in entries) + coming - int(KEEP * self._limit)
            for _, size, path in entries:
                if excess <= 0:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                excess -= size
        return True

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        """When each entry was last used, its size, and its path; temporary files that nobody writes any more go."""
        for folder in os.scandir(self._folder):
            for file in os.scandir(folder) if folder.is_dir() else ():
                try:
                    found = file.stat()
                    if folder.name == "tmp" and found.st_mtime < time.time() - ABANDONED:
                        os.unlink(file)
                        continue
                except FileNotFoundError:
                    continue
                if folder.name != "tmp":
                    yield found.st_mtime, found.st_size, file.path
