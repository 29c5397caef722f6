"""What writing costs a rollout, and what its length costs in memory.

Two questions, answered in one run:

* overhead: wall time of `write_rollout` at 128 x 128 with a model that takes 10 ms a step, against the bare loop over
  the same model with nothing written (goal: under 5 %);
* memory: peak resident memory of a rollout of 10 steps and of one of 1,000 steps, each in a process of its own
  (goal: equal within 5 %).

The last line is one JSON object: `overhead` (written over bare, minus one) and `memory_ratio` (1,000 steps over 10).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_record
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.plan import ForecastPlan
from workbench.rollout import rollout, write_rollout

SIZE = 128
STEP_SECONDS = 0.010


class Paced:
    """A forecast task of known cost: a cheap map of the state, padded with arithmetic to 10 ms of one core."""

    adds_to_climatology = False

    def __init__(self, packing: Packing, seconds: float) -> None:
        from workbench.data.packing import Normaliser

        self.packing, self.seconds, self.state_channels = packing, seconds, 1
        self.normalisers = {"state": Normaliser(packing.groups["state"])}
        self._work = torch.randn(192, 192)

    def begin(self, window: torch.Tensor, context: object) -> torch.Tensor:
        """The states themselves."""
        return window

    def context(self, known: object, step: int) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def advance_block(
        self, window: torch.Tensor, known: object, steps: int
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One step."""
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            self._work @ self._work
        state = 0.999 * window
        return {"state": state}, state


def record(folder: Path) -> xr.Dataset:
    """A small record at 128 x 128 to start from."""
    rng = np.random.default_rng(0)
    fields = rng.normal(0, 1, (20, SIZE, SIZE)).astype("f4")
    axes = {d: (d, np.arange(float(SIZE)), {"units": "m"}) for d in ("y", "x")}
    made = xr.Dataset({"w": (("time", "y", "x"), fields, {"units": "1"})}, coords={"time": np.arange(20.0), **axes})
    return open_record(str(write_record(made, folder / "record.zarr", overwrite=True)))


def setting(folder: Path, steps: int, seconds: float) -> tuple[Paced, ForecastPlan]:
    """Task and plan of one forecast of `steps` steps."""
    data = record(folder)
    config = DataConfig(record="x", state=("w",))
    statistics = fit_statistics(data, ["w"], parts(data, config)["train"])
    plan = ForecastPlan(data, np.array([0]), np.array([5]), steps, batch_size=1, block=64)
    return Paced(Packing.fit(data, config, statistics), seconds), plan


def bare(task: Paced, steps: int) -> float:
    """Seconds of the model loop alone."""
    window = torch.randn(1, 1, 1, SIZE, SIZE)
    states = rollout(task, window)
    clock = time.perf_counter()
    for _ in range(steps):
        next(states)
    return time.perf_counter() - clock


def written(task: Paced, plan: ForecastPlan, folder: Path) -> float:
    """Seconds of the rollout with everything it writes."""
    clock = time.perf_counter()
    write_rollout(task, plan, folder / "out.zarr", overwrite=True)
    return time.perf_counter() - clock


def peak(steps: int) -> float:
    """Peak resident megabytes of a process that rolls out `steps` steps."""
    command = [sys.executable, __file__, "--peak-of", str(steps)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        if options.peak_of:
            task, plan = setting(folder, options.peak_of, 0.0)
            written(task, plan, folder)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        steps, repeats = (400, 2) if options.quick else (1000, 3)
        task, plan = setting(folder, steps, STEP_SECONDS)
        written(task, plan, folder)
        once = written(*setting(folder, 1, 0.0), folder)
        pairs = [(bare(task, steps), written(task, plan, folder)) for _ in range(repeats)]
    finally:
        shutil.rmtree(folder)
    alone, whole = (min(p[i] for p in pairs) for i in (0, 1))
    short, long = peak(10), peak(1000)
    print(f"{'':34}{'bare':>10}{'written':>10}{'ratio':>9}")
    print(f"{f'{steps} steps of 10 ms at {SIZE}x{SIZE}, s':34}{alone:10.2f}{whole:10.2f}{whole / alone:9.3f}")
    print(f"{'of which opening and closing, s':34}{'':10}{once:10.2f}")
    print(f"{'':34}{'10 steps':>10}{'1000':>10}")
    print(f"{'peak resident memory, MB':34}{short:10.0f}{long:10.0f}{long / short:9.3f}")
    print(json.dumps({"overhead": round(whole / alone - 1, 4), "memory_ratio": round(long / short, 4)}))


if __name__ == "__main__":
    main()
