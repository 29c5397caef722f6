"""One forecast beside its truth, and the forecasts that stopped because they were no longer finite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from workbench.data.spec import TIME, TRAJECTORY, Axis
from workbench.data.starts import time_index
from workbench.data.store import naming_bad_chunks
from workbench.errors import InputError
from workbench.report.coasts import land_fraction
from workbench.report.fields import cut, space_dims
from workbench.report.labels import moment


@dataclass(frozen=True)
class Stop:
    """A forecast that stopped because its state was no longer finite.

    Attributes:
        member: number of the ensemble member.
        start: number of the start, counted over trajectories (slow) and initial times (fast); -1 if not known.
        label: trajectory and initial time, for people.
        step: first step (from 1) that is not finite.
        variable: variable in which that was found.
        place: grid indices at which it was found.
    """

    member: int
    start: int
    label: str
    step: int
    variable: str
    place: str


@dataclass(frozen=True)
class Case:
    """The unperturbed member of one start beside its truth, every variable on ``(lead_time, *space)``.

    Attributes:
        prediction: the forecast.
        truth: the record at the valid times, on the coordinates of the forecast.
        label: trajectory and initial time, for people.
        stop: where the forecast stopped, if it did.
        land: land fraction of the record's map, where it has one.
    """

    prediction: xr.Dataset
    truth: xr.Dataset
    label: str
    stop: Stop | None
    land: xr.DataArray | None = None

    def pair(
        self, variable: str, leads: int | slice | np.ndarray = slice(None), normal: str | None = None
    ) -> tuple[xr.DataArray, xr.DataArray, str]:
        """Truth and prediction of one variable in memory, cut to a plane or less before they are read.

        Args:
            variable: name of the variable.
            leads: which leads, as indices.
            normal: the space dimension that a volume is cut across; see `workbench.report.fields.cut`.

        Returns:
            truth, prediction, and where they are cut (empty if they are not).

        Raises:
            InputError: a chunk of either is damaged.
        """
        loaded = []
        for dataset in (self.truth, self.prediction):
            field, where = cut(dataset[variable].isel(lead_time=leads), normal)
            with naming_bad_chunks(dataset):
                loaded.append(field.load())
        return loaded[0], loaded[1], where


def pick_case(forecast: xr.Dataset, record: xr.Dataset, start: int) -> Case:
    """The forecast of start number `start`, with its truth.

    Args:
        forecast: a rollout.
        record: the record that it was made from.
        start: number of the start, counted over trajectories (slow) and initial times (fast).

    Raises:
        InputError: there are fewer starts, or the record does not hold the truth of this forecast.
    """
    position = _position(forecast, start)
    prediction = forecast.isel({**position, **({"member": 0} if "member" in forecast.dims else {})})
    stop = next((s for s in stops(forecast, record) if s.member == 0 and s.start == start), None)
    with_truth = prediction.isel(lead_time=slice(0, leads_with_truth(prediction, record)))
    with_truth.encoding["source"] = forecast.encoding.get("source", "")
    return Case(with_truth, truth_of(with_truth, record), start_label(prediction), stop, land_fraction(record))


def starts_count(forecast: xr.Dataset) -> int:
    """Number of starts of a forecast, over trajectories and initial times."""
    return forecast.sizes.get(TRAJECTORY, 1) * forecast.sizes.get("init_time", 1)


def _position(forecast: xr.Dataset, start: int) -> dict[str, int]:
    inits, count = forecast.sizes.get("init_time", 1), starts_count(forecast)
    if not 0 <= start < count:
        raise InputError(f"report.start is {start}, the forecast has {count} starts: choose 0 .. {count - 1}")
    position = {TRAJECTORY: start // inits, "init_time": start % inits}
    return {dim: index for dim, index in position.items() if dim in forecast.dims}


def start_label(prediction: xr.Dataset) -> str:
    """``trajectory 3, start 2009-01-05 00:00`` of one forecast."""
    words = []
    if TRAJECTORY in prediction.coords:
        words.append(f"trajectory {moment(prediction[TRAJECTORY].values[()])}")
    if "init_time" in prediction.coords:
        init = prediction["init_time"]
        words.append(f"start {moment(init.values[()], init.attrs.get('units', '1'))}")
    return ", ".join(words)


def truth_of(prediction: xr.Dataset, record: xr.Dataset) -> xr.Dataset:
    """The record at the valid times of one forecast, on its lead times and coordinates, lazy.

    Raises:
        InputError: variables, times or grids do not match.
    """
    names = [str(n) for n in prediction.data_vars if n in record.data_vars]
    if not names:
        raise InputError("the record holds none of the forecast's variables: it is another record")
    truth = along(prediction, record, names).drop_vars(TIME, errors="ignore")
    for dim in dict.fromkeys(d for name in names for d in space_dims(prediction[name])):
        difference = Axis.of(prediction, dim).difference(Axis.of(truth, dim))
        if difference:
            raise InputError(f"forecast and record lie on different grids: {difference}")
        if dim in prediction.coords:
            truth = truth.assign_coords({dim: prediction[dim]})
    truth = truth.assign_coords(lead_time=prediction["lead_time"])
    for name in names:  # a record may leave units to the experiment; the forecast has them
        truth[name].attrs = dict(prediction[name].attrs)
    truth.encoding["source"] = record.encoding.get("source", "")
    return truth


def along(prediction: xr.Dataset, record: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Variables of the record in the trajectory of one forecast, those in time at its valid times, lazy.

    Raises:
        InputError: the record has no such trajectory or no such times.
    """
    chosen = record[list(names)]
    if TRAJECTORY in chosen.dims:
        chosen = chosen.isel({TRAJECTORY: _trajectory_position(record, prediction[TRAJECTORY].values[()])})
    if TIME in chosen.dims:
        index = time_index(record, prediction["valid_time"])
        chosen = chosen.isel({TIME: xr.DataArray(index.values, dims="lead_time")})
    chosen.encoding["source"] = record.encoding.get("source", "")
    return chosen


def leads_with_truth(prediction: xr.Dataset, record: xr.Dataset) -> int:
    """Number of leads of one forecast that end before the record does.

    Raises:
        InputError: not even the first one does.
    """
    times, valid = record[TIME].values, prediction["valid_time"].values
    slack = np.median(np.diff(times)) / 10 if len(times) > 1 else times.dtype.type(0)
    count = int((valid <= times[-1] + slack).sum()) if valid.dtype.kind == times.dtype.kind else len(valid)
    if count == 0:
        raise InputError(f"the forecast starts where the record ends ({moment(times[-1])}): there is no truth to show")
    return count


def _trajectory_position(record: xr.Dataset, label: Any) -> int:
    """Position along the record's trajectories of `label`; where they have no labels, `label` is the position."""
    if TRAJECTORY not in record.coords:
        return int(label)
    found = np.flatnonzero(record[TRAJECTORY].values == label)
    if not len(found):
        raise InputError(f"trajectory {label} of the forecast is not in the record: it is another record")
    return int(found[0])


def stops(forecast: xr.Dataset, record: xr.Dataset | None = None) -> list[Stop]:
    """The forecasts that stopped, from the attribute ``workbench_stopped``.

    Args:
        forecast: a rollout.
        record: its record, which tells the labels of trajectories from their positions.
    """
    return [_stop(forecast, record, entry) for entry in json.loads(forecast.attrs.get("workbench_stopped") or "[]")]


def _stop(forecast: xr.Dataset, record: xr.Dataset | None, entry: Mapping[str, Any]) -> Stop:
    init = _entry_init(forecast, entry)
    label = start_label(forecast.isel(init).drop_vars(TRAJECTORY, errors="ignore"))
    start = init.get("init_time", 0)
    if TRAJECTORY in entry and TRAJECTORY in forecast.dims:
        found = _entry_trajectory(forecast, record, int(entry[TRAJECTORY]))
        if found is None:
            label, start = f"trajectory at position {entry[TRAJECTORY]}, {label}", -1
        else:
            label = start_label(forecast.isel({TRAJECTORY: found, **init}))
            start += found * forecast.sizes.get("init_time", 1)
    place = "[" + ", ".join(map(str, entry.get("index", []))) + "]"
    return Stop(int(entry.get("member", 0)), start, label, int(entry["step"]), str(entry.get("variable", "")), place)


def _entry_trajectory(forecast: xr.Dataset, record: xr.Dataset | None, position: int) -> int | None:
    """Where the forecast has the trajectory that lies at `position` of the record; None if that cannot be told."""
    labels = record[TRAJECTORY].values if record is not None and TRAJECTORY in record.coords else None
    label = position if labels is None else labels[position]
    matches = np.flatnonzero(forecast[TRAJECTORY].values == label)
    return int(matches[0]) if len(matches) else None


def _entry_init(forecast: xr.Dataset, entry: Mapping[str, Any]) -> dict[str, int]:
    """Position of the initial time, which the attribute holds as text, among those of the forecast."""
    if "init_time" not in entry or "init_time" not in forecast.dims:
        return {}
    inits = forecast["init_time"].values
    if np.issubdtype(inits.dtype, np.datetime64):
        wanted = np.datetime64(str(entry["init_time"]))
        return {"init_time": int(np.argmin(np.abs((inits - wanted) / np.timedelta64(1, "s"))))}
    return {"init_time": int(np.argmin(np.abs(inits - float(entry["init_time"]))))}
