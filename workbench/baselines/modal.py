"""Linear modal model of a structure: few modes of the training set, and a linear step of them driven by the loads.

    u(t) = Φ z(t),  u̇(t) = Φ w(t),    [z, w](t+1) = A(m) [z, w](t) + B(m) f(t) + C(m) f(t+1)

Φ holds the leading proper orthogonal modes of the training displacements, f the loads (and motion of the supports) in
modes of their own. The matrices are polynomials of the trajectory's material m, fitted by ridge regression on the
steps of the training part. Number of modes, degree and ridge are those with the least error of whole validation
trajectories, among those that are stable. For one material and a linear scheme the step is exact where the modes hold
the motion.

Sources: Sirovich 1987, Q. Appl. Math. 45, 561 (modes); Proctor, Brunton & Kutz 2016, doi:10.1137/15M1013857, eq. 3.3
(dynamic mode decomposition with control).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np

from workbench.errors import InputError

MODES = (2, 4, 8, 16, 32)
DEGREES = (0, 1, 2, 3)
RIDGES = (1e-10, 1e-6, 1e-3)
MOST_UNKNOWNS = 1500
"""Of one regression: its normal equations are solved in about half a second."""
MOST_GROWTH = 2.0
"""Of a free motion over a trajectory, at most; models that grow more are the last choice."""
LATTICE = 6
"""Points along each property of the material at which a model has to be stable."""
LOAD_SHARE = 1e-8
"""Loads leave out modes with less than this share of the energy of the first."""


@dataclass(frozen=True)
class Trajectories:
    """Motions to fit or to check a modal model on.

    Attributes:
        displacement, velocity: ``[trajectory, time, dof]``.
        loads: ``[trajectory, time, force]``, known at all times.
        material: ``[trajectory, property]``; no property is a model of one material.
    """

    displacement: np.ndarray
    velocity: np.ndarray
    loads: np.ndarray
    material: np.ndarray


@dataclass(frozen=True)
class ModalModel:
    """A fitted model.

    Attributes:
        basis: Φ ``[dof, mode]``, orthonormal.
        load_basis: ``[force, load mode]``, in units of the loads' scale.
        speed: w is measured in this many units of z, so that the regression weighs both alike.
        centre, spread: of each property of the material.
        degree: of the polynomials in the material.
        step: ``[term, 2 modes + 2 load modes, 2 modes]``, from the state, the old and the new loads to the new state.
    """

    basis: np.ndarray
    load_basis: np.ndarray
    speed: float
    centre: np.ndarray
    spread: np.ndarray
    degree: int
    step: np.ndarray

    @property
    def definition(self) -> str:
        """In words."""
        return f"{self.basis.shape[1]} modes, degree {self.degree} in the material (chosen on the validation part)"

    def forecast(
        self, displacement: np.ndarray, velocity: np.ndarray, loads: np.ndarray, material: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Displacement and velocity ``[trajectory, time, dof]`` from a start, which is the first instant.

        Args:
            displacement: at the start, ``[trajectory, dof]``.
            velocity: at the start, ``[trajectory, dof]``.
            loads: ``[trajectory, time, force]``, from the start on.
            material: ``[trajectory, property]``.
        """
        terms = polynomial((material - self.centre) / self.spread, self.degree)
        matrix = np.einsum("nt,tij->nij", terms, self.step)
        forces = loads @ self.load_basis
        state = np.concatenate([displacement @ self.basis, velocity @ self.basis / self.speed], -1)
        states = [state]
        with np.errstate(over="ignore", invalid="ignore"):  # an unstable model leaves the finite numbers, and shows it
            for t in range(1, loads.shape[1]):
                seen = np.concatenate([states[-1], forces[:, t - 1], forces[:, t]], -1)
                states.append(np.einsum("ni,nij->nj", seen, matrix))
            z, w = np.split(np.stack(states, 1), 2, -1)
            return z @ self.basis.T, self.speed * w @ self.basis.T


def polynomial(values: np.ndarray, degree: int) -> np.ndarray:
    """All products of up to `degree` of the properties ``[trajectory, property]``, the constant first."""
    terms = [np.ones(len(values))]
    for order in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(values.shape[1]), order):
            terms.append(values[:, chosen].prod(1))
    return np.stack(terms, 1)


def fit_modal(train: Trajectories, validation: Trajectories) -> ModalModel:
    """The model with the least relative L2 error of the validation displacements, from their first instants.

    Models that grow without loads somewhere in the range of the training materials come last: a motion may have a
    material between those that were tried.

    Raises:
        InputError: the training part is too short for the smallest model.
    """
    every = _modes(train.displacement, max(MODES))
    load_basis = _modes(train.loads, train.loads.shape[-1], LOAD_SHARE)
    load_basis = load_basis / max(float((train.loads @ load_basis).std()), np.finfo(float).tiny)
    centre, spread = train.material.mean(0), train.material.std(0)
    varied = spread > 1e-6 * np.maximum(np.abs(centre), 1e-12)
    spread = np.where(varied, spread, np.inf)  # a property that never varies has no say
    sizes = sorted({min(n, every.shape[1]) for n in MODES})
    degrees = DEGREES if varied.any() else DEGREES[:1]
    found = [
        (_error(model, validation), model)
        for modes, degree in product(sizes, degrees)
        for model in _fits(train, every[:, :modes], load_basis, centre, spread, degree)
    ]
    ranked = [model for _, model in sorted(found, key=lambda pair: pair[0])]
    if not ranked:
        raise InputError(
            f"the modal baseline has more unknowns than the {train.loads.shape[0]} training trajectories have steps: "
            "train on more of them, or leave modal out of evaluate.baselines"
        )
    steps = train.loads.shape[1] - 1
    return next((m for m in ranked if _growth(m, train.material) ** steps <= MOST_GROWTH), ranked[0])


def _modes(values: np.ndarray, count: int, share: float = 1e-14) -> np.ndarray:
    """Leading eigenvectors ``[dof, mode]`` of the second moment of ``[trajectory, time, dof]``, `count` at most."""
    flat = values.reshape(-1, values.shape[-1])
    energy, vectors = np.linalg.eigh(flat.T @ flat)
    energy, vectors = energy[::-1], vectors[:, ::-1]
    kept = min(count, max(int((energy > share * energy[0]).sum()), 1))
    return vectors[:, :kept]


def _fits(
    train: Trajectories,
    basis: np.ndarray,
    load_basis: np.ndarray,
    centre: np.ndarray,
    spread: np.ndarray,
    degree: int,
) -> Sequence[ModalModel]:
    """One model for each ridge; none where there would be more unknowns than steps to fit, or than can be solved."""
    z, w = train.displacement @ basis, train.velocity @ basis
    tiny = np.finfo(float).tiny
    speed = max(float(w.std()), tiny) / max(float(z.std()), tiny)
    terms = polynomial((train.material - centre) / spread, degree)
    unknowns = terms.shape[1] * 2 * (basis.shape[1] + load_basis.shape[1])
    if unknowns > min(MOST_UNKNOWNS, len(z) * (z.shape[1] - 1)):
        return []
    scale = max(float(z.std()), tiny)  # of the state, so that state and loads are of size one
    state, forces = np.concatenate([z, w / speed], -1) / scale, train.loads @ load_basis
    seen = np.concatenate([state[:, :-1], forces[:, :-1], forces[:, 1:]], -1)
    gram, cross = np.zeros((unknowns, unknowns)), np.zeros((unknowns, state.shape[-1]))
    for row, weights, later in zip(seen, terms, state[:, 1:], strict=True):
        x = (weights[:, None] * row[:, None, :]).reshape(len(row), -1)
        gram += x.T @ x
        cross += x.T @ later
    level = np.trace(gram) / unknowns
    models = []
    for ridge in RIDGES:
        found = np.linalg.solve(gram + ridge * level * np.eye(unknowns), cross)
        step = found.reshape(terms.shape[1], -1, state.shape[-1])
        step[:, state.shape[-1] :] *= scale
        models.append(ModalModel(basis, load_basis, speed, centre, spread, degree, step))
    return models


def _growth(model: ModalModel, material: np.ndarray) -> float:
    """Largest factor of a free step, over a lattice in the range of the materials."""
    axes = [np.linspace(least, most, LATTICE) for least, most in zip(material.min(0), material.max(0), strict=True)]
    points = np.stack([grid.ravel() for grid in np.meshgrid(*axes)], 1)
    terms = polynomial((points - model.centre) / model.spread, model.degree)
    size = model.step.shape[2]
    free = np.einsum("nt,tij->nij", terms, model.step[:, :size])
    return float(np.abs(np.linalg.eigvals(free)).max())


def _error(model: ModalModel, check: Trajectories) -> float:
    found, _ = model.forecast(check.displacement[:, 0], check.velocity[:, 0], check.loads, check.material)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = ((found - check.displacement) ** 2).sum((1, 2)) / np.maximum(
            (check.displacement**2).sum((1, 2)), np.finfo(float).tiny
        )
        error = float(np.sqrt(squares).mean())
    return error if np.isfinite(error) else np.inf
