"""A recorded trajectory computed again from its loads, supports and material, on its own mesh or a coarser one.

    replay = Replay.of(record)                      # or cheaper: Replay.of(record, coarser=2, integrator="implicit")
    fields = replay.march(read_conditions(record, [0]), [(u, v)])

Everything that a motion follows from is read from the record; how to compute it, from its attribute ``simulation``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.simulate.structures import BATCH, EXPLICIT_SAFETY, Structures
from workbench.simulate.structures_fields import along_axes, at_nodes, moving_fields
from workbench.simulate.structures_linear import LinearBody
from workbench.simulate.structures_march import Integrator, advance
from workbench.simulate.structures_mesh import COMPONENTS, interpolation
from workbench.simulate.structures_motion import Drive, Motion
from workbench.simulate.structures_neohookean import NeoHookeanBatch, critical_time_step
from workbench.simulate.structures_record import dims_of
from workbench.simulate.structures_trials import Specimen

Fields = dict[str, np.ndarray]
State = tuple[np.ndarray, np.ndarray]
"""Displacement and velocity ``[*nodes, dim]`` of the record's nodes."""


@dataclass(frozen=True)
class Conditions:
    """What the motion of one trajectory follows from, on the record's grid.

    Attributes:
        interval: between saved instants, in s.
        loads: nodal forces ``[time, *nodes, dim]`` in N.
        prescribed: displacements of the supports ``[time, *nodes, dim]`` in m.
        youngs_modulus, poissons_ratio: ``[*elements]``, in Pa and 1.
        solid: ``bool[*elements]``.
        mass_damping: α in 1/s.
    """

    interval: float
    loads: np.ndarray
    prescribed: np.ndarray
    youngs_modulus: np.ndarray
    poissons_ratio: np.ndarray
    solid: np.ndarray
    mass_damping: float

    def between(self, first: int, last: int) -> Conditions:
        """Those of the saved instants `first` to `last`, both included."""
        chosen = slice(first, last + 1)
        return replace(self, loads=self.loads[chosen], prescribed=self.prescribed[chosen])


def vector(dataset: xr.Dataset, name: str, lead: Sequence[str] = ()) -> np.ndarray:
    """The components of a nodal field as one array ``[*lead, *nodes, dim]``, in float64.

    Raises:
        InputError: a component is missing.
    """
    dim = int(dataset.attrs["dimension"])
    names = [f"{name}_{axis}" for axis in COMPONENTS[:dim]]
    missing = [n for n in names if n not in dataset]
    if missing:
        raise InputError(f"the record has no variable '{missing[0]}', which its motion cannot be computed without")
    order = (*lead, *dims_of("node", dim))
    return np.stack([dataset[n].transpose(*order).values.astype(np.float64) for n in names], -1)


def read_conditions(record: xr.Dataset, trajectories: Sequence[int]) -> list[Conditions]:
    """Loads, supports and material of trajectories, by their positions in the record; no displacement is read.

    Raises:
        InputError: the record lacks one of them.
    """
    source_of(record)
    axes = COMPONENTS[: int(record.attrs["dimension"])]
    names = [f"{name}_{axis}" for name in ("load", "support_displacement") for axis in axes]
    names += ["youngs_modulus", "poissons_ratio", "solid", "node_damping"]
    missing = [name for name in names if name not in record]
    if missing:
        raise InputError(f"the record has no variable '{missing[0]}', which its motion cannot be computed without")
    chosen = record[names].isel(trajectory=list(trajectories)).compute().assign_attrs(record.attrs)
    loads, prescribed = (vector(chosen, name, ("trajectory", "time")) for name in ("load", "support_displacement"))
    elements = dims_of("elem", len(axes))
    material = [chosen[n].transpose("trajectory", *elements).values.astype(np.float64) for n in names[-4:-1]]
    interval = float(np.diff(record["time"].values.astype(np.float64)).mean())
    damping = chosen["node_damping"].values.reshape(len(loads), -1)[:, 0].astype(np.float64)
    modulus, ratio, solid = material
    return [
        Conditions(interval, loads[k], prescribed[k], modulus[k], ratio[k], solid[k] > 0.5, float(damping[k]))
        for k in range(len(loads))
    ]


def source_of(record: xr.Dataset) -> Structures:
    """The simulation that a record says it was made by.

    Raises:
        InputError: it says none of a structure, or its grid is another one.
    """
    where = f"the record {record.encoding.get('source', '')}".strip()
    said = json.loads(str(record.attrs.get("simulation", "{}")))
    expected = f"{Structures.__module__}.{Structures.__qualname__}"
    if said.get("class_path") != expected:
        raise InputError(
            f"{where} cannot be computed again: expected the attribute 'simulation' of a record that {expected} made "
            f"(recipes beam_2d, beam_2d_neohookean, block_3d), found {said.get('class_path', 'none')}"
        )
    source = Structures(**said["init_args"])
    found = tuple(record.sizes[dim] for dim in dims_of("elem", source.dim) if dim in record.sizes)
    if found != source.specimen.grid:
        raise InputError(
            f"{where} cannot be computed again: its simulation has elements {source.specimen.grid} along its axes, "
            f"the record {found}; use it without data.crop"
        )
    return source


@dataclass(frozen=True)
class Replay:
    """The solver of a record on its own mesh or on a coarser one.

    Attributes:
        source: what made the record.
        specimen: the mesh to compute on; its own record's grid is `stride` times as coarse as the record's.
        stride: elements of the record per element of the specimen, along each axis; 1 unless the mesh is coarser than
            the record.
        substeps: of the solver between saved instants; None for as many as the mesh and the integrator ask for.
    """

    source: Structures
    specimen: Specimen
    stride: int = 1
    substeps: int | None = None

    @classmethod
    def of(
        cls, record: xr.Dataset, coarser: int = 1, integrator: Integrator | None = None, substeps: int | None = None
    ) -> Replay:
        """The solver of `record`; arguments and errors as of `coarser`, and of `source_of`."""
        return cls.coarser(source_of(record), coarser, substeps, integrator)

    @classmethod
    def coarser(
        cls, source: Structures, coarser: int, substeps: int | None = None, integrator: Integrator | None = None
    ) -> Replay:
        """The solver of `source`, with 1/`coarser` of its elements along each axis.

        Args:
            source: what made the record.
            coarser: elements of the record's solver per element of this one, along each axis.
            substeps: between saved instants; by default the record's on its own mesh, and what the integrator asks for
                on another one.
            integrator: ``explicit`` or ``implicit``; the record's by default.

        Raises:
            InputError: the elements cannot be divided so, or the law has no such integrator.
        """
        for name, value in (("coarser", coarser), ("substeps", substeps)):
            if value is not None and value < 1:
                raise InputError(f"a structure computed again: {name} must be at least 1; found {value}")
        if integrator not in (None, source.scheme):
            source = replace(source, integrator=integrator, substeps=None)
        specimen = source.specimen
        if specimen.refinement % coarser == 0:
            return cls(source, replace(specimen, refinement=specimen.refinement // coarser), substeps=substeps)
        if not divides(source, coarser):
            raise InputError(
                f"the record's solver has {[n * specimen.refinement for n in specimen.elements]} elements along its "
                f"axes, {specimen.refinement} per element of the record: they cannot be divided by {coarser}; choose "
                "a record whose elements can, or leave this forecast out of evaluate.baselines"
            )
        stride = coarser // specimen.refinement
        elements = tuple(n // stride for n in specimen.elements)
        return cls(source, replace(specimen, elements=elements, refinement=1), stride, substeps)

    # ------------------------------------------------------------------------------------------ the case on the mesh

    @cached_property
    def _lift(self) -> list[np.ndarray]:
        """From the specimen's nodes to the record's, along each axis, where the record is finer."""
        return interpolation(self.specimen.elements, self.stride)

    def body(self, case: Conditions) -> LinearBody:
        """The body of small vibrations on the solver's mesh.

        Raises:
            InputError: an element would be part material, part void, or of two materials.
        """
        solid, modulus, ratio = (self._merged(f) for f in (case.solid, case.youngs_modulus, case.poissons_ratio))
        return self.specimen.body(solid.astype(bool), modulus, ratio, case.mass_damping)

    def _merged(self, field: np.ndarray) -> np.ndarray:
        """Of the elements that become one, which must be alike."""
        if self.stride == 1:
            return field
        split = [part for n in field.shape for part in (n // self.stride, self.stride)]
        blocks = field.astype(np.float64).reshape(split)
        inner = tuple(range(1, 2 * field.ndim, 2))
        if np.ptp(blocks, inner).max() > 1e-6 * np.abs(blocks).max():
            raise InputError(
                "a coarser mesh than the record's would have elements that are part material, part void, or of two "
                "materials: take a finer one (in evaluate.baselines leave this forecast out), or build the record with "
                "refinement 2"
            )
        return blocks.mean(inner)

    def drive(self, case: Conditions, body: LinearBody, speed: np.ndarray | None = None) -> Drive:
        """Loads and supports on the solver's mesh; `speed` of the supports at the first instant ``[*nodes, dim]``."""
        if self.stride == 1:
            loads = self.specimen.spread_load(case.loads)
        else:  # the forces that do the same work
            loads = along_axes([matrix.T for matrix in self._lift], case.loads, first=1)
        prescribed = self._enter(case.prescribed, 1) if case.prescribed.any() else None
        return Drive(case.interval, loads, body.supported, prescribed, speed)

    def _enter(self, field: np.ndarray, lead: int = 0) -> np.ndarray:
        """From the record's nodes to the solver's, ``[*lead, *nodes, dim]``."""
        if self.stride == 1:
            return along_axes(self.specimen.to_solver, field, first=lead)
        return field[(*[slice(None)] * lead, *[slice(None, None, self.stride)] * self.source.dim)]

    # ------------------------------------------------------------------------------------------ computing

    def march(self, cases: Sequence[Conditions], starts: Sequence[State]) -> list[Fields]:
        """Everything that follows from the motion of each case, at its saved instants.

        Args:
            cases: loads, supports and material, from the start on.
            starts: displacement and velocity at the first instant.

        Returns:
            variable -> ``[time, ...]`` on the record's grid, the start included.

        Raises:
            InputError: a case cannot be computed.
        """
        bodies, motions = self.motions(cases, starts)
        return [self._fields(case, bodies[k], motions[k], self.source.law) for k, case in enumerate(cases)]

    def motions(
        self, cases: Sequence[Conditions], starts: Sequence[State]
    ) -> tuple[list[LinearBody], dict[int, Motion]]:
        """The body of each case on the solver's mesh, and its motion; arguments and errors as of `march`."""
        bodies = [self.body(case) for case in cases]
        entered = [(self._enter(u), self._enter(v)) for u, v in starts]
        drives = [self.drive(c, b, v) for c, b, (_, v) in zip(cases, bodies, entered, strict=True)]
        flat = [(u.reshape(-1, self.source.dim), v.reshape(-1, self.source.dim)) for u, v in entered]
        motions: dict[int, Motion] = {}
        for batch in _alike(cases):
            of_batch = [bodies[k] for k in batch]
            found = advance(
                self.source.law,
                self.source.scheme,
                of_batch,
                [drives[k] for k in batch],
                [f"forecast {k}" for k in batch],
                max(self._substeps(body, cases[k].interval) for k, body in zip(batch, of_batch, strict=True)),
                self.source.spectral_radius,
                [flat[k] for k in batch],
            )
            motions |= dict(zip(batch, found, strict=True))
        return bodies, motions

    def _substeps(self, body: LinearBody, interval: float) -> int:
        """Of the solver between saved instants: on its own mesh the record's, else what the coarser one asks for."""
        if self.substeps is not None:
            return self.substeps
        if self.source.scheme == "implicit" or self.specimen == self.source.specimen:
            return self.source.steps_between
        admissible = critical_time_step(body.elements, body.material, body.kinematics)
        return math.ceil(interval / (EXPLICIT_SAFETY * admissible))

    def quasi_static(self, case: Conditions) -> Fields:
        """The static response to the loads of each instant by Hooke's law; its velocity is that of the response.

        Raises:
            InputError: loads or supports do not fit the body.
        """
        body = self.body(case)
        drive = self.drive(case, body)
        drive.check(body.elements.mesh)
        displacement = body.static(drive.loads, drive.prescribed)
        velocity = np.gradient(displacement, case.interval, axis=0)
        none = np.zeros(len(displacement))
        return self._fields(case, body, Motion(displacement, velocity, none, none, none), "linear")

    def _fields(self, case: Conditions, body: LinearBody, motion: Motion, law: str) -> Fields:
        if self.stride == 1:
            refinement = self.specimen.refinement
            return moving_fields(motion, body.elements, body.material, law, body.kinematics, refinement)
        return on_record_grid(self.source, case, *self.nodal(motion), law)

    def nodal(self, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
        """Displacement and velocity ``[time, *nodes, dim]`` of the record's nodes."""
        mesh, refinement = self.specimen.full.mesh, self.specimen.refinement
        fields = motion.displacement, motion.velocity
        if self.stride == 1:
            u, v = (at_nodes(field, mesh, refinement) for field in fields)
        else:
            grids = (field.reshape(-1, *mesh.nodes, mesh.dim) for field in fields)
            u, v = (along_axes(self._lift, grid, first=1) for grid in grids)
        return u, v


def divides(source: Structures, coarser: int) -> bool:
    """Whether the solver can have 1/`coarser` of its elements along each axis, with nodes among its own."""
    if source.refinement % coarser == 0:
        return True
    stride, rest = divmod(coarser, source.refinement)
    return rest == 0 and not any(n % stride for n in source.elements)


def on_record_grid(source: Structures, case: Conditions, u: np.ndarray, v: np.ndarray, law: str) -> Fields:
    """Stress, strain and energies of a displacement and velocity ``[time, *nodes, dim]`` of the record's nodes.

    The energies are those of the record's elements; external work is not known and left out.
    """
    body = record_body(source, case)
    flat = [field.reshape(len(u), -1, source.dim) for field in (u, v)]
    kinetic, strain = energies(source, case, u, v)
    motion = Motion(flat[0], flat[1], kinetic, strain, np.zeros(len(u)))
    fields = moving_fields(motion, body.elements, body.material, law, body.kinematics, 1)
    del fields["external_work"]
    return fields


def record_body(source: Structures, case: Conditions) -> LinearBody:
    """The body on the record's own grid."""
    specimen = replace(source.specimen, refinement=1)
    return specimen.body(case.solid, case.youngs_modulus, case.poissons_ratio, case.mass_damping)


def energies(source: Structures, case: Conditions, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinetic and strain energy ``[...]`` in J of a displacement and velocity ``[..., *nodes, dim]``.

    On the record's grid, by the rules of its solver: consistent mass and Hooke's law, or lumped mass and the
    neo-Hookean law.
    """
    body = record_body(source, case)
    lead = u.shape[: -source.dim - 1]
    flat_u, flat_v = (field.reshape(math.prod(lead), -1) for field in (u, v))
    if source.law == "linear":
        kinetic = 0.5 * (flat_v * (body.mass @ flat_v.T).T).sum(1)
        strain = 0.5 * (flat_u * (body.stiffness @ flat_u.T).T).sum(1)
    else:
        copies = len(flat_u)
        batch = NeoHookeanBatch(body.elements, [body.material] * copies, [0.0] * copies, [""] * copies)
        nodes = (copies, -1, source.dim)
        kinetic = 0.5 * np.einsum("nb,bni->b", batch.mass, flat_v.reshape(nodes) ** 2)
        with np.errstate(invalid="ignore", divide="ignore"):  # a forecast may turn an element over: no energy then
            strain = batch.strain_energy(flat_u.reshape(nodes).transpose(1, 2, 0))
    return kinetic.reshape(lead), strain.reshape(lead)


def _alike(cases: Sequence[Conditions]) -> list[list[int]]:
    """Cases of the same geometry and length, in batches."""
    groups: dict[tuple[bytes, int], list[int]] = {}
    for k, case in enumerate(cases):
        groups.setdefault((case.solid.tobytes(), len(case.loads)), []).append(k)
    return [same[i : i + BATCH] for same in groups.values() for i in range(0, len(same), BATCH)]
