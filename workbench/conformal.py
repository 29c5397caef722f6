"""Prediction intervals and flags whose error rate holds for any model, from what folds have not seen; free of torch.

Of n labelled cells, networks of fold k have not seen those of fold k. The residual of a cell is the error of the
networks that have not seen it. Whole policies lie in one fold, so the residuals are those of policies never seen. For
cells of a batch never seen, folds of whole batches take their place: conformal prediction with groups, as in Dunn,
Wasserman & Ramdas (2023), J. Am. Stat. Assoc. 118, 2491.
"""

from __future__ import annotations

import numpy as np

from workbench.errors import InputError


def cross_conformal(
    by_fold: np.ndarray, residuals: np.ndarray, folds: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of CV+ prediction intervals.

    ``lower = -q(-(m_k(i)(x) - |R_i|))`` and ``upper = q(m_k(i)(x) + |R_i|)`` over labelled cells i, where q is the
    ``ceil(level (n + 1))``-th smallest of n values. For exchangeable cells the coverage is at least ``2 level - 1``,
    and in practice near `level`.

    Args:
        by_fold: ``(fold, x)``, what the networks of each fold predict, of these folds and maybe others.
        residuals: ``(n,)``, of the labelled cells.
        folds: ``(n,)``, fold of each of them, a row of `by_fold`.
        level: such as 0.9.

    Returns:
        lower and upper bounds ``(x,)``; infinite where there are too few cells for the level.

    Raises:
        InputError: the level is no fraction.

    Source: Barber, Candes, Ramdas & Tibshirani (2021), Annals of Statistics 49, 486, section 3.1.
    """
    if not 0 < level < 1:
        raise InputError(f"the level of intervals is {level}: expected a fraction such as 0.9")
    size = np.abs(residuals)[:, None]
    centre = by_fold[folds]
    return -_upper_quantile(size - centre, level), _upper_quantile(centre + size, level)


def _upper_quantile(values: np.ndarray, level: float) -> np.ndarray:
    """The ``ceil(level (n + 1))``-th smallest along the first axis; infinite beyond the n-th."""
    rank = int(np.ceil(level * (len(values) + 1)))
    if rank > len(values):
        return np.full(values.shape[1:], np.inf)
    return np.partition(values, rank - 1, axis=0)[rank - 1]


def p_values(new: np.ndarray, known: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """How usual cells are: the conformal p-value of their distance to the nearest labelled cell.

    ``p = (1 + #{i: d_i >= d}) / (n + 1)``, where d_i is the distance of labelled cell i to the nearest one of another
    fold. Exchangeable cells have a p-value at or below a with probability a at most.

    Args:
        new: ``(x, k)`` signatures of the cells in question.
        known: ``(n, k)`` of the labelled cells.
        folds: ``(n,)``, fold of each of them.

    Source: Bates et al. (2023), Annals of Statistics 51, 149, equation 2.
    """
    own = _distances(known, known)
    own[folds[:, None] == folds] = np.inf
    typical = own.min(1)
    found = _distances(new, known).min(1)
    return (1 + (typical >= found[:, None]).sum(1)) / (len(known) + 1)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root-mean-square differences ``(len(a), len(b))``."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares = (a**2).mean(1)[:, None] + (b**2).mean(1) - 2 * a @ b.T / a.shape[1]
    return np.sqrt(squares.clip(0))
