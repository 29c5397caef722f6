"""Baseline forecasts, laid out like any other: ``(member, [trajectory,] init_time, lead_time, *space)``, lazy on dask.

A forecaster is a function of trajectories and starts; `fit_baselines` makes those that an experiment names, each fitted
on the training part alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial

import numpy as np
import xarray as xr

from workbench.baselines.damping import fit_damping
from workbench.baselines.diagnosis import DIAGNOSES, fit_diagnosis
from workbench.baselines.linear import LinearModel, fit_linear, predict_anomalies
from workbench.data.climatology import climatology_at
from workbench.data.spec import TRAJECTORY, Variable
from workbench.data.starts import Problem
from workbench.errors import InputError

BASELINES = {
    "persistence": "the state at the start, at every lead",
    "climatology": "the climatology at the valid time: 61-day window by day of year and hour for calendar dates, else "
    "the mean over time and training trajectories (workbench.data.climatology)",
    "damped_persistence": "climatology plus the anomaly at the start times a coefficient per point and lead, by "
    "regression (workbench.baselines.damping)",
    "linear": "linear inverse model: ridge regression on the window of states, in the space of leading modes "
    "(workbench.baselines.linear)",
}
STRUCTURES = {
    "quasi_static": "static response of a structure to the loads at the valid time (workbench.baselines.structures)",
    "modal": "few modes of the training set's motion and a linear step of them, driven by the loads; coefficients are "
    "polynomials of the material (workbench.baselines.modal)",
    "coarse_mesh": "the record's own solver on half its elements along each axis (workbench.baselines.structures)",
}
"""Those of records that `workbench.simulate.structures` made; they know loads, supports and material."""
CHUNK_BYTES = 32 * 2**20

Forecaster = Callable[[np.ndarray, np.ndarray], xr.Dataset]
"""``(trajectories int64[n], starts int64[m])`` -> forecast."""


def fit_baselines(
    names: Sequence[str],
    problem: Problem,
    climatology: xr.Dataset | None,
    weights: Mapping[str, np.ndarray],
) -> dict[str, Forecaster]:
    """The baselines called `names`, in that order, fitted on the training part.

    Args:
        names: among `BASELINES`, `STRUCTURES` and `DIAGNOSES`.
        problem: what is forecast.
        climatology: of the training part; persistence of a record without missing values and those of structures do
            without.
        weights: variable -> area weights ``[*space]``, for the modes of ``linear``.

    Raises:
        InputError: a name is unknown, or a part is too short for a regression.
    """
    for name in names:
        known = [*BASELINES, *STRUCTURES, *DIAGNOSES]
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(known)}"
            raise InputError(f"there is no baseline '{name}' (evaluate.baselines): {hint}")
        if not problem.first_lead and name not in ("climatology", *DIAGNOSES):
            raise InputError(
                f"the baseline '{name}' forecasts, and nothing lies ahead here (data.horizon: 0): name others in "
                f"evaluate.baselines, among climatology, {', '.join(DIAGNOSES)}"
            )
    return {name: _fit(name, problem, climatology, weights) for name in names}


def needs_climatology(names: Sequence[str], missing: str) -> bool:
    """Whether one of the baselines `names` needs a climatology."""
    return missing == "mask" or any(name not in ("persistence", *STRUCTURES, *DIAGNOSES) for name in names)


def _fit(name: str, problem: Problem, climatology: xr.Dataset | None, weights: Mapping[str, np.ndarray]) -> Forecaster:
    if name in (*STRUCTURES, *DIAGNOSES):
        if name in STRUCTURES:
            from workbench.baselines.structures import fit_structures  # the finite elements take a third of a second

            predict, words = fit_structures(name, problem)
        else:
            predict, words = fit_diagnosis(name, problem)
        return lambda trajectories, starts: _forecast(
            problem, predict(trajectories, starts), trajectories, starts, words
        )
    if climatology is None:
        if needs_climatology([name], problem.missing):
            raise InputError(f"the baseline '{name}' needs a climatology: pass one from fit_climatology")
        return partial(persistence, problem)
    if name == "persistence":
        return partial(persistence, problem, climatology=climatology)
    if name == "climatology":
        return partial(climatology_forecast, problem, climatology)
    if name == "damped_persistence":
        return partial(damped_persistence, problem, climatology, fit_damping(problem, climatology))
    return partial(linear_forecast, problem, climatology, fit_linear(problem, climatology, weights))


def persistence(
    problem: Problem, trajectories: np.ndarray, starts: np.ndarray, climatology: xr.Dataset | None = None
) -> xr.Dataset:
    """The state at the start, at every lead; a missing value is replaced by the climatology, where one is given."""
    now = problem.states(trajectories, starts)
    if climatology is not None and problem.missing == "mask":
        now = now.fillna(_climatology_now(problem, climatology, starts))
    return _forecast(problem, now, trajectories, starts, "persistence: the state at the start")


def climatology_forecast(
    problem: Problem, climatology: xr.Dataset, trajectories: np.ndarray, starts: np.ndarray
) -> xr.Dataset:
    """The climatology at each valid time."""
    later = _climatology_later(problem, climatology, starts)
    definition = f"climatology: {climatology.attrs.get('definition', '')}, {climatology.attrs.get('fit_period', '')}"
    return _forecast(problem, later, trajectories, starts, definition)


def damped_persistence(
    problem: Problem, climatology: xr.Dataset, damping: xr.Dataset, trajectories: np.ndarray, starts: np.ndarray
) -> xr.Dataset:
    """The climatology at each valid time plus ``b_L`` times the anomaly at the start."""
    now = problem.states(trajectories, starts) - _climatology_now(problem, climatology, starts)
    field = _climatology_later(problem, climatology, starts) + damping * now.fillna(0.0)
    return _forecast(problem, field, trajectories, starts, "damped persistence: b_L times the anomaly at the start")


def linear_forecast(
    problem: Problem, climatology: xr.Dataset, model: LinearModel, trajectories: np.ndarray, starts: np.ndarray
) -> xr.Dataset:
    """The climatology at each valid time plus the anomaly that the linear inverse model predicts."""
    seen = [
        problem.states(trajectories, starts, back)
        - _climatology_now(problem, climatology, starts - back * problem.stride)
        for back in range(problem.history)
    ]
    anomaly = predict_anomalies(model, xr.concat(seen, dim="back"))
    field = _climatology_later(problem, climatology, starts) + anomaly
    return _forecast(problem, field, trajectories, starts, model.definition)


def chunk_sizes(problem: Problem) -> dict[str, int]:
    """Forecasts and leads in one chunk of about `CHUNK_BYTES`."""
    state = 8 * max(int(np.prod(problem.shape(name))) for name in problem.names)
    leads = int(np.clip(CHUNK_BYTES // state, 1, problem.steps))
    return {"init_time": max(CHUNK_BYTES // (state * leads), 1), "lead_time": leads}


def _climatology_now(problem: Problem, climatology: xr.Dataset, starts: np.ndarray) -> xr.Dataset:
    """The climatology at the starts ``(init_time, *space)``, without labels."""
    times = (
        problem.record["time"]
        .isel(time=starts)
        .rename(time="init_time")
        .drop_vars(["time", "init_time"], errors="ignore")
    )
    return climatology_at(climatology, times)


def _climatology_later(problem: Problem, climatology: xr.Dataset, starts: np.ndarray) -> xr.Dataset:
    """The climatology at the valid times ``(init_time, lead_time, *space)``, without labels; lazy."""
    times = problem.times(starts)["valid_time"]
    return climatology_at(climatology, times, chunk_sizes(problem))


def _forecast(
    problem: Problem, fields: xr.Dataset, trajectories: np.ndarray, starts: np.ndarray, definition: str
) -> xr.Dataset:
    """Give fields their missing dimensions, coordinates and attributes."""
    record, times = problem.record, problem.times(starts)
    sizes = {"member": 1, TRAJECTORY: len(trajectories), "init_time": len(starts), "lead_time": problem.steps}
    labels = {"member": xr.DataArray([0], dims="member", attrs={"long_name": "ensemble member", "units": "1"})}
    if TRAJECTORY in record.coords:
        labels[TRAJECTORY] = record[TRAJECTORY].isel({TRAJECTORY: trajectories})
    arrays = {}
    for name in problem.names:
        leading = [d for d in sizes if d != TRAJECTORY or TRAJECTORY in record[name].dims]
        array = fields[name].expand_dims({d: sizes[d] for d in leading if d not in fields[name].dims})
        array = array.transpose(*leading, *problem.space(name))
        if array.chunks is not None:
            array = array.chunk(chunk_sizes(problem))
        arrays[name] = array.assign_attrs(Variable.of(record, name).all_attrs())
    grid = {d: record[d] for n in problem.names for d in problem.space(n) if d in record.coords}
    return xr.Dataset(arrays).assign_coords({**labels, **grid, **times}).assign_attrs(definition=definition)
