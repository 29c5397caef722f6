"""Regression between coefficients of modes: which linear operator carries a window of states to each lead.

Everything here is small and dense: a state is its coefficients ``z[mode]``, an operator ``P[back, mode, mode_out]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.data.starts import Problem
from workbench.data.windows import Part

MODES = (5, 10, 20, 50, 100, 200)
RIDGES = (1e-8, 1e-3, 1e-2, 1e-1, 1.0)
LARGEST_SYSTEM = 400
"""Unknowns (modes times history) of one normal equation at most: 400 are solved in about 10 ms."""
MOST_ROWS = 20_000
"""Training windows behind one normal equation at most, evenly thinned."""


def thin(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spread."""
    if len(indices) <= count:
        return np.asarray(indices)
    return np.asarray(indices)[np.linspace(0, len(indices) - 1, count).round().astype(np.int64)]


@dataclass(frozen=True)
class Samples:
    """One part of the record in the space of the modes.

    Attributes:
        problem: what is forecast.
        part: the part.
        z: coefficients ``[trajectory, time, mode]``, time counted from the first run's first state.
        total: mean over pairs of the whole anomaly's <p, q>, <p, p> and <q, q>, ``[3, lead]``.
    """

    problem: Problem
    part: Part
    z: np.ndarray
    total: np.ndarray

    def windows(self, lead: int) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of the states seen ``[row, back, mode]`` and of the state `lead` steps later ``[row, mode]``."""
        stride, first = self.problem.stride, self.part.runs[0][0]
        before = (self.problem.history - 1) * stride
        origins = np.concatenate(
            [np.arange(lo - first + before, hi - first - lead * stride) for lo, hi in self.part.runs]
        )
        origins = thin(origins, max(MOST_ROWS // len(self.z), 1))
        back = origins[:, None] - stride * np.arange(self.problem.history)
        modes = self.z.shape[2]
        return (
            self.z[:, back].reshape(-1, self.problem.history, modes),
            self.z[:, origins + lead * stride].reshape(-1, modes),
        )

    def left_out(self, lead: int) -> np.ndarray:
        """What the first n = 0 .. modes modes leave of <p, q>, <p, p> and <q, q>, ``[3, n]``."""
        stride, first = self.problem.stride, self.part.runs[0][0]
        products = []
        for lo, hi in self.part.runs:
            p, q = (
                self.z[:, lo - first : hi - first - lead * stride],
                self.z[:, lo - first + lead * stride : hi - first],
            )
            products.append([np.einsum("rtk,rtk->k", one, other) for one, other in ((p, q), (p, p), (q, q))])
        pairs = len(self.z) * sum(max(hi - lo - lead * stride, 0) for lo, hi in self.part.runs)
        seen = np.sum(products, axis=0) / pairs
        seen = np.concatenate([np.zeros((3, 1)), np.cumsum(seen, axis=1)], axis=1)
        return self.total[:, lead - 1, None] - seen


def choose(train: Samples, validation: Samples) -> tuple[np.ndarray, np.ndarray, str]:
    """Operator ``[lead, back, mode, mode_out]``, damping ``[lead]`` and a description of the best candidate."""
    modes, steps = train.z.shape[2], train.problem.steps
    candidates = [(n, ridge) for n in MODES if n < modes for ridge in RIDGES] + [(modes, ridge) for ridge in RIDGES]
    first = _Normal.of(*train.windows(1))
    iterated = [_Iteration(first.solve(*candidate)) for candidate in candidates]
    direct: list[tuple[float, int, np.ndarray]] = []
    errors = np.zeros((steps, len(candidates)))
    damping = np.zeros((steps, modes + 1))
    for lead in range(1, steps + 1):
        normal, check = _Normal.of(*train.windows(lead)), validation.windows(lead)
        damping[lead - 1], remainder = _damp(train.left_out(lead), validation.left_out(lead))
        tried = []
        for j, (n, ridge) in enumerate(candidates):
            errors[lead - 1, j] = _error(iterated[j].operator(lead), *check) + remainder[n]
            operator = normal.solve(n, ridge)
            tried.append((_error(operator, *check) + remainder[n], j, operator))
        direct.append(min(tried, key=lambda found: found[0]))
    best = int(np.argmin(errors.mean(0)))
    if errors[:, best].mean() < np.mean([error for error, _, _ in direct]):
        again = _Iteration(first.solve(*candidates[best]))
        chosen = [(best, again.operator(lead)) for lead in range(1, steps + 1)]
        kind = "one operator iterated"
    else:
        chosen = [(j, operator) for _, j, operator in direct]
        kind = "one operator per lead"
    numbers = sorted({candidates[j][0] for j, _ in chosen})
    ridges = sorted({candidates[j][1] for j, _ in chosen})
    full = np.stack([_embed(op, candidates[j][0], modes, damping[i]) for i, (j, op) in enumerate(chosen)])
    left = np.array([damping[i, candidates[j][0]] for i, (j, _) in enumerate(chosen)])
    return full, left, f"{kind}, {_span(numbers)} modes, ridge {_span(ridges)} (chosen on the validation part)"


@dataclass(frozen=True)
class _Normal:
    """Normal equations of the regression of ``y[row, mode]`` on ``x[row, back, mode]``."""

    gram: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> _Normal:
        rows, back, modes = x.shape
        flat = x.reshape(rows, -1)
        return cls((flat.T @ flat).reshape(back, modes, back, modes), (flat.T @ y).reshape(back, modes, modes))

    def solve(self, modes: int, ridge: float) -> np.ndarray:
        """Operator ``[back, mode, mode_out]`` of the leading modes; the ridge is relative to their mean variance."""
        gram = self.gram[:, :modes, :, :modes]
        back = len(gram)
        gram = gram.reshape(back * modes, back * modes)
        level = np.trace(gram) / len(gram)
        if level == 0:  # a record that never departs from its climatology
            return np.zeros((back, modes, modes))
        cross = self.cross[:, :modes, :modes].reshape(back * modes, modes)
        return np.linalg.solve(gram + ridge * level * np.eye(len(gram)), cross).reshape(back, modes, modes)


class _Iteration:
    """Operators of 1, 2, 3 ... steps from that of one step, by powers of its companion matrix (unstable: infinite)."""

    def __init__(self, one_step: np.ndarray) -> None:
        self.shape = back, modes, _ = one_step.shape
        self.companion = np.zeros((back * modes, back * modes))
        self.companion[:, :modes] = one_step.reshape(-1, modes)
        self.companion[: (back - 1) * modes, modes:] = np.eye((back - 1) * modes)
        self.power = np.eye(back * modes)
        self.lead = 0

    def operator(self, lead: int) -> np.ndarray:
        """Operator ``[back, mode, mode_out]`` of `lead` steps; leads are asked for in rising order."""
        with np.errstate(over="ignore", invalid="ignore"):
            while self.lead < lead:
                self.power, self.lead = self.power @ self.companion, self.lead + 1
        return self.power[:, : self.shape[1]].reshape(self.shape)


def _damp(train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Damping of what n = 0 .. modes modes leave out, fitted on train, and its squared error on validation, ``[n]``."""
    present = train[1] > 1e-10 * train[1, 0]
    b = np.divide(train[0], train[1], out=np.zeros_like(train[0]), where=present)
    return b, np.maximum(validation[2] - 2 * b * validation[0] + b**2 * validation[1], 0.0)


def _error(operator: np.ndarray, seen: np.ndarray, later: np.ndarray) -> float:
    """Mean square error of the modes that `operator` predicts."""
    modes = operator.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):  # an unstable iteration: its error is infinite or NaN
        wrong = np.tensordot(seen[:, :, :modes], operator, 2) - later[:, :modes]
        error = float((wrong**2).sum(1).mean())
    return error if np.isfinite(error) else np.inf


def _embed(operator: np.ndarray, modes: int, every: int, damping: np.ndarray) -> np.ndarray:
    """The operator on all modes: those beyond `modes` are damped like everything that is left out."""
    full = np.zeros((len(operator), every, every))
    full[:, :modes, :modes] = operator
    rest = np.arange(modes, every)
    full[0, rest, rest] = damping[modes]
    return full


def _span(values: list[int] | list[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
