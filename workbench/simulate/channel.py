"""Turbulent flow between two walls as the source of a dataset: trajectories filtered to the nodes of a coarse record.

    ∂u/∂t + u·∇u = −∇p + ν ∇²u + G x̂,    ∇·u = 0,    0 ≤ y ≤ 2,    bulk velocity 2/3,    ν = 1/Re

Lengths are in half heights, velocities in that of the centre line of the laminar flow of the same rate. Periodic in x
and z. Source: Kim, Moin & Moser 1987, J. Fluid Mech. 177, 133 (flow); Jiménez & Moin 1991, J. Fluid Mech. 225, 213
(minimal flow unit).
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import torch
import xarray as xr

from workbench import __version__
from workbench.errors import InputError
from workbench.simulate.channel_grid import ChannelGrid
from workbench.simulate.channel_les import dynamic_smagorinsky, wale
from workbench.simulate.channel_nodes import to_nodes
from workbench.simulate.channel_record import CONVENTION, VELOCITIES, channel_record
from workbench.simulate.channel_restart import load_restart, save_restart
from workbench.simulate.channel_solver import ChannelSolver, Closure, Velocity
from workbench.simulate.threads import one_thread

if TYPE_CHECKING:
    from workbench.simulate.channel_candidates import ChannelCoarsening

CLOSURES: dict[str, Closure | None] = {"none": None, "wale": wale, "dynamic_smagorinsky": dynamic_smagorinsky}
RESTART_INTERVALS = 20
"""Save intervals between two restart files."""
TRANSITION = 40.0
"""Time in which disturbances become turbulence, with peaks that allow about half of the later time step."""


@dataclass(frozen=True)
class ChannelFlow:
    """Independent trajectories of channel flow, from disturbed laminar flow, after a spin-up.

    Args:
        nodes: of the record along x, y (both walls included) and z.
        cells: of the solver along x, y and z, multiples of those between the nodes.
        length_x, length_z: of the box.
        reynolds_number: 1/ν.
        bulk_velocity: held constant.
        friction_reynolds_number: nominal Re_τ, for the title and for those who scale by it.
        closure: of a large-eddy simulation, whose record stands beside that of a direct one; ``none``: direct.
        filtered: average over the spacing of the nodes along x and z (top hat); else only sampled.
        time_step: Δt of the solver; half of it up to time 40, while turbulence sets in.
        save_interval: time between saved fields, a multiple of `time_step`.
        steps: saved fields a trajectory.
        spin_up: time discarded before the first saved field, a multiple of `save_interval`.
        trajectories: how many there are.
        seed: of the initial disturbances.
        disturbance: their rms velocity.
        precision: of the solver; the record is float32.
        device: where torch computes.
        restart_folder: where a trajectory leaves restart files and looks for one; None: nowhere.

    Raises:
        InputError: a parameter is out of range.
    """

    nodes: tuple[int, int, int] = (16, 17, 8)
    cells: tuple[int, int, int] = (16, 32, 16)
    length_x: float = math.pi
    length_z: float = 0.35 * math.pi
    reynolds_number: float = 4200.0
    bulk_velocity: float = 2 / 3
    friction_reynolds_number: float = 180.0
    closure: Literal["none", "wale", "dynamic_smagorinsky"] = "none"
    filtered: bool = True
    time_step: float = 0.0625
    save_interval: float = 1.0
    steps: int = 40
    spin_up: float = 60.0
    trajectories: int = 8
    seed: int = 0
    disturbance: float = 0.1
    precision: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    restart_folder: str | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "cells"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        (mx, my, mz), (nx, ny, nz) = self.nodes, self.cells
        positive = ["length_x", "length_z", "reynolds_number", "bulk_velocity", "friction_reynolds_number"]
        positive += ["time_step", "save_interval", "disturbance"]
        rules = {
            "nodes": (mx >= 4 and my >= 5 and mz >= 4, "at least (4, 5, 4)"),
            "cells": (
                nx % mx == 0 and nz % mz == 0 and ny % (my - 1) == 0 and min(nx, ny, nz) >= 4,
                f"multiples of {mx} along x, {my - 1} along y and {mz} along z, what lies between the nodes",
            ),
            **{name: (0 < getattr(self, name) < math.inf, "positive") for name in positive},
            "steps": (self.steps >= 1, "at least 1"),
            "trajectories": (self.trajectories >= 1, "at least 1"),
            "seed": (self.seed >= 0, "zero or positive"),
            "closure": (self.closure in CLOSURES, " or ".join(CLOSURES)),
            "precision": (self.precision in ("float64", "float32"), "float64 or float32"),
        }
        self._refuse(rules)
        multiples = {"save_interval": self.time_step, "spin_up": self.save_interval}
        self._refuse(
            {n: (_is_multiple(getattr(self, n), unit), f"a multiple of {unit}") for n, unit in multiples.items()}
        )

    def _refuse(self, rules: dict[str, tuple[bool, str]]) -> None:
        for name, (good, expected) in rules.items():
            if not good:
                raise InputError(f"ChannelFlow: {name} must be {expected}; found {getattr(self, name)!r}")

    @property
    def grid(self) -> ChannelGrid:
        """The solver's cells."""
        return ChannelGrid(self.cells, (self.length_x, self.length_z))

    @property
    def filter_width(self) -> tuple[float, float]:
        """Of the top hat along x and z; 0 without."""
        return (self.length_x / self.nodes[0], self.length_z / self.nodes[2]) if self.filtered else (0.0, 0.0)

    def solver(self) -> ChannelSolver:
        """The simulation that makes the record: direct, or with a closure."""
        return ChannelSolver(
            self.grid,
            1 / self.reynolds_number,
            bulk_velocity=self.bulk_velocity,
            closure=CLOSURES[self.closure],
            dtype=getattr(torch, self.precision),
            device=self.device,
        )

    def template(self) -> xr.Dataset:
        """The whole record, lazy and empty: dims, coordinates, dtypes and attributes of what `simulate` returns."""
        shape = (self.trajectories, self.steps, *self.nodes)
        fields = dict.fromkeys(VELOCITIES, da.zeros(shape, dtype=np.float32, chunks=(1, *shape[1:])))
        friction = da.zeros(shape[:2], dtype=np.float32, chunks=(1, shape[1]))
        return self._dataset(fields, friction, range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """The named trajectories, one after the other on one thread, held in memory as float32.

        Args:
            trajectories: numbers from 0 to `trajectories` − 1; a number gives the same fields in any company.
            progress: called with (done, total) after every save interval, those of the spin-up included.

        Raises:
            InputError: a number is out of range or given twice, `time_step` exceeds the admissible one, or a
                restart file is damaged.
        """
        outside = [k for k in trajectories if not 0 <= k < self.trajectories]
        if outside or len(set(trajectories)) != len(trajectories) or not trajectories:
            raise InputError(
                f"ChannelFlow.simulate: expected distinct trajectory numbers from 0 to {self.trajectories - 1}; "
                f"found {list(trajectories)}"
            )
        each = round(self.spin_up / self.save_interval) + self.steps
        done = 0

        def advance_progress() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, each * len(trajectories))

        with one_thread():
            parts = [self._trajectory(k, advance_progress) for k in trajectories]
        fields = np.stack([fields for fields, _ in parts], 1)
        return self._dataset(dict(zip(VELOCITIES, fields, strict=True)), np.stack([f for _, f in parts]), trajectories)

    def coarsening(self) -> "ChannelCoarsening":
        """The same flow on other grids, with and without closure, for ``workbench speedup``."""
        from workbench.simulate.channel_candidates import ChannelCoarsening

        return ChannelCoarsening.of(self)

    def _trajectory(self, number: int, saved: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
        """Fields ``[variable, time, x, y, z]`` and friction velocity ``[time]``, float32."""
        solver = self.solver()
        stride, discarded = round(self.save_interval / self.time_step), round(self.spin_up / self.save_interval)
        fields, friction = np.zeros((3, self.steps, *self.nodes), np.float32), np.zeros(self.steps, np.float32)
        velocity, begin = self._start(solver, number, fields, friction, saved)
        for interval in range(begin, discarded + self.steps):
            if interval > 0:
                parts = 2 if interval * self.save_interval <= TRANSITION else 1
                steps = parts * stride
                velocity = solver.advance(velocity, self.time_step / parts, steps, first_step=(interval - 1) * steps)
            if interval >= discarded:
                at = interval - discarded
                fields[:, at] = to_nodes(velocity, self.grid, self.nodes, self.filter_width)[0].cpu().numpy()
                friction[at] = float(solver.friction_velocity(velocity)[0])
            if self.restart_folder and (interval + 1) % RESTART_INTERVALS == 0:
                state = {name: part.cpu().numpy() for name, part in velocity._asdict().items()}
                arrays = {**state, "fields": fields, "friction": friction, "next": np.array(interval + 1)}
                save_restart(self._restart_file(number), arrays, self._settings())
            saved()
        if self.restart_folder:
            self._restart_file(number).unlink(missing_ok=True)
        return fields, friction

    def _start(
        self, solver: ChannelSolver, number: int, fields: np.ndarray, friction: np.ndarray, saved: Callable[[], None]
    ) -> tuple[Velocity, int]:
        """Velocity and interval to begin with: a restart file's, if there is one, with what had been saved."""
        if not self.restart_folder or not self._restart_file(number).exists():
            return self.initial(solver, number), 0
        arrays = load_restart(self._restart_file(number), self._settings())
        fields[:], friction[:] = arrays["fields"], arrays["friction"]
        for _ in range(int(arrays["next"])):
            saved()
        return Velocity(*(torch.from_numpy(arrays[n]).to(solver.device) for n in Velocity._fields)), int(arrays["next"])

    def _settings(self) -> dict[str, Any]:
        """What a restart file must agree with."""
        free = ("restart_folder", "device", "trajectories")
        return {key: value for key, value in asdict(self).items() if key not in free}

    def _restart_file(self, number: int) -> Path:
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode()).hexdigest()[:12]
        return Path(str(self.restart_folder)) / f"channel-{digest}-{number}.npz"

    def initial(self, solver: ChannelSolver, number: int) -> Velocity:
        """The laminar profile with random long waves of rms `disturbance`, solenoidal, from (seed, number) alone."""
        rng = np.random.default_rng([self.seed, number])
        grid, (nx, _, nz) = self.grid, self.cells
        shift = {"u": (0.0, 0.5), "v": (0.5, 0.5), "w": (0.5, 0.0)}
        parts = []
        for name in Velocity._fields:
            waves = rng.standard_normal((2, 3, 3, 4))  # cosine and sine; 3 modes in y, 0 … 2 in x, 0 … 3 in z
            y = grid.faces if name == "v" else grid.centres
            x, z = (2 * math.pi * (np.arange(n) + s) / n for n, s in zip((nx, nz), shift[name], strict=True))
            rows = np.sin(math.pi / 2 * y[:, None] * np.arange(1, 4))
            turn = np.exp(1j * (np.arange(3)[:, None, None, None] * x[:, None] + np.arange(4)[:, None, None] * z))
            field = np.einsum("yn,nkl,klxz->yxz", rows, waves[0] - 1j * waves[1], turn).real
            field *= self.disturbance / math.sqrt((field**2).mean())
            if name == "u":
                field += 1.5 * self.bulk_velocity * (y * (2 - y))[:, None, None]
            parts.append(torch.from_numpy(field)[None].to(solver.device, solver.dtype))
        parts[1][:, [0, -1]] = 0
        return solver.project(Velocity(*parts))

    def _dataset(self, fields: dict[str, Any], friction: Any, trajectories: Sequence[int]) -> xr.Dataset:
        times = np.arange(self.steps) * self.save_interval
        variables = {**fields, "friction_velocity": friction}
        lengths = (self.length_x, self.length_z)
        return channel_record(variables, trajectories, times, self.nodes, lengths, self._attributes())

    def _attributes(self) -> dict[str, str | float]:
        """What a reader needs to know the flow and to compute it again."""
        (nx, ny, nz), (width_x, width_z) = self.cells, self.filter_width
        closure = "" if self.closure == "none" else f"large-eddy simulation, closure {self.closure}; "
        how = f"averaged over {width_x:.4g} in x and {width_z:.4g} in z" if self.filtered else "sampled"
        return {
            "title": f"Turbulent channel flow, nominal friction Reynolds number {self.friction_reynolds_number:g}",
            "equation": (
                "du/dt + u . grad(u) = -grad(p) + nu laplacian(u) + G e_x, div(u) = 0, u = 0 at y = 0 and y = 2, "
                f"G(t) such that the bulk velocity is constant; periodic in x and z; {CONVENTION}"
            ),
            "viscosity": 1 / self.reynolds_number,
            "bulk_velocity": self.bulk_velocity,
            "half_height": 1.0,
            "nominal_friction_reynolds_number": self.friction_reynolds_number,
            "filter_width_x": width_x,
            "filter_width_z": width_z,
            "initial_condition": (
                f"laminar profile with random waves of rms {self.disturbance:g} in each component, from numpy "
                f"default_rng([seed, trajectory]); the first {self.spin_up:g} time units are discarded"
            ),
            "numerics": (
                f"{closure}staggered second-order finite differences, {nx} x {ny} x {nz} cells, "
                "energy-conserving advection; "
                f"third-order Runge-Kutta (Wray), projection in every sub-step, time step {self.time_step:g}, "
                f"{self.precision}; {how} and saved as float32"
            ),
            "source": f"workbench {__version__} with torch {torch.__version__}",
            "simulation": json.dumps(
                {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": asdict(self)}
            ),
        }


def _is_multiple(value: float, unit: float) -> bool:
    """Whether value/unit is a whole number ≥ 0 to the accuracy of a decimal literal."""
    ratio = value / unit
    return math.isfinite(ratio) and ratio >= 0 and abs(ratio - round(ratio)) <= 1e-9 * max(1.0, ratio)
