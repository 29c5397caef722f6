"""Vibrating beams and blocks as the source of a dataset: random loads, materials and geometries, computed and recorded.

    ρ ∂²u/∂t² + α ρ ∂u/∂t = ∇·P(∇u),    P n = t on the loaded face,    u given on the supported ones

P is Hooke's law at small strain, or a compressible neo-Hookean solid at large. The solver's mesh is `refinement` times
as fine along each axis as the record, in which it is sampled; what drives it is drawn on the record's grid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import skfem
import xarray as xr

from workbench import __version__
from workbench.errors import InputError
from workbench.simulate.structures_cases import Ranges
from workbench.simulate.structures_elements import Kinematics
from workbench.simulate.structures_fields import along_axes, components, moving_fields, round_nodes, solid_share
from workbench.simulate.structures_march import Integrator, Law, advance
from workbench.simulate.structures_mesh import COMPONENTS, ORDER
from workbench.simulate.structures_motion import Motion
from workbench.simulate.structures_neohookean import critical_time_step
from workbench.simulate.structures_record import HISTORIES, structures_record, variables
from workbench.simulate.structures_rules import refuse_bad_arguments
from workbench.simulate.structures_trials import Specimen, Trial

if TYPE_CHECKING:
    from workbench.simulate.structures_candidates import StructuresCoarsening

BATCH = 32
"""Trajectories of one mesh that are computed together."""
IMPLICIT_STEPS = 4
"""Steps of an implicit solver between saved instants."""
EXPLICIT_SAFETY = 0.6
"""Share of the admissible step of the undeformed body; elements get stiffer and smaller as they deform."""


@dataclass(frozen=True)
class Structures:
    """Independent trajectories of an elastic body under varying loads, from rest.

    Args:
        elements: of the record along x, y(, z).
        lengths: of the body along x, y(, z) in m.
        refinement: elements of the solver per element of the record, along each axis.
        law: ``linear`` (small strain) or ``neo_hookean``.
        integrator: ``explicit`` (neo-Hookean only, its default) or ``implicit``.
        plane: what a 2D problem assumes across the plane, ``strain`` or ``stress``; neo-Hookean is ``strain``.
        supported_faces: of the box, clamped: a component and a side, ``x0`` the near and ``x1`` the far one.
        loaded_face: where the patch of traction lies.
        intervals: saved instants after the initial one.
        periods: length of a trajectory in first periods of the reference body (middle of the material ranges).
        substeps: of the solver between saved instants; by default 4 if implicit, else what stability asks for.
        spectral_radius: of generalised-α, the implicit scheme.
        trajectories: how many there are.
        seed: of all draws.
        youngs_modulus: range in Pa, drawn log-uniformly.
        poissons_ratio: range.
        density: in kg/m³.
        damping_ratio: of the first mode; mass-proportional.
        static_peak: range of the displacement under the peak load held for ever, over the length along x.
        strain_peak: largest effective strain of small vibrations under the peak load held for ever.
        dynamic_peak: ``linear`` only: trajectories that exceed this displacement over length, or `strain_peak`, in
            their motion are scaled down, loads too.
        histories: kinds of load history.
        cutouts: kinds to choose from: ``none``, ``notch``, ``hole``.
        layouts: of the material: ``uniform``, ``layers``, ``inclusion``.
        moving_supports: share of trajectories whose supports move.

    Raises:
        InputError: a parameter is out of range.
    """

    elements: tuple[int, ...] = (8, 8)
    lengths: tuple[float, ...] = (2.0, 1.0)
    refinement: int = 1
    law: Law = "linear"
    integrator: Integrator | None = None
    plane: Literal["strain", "stress"] = "strain"
    supported_faces: tuple[str, ...] = ("x0",)
    loaded_face: str = "x1"
    intervals: int = 50
    periods: float = 2.0
    substeps: int | None = None
    spectral_radius: float = 0.9
    trajectories: int = 16
    seed: int = 0
    youngs_modulus: tuple[float, float] = (5e5, 2e6)
    poissons_ratio: tuple[float, float] = (0.25, 0.4)
    density: float = 1000.0
    damping_ratio: float = 0.03
    static_peak: tuple[float, float] = (0.01, 0.05)
    strain_peak: float = 0.05
    dynamic_peak: float = 0.05
    histories: tuple[str, ...] = HISTORIES
    cutouts: tuple[str, ...] = ("none",)
    layouts: tuple[str, ...] = ("uniform",)
    moving_supports: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        refuse_bad_arguments(vars(self))

    def coarsening(self) -> StructuresCoarsening:
        """The same cases on coarser meshes with longer steps, for ``workbench speedup``."""
        from workbench.simulate.structures_candidates import StructuresCoarsening

        return StructuresCoarsening(self)

    @property
    def dim(self) -> int:
        """2 or 3."""
        return len(self.elements)

    @property
    def kinematics(self) -> Kinematics:
        """Of the elements."""
        if self.dim == 3:
            return "solid"
        return "plane_strain" if self.plane == "strain" else "plane_stress"

    @property
    def scheme(self) -> Integrator:
        """The integrator."""
        return self.integrator or ("implicit" if self.law == "linear" else "explicit")

    @cached_property
    def specimen(self) -> Specimen:
        """What all trajectories share."""
        return Specimen(
            self.elements,
            self.lengths,
            self.refinement,
            self.kinematics,
            self.density,
            self.damping_ratio,
            self.strain_peak,
            self.supported_faces,
            self.loaded_face,
        )

    @cached_property
    def interval(self) -> float:
        """Time between saved instants in s, from the first period of the reference body."""
        modulus, ratio = math.sqrt(math.prod(self.youngs_modulus)), sum(self.poissons_ratio) / 2
        frequency = float(self.specimen.uniform(modulus, ratio).natural_frequencies()[0])
        return self.periods / frequency / self.intervals

    @cached_property
    def steps_between(self) -> int:
        """Steps of the solver between saved instants."""
        if self.substeps is not None:
            return self.substeps
        if self.scheme == "implicit":
            return IMPLICIT_STEPS
        bodies = [self.specimen.uniform(self.youngs_modulus[1], ratio) for ratio in self.poissons_ratio]
        admissible = min(critical_time_step(b.elements, b.material, b.kinematics) for b in bodies)
        return math.ceil(self.interval / (EXPLICIT_SAFETY * admissible))

    @cached_property
    def _ranges(self) -> Ranges:
        return Ranges(
            self.elements,
            self.intervals + 1,
            self.youngs_modulus,
            self.poissons_ratio,
            self.static_peak,
            self.histories,
            self.cutouts,
            self.layouts,
            self.moving_supports,
            COMPONENTS.index(self.loaded_face[0]),
        )

    def trial(self, number: int) -> Trial:
        """The case of a trajectory on the solver's mesh.

        Raises:
            InputError: it cannot be computed; the message names the trajectory.
        """
        try:
            return self.specimen.trial(self._ranges.draw(self.seed, number), self.interval)
        except InputError as error:
            raise InputError(f"trajectory {number}: {error}") from error

    def template(self) -> xr.Dataset:
        """The whole record, lazy and empty: dims, coordinates, dtypes and attributes of what `simulate` returns."""
        sizes = {"trajectory": self.trajectories, "time": self.intervals + 1}
        for axis, count in zip("yxz", self.specimen.grid, strict=False):
            sizes |= {f"node_{axis}": count + 1, f"elem_{axis}": count}
        shapes = {name: tuple(sizes[d] for d in dims) for name, (dims, _) in variables(self.dim).items()}
        empty = {n: da.zeros(shape, dtype=np.float32, chunks=-1) for n, shape in shapes.items()}
        return self._dataset(empty, range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """The named trajectories in memory, as float32.

        Args:
            trajectories: numbers from 0 to `trajectories` − 1; a number gives the same motion in any company.
            progress: called with (done, total) after every trajectory or batch of them.

        Raises:
            InputError: a number is out of range or given twice, or a case cannot be computed.
        """
        outside = [k for k in trajectories if not 0 <= k < self.trajectories]
        if outside or len(set(trajectories)) != len(trajectories) or not trajectories:
            raise InputError(
                f"Structures.simulate: expected distinct trajectory numbers from 0 to {self.trajectories - 1}; "
                f"found {list(trajectories)}"
            )
        found: dict[int, dict[str, np.ndarray]] = {}
        for batch in self._batches(trajectories):
            found |= self._compute(batch)
            if progress:
                progress(len(found), len(trajectories))
        values = {n: np.stack([found[k][n] for k in trajectories]).astype(np.float32) for n in found[trajectories[0]]}
        return self._dataset(values, trajectories)

    def _batches(self, trajectories: Sequence[int]) -> list[list[int]]:
        """Trajectories to compute together: one by one, or neo-Hookean ones of the same geometry."""
        if self.law == "linear":
            return [[k] for k in trajectories]
        alike: dict[bytes, list[int]] = {}
        for k in trajectories:
            alike.setdefault(self._ranges.draw(self.seed, k).solid.tobytes(), []).append(k)
        return [same[i : i + BATCH] for same in alike.values() for i in range(0, len(same), BATCH)]

    def _compute(self, numbers: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
        """Variables of the record of each trajectory, without the trajectory axis."""
        trials = [self.trial(k) for k in numbers]
        bodies, drives = [t.body for t in trials], [t.drive for t in trials]
        labels = [f"trajectory {k}" for k in numbers]
        motions = advance(self.law, self.scheme, bodies, drives, labels, self.steps_between, self.spectral_radius)
        return {k: self._record(t, m) for k, t, m in zip(numbers, trials, motions, strict=True)}

    def _record(self, trial: Trial, motion: Motion) -> dict[str, np.ndarray]:
        """All variables of one trajectory, scaled down where a linear one leaves small strain."""
        moving = self._moving(trial, motion)
        factor = 1.0
        if self.law == "linear":
            reach = np.linalg.norm(motion.displacement, axis=-1).max() / self.lengths[0]
            factor = min(1.0, self.dynamic_peak / reach, self.strain_peak / moving["effective_strain"].max())
            moving = self._moving(trial, motion.scaled(factor))
        return {**moving, **self._driving(trial, factor), **self._fixed(trial)}

    def _moving(self, trial: Trial, motion: Motion) -> dict[str, np.ndarray]:
        body = trial.body
        return moving_fields(motion, body.elements, body.material, self.law, self.kinematics, self.refinement)

    def _driving(self, trial: Trial, factor: float) -> dict[str, np.ndarray]:
        """Loads, as the nodal forces that do the same work in the record's displacements, and support motion."""
        drive = trial.drive
        loads = along_axes([matrix.T for matrix in self.specimen.to_solver], drive.loads, first=1)
        prescribed = np.zeros_like(loads)
        if drive.prescribed is not None:
            prescribed = drive.prescribed[:, *self.specimen.record_nodes]
        return {**components("load", factor * loads), **components("support_displacement", factor * prescribed)}

    def _fixed(self, trial: Trial) -> dict[str, np.ndarray]:
        """What does not change in time."""
        case, mesh = trial.case, self.specimen.record_mesh(trial.case)
        held = self.specimen.supported[self.specimen.record_nodes] & mesh.attached[..., None]
        density = np.full(case.solid.shape, self.density)
        material = {"youngs_modulus": case.youngs_modulus, "poissons_ratio": case.poissons_ratio, "density": density}
        return {
            **components("support", held.astype(float)),
            **components("position", mesh.points),
            **{name: np.where(case.solid, field, 0) for name, field in material.items()},
            **{f"node_{name}": round_nodes(field, case.solid) for name, field in material.items()},
            "solid": case.solid.astype(float),
            "node_solid": solid_share(case.solid),
            "node_damping": np.full(mesh.nodes, trial.body.mass_damping),
            "natural_frequency": np.array(trial.frequency),
        }

    def _dataset(self, values: dict[str, Any], trajectories: Sequence[int]) -> xr.Dataset:
        times = np.arange(self.intervals + 1) * self.interval
        axes = [np.linspace(0, self.lengths[ORDER[a]], n + 1) for a, n in enumerate(self.specimen.grid)]
        histories = [self._ranges.history_of(self.seed, k) for k in trajectories]
        return structures_record(values, trajectories, times, axes, self._attributes(), histories)

    def _attributes(self) -> dict[str, str | float | int]:
        """What a reader needs to know the body and to compute it again."""
        small = self.law == "linear"
        shape = "linear elasticity at small strain" if small else "compressible neo-Hookean solid at large deformation"
        scheme = "explicit central differences"
        if self.scheme == "implicit":
            scheme = f"implicit generalised-alpha (spectral radius {self.spectral_radius:g})"
        scheme += f", {'consistent' if small else 'lumped'} mass"
        step = self.interval / self.steps_between
        kind = "bilinear quadrilaterals" if self.dim == 2 else "trilinear hexahedra"
        fine = " x ".join(str(n * self.refinement) for n in self.elements)
        return {
            "title": f"Vibrating {'beam' if self.dim == 2 else 'block'}, {shape}",
            "equation": "rho d2u/dt2 + alpha rho du/dt = div P, traction on one face, displacement given on others",
            "material_law": self.law,
            "kinematics": self.kinematics,
            "strain_measure": "small strain" if small else "Green-Lagrange",
            "initial_condition": "at rest, undeformed",
            "time_step": step,
            "refinement": self.refinement,
            "damping_ratio": self.damping_ratio,
            "integrator": scheme,
            "numerics": (
                f"{kind} with full integration, {fine} elements along {', '.join(COMPONENTS[: self.dim])}; {scheme}, "
                f"{self.steps_between} steps of {step:.4g} s between saved instants; loads are linear in time between "
                "them, supports follow the cubic spline through them; stresses are means over the solver's elements in "
                "an element of the record"
            ),
            "source": f"workbench {__version__} with scikit-fem {skfem.__version__}",
            "simulation": json.dumps(
                {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": asdict(self)}
            ),
        }
