"""Neo-Hookean solids, implicitly: generalised-α with Newton's method, the tangent factored in band storage.

    (1 − α_m) M a₁ + α_m M a₀ + (1 − α_f) r₁ + α_f r₀ = 0,    r = f_int(u) + α M v − f(t)

The mass is lumped, as in the explicit scheme, so that both integrate the same equations. Trajectories are computed one
by one: the arrays of one stay in the cache, and tangents of eight together took twice as long each.

Sources: Chung & Hulbert 1993, J. Appl. Mech. 60, 371, eqs. 10–17 and 25 (scheme); Erlicher, Bonaventura & Bursi 2002,
Comput. Mech. 28, 83 (internal forces of both instants, weighted); Bonet & Wood 2008, Nonlinear Continuum Mechanics for
Finite Element Analysis, sec. 6.4.3 and 9.4 (elasticity of the law, tangent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
import scipy.sparse as sp
from scipy.linalg.lapack import dpbsv

from workbench.errors import InputError
from workbench.simulate.structures_elements import Elements
from workbench.simulate.structures_linear import GeneralisedAlpha
from workbench.simulate.structures_motion import Drive, DriveBatch, Motion
from workbench.simulate.structures_neohookean import NeoHookeanBatch, cofactor

TOLERANCE = 1e-8
"""Of the residual of a step, over the largest of internal, external and inertial forces."""
ROUNDING = 1e-14
"""Strain below which a residual is rounding, whatever the forces."""
ITERATIONS = 12
"""Corrections in a step, at most."""

State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Displacement, velocity, acceleration and internal force ``[node, dim, 1]``."""


@dataclass(frozen=True)
class Bands:
    """Where entries of element matrices go in the lower bands of a symmetric matrix.

    Attributes:
        elements: of the mesh.
        free: ``bool[node, dim]``, the components to solve for.
    """

    elements: Elements
    free: np.ndarray

    @cached_property
    def dofs(self) -> np.ndarray:
        """The free degrees of freedom, slice by slice along the longest axis, so that few bands do."""
        mesh = self.elements.mesh
        places = np.arange(self.free.size).reshape(*mesh.nodes, mesh.dim)
        order = np.moveaxis(places, int(np.argmax(mesh.solid.shape)), 0).ravel()
        return order[self.free.ravel()[order]]

    @cached_property
    def _entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, rows and columns of those of ``[element, corner, i, 2, corner, j]`` that are in the lower half.

        The second of the two matrices side by side has its components i and j exchanged.
        """
        number = np.full(self.free.size, -1)
        number[self.dofs] = np.arange(len(self.dofs))
        count, _ = self.elements.dofs.shape
        numbers = number[self.elements.dofs].reshape(count, -1, self.elements.mesh.dim)
        a_i, b_j = numbers[:, :, :, None, None], numbers[:, None, None]
        a_j, b_i = numbers[:, :, None, None], numbers[:, None, :, :, None].swapaxes(2, 3)
        shape = (count, numbers.shape[1], numbers.shape[2], *numbers.shape[1:])
        rows, columns = (
            np.stack([np.broadcast_to(part, shape) for part in pair], 3).ravel() for pair in ((a_i, a_j), (b_j, b_i))
        )
        used = np.flatnonzero((rows >= columns) & (columns >= 0))
        return used, rows[used], columns[used]

    @cached_property
    def width(self) -> int:
        """Bands, the diagonal included."""
        _, rows, columns = self._entries
        return int((rows - columns).max()) + 1

    @cached_property
    def collect(self) -> sp.csr_array:
        """Sum the entries into the bands, ``[(dof, band), entry]``."""
        entries, rows, columns = self._entries
        size = (len(self.dofs) * self.width, 2 * self.elements.dofs.size * self.elements.dofs.shape[1])
        places = (columns * self.width + rows - columns, entries)
        return sp.coo_array((np.ones(len(entries)), places), shape=size).tocsr()


class Tangent:
    """Derivative of the internal forces of a body by its displacements.

        ∂f_ai/∂u_bj = ∫ λ h_ai h_bj + (μ − λ ln J) h_aj h_bi + μ ∂N_a/∂X·∂N_b/∂X δ_ij dV,    h_a = F⁻ᵀ ∂N_a/∂X

    Args:
        body: a batch of one.
        bands: of its mesh and supports.
    """

    def __init__(self, body: NeoHookeanBatch, bands: Bands) -> None:
        self.body, self.bands = body, bands
        self._lame = [part.reshape(bands.elements.weights.shape) for part in body.lame]

    @cached_property
    def _constant(self) -> np.ndarray:
        """The last term in bands, ``[(dof, band)]``."""
        elements = self.body.elements
        g = elements.gradients
        scalar = np.einsum("eq,eqak,eqbk->eab", elements.weights * self._lame[1], g, g, optimize=True)
        both = np.einsum("eab,ij,m->eaimbj", scalar, np.eye(elements.mesh.dim), [1.0, 0.0])
        return self.bands.collect @ both.ravel()

    def at(self, displacement: np.ndarray) -> np.ndarray:
        """Lower bands ``[dof, band]`` of the free components in N/m, at a displacement ``[node, dim, 1]``."""
        g, weights, (lam, mu) = self.body.elements.gradients, self.body.elements.weights, self._lame
        count, gauss, corners, dim = g.shape
        j, cof = cofactor(self.body.deformation_gradient(displacement)[..., 0])
        inverse = np.ascontiguousarray((cof / j).reshape(dim, dim, count, gauss).transpose(2, 3, 1, 0))
        h = (g @ inverse).reshape(count, gauss, corners * dim)
        log = np.log(j).reshape(count, gauss)
        factors = np.stack([weights * lam, weights * (mu - lam * log)], -1)
        both = h.swapaxes(1, 2) @ (factors[..., None] * h[:, :, None]).reshape(count, gauss, -1)
        found: np.ndarray = self.bands.collect @ both.ravel() + self._constant
        return found.reshape(-1, self.bands.width)


def march(
    batch: NeoHookeanBatch,
    drives: Sequence[Drive],
    substeps: int,
    spectral_radius: float = 0.9,
    initial: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Motion]:
    """Advance every trajectory through its saved instants, implicitly.

    Args:
        batch: the trajectories.
        drives: loads and supports, one a trajectory, of the same number of instants and interval.
        substeps: steps between two saved instants.
        spectral_radius: of generalised-α.
        initial: displacement and velocity ``[node, dim, batch]``; at rest by default.

    Raises:
        InputError: a drive does not fit, or Newton's method does not converge.
    """
    layouts: dict[bytes, Bands] = {}
    found = []
    for b, drive in enumerate(drives):
        body = batch.member(b)
        driven = body.driven([drive])
        bands = layouts.setdefault(driven.held.tobytes(), Bands(batch.elements, driven.free[..., 0]))
        run = _March(Tangent(body, bands), driven, substeps, spectral_radius)
        found += run.run(None if initial is None else (initial[0][..., b : b + 1], initial[1][..., b : b + 1]))
    return found


class _March:
    """State of one run."""

    def __init__(self, tangent: Tangent, driven: DriveBatch, substeps: int, spectral_radius: float) -> None:
        self.body, self.tangent, self.driven, self.substeps = tangent.body, tangent, driven, substeps
        self.scheme = scheme = GeneralisedAlpha(driven.interval / substeps, spectral_radius)
        self.new = 1 - scheme.force_weight
        drag = self.new * scheme.gamma * scheme.time_step * driven.damping
        self.inertia = ((1 - scheme.mass_weight + drag) * driven.mass + np.zeros(driven.shape)).ravel()
        stiffness = self.body.elements.weights.ravel() * self.body.lame[1][:, 0]
        slopes = abs(self.body.elements.gradient_operator).T @ np.tile(stiffness, driven.shape[1])
        self.rounding = ROUNDING * float(np.linalg.norm(slopes))

    def run(self, initial: tuple[np.ndarray, np.ndarray] | None) -> list[Motion]:
        """March and save."""
        driven = self.driven
        load = driven.loads[0]
        u, v, a, force = state = self._start(initial)
        reaction, work = driven.reaction(force, load, 0.0), np.zeros(1)
        saved = [(u, v, work)]
        for step in range(1, (len(driven.loads) - 1) * self.substeps + 1):
            later = driven.load(step, self.substeps)
            before, state = state, self._step(state, load, later, step)
            u, v, a, force = state
            now = driven.reaction(force, later, step * self.scheme.time_step)
            work = work + 0.5 * ((load + later + reaction + now) * (u - before[0])).sum((0, 1))
            load, reaction = later, now
            if step % self.substeps == 0:
                saved.append((u, v, work))
        return self.body.motions(saved)

    def _start(self, initial: tuple[np.ndarray, np.ndarray] | None) -> State:
        """Initial state with the acceleration that satisfies the equation of motion."""
        driven = self.driven
        u, v = np.zeros((2, *driven.shape)) if initial is None else (x.copy() for x in initial)
        driven.hold(u, 0.0)
        driven.hold(v, 0.0, 1)
        force, least = self.body.internal_force(u)
        if not least > 0:
            self._report(0, 0, np.nan, f", and an element is turned over at the start (least det F {least[0]:.3g})")
        a = np.where(driven.free, (driven.loads[0] - force) / np.where(driven.mass > 0, driven.mass, 1), 0)
        a -= driven.damping * v
        driven.hold(a, 0.0, 2)
        return u, v, a, force

    def _step(self, state: State, load: np.ndarray, later: np.ndarray, step: int) -> State:
        """One step; the first guess goes on at the old velocity."""
        scheme, driven, mass = self.scheme, self.driven, self.driven.mass
        dt, (u, v, a, force) = scheme.time_step, state
        known = scheme.mass_weight * mass * a + scheme.force_weight * (mass * driven.damping * v + force - load)
        a1 = (1 - 0.5 / scheme.beta) * a
        u1, v1 = u + dt * v, v + dt * ((1 - scheme.gamma) * a + scheme.gamma * a1)
        for order, values in enumerate((u1, v1, a1)):
            driven.hold(values, step * dt, order)
        share, reason, corrections = np.nan, "", 0
        while True:
            force, least = self.body.internal_force(u1)
            if not least > 0:
                reason = f", and an element turns over (least det F {least[0]:.3g})"
                break
            residual = known + (1 - scheme.mass_weight) * mass * a1
            residual += self.new * (mass * driven.damping * v1 + force - later)
            size, largest = _norm(residual[driven.free]), max(map(_norm, (known, force, later, mass * a1)))
            if size <= TOLERANCE * largest + self.rounding:
                return u1, v1, a1, force
            share = size / largest
            if corrections == ITERATIONS:
                break
            change = self._correction(u1, residual)
            if change is None:
                reason = ", and the tangent is not positive definite"
                break
            a1 += change
            v1 += scheme.gamma * dt * change
            u1 += scheme.beta * dt**2 * change
            corrections += 1
        return self._report(step, corrections, share, reason)

    def _correction(self, u: np.ndarray, residual: np.ndarray) -> np.ndarray | None:
        """Change of the acceleration that Newton's method asks for; None if the matrix is not positive definite."""
        dofs = self.tangent.bands.dofs
        matrix = self.new * self.scheme.beta * self.scheme.time_step**2 * self.tangent.at(u)
        matrix[:, 0] += self.inertia[dofs]
        _, solution, failed = dpbsv(matrix.T, residual.ravel()[dofs], lower=1, overwrite_ab=1)
        if failed:
            return None
        change = np.zeros(residual.size)
        change[dofs] = -solution
        return change.reshape(residual.shape)

    def _report(self, step: int, corrections: int, share: float, reason: str) -> NoReturn:
        raise InputError(
            f"{self.body.labels[0]}: Newton's method does not converge in step {step} (time "
            f"{step * self.scheme.time_step:.4g} s): after {corrections} corrections the residual is {share:.3g} of "
            f"the forces, expected at most {TOLERANCE:g}{reason}; take more steps between saved instants than "
            f"{self.substeps} (substeps), or smaller loads"
        )


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(values))
