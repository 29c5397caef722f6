"""Storms of a forecast beside those of the record and their extrapolated motion, into ``storms.nc``.

The tracker (`workbench.metrics.storms`) begins with the record's state before the start and at the start, for the
forecast as for the truth, so that both know the same storms with the same motion. A storm counts if it is there at the
start and at the first lead at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.starts import Problem
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.metrics.great_circle import carried_on, distance
from workbench.metrics.storm_lows import Lows, Rules
from workbench.metrics.storms import LowsReader, link
from workbench.scoring.storms_verdict import print_table as print_table
from workbench.scoring.storms_verdict import summary as summary
from workbench.scoring.storms_verdict import verdict
from workbench.scoring.truth import Aligned, align, leads_in_record, refuse_training_states

MODEL, MOTION, TRUTH = "model", "persistence_of_motion", "truth"
WINDS = (("u10", "v10"), ("U10M", "V10M"), ("10m_u_component_of_wind", "10m_v_component_of_wind"))
"""Usual names of the wind near the surface."""
POSITION = ("lat", "lon", "pressure", "wind")
NOWHERE = Lows(*np.empty((4, 0)))
DEEPEST = 0.1
"""Part of the storms, by their pressure at the start, that is scored by itself, too."""


def long_run(
    experiment: Experiment,
    record: xr.Dataset,
    forecast: xr.Dataset,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Everything that ``storms.nc`` holds.

    Args:
        experiment: of the rollout.
        record: the truth.
        forecast: ``(member, init_time, lead_time, latitude, longitude)``; the unperturbed member is followed.
        progress: called with starts done and starts in all.

    Raises:
        InputError: no sea level pressure is forecast, the record has trajectories or no dates, the forecast does not
            fit it, or no storm is there at any start.
    """
    aligned = _aligned(experiment, record, forecast)
    names = set(aligned.problem.names)
    wind = next((pair for pair in WINDS if names.issuperset(pair)), ())
    state = aligned.problem.record[list(aligned.problem.names)]
    reader = LowsReader.of(state, "", wind, Rules())
    found, starts = [], []
    for number, (times, truth, model) in enumerate(_sequences(aligned, reader)):
        storms = _storms(times, truth, model, reader.rules)
        found += storms
        starts += [number] * len(storms)
        progress(number + 1, len(aligned.starts))
    if not found:
        raise InputError(
            f"no storm in '{reader.pressure}' at any of {len(aligned.starts)} starts: expected lows with a closed "
            f"contour {reader.rules.rise:g} Pa above them within {reader.rules.contour:g} degrees; take a larger part "
            "of the globe or more starts (rollout.starts)"
        )
    scores = _scored(np.stack(found, axis=1), aligned.forecast, np.array(starts))
    scores = scores.assign_attrs(
        title=f"Storms of {experiment.name}",
        history=f"workbench {__version__}: storms",
        record=str(record.encoding.get("source", experiment.data.record)),
        split=experiment.rollout.split,
        starts=len(aligned.starts),
        pressure=reader.pressure,
        winds=", ".join(wind),
    )
    return scores.assign_attrs(verdict=verdict(scores))


def _aligned(experiment: Experiment, record: xr.Dataset, forecast: xr.Dataset) -> Aligned:
    """The forecast with its truth, as `workbench.evaluate.evaluate` takes them."""
    if TRAJECTORY in record.dims or not np.issubdtype(record[TIME].dtype, np.datetime64):
        raise InputError(
            f"storms are followed in a record with dates and without trajectories; this one has "
            f"{', '.join(map(str, record.dims))} and a time of type {record[TIME].dtype}"
        )
    if not experiment.rollout.within:
        forecast = forecast.isel(lead_time=slice(0, leads_in_record(forecast, record)))
    aligned = align(Problem.of(record, experiment.data, forecast.sizes.get("lead_time", 1)), forecast)
    if experiment.rollout.split != "train":
        refuse_training_states(aligned)
    return aligned


def _sequences(aligned: Aligned, reader: LowsReader) -> Iterator[tuple[np.ndarray, list[Lows], list[Lows]]]:
    """For each start: times from one step before it, and the lows of truth and forecast at them."""
    problem, stride = aligned.problem, aligned.problem.stride
    before = aligned.starts - stride
    needed = np.unique(np.concatenate([before[before >= 0], aligned.starts, aligned.valid.ravel()]))
    chosen = problem.record[list(problem.names)].isel({TIME: needed})
    known = dict(zip(needed.tolist(), (lows[0] for lows in reader.lows(chosen, TIME)), strict=True))
    clock = problem.record[TIME].values
    control = aligned.forecast.isel(member=0)
    for i, ahead in enumerate(reader.lows(control, "init_time")):
        start, valid = int(aligned.starts[i]), aligned.valid[i]
        seen = [known.get(start - stride, NOWHERE), known[start]]
        now, first = clock[start], clock[valid[0]]
        times = np.concatenate([[now - (first - now), now], clock[valid]])
        yield times, seen + [known[t] for t in valid.tolist()], seen + ahead


def _storms(times: np.ndarray, truth: list[Lows], model: list[Lows], rules: Rules) -> list[np.ndarray]:
    """Of each storm latitude, longitude, pressure and wind ``[source, quantity, lead from 0]``; NaN where it is not."""
    mine = {number: _positions(t, model) for t in link(model, times, rules) for k, number in t if k == 1}
    found = []
    for points in link(truth, times, rules):
        at = dict(points)
        if 1 in at and 2 in at:
            own = _positions(points, truth)
            moving = np.repeat(own[:, 1:2], own.shape[1] - 1, axis=1)
            if 0 in at:
                (lat, lon), (before_lat, before_lon) = own[:2, 1], own[:2, 0]
                moving[:2] = carried_on(lat, lon, before_lat, before_lon, np.arange(moving.shape[1]))
            followed = mine.get(at[1], np.full_like(own, np.nan))
            found.append(np.stack([own, followed, own])[..., 1:])
            found[-1][2] = moving
    return found


def _positions(points: list[tuple[int, int]], lows: list[Lows]) -> np.ndarray:
    """Where a track is and how strong, ``[quantity, time]``, NaN where it is not."""
    found = np.full((len(POSITION), len(lows)), np.nan)
    for k, number in points:
        found[:, k] = [getattr(lows[k], name)[number] for name in POSITION]
    return found


def _scored(storms: np.ndarray, forecast: xr.Dataset, starts: np.ndarray) -> xr.Dataset:
    """Positions, errors and their means, of ``storms[source, storm, quantity, lead]``."""
    leads = np.concatenate([forecast["lead_time"].values[:1] * 0, forecast["lead_time"].values])
    coords = {
        "source": [TRUTH, MODEL, MOTION],
        "storm": np.arange(storms.shape[1]),
        "lead_time": ("lead_time", leads, {"long_name": "time since the start"}),
        "init_time": ("storm", forecast["init_time"].values[starts], {"long_name": "time of the start"}),
    }
    dims = ("source", "storm", "lead_time")
    data = xr.Dataset({name: (dims, storms[:, :, q]) for q, name in enumerate(POSITION)}, coords)
    truth = data.sel(source=TRUTH, drop=True)
    others = data.isel(source=slice(1, None)).rename(source="forecast")
    far = xr.apply_ufunc(distance, truth.lat, truth.lon, others.lat, others.lon).transpose(*others.lat.dims)
    data["track_error"] = far
    data["pressure_error"], data["wind_error"] = others.pressure - truth.pressure, others.wind - truth.wind
    deep = truth.pressure.isel(lead_time=0)
    deep = deep <= deep.quantile(DEEPEST)
    sample = xr.concat([xr.ones_like(deep), deep], "sample").assign_coords(sample=["all", "deepest tenth"])
    common = far.notnull().all("forecast") & sample
    data["storms"] = common.sum("storm")
    there = truth.lat.notnull() & sample
    followed = (far.sel(forecast=MODEL, drop=True).notnull() & sample).sum("storm")
    data["followed"] = followed / there.sum("storm").where(lambda count: count > 0)
    data["mean_track_error"] = far.where(common).mean("storm")
    data["mean_pressure_error"] = data.pressure_error.where(common).mean("storm")
    data["mean_absolute_pressure_error"] = abs(data.pressure_error).where(common).mean("storm")
    data["mean_absolute_wind_error"] = abs(data.wind_error).where(common).mean("storm")
    return _described(data.transpose("source", "forecast", "sample", "storm", "lead_time"))


def _described(data: xr.Dataset) -> xr.Dataset:
    """Long names and units."""
    same = "over storms that truth and every forecast have"
    said = {
        "lat": ("latitude of the centre", "degrees_north"),
        "lon": ("longitude of the centre", "degrees_east"),
        "pressure": ("sea level pressure of the centre", "Pa"),
        "wind": ("largest wind speed near the centre", "m s-1"),
        "track_error": ("great-circle distance from the truth", "km"),
        "pressure_error": ("pressure of the centre less the truth's", "Pa"),
        "wind_error": ("largest wind speed less the truth's", "m s-1"),
        "storms": ("storms that truth and every forecast have", "1"),
        "followed": ("part of the truth's storms that the model still has", "1"),
        "mean_track_error": (f"mean distance from the truth {same}", "km"),
        "mean_pressure_error": (f"mean error of the pressure of the centre {same}", "Pa"),
        "mean_absolute_pressure_error": (f"mean absolute error of the pressure of the centre {same}", "Pa"),
        "mean_absolute_wind_error": (f"mean absolute error of the largest wind speed {same}", "m s-1"),
    }
    for name, (meaning, units) in said.items():
        data[name].attrs = {"long_name": meaning, "units": units}
    return data
