"""Time a sample of MERRA-2 for Prithvi WxC: from a store, from its NetCDF files, and as the published loader reads it.

    python benchmarks/merra2_reading.py [--quick] [--dir FOLDER]

A sample is two input states, the target and the climatology of the target, 160 channels each, and the static fields and
calendar channels of the latest input. Input delta and lead are drawn from the paper's. Everybody reads the same samples
of one synthetic replica (`workbench.data.readers.merra2_replica`), with the 160 channels of the published files on a
quarter of their area (on a 36th with --quick), one thread each:

* ``store``: `WindowLoader` on stores that ``workbench dataset rechunk`` made of the files, one step a chunk, in shards.
* ``files``: `WindowLoader` straight on the NetCDF files.
* ``reference``: the steps that the published data set takes for a sample and a batch of one, written here from its
  description: two files opened for each time, the time axis decoded, one read for each surface variable, one with a
  list of levels for each vertical variable; levels turned over and copied, times stacked, statics read from the file of
  the latest input again, climatology from two more files; everything to torch, rolled by 0, copied into the batch,
  permuted and concatenated.

The replica has the chunks of the published preparation (zlib, one step each), which suit the reference; the
rows ``auto`` (not with --quick) are of files with the chunks that HDF5 chooses, which the published download script
writes. No decoded step is kept in memory by anybody; files are in the page cache. What the loader gives is compared
with what the reference gives before anything is timed. Contenders take turns; a ratio is the median over the rounds.

The last line: ``vs_reference`` is samples/s of ``store`` over those of ``reference``, ``files_vs_reference`` the same
of ``files``; ``auto_*`` the same on the other chunks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import torch

from workbench.data.climatology_reader import ClimatologyReader
from workbench.data.config import DataConfig
from workbench.data.loader import WindowLoader
from workbench.data.reader import WindowReader
from workbench.data.readers.merra2_layout import CONSTANT, LEVELS, SURFACE, VERTICAL
from workbench.data.readers.merra2_replica import write_replica
from workbench.data.rechunk import rechunk
from workbench.data.store import open_data, open_record
from workbench.data.windows import Part, sample_windows

STATE = (*SURFACE, *VERTICAL)
CALENDAR = ("cos_day_of_year", "sin_day_of_year", "cos_hour_of_day", "sin_hour_of_day")
DELTAS, LEADS = (1, 2, 3, 4), (0, 2, 4, 8)
"""3, 6, 9, 12 h and 0, 6, 12, 24 h."""
HOURS = range(0, 24, 3)
Drawn = tuple[np.datetime64, float, float]
"""Time of the latest input, input delta and lead time in hours."""
Sampler = Callable[[], object]


# ---------------------------------------------------------------------------------------------- workbench


def data_config(record: str) -> DataConfig:
    """The data section of a pretraining."""
    forcing, static = (*CALENDAR, *CONSTANT), ("latitude_radians", "longitude_radians")
    return DataConfig(
        record, STATE, forcing=forcing, static=static, history=2, input_deltas=DELTAS, leads=LEADS, batch_size=1
    )


def workbench_loader(record: str, climatology: str) -> WindowLoader:
    """A loader that reads in the calling thread and keeps nothing."""
    config = data_config(record)
    dataset = open_data(config)
    windows = sample_windows(dataset, Part("train", np.zeros(1, int), ((0, dataset.sizes["time"]),)), config)
    reader = WindowReader(dataset, config.roles(), threads=0, cache_bytes=0)
    means = ClimatologyReader(open_record(climatology), STATE, dataset["time"], 2, threads=0, cache_bytes=0)
    return WindowLoader(reader, windows, batch_size=1, shuffle="full", climatology=means)


def drawn_samples(loader: WindowLoader) -> list[Drawn]:
    """What the samples of one epoch are, in order."""
    times = loader.reader.dataset["time"].values
    found = []
    for batch in loader:
        latest = times[loader.windows.start[int(batch["index"])] + max(DELTAS)]
        found.append((latest, float(batch["input_delta"]), float(batch["lead_time"])))
    return found


def as_reference_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of ours under the names of the reference."""
    static = torch.cat([torch.rad2deg(batch["static"]), batch["forcing"][:, 1]], 1)
    return {
        "x": batch["state"][:, :2],
        "y": batch["state"][:, 2],
        "climate": batch["climatology"][:, 0],
        "static": static,
        "lead_time": batch["lead_time"],
        "input_time": batch["input_delta"],
    }


# ---------------------------------------------------------------------------------------------- the reference


class Reference:
    """Reads samples as the published data set does, one file, one variable, one time after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with h5py.File(next(iter(sorted(folder.glob("MERRA2_sfc_*.nc")))), "r", libver="latest") as file:
            grid = np.meshgrid(*(file[name][()].astype(np.float32) for name in ("lat", "lon")), indexing="ij")
        self.position = np.stack(grid).astype(np.float32)

    def batch(self, drawn: Drawn) -> dict[str, torch.Tensor]:
        """One sample, collated."""
        latest, delta, lead = drawn
        now = latest.astype("datetime64[s]").item()
        inputs, target = (now - timedelta(hours=delta), now), now + timedelta(hours=lead)
        states = {at: self.state(at) for at in {*inputs, target}}
        sample = {
            "sur_vals": np.stack([states[at][0] for at in inputs], axis=1),
            "ulv_vals": np.stack([states[at][1] for at in inputs], axis=2),
            "sur_tars": states[target][0][:, None],
            "ulv_tars": states[target][1][:, :, None],
            "sur_static": self.static(now),
        }
        sample["sur_climate"], sample["ulv_climate"] = self.climatology(target)
        tensors = {name: torch.from_numpy(values).to(torch.float32) for name, values in sample.items()}
        tensors = {name: torch.roll(values, shifts=0, dims=-1) for name, values in tensors.items()}
        return self.collate(tensors, delta, lead)

    def state(self, at: datetime) -> tuple[np.ndarray, np.ndarray]:
        """Surface ``[variable, lat, lon]`` and vertical ``[variable, level, lat, lon]`` fields at one time."""
        with h5py.File(self.folder / at.strftime("MERRA2_sfc_%Y%m%d.nc"), "r", libver="latest") as file:
            step = self.step_of(at, file)
            surface = np.empty((len(SURFACE), len(file["lat"]), len(file["lon"])), np.float32)
            for i, name in enumerate(SURFACE):
                surface[i] = file[name][step][()].astype(np.float32)
        with h5py.File(self.folder / at.strftime("MERRA_pres_%Y%m%d.nc"), "r", libver="latest") as file:
            step, places = self.step_of(at, file), self.places(file)
            vertical = np.empty((len(VERTICAL), len(LEVELS), len(file["lat"]), len(file["lon"])), np.float32)
            for i, name in enumerate(VERTICAL):
                vertical[i] = file[name][step, places][()].astype(np.float32)
        return surface, np.ascontiguousarray(np.flip(vertical, axis=1))

    @staticmethod
    def step_of(at: datetime, file: h5py.File) -> int:
        """Place of a time in a file, after all its times are decoded."""
        axis = file["time"]
        begin = datetime.strptime(str(axis.attrs["begin_date"][()].item()), "%Y%m%d")
        first = axis.attrs["begin_time"][()].item()
        return [begin + timedelta(minutes=int(t + first)) for t in axis[()]].index(at)

    @staticmethod
    def places(file: h5py.File) -> list[int]:
        """Places of the levels in a file, rising."""
        levels = file["lev"][()]
        return sorted(np.argwhere(levels == level).item() for level in LEVELS)

    def static(self, at: datetime) -> np.ndarray:
        """Position, calendar and constant fields, ``[channel, lat, lon]``."""
        with h5py.File(self.folder / at.strftime("MERRA2_sfc_%Y%m%d.nc"), "r", libver="latest") as file:
            values = np.empty((6 + len(CONSTANT), len(file["lat"]), len(file["lon"])), np.float32)
            for i, name in enumerate(CONSTANT, start=6):
                values[i] = file[name][()].astype(np.float32)
        day, hour = at.timetuple().tm_yday, at.hour
        values[:2] = self.position
        values[2], values[3] = np.cos(2 * np.pi * day / 366), np.sin(2 * np.pi * day / 366)
        values[4], values[5] = np.cos(2 * np.pi * hour / 24), np.sin(2 * np.pi * hour / 24)
        return values

    def climatology(self, at: datetime) -> tuple[np.ndarray, np.ndarray]:
        """Surface and vertical fields of the climatology at a time."""
        slot = f"doy{min(at.timetuple().tm_yday, 365):03}_hour{at.hour:02}.nc"
        folder = self.folder / "climatology"
        with h5py.File(folder / f"climate_surface_{slot}", "r", libver="latest") as file:
            surface = np.empty((len(SURFACE), len(file["lat"]), len(file["lon"])), np.float32)
            for i, name in enumerate(SURFACE):
                surface[i] = file[name][()].astype(np.float32)
        with h5py.File(folder / f"climate_vertical_{slot}", "r", libver="latest") as file:
            places = self.places(file)
            vertical = np.empty((len(VERTICAL), len(LEVELS), len(file["lat"]), len(file["lon"])), np.float32)
            for i, name in enumerate(VERTICAL):
                vertical[i] = file[name][places][()].astype(np.float32)
        return surface, np.ascontiguousarray(np.flip(vertical, axis=1))

    @staticmethod
    def collate(sample: dict[str, torch.Tensor], delta: float, lead: float) -> dict[str, torch.Tensor]:
        """A batch of one: each entry copied into an empty tensor, padded by nothing, permuted and concatenated."""
        batch = {}
        for name, values in sample.items():
            whole = torch.empty((1, *values.shape))
            whole[0] = values
            batch[name] = torch.nn.functional.pad(whole, (0, 0, 0, 0), mode="constant", value=0).contiguous()
        surface = {key: batch[f"sur_{key}"].permute(0, 2, 1, 3, 4).contiguous() for key in ("vals", "tars")}
        vertical = {key: batch[f"ulv_{key}"].permute(0, 3, 1, 2, 4, 5).contiguous() for key in ("vals", "tars")}
        joined = {}
        for key, levels in vertical.items():
            channels = levels.view(*levels.shape[:2], -1, *levels.shape[4:])
            joined[key] = torch.cat((surface[key], channels), 2)
        climate = batch["ulv_climate"]
        return {
            "x": joined["vals"],
            "y": joined["tars"].squeeze(1),
            "climate": torch.cat((batch["sur_climate"], climate.view(1, -1, *climate.shape[3:])), 1),
            "static": batch["sur_static"],
            "lead_time": torch.tensor([lead]),
            "input_time": torch.tensor([delta]),
        }


# ---------------------------------------------------------------------------------------------- timing


def contenders(folder: Path, stores: Path) -> dict[str, Sampler]:
    """Everybody who reads the samples of a folder, after a look that all give the same."""
    files = workbench_loader(str(folder), str(folder / "climatology"))
    store = workbench_loader(str(stores / "days.zarr"), str(stores / "climatology.zarr"))
    drawn, reference = drawn_samples(files), Reference(folder)
    for loader in (files, store):
        loader.set_epoch(0)
        for batch, sample in zip(loader, drawn[:3], strict=False):
            expected = reference.batch(sample)
            for name, values in as_reference_batch(batch).items():
                tolerance = {"rtol": 0, "atol": 1e-4} if name == "static" else {"rtol": 0, "atol": 0}
                torch.testing.assert_close(values, expected[name], **tolerance)
    samples = iter(drawn * 1000)
    return {
        "store": endless(store),
        "files": endless(files),
        "reference": lambda: reference.batch(next(samples)),
    }


def endless(loader: WindowLoader) -> Sampler:
    """The next batch, epoch after epoch."""

    def batches():
        while True:
            yield from loader

    running = batches()
    return lambda: next(running)


def take_turns(running: dict[str, Sampler], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples per second of everybody, round by round; each reads for so long, and at least one sample."""
    rates: dict[str, list[float]] = {who: [] for who in running}
    for number in range(rounds + 1):
        for who, sample in running.items():
            begin, count = time.perf_counter(), 0
            while not count or time.perf_counter() - begin < seconds:
                sample()
                count += 1
            if number:  # the first round warms up
                rates[who].append(count / (time.perf_counter() - begin))
    return rates


def main() -> None:
    """Write the replicas, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller replica: under 45 s on 2 cores")
    parser.add_argument("--dir", type=Path, help="where files go (removed afterwards); default: the temporary folder")
    options = parser.parse_args()
    grid, rounds, seconds = ((61, 96), 5, 0.3) if options.quick else ((181, 288), 7, 2.0)
    folder, result = Path(tempfile.mkdtemp(dir=options.dir)), {}
    try:
        print(f"160 channels on {grid[0]} x {grid[1]} points, samples/s, one thread")
        for key, one_step in [("", True), ("auto_", False)][: 1 if options.quick else 2]:
            slots = [(day, hour) for day in (1, 2) for hour in HOURS]
            days = write_replica(folder / f"{key}files", days=2, grid=grid, slots=slots, one_step_chunks=one_step)
            if one_step:
                rechunk(str(days), folder / "days.zarr")
                rechunk(str(days / "climatology"), folder / "climatology.zarr", variables=STATE)
            rates = take_turns(contenders(days, folder), rounds, seconds)
            for who, values in rates.items():
                print(f"{'auto' if key else 'one step a chunk':18}{who:12}{statistics.median(values):9.2f}")
            for who, name in {"store": f"{key}vs_reference", "files": f"{key}files_vs_reference"}.items():
                pairs = zip(rates[who], rates["reference"], strict=True)
                result[name] = round(statistics.median(ours / theirs for ours, theirs in pairs), 2)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
