"""Compressible neo-Hookean solids at large deformation: total Lagrangian, explicit, many trajectories at once.

    Ψ(F) = μ/2 (tr FᵀF − 3) − μ ln J + λ/2 (ln J)²,    P = ∂Ψ/∂F = μ F + (λ ln J − μ) F⁻ᵀ,    J = det F

The central difference (leapfrog) method with lumped mass needs no matrix but the gradients at the Gauss points, and
the batch is the last axis of every array.

Sources: Simo & Pister 1984, Comput. Methods Appl. Mech. Eng. 46, 201 (law); Belytschko, Liu, Moran & Elkhodary 2014,
Nonlinear Finite Elements, box 6.1 (method), sec. 6.2 (admissible step from the elements' eigenvalues).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from workbench.errors import InputError
from workbench.simulate.structures_elements import Elements, Kinematics, Material, in_space, require_fitting
from workbench.simulate.structures_motion import Drive, DriveBatch, Motion


def cofactor(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and cof F = J F⁻ᵀ of ``[dim, dim, ...]`` (the plane's F_zz is 1)."""
    if len(f) == 2:
        cof = np.empty_like(f)
        cof[0, 0], cof[1, 1] = f[1, 1], f[0, 0]
        np.negative(f[1, 0], out=cof[0, 1, ...])
        np.negative(f[0, 1], out=cof[1, 0, ...])
        return f[0, 0] * f[1, 1] - f[0, 1] * f[1, 0], cof
    cof = np.stack([np.cross(f[i - 2], f[i - 1], axis=0) for i in range(3)])
    return (f[0] * cof[0]).sum(0), cof


def first_piola(f: np.ndarray, lame: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """P and J of deformation gradients ``[dim, dim, ...]``, λ and μ ``[...]``; not finite where J ≤ 0."""
    (lam, mu), (j, stress) = lame, cofactor(f)
    with np.errstate(invalid="ignore", divide="ignore"):
        stress *= (lam * np.log(j) - mu) / j
    stress += mu * f
    return stress, j


def energy_density(f: np.ndarray, lame: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Ψ in J/m³, arguments as of `first_piola`."""
    (lam, mu), (j, _) = lame, cofactor(f)
    log = np.log(j)
    return mu / 2 * ((f**2).sum((0, 1)) - len(f)) - mu * log + lam / 2 * log**2


def cauchy_stress(gradient: np.ndarray, material: Material) -> tuple[np.ndarray, np.ndarray]:
    """σ = P Fᵀ/J and the Green–Lagrange strain (FᵀF − 1)/2 of H = ∂u/∂X.

    Args:
        gradient: ``[..., element, dim, dim]``; a plane problem is one of plane strain.
        material: of each element.

    Returns:
        σ in Pa and strain, ``[..., element, 3, 3]``.
    """
    f = in_space(gradient) + np.eye(3)
    stress, j = first_piola(np.moveaxis(f, (-2, -1), (0, 1)), material.lame("solid"))
    cauchy = np.moveaxis(stress, (0, 1), (-2, -1)) @ f.swapaxes(-1, -2) / j[..., None, None]
    return cauchy, (f.swapaxes(-1, -2) @ f - np.eye(3)) / 2


def critical_time_step(elements: Elements, material: Material, kinematics: Kinematics) -> float:
    """Admissible Δt of the undeformed body in s: 2/ω of the stiffest element by itself, at most that of the body."""
    stiffness = elements.element_stiffness(material.lame(kinematics))
    share = np.einsum("eq,qa->ea", elements.weights, elements.values) * material.density[:, None]
    root = np.sqrt(share.repeat(elements.mesh.dim, 1))
    square = np.linalg.eigvalsh(stiffness / root[:, :, None] / root[:, None, :])[:, -1]
    return float(2 / np.sqrt(square.max()))


@dataclass(frozen=True)
class NeoHookeanBatch:
    """Trajectories on one mesh, each with its material and damping.

    Attributes:
        elements: the mesh, integrated.
        materials: one a trajectory.
        mass_damping: α in 1/s, one a trajectory.
        labels: what messages call the trajectories.

    Raises:
        InputError: a material is that of another mesh; (from `march`) a drive does not fit, the step is too long, or
            an element turns over.
    """

    elements: Elements
    materials: Sequence[Material]
    mass_damping: Sequence[float]
    labels: Sequence[str]

    def __post_init__(self) -> None:
        for material in self.materials:
            require_fitting(self.elements, material)

    @property
    def kinematics(self) -> Kinematics:
        """Of the mesh."""
        return "plane_strain" if self.elements.mesh.dim == 2 else "solid"

    def member(self, number: int) -> NeoHookeanBatch:
        """One of the trajectories, as a batch of its own."""
        one = slice(number, number + 1)
        return NeoHookeanBatch(self.elements, self.materials[one], self.mass_damping[one], self.labels[one])

    @cached_property
    def lame(self) -> tuple[np.ndarray, np.ndarray]:
        """λ and μ at the Gauss points, ``[element·gauss, batch]``."""
        gauss = self.elements.weights.shape[1]
        pairs = [material.lame("solid") for material in self.materials]
        return tuple(np.stack(part, -1).repeat(gauss, 0) for part in zip(*pairs, strict=True))  # type: ignore[return-value]

    @cached_property
    def mass(self) -> np.ndarray:
        """Lumped, ``[node, batch]``."""
        return self.elements.lumped_mass(np.stack([material.density for material in self.materials], -1))

    def deformation_gradient(self, displacement: np.ndarray) -> np.ndarray:
        """F ``[dim, dim, element·gauss, batch]`` of ``[node, dim, batch]``."""
        nodes, dim, batch = displacement.shape
        flat = self.elements.gradient_operator @ displacement.reshape(nodes, dim * batch)
        f = flat.reshape(dim, -1, dim, batch).transpose(2, 0, 1, 3)
        for i in range(dim):
            f[i, i] += 1
        return f

    def internal_force(self, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∫ P ∂N/∂X dV ``[node, dim, batch]`` in N, and the least J of each trajectory."""
        nodes, dim, batch = displacement.shape
        stress, j = first_piola(self.deformation_gradient(displacement), self.lame)
        weighted = stress.transpose(1, 2, 0, 3) * self.elements.weights.reshape(-1, 1, 1)
        force = self._transposed @ weighted.reshape(-1, dim * batch)
        return force.reshape(nodes, dim, batch), j.min(0)

    @cached_property
    def _transposed(self) -> sp.csr_array:
        return self.elements.gradient_operator.T.tocsr()

    def strain_energy(self, displacement: np.ndarray) -> np.ndarray:
        """∫ Ψ dV ``[batch]`` in J."""
        density = energy_density(self.deformation_gradient(displacement), self.lame)
        return self.elements.weights.reshape(-1) @ density

    def march(
        self, drives: Sequence[Drive], substeps: int, initial: tuple[np.ndarray, np.ndarray] | None = None
    ) -> list[Motion]:
        """Advance every trajectory through its saved instants, explicitly.

        Args:
            drives: loads and supports, one a trajectory, of the same number of instants and interval.
            substeps: steps between two saved instants.
            initial: displacement and velocity ``[node, dim, batch]``; at rest by default.
        """
        driven = self.driven(drives)
        self._refuse_long_step(driven.interval / substeps, substeps)
        return _March(self, driven, substeps).run(initial)

    def driven(self, drives: Sequence[Drive]) -> DriveBatch:
        """The drives of the batch, compared with the mesh."""
        for drive, label in zip(drives, self.labels, strict=True):
            try:
                drive.check(self.elements.mesh)
            except InputError as error:
                raise InputError(f"{label}: {error}") from error
        return DriveBatch(drives, self.mass, self.mass_damping)

    def motions(self, saved: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Motion]:
        """Of displacement, velocity ``[node, dim, batch]`` and work ``[batch]`` at the saved instants."""
        u, v, work = (np.stack(part) for part in zip(*saved, strict=True))
        kinetic = 0.5 * np.einsum("nb,tnib->tb", self.mass, v**2)
        strain = np.stack([self.strain_energy(each) for each in u])
        return [Motion(u[..., b], v[..., b], kinetic[:, b], strain[:, b], work[:, b]) for b in range(u.shape[-1])]

    def _refuse_long_step(self, time_step: float, substeps: int) -> None:
        for material, label in zip(self.materials, self.labels, strict=True):
            admissible = critical_time_step(self.elements, material, self.kinematics)
            if time_step > admissible:
                raise InputError(
                    f"{label}: the explicit step of {time_step:.3g} s exceeds the admissible one of "
                    f"{admissible:.3g} s; take at least {int(np.ceil(substeps * time_step / admissible / 0.6))} steps "
                    f"between saved instants instead of {substeps}"
                )


class _March:
    """State of one explicit run; velocities lie half a step behind displacements."""

    def __init__(self, batch: NeoHookeanBatch, driven: DriveBatch, substeps: int) -> None:
        self.batch, self.driven, self.substeps = batch, driven, substeps
        self.time_step = driven.interval / substeps
        self.inverse_mass = np.where(driven.free, 1 / np.where(driven.mass > 0, driven.mass, 1), 0)

    def run(self, initial: tuple[np.ndarray, np.ndarray] | None) -> list[Motion]:
        """March and save."""
        driven, damping = self.driven, self.driven.damping
        u, v = np.zeros((2, *driven.shape)) if initial is None else (x.copy() for x in initial)
        last = (len(driven.loads) - 1) * self.substeps
        work, reaction, moved = np.zeros(driven.shape[2]), np.zeros(driven.shape), np.zeros(driven.shape)
        load = driven.loads[0]
        saved = []
        driven.hold(u, 0.0)
        for step in range(last + 1):
            later = driven.load(step, self.substeps)
            force, least = self.batch.internal_force(u)
            if not (least > 0).all():
                self._report_turned(step, least)
            now = driven.reaction(force, later, step * self.time_step)
            work += 0.5 * ((load + later + reaction + now) * moved).sum((0, 1))
            load, reaction = later, now
            push = self.inverse_mass * (later - force)
            if step == 0:
                v -= 0.5 * self.time_step * (push - damping * v)
            drag = 0.5 * self.time_step * damping
            ahead = ((1 - drag) * v + self.time_step * push) / (1 + drag)
            if step % self.substeps == 0:
                middle = 0.5 * (v + ahead)
                driven.hold(middle, step * self.time_step, 1)
                saved.append((u.copy(), middle, work.copy()))
            v = ahead
            if step < last:
                moved = self.time_step * v
                after = u + moved
                driven.hold(after, (step + 1) * self.time_step)
                u, moved = after, after - u
        return self.batch.motions(saved)

    def _report_turned(self, step: int, least: np.ndarray) -> None:
        b = int(np.argmax(~(least > 0)))
        batch = self.batch
        admissible = critical_time_step(batch.elements, batch.materials[b], batch.kinematics)
        raise InputError(
            f"{batch.labels[b]}: an element turns over in step {step} (time {step * self.time_step:.4g} s, least "
            f"det F {least[b]:.3g}); the step is {self.time_step:.3g} s, admissible for the undeformed body "
            f"{admissible:.3g} s: take more steps between saved instants, or smaller loads"
        )
