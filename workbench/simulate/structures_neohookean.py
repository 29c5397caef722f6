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
from workbench.simulate.structures_elements import Elements, Kinematics, Material, in_space
from workbench.simulate.structures_motion import Drive, Motion


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
        InputError: (from `march`) a drive does not fit, the step is too long, or an element turns over.
    """

    elements: Elements
    materials: Sequence[Material]
    mass_damping: Sequence[float]
    labels: Sequence[str]

    @property
    def kinematics(self) -> Kinematics:
        """Of the mesh."""
        return "plane_strain" if self.elements.mesh.dim == 2 else "solid"

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
        """Advance every trajectory through its saved instants.

        Args:
            drives: loads and supports, one a trajectory, of the same number of instants and interval.
            substeps: steps between two saved instants.
            initial: displacement and velocity ``[node, dim, batch]``; at rest by default.
        """
        mesh = self.elements.mesh
        for drive, label in zip(drives, self.labels, strict=True):
            try:
                drive.check(mesh)
            except InputError as error:
                raise InputError(f"{label}: {error}") from error
        self._refuse_long_step(drives[0].interval / substeps, substeps)
        return _March(self, drives, substeps).run(initial)

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
    """State of one run; velocities lie half a step behind displacements."""

    def __init__(self, batch: NeoHookeanBatch, drives: Sequence[Drive], substeps: int) -> None:
        self.batch, self.drives, self.substeps = batch, drives, substeps
        mesh = batch.elements.mesh
        self.interval = drives[0].interval
        self.time_step = self.interval / substeps
        self.shape = (mesh.count, mesh.dim, len(drives))
        self.loads = np.stack([d.loads.reshape(len(d.loads), *self.shape[:2]) for d in drives], -1)
        held = np.stack([d.supported.reshape(self.shape[:2]) for d in drives], -1)
        free = ~held & mesh.attached.reshape(-1, 1, 1)
        self.inverse_mass = np.where(free, 1 / np.where(batch.mass > 0, batch.mass, 1)[:, None], 0)
        self.damping = np.asarray(batch.mass_damping, float)
        self.moving = [(b, m) for b, d in enumerate(drives) if (m := d.support_motion()) is not None]
        self.held = held

    def run(self, initial: tuple[np.ndarray, np.ndarray] | None) -> list[Motion]:
        """March and save."""
        u, v = (np.zeros(self.shape), np.zeros(self.shape)) if initial is None else (x.copy() for x in initial)
        last = (len(self.loads) - 1) * self.substeps
        work, reaction, moved = np.zeros(self.shape[2]), np.zeros(self.shape), np.zeros(self.shape)
        load = self.loads[0]
        saved = []
        self._hold(u, 0.0, 0)
        for step in range(last + 1):
            instant, part = divmod(step, self.substeps)
            share = part / self.substeps
            later = (1 - share) * self.loads[instant] + share * self.loads[instant + 1] if part else self.loads[instant]
            force, least = self.batch.internal_force(u)
            if not (least > 0).all():
                self._report_turned(step, least)
            now = self._reaction(force, later, step * self.time_step)
            work += 0.5 * ((load + later + reaction + now) * moved).sum((0, 1))
            load, reaction = later, now
            push = self.inverse_mass * (later - force)
            if step == 0:
                v -= 0.5 * self.time_step * (push - self.damping * v)
            drag = 0.5 * self.time_step * self.damping
            ahead = ((1 - drag) * v + self.time_step * push) / (1 + drag)
            if part == 0:
                middle = 0.5 * (v + ahead)
                self._hold(middle, step * self.time_step, 1)
                saved.append((u.copy(), middle, work.copy()))
            v = ahead
            if step < last:
                moved = self.time_step * v
                self._move(moved, u, (step + 1) * self.time_step)
                u = u + moved
        return self._motions(saved)

    def _hold(self, values: np.ndarray, time: float, order: int) -> None:
        """Prescribed displacement (order 0) or velocity (1) in the supported components."""
        values[self.held] = 0
        for b, motion in self.moving:
            values[..., b][self.held[..., b]] = motion(time, order)

    def _move(self, moved: np.ndarray, u: np.ndarray, time: float) -> None:
        """The increment of supported components that brings them where they shall be at `time`."""
        for b, motion in self.moving:
            held = self.held[..., b]
            moved[..., b][held] = motion(time) - u[..., b][held]

    def _reaction(self, force: np.ndarray, load: np.ndarray, time: float) -> np.ndarray:
        """Force of moving supports on the body, zero elsewhere."""
        reaction = np.zeros(self.shape)
        for b, motion in self.moving:
            held = self.held[..., b]
            mass = np.broadcast_to(self.batch.mass[:, b, None], held.shape)[held]
            inertia = mass * (motion(time, 2) + self.damping[b] * motion(time, 1))
            reaction[..., b][held] = inertia + (force - load)[..., b][held]
        return reaction

    def _report_turned(self, step: int, least: np.ndarray) -> None:
        b = int(np.argmax(~(least > 0)))
        batch = self.batch
        admissible = critical_time_step(batch.elements, batch.materials[b], batch.kinematics)
        raise InputError(
            f"{batch.labels[b]}: an element turns over in step {step} (time {step * self.time_step:.4g} s, least "
            f"det F {least[b]:.3g}); the step is {self.time_step:.3g} s, admissible for the undeformed body "
            f"{admissible:.3g} s: take more steps between saved instants, or smaller loads"
        )

    def _motions(self, saved: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Motion]:
        u, v, work = (np.stack(part) for part in zip(*saved, strict=True))
        kinetic = 0.5 * np.einsum("nb,tnib->tb", self.batch.mass, v**2)
        strain = np.stack([self.batch.strain_energy(each) for each in u])
        return [Motion(u[..., b], v[..., b], kinetic[:, b], strain[:, b], work[:, b]) for b in range(self.shape[2])]
