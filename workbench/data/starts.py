"""Where forecasts start and when they are valid: shared by rollout, baselines and evaluation, so that all agree.

A *start* is the record time index of the latest state that a forecast sees. Its history reaches back
``(history - 1) * stride`` record steps and its leads reach forward ``steps * stride``. A diagnosis is a forecast whose
only lead is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.spec import TIME, TRAJECTORY, Variable, time_step
from workbench.data.windows import Part, parts
from workbench.errors import InputError

START_TOLERANCE = 0.1
"""Fraction of a time step by which a valid time may miss a record time (a float32 time axis and many leads need it)."""


@dataclass(frozen=True)
class Problem:
    """What all forecasts of an experiment have in common.

    Attributes:
        record: the whole record.
        parts: its train, validation and test parts.
        names: variables that are forecast: state and diagnostic.
        history: states that a forecast sees.
        stride: record steps between two states.
        steps: states that are forecast.
        missing: ``error`` or ``mask``.
        first_lead: strides from the start to the first state that is forecast: 1, or 0 for a diagnosis.
        inputs: variables that a diagnosis is made from.
        coarsen: points along each axis of a cell, where the means over cells are downscaled.
    """

    record: xr.Dataset
    parts: Mapping[str, Part]
    names: tuple[str, ...]
    history: int
    stride: int
    steps: int
    missing: str = "error"
    first_lead: int = 1
    inputs: tuple[str, ...] = ()
    coarsen: int = 1

    @classmethod
    def of(cls, record: xr.Dataset, config: DataConfig, steps: int) -> Problem:
        """The forecasting problem that `config` poses on `record`.

        Raises:
            InputError: the record has no time, lacks a variable, or its splits cannot be laid out.
        """
        names = (*config.state, *config.diagnostic)
        for name in names:
            Variable.of(record, name)
            if TIME not in record[name].dims:
                raise InputError(
                    f"variable '{name}' has dimensions {record[name].dims} and does not change in time: list it under "
                    "data.static"
                )
        return cls(
            record,
            parts(record, config),
            names,
            config.history,
            config.stride,
            steps,
            config.missing,
            config.first_lead,
            config.forcing,
            config.coarsen,
        )

    def space(self, name: str) -> tuple[str, ...]:
        """Dimensions of a variable besides trajectory and time."""
        return tuple(str(d) for d in self.record[name].dims if d not in (TIME, TRAJECTORY))

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of `space`."""
        return tuple(self.record.sizes[dim] for dim in self.space(name))

    @property
    def leads(self) -> np.ndarray:
        """Strides from the start to each state that is forecast, ``int64[steps]``."""
        return np.arange(self.first_lead, self.first_lead + self.steps)

    def windows(self, part: str) -> np.ndarray:
        """Number of windows of history and lead in a part, for each lead, ``int64[steps]``."""
        spans = self.stride * (self.history - 1 + self.leads)
        fitting = [np.maximum(hi - lo - spans, 0) for lo, hi in self.parts[part].runs]
        return np.asarray(len(self.parts[part].trajectories) * np.sum(fitting, axis=0), dtype=np.int64)

    def times(self, starts: np.ndarray) -> dict[str, xr.DataArray]:
        """Coordinates ``init_time``, ``lead_time`` and ``valid_time`` of forecasts from `starts`."""
        return forecast_times(self.record, starts, self.stride, self.steps, self.first_lead)

    def states(self, trajectories: np.ndarray, starts: np.ndarray, back: int = 0) -> xr.Dataset:
        """The states ``([trajectory,] init_time, *space)`` that lie `back` states before the starts; lazy on dask."""
        chosen = self.record[list(self.names)].isel({TIME: starts - back * self.stride})
        if TRAJECTORY in chosen.dims:
            chosen = chosen.isel({TRAJECTORY: trajectories})
        return chosen.drop_vars(TIME, errors="ignore").rename({TIME: "init_time"})


def choose_starts(part: Part, history: int, stride: int, steps: int, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Starts spread evenly over a part, the same for each of its trajectories.

    Args:
        part: trajectories and uniform runs of time steps.
        history: states that a forecast sees, the start included.
        stride: record steps between two states.
        steps: strides from the start to the last state that is forecast.
        count: number of starts; 0 takes every one, and so does a number above what there is.

    Returns:
        trajectories ``int64[n]`` and record time indices ``int64[m]``, rising; the forecasts are all ``n * m`` pairs.

    Raises:
        InputError: the history and all leads fit into no run of the part.
    """
    before, after = (history - 1) * stride, steps * stride
    possible = np.concatenate([np.arange(lo + before, hi - after, dtype=np.int64) for lo, hi in part.runs])
    if not len(possible):
        longest = max(hi - lo for lo, hi in part.runs)
        raise InputError(
            f"no forecast of {steps} steps fits into the {part.name} split: history {history}, stride {stride} and "
            f"{steps} steps span {before + after + 1} record steps, the longest run has {longest}; lower rollout.steps "
            f"to at most {max((longest - 1 - before) // stride, 0)}, or widen data.split.{part.name}"
        )
    if 0 < count < len(possible):
        possible = possible[np.unique(np.linspace(0, len(possible) - 1, count).round().astype(np.int64))]
    return np.asarray(part.trajectories, dtype=np.int64), possible


def forecast_times(
    record: xr.Dataset, starts: np.ndarray, stride: int, steps: int, first_lead: int = 1
) -> dict[str, xr.DataArray]:
    """Coordinates of forecasts of `record` from `starts`.

    Args:
        record: a record with a `time` dimension.
        starts: ``int[m]`` record time indices.
        stride: record steps between two states.
        steps: number of leads.
        first_lead: strides from the start to the first of them.

    Returns:
        ``init_time[m]``; ``lead_time[steps]``, timedelta64 for calendar dates, else in the units of time; and
        ``valid_time[m, steps]``, their sum.
    """
    step, units, calendar = time_step(record)
    time = record[TIME].values
    leads: np.ndarray = step * stride * np.arange(first_lead, first_lead + steps)
    if calendar:
        time = time.astype("datetime64[ns]")
        leads = (leads * 1e9).round().astype("timedelta64[ns]")
    else:
        time = time.astype(np.float64)
    start = time[starts]
    described = {} if calendar else {"units": units}
    return {
        "init_time": xr.DataArray(
            start, dims="init_time", attrs={"long_name": "time of the latest state seen", **described}
        ),
        "lead_time": xr.DataArray(leads, dims="lead_time", attrs={"long_name": "time since the start", **described}),
        "valid_time": xr.DataArray(
            start[:, None] + leads,
            dims=("init_time", "lead_time"),
            attrs={"long_name": "time that the forecast is for", "standard_name": "time", **described},
        ),
    }


def time_index(record: xr.Dataset, times: xr.DataArray, what: str = "valid time") -> xr.DataArray:
    """Record time indices of `times`, same dims: nearest neighbours that agree within a tenth of a time step.

    Raises:
        InputError: a time lies outside the record or between its entries; the first such one is named.
    """
    step, units, calendar = time_step(record)
    axis = record[TIME].values
    wanted = times.values
    if np.issubdtype(wanted.dtype, np.datetime64) != calendar:
        raise InputError(
            f"the forecast's {what} is of type {wanted.dtype}, the record's time of type {axis.dtype}: this forecast "
            "was made from another record"
        )
    if calendar:
        origin = axis[0]
        axis, wanted = ((a - origin) / np.timedelta64(1, "s") for a in (axis, wanted))
    index = np.clip(np.searchsorted(axis, wanted), 1, max(len(axis) - 1, 1)) - 1
    if len(axis) > 1:
        index = index + (np.abs(axis[index + 1] - wanted) < np.abs(axis[index] - wanted))
    off = ~(np.abs(axis[index] - wanted) <= START_TOLERANCE * step)
    if off.any():
        missed = times[tuple(int(i) for i in np.argwhere(off)[0])]
        start = f" (forecast from {_text(missed['init_time'].values)})" if "init_time" in missed.coords else ""
        raise InputError(
            f"the record has no state at {what} {_text(missed.values)}{start}, {int(off.sum())} such times: it runs "
            f"{_text(record[TIME].values[0])} .. {_text(record[TIME].values[-1])} in steps of {step:g} {units}; "
            "forecast fewer steps (rollout.steps), or bring the record that the forecast was made from"
        )
    return times.copy(data=index)


def _text(time: np.ndarray) -> str:
    return str(time)[:19]
