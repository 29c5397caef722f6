"""A source of your own: heat in a periodic rod, in closed form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr

from workbench.errors import InputError


@dataclass(frozen=True)
class HeatedRod:
    """Temperature of periodic rods that start from random waves: T_t = kappa T_xx, solved wave by wave.

    Source: Crank 1975, The Mathematics of Diffusion, 2nd ed., section 2.3.

    Args:
        points: grid points along the rod of 1 m.
        steps: saved states a rod.
        interval: time between two states, s.
        conductivity: thermal diffusivity kappa, m2 s-1.
        waves: wavenumbers 1 .. waves are present at the start.
        trajectories: rods.
        seed: of the initial states.
    """

    points: int = 64
    steps: int = 20
    interval: float = 1.0
    conductivity: float = 1e-4
    waves: int = 4
    trajectories: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.conductivity <= 0:
            raise InputError(f"HeatedRod: conductivity must be positive; found {self.conductivity}")

    def template(self) -> xr.Dataset:
        """The whole record, lazy: nothing is computed."""
        empty = da.zeros((self.trajectories, self.steps, self.points), dtype=np.float32)
        return self._dataset(empty, range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """The given rods, in memory; a rod is the same in any company."""
        return self._dataset(np.stack([self._rod(number) for number in trajectories]), trajectories)

    def _rod(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, number])
        k = 2 * np.pi * np.arange(1, self.waves + 1)[:, None, None]
        amplitude, phase = rng.normal(size=k.shape), rng.uniform(0, 2 * np.pi, k.shape)
        decay = np.exp(-self.conductivity * k**2 * self._time[:, None])
        return (amplitude * decay * np.cos(k * self._x + phase)).sum(0).astype(np.float32)

    @property
    def _x(self) -> np.ndarray:
        return np.arange(self.points) / self.points

    @property
    def _time(self) -> np.ndarray:
        return np.arange(self.steps) * self.interval

    def _dataset(self, temperature: np.ndarray | da.Array, trajectories: Sequence[int]) -> xr.Dataset:
        attrs = {"units": "K", "long_name": "temperature above the mean"}
        return xr.Dataset(
            {"temperature": (("trajectory", "time", "x"), temperature, attrs)},
            coords={
                "trajectory": ("trajectory", np.array(trajectories), {"units": "1", "long_name": "rod"}),
                "time": ("time", self._time, {"units": "s", "long_name": "time"}),
                "x": ("x", self._x, {"units": "m", "long_name": "position along the rod, periodic"}),
            },
            attrs={"Conventions": "CF-1.11"},
        )
