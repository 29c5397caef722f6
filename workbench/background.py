"""One thread that does submitted work in order, so that writing overlaps computing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Background:
    """One thread that does submitted work in order; its error surfaces at the next submit or at the end."""

    def __init__(self, depth: int = 2) -> None:
        self._work: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rollout-writer", daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._work.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue work; waits while `depth` pieces are pending, so that memory stays bounded."""
        if self._error is not None:
            raise self._error
        self._work.put((function, arguments))

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            if self._error is None:
                try:
                    item[0](*item[1])
                except BaseException as error:  # noqa: BLE001  handed to the main thread
                    self._error = error
