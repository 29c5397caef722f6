"""Incompressible flow between two walls: direct or large-eddy simulation, batched over trajectories.

    ∂u/∂t + u·∇u = −∇p + ∇·[(ν + ν_t)(∇u + ∇uᵀ)] + G x̂,    ∇·u = 0,    u = 0 at y = 0 and y = 2

Lengths are in half heights, velocities in that of the centre line of the laminar flow of the same rate (whose bulk
velocity is 2/3), and ν = 1/Re. G is constant, or holds the bulk velocity.

Space: second order on staggered cells (`channel_momentum`). Time: Wray's three-step Runge–Kutta scheme with a
projection in every step. Projections and the correction of the flow rate are linear, so that order three holds for the
velocity too. Viscosity is explicit: on the grids of the presets its limit, 2.51 / (ν times the largest eigenvalue of
the Laplacian), is four times their step or more, so that an implicit step would buy nothing.

Sources: Harlow & Welch 1965, Phys. Fluids 8, 2182 (cells); Spalart, Moser & Rogers 1991, J. Comput. Phys. 96, 297,
appendix A (Runge–Kutta coefficients, after Wray); Le & Moin 1991, J. Comput. Phys. 92, 369 (projection in sub-steps).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InputError
from workbench.simulate.channel_grid import ChannelGrid
from workbench.simulate.channel_momentum import CACHED, Layout, Momentum, Views, fill_periodic, mirror_at_walls
from workbench.simulate.channel_poisson import Poisson

STAGES = ((8 / 15, 0.0), (5 / 12, -17 / 60), (3 / 4, -5 / 12))
"""Weights of the tendency and of that of the stage before, in units of Δt."""
ADVECTION_LIMIT, DIFFUSION_LIMIT = math.sqrt(3), 2.51
"""Where the stability region of a third-order Runge–Kutta scheme meets the imaginary and the real axis."""


class Velocity(NamedTuple):
    """Velocities on the staggered cells of a `ChannelGrid`; those at the walls are part of `v`."""

    u: Float[Tensor, "batch ny nx nz"]
    v: Float[Tensor, "batch ny+1 nx nz"]
    w: Float[Tensor, "batch ny nx nz"]


Closure = Callable[[Velocity, ChannelGrid], Float[Tensor, "batch ny nx nz"]]
"""Eddy viscosity at cell centres, from the velocity."""


class ChannelSolver:
    """Advances velocities in time, every trajectory of the batch by the same step.

    A processor takes as many trajectories at once as its cache holds: four at once took a third longer than one after
    the other at 32 × 64 × 32. A GPU takes all.

    Args:
        grid: cells.
        viscosity: ν ≥ 0.
        bulk_velocity: volume mean of u, held at this value; or
        pressure_gradient: G = −dP/dx, constant. Exactly one of the two.
        closure: eddy viscosity of a large-eddy simulation, evaluated once a step; None: direct simulation.
        dtype: float32 or float64.
        device: where to compute.

    Raises:
        InputError: the viscosity is out of range, or not exactly one of the drives is given.
    """

    def __init__(
        self,
        grid: ChannelGrid,
        viscosity: float,
        *,
        bulk_velocity: float | None = None,
        pressure_gradient: float | None = None,
        closure: Closure | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        if not 0 <= viscosity < math.inf:
            raise InputError(f"ChannelSolver: viscosity must be zero or positive; found {viscosity}")
        if (bulk_velocity is None) == (pressure_gradient is None):
            raise InputError(
                "ChannelSolver: expected either bulk_velocity or pressure_gradient; found "
                f"bulk_velocity={bulk_velocity}, pressure_gradient={pressure_gradient}"
            )
        self.grid, self.viscosity, self.closure = grid, viscosity, closure
        self.bulk_velocity, self.pressure_gradient = bulk_velocity, pressure_gradient
        self.dtype, self.device = dtype, torch.device(device)
        self.layout = Layout(grid.points)
        self.poisson = Poisson(grid, dtype, self.device)
        self._heights = torch.as_tensor(grid.heights, dtype=dtype, device=self.device)
        self._diffusion = viscosity * largest_eigenvalue(grid)

    def advance(self, velocity: Velocity, time_step: float, steps: int, first_step: int = 0) -> Velocity:
        """Velocity after `steps` steps; `first_step` only numbers them in error messages.

        Raises:
            InputError: the step exceeds the admissible one, the velocity is not finite, or it is of another grid.
        """
        self._check_shape(velocity)
        together = len(velocity.u) if self.device.type != "cpu" else max(1, CACHED // self.layout.size)
        ends = []
        for parts in zip(*(field.split(together) for field in velocity), strict=True):
            march = _March(self, Velocity(*parts), time_step)
            for step in range(first_step, first_step + steps):
                march.step(step)
            ends.append(march.velocity())
        return Velocity(*(torch.cat(fields) for fields in zip(*ends, strict=True)))

    def project(self, velocity: Velocity) -> Velocity:
        """The nearest solenoidal velocity, with the bulk velocity set where that is the drive.

        Raises:
            InputError: the velocity is of another grid.
        """
        self._check_shape(velocity)
        march = _March(self, velocity, 1.0)
        march.project()
        return march.velocity()

    def tendency(self, velocity: Velocity) -> Velocity:
        """Advection and viscous (also subgrid) stress, N of `channel_momentum`, before any projection.

        Raises:
            InputError: the velocity is of another grid.
        """
        self._check_shape(velocity)
        march = _March(self, velocity, 1.0)
        march.state.zero_()
        momentum = _March(self, velocity, 1.0)
        momentum.close()
        momentum.momentum.tendency(march.state.unbind())
        for field, unit in zip(march.state, momentum.momentum.units, strict=True):
            field.mul_(unit)
        return march.velocity()

    def admissible_time_step(self, velocity: Velocity) -> float:
        """Largest Δt with (Δt max Σ∣uᵢ∣/Δxᵢ / √3)² + (Δt ν Λ / 2.51)² ≤ 1, Λ the largest eigenvalue of −∇².

        This half ellipse lies inside the stability region of every third-order Runge–Kutta scheme of three stages.
        """
        self._check_shape(velocity)
        return _March(self, velocity, 1.0).admissible_time_step()

    def friction_velocity(self, velocity: Velocity) -> Float[Tensor, "batch"]:
        """u_τ = √(ν ∣dU/dy∣) at the walls, mean of both, as the scheme's momentum balance has it."""
        mean = velocity.u.double().mean((-2, -1))
        gradient = mean[:, 0] / (self.grid.heights[0] / 2) + mean[:, -1] / (self.grid.heights[-1] / 2)
        return (self.viscosity * gradient.abs() / 2).sqrt()

    def _check_shape(self, velocity: Velocity) -> None:
        nx, ny, nz = self.grid.points
        batch = len(velocity.u)
        expected = {"u": (batch, ny, nx, nz), "v": (batch, ny + 1, nx, nz), "w": (batch, ny, nx, nz)}
        for name, field in velocity._asdict().items():
            if tuple(field.shape) != expected[name] or field.dtype != self.dtype:
                raise InputError(
                    f"ChannelSolver: expected {name} as {self.dtype} {expected[name]} (batch, y, x, z) for a grid of "
                    f"{nx} x {ny} x {nz} cells; found {field.dtype} {tuple(field.shape)}"
                )


def largest_eigenvalue(grid: ChannelGrid) -> float:
    """Of −∇² for u and w on the cells of `grid`; that for v is smaller."""
    along = sum(4 / d**2 for d, n in zip(grid.spacing, grid.points[::2], strict=True) if n > 1)
    gaps = grid.gaps.copy()
    gaps[[0, -1]] /= 2  # the wall is half a cell away
    diagonal = (1 / gaps[1:] + 1 / gaps[:-1]) / grid.heights
    beside = -1 / gaps[1:-1] / np.sqrt(grid.heights[1:] * grid.heights[:-1])
    return along + float(np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))[-1])


class _March:
    """The buffers of one call of `ChannelSolver.advance`, and the steps on them."""

    def __init__(self, solver: ChannelSolver, velocity: Velocity, time_step: float) -> None:
        self.solver, self.time_step, self.layout = solver, time_step, solver.layout
        nx, ny, nz = self.points = solver.grid.points
        layout, batch = self.layout, len(velocity.u)
        self.state = torch.zeros(3, batch, layout.size, dtype=solver.dtype, device=solver.device)
        layout.box(self.state[0], 1, ny)[..., 1:-1, 1:-1] = velocity.u
        layout.box(self.state[1], 1, ny)[..., 1:-1, 1:-1] = velocity.w
        layout.box(self.state[2], 0, ny)[..., 1:-1, 1:-1] = velocity.v
        self.momentum = Momentum(solver.grid, solver.viscosity, self.state)
        self._now, self._before = torch.zeros_like(self.state).unbind(), torch.zeros_like(self.state).unbind()
        self._potential, self._divergence = torch.zeros_like(self.state[0]), torch.zeros_like(self.state[0])
        self._per_gap = layout.per_row(1 / solver.grid.gaps[1:-1], self.state)
        self._per_height = layout.per_row(1 / solver.grid.heights, self.state)
        self._mean = self._weights_of_mean()
        self._rows, self._fields = Views(layout), self.state.unbind()
        self._divergence_box, self._potential_box = (layout.box(f, 1, ny) for f in (self._divergence, self._potential))
        u, w, _ = self._fields
        self._u_first, self._u_behind = layout.box(u, 1, ny)[..., 1, :], layout.box(u, 1, ny)[..., -1, :]
        self._w_first, self._w_behind = layout.box(w, 1, ny)[..., 1], layout.box(w, 1, ny)[..., -1]
        self._fill()

    def _weights_of_mean(self) -> Tensor:
        """What a buffer is multiplied with to have its mean over the volume ``[size]``; zero on images."""
        nx, ny, nz = self.points
        weights = torch.zeros(self.layout.size, dtype=self.state.dtype, device=self.state.device)
        heights = self.solver._heights[:, None, None]
        self.layout.box(weights, 1, ny)[:, 1:-1, 1:-1] = heights / (2 * nx * nz)
        return weights

    def velocity(self) -> Velocity:
        """The velocities, out of their buffers."""
        ny = self.points[1]
        u, w, v = self.state
        inner = [self.layout.box(f, first, ny)[..., 1:-1, 1:-1].clone() for f, first in ((u, 1), (v, 0), (w, 1))]
        return Velocity(*inner)

    def step(self, number: int) -> None:
        """One time step."""
        self._check(number)
        self.close()
        for now, before in STAGES:
            self.momentum.tendency(self._now)
            self._add(self._now, now * self.time_step)
            if before:
                self._add(self._before, before * self.time_step)
            if self.solver.pressure_gradient is not None:
                self.state[0].add_(self.solver.pressure_gradient * (now + before) * self.time_step)
            self.project()
            self._now, self._before = self._before, self._now

    def _add(self, tendency: tuple[Tensor, ...], weight: float) -> None:
        ny = self.points[1]
        for field, part, unit, last in zip(self._fields, tendency, self.momentum.units, (ny, ny, ny - 1), strict=True):
            self._rows(field, 1, last).add_(self._rows(part, 1, last), alpha=weight * unit)

    def project(self) -> None:
        """Take off the gradient of φ with ∇²φ = ∇·u, and set the bulk velocity."""
        layout, rows, ny = self.layout, self._rows, self.points[1]
        (dx, dz), x = self.solver.grid.spacing, self.layout.along_x
        u, w, v = self._fields
        self._u_behind.copy_(self._u_first)
        self._w_behind.copy_(self._w_first)
        divergence = rows(self._divergence, 1, ny)
        torch.sub(rows(v, 1, ny), rows(v, 0, ny - 1), out=divergence)
        layout.by_row(divergence).mul_(self._per_height)
        divergence.add_(rows(u, 1, ny, x), alpha=1 / dx).sub_(rows(u, 1, ny), alpha=1 / dx)
        divergence.add_(rows(w, 1, ny, 1), alpha=1 / dz).sub_(rows(w, 1, ny), alpha=1 / dz)
        self.solver.poisson.solve(self._divergence_box, out=self._potential_box)
        potential = rows(self._potential, 1, ny)
        rows(u, 1, ny).sub_(potential, alpha=1 / dx).add_(rows(self._potential, 1, ny, -x), alpha=1 / dx)
        rows(w, 1, ny).sub_(potential, alpha=1 / dz).add_(rows(self._potential, 1, ny, -1), alpha=1 / dz)
        below = rows(self._divergence, 1, ny - 1)
        torch.sub(rows(self._potential, 1, ny - 1), rows(self._potential, 2, ny), out=below)
        layout.by_row(rows(v, 1, ny - 1)).addcmul_(layout.by_row(below), self._per_gap)
        if self.solver.bulk_velocity is not None:
            u.add_(self.solver.bulk_velocity - torch.mv(u, self._mean)[:, None])
        self._fill()

    def _fill(self) -> None:
        fill_periodic(self.layout, self.state)
        mirror_at_walls(self.layout, self.state[:2])

    def close(self) -> None:
        """Evaluate the eddy viscosity, if there is a closure."""
        if self.solver.closure is None:
            return
        eddy = torch.zeros_like(self.state[0])
        model = self.solver.closure(self.velocity(), self.solver.grid)
        self.layout.box(eddy, 1, self.points[1])[..., 1:-1, 1:-1] = model
        fill_periodic(self.layout, eddy)
        mirror_at_walls(self.layout, eddy)
        self.momentum.set_eddy_viscosity(eddy)

    def admissible_time_step(self) -> float:
        """See `ChannelSolver.admissible_time_step`."""
        layout, ny = self.layout, self.points[1]
        (dx, dz), (u, w, v) = self.solver.grid.spacing, self._fields
        rate, part = self._rows(self._divergence, 1, ny), self._rows(self._potential, 1, ny)
        torch.abs(self._rows(v, 1, ny), out=rate)
        layout.by_row(rate).mul_(self._per_height)
        rate.add_(torch.abs(self._rows(u, 1, ny), out=part), alpha=1 / dx)
        rate.add_(torch.abs(self._rows(w, 1, ny), out=part), alpha=1 / dz)
        advection = rate.amax().item() / ADVECTION_LIMIT
        total = math.hypot(advection, self.solver._diffusion / DIFFUSION_LIMIT)
        return 1 / total if total else math.inf

    def _check(self, step: int) -> None:
        admissible = self.admissible_time_step()
        if self.time_step <= admissible:
            return
        where = f"at step {step} (t = {step * self.time_step:.6g} from the start)"
        if not admissible > 0:
            raise InputError(f"the velocity is not finite {where}; check the initial condition")
        raise InputError(
            f"time_step {self.time_step:.6g} exceeds the admissible {admissible:.4g} {where}: advection and viscosity "
            "on this grid allow no more; set time_step below that, with a margin"
        )
