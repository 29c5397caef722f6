"""What drives a body between saved instants, and what a solver gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from workbench.errors import InputError
from workbench.simulate.structures_mesh import Mesh, require_attached, require_flags, require_support


@dataclass(frozen=True)
class Drive:
    """Loads and supports at the saved instants, and the rule between them.

    Loads are linear in time. Prescribed displacements follow the cubic spline through the saved values that starts at
    rest or at a given velocity, so that their velocity and acceleration, which act on the body too, are continuous.

    Attributes:
        interval: between saved instants, in s.
        loads: nodal forces ``[time, *nodes, dim]`` in N (2D: N per metre of thickness).
        supported: ``bool[*nodes, dim]``, which components are prescribed.
        prescribed: displacements ``[time, *nodes, dim]`` in m, used where `supported`; None for none.
        speed: velocity of the supports at the first instant ``[*nodes, dim]`` in m/s; None for rest.
    """

    interval: float
    loads: np.ndarray
    supported: np.ndarray
    prescribed: np.ndarray | None = None
    speed: np.ndarray | None = None

    def check(self, mesh: Mesh) -> None:
        """Compare with the mesh.

        Raises:
            InputError: arrays do not fit, a load is on a missing node, or supports leave a rigid mode.
        """
        require_flags(mesh, self.supported)
        if self.prescribed is not None and self.prescribed.shape != self.loads.shape:
            raise InputError(
                f"supports: expected displacements of the shape of the loads, {self.loads.shape}; found "
                f"{self.prescribed.shape}"
            )
        for name, values in (("loads", self.loads), ("supports", self.prescribed)):
            if values is not None and not np.isfinite(values).all():
                at = int(np.argmax(~np.isfinite(values).reshape(len(values), -1).all(1)))
                raise InputError(f"{name}: values are not finite, first at saved instant {at}; correct them")
        require_support(mesh, self.supported)
        require_attached(mesh, self.loads)

    def support_motion(self) -> CubicSpline | None:
        """Time to displacement of the supported components ``[component]``; None where nothing moves."""
        if self.prescribed is None:
            return None
        values = self.prescribed[:, self.supported]
        if not values.any():
            return None
        times = np.arange(len(values)) * self.interval
        rest = np.zeros(values.shape[1])
        return CubicSpline(
            times, values, bc_type=((1, rest if self.speed is None else self.speed[self.supported]), (2, rest))
        )


class DriveBatch:
    """What drives several trajectories on one mesh, with the trajectory as the last axis.

    Args:
        drives: one a trajectory, of the same number of instants and interval.
        mass: lumped, ``[node, trajectory]`` in kg.
        damping: α in 1/s, one a trajectory.
    """

    def __init__(self, drives: Sequence[Drive], mass: np.ndarray, damping: Sequence[float]) -> None:
        self.interval = drives[0].interval
        self.mass, self.damping = mass[:, None], np.asarray(damping, float)
        nodes, dim = len(mass), drives[0].loads.shape[-1]
        self.shape = (nodes, dim, len(drives))
        self.loads = np.stack([d.loads.reshape(-1, nodes, dim) for d in drives], -1)
        self.held = np.stack([d.supported.reshape(nodes, dim) for d in drives], -1)
        self.free = ~self.held & (self.mass > 0)
        self._moving = [(b, motion) for b, d in enumerate(drives) if (motion := d.support_motion()) is not None]

    def load(self, step: int, substeps: int) -> np.ndarray:
        """Nodal forces ``[node, dim, trajectory]`` after a number of steps, `substeps` of them in an interval."""
        instant, part = divmod(step, substeps)
        share = part / substeps
        return (1 - share) * self.loads[instant] + share * self.loads[instant + 1] if part else self.loads[instant]

    def hold(self, values: np.ndarray, time: float, order: int = 0) -> None:
        """Put the prescribed displacement (order 0), velocity (1) or acceleration (2) into supported components."""
        values[self.held] = 0
        for b, motion in self._moving:
            values[..., b][self.held[..., b]] = motion(time, order)

    def reaction(self, internal: np.ndarray, load: np.ndarray, time: float) -> np.ndarray:
        """Force of moving supports on the body, zero elsewhere; `internal` is what the body resists with."""
        reaction = np.zeros(self.shape)
        for b, motion in self._moving:
            held = self.held[..., b]
            mass = np.broadcast_to(self.mass[..., b], held.shape)[held]
            inertia = mass * (motion(time, 2) + self.damping[b] * motion(time, 1))
            reaction[..., b][held] = inertia + (internal - load)[..., b][held]
        return reaction


@dataclass(frozen=True)
class Motion:
    """A computed trajectory at the saved instants.

    Attributes:
        displacement, velocity: ``[time, node, dim]`` in m and m/s.
        kinetic, strain: energies ``[time]`` in J.
        work: done by loads and moved supports since the start, ``[time]`` in J.
    """

    displacement: np.ndarray
    velocity: np.ndarray
    kinetic: np.ndarray
    strain: np.ndarray
    work: np.ndarray

    def scaled(self, factor: float) -> Motion:
        """Of a linear body under loads `factor` times as large."""
        square = factor**2
        return Motion(
            factor * self.displacement,
            factor * self.velocity,
            square * self.kinetic,
            square * self.strain,
            square * self.work,
        )
