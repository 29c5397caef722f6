"""Bytes from behind an address: an fsspec filesystem that tries again, sees truncated bodies, and may keep chunks.

`RemoteFileSystem` wraps the filesystem of any protocol that fsspec knows. Everything that reads a remote record goes
through it: the chunks of a batch, zarr and xarray for metadata and statistics, and h5netcdf for NetCDF files. Where the
store is and how to log in is left to fsspec, its configuration files and its environment variables.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.spec import AbstractBufferedFile

from workbench.data.remote_cache import CacheLimit, ChunkCache
from workbench.errors import InputError

log = logging.getLogger(__name__)

REQUESTS = 64
"""Requests in flight. At 30 ms latency 16, 32 and 64 give 410, 760 and 1,500 chunks of 20 kB a second on two cores."""

ATTEMPTS = 7
"""Times that a request is made before its failure is final."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before the second attempt, and at most; every pause is twice as long as the one before."""

PATIENCE, MOST_PATIENCE = 60.0, 240.0
"""Seconds that the first attempt may take, and any; every attempt may take twice as long as the one before."""

READ_AHEAD = 2**22
"""Bytes of a remote NetCDF file that are asked for in one request, at least."""

FINAL = {errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENAMETOOLONG}
"""What S3 answers that will not change (s3fs turns answers into these numbers)."""

PASSING = ("ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ResponseParserError", "IncompleteRead")
"""Errors of aiohttp, botocore and urllib3 that are none of Python's own."""

VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "Last-Modified", "mtime", "updated", "created")
"""Entries by which filesystems tell one version of an object from another."""

T = TypeVar("T")


class Unreachable(InputError, OSError):
    """An address gave no usable answer; the message says which, how often it was asked, and what came."""


def temporary(error: BaseException) -> bool:
    """Whether asking again may help: connection errors, timeouts, truncated bodies, and statuses 408, 425, 429, 5xx."""
    status = _status(error)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ssl.SSLError)):
        return False
    if isinstance(error, (OSError, TimeoutError, EOFError)):
        return getattr(error, "errno", None) not in FINAL
    return any(kind.__name__ in PASSING for kind in type(error).__mro__)


async def patiently(address: str, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of `ask`, which is called again while it fails in a way that may pass.

    Pauses grow exponentially and are drawn at random from ``[1/2, 1]`` of their length, so that many readers that
    failed together do not come back together.

    Raises:
        FileNotFoundError: there is nothing at the address.
        Unreachable: the address refuses, or the last attempt failed.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return await asyncio.wait_for(ask(), min(MOST_PATIENCE, PATIENCE * 2 ** (attempt - 1)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except Exception as error:
            if not temporary(error):
                raise Unreachable(
                    f"{address} is refused ({_reason(error)}): check the address and the credentials"
                ) from error
            if attempt == ATTEMPTS:
                raise Unreachable(
                    f"{address} gave no usable answer in {ATTEMPTS} attempts, the last time {_reason(error)}; go on "
                    "when the server answers again"
                ) from error
            log.log(
                logging.WARNING if attempt > 2 else logging.INFO,
                "attempt %d of %d: %s: %s; trying again",
                *(attempt, ATTEMPTS, address, _reason(error)),
            )
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)))


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error of aiohttp (``status``) or gcsfs (``code``)."""
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _reason(error: BaseException) -> str:
    status = _status(error)
    said = str(getattr(error, "message", "") or error).strip()
    return " ".join(word for word in (type(error).__name__, str(status or ""), said[:200]) if word)


class RemoteFileSystem(AsyncFileSystem):
    """The filesystem of an address, with patience.

    Args:
        address: of a record.
        cache: folder and bytes for chunks that were read before; none by default.
    """

    cachable = False
    protocol = "workbench"

    def __init__(self, address: str, cache: CacheLimit | None = None) -> None:
        super().__init__()
        inner, self.root = fsspec.core.url_to_fs(address, **_options(address))
        self.root, self._address = self.root.rstrip("/"), address.rstrip("/")
        if not inner.async_impl:
            inner = AsyncFileSystemWrapper(inner, asynchronous=False)
        if hasattr(inner, "retries"):  # s3fs and gcsfs try again by themselves, and attempts would multiply
            inner.retries = 1
        self.inner = inner
        self._room = asyncio.Semaphore(REQUESTS)
        self._cache = ChunkCache(cache) if cache else None
        self._versions: dict[str, str | None] = {}
        self._asked: dict[str, asyncio.Future[str | None]] = {}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        key = await self._key(path, start, end) if self._cache else None
        if key and self._cache:
            found = await asyncio.to_thread(self._cache.get, key)
            if found is not None:
                return found
        return await self._download(path, start, end, key)

    async def cat_afresh(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes from the server, whatever is in the cache, which gets them."""
        return await self._download(path, start, end, await self._key(path, start, end) if self._cache else None)

    async def _download(self, path: str, start: int | None, end: int | None, key: str | None) -> bytes:
        async with self._room:
            data = await patiently(self.unstrip_protocol(path), lambda: self._range(path, start, end))
        if key and self._cache:
            await asyncio.to_thread(self._cache.put, key, data)
        return data

    async def _range(self, path: str, start: int | None, end: int | None) -> bytes:
        """Ask once for a range, and see that all of it came."""
        data = await self.inner._cat_file(path, start=start, end=end)
        if start is not None and start < 0 and end is None:
            return data[start:]  # all of it, where a server knows no ranges
        if start is None or end is None:
            return data
        if len(data) > end - start:  # a server that knows no ranges sends all of the file
            data = data[start:end]
        if len(data) < end - start:
            raise EOFError(f"only {len(data)} of {end - start} bytes came")
        return data

    # ------------------------------------------------------------------------------------------ what is there

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            try:
                return dict(await self.inner._info(path, **options))
            except FileNotFoundError as error:  # what the HTTP filesystem says of any failure
                if error.__cause__ is not None and getattr(error.__cause__, "status", 404) not in (404, 410):
                    raise error.__cause__ from None
                raise

        return await patiently(self.unstrip_protocol(path), ask)

    async def _exists(self, path: str, **options: Any) -> bool:
        try:
            await self._info(path, **options)
        except FileNotFoundError:
            return False
        return True

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return await patiently(self.unstrip_protocol(path), lambda: self.inner._ls(path, detail=detail, **options))

    def _open(self, path: str, mode: str = "rb", **_: Any) -> AbstractBufferedFile:
        return _RemoteFile(self, path, mode, block_size=READ_AHEAD, size=self.info(path)["size"])

    def unstrip_protocol(self, name: str) -> str:
        """The whole address of a path, for messages."""
        return self._address + name.removeprefix(self.root)

    # ------------------------------------------------------------------------------------------ versions

    async def _key(self, path: str, start: int | None, end: int | None) -> str | None:
        """Name in the cache of a part of one version of an object; None for what is not to be kept.

        A record that lies beside its manifest is as old as that. Of any other, every object is asked for its version
        (ETag, or time of change) once in the life of the process, before it is first used.
        """
        name = path.rpartition("/")[2]
        if name.startswith(".") or name.endswith(".json"):  # metadata is always asked for
            return None
        version = await self._version(f"{self.root}.manifest.json") or await self._version(path)
        return f"{self.unstrip_protocol(path)} {version} {start} {end}" if version else None

    async def _version(self, path: str) -> str | None:
        if path in self._versions:
            return self._versions[path]
        if path not in self._asked:
            self._asked[path] = asyncio.ensure_future(self._ask_version(path))
        try:
            version = await asyncio.shield(self._asked[path])
        finally:
            self._asked.pop(path, None)
        if len(self._versions) > 10**6:
            self._versions.clear()
        self._versions[path] = version
        return version

    async def _ask_version(self, path: str) -> str | None:
        try:
            async with self._room:
                info = await self._info(path)
        except FileNotFoundError:
            return None
        tags = [str(info[key]) for key in VERSIONS if info.get(key)]
        return f"{tags[0]} {info.get('size')}" if tags else None


class _ForZarr(AsyncFileSystem):
    """What zarr, which has an event loop of its own, sees of a `RemoteFileSystem`."""

    cachable = False

    def __init__(self, address: str, cache: CacheLimit | None = None) -> None:
        super().__init__(asynchronous=True)
        self._of = (address, cache)

    async def _there(self, ask: Callable[[RemoteFileSystem], Coroutine[Any, Any, T]]) -> T:
        """The answer of a coroutine in the event loop of fsspec."""
        filesystem = connect(*self._of)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(filesystem), filesystem.loop))

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return await self._there(lambda filesystem: filesystem._cat_file(path, start, end))

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        return await self._there(lambda filesystem: filesystem._info(path, **options))

    async def _exists(self, path: str, **options: Any) -> bool:
        return await self._there(lambda filesystem: filesystem._exists(path, **options))

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return await self._there(lambda filesystem: filesystem._ls(path, detail, **options))


class _RemoteFile(AbstractBufferedFile):
    """A remote file as h5netcdf reads it."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start=start, end=end))


def _options(address: str) -> dict[str, Any]:
    """What an inner filesystem needs so that `REQUESTS` fit through it, and each of them is one request."""
    options: dict[str, Any] = {"skip_instance_cache": True}
    if address.partition("://")[0] in ("s3", "s3a"):
        configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {
            "max_pool_connections": REQUESTS,
            "retries": {"max_attempts": 0},
            **configured,
        }
        options["max_concurrency"] = 1  # more would ask for the size of every object first
    return options


# ---------------------------------------------------------------------------------------------- connections


def connect(address: str, cache: CacheLimit | None = None) -> RemoteFileSystem:
    """The filesystem through which this process reads a record; one for all its threads.

    Raises:
        InputError: the protocol is unknown, or a package for it is missing.
    """
    return _connected(os.getpid(), address, cache)  # connections do not survive a fork


@lru_cache(16)
def _connected(_: int, address: str, cache: CacheLimit | None) -> RemoteFileSystem:
    try:
        return RemoteFileSystem(address, cache)
    except (ImportError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot read from '{address}': {error} (pip install 'workbench-surrogates[remote]' brings http, s3, gs)"
        ) from error


def zarr_store(address: str, cache: CacheLimit | None = None) -> Any:
    """A remote store as zarr and xarray want it.

    Raises:
        InputError: the protocol is unknown, or a package for it is missing.
    """
    from zarr.storage import FsspecStore

    return FsspecStore(_ForZarr(address, cache), path=connect(address, cache).root, read_only=True)
