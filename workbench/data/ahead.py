"""Reading ahead: a thread that makes the next batches, and buffers that go round."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Buffers:
    """Batch buffers that are lent out, and lent out again once nothing refers to them any more.

    Fresh memory for every batch would cost a page fault per 4 kB: half of the reading time of windows of 4.6 MB.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], pin: bool) -> None:
        self._shapes, self._pin = shapes, pin
        self._lock = threading.Lock()
        self._loans: list[Loan] = []

    def __len__(self) -> int:
        return len(self._loans)

    def lend(self, count: int) -> dict[str, np.ndarray]:
        """Arrays for `count` samples, role by role."""
        with self._lock:
            loan = next((loan for loan in self._loans if loan.is_over()), None)
            if loan is None:
                loan = Loan(self._shapes, self._pin)
                self._loans.append(loan)
            return loan.begin(count)


class Loan:
    """One set of arrays, and weak references to what was made of them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], pin: bool) -> None:
        self._arrays = {role: torch.empty(shape, pin_memory=pin).numpy() for role, shape in shapes.items()}
        self._pin = pin
        self._copies: list[torch.cuda.Event] = []
        self._views: list[weakref.ref[np.ndarray]] = []

    def begin(self, count: int) -> dict[str, np.ndarray]:
        """Lend the first `count` samples of every array."""
        for copy in self._copies:
            copy.synchronize()
        self._copies = []
        views = {role: array[:count] for role, array in self._arrays.items()}
        self._views = [weakref.ref(view, self._dropped) for view in views.values()]
        return views

    def is_over(self) -> bool:
        """Whether nobody holds a tensor of these arrays."""
        return all(view() is None for view in self._views)

    def _dropped(self, _: weakref.ref[np.ndarray]) -> None:
        if self._pin:  # a copy to the GPU that was started before may still be reading
            self._copies.append(torch.cuda.Event())
            self._copies[-1].record()


class ReadAhead:
    """Makes results ``0 .. count - 1`` in a thread, at most `depth` ahead of the consumer.

    Args:
        start: ``start(k)`` begins to make result `k` and returns a function that waits for it.
        count: number of results.
        depth: results that may be ready.
        overlap: how many more are started before one is waited for, so that no reading thread idles at the end of
            a batch: with 1 instead of 0, windows of 4.6 MB come 1.1 times as fast.
    """

    def __init__(self, start: Callable[[int], Callable[[], Batch]], count: int, depth: int, overlap: int) -> None:
        self._start, self._count, self._depth, self._overlap = start, count, depth, overlap
        self._ready: deque[Batch] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="workbench-loader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        started: deque[Callable[[], Batch]] = deque()
        try:
            for number in range(self._count):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                    if self._closed:
                        break
                started.append(self._begin(number))
                if len(started) > self._overlap:
                    self._put(started.popleft()())
            while started and not self._closed:
                self._put(started.popleft()())
        except BaseException as error:  # whatever it is, the consumer must learn of it instead of waiting for ever
            with self._changed:
                self._error = error
                self._changed.notify_all()
        for finish in started:  # nothing may write into a buffer that is free for others
            with contextlib.suppress(BaseException):
                finish()

    def _begin(self, number: int) -> Callable[[], Batch]:
        """Start result `number`; an error waits until the results before it are out."""
        try:
            return self._start(number)
        except BaseException as error:
            return partial(_raise, error)

    def _put(self, batch: Batch) -> None:
        with self._changed:
            self._ready.append(batch)
            self._changed.notify_all()

    def next(self) -> Batch:
        """The next result, in order; an error comes in the place of the result that it prevented."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error)
            if not self._ready and self._error:
                raise self._error
            batch = self._ready.popleft()
            self._changed.notify_all()
            return batch

    def close(self) -> None:
        """Stop reading and drop what is ready."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()


class ReadNow:
    """Makes each result when it is asked for, in the thread of the consumer; see `ReadAhead`."""

    def __init__(self, start: Callable[[int], Callable[[], Batch]]) -> None:
        self._start, self._number = start, 0

    def next(self) -> Batch:
        """The next result."""
        self._number += 1
        return self._start(self._number - 1)()

    def close(self) -> None:
        """Nothing is under way."""


def _raise(error: BaseException) -> Batch:
    raise error
