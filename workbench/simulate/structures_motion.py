"""What drives a body between saved instants, and what a solver gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from workbench.errors import InputError
from workbench.simulate.structures_mesh import Mesh, require_attached, require_support


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
        if self.supported.shape != mesh.points.shape:
            raise InputError(
                f"supports: expected flags on the nodes {mesh.points.shape}; found {self.supported.shape}; "
                "give one flag a component of this mesh's nodes"
            )
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
