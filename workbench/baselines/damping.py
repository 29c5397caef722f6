"""Damped persistence, and the lagged products of anomalies that regressions are made of.

Anomalies ``a = x - c`` are departures from the climatology c. Damped persistence regresses the anomaly at each point
on the anomaly at the start, one coefficient per lead L:

    a(t + L) ~ b_L a(t),   b_L = sum a(t) a(t + L) / sum a(t)^2,

the sums over all training states that have a successor at L. For a first-order autoregressive process it is the best
forecast there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.data.blocks import Block, blocks
from workbench.data.climatology import climatology_at
from workbench.data.spec import TIME
from workbench.data.starts import Problem
from workbench.data.windows import Part
from workbench.errors import InputError


@dataclass(frozen=True)
class LaggedSums:
    """Sums over all pairs of anomalies p(t), q(t + lag) of one variable, each ``float64[lag, *space]``."""

    pq: np.ndarray
    pp: np.ndarray
    qq: np.ndarray


def lagged_sums(problem: Problem, part: Part, climatology: xr.Dataset) -> tuple[dict[str, LaggedSums], np.ndarray]:
    """Lagged products of anomalies over one part, at every lead, in one pass.

    Returns:
        variable -> sums, and the number of pairs ``int64[lag]``.
    """
    lags = problem.stride * np.arange(1, problem.steps + 1)
    sums = {n: np.zeros((3, len(lags), *problem.shape(n))) for n in problem.names}
    pairs = np.zeros(len(lags), dtype=np.int64)
    for block in blocks(problem.record, problem.names, part, ahead=int(lags[-1]), missing=problem.missing):
        anomalies = anomalies_of(problem, block, climatology)
        for i, lag in enumerate(lags.tolist()):
            count = max(min(block.own, len(block.time) - lag), 0)
            pairs[i] += count * len(block.trajectory)
            for name, anomaly in anomalies.items():
                p, q = anomaly[:, :count], anomaly[:, lag : lag + count]
                if problem.missing == "mask":
                    both = np.isfinite(p) & np.isfinite(q)
                    p, q = np.where(both, p, 0.0), np.where(both, q, 0.0)
                for k, (one, other) in enumerate(((p, q), (p, p), (q, q))):
                    sums[name][k, i] += np.einsum("rt...,rt...->...", one, other)
    return {name: LaggedSums(*found) for name, found in sums.items()}, pairs


def fit_damping(problem: Problem, climatology: xr.Dataset) -> xr.Dataset:
    """Coefficients b ``(lead_time, *space)`` of damped persistence, fitted on the training part.

    A point that never departs from its climatology has the coefficient 0.

    Raises:
        InputError: no two training states are as far apart as a lead.
    """
    sums, pairs = lagged_sums(problem, problem.parts["train"], climatology)
    require_pairs(problem, "train", pairs)
    fields = {name: (("lead_time", *problem.space(name)), _ratio(found.pq, found.pp)) for name, found in sums.items()}
    return xr.Dataset(fields)


def require_pairs(problem: Problem, part: str, pairs: np.ndarray) -> None:
    """Raise unless there are two states as far apart as each lead.

    Raises:
        InputError: there are none for some lead.
    """
    if not pairs.all():
        lead = int(np.argmin(pairs > 0)) + 1
        raise InputError(
            f"the {part} split holds no history and a state {lead} steps later in one run, so a regression for step "
            f"{lead} of {problem.steps} has no data: forecast fewer steps (rollout.steps), widen data.split.{part}, or "
            "leave 'damped_persistence' and 'linear' out of evaluate.baselines"
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def anomalies_of(problem: Problem, block: Block, climatology: xr.Dataset) -> dict[str, np.ndarray]:
    """Departures of a block of states from the climatology, variable -> ``[trajectory, time, *space]``."""
    mean = climatology_at(climatology, problem.record[TIME].isel({TIME: block.time}))
    return {n: block.values[n] - mean[n].transpose(..., *problem.space(n)).values for n in problem.names}
