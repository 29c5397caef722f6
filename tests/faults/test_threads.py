"""Reading threads: nothing hangs whatever ran before, an error arrives, memory stays flat."""

import functools
import gc
import http.server
import os
import signal
import sys
import threading
import time
import tracemalloc

import dask
import dask.array
import fsspec
import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from workbench.data.chunks import ChunkedArray
from workbench.data.loader import WindowLoader
from workbench.data.reader import WindowReader
from workbench.data.store import open_record
from workbench.data.windows import Windows
from workbench.data.writer import write_record

TIMES, COUNT = 24, 22
pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One record of 24 steps, large chunks and small ones, as Zarr and as NetCDF."""
    folder = tmp_path_factory.mktemp("threads")
    for name, points in (("large", 200), ("small", 6)):
        dims = ("time", "y", "x")
        values = np.random.default_rng(0).normal(size=(TIMES, points, points)).astype("f4")
        record = xr.Dataset(
            {"u": (dims, values, {"units": "1", "long_name": "a field"})},
            {d: (d, np.arange(float(n)), {"units": "1"}) for d, n in zip(dims, values.shape, strict=True)},
        )
        write_record(record, folder / f"{name}.zarr")
        record.to_netcdf(folder / f"{name}.nc", encoding={"u": {"zlib": True, "chunksizes": (1, points, points)}})
    return folder


def make(folder, source, *, threads=2, memory=0, count=COUNT, **options):
    windows = Windows(np.zeros(count, np.int64), np.arange(count) % COUNT, 3)
    reader = WindowReader(open_record(str(folder / source)), {"state": ["u"]}, threads=threads, cache_bytes=memory)
    return WindowLoader(reader, windows, **{"batch_size": 4, "shuffle": "full", **options})


# ---------------------------------------------------------------------------------------------- deadlocks


def nothing(folder):
    pass


def dask_threads(folder):
    dask.array.ones((400, 400), chunks=40).sum().compute(scheduler="threads")
    open_record(str(folder / "large.zarr")).u.mean().compute(scheduler="threads")


def dask_local_cluster(folder):
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0")
    with cluster, Client(cluster):
        open_record(str(folder / "large.zarr")).u.mean().compute()


def dask_cluster_of_processes(folder):
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0")
    with cluster, Client(cluster):
        dask.array.ones((400, 400), chunks=40).sum().compute()


def zarr_event_loop(folder):
    zarr.open_group(folder / "large.zarr", mode="r")["u"][3:9]


def fsspec_http(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/large.zarr"
    fsspec.open(f"{address}/zarr.json").open().read()
    open_record(address).u.isel(time=slice(0, 4)).load(scheduler="threads")
    server.shutdown()
    server.server_close()
    thread.join()


def fsspec_memory(folder):
    with fsspec.open("memory://x", "wb") as file:
        file.write(b"x")


def netcdf_library(folder):
    with netCDF4.Dataset(folder / "large.nc") as file:
        file["u"][:]
    with xr.open_dataset(folder / "large.nc", chunks={"time": 1}) as record:
        record.u.mean().compute(scheduler="threads")


def torch_workers(folder):
    data = torch.utils.data.TensorDataset(torch.zeros(8, 1))
    list(torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context="fork"))


def torch_threads(folder):
    torch.rand(600, 600) @ torch.rand(600, 600)


BEFORE = [
    nothing,
    dask_threads,
    dask_local_cluster,
    pytest.param(dask_cluster_of_processes, marks=pytest.mark.slow),
    zarr_event_loop,
    fsspec_http,
    fsspec_memory,
    netcdf_library,
    torch_workers,
    torch_threads,
]


def in_a_fork(work, seconds=100):
    """Run `work` in a forked process: its exit status, None if it had to be killed."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@pytest.mark.parametrize("before", BEFORE)
def test_nothing_hangs_after_others_have_used_threads(folder, before):
    """Before the loader is made, in the middle of an epoch, and in a fork, which has lost all threads."""
    before(folder)
    loaders = [make(folder, source) for source in ("large.zarr", "large.nc")]
    for number, (one, other) in enumerate(zip(*loaders, strict=True)):
        assert len(one["index"]) == len(other["index"])
        if number == 2:
            before(folder)
    for loader in loaders:
        assert in_a_fork(lambda loader=loader: list(loader)) == 0
        assert sum(len(batch["index"]) for batch in loader) == COUNT
    assert in_a_fork(lambda: list(make(folder, "large.zarr"))) == 0


@pytest.mark.parametrize("source", ["large.zarr", "large.nc"])
def test_a_fork_in_the_middle_of_an_epoch_hangs_nobody(folder, source):
    loader = make(folder, source)
    running = iter(loader)
    next(running)
    assert in_a_fork(lambda: list(make(folder, source))) == 0
    assert len(list(running)) == len(loader) - 1


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("failure", [MemoryError, RuntimeError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("source", ["large.zarr", "small.zarr"])
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_thread_that_dies_gives_its_error(folder, failure, source, threads, monkeypatch):
    loader, real = make(folder, source, threads=threads), ChunkedArray.load
    calls = iter(range(10**6))

    def load(self, *arguments):
        if next(calls) == 20:
            raise failure("the thread is gone")
        real(self, *arguments)

    monkeypatch.setattr(ChunkedArray, "load", load)
    with pytest.raises(BaseException, match="the thread is gone|is damaged") as raised:
        list(loader)
    assert isinstance(raised.value, failure) or isinstance(raised.value.__cause__, failure)
    assert not [t for t in threading.enumerate() if t.name == "workbench-loader"]
    monkeypatch.setattr(ChunkedArray, "load", real)
    assert sum(len(b["index"]) for b in loader) == COUNT, "the next epoch runs"


def test_threads_start_without_a_process_or_an_import(folder, monkeypatch):
    """Which would take a second or more at the begin of every epoch."""
    loader = make(folder, "large.zarr", threads=8)
    next(iter(loader))
    known = set(sys.modules)
    for name in ("fork", "posix_spawn"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("a process is started"))
    running = iter(loader)
    next(running)
    running.close()
    assert set(sys.modules) == known


# ---------------------------------------------------------------------------------------------- memory


def test_memory_stays_flat_over_many_batches(folder):
    """Whole epochs and epochs left early; buffers are reused."""
    loader = make(folder, "small.zarr", memory=2000, count=300, batch_size=1)

    def run(batches):
        while batches > 0:
            for batch in loader:
                batches -= 1
                if int(batch["index"][0]) == 5 and batches % 2:
                    break
        del batch
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = run(1000)
    growth = run(2000) - before
    tracemalloc.stop()
    print(f"memory grew by {growth / 1e3:.1f} kB")
    assert growth < 100e3  # 50 bytes a batch
    assert len(loader._buffers) <= loader.prefetch + 4
