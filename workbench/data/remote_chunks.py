"""Chunks of a remote Zarr store: fetched ahead of the threads that decode them, each once.

When the jobs of a batch are planned, the fetch of every chunk begins; the thread that comes to decode a chunk waits for
it. So the number of requests in flight is a matter of how many batches are begun, not of how many threads decode.
Requests are coroutines of one event loop: 0.25 ms of processor time each, where a pool of threads takes 0.4 ms.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from workbench.data.chunks import ABSENT, Index, parse_shard_index
from workbench.data.remote import RemoteFileSystem, connect
from workbench.data.remote_cache import CacheLimit

SHARD_TABLES = 1024
"""Shards whose index stays in memory."""


class RemoteStore:
    """A Zarr store behind an address, as `workbench.data.layouts` reads it."""

    def __init__(self, address: str, cache: CacheLimit | None = None) -> None:
        self.address, self.cache = address, cache
        self._texts: dict[str, str | None] = {}

    def text(self, name: str) -> str | None:
        """A file of metadata; None if it is not there."""
        if name not in self._texts:
            filesystem = connect(self.address, self.cache)
            try:
                self._texts[name] = filesystem.cat_file(f"{filesystem.root}/{name}").decode()
            except FileNotFoundError:
                self._texts[name] = None
        return self._texts[name]

    def chunks(self, name: str, template: str) -> RemoteChunks:
        """The chunks of an array without shards."""
        return RemoteChunks(self, name, template)

    def shards(self, name: str, template: str, per_shard: Index, at_end: bool, checked: bool) -> RemoteChunks:
        """The chunks of an array with shards."""
        return RemoteShards(self, name, template, per_shard, at_end, checked)


class Fetch:
    """The bytes of one chunk, on their way; given up when nobody waits for them any more."""

    def __init__(self, future: Future[bytes | None]) -> None:
        self.future = future

    def __del__(self) -> None:
        self.future.cancel()

    @property
    def failed(self) -> bool:
        """Whether it is of no use to anybody who comes later."""
        return self.future.done() and (self.future.cancelled() or self.future.exception() is not None)


class RemoteChunks:
    """Zarr without shards: one object a chunk."""

    def __init__(self, store: RemoteStore, name: str, template: str) -> None:
        self._store, self._template = store, f"{name.replace('%', '%%')}/{template}"
        self._lock = threading.Lock()
        self._running: WeakValueDictionary[Index, Fetch] = WeakValueDictionary()
        self._process = os.getpid()

    def path(self, index: Index) -> str:
        """The address of the object that holds a chunk."""
        return f"{self._store.address.rstrip('/')}/{self._template % self._object(index)}"

    def size(self, index: Index) -> int:
        """Stored bytes of a chunk."""
        return len(self._wait(index) or b"")

    def read(self, index: Index, buffers: list[Any]) -> int:
        """Fill `buffers` with the bytes of a chunk."""
        data = self._wait(index)
        if data is None:
            return -1
        whole, done = np.frombuffer(data, np.uint8), 0
        for buffer in buffers:
            part = whole[done : done + buffer.nbytes]
            buffer.reshape(-1).view(np.uint8)[: len(part)] = part
            done += len(part)
        return done

    def _wait(self, index: Index) -> bytes | None:
        with self._lock:
            found = self._running.get(index) if self._process == os.getpid() else None
        found = found or self.fetch(index)  # held until the bytes are here, or it would be given up
        return found.future.result()

    def fetch(self, index: Index, afresh: bool = False) -> Fetch:
        """Begin to fetch a chunk, if that is not under way; whoever wants the bytes must hold on to the result.

        Args:
            index: of the chunk.
            afresh: forget what was fetched before, here and in the cache on disk: it is damaged.
        """
        filesystem = connect(self._store.address, self._store.cache)
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._restart()
            found = self._running.get(index)
            if found is None or found.failed or afresh:
                task = self._bytes(filesystem, index, afresh)
                found = Fetch(asyncio.run_coroutine_threadsafe(task, filesystem.loop))
                self._running[index] = found
        return found

    def _restart(self) -> None:
        """Forget what the parent process had under way."""
        self._running = WeakValueDictionary()

    def _object(self, index: Index) -> Index:
        """Index of the object that holds a chunk."""
        return index

    async def _bytes(self, filesystem: RemoteFileSystem, index: Index, afresh: bool) -> bytes | None:
        cat = filesystem.cat_afresh if afresh else filesystem._cat_file
        try:
            return await cat(f"{filesystem.root}/{self._template % index}")
        except FileNotFoundError:
            return None


class RemoteShards(RemoteChunks):
    """Zarr with shards: ranges of objects, each with an index of offsets and lengths at its start or end."""

    def __init__(
        self, store: RemoteStore, name: str, template: str, per_shard: Index, at_end: bool, checked: bool
    ) -> None:
        super().__init__(store, name, template)
        self._per_shard, self._at_end, self._checked = per_shard, at_end, checked
        self._tables: OrderedDict[Index, asyncio.Future[np.ndarray | None]] = OrderedDict()

    def _restart(self) -> None:
        super()._restart()
        self._tables = OrderedDict()

    def _object(self, index: Index) -> Index:
        return tuple(i // n for i, n in zip(index, self._per_shard, strict=True))

    async def _bytes(self, filesystem: RemoteFileSystem, index: Index, afresh: bool) -> bytes | None:
        shard = self._object(index)
        table = await self._table(filesystem, shard, afresh)
        if table is None:
            return None
        offset, length = table[tuple(i % n for i, n in zip(index, self._per_shard, strict=True))].tolist()
        if offset == ABSENT:
            return None
        cat = filesystem.cat_afresh if afresh else filesystem._cat_file
        return await cat(f"{filesystem.root}/{self._template % shard}", offset, offset + length)

    async def _table(self, filesystem: RemoteFileSystem, shard: Index, afresh: bool) -> np.ndarray | None:
        """The index of a shard, fetched once for all chunks that ask for it."""
        if shard not in self._tables or afresh:
            self._tables[shard] = asyncio.ensure_future(self._fetch_table(filesystem, shard, afresh))
            if len(self._tables) > SHARD_TABLES:
                self._tables.popitem(last=False)
        task = self._tables[shard]
        try:
            return await asyncio.shield(task)  # one chunk that is no longer wanted must not cost the others
        finally:
            if task.done() and (task.cancelled() or task.exception()) and self._tables.get(shard) is task:
                del self._tables[shard]

    async def _fetch_table(self, filesystem: RemoteFileSystem, shard: Index, afresh: bool) -> np.ndarray | None:
        length = 16 * math.prod(self._per_shard) + (4 if self._checked else 0)
        cat = filesystem.cat_afresh if afresh else filesystem._cat_file
        path = f"{filesystem.root}/{self._template % shard}"
        try:
            stored = await (cat(path, -length, None) if self._at_end else cat(path, 0, length))
        except FileNotFoundError:
            return None
        if len(stored) != length:
            raise ValueError(f"the object of {len(stored)} bytes is too short for its index")
        return parse_shard_index(np.frombuffer(stored, np.uint8), self._per_shard, self._checked)
