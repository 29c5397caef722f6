"""Rotating shallow water as the source of a dataset: a coarse flow and the fluxes of what it does not resolve.

A fine flow is computed and averaged over square cells. With the mean ⟨·⟩ over a cell, the record holds the means of u,
v and depth h and their covariances within the cell, ⟨a b⟩ − ⟨a⟩⟨b⟩: the fluxes of momentum and mass that a model on
the cells lacks.

Source: Germano 1992, J. Fluid Mech. 238, 325 (covariances of filtered fields); `shallow_water_solver` for the flow.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import dask.array as da
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench import __version__
from workbench.errors import InputError
from workbench.simulate.shallow_water_solver import ShallowWater, Solver
from workbench.simulate.threads import one_thread

STATE = {
    "u": ("m s-1", "velocity along x, mean over the cell"),
    "v": ("m s-1", "velocity along y, mean over the cell"),
    "h": ("m", "depth, mean over the cell"),
}
FLUXES = {
    "flux_uu": ("m2 s-2", "u u"),
    "flux_uv": ("m2 s-2", "u v"),
    "flux_vv": ("m2 s-2", "v v"),
    "flux_uh": ("m2 s-1", "u h"),
    "flux_vh": ("m2 s-1", "v h"),
}
DIMS = ("trajectory", "time", "y", "x")


@dataclass(frozen=True)
class ShallowWaterFluxes:
    """Independent decaying flows of balanced eddies and inertia-gravity waves, from random initial states.

    Args:
        cells: cells along each side of the record.
        factor: points of the solver along each side of a cell.
        length: side of the square, m.
        depth: mean depth, m.
        coriolis: f, s-1.
        time_step: of the solver, s.
        save_interval: time between saved instants, s, a multiple of `time_step`.
        spin_up: time before the first saved instant, s, a multiple of `save_interval`.
        steps: saved instants a trajectory.
        trajectories: how many there are.
        eddy_speed: rms speed of the balanced eddies at the start, m s-1.
        wave_speed: rms speed of the waves' divergent wind at the start, m s-1.
        wavenumbers: smallest and largest wavenumber of the initial state, in waves along a side.
        damping_time: of the smallest waves, s.
        seed: of the initial states.
        precision: of the solver; the record is float32.

    Raises:
        InputError: a parameter is out of range.
    """

    cells: int = 32
    factor: int = 4
    length: float = 4.0e6
    depth: float = 100.0
    coriolis: float = 1.0e-4
    time_step: float = 600.0
    save_interval: float = 10800.0
    spin_up: float = 86400.0
    steps: int = 16
    trajectories: int = 16
    eddy_speed: float = 6.0
    wave_speed: float = 3.0
    wavenumbers: tuple[int, int] = (3, 8)
    damping_time: float = 3600.0
    seed: int = 0
    precision: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        low, high = self.wavenumbers
        limit = (self.cells * self.factor - 1) // 3
        rules = {
            "cells": (self.cells >= 4 and self.cells % 2 == 0, "even, at least 4"),
            "factor": (self.factor >= 2, "at least 2: the fluxes within a cell of one point are 0"),
            "wavenumbers": (1 <= low <= high <= limit, f"rising, from 1 to {limit}, which the points keep"),
            "save_interval": (_multiple(self.save_interval, self.time_step, 1), f"a multiple of {self.time_step}"),
            "spin_up": (_multiple(self.spin_up, self.save_interval, 0), f"a multiple of {self.save_interval}"),
            "steps": (self.steps >= 1, "at least 1"),
            "trajectories": (self.trajectories >= 1, "at least 1"),
            "precision": (self.precision in ("float64", "float32"), "float64 or float32"),
        }
        for name, (good, expected) in rules.items():
            if not good:
                raise InputError(f"ShallowWaterFluxes: {name} must be {expected}; found {getattr(self, name)!r}")

    @property
    def flow(self) -> ShallowWater:
        """Constants of the flow."""
        return ShallowWater(self.length, self.depth, coriolis=self.coriolis, damping_time=self.damping_time)

    def template(self) -> xr.Dataset:
        """The whole record, lazy and empty."""
        shape = (self.trajectories, self.steps, self.cells, self.cells)
        empty = da.zeros(shape, dtype=np.float32, chunks=(1, *shape[1:]))
        return self._dataset([empty] * (len(STATE) + len(FLUXES)), range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """The named trajectories, one after the other on one thread, in memory as float32.

        Raises:
            InputError: a number is out of range, or the time step is too long for the flow.
        """
        if not all(0 <= k < self.trajectories for k in trajectories):
            raise InputError(f"ShallowWaterFluxes has trajectories 0 to {self.trajectories - 1}; found {trajectories}")
        found = []
        with one_thread():
            for number, trajectory in enumerate(trajectories):
                found.append(self._run(trajectory))
                if progress:
                    progress(number + 1, len(trajectories))
        return self._dataset(list(np.stack(found, 1)), trajectories)

    def _run(self, trajectory: int) -> np.ndarray:
        """The saved means and fluxes of one trajectory, ``float32[variable, time, y, x]``."""
        solver = Solver(self.flow, self.cells * self.factor, self.time_step, getattr(torch, self.precision))
        modes = solver.modes(self.initial(trajectory))
        stride = round(self.save_interval / self.time_step)
        modes = solver.advance(modes, round(self.spin_up / self.time_step)) if self.spin_up else modes
        saved = []
        for instant in range(self.steps):
            modes = solver.advance(modes, stride) if instant else modes
            u, v, eta = solver.fields(modes).double()
            saved.append(fluxes(torch.stack([u, v, eta + self.depth]), self.factor))
        return torch.stack(saved, 1).float().numpy()

    def initial(self, trajectory: int) -> Float[Tensor, "3 y x"]:
        """Geostrophically balanced eddies and a divergent wind of random phases, from (seed, trajectory) alone."""
        n = self.cells * self.factor
        ky, kx = np.meshgrid(np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n, indexing="ij")
        size = np.hypot(kx, ky)
        band = (size >= self.wavenumbers[0]) & (size <= self.wavenumbers[1])
        rng = np.random.default_rng([self.seed, trajectory])
        stream, potential = (np.fft.rfft2(rng.standard_normal((n, n))) * band / np.maximum(size, 1) for _ in range(2))
        unit = 2j * math.pi / self.length
        curl = np.stack([-unit * ky * stream, unit * kx * stream])
        gradient = np.stack([unit * kx * potential, unit * ky * potential])
        eddies, waves = (np.fft.irfft2(part, s=(n, n)) for part in (curl, gradient))
        scale = self.eddy_speed / np.sqrt((eddies**2).sum(0).mean())
        wind = scale * eddies + self.wave_speed / np.sqrt((waves**2).sum(0).mean()) * waves
        eta = self.coriolis / self.flow.gravity * scale * np.fft.irfft2(stream, s=(n, n))
        return torch.from_numpy(np.stack([*wind, eta]))

    def _dataset(self, fields: Sequence, trajectories: Sequence[int]) -> xr.Dataset:
        spacing = self.length / self.cells
        position = {"units": "m", "comment": "middle of the cell; periodic"}
        places = ("y", "x")
        coords = {
            "trajectory": ("trajectory", np.asarray(trajectories, np.int64), {"units": "1"}),
            "time": ("time", np.arange(self.steps) * self.save_interval, {"units": "s", "axis": "T"}),
            **{d: (d, (np.arange(self.cells) + 0.5) * spacing, {**position, "axis": d.upper()}) for d in places},
        }
        attrs = {name: {"units": units, "long_name": words} for name, (units, words) in STATE.items()}
        for name, (units, pair) in FLUXES.items():
            words = f"covariance of {pair.replace(' ', ' and ')} within the cell"
            attrs[name] = {"units": units, "long_name": words, "covariance_of": pair}
        variables = {name: (DIMS, field, own) for (name, own), field in zip(attrs.items(), fields, strict=True)}
        return xr.Dataset(variables, coords, self._attributes())

    def _attributes(self) -> dict[str, str | float]:
        n = self.cells * self.factor
        described = {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": asdict(self)}
        return {
            "Conventions": "CF-1.11",
            "title": f"Rotating shallow water on {self.cells} x {self.cells} cells, with the fluxes within them",
            "periodic": "y x",
            "numerics": f"Fourier pseudo-spectral, {n} x {n} points, Runge-Kutta of order 4, {self.precision}",
            "source": f"workbench {__version__} with torch {torch.__version__}",
            "simulation": json.dumps(described),
        }


def fluxes(fields: Float[Tensor, "3 y x"], factor: int) -> Float[Tensor, "8 cy cx"]:
    """Means of u, v, h over cells of ``factor`` points along each side, and the covariances `FLUXES` within them."""
    means = cell_means(fields, factor)
    where = {name: number for number, name in enumerate(STATE)}
    pairs = [[where[name] for name in pair.split()] for _, pair in FLUXES.values()]
    covariances = [cell_means(fields[a] * fields[b], factor) - means[a] * means[b] for a, b in pairs]
    return torch.cat([means, torch.stack(covariances)])


def cell_means(fields: Float[Tensor, "*c y x"], factor: int) -> Float[Tensor, "*c cy cx"]:
    """Means over cells."""
    return fields.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).mean((-3, -1))


def _multiple(value: float, unit: float, least: int) -> bool:
    """Whether ``value / unit`` is a whole number, at least ``least``."""
    ratio = value / unit if unit > 0 else math.nan
    return ratio >= least and abs(ratio - round(ratio)) <= 1e-9 * max(1.0, ratio)
