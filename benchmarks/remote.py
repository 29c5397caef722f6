"""Time the loader on a remote store against its peers: random pairs of states over HTTP with 30 ms latency, in one run.

    python benchmarks/remote.py [--quick] [--latency SECONDS] [--dir FOLDER]

A server in a process of its own, on the loopback interface, answers every request after the latency. The record is one
float32 variable ``(time, level, y, x)`` with one step a chunk (33 kB) and, in a second store, in shards of 32 such
chunks, Blosc-LZ4 with byte shuffle and a CRC-32C. Batches hold 16 pairs, nothing is kept in memory.

The rows:

* ``loader``: `WindowLoader` in fully random order with 2 threads.
* ``loader, cached``: the same with `data.remote_cache`, once every chunk has been read.
* ``zarr``: ``array[t:t + 2]`` on ``zarr.open_array(address)``, per sample.
* ``xarray``: ``array.isel(time=...).values`` on ``xr.open_zarr(address, chunks=None)``, per sample.
* ``xbatcher``: `xbatcher.loaders.torch.MapDataset` on ``xr.open_zarr(address)``, per sample.

Contenders take turns in short slices; a ratio is the median over the rounds of the ratio within a round. The last line:
``vs_*`` are samples/s of ``loader`` over those of a peer, ``shards_vs_*`` the same on the sharded store, ``cached`` is
``loader, cached`` over ``loader``, and ``of_latency_limit`` is ``loader`` over what `REQUESTS` in flight could fetch if
nothing but the latency took time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import xarray as xr
import xbatcher
import zarr
from xbatcher.loaders.torch import MapDataset

from workbench.data.loader import WindowLoader
from workbench.data.reader import WindowReader
from workbench.data.remote import REQUESTS
from workbench.data.remote_cache import CacheLimit
from workbench.data.store import open_record
from workbench.data.windows import Windows

SHAPE = (4, 32, 64)
BATCH = 16
NAME = "u"

Contender = Callable[[float], float]
"""Runs for about so many seconds and returns samples per second."""


# ---------------------------------------------------------------------------------------------- server


class Slow(asyncio.Protocol):
    """Answers GET and HEAD, with ranges, after a pause."""

    folder, latency = Path(), 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self.transport, self.waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        """Let each request wait."""
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            head, self.waiting = self.waiting.split(b"\r\n\r\n", 1)
            asyncio.get_running_loop().call_later(self.latency, self.answer, head.decode().split("\r\n"))

    def answer(self, lines: list[str]) -> None:
        """Send a file or a part of it."""
        method, path, _ = lines[0].split(" ")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        file = self.folder / path.lstrip("/")
        status, body = (200, file.read_bytes()) if file.is_file() else (404, b"")
        version = len(body)
        if status == 200 and "range" in headers:
            first, _, last = headers["range"].removeprefix("bytes=").partition("-")
            status, body = 206, body[-int(last) :] if not first else body[int(first) : int(last) + 1 if last else None]
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nETag: {version}\r\n\r\n".encode()
        self.transport.write(head if method == "HEAD" else head + body)  # type: ignore[attr-defined]


async def serve(folder: Path, latency: float) -> None:
    """Serve a folder for ever, and print the port."""
    Slow.folder, Slow.latency = folder, latency
    server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# ---------------------------------------------------------------------------------------------- contenders


def write_stores(steps: int, folder: Path) -> None:
    """The record, one step a chunk and in shards."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    random = np.random.default_rng(0)
    y, x = (np.linspace(0, 2 * np.pi, n) for n in SHAPE[1:])
    phase = np.arange(steps)[:, None, None, None] * 0.1 + np.arange(SHAPE[0])[:, None, None]
    values = (280 + 20 * np.sin(y[:, None] + phase) * np.cos(2 * x + phase)).astype(np.float32)
    values = np.round((values + random.standard_normal(values.shape, dtype=np.float32)) * 64) / 64
    coords = {d: (d, np.arange(float(n)), {"units": "1"}) for d, n in zip(("level", "y", "x"), SHAPE, strict=True)}
    coords["time"] = ("time", np.arange(float(steps)), {"units": "s"})
    attrs = {"units": "K", "long_name": "temperature"}
    dataset = xr.Dataset({NAME: (("time", "level", "y", "x"), values, attrs)}, coords)
    lz4 = {"chunks": (1, *SHAPE), "compressors": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]}
    for name, encoding in {"chunks": lz4, "shards": {**lz4, "shards": (32, *SHAPE)}}.items():
        dataset.to_zarr(folder / f"{name}.zarr", zarr_format=3, consolidated=True, encoding={NAME: encoding})


def ours(address: str, steps: int, cache: Path | None = None) -> Contender:
    """`WindowLoader`, epoch after epoch; with a cache, after every chunk was read once."""
    dataset = open_record(address, cache=CacheLimit(str(cache), 10**9) if cache else None)
    reader = WindowReader(dataset, {"state": [NAME]}, threads=2, cache_bytes=0)
    starts = np.arange(steps - 1)
    loader = WindowLoader(reader, Windows(np.zeros_like(starts), starts, 2), batch_size=BATCH, shuffle="full")
    if cache:
        list(loader)

    def epochs() -> Iterator[int]:
        while True:
            for batch in loader:
                yield len(batch["index"])

    def run(seconds: float) -> float:
        running = epochs()
        next(running)  # the first answer is a latency away, once per epoch of a training
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            count += next(running)
        rate = count / (time.perf_counter() - begin)
        running.close()
        return rate

    return run


def per_sample(steps: int, sample: Callable[[int], object]) -> Contender:
    """Calls `sample` for random starts."""
    random = np.random.default_rng(1)

    def run(seconds: float) -> float:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            sample(int(random.integers(steps - 1)))
            count += 1
        return count / (time.perf_counter() - begin)

    return run


def contenders(address: str, steps: int, folder: Path) -> dict[tuple[str, str], Contender]:
    """Everything to time: (layout, who) -> contender."""
    found: dict[tuple[str, str], Contender] = {}
    sizes = dict(zip(("time", "level", "y", "x"), (2, *SHAPE), strict=True))
    for layout in ("chunks", "shards"):
        store = f"{address}/{layout}.zarr"
        found[layout, "loader"] = ours(store, steps)
        found[layout, "loader, cached"] = ours(store, steps, folder / f"cache-{layout}")
        array = zarr.open_array(f"{store}/{NAME}", mode="r")
        found[layout, "zarr"] = per_sample(steps, lambda t, array=array: array[t : t + 2])  # type: ignore[misc]
        plain = xr.open_zarr(store, chunks=None)[NAME]
        found[layout, "xarray"] = per_sample(
            steps,
            lambda t, plain=plain: plain.isel(time=slice(t, t + 2)).values,  # type: ignore[misc]
        )
        generator = xbatcher.BatchGenerator(
            xr.open_zarr(store)[NAME], input_dims=sizes, input_overlap={"time": 1}, preload_batch=False
        )
        found[layout, "xbatcher"] = per_sample(steps, MapDataset(generator).__getitem__)
    return found


# ---------------------------------------------------------------------------------------------- table


def main() -> None:
    """Serve, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter slices: under 45 s on 2 cores")
    parser.add_argument("--latency", type=float, default=0.03, help="seconds before every answer")
    parser.add_argument("--dir", type=Path, help="where the stores go (removed afterwards)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*Zarr V3 specification.*|.*Consolidated metadata.*")
    if arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.latency))
    rounds, seconds, steps = (3, 0.5, 512) if arguments.quick else (9, 1.5, 2048)
    folder = Path(tempfile.mkdtemp(dir=arguments.dir))
    write_stores(steps, folder)
    command = [sys.executable, __file__, "--serve", str(folder), "--latency", str(arguments.latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            running = contenders(f"http://127.0.0.1:{int(server.stdout.readline())}", steps, folder)
            rates: dict[tuple[str, str], list[float]] = {key: [] for key in running}
            for _ in range(rounds):
                for key, run in running.items():
                    rates[key].append(run(seconds))
        finally:
            server.kill()
            shutil.rmtree(folder)
    print(f"\n{steps} steps of {SHAPE}, {arguments.latency * 1e3:g} ms latency, samples/s (median of the rounds)")
    print(f"{'':16}{'chunks':>10}{'shards':>10}")
    for who in dict.fromkeys(who for _, who in rates):
        print(f"{who:16}" + "".join(f"{statistics.median(rates[k, who]):10.0f}" for k in ("chunks", "shards")))

    def ratio(layout: str, who: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[layout, who], rates[layout, other], strict=True))

    result = {}
    for layout, prefix in (("chunks", ""), ("shards", "shards_")):
        for peer in ("zarr", "xarray", "xbatcher"):
            result[f"{prefix}vs_{peer}"] = ratio(layout, "loader", peer)
        result[f"{prefix}cached"] = ratio(layout, "loader, cached", "loader")
        limit = REQUESTS / arguments.latency / 2
        result[f"{prefix}of_latency_limit"] = statistics.median(rates[layout, "loader"]) / limit
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()
