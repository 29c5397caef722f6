"""Workers for independent calls: those of an active cluster of dask, or threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


def active_client() -> Any | None:
    """The `distributed.Client` that dask computes with, if there is one."""
    if "distributed" not in sys.modules:
        return None
    import distributed

    try:
        return distributed.get_client()
    except ValueError:
        return None


@contextmanager
def executor(threads: int) -> Iterator[tuple[Executor, int]]:
    """The workers of the active client, else `threads` threads; and how many calls they run at a time."""
    client = active_client()
    if client is not None:
        yield client.get_executor(pure=False), sum(client.nthreads().values())
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool, threads
