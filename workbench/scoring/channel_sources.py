"""What is compared in a channel: the truth, the rollout, other records of the same flow, and published profiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from workbench.data.store import naming_bad_chunks, open_record
from workbench.errors import InputError
from workbench.metrics.channel import Grid, Names, friction_reynolds_number, same_units
from workbench.metrics.channel_statistics import channel_statistics, densities
from workbench.metrics.channel_sums import ChannelSums, accumulate, run_dims, sample_scale
from workbench.metrics.long_run import BATCHES, Estimate, batch_numbers, jackknife_variance, leave_one_out

Progress = Callable[[int, int], None]
NAMES = Names()
FORECAST_NAMES = Names(time="lead_time")
PROFILE_COLUMNS = 5


@dataclass(frozen=True)
class Source:
    """One record or forecast, summed.

    Attributes:
        name: in tables and figures.
        found: its sums and history.
        numbers: the batch of every state, ``int[run, time]``.
        viscosity: that of the truth.
    """

    name: str
    found: ChannelSums
    numbers: np.ndarray
    viscosity: float

    @property
    def batches(self) -> int:
        """Number of batches."""
        return self.found.sums.sizes["batch"]

    def statistics(self, sums: xr.Dataset) -> xr.Dataset:
        """Statistics of sums over batches."""
        return channel_statistics(sums, self.found.scale, self.viscosity)

    @cached_property
    def value(self) -> xr.Dataset:
        """Statistics of all batches together."""
        return self.statistics(self.found.sums.sum("batch", skipna=False))

    @cached_property
    def without(self) -> xr.Dataset:
        """Statistics with one batch left out, for each in turn."""
        return self.statistics(leave_one_out(self.found.sums.drop_vars("joint")))

    @cached_property
    def estimate(self) -> Estimate:
        """Statistics with their sampling variance; densities in place of cumulative shares."""
        value, without = (s.drop_vars(["cdf", "edge_value"]).assign(densities(s)) for s in (self.value, self.without))
        return Estimate(value, jackknife_variance(without), self.batches)

    @property
    def batch_length(self) -> int:
        """States in a batch."""
        return max(1, self.states // self.batches)

    @property
    def states(self) -> int:
        """Number of states that are averaged."""
        return int((self.numbers >= 0).sum())

    def average(self, quantity: str) -> float:
        """Mean over the states that are averaged of a volume average."""
        history = self.found.history[quantity].values
        return float(history[self.numbers >= 0].mean())


@dataclass(frozen=True)
class Truth:
    """The truth, and what follows from it for everything that is compared with it.

    Attributes:
        source: the record, summed.
        units: of velocity.
        walls: wall-normal coordinates of the walls.
        half_height: half their distance.
        friction_velocity: u_tau of every source's wall units.
        friction_source: where u_tau comes from, in words.
    """

    source: Source
    units: str
    walls: tuple[float, float]
    half_height: float
    friction_velocity: float
    friction_source: str

    @property
    def reynolds(self) -> float:
        """Friction Reynolds number."""
        return friction_reynolds_number(self.friction_velocity, self.half_height, self.source.viscosity)


def read_truth(record: xr.Dataset, batches: int = BATCHES, progress: Progress = lambda done, total: None) -> Truth:
    """Sum over the whole record.

    Raises:
        InputError: the record is no channel, or does not say its viscosity.
    """
    if "viscosity" not in record.attrs:
        raise InputError(
            "the record has no attribute 'viscosity': wall units need the kinematic viscosity in the units of velocity "
            "times length; write it into the record's attributes"
        )
    viscosity = float(record.attrs["viscosity"])
    units = same_units(record, NAMES)
    grid = Grid.of(record, NAMES)
    source = _summed("truth", record, NAMES, sample_scale(record), viscosity, 0.0, batches, 1, progress)
    friction, words = _friction_velocity(record, source)
    return Truth(source, units, (float(grid.y[0]), float(grid.y[-1])), grid.half_height, friction, words)


def _friction_velocity(record: xr.Dataset, truth: Source) -> tuple[float, str]:
    """u_tau as the solver measured it, as the record states it, or from its mean profile."""
    if "friction_velocity" in record:
        measured = record["friction_velocity"].astype(np.float64)
        return float(np.sqrt((measured**2).mean())), "root mean square of the record's friction_velocity"
    if "friction_velocity" in record.attrs:
        return float(record.attrs["friction_velocity"]), "stated by the record"
    return float(truth.value["friction_velocity"]), "slope of the truth's mean velocity at the wall"


def read_forecast(
    forecast: xr.Dataset, truth: Truth, discard: float, batches: int, progress: Progress = lambda done, total: None
) -> Source:
    """Sum over a rollout, its first part left out.

    Args:
        forecast: ``([member,] [trajectory,] [init_time,] lead_time, x, y, z)``.
        truth: what it is compared with.
        discard: part of the steps that is left out.
        batches: batches in all forecasts together.
        progress: called with blocks done and blocks in all.
    """
    _refuse_unlike(forecast, truth, "the forecast", FORECAST_NAMES)
    scale = _scale_for(truth, forecast)
    shortest = truth.source.batch_length
    return _summed(
        "model", forecast, FORECAST_NAMES, scale, truth.source.viscosity, discard, batches, shortest, progress
    )


def read_reference(
    name: str, path: str, truth: Truth, batches: int, progress: Progress = lambda done, total: None
) -> Source:
    """Sum over another record of the same flow.

    Raises:
        InputError: its velocity or its walls differ from those of the truth.
    """
    record = open_record(path)
    _refuse_unlike(record, truth, f"the reference '{name}'", NAMES)
    scale, shortest = _scale_for(truth, record), truth.source.batch_length
    return _summed(name, record, NAMES, scale, truth.source.viscosity, 0.0, batches, shortest, progress)


def _refuse_unlike(dataset: xr.Dataset, truth: Truth, what: str, names: Names) -> None:
    units = same_units(dataset, names)
    if units != truth.units:
        raise InputError(f"{what} has its velocity in '{units}', the record in '{truth.units}': convert it")
    grid = Grid.of(dataset, names)
    walls = (float(grid.y[0]), float(grid.y[-1]))
    if not np.allclose(walls, truth.walls, atol=1e-3 * truth.half_height):
        raise InputError(
            f"{what} has its walls at {walls[0]:g} and {walls[1]:g}, the record at {truth.walls[0]:g} and "
            f"{truth.walls[1]:g}: scale and shift its wall-normal coordinate"
        )
    stated = dataset.attrs.get("viscosity")
    if stated is not None and not np.isclose(float(stated), truth.source.viscosity, rtol=1e-3):
        raise InputError(
            f"{what} has the viscosity {float(stated):g}, the record {truth.source.viscosity:g}: it is another flow"
        )


def _scale_for(truth: Truth, dataset: xr.Dataset) -> xr.Dataset:
    nodes = Grid.of(dataset).y
    scale = truth.source.found.scale
    if scale.sizes["y"] == len(nodes) and np.allclose(scale["y"], nodes, atol=1e-5 * truth.half_height):
        return scale
    return scale.interp(y=nodes, kwargs={"fill_value": "extrapolate"})


def _summed(
    name: str,
    dataset: xr.Dataset,
    names: Names,
    scale: xr.Dataset,
    viscosity: float,
    discard: float,
    batches: int,
    shortest: int,
    progress: Progress,
) -> Source:
    """Sum over a record in batches; fewer than asked for where they would be shorter than `shortest` states."""
    states = dataset.sizes[names.time]
    runs = int(np.prod([dataset.sizes[dim] for dim in run_dims(dataset, names)]))
    first = int(discard * states)
    numbers = batch_numbers(runs, states, first, max(2, min(batches, runs * (states - first) // shortest)))
    with naming_bad_chunks(dataset):
        found = accumulate(dataset, numbers, scale, names, progress)
    return Source(name, found, numbers, viscosity)


# --------------------------------------------------------------------------------------------- published profiles


@dataclass(frozen=True)
class Published:
    """Profiles of a publication, on the truth's half channel and in its units of velocity.

    Attributes:
        name: in tables and figures.
        value: ``mean_velocity(y)`` and ``rms(component, y)``.
        reynolds: friction Reynolds number of the table.
    """

    name: str
    value: xr.Dataset
    reynolds: float


def read_published(name: str, path: str, truth: Truth) -> Published:
    """Read a text table of y+, <u>+, u'rms+, v'rms+, w'rms+ from the wall to the centre.

    Its last row is the centre, so its last y+ is Re_tau. Between its rows the truth's nodes are reached linearly.

    Raises:
        InputError: the file is no such table.
    """
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the profiles '{name}' from {path}: {error}") from error
    y_plus = table[:, 0]
    if table.shape[1] < PROFILE_COLUMNS or len(table) < 3 or abs(y_plus[0]) > 1e-6 or not (np.diff(y_plus) > 0).all():
        raise InputError(
            f"{path} has {table.shape[0]} rows of {table.shape[1]} columns, y+ from {y_plus[0]:g} to {y_plus[-1]:g}: "
            "expected y+, <u>+, u'rms+, v'rms+, w'rms+ from the wall (0) to the centre"
        )
    nodes = truth.source.value["y"].values
    at = (nodes - truth.walls[0]) / truth.half_height * y_plus[-1]
    columns = [np.interp(at, y_plus, column) * truth.friction_velocity for column in table.T[1:PROFILE_COLUMNS]]
    empty = truth.source.value * np.nan
    value = empty.assign(
        mean_velocity=("y", columns[0]), rms=(("component", "y"), np.stack(columns[1:])), edge_value=empty["edge_value"]
    )
    return Published(name, value, float(y_plus[-1]))


def is_table(path: str) -> bool:
    """Whether a reference is a text table of profiles rather than a record."""
    return Path(path).suffix in (".txt", ".dat", ".csv")
