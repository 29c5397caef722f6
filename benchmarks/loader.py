"""Time the loader against its peers and its limits: random pairs of states from one record, in one run.

    python benchmarks/loader.py [--quick] [--dir FOLDER]

Two records, each of one float32 variable ``(time, level, y, x)``: *era*, a pair of states is 4.6 MB, 8 pairs a batch;
*small*, a pair is 65 kB, 64 pairs a batch. Each lies on disk with 1 step a chunk, 16 steps a chunk, in shards of 32
one-step chunks (all Blosc-LZ4 with byte shuffle and a CRC-32C, what Workbench writes), uncompressed, and as NetCDF-4
(nc_zlib: zlib and shuffle, one step a chunk; nc_plain: contiguous).

The rows:

* ``loader, full``: `WindowLoader` in fully random order with 2 threads and no memory for decoded steps.
* ``loader, block``: block shuffle, the default order of `fit`, in memory for a quarter of the record.
* ``loader, kept``: fully random order with the default 1 GB, into which the record fits, after a first epoch.
* ``xbatcher``: `xbatcher.loaders.torch.MapDataset` on ``xr.open_zarr(path)``, as its documentation shows.
* ``xarray+dask``: ``array.isel(time=...).values`` on ``xr.open_zarr(path)``.
* ``xarray``: the same on ``xr.open_zarr(path, chunks=None)``.
* ``codec limit``: the same chunks are opened, read, checked and decoded by as many threads with numcodecs into one
  reused batch, and nothing else.
* ``memmap``: ``batch[k] = memmap[t:t + 2]`` from one raw file.

The peers are timed per sample, without the copy into a batch, which favours them. Contenders take turns in short
slices; a ratio is the median over the rounds of the ratio within a round, since other load on the machine hits both
alike. All files are in the page cache.

The last line: ``vs_*`` are samples/s of ``loader, full`` over those of a peer on 1 step a chunk, ``block_vs_*`` the
same of ``loader, block``, ``kept_vs_*`` of ``loader, kept``, and ``codec_limit_vs_*`` of the limit, which no loader
that decodes every chunk of every sample can pass; ``netcdf_*`` (zlib), ``c16_*`` and ``sh32_*`` the same on these
layouts. ``of_codec_limit`` is of ``loader, full``, which decodes the same chunks; ``of_memmap`` and
``kept_of_memmap`` are of ``loader, full`` and ``loader, kept`` on the uncompressed store. With --quick the era record
is so small that a quarter of it holds one batch only: its ``loader, block`` says little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import google_crc32c
import numpy as np
import xarray as xr
import xbatcher
from numcodecs import blosc
from xbatcher.loaders.torch import MapDataset

from workbench.data.loader import WindowLoader
from workbench.data.reader import WindowReader
from workbench.data.store import open_record
from workbench.data.windows import Windows

THREADS = 2
REPEATS = 8
"""Times that each window comes in an epoch of random order, lest its start count for more than in a long record."""
NAME = "u"


@dataclass(frozen=True)
class Case:
    """A record to time."""

    prefix: str
    steps: int
    shape: tuple[int, int, int]
    batch: int


CASES = {False: (Case("", 448, (20, 121, 240), 8), Case("small_", 8192, (4, 32, 64), 64))}
CASES[True] = (Case("", 48, (20, 121, 240), 8), Case("small_", 1024, (4, 32, 64), 64))

Contender = Callable[[float], float]
"""Runs for about so many seconds and returns samples per second."""


# ---------------------------------------------------------------------------------------------- stores


def record(case: Case) -> xr.Dataset:
    """A smooth field with noise in the last digits, which compresses about as well as weather does."""
    random = np.random.default_rng(0)
    y, x = (np.linspace(0, 2 * np.pi, n) for n in case.shape[1:])
    phase = np.arange(case.steps)[:, None, None, None] * 0.1 + np.arange(case.shape[0])[:, None, None]
    values = (280 + 20 * np.sin(y[:, None] + phase) * np.cos(2 * x + phase)).astype(np.float32)
    values += random.standard_normal(values.shape, dtype=np.float32)
    values = np.round(values * 64) / 64
    coords = {d: (d, np.arange(float(n)), {"units": "1"}) for d, n in zip(("level", "y", "x"), case.shape, strict=True)}
    coords["time"] = ("time", np.arange(float(case.steps)), {"units": "s"})
    attrs = {"units": "K", "long_name": "temperature"}
    return xr.Dataset({NAME: (("time", "level", "y", "x"), values, attrs)}, coords)


def write_stores(case: Case, folder: Path) -> dict[str, Path]:
    """Every layout of a record on disk."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    dataset = record(case)
    lz4 = [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]
    layouts = {
        "c1": {"chunks": (1, *case.shape), "compressors": lz4},
        "c16": {"chunks": (16, *case.shape), "compressors": lz4},
        "sh32": {"chunks": (1, *case.shape), "shards": (32, *case.shape), "compressors": lz4},
        "none": {"chunks": (1, *case.shape), "compressors": None},
    }
    paths = {}
    for layout, encoding in layouts.items():
        paths[layout] = folder / f"{case.prefix}{layout}.zarr"
        dataset.to_zarr(paths[layout], zarr_format=3, consolidated=False, encoding={NAME: encoding})
    zlib = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": (1, *case.shape)}
    for layout, encoding in {"nc_zlib": zlib, "nc_plain": {"contiguous": True}}.items():
        paths[layout] = folder / f"{case.prefix}{layout}.nc"
        dataset.to_netcdf(paths[layout], engine="netcdf4", encoding={NAME: encoding})
    paths["raw"] = folder / f"{case.prefix}raw"
    dataset[NAME].values.tofile(paths["raw"])
    return paths


# ---------------------------------------------------------------------------------------------- contenders


def ours(path: Path, case: Case, shuffle: str, cache: int = 0) -> Contender:
    """`WindowLoader`, epoch after epoch."""
    reader = WindowReader(open_record(str(path)), {"state": [NAME]}, threads=THREADS, cache_bytes=cache)
    starts = np.repeat(np.arange(case.steps - 1), 1 if shuffle == "block" else REPEATS)
    windows = Windows(np.zeros_like(starts), starts, 2)
    loader = WindowLoader(reader, windows, batch_size=case.batch, shuffle=shuffle, missing="error")

    def epochs() -> Iterator[int]:
        while True:
            for batch in loader:
                yield len(batch["index"])

    running = epochs()

    if cache >= 2**30:
        list(loader)

    def run(seconds: float) -> float:
        for _ in range(loader.prefetch + 2):  # what was read ahead while others had their turn does not count
            next(running)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            count += next(running)
        return count / (time.perf_counter() - begin)

    return run


def per_sample(case: Case, sample: Callable[[int], object]) -> Contender:
    """Calls `sample` for random starts."""
    random = np.random.default_rng(1)

    def run(seconds: float) -> float:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            sample(int(random.integers(case.steps - 1)))
            count += 1
        return count / (time.perf_counter() - begin)

    return run


def xarray_pairs(path: Path, case: Case, chunks: dict[str, int] | None) -> Contender:
    """``isel`` per sample."""
    if path.suffix == ".nc":
        array = xr.open_dataset(path, chunks=chunks)[NAME]
    else:
        array = xr.open_zarr(path, chunks=chunks, consolidated=False)[NAME]
    return per_sample(case, lambda t: array.isel(time=slice(t, t + 2)).values)


def xbatcher_pairs(path: Path, case: Case) -> Contender:
    """The torch dataset of xbatcher."""
    array = xr.open_zarr(path, consolidated=False)[NAME]
    sizes = dict(zip(("time", "level", "y", "x"), (2, *case.shape), strict=True))
    generator = xbatcher.BatchGenerator(array, input_dims=sizes, input_overlap={"time": 1}, preload_batch=False)
    dataset = MapDataset(generator)
    return per_sample(case, dataset.__getitem__)


def codec_limit(path: Path, case: Case) -> Contender:
    """Read, check and decode the chunks of random pairs, and nothing else."""
    random = np.random.default_rng(1)
    nbytes = 4 * int(np.prod(case.shape))
    pool = ThreadPoolExecutor(THREADS)

    batch = np.empty((2 * case.batch, nbytes), np.uint8)

    def decode(mine: list[tuple[int, int]]) -> None:
        stored = np.empty(nbytes + 4096, np.uint8)
        view = stored.view()
        view.flags.writeable = False
        for row, chunk in mine:
            fd = os.open(f"{path}/{NAME}/c/{chunk}/0/0/0", os.O_RDONLY)
            count = os.preadv(fd, [stored], 0) - 4
            os.close(fd)
            if google_crc32c.value(view[:count]) != int.from_bytes(stored[count : count + 4].tobytes(), "little"):
                raise ValueError(chunk)
            blosc.decompress(stored[:count], batch[row % len(batch)])

    def run(seconds: float) -> float:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            starts = random.integers(case.steps - 1, size=4 * case.batch).tolist()
            numbered = list(enumerate(c for t in starts for c in (t, t + 1)))
            list(pool.map(decode, [numbered[i::THREADS] for i in range(THREADS)]))
            count += len(starts)
        return count / (time.perf_counter() - begin)

    return run


def memmap(path: Path, case: Case) -> Contender:
    """Copies of slices of a memory map, into one batch buffer."""
    values = np.memmap(path, np.float32, "r", shape=(case.steps, *case.shape))
    values.max()  # maps every page once, as a first epoch would
    batch = np.empty((case.batch, 2, *case.shape), np.float32)

    def sample(t: int) -> None:
        batch[t % case.batch] = values[t : t + 2]

    return per_sample(case, sample)


def contenders(paths: dict[str, Path], case: Case) -> dict[tuple[str, str], Contender]:
    """Everything to time on one record: (layout, who) -> contender."""
    found: dict[tuple[str, str], Contender] = {}
    for layout, path in paths.items():
        if layout == "raw":
            found["none", "memmap"] = memmap(path, case)
            continue
        found[layout, "loader, full"] = ours(path, case, "full")
        if layout in ("none", "c1"):
            found[layout, "loader, kept"] = ours(path, case, "full", 2**30)
        if layout != "none":
            found[layout, "loader, block"] = ours(path, case, "block", case.steps * int(np.prod(case.shape)))
        found[layout, "xarray"] = xarray_pairs(path, case, None)
        if layout in ("c1", "c16", "sh32"):
            found[layout, "xarray+dask"] = xarray_pairs(path, case, {})
        if layout == "c1":
            found[layout, "codec limit"] = codec_limit(path, case)
            found[layout, "xbatcher"] = xbatcher_pairs(path, case)
    return found


# ---------------------------------------------------------------------------------------------- table


def take_turns(
    running: dict[tuple[str, str], Contender], rounds: int, seconds: float
) -> dict[tuple[str, str], list[float]]:
    """Samples per second of every contender, round by round."""
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in running}
    for number in range(rounds + 1):
        for key, run in running.items():
            rate = run(seconds if number else seconds / 2)  # the first round warms up
            if number:
                rates[key].append(rate)
    return rates


def ratio(rates: dict[tuple[str, str], list[float]], layout: str, ours: str, other: str) -> float:
    """Median over the rounds of ours over other."""
    return statistics.median(a / b for a, b in zip(rates[layout, ours], rates[layout, other], strict=True))


def print_table(rates: dict[tuple[str, str], list[float]], case: Case) -> None:
    """Median samples per second, a row per contender, a column per layout."""
    layouts = list(dict.fromkeys(layout for layout, _ in rates))
    print(f"\n{case.prefix or 'era_'}record: {case.steps} steps of {case.shape}, samples/s (median of the rounds)")
    print(f"{'':16}" + "".join(f"{layout:>11}" for layout in layouts))
    for who in dict.fromkeys(who for _, who in rates):
        cells = [
            f"{statistics.median(rates[k]):11.0f}" if (k := (layout, who)) in rates else f"{'':11}"
            for layout in layouts
        ]
        print(f"{who:16}" + "".join(cells))


def main() -> None:
    """Write the stores, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller records, shorter slices: under 45 s on 2 cores")
    parser.add_argument(
        "--dir", type=Path, help="where the stores go (removed afterwards); default: the temporary folder"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*Zarr V3 specification.*")
    rounds, seconds = (3, 0.1) if arguments.quick else (15, 0.5)
    result: dict[str, float] = {}
    folder = Path(tempfile.mkdtemp(dir=arguments.dir))
    try:
        for case in CASES[arguments.quick]:
            paths = write_stores(case, folder)
            rates = take_turns(contenders(paths, case), rounds, seconds)
            print_table(rates, case)
            for peer, key in {"xbatcher": "xbatcher", "xarray+dask": "xarray_dask", "xarray": "xarray"}.items():
                result[f"{case.prefix}vs_{key}"] = ratio(rates, "c1", "loader, full", peer)
                result[f"{case.prefix}block_vs_{key}"] = ratio(rates, "c1", "loader, block", peer)
                result[f"{case.prefix}kept_vs_{key}"] = ratio(rates, "c1", "loader, kept", peer)
                result[f"{case.prefix}codec_limit_vs_{key}"] = ratio(rates, "c1", "codec limit", peer)
            result[case.prefix + "of_codec_limit"] = ratio(rates, "c1", "loader, full", "codec limit")
            result[case.prefix + "of_memmap"] = ratio(rates, "none", "loader, full", "memmap")
            result[case.prefix + "kept_of_memmap"] = ratio(rates, "none", "loader, kept", "memmap")
            for key, layout in {"netcdf": "nc_zlib", "c16": "c16", "sh32": "sh32"}.items():
                result[f"{case.prefix}{key}_vs_xarray"] = ratio(rates, layout, "loader, full", "xarray")
                result[f"{case.prefix}{key}_block_vs_xarray"] = ratio(rates, layout, "loader, block", "xarray")
    finally:
        shutil.rmtree(folder)
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()
