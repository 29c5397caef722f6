"""A drawn case on the solver's mesh: body, supports, and nodal forces of the right size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from workbench.simulate.structures_cases import Case
from workbench.simulate.structures_elements import (
    Elements,
    Kinematics,
    Material,
    effective_strain,
    linear_stress,
    small_strain,
)
from workbench.simulate.structures_fields import along_axes
from workbench.simulate.structures_linear import LinearBody
from workbench.simulate.structures_mesh import COMPONENTS, ORDER, Mesh, box, interpolation, refine
from workbench.simulate.structures_motion import Drive


@dataclass(frozen=True)
class Trial:
    """One trajectory before it is computed.

    Attributes:
        case: what was drawn.
        body: on the solver's mesh; for a neo-Hookean solid that of small vibrations.
        drive: on the solver's mesh.
        frequency: the body's lowest, in Hz.
    """

    case: Case
    body: LinearBody
    drive: Drive
    frequency: float


@dataclass(frozen=True)
class Specimen:
    """What all trajectories of a record share.

    Attributes:
        elements: of the record along x, y(, z).
        lengths: along x, y(, z) in m.
        refinement: elements of the solver per element of the record and axis.
        kinematics: of the elements.
        density: in kg/m³.
        damping_ratio: of the first mode.
        strain_peak: largest effective strain under the peak load held for ever.
        supported_faces, loaded_face: such as ``x0`` and ``x1``.
    """

    elements: tuple[int, ...]
    lengths: tuple[float, ...]
    refinement: int
    kinematics: Kinematics
    density: float
    damping_ratio: float
    strain_peak: float
    supported_faces: tuple[str, ...]
    loaded_face: str

    @property
    def dim(self) -> int:
        """2 or 3."""
        return len(self.elements)

    @property
    def grid(self) -> tuple[int, ...]:
        """Elements of the record along y, x(, z)."""
        return tuple(self.elements[component] for component in ORDER[: self.dim])

    @cached_property
    def full(self) -> Elements:
        """Elements of the solver where nothing is cut out."""
        return Elements(refine(box(self.elements, self.lengths), self.refinement))

    def uniform(self, youngs_modulus: float, poissons_ratio: float) -> LinearBody:
        """The full body of one material."""
        material = Material.uniform(self.full.mesh, youngs_modulus, poissons_ratio, self.density)
        return LinearBody(self.full, material, self.supported, self.kinematics)

    @cached_property
    def supported(self) -> np.ndarray:
        """``bool[*nodes, dim]`` on the solver's mesh, where nothing is cut out."""
        supported = np.zeros(self.full.mesh.points.shape, bool)
        for face in self.supported_faces:
            supported[self._face(face)] = True
        return supported

    def _face(self, name: str) -> tuple[slice | int, ...]:
        """Index of a face in the grid of nodes."""
        axis = ORDER[COMPONENTS.index(name[0])]
        return tuple((0 if name[1] == "0" else -1) if a == axis else slice(None) for a in range(self.dim))

    @property
    def record_nodes(self) -> tuple[slice, ...]:
        """Index of the record's nodes in the solver's grid of nodes."""
        return tuple([slice(None, None, self.refinement)] * self.dim)

    def record_mesh(self, case: Case) -> Mesh:
        """The record's own mesh."""
        return box(self.elements, self.lengths, case.solid)

    @cached_property
    def to_solver(self) -> list[np.ndarray]:
        """Linear interpolation from the record's nodes to the solver's, along each axis."""
        return interpolation(self.elements, self.refinement)

    def trial(self, case: Case, interval: float) -> Trial:
        """A case on the solver's mesh, saved every `interval` seconds.

        Raises:
            InputError: its supports leave a rigid mode, or its load lies on a cut-out.
        """
        body = self.body(case.solid, case.youngs_modulus, case.poissons_ratio)
        load = self.unit_load(case)
        loads = case.course.reshape(-1, *[1] * load.ndim) * load
        drive = Drive(interval, loads, body.supported, self._prescribed(case))
        drive.check(body.elements.mesh)
        frequency = float(body.natural_frequencies()[0])
        drive = replace(drive, loads=loads * self._peak_load(case, body, load))
        return Trial(case, replace(body, mass_damping=4 * math.pi * self.damping_ratio * frequency), drive, frequency)

    def body(
        self, solid: np.ndarray, youngs_modulus: np.ndarray, poissons_ratio: np.ndarray, mass_damping: float = 0.0
    ) -> LinearBody:
        """The body on the solver's mesh, of what is known of the record's elements ``[*elements]``."""
        mesh = box(self.elements, self.lengths, solid)
        elements = self.full if solid.all() else Elements(refine(mesh, self.refinement))
        modulus, ratio = (self._spread(field)[elements.mesh.solid] for field in (youngs_modulus, poissons_ratio))
        material = Material(modulus, ratio, np.full_like(modulus, self.density))
        supported = self.supported & elements.mesh.attached[..., None]
        return LinearBody(elements, material, supported, self.kinematics, mass_damping)

    def _spread(self, field: np.ndarray) -> np.ndarray:
        """From elements of the record to those of the solver."""
        for axis in range(self.dim):
            field = field.repeat(self.refinement, axis)
        return field

    def _prescribed(self, case: Case) -> np.ndarray | None:
        """Displacements of the supports ``[time, *nodes, dim]``; None where they stand still."""
        if not case.support_course.any():
            return None
        course = case.support_course.reshape(-1, *[1] * self.dim, self.dim)
        return self.supported * course * self.lengths[0]

    def unit_load(self, case: Case) -> np.ndarray:
        """Nodal forces ``[*nodes, dim]`` on the solver's mesh of a Gaussian traction of 1 Pa at its peak.

        The traction is linear between the record's nodes, so that the record's nodal forces determine it.
        """
        traction = np.ones(())
        for centre, width, axis in zip(case.centre, case.width, self._across, strict=True):
            patch = np.exp(-0.5 * ((np.linspace(0, 1, self.grid[axis] + 1) - centre) / width) ** 2)
            traction = traction[..., None] * (self._line_mass(axis) @ patch)
        load = np.zeros(self.full.mesh.points.shape)
        load[self._face(self.loaded_face)] = traction[..., None] * case.direction
        return load

    def spread_load(self, loads: np.ndarray) -> np.ndarray:
        """From the record's nodal forces to the solver's, ``[..., *nodes, dim]``, both of the same traction.

        The inverse of the way from the solver's to the record's, which keeps the work in the record's displacements.
        """
        face = (..., *self._face(self.loaded_face), slice(None))
        maps = [
            self._line_mass(axis) @ np.linalg.inv(self.to_solver[axis].T @ self._line_mass(axis))
            for axis in self._across
        ]
        lead = loads.shape[: -self.dim - 1]
        spread = np.zeros((*lead, *self.full.mesh.points.shape))
        spread[face] = along_axes(maps, loads[face], first=len(lead))
        return spread

    @property
    def _across(self) -> list[int]:
        """Axes of the grid that the loaded face extends along."""
        normal = ORDER[COMPONENTS.index(self.loaded_face[0])]
        return [axis for axis in range(self.dim) if axis != normal]

    def _line_mass(self, axis: int) -> np.ndarray:
        """From a traction at the record's nodes along an axis to forces at the solver's."""
        nodes = len(self.to_solver[axis])
        mass = np.diag(np.full(nodes, 4.0)) + np.diag(np.ones(nodes - 1), 1) + np.diag(np.ones(nodes - 1), -1)
        mass[0, 0] = mass[-1, -1] = 2
        return self.lengths[ORDER[axis]] / (nodes - 1) / 6 * mass @ self.to_solver[axis]

    def _peak_load(self, case: Case, body: LinearBody, load: np.ndarray) -> float:
        """Factor that brings the static response to the drawn displacement, or to the largest strain if less."""
        static = body.static(load)
        stretch = np.linalg.norm(static, axis=-1).max() / self.lengths[0]
        gradient = body.elements.displacement_gradient(static)
        _, strain = linear_stress(small_strain(gradient), body.material, self.kinematics)
        return float(min(case.static_peak / stretch, self.strain_peak / effective_strain(strain).max()))
