"""How forecasts of a structure move: mechanical energy, first mode, and histories at single places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.baselines.structures import states_at
from workbench.data.spec import TRAJECTORY
from workbench.metrics.structures import natural_frequency
from workbench.scoring.truth import Aligned
from workbench.simulate.structures import Structures
from workbench.simulate.structures_linear import LinearBody
from workbench.simulate.structures_mesh import COMPONENTS
from workbench.simulate.structures_record import dims_of
from workbench.simulate.structures_replay import Conditions, State, energies, read_conditions, record_body, source_of

LEADING = (TRAJECTORY, "init_time", "lead_time")


@dataclass(frozen=True)
class Bodies:
    """What the forecasts are forecasts of.

    Attributes:
        source: what made the record.
        cases: loads, supports and material of each trajectory that is forecast.
        states: displacement and velocity at each start of each trajectory, the starts the faster.
        starts: record time indices of the starts.
        valid: record time indices of the forecast states ``[start, lead]``.
    """

    source: Structures
    cases: list[Conditions]
    states: list[State]
    starts: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, aligned: Aligned) -> Bodies:
        """Read them from the record.

        Raises:
            InputError: the record lacks something, or was not simulated by `workbench.simulate.structures`.
        """
        record, trajectories = aligned.problem.record, aligned.trajectories
        cases = read_conditions(record, trajectories.tolist())
        states = states_at(record, trajectories, aligned.starts)
        return cls(source_of(record), cases, states, aligned.starts, aligned.valid)

    def times(self) -> np.ndarray:
        """Of the start and of each lead, in s from the start."""
        return np.concatenate([[0], self.valid[0] - self.starts[0]]) * self.cases[0].interval

    def velocity(self, forecast: xr.Dataset, u: np.ndarray) -> np.ndarray:
        """That of the forecast, or else the slope of its displacement `u`, by differences over two steps."""
        if f"velocity_{COMPONENTS[0]}" in forecast:
            return self.vector(forecast, "velocity")
        start = np.stack([state[0].reshape(u.shape[3:]) for state in self.states]).reshape(
            *u.shape[:2], 1, *u.shape[3:]
        )
        return np.asarray(np.gradient(np.concatenate([start, u], 2), self.times(), axis=2)[:, :, 1:])

    def vector(self, forecast: xr.Dataset, name: str) -> np.ndarray:
        """The components ``[trajectory, init_time, lead_time, *nodes, dim]``."""
        order = (*LEADING, *dims_of("node", self.source.dim))
        parts = [forecast[f"{name}_{axis}"].transpose(*order).values for axis in COMPONENTS[: self.source.dim]]
        return np.stack(parts, -1).astype(np.float64)


def energy(bodies: Bodies, forecast: xr.Dataset) -> xr.DataArray:
    """Kinetic and strain energy ``(trajectory, init_time, lead_time)`` in J."""
    u = bodies.vector(forecast, "displacement")
    v = bodies.velocity(forecast, u)
    found = [sum(energies(bodies.source, case, u[k], v[k])) for k, case in enumerate(bodies.cases)]
    return xr.DataArray(np.stack(found), dims=LEADING, coords={d: forecast[d] for d in LEADING})


def frequency(bodies: Bodies, forecast: xr.Dataset) -> xr.DataArray:
    """Natural frequency ``(trajectory, init_time)`` in Hz of the coordinate of the first mode.

    That coordinate, φᵀ M u, and the load φᵀ f on it are those of the small vibrations of the record's own elements.
    NaN where supports move, which drives the coordinate too.
    """
    u = bodies.vector(forecast, "displacement")
    shape = (len(bodies.cases), len(bodies.starts))
    found = np.full(shape, np.nan)
    for k, case in enumerate(bodies.cases):
        if not case.prescribed.any():
            body = record_body(bodies.source, case)
            found[k] = _frequencies(bodies, case, body, u[k], bodies.states[k * shape[1] : (k + 1) * shape[1]])
    return xr.DataArray(found, dims=LEADING[:2], coords={d: forecast[d] for d in LEADING[:2]})


def _frequencies(
    bodies: Bodies, case: Conditions, body: LinearBody, u: np.ndarray, states: Sequence[State]
) -> np.ndarray:
    """Of each start, for ``u[init_time, lead_time, *nodes, dim]``."""
    shape = body.first_mode().ravel()
    weights = body.mass @ shape
    instants = np.concatenate([bodies.starts[:, None], bodies.valid], 1)
    start = np.array([[state[i].ravel() @ weights for state in states] for i in range(2)])
    q = np.concatenate([start[0][:, None], u.reshape(*u.shape[:2], -1) @ weights], 1)
    load = case.loads[instants].reshape(*instants.shape, -1) @ shape
    times = bodies.times()
    runs = ("init_time", "time")
    found = natural_frequency(
        xr.DataArray(q, dims=runs, coords={"time": times}),
        xr.DataArray(load, dims=runs, coords={"time": times}),
        xr.DataArray(start[1], dims="init_time"),
        xr.DataArray(case.mass_damping),
        xr.DataArray(float(body.natural_frequencies()[0])),
    )
    return np.asarray(found.values)


def probe(truth: xr.Dataset) -> dict[str, xr.DataArray]:
    """The node that moves most in each run: its place ``(trajectory, init_time)`` along each dimension of nodes."""
    parts = _displacement(truth)
    square = sum((truth[name].astype(np.float64) ** 2 for name in parts[1:]), truth[parts[0]].astype(np.float64) ** 2)
    found = square.max("lead_time").argmax([d for d in square.dims if d not in LEADING])
    return {str(d): place.drop_vars(list(place.coords)) for d, place in found.items()}


def histories(forecast: xr.Dataset, place: Mapping[str, xr.DataArray], stress: str) -> dict[str, xr.DataArray]:
    """Displacement of the probe and largest stress of the body ``(trajectory, init_time, lead_time)``."""
    found = {}
    for name in _displacement(forecast):
        here = forecast[name].isel(place)
        found[f"probe_{name}"] = here.drop_vars([d for d in here.coords if d not in LEADING]).transpose(*LEADING)
    if stress in forecast:
        space = [d for d in forecast[stress].dims if d not in LEADING]
        found["largest_stress"] = forecast[stress].max(space, skipna=False).transpose(*LEADING)
    return found


def _displacement(forecast: xr.Dataset) -> list[str]:
    return [str(name) for name in forecast.data_vars if str(name).startswith("displacement_")]
