"""What the writers of a store note beside it while it is partial, and the locks that keep them apart.

One writer fills the whole store, or several fill shares of it at once. Each has a journal of the regions that it has
written, under a name of its own, and they read each other's. A journal counts only if its first line, the stamp, is
that of the reader: what another recipe, seed or checkpoint has left is of no use.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workbench.errors import InputError
from workbench.locks import release, take_lock
from workbench.share import Share

CREATING_SECONDS = 120.0
"""How long a share waits while another one looks at the store or creates it."""


class Journal:
    """The notes of one writer.

    Args:
        store: final place of the store, for messages.
        partial: where it is written.
        share: of the store that is written; None: the whole.

    Raises:
        InputError: another process writes the store, or the same share of it.
    """

    def __init__(self, store: Path, partial: Path, share: Share | None = None) -> None:
        self._store, self._partial, self._share = store, partial, share
        self._path = self.companion("journal")
        self._mutex = threading.Lock()
        self._lock: IO[str] | None = take_lock(self.companion("lock"))
        if self._lock is None:
            raise InputError(f"another process is writing {store}; wait for it to end")

    def companion(self, suffix: str) -> Path:
        """A file beside the partial store that belongs to this writer alone, and goes when the store is finished."""
        return self._beside(suffix, f".{self._share.label}" if self._share else "")

    def companions(self, suffix: str) -> list[Path]:
        """Those of all writers of the store, as far as they are there."""
        shares = glob.glob(f"{glob.escape(str(self._partial.with_suffix('')))}.*-of-*.{suffix}")
        return [path for path in (self._beside(suffix), *map(Path, sorted(shares))) if path.exists()]

    def _beside(self, suffix: str, share: str = "") -> Path:
        return self._partial.with_suffix(f"{share}.{suffix}")

    @contextmanager
    def whole_store(self) -> Iterator[None]:
        """Keep other writers from looking at the store, or creating it, while the block runs.

        Raises:
            InputError: others do not come to an end.
        """
        if self._share is None:
            self._refuse_running_shares()
            yield
            return
        deadline = time.monotonic() + CREATING_SECONDS
        while (lock := take_lock(self._beside("lock"))) is None:
            if time.monotonic() > deadline:
                raise InputError(f"another process is writing the whole of {self._store}; wait for it to end")
            time.sleep(0.1)
        try:
            yield
        finally:
            release(lock)

    def _refuse_running_shares(self) -> None:
        for path in self.companions("lock"):
            if path not in (self._beside("lock"), self.companion("lock")):
                lock = take_lock(path)
                if lock is None:
                    raise InputError(f"a job is still writing a share of {self._store} ({path.name}); wait for its end")
                release(lock)

    def resume(self, stamp: str) -> set[str] | None:
        """Regions that are written; None where there is no partial store that this writer could go on with.

        Raises:
            InputError: there is one of another stamp, that others still write.
        """
        if not self._partial.exists() or _noted(self._beside("journal"), stamp) is None:
            if self._partial.exists():
                self._refuse_running_shares()
            return None
        journals = {path: _noted(path, stamp) for path in self.companions("journal")}
        own = journals.get(self._path)
        if own is None:
            self._path.write_text(stamp + "\n")
        else:  # its last line may be cut off
            os.truncate(self._path, sum(len(line.encode()) + 1 for line in (stamp, *own)))
        return {line for lines in journals.values() for line in lines or ()}

    def begin(self, stamp: str) -> None:
        """Say that the partial store is there, and is of this stamp."""
        for path in {self._beside("journal"), self._path}:
            path.write_text(stamp + "\n")

    def note(self, *keys: str) -> None:
        """Note that the regions `keys` are written."""
        with self._mutex, open(self._path, "a") as journal:
            journal.write("".join(key + "\n" for key in keys))
            journal.flush()
            os.fsync(journal.fileno())

    def spend(self, seconds: float, count: float) -> None:
        """Keep how long `count` pieces of work took."""
        with open(self.companion("clock"), "a") as clock:
            clock.write(f"{seconds!r} {count!r}\n")

    def spent(self) -> tuple[float, float]:
        """Seconds, and pieces of work, of all writers."""
        pairs = [line.split() for path in self.companions("clock") for line in _whole_lines(path)]
        return sum(float(seconds) for seconds, _ in pairs), sum(float(count) for _, count in pairs)

    def remove(self) -> None:
        """Remove what all writers have noted."""
        for suffix in ("journal", "clock", "position.npz"):
            for path in self.companions(suffix):
                path.unlink()

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            release(self._lock)
            self._lock = None


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file, the last one left out if it is cut off."""
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def _noted(journal: Path, stamp: str) -> list[str] | None:
    """The regions in a journal; None if there is none, or none of this stamp."""
    lines = _whole_lines(journal) if journal.exists() else []
    return lines[1:] if lines and lines[0] == stamp else None
