"""The linear inverse model: ridge regression on the window of states, in the space of the leading modes.

The anomalies of all variables, each in units of its own variance and weighted by area, are expanded in empirical
orthogonal functions of the training part. The coefficients z of the n leading modes follow

    z(t + L) ~ sum_h z(t - h) P_{L,h},   h = 0 .. history - 1 states back,

after Penland & Magorian (1993), J. Climate 6, 1067, who iterate one operator; here P is either *iterated* (fitted for
one step, applied L times) or *direct* (fitted for each lead by itself). That choice, the number of modes and the ridge
are those with the smallest error on the validation part. What the modes leave out of the anomaly at the start, r, is
damped by one factor per lead,  b_L = sum r(t) r(t + L) / sum r(t)^2: with no modes at all this would be damped
persistence with one coefficient for the whole field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import linalg

from workbench.baselines.damping import LaggedSums, anomalies_of, lagged_sums, require_pairs
from workbench.baselines.modes import LARGEST_SYSTEM, MODES, Samples, choose, thin
from workbench.data.blocks import blocks, read_block
from workbench.data.starts import Problem
from workbench.data.windows import Part

BYTES = 256 * 2**20
"""For the snapshots that the modes are computed from, and again for the coefficients of all states."""
FEW_POINTS, FEW_SNAPSHOTS, MANY_SNAPSHOTS = 1000, 1000, 5000


@dataclass(frozen=True)
class LinearModel:
    """A fitted linear inverse model.

    Attributes:
        project: variable -> ``(mode, *space)``: coefficient = sum over variables and space with the anomaly.
        expand: variable -> ``(mode, *space)``: anomaly = sum over modes with the coefficients.
        operator: ``(lead_time, back, mode, mode_out)``, P above.
        damping: ``(lead_time)``, b above.
        definition: what was chosen, in words.
    """

    project: xr.Dataset
    expand: xr.Dataset
    operator: xr.DataArray
    damping: xr.DataArray
    definition: str


def fit_linear(problem: Problem, climatology: xr.Dataset, weights: Mapping[str, np.ndarray]) -> LinearModel:
    """Fit on the training part, choosing size, ridge and kind on the validation part.

    Args:
        problem: what is forecast.
        climatology: of the training part.
        weights: variable -> area weights ``[*space]``.

    Raises:
        InputError: a part has no window of history and a lead.
    """
    lagged = {part: lagged_sums(problem, problem.parts[part], climatology) for part in ("train", "validation")}
    for part in lagged:
        require_pairs(problem, part, problem.windows(part))
    sums, pairs = lagged["train"]
    scale = {n: _scale(sums[n].pp[0] / pairs[0], weights[n]) for n in problem.names}
    modes, snapshots = _modes(problem, climatology, scale)
    samples = {}
    for part, (sums, pairs) in lagged.items():
        z = _coefficients(problem, problem.parts[part], climatology, scale, modes)
        samples[part] = Samples(problem, problem.parts[part], z, _totals(sums, pairs, scale))
    operator, damping, choice = choose(samples["train"], samples["validation"])
    project, expand = (_fields(problem, modes, scale, power) for power in (1, -1))
    return LinearModel(
        project,
        expand,
        xr.DataArray(operator, dims=("lead_time", "back", "mode", "mode_out")),
        xr.DataArray(damping, dims="lead_time"),
        f"linear inverse model, {choice}; empirical orthogonal functions of {snapshots} training states",
    )


def predict_anomalies(model: LinearModel, anomalies: xr.Dataset) -> xr.Dataset:
    """Anomalies at every lead from the anomalies of the states seen; lazy on dask.

    Args:
        model: from `fit_linear`.
        anomalies: ``(back, ..., *space)``, the state at the start first.

    Returns:
        ``(..., lead_time, *space)``.
    """
    anomalies = anomalies.fillna(0.0)  # a missing value (data.missing: mask) is taken as climatology
    names = list(model.project.data_vars)
    space = {n: [d for d in model.project[n].dims if d != "mode"] for n in names}
    seen = sum((xr.dot(anomalies[n], model.project[n], dim=space[n]) for n in names), start=xr.DataArray(0.0))
    ahead = xr.dot(seen, model.operator, dim=["back", "mode"]).rename(mode_out="mode")
    now = seen.isel(back=0)
    return xr.Dataset(
        {
            n: xr.dot(ahead - model.damping * now, model.expand[n], dim="mode")
            + model.damping * anomalies[n].isel(back=0)
            for n in names
        }
    )


# ------------------------------------------------------------------------------------------------------- modes


def _scale(variance: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Factor per point that makes the sum of squares an area mean in units of the variable's variance.

    Points of no area (poles) get a thousandth of the mean area: they must be forecast too.
    """
    area = np.maximum(weight / weight.mean(), 1e-3)
    area = area / area.sum()
    typical = float((area * variance).sum())
    return np.sqrt(area / typical) if typical > 0 else np.sqrt(area)


def _flat(anomalies: Mapping[str, np.ndarray], scale: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scaled anomalies of all variables side by side, ``[trajectory, time, point]``; a missing value counts as 0."""
    columns = [(np.nan_to_num(a) * scale[n]).reshape(*a.shape[:2], -1) for n, a in anomalies.items()]
    return np.concatenate(columns, axis=2)


def _modes(problem: Problem, climatology: xr.Dataset, scale: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Leading empirical orthogonal functions ``[point, mode]``, orthonormal, and the number of states behind them."""
    part = problem.parts["train"]
    points = sum(s.size for s in scale.values())
    wanted = MANY_SNAPSHOTS if points <= FEW_POINTS else min(FEW_SNAPSHOTS, max(BYTES // (8 * points), 50))
    trajectory = thin(part.trajectories, wanted)
    time = thin(np.concatenate([np.arange(*run) for run in part.runs]), max(wanted // len(trajectory), 1))
    block = read_block(problem.record, problem.names, trajectory, time, own=len(time), missing=problem.missing)
    states = _flat(anomalies_of(problem, block, climatology), scale).reshape(-1, points)
    if points <= len(states):
        variance, vectors = linalg.eigh(states.T @ states)
    else:
        variance, rows = linalg.eigh(states @ states.T)
        vectors = states.T @ rows
    largest = np.flatnonzero(variance > 1e-10 * variance[-1])[::-1]
    room = BYTES // (8 * problem.history * part.steps * len(part.trajectories)), BYTES // (8 * points)
    most = max(min(MODES[-1], LARGEST_SYSTEM // problem.history, *room), 1)
    return np.linalg.qr(vectors[:, largest[:most]])[0], len(states)


def _fields(problem: Problem, modes: np.ndarray, scale: Mapping[str, np.ndarray], power: int) -> xr.Dataset:
    """Modes as fields ``(mode, *space)``, times the scale to some power."""
    edges = np.cumsum([s.size for s in scale.values()])[:-1]
    fields = {}
    for (name, factor), rows in zip(scale.items(), np.split(modes, edges), strict=True):
        values = rows.T.reshape(-1, *factor.shape) * factor**power
        grid = {d: problem.record[d] for d in problem.space(name) if d in problem.record.coords}
        fields[name] = xr.DataArray(values, dims=("mode", *problem.space(name)), coords=grid)
    return xr.Dataset(fields)


def _totals(sums: Mapping[str, LaggedSums], pairs: np.ndarray, scale: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean over pairs of <p, q>, <p, p> and <q, q> under the scale, all variables together, ``[3, lead]``."""
    found = [
        sum((getattr(s, kind) * scale[n] ** 2).reshape(len(pairs), -1).sum(1) for n, s in sums.items()) / pairs
        for kind in ("pq", "pp", "qq")
    ]
    return np.array(found)


def _coefficients(
    problem: Problem, part: Part, climatology: xr.Dataset, scale: Mapping[str, np.ndarray], modes: np.ndarray
) -> np.ndarray:
    """Coefficients of every state of a part, ``[trajectory, time, mode]``."""
    first, last = part.runs[0][0], part.runs[-1][1]
    z = np.zeros((len(part.trajectories), last - first, modes.shape[1]))
    row = {int(t): i for i, t in enumerate(part.trajectories)}
    for block in blocks(problem.record, problem.names, part, missing=problem.missing):
        rows = np.array([row[int(t)] for t in block.trajectory])
        z[np.ix_(rows, block.time - first)] = _flat(anomalies_of(problem, block, climatology), scale) @ modes
    return z
