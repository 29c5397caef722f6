"""Two-dimensional Kolmogorov flow as the source of a dataset: trajectories of statistically steady turbulence.

    ∂ω/∂t + u·∇ω = ν ∇²ω − μ ω + curl f,    f = A sin(k_f y) x̂,    0 ≤ x, y < 2π,    Re = √A / ν

Source: Chandler & Kerswell 2013, J. Fluid Mech. 722, 554 (flow, Re); Boffetta & Ecke 2012, Annu. Rev. Fluid
Mech. 44, 427 (linear drag).
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import dask.array as da
import numpy as np
import torch
import xarray as xr

from workbench import __version__
from workbench.errors import InputError
from workbench.simulate.threads import one_thread
from workbench.simulate.vorticity import Solver, cutoff, random_vorticity, to_field, velocity_modes

if TYPE_CHECKING:
    from workbench.simulate.kolmogorov_candidates import KolmogorovCoarsening

VARIABLES = {
    "vorticity": {"units": "1", "long_name": "vorticity, dv/dx - du/dy (non-dimensional)"},
    "u": {"units": "1", "long_name": "velocity along x (non-dimensional)"},
    "v": {"units": "1", "long_name": "velocity along y (non-dimensional)"},
}
DIMS = ("trajectory", "time", "y", "x")


@dataclass(frozen=True)
class KolmogorovFlow:
    """Independent trajectories of Kolmogorov flow, from random initial conditions, after a spin-up.

    All quantities are non-dimensional.

    Args:
        resolution: points along each side of the saved grid, even.
        solver_resolution: points N along each side of the solver's grid, even; None: as `resolution`. Fields
            are cut off sharply in spectrum to what the saved grid carries.
        viscosity: ν.
        drag: μ.
        forcing_amplitude: A.
        forcing_wavenumber: k_f.
        time_step: Δt of the solver.
        save_interval: time between saved fields, a multiple of `time_step`.
        steps: saved fields a trajectory.
        spin_up: time discarded before the first saved field, a multiple of `save_interval`.
        trajectories: how many there are.
        seed: of the initial conditions.
        initial_rms: rms vorticity of the initial conditions.
        initial_wavenumber: their largest wavenumber.
        precision: of the solver; the record is float32.

    Raises:
        InputError: if a parameter is out of range.
    """

    resolution: int = 64
    solver_resolution: int | None = None
    viscosity: float = 1e-2
    drag: float = 0.1
    forcing_amplitude: float = 1.0
    forcing_wavenumber: int = 4
    time_step: float = 0.0125
    save_interval: float = 0.25
    steps: int = 40
    spin_up: float = 10.0
    trajectories: int = 32
    seed: int = 0
    initial_rms: float = 3.3
    initial_wavenumber: int = 6
    precision: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        n, k_max = self._grid, cutoff(self._grid)
        rules = {
            "resolution": (self.resolution >= 8 and self.resolution % 2 == 0, "even, at least 8"),
            "solver_resolution": (
                n >= self.resolution and n % 2 == 0,
                f"even, at least the saved resolution {self.resolution}",
            ),
            "viscosity": (0 < self.viscosity < math.inf, "positive"),
            "drag": (0 <= self.drag < math.inf, "zero or positive"),
            "forcing_amplitude": (0 < self.forcing_amplitude < math.inf, "positive"),
            "forcing_wavenumber": (
                1 <= self.forcing_wavenumber <= k_max,
                f"1 to {k_max}, the modes that {n} points keep after dealiasing",
            ),
            "time_step": (0 < self.time_step < math.inf, "positive"),
            "save_interval": (
                _is_multiple(self.save_interval, self.time_step) and self.save_interval > 0,
                f"a multiple of time_step {self.time_step}",
            ),
            "steps": (self.steps >= 1, "at least 1"),
            "spin_up": (
                _is_multiple(self.spin_up, self.save_interval),
                f"zero or a multiple of save_interval {self.save_interval}",
            ),
            "trajectories": (self.trajectories >= 1, "at least 1"),
            "seed": (self.seed >= 0, "zero or positive"),
            "initial_rms": (0 < self.initial_rms < math.inf, "positive"),
            "initial_wavenumber": (1 <= self.initial_wavenumber <= k_max, f"1 to {k_max}"),
            "precision": (self.precision in ("float64", "float32"), "float64 or float32"),
        }
        for name, (good, expected) in rules.items():
            if not good:
                raise InputError(f"KolmogorovFlow: {name} must be {expected}; found {getattr(self, name)!r}")

    @property
    def _grid(self) -> int:
        return self.resolution if self.solver_resolution is None else self.solver_resolution

    @property
    def reynolds_number(self) -> float:
        """Re = √A/ν (Chandler & Kerswell 2013, with a box of side 2π)."""
        return math.sqrt(self.forcing_amplitude) / self.viscosity

    def template(self) -> xr.Dataset:
        """The whole record, lazy and empty: dims, coordinates, dtypes and attributes of what `simulate` returns."""
        shape = (self.trajectories, self.steps, self.resolution, self.resolution)
        empty = da.zeros(shape, dtype=np.float32, chunks=(1, *shape[1:]))
        return self._dataset(dict.fromkeys(VARIABLES, empty), range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """The named trajectories, computed together on one thread and held in memory as float32.

        Args:
            trajectories: numbers from 0 to `trajectories` − 1; a number gives the same fields in any company.
            progress: called with (done, total) after every save interval, those of the spin-up included.

        Raises:
            InputError: if a number is out of range or given twice, if `time_step` exceeds the admissible one,
                or if the state is not finite.
        """
        self._check_numbers(trajectories)
        with one_thread():
            fields = self._run(trajectories, progress or (lambda done, total: None))
        return self._dataset(dict(zip(VARIABLES, fields, strict=True)), trajectories)

    def coarsening(self) -> "KolmogorovCoarsening":
        """The same flow on coarser grids with longer time steps, for ``workbench speedup``."""
        from workbench.simulate.kolmogorov_candidates import KolmogorovCoarsening

        return KolmogorovCoarsening(self)

    def _run(self, trajectories: Sequence[int], progress: Callable[[int, int], None]) -> np.ndarray:
        """The saved fields, float32 (variable, trajectory, time, y, x)."""
        solver = self._solver()
        omega = self._initial(trajectories).to(solver.dtype)
        stride = round(self.save_interval / self.time_step)
        discarded = round(self.spin_up / self.save_interval)
        shape = (len(VARIABLES), len(trajectories), self.steps, self.resolution, self.resolution)
        fields = np.empty(shape, np.float32)
        for interval in range(discarded + self.steps):
            if interval > 0:
                omega = solver.advance(omega, stride, first_step=(interval - 1) * stride)
            if interval >= discarded:
                state = torch.stack([omega, *velocity_modes(omega)])
                fields[:, :, interval - discarded] = to_field(state, self.resolution).numpy()
            progress(interval + 1, discarded + self.steps)
        return fields

    def _check_numbers(self, trajectories: Sequence[int]) -> None:
        outside = [k for k in trajectories if not 0 <= k < self.trajectories]
        if outside or len(set(trajectories)) != len(trajectories) or not trajectories:
            raise InputError(
                f"KolmogorovFlow.simulate: expected distinct trajectory numbers from 0 to {self.trajectories - 1}; "
                f"found {list(trajectories)}"
            )

    def _solver(self) -> Solver:
        return Solver(
            self._grid,
            self.time_step,
            viscosity=self.viscosity,
            drag=self.drag,
            forcing_amplitude=self.forcing_amplitude,
            forcing_wavenumber=self.forcing_wavenumber,
            dtype=getattr(torch, self.precision),
        )

    def _initial(self, trajectories: Sequence[int]) -> torch.Tensor:
        k_max, rms, band = cutoff(self._grid), self.initial_rms, self.initial_wavenumber
        return torch.stack([random_vorticity(self.seed, k, k_max, rms, band) for k in trajectories])

    def _dataset(self, fields: dict, trajectories: Sequence[int]) -> xr.Dataset:
        points = np.arange(self.resolution) * (2 * math.pi / self.resolution)
        times = np.arange(self.steps) * self.save_interval
        position = {"units": "1", "comment": "periodic with period 2 pi; the right end is left out"}
        since = "time since the end of the spin-up (non-dimensional)"
        coords = {
            "trajectory": (
                "trajectory",
                np.asarray(trajectories, np.int64),
                {"units": "1", "long_name": "trajectory number"},
            ),
            "time": ("time", times, {"units": "1", "long_name": since, "axis": "T"}),
            "y": ("y", points, {"long_name": "position along y (non-dimensional)", "axis": "Y", **position}),
            "x": ("x", points, {"long_name": "position along x (non-dimensional)", "axis": "X", **position}),
        }
        variables = {name: (DIMS, fields[name], attrs) for name, attrs in VARIABLES.items()}
        return xr.Dataset(variables, coords, self._attributes())

    def _attributes(self) -> dict[str, str | float]:
        """What a reader needs to know the flow and to compute it again."""
        n, k_max = self._grid, cutoff(self._grid)
        return {
            "Conventions": "CF-1.11",
            "title": f"Two-dimensional forced Kolmogorov flow, Re = {self.reynolds_number:g}",
            "equation": (
                "d(omega)/dt + u . grad(omega) = nu laplacian(omega) - mu omega + curl(f), "
                "f = A sin(k_f y) e_x, div(u) = 0, on the doubly periodic square [0, 2 pi)^2; non-dimensional"
            ),
            "viscosity": self.viscosity,
            "drag": self.drag,
            "forcing_amplitude": self.forcing_amplitude,
            "forcing_wavenumber": self.forcing_wavenumber,
            "reynolds_number": self.reynolds_number,
            "reynolds_number_definition": "Re = sqrt(A) / nu, box side 2 pi (Chandler and Kerswell 2013)",
            "initial_condition": (
                f"Gaussian random vorticity of rms {self.initial_rms:g}, equal variance in every mode with "
                f"0 < |k| <= {self.initial_wavenumber}, from numpy default_rng([seed, trajectory]); "
                f"the first {self.spin_up:g} time units are discarded"
            ),
            "numerics": (
                f"Fourier pseudo-spectral, {n} x {n} points, 2/3 dealiasing (|k_x|, |k_y| <= {k_max}); "
                f"integrating-factor Runge-Kutta of order 4, time step {self.time_step:g}, {self.precision}; "
                f"saved as float32 on {self.resolution} x {self.resolution} points by sharp spectral cut-off"
            ),
            "source": f"workbench {__version__} with torch {torch.__version__}",
            "simulation": json.dumps(
                {
                    "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
                    "init_args": asdict(self),
                }
            ),
        }


def _is_multiple(value: float, unit: float) -> bool:
    """Whether value/unit is a whole number ≥ 0 to the accuracy of a decimal literal."""
    ratio = value / unit if unit > 0 else math.nan
    return math.isfinite(ratio) and ratio >= 0 and abs(ratio - round(ratio)) <= 1e-9 * max(1.0, ratio)
