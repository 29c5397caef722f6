"""Batches of windows as tensors: read ahead by threads, resumable after any batch, shared out over ranks.

Threads of this process do the work, because they win: decoders release the GIL, and nothing is pickled or copied
between processes. For windows of 4.6 MB two threads give 820 samples/s where two forked workers give 230; for windows
of 65 kB a batch costs so little Python that one thread is enough. And a fork after dask, zarr or fsspec have started
threads of their own hangs; without a fork there is nothing to hang.

A batch is valid for as long as anybody holds one of its tensors or a view of one: its buffer is used again only
after the last of them is gone. So training runs in a fixed set of buffers, and a list of all batches works, too.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch

from workbench.data.ahead import Batch, Buffers, ReadAhead, ReadNow
from workbench.data.climatology_reader import ClimatologyReader
from workbench.data.order import Progress, Shuffle, draw_timings, steps_per_epoch
from workbench.data.reader import Missing, WindowReader
from workbench.data.windows import Windows
from workbench.errors import DamagedChunk, InputError

log = logging.getLogger(__name__)


class WindowLoader:
    """Iterates over windows of a record in batches, one epoch per ``iter()``.

    A batch is a dict: role -> ``float32[b, t, c, *space]`` in physical units (static: ``float32[b, c, *space]``), and
    ``index`` -> ``int64[b]``, the numbers of the windows. Where samples draw their timing, ``input_delta`` and
    ``lead_time`` are ``float32[b]``, in hours. Where there is a climatology, ``climatology`` is that of the state at
    the times of the targets, ``float32[b, horizon, c, *space]``.

    Every ``iter()`` runs the next epoch, whether or not the one before was run to its end. After `load_state_dict` the
    next ``iter()`` goes on behind the last batch that was delivered before `state_dict`, with the same batches to
    the bit; on another number of ranks, or with another batch size, it shares out what is left of the epoch.

    Args:
        reader: of the record.
        windows: the samples.
        batch_size: samples per batch and rank.
        shuffle: ``block``, ``full`` or ``none``: see `workbench.data.order`.
        seed: of the order; the same on every rank.
        rank: number of this process.
        world_size: number of processes that share an epoch.
        prefetch: batches that are read ahead.
        missing: ``error`` refuses a NaN, ``mask`` passes it on.
        damaged: ``stop`` raises at a damaged chunk; ``skip`` puts a copy of another sample of the batch in the place of
            one that touches it (of the next good one of the epoch, where the whole batch does). So every rank runs the
            same number of batches, and which sample stands in for which depends on the order and the damage alone.
        pin: whether buffers lie in page-locked memory; by default if there is a GPU.
        climatology: reader of the climatology.

    Attributes:
        waited: seconds that the consumer stood waiting for batches.
        replaced: samples delivered in the place of damaged ones.
        damage: the damaged chunks that were met, as messages.

    Raises:
        InputError: there are fewer windows than ranks.
    """

    def __init__(
        self,
        reader: WindowReader,
        windows: Windows,
        *,
        batch_size: int,
        shuffle: Shuffle = "block",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 3,
        missing: Missing = "error",
        damaged: Literal["stop", "skip"] = "stop",
        pin: bool | None = None,
        climatology: ClimatologyReader | None = None,
    ) -> None:
        self.reader, self.windows, self.batch_size = reader, windows, batch_size
        self.rank, self.world_size, self.prefetch, self.missing = rank, world_size, prefetch, missing
        self.damaged, self.replaced, self.damage = damaged, 0, dict[str, None]()
        self._steps = steps_per_epoch(len(windows), batch_size, world_size)
        blocks = reader.block_plan(windows.span) if shuffle == "block" else None
        self._first = self._progress = Progress(0, shuffle, seed, blocks)
        self._pending = True  # the epoch of `_progress` has not begun, or is to go on where it was left
        largest = min(max(batch_size, 2), len(windows))
        shapes = {role: reader.buffer_shape(role, windows, largest) for role in reader.roles}
        self.climatology = climatology
        if climatology:
            shapes["climatology"] = climatology.buffer_shape(windows, largest)
        self._buffers = Buffers(shapes, torch.cuda.is_available() if pin is None else pin)
        self.waited = self._elapsed = 0.0

    def __len__(self) -> int:
        """Batches that each rank gets in a whole epoch."""
        return self._steps

    @property
    def epoch(self) -> int:
        """Number of the epoch that is running, or that comes first."""
        return self._progress.epoch

    @property
    def batches_done(self) -> int:
        """How many of the ``len(self)`` batches of the epoch are behind us, counted in batches of the present size."""
        _, edges = self._progress.left(self.windows, self.batch_size, self.rank, self.world_size)
        return self._steps - (len(edges) - 1)

    @property
    def fraction_waited(self) -> float:
        """Share of the time between the first and the last batch that the consumer stood waiting."""
        return self.waited / self._elapsed if self._elapsed else 0.0

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where a Lightning trainer looks for `set_epoch`."""
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter()`` run this epoch; one that was loaded from a checkpoint keeps its place."""
        if not (self._pending and epoch == self.epoch):
            self._progress, self._pending = self._epoch_number(epoch), True

    def _epoch_number(self, epoch: int) -> Progress:
        return Progress(epoch, self._first.shuffle, self._first.seed, self._first.blocks)

    def __iter__(self) -> Iterator[Batch]:
        """Run an epoch; reading starts with the first ``next()`` and stops when the iterator is dropped."""
        if not self._pending:
            self._progress, self._pending = self._epoch_number(self.epoch + 1), True
        order, edges = self._progress.left(self.windows, self.batch_size, self.rank, self.world_size)
        if len(edges) == 1:  # the checkpoint was written after the last batch of an epoch
            self._progress = self._epoch_number(self.epoch + 1)
            order, edges = self._progress.left(self.windows, self.batch_size, self.rank, self.world_size)
        keep = self._progress.shuffle != "full"  # in random order, what was just decoded is not needed soon
        windows = draw_timings(self.windows, self._progress.shuffle, self._progress.seed, self._progress.epoch)
        ahead = self._reading(lambda k: self._start(windows, order, edges[k], edges[k + 1], keep), len(edges) - 1)
        delivered = time.perf_counter()
        try:
            for k in range(len(edges) - 1):
                asked = time.perf_counter()
                batch = ahead.next()
                before, delivered = delivered, time.perf_counter()
                self.waited += delivered - asked
                self._elapsed += delivered - before
                self._progress, self._pending = self._progress.advanced(self.batch_size, self.world_size), False
                if self.damage:
                    self.replaced += int((batch["index"].numpy() != order[edges[k] : edges[k + 1]]).sum())
                yield batch
                del batch  # so that its buffer is free while we wait for the next
        finally:
            ahead.close()

    def _reading(self, start: Callable[[int], Callable[[], Batch]], count: int) -> ReadAhead | ReadNow:
        if not self.reader.threads:
            return ReadNow(start)
        return ReadAhead(start, count, self.prefetch, overlap=self.reader.overlap(self.windows, self.batch_size))

    def _start(self, windows: Windows, order: np.ndarray, lo: int, hi: int, keep: bool) -> Callable[[], Batch]:
        indices = order[lo:hi].copy()
        arrays = self._buffers.lend(len(indices))
        damage: DamagedChunk | None = None
        climate = self._start_climatology(windows, indices, arrays)
        try:
            wait = self.reader.start(windows, indices, arrays, missing=self.missing, keep=keep)
        except DamagedChunk as error:
            damage = error
        except BaseException:
            climate()
            raise

        def finish() -> Batch:
            replaced = False
            try:
                if damage is not None:
                    raise damage
                wait()
            except DamagedChunk:
                if self.damaged == "stop":
                    raise
                others = np.concatenate([order[hi:], order[:lo]])
                self._replace_damaged(windows, indices, others, arrays)
                replaced = True
            finally:
                climate()
            if replaced:
                self._start_climatology(windows, indices, arrays)()
            batch = {role: torch.from_numpy(array) for role, array in arrays.items()}
            return {**batch, **_timing(windows, indices), "index": torch.from_numpy(indices)}

        return finish

    def _start_climatology(
        self, windows: Windows, indices: np.ndarray, arrays: Mapping[str, np.ndarray]
    ) -> Callable[[], None]:
        if self.climatology is None:
            return lambda: None
        return self.climatology.start(windows, indices, arrays["climatology"])

    # ------------------------------------------------------------------------------------------ damage

    @cached_property
    def _alone(self) -> WindowReader:
        """A reader that no other read can fail: of two that share chunks in memory, damage to one stops both."""
        return self.reader.plain()

    def _replace_damaged(
        self, windows: Windows, indices: np.ndarray, others: np.ndarray, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Read a batch sample by sample, and put good samples, of the batch or else of `others`, for damaged ones."""
        good = [row for row in range(len(indices)) if self._is_good(windows, indices[row], row, arrays)]
        if not good:
            indices[0] = next((other for other in others if self._is_good(windows, other, 0, arrays)), -1)
            if indices[0] < 0:
                raise InputError(f"every sample is damaged: {next(iter(self.damage))}")
            good = [0]
        for k, row in enumerate(sorted(set(range(len(indices))) - set(good))):
            source = good[k % len(good)]
            indices[row] = indices[source]
            for array in arrays.values():
                array[row] = array[source]

    def _is_good(self, windows: Windows, window: int, row: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether one window could be read into a row."""
        rows = {role: array[row : row + 1] for role, array in arrays.items()}
        try:
            self._alone.read(windows, np.array([window]), rows, missing=self.missing)
        except DamagedChunk as error:
            if str(error) not in self.damage:
                self.damage[str(error)] = None
                log.warning("%s; data.damaged: skip replaces the samples that touch it", error)
            return False
        return True

    # ------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, counted in batches that were delivered: plain numbers, the same on every rank."""
        return {"windows": self._fingerprint(), "progress": self._progress.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            InputError: the state belongs to other windows, or fewer are left than there are ranks.
        """
        if state["windows"] != self._fingerprint():
            raise InputError(
                f"the checkpoint was written on {state['windows']}, the loader has {self._fingerprint()} (samples, "
                "states per sample, stride, checksums of their starts and timings): resume with the same record and "
                "data.split, history, horizon, stride, every, input_deltas, leads"
            )
        progress = Progress.from_dict(dict(state["progress"]))
        progress.left(self.windows, self.batch_size, self.rank, self.world_size)
        self._progress, self._pending = progress, True
        last = progress.legs[-1] if progress.legs else None
        if self.rank == 0 and last and (last.world_size, last.batch_size) != (self.world_size, self.batch_size):
            log.warning(
                "epoch %d goes on with %d ranks of batch size %d where it had %d of %d: every sample that is left "
                "comes once, in other batches",
                *(progress.epoch, self.world_size, self.batch_size, last.world_size, last.batch_size),
            )

    def _fingerprint(self) -> list[int]:
        w = self.windows
        drawn = [] if w.timings is None else [zlib.crc32(w.timings.offsets.tobytes())]
        starts = zlib.crc32(w.start.tobytes(), zlib.crc32(w.trajectory.tobytes()))
        return [len(w), w.length, w.stride, starts, *drawn]


def _timing(windows: Windows, indices: np.ndarray) -> Batch:
    """Input delta and lead time of some windows, where they are drawn."""
    if windows.timings is None or windows.drawn is None:
        return {}
    pair = windows.drawn[indices]
    times = {"input_delta": windows.timings.input_delta[pair], "lead_time": windows.timings.lead_time[pair]}
    return {name: torch.from_numpy(values) for name, values in times.items()}
