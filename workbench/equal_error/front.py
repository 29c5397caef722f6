"""The cost at which a family of solvers reaches a given error.

Of all candidates only those count that no cheaper one equals: the Pareto front, along which the error falls as the cost
rises. Between two neighbours on it error and cost are taken to follow a power law, as a scheme of some order does:

    log c = log c_i + (log c_j − log c_i) (log e − log e_i) / (log e_j − log e_i)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BETWEEN, AT_MOST, AT_LEAST = 0, 1, 2
"""The error lies between two candidates; the cheapest one is already better; none is as good."""


class EqualCost(NamedTuple):
    """What a given error costs, one entry a row.

    Attributes:
        cost: where the front has that error; at its end where it does not reach it.
        bound: `BETWEEN`, `AT_MOST` (the true cost is at most `cost`) or `AT_LEAST`.
        solver: the cheapest candidate at least as good; for `AT_LEAST` the most accurate one.
    """

    cost: np.ndarray
    bound: np.ndarray
    solver: np.ndarray


def equal_cost(cost: np.ndarray, error: np.ndarray, target: np.ndarray) -> EqualCost:
    """The cost at which the candidates reach `target`, row by row.

    Args:
        cost: ``(row, candidate)``, positive.
        error: ``(row, candidate)``; infinite for a candidate that failed.
        target: ``(row,)``; infinite is reached by every candidate that did not fail.
    """
    order = np.argsort(cost, axis=1, kind="stable")
    cost, error = np.take_along_axis(cost, order, 1), np.take_along_axis(error, order, 1)
    error = np.where(np.isnan(error), np.inf, error)
    rows = np.arange(len(cost))
    reached = np.isfinite(error) & (error <= target[:, None])
    bound = np.where(reached.any(1), BETWEEN, AT_LEAST)
    best = np.where(bound == AT_LEAST, error.argmin(1), reached.argmax(1))
    # The neighbour on the front: the best of all that are cheaper.
    cheaper = np.where(np.arange(cost.shape[1]) < best[:, None], error, np.inf)
    neighbour = cheaper.argmin(1)
    worse = cheaper[rows, neighbour]
    bound = np.where((bound == BETWEEN) & ~np.isfinite(worse), AT_MOST, bound)
    inside = bound == BETWEEN
    with np.errstate(divide="ignore", invalid="ignore"):
        steepness = np.log(target / worse) / np.log(np.maximum(error[rows, best], 1e-300) / worse)
        between = cost[rows, neighbour] * (cost[rows, best] / cost[rows, neighbour]) ** np.clip(steepness, 0.0, 1.0)
    found = np.where(inside, between, cost[rows, best])
    return EqualCost(found, bound, order[rows, best])


def on_front(cost: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Which candidates no cheaper one equals, ``bool[candidate]``."""
    order = np.argsort(cost, kind="stable")
    ranked = np.where(np.isfinite(error), error, np.inf)[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(ranked)[:-1]])
    chosen = np.zeros(len(cost), dtype=bool)
    chosen[order] = ranked < before
    return chosen
