"""A solver of known error and cost: travelling waves, wrong by 0.1 h^2, for UNIT h^-3 seconds an interval.

Of a batch it takes the square root of its size times that, while the surrogate takes its size times its own seconds.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from workbench.models import Network
from workbench.simulate.coarsening import Candidate

UNIT = 8e-4
SPEED = 0.3


@dataclass(frozen=True)
class Waves:
    """Sine waves of random phase on a ring, travelling at one speed."""

    trajectories: int = 8
    steps: int = 8

    def _dataset(self, fields: object, trajectories: Sequence[int]) -> xr.Dataset:
        x = 2 * np.pi * np.arange(16) / 16
        coords = {
            "trajectory": list(trajectories),
            "time": ("time", np.arange(self.steps) * 1.0, {"units": "s"}),
            "x": ("x", x, {"units": "m"}),
        }
        return xr.Dataset(
            {"height": (("trajectory", "time", "x"), fields, {"units": "m", "long_name": "height"})}, coords
        )

    def template(self) -> xr.Dataset:
        import dask.array as da

        return self._dataset(da.zeros((self.trajectories, self.steps, 16), dtype="f4"), range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: object = None) -> xr.Dataset:
        phase = np.random.default_rng(0).uniform(0, 6, (self.trajectories, 2))[list(trajectories)]
        angle = 2 * np.pi * np.arange(16) / 16 - SPEED * np.arange(self.steps)[:, None]
        waves = sum(np.sin((k + 1) * angle + phase[:, None, None, k : k + 1][..., 0]) for k in range(2))
        return self._dataset(waves.astype("f4"), trajectories)


@dataclass(frozen=True)
class SpinningWaves(Waves):
    """The same, from a solver that can be coarsened."""

    def coarsening(self) -> "SpinningWaves":
        return self

    reads: ClassVar[tuple[str, ...]] = ("height",)

    def candidates(self, interval: float) -> list[Candidate]:
        found = [Candidate(f"h = {h:g}", {"spacing": h}, h**-3) for h in (1.0, 0.5, 0.25, 0.19)]
        return [*found, Candidate("unstable", {"spacing": 2.0}, 0.1)]

    def forecaster(self, candidate: Candidate, names: Sequence[str], interval: float, device: str):
        h = float(candidate.settings["spacing"])

        def forecast(start: torch.Tensor) -> Iterator[torch.Tensor]:
            from workbench.errors import InputError

            if candidate.label == "unstable":
                raise InputError("time_step 2 exceeds the admissible 1")
            state = start
            while True:
                CLOCK.spend(UNIT * h**-3 * len(start) ** 0.5)
                state = travel(state)
                yield state * (1 + 0.1 * h**2)

        return forecast


class Clock:
    """Stands in for the module time: seconds pass where they are spent or waited, whatever the load."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu

    def spend(self, seconds: float) -> None:
        self.cpu += seconds
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        self.wall += seconds


CLOCK = Clock()


def travel(state: torch.Tensor) -> torch.Tensor:
    """One interval, exactly: every mode turns by its own angle."""
    modes = torch.fft.rfft(state)
    return torch.fft.irfft(modes * torch.exp(-1j * SPEED * torch.arange(modes.shape[-1])), n=state.shape[-1])


class SpinningNetwork(Network):
    """The exact next state times 1 + `error`, for `seconds` a forecast."""

    def __init__(self, in_channels, out_channels, space, error: float = 0.01, seconds: float = 2e-3):
        super().__init__(in_channels, out_channels, space)
        self.error, self.seconds = error, seconds
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        CLOCK.spend(self.seconds * len(x))
        return travel(x) * (1 + self.error)


def task_of(record: xr.Dataset, data, network=SpinningNetwork, **arguments):
    """A built task on a record, its network not trained."""
    from workbench.data.packing import Packing
    from workbench.data.statistics import fit_statistics
    from workbench.data.windows import parts
    from workbench.tasks import ForecastTask

    statistics = fit_statistics(record, data.variables(), parts(record, data)["train"], missing=data.missing)
    packing = Packing.fit(record, data, statistics)
    return ForecastTask(functools.partial(network, **arguments), residual=False).build(packing).eval()
