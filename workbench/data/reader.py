"""Windows of a record into buffers: the chunks that a batch needs are read once, by threads, with no copy to spare.

`WindowReader.read` takes the windows of a batch and works backwards: which steps are in them, which of those are in
memory already, which chunks hold the others. Each of these chunks is decoded once, by one of a few threads,
straight into the batch where its layout allows it. Chunks that other batches will want as well (all chunks of a record
that fits into memory; the resident blocks of a block shuffle) are decoded into a `StepCache` and copied from there.

There is no dask, no xarray object and no Python object per sample on this path.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from workbench.data.access import Crop, open_sources, reference
from workbench.data.channels import Channels
from workbench.data.chunks import Scratch
from workbench.data.order import BlockPlan, even_edges, plan_blocks
from workbench.data.remote import REQUESTS
from workbench.data.resident import StepCache
from workbench.data.sources import Job
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.windows import Windows
from workbench.errors import DamagedChunk, InputError

Missing = Literal["error", "mask"]

MOST_BEGUN = 16
"""Batches of a remote record that may be begun at once; each has a buffer."""


@dataclass
class _Part:
    """One role of a read that is under way.

    Attributes:
        channels: of the role.
        trajectory, time, steps: ``int64[n]``, of each row of the buffer.
        buffer: ``float32[n, channels * space]``.
        unchecked: whether missing values have to be looked for.
        incomplete: ``bool[n]``, the rows in which a NaN was seen; None if nobody looked.
        cache: where the steps are copied from; None where they are decoded into the buffer.
        slots: ``int64[n]``, where in the cache.
        loading: slots that the read fills.
        ticket: of the read, for the cache.
    """

    channels: Channels
    trajectory: np.ndarray
    time: np.ndarray
    steps: np.ndarray
    buffer: np.ndarray
    unchecked: bool = False
    incomplete: np.ndarray | None = None
    cache: StepCache | None = None
    slots: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    loading: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ticket: int = 0

    def copies(self, pieces: int) -> list[Job]:
        """Jobs that copy the steps from the cache, where that is where they are."""
        if self.cache is None:
            return []
        data, slots, buffer = self.cache.data, self.slots, self.buffer
        self.incomplete = self.cache.incomplete[slots]

        def copy(_: Scratch, lo: int, hi: int) -> None:
            np.take(data, slots[lo:hi], axis=0, out=buffer[lo:hi], mode="clip")

        edges = even_edges(len(slots), pieces).tolist()
        return [(copy, lo, hi) for lo, hi in zip(edges[:-1], edges[1:], strict=True) if hi > lo]


class WindowReader:
    """Reads windows of a record as float32, in physical units.

    The channels of a role are its variables in order, the levels of each variable fastest.

    Args:
        dataset: a record as `workbench.data.store.open_record` returned it (on dask, from files), or in memory.
        roles: role (``state``, ``forcing``, ``static``, ``diagnostic``) -> variable names, in channel order.
        crop: the crop that the record was opened with.
        threads: reading threads; 0 reads in the calling thread.
        cache_bytes: memory for decoded steps.

    Attributes:
        plain: makes another reader of the same record, without threads and memory of its own.

    Raises:
        InputError: a variable is missing, holds no numbers, lies on another grid than the others of its role, or
            was changed after the record was opened.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        roles: Mapping[str, Sequence[str]],
        *,
        crop: Crop | None = None,
        threads: int = 2,
        cache_bytes: int = 2**30,
    ) -> None:
        self.dataset, self.threads, crop = dataset, threads, crop or {}
        self.plain = partial(WindowReader, dataset, roles, crop=crop, threads=0, cache_bytes=0)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._running: list[Future[None]] = []
        offset = (crop.get(TRAJECTORY, (0, 0))[0], crop.get(TIME, (0, 0))[0])
        self._channels = {
            role: Channels(dataset, role, open_sources(dataset, names, crop), offset)
            for role, names in roles.items()
            if names
        }
        self._verify(crop)
        self._caches = self._share_out(cache_bytes)

    @property
    def threaded(self) -> bool:
        """Whether chunks are large enough for several threads, and for reading one batch while another ends."""
        return self.threads > 0 and not any(c.small for c in self._channels.values())

    def overlap(self, windows: Windows, batch_size: int) -> int:
        """Batches to begin before one is waited for: of a remote record so many that `REQUESTS` are under way."""
        if not self.threaded:
            return 0
        steps = {role: windows.length if channels.steps[1] > 1 else 1 for role, channels in self._channels.items()}
        requests = sum(channels.requests * steps[role] for role, channels in self._channels.items()) * batch_size
        return min(MOST_BEGUN, max(1, -(-REQUESTS // requests))) if requests else 1

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have variables."""
        return tuple(self._channels)

    def shape(self, role: str) -> tuple[int, ...]:
        """``(channels, *space)`` of a role."""
        return self._channels[role].shape

    def buffer_shape(self, role: str, windows: Windows, count: int) -> tuple[int, ...]:
        """``(count, length, channels, *space)``, for the static role ``(count, channels, *space)``."""
        return (count, *(() if role == "static" else (windows.length,)), *self.shape(role))

    def block_plan(self, span: int) -> BlockPlan:
        """The block shuffle that suits the chunks and the memory of this reader, for windows of `span` steps."""
        timed = [role for role in self._channels if role != "static"]
        channels = [self._channels[role] for role in timed]
        return plan_blocks(
            max(c.unit[1] for c in channels),
            span,
            min(self._caches[role].dependable if role in self._caches else 0 for role in timed),
            shard_steps=max(c.shard for c in channels),
            chunk_trajectories=max(c.unit[0] for c in channels),
            offset=channels[0].offset,
        )

    def read(
        self,
        windows: Windows,
        indices: np.ndarray,
        out: Mapping[str, np.ndarray],
        *,
        missing: Missing = "mask",
        keep: bool = False,
    ) -> None:
        """Read some windows.

        Args:
            windows: the samples of a part of the record.
            indices: ``int[b]``, which of them to read.
            out: role -> C-contiguous ``float32[b, length, channels, *space]`` to fill (static:
                ``float32[b, channels, *space]``).
            missing: ``error`` refuses a NaN, ``mask`` passes it on.
            keep: whether other reads will soon want the same chunks; a record that fits into memory is kept anyhow.

        Raises:
            InputError: a chunk is damaged or missing, a value is missing while `missing` is ``error``, or a buffer
                does not fit.
        """
        self.start(windows, indices, out, missing=missing, keep=keep)()

    def start(
        self,
        windows: Windows,
        indices: np.ndarray,
        out: Mapping[str, np.ndarray],
        *,
        missing: Missing = "mask",
        keep: bool = False,
    ) -> Callable[[], None]:
        """Begin a `read`, so that the reading threads have work while the read before comes to its end.

        Returns:
            a function that waits until the buffers are full, and must be called; it raises what `read` raises.
        """
        indices = np.asarray(indices)
        trajectory = windows.trajectory[indices]
        time = windows.times(indices)
        each = np.repeat(trajectory, windows.length)
        for role in self._channels:
            self._check_buffer(role, out, self.buffer_shape(role, windows, len(indices)))
        jobs: list[Job] = []
        parts: list[_Part] = []
        with self._lock:
            for role, channels in self._channels.items():
                r, t = (trajectory, 0 * trajectory) if role == "static" else (each, time.ravel())
                part = _Part(channels, r, t, channels.number(r, t), out[role].reshape(len(r), -1))
                part.unchecked = missing == "error" and not channels.complete[part.steps].all()
                jobs += self._from_memory(part, keep)
                if part.cache is None:
                    if part.unchecked and not channels.small:
                        part.incomplete = np.zeros(len(r), bool)
                    jobs += channels.jobs(part.buffer, r, t, np.arange(len(r)), part.incomplete)
                parts.append(part)
            try:
                running = self._submit(jobs)
            except BaseException:
                self._end(parts, failed=True)
                raise
            before = list(self._running)  # what these are loading, we may want to copy
            self._running += running

        def finish() -> None:
            error = _wait([*before, *running])
            if error is None:
                pieces = self.threads if self.threaded else 1
                error = _wait(self._submit([job for part in parts for job in part.copies(pieces)]))
            with self._lock:
                self._running = [future for future in self._running if future not in running]
                self._end(parts, failed=error is not None)
            if error is not None:
                raise error
            for part in parts:
                if part.unchecked:
                    self._refuse_missing(part)

        return finish

    def _from_memory(self, part: _Part, keep: bool) -> list[Job]:
        """Let a part be copied from memory, if that is worth it: the jobs that bring there what is not there yet."""
        channels, cache = part.channels, self._caches.get(part.channels.role)
        if cache is None or not (cache.whole or keep):
            return []
        ticket = 0 if cache.whole else cache.want(channels.chunk_of(part.steps))
        jobs: list[Job] = []
        part.slots = cache.slots(part.steps)
        if (part.slots < 0).any():
            load = cache.absent(channels.steps_in(np.unique(channels.chunk_of(part.steps[part.slots < 0]))))
            room = cache.make_room(len(load))
            if room is None:
                cache.done(ticket)
                return []
            jobs = channels.jobs(cache.data, *np.divmod(load, channels.steps[1]), room, cache.incomplete)
            cache.put(load, channels.chunk_of(load), room)
            part.slots, part.loading = cache.slots(part.steps), room
        part.cache, part.ticket = cache, ticket
        return jobs

    def _end(self, parts: list[_Part], failed: bool) -> None:
        """Let go of the memory that a read has used, and of what it failed to load."""
        for part in parts:
            if part.cache is not None:
                part.cache.done(part.ticket)
                if failed:
                    part.cache.forget(part.loading)

    # ------------------------------------------------------------------------------------------ threads

    def _submit(self, jobs: list[Job]) -> list[Future[None]]:
        """Hand jobs to the reading threads."""
        if not self.threads or (not self.threaded and threading.current_thread() is not threading.main_thread()):
            self._work(iter(jobs))  # a hand-over would double the time of a chunk of 33 kB
            return []
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = os.getpid(), ThreadPoolExecutor(self.threads, thread_name_prefix="workbench-read")
            self._running = []
        shared = iter(jobs)
        workers = min(self.threads if self.threaded else 1, len(jobs))
        return [self._pool[1].submit(self._work, shared) for _ in range(workers)]

    def _work(self, jobs: Iterator[Job]) -> None:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch()
        try:
            for job in jobs:
                job[0](self._local.scratch, *job[1:])
        except BaseException:
            for _ in jobs:  # so that the other threads stop, too
                pass
            raise

    # ------------------------------------------------------------------------------------------ checks

    def _share_out(self, cache_bytes: int) -> dict[str, StepCache]:
        """Memory per role: whole roles while they fit, smallest first; then as many steps of each of the others."""
        caches = {}
        order = sorted(self._channels.values(), key=lambda c: math.prod(c.steps))
        for i, channels in enumerate(order):
            steps = math.prod(channels.steps)
            slots = min(steps, cache_bytes // sum(c.nbytes for c in order[i:]))
            if slots >= min(steps, math.prod(channels.unit)):
                caches[channels.role] = StepCache(steps, slots, channels.nbytes // 4, math.prod(channels.chunks))
                cache_bytes -= slots * channels.nbytes
        return caches

    def _check_buffer(self, role: str, out: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> None:
        if role not in out:
            raise InputError(f"no buffer for role '{role}': expected {', '.join(self.roles)}, found {', '.join(out)}")
        found = out[role]
        if found.shape != shape or found.dtype != np.float32 or not found.flags.c_contiguous:
            raise InputError(
                f"buffer of role '{role}' is {found.dtype}{list(found.shape)}: "
                f"expected C-contiguous float32{list(shape)}"
            )

    def _refuse_missing(self, part: _Part) -> None:
        incomplete = part.incomplete
        if incomplete is None:
            # One pass with one result, and NaN wins: 4 times as fast as isnan().any().
            nan = np.isnan(part.buffer.max())
            incomplete = np.isnan(part.buffer.max(axis=1)) if nan else np.zeros(1, bool)
        if not incomplete.any():
            part.channels.complete[part.steps] = True  # once is enough: the check takes a tenth of the time
            return
        row = int(np.argmax(incomplete))
        name, place = part.channels.locate(int(np.argmax(np.isnan(part.buffer[row]))))
        array = self.dataset[name]
        where = {TRAJECTORY: int(part.trajectory[row]), TIME: int(part.time[row]), **place}
        labels = {d: array[d].values[i] if d in array.coords else i for d, i in where.items() if d in array.dims}
        raise InputError(
            f"variable '{name}' has a missing value (NaN) at "
            f"{', '.join(f'{d} {str(label)[:19]}' for d, label in labels.items())}; set data.missing: mask to work "
            "around missing values, or data.crop or data.split to leave them out"
        )

    def _verify(self, crop: Crop) -> None:
        """Read the first and the last step directly and through xarray, and compare every number.

        Raises:
            InputError: they differ.
        """
        for channels in self._channels.values():
            trusted = reference(self.dataset, channels.variables, crop)[list(channels.variables)]
            for at in {(0, 0), (channels.steps[0] - 1, channels.steps[1] - 1)}:
                found = np.empty((1, *channels.shape), np.float32)
                r, t = (np.array([i]) for i in at)
                try:
                    error = _wait(self._submit(channels.jobs(found.reshape(1, -1), r, t, np.zeros(1, np.int64))))
                    if error is not None:
                        raise error
                except DamagedChunk:
                    continue  # whoever wants this step will say so
                step = trusted.isel(dict(zip((TRAJECTORY, TIME), at, strict=True)), missing_dims="ignore")
                expected = channels.stack(step.compute(scheduler="synchronous"))
                if not np.array_equal(found[0], expected, equal_nan=True):
                    raise InputError(
                        f"{', '.join(channels.variables)} in {self.dataset.encoding.get('source')} differ from the "
                        f"dataset at (trajectory, time) {at}: it was changed after it was opened; write the changed "
                        "record to a store of its own (workbench.data.writer.write_record), or load it (ds.load())"
                    )


def _wait(running: list[Future[None]]) -> BaseException | None:
    """Wait until all have ended; the first error."""
    errors = [error for future in running if (error := future.exception())]
    return errors[0] if errors else None
