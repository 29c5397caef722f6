"""What a record is: variables, units, grid and time step, read off the data and compared, never guessed.

A *record* is an xarray Dataset whose variables are laid out ``([trajectory,] [time,] [level,] *space)``. Its
`RecordSpec` is small, plain and serialisable. It travels inside checkpoints, and two of them can be compared:
``trained.differences(found)`` lists in sentences what does not match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError

TIME = "time"
TRAJECTORY = "trajectory"
LEVEL_NAMES = ("level", "lev", "plev", "pressure_level", "isobaricInhPa", "component")
STEPS = (TIME, TRAJECTORY, "dayofyear", "hour")
"""Dims along which a chunk holds one index, where it holds whole fields: those of a record, those of a climatology."""
ANOMALY_VARIANCE = "_anomaly_variance"
"""Ends the name of the variable of a climatology that holds the variance of another one's anomalies."""
STEP_TOLERANCE = 1e-4
"""Relative deviation from the median time step that still counts as uniform (float32 time axes need it)."""


@dataclass(frozen=True)
class Axis:
    """One coordinate axis of a grid: its name, units and values (which need not be uniform)."""

    name: str
    units: str
    values: tuple[float | str, ...]

    @classmethod
    def of(cls, dataset: xr.Dataset, dim: str) -> Axis:
        """Read the axis `dim` of `dataset`; an index without coordinate is numbered from 0."""
        if dim not in dataset.coords:
            return cls(dim, "1", tuple(float(i) for i in range(dataset.sizes[dim])))
        coordinate = dataset[dim]
        values = coordinate.values
        if values.dtype.kind in "OUS":
            return cls(dim, "1", tuple(str(v) for v in values))
        return cls(dim, str(coordinate.attrs.get("units", "1")), tuple(float(v) for v in values))

    def difference(self, other: Axis) -> str | None:
        """One sentence on how `other` differs from this axis, or None."""
        if len(self.values) != len(other.values):
            return f"axis '{self.name}' has {len(other.values)} points, expected {len(self.values)}"
        if self.units != other.units and "1" not in (self.units, other.units):
            return f"axis '{self.name}' is in '{other.units}', expected '{self.units}'"
        if any(isinstance(v, str) for v in self.values + other.values):
            return None if self.values == other.values else f"axis '{self.name}' has other labels"
        mine, theirs = np.array(self.values, float), np.array(other.values, float)
        extent = max(float(np.ptp(mine)), np.abs(mine).max(initial=0.0) * 1e-3, 1e-12)
        if np.allclose(mine, theirs, rtol=0, atol=1e-5 * extent):
            return None
        if _same_meridians(self, mine, theirs):
            west = mine.min()
            return (
                f"axis '{self.name}' counts the same meridians {theirs[0]:g}..{theirs[-1]:g}, expected "
                f"{mine[0]:g}..{mine[-1]:g}: ds.assign_coords({self.name}=(ds.{self.name} - {west:g}) % 360 + {west:g})"
                f".sortby('{self.name}')"
            )
        if np.allclose(mine, theirs[::-1], rtol=0, atol=1e-5 * extent):
            return f"axis '{self.name}' is reversed: starts at {theirs[0]:g}, expected {mine[0]:g}"
        return (
            f"axis '{self.name}' runs {theirs[0]:g}..{theirs[-1]:g}, expected {mine[0]:g}..{mine[-1]:g}"
            if not np.allclose(mine[[0, -1]], theirs[[0, -1]], atol=1e-5 * extent)
            else f"axis '{self.name}' is spaced differently between {mine[0]:g} and {mine[-1]:g}"
        )


def _same_meridians(axis: Axis, mine: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether both are longitudes of the same places, counted from different meridians: -180..180 and 0..360."""
    if not (axis.units.startswith("degree") and "lon" in axis.name.lower()):
        return False
    turned = np.sort((theirs - mine.min()) % 360)
    return np.allclose(turned, np.sort(mine - mine.min()), rtol=0, atol=1e-3) and np.ptp(mine) < 360


@dataclass(frozen=True)
class Variable:
    """One variable of a record: name, units, long name and its dims besides trajectory and time."""

    name: str
    units: str
    long_name: str
    dims: tuple[str, ...]
    attrs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, dataset: xr.Dataset, name: str) -> Variable:
        """Read variable `name` off `dataset`.

        Raises:
            InputError: the dataset has no such variable, or the variable has no units.
        """
        if name not in dataset.data_vars:
            raise InputError(
                f"variable '{name}' is not in the record; it has "
                + ", ".join(repr(v) for v in sorted(map(str, dataset.data_vars)))
            )
        array = dataset[name]
        if "units" not in array.attrs:
            raise InputError(
                f"variable '{name}' has no 'units' attribute in the file; "
                f"say them in the experiment, data.units: {{{name}: UNITS}} (1 for a pure number)"
            )
        keep = tuple((key, str(array.attrs[key])) for key in ("standard_name", "cell_methods") if key in array.attrs)
        dims = tuple(str(d) for d in array.dims if d not in (TIME, TRAJECTORY))
        return cls(name, str(array.attrs["units"]), str(array.attrs.get("long_name", name)), dims, keep)

    def all_attrs(self) -> dict[str, str]:
        """The CF attributes that a predicted variable gets back."""
        return {"units": self.units, "long_name": self.long_name, **dict(self.attrs)}


@dataclass(frozen=True)
class RecordSpec:
    """Variables, grid axes and time step of a record, in the order in which they become channels.

    Attributes:
        variables: the variables, in channel order.
        axes: every axis that a variable uses besides trajectory and time.
        time_step: the step between consecutive states, in `time_units`; 0 for a record without time.
        time_units: ``s`` for a record with calendar dates, else the units of its time coordinate.
        calendar: whether time is a calendar date (datetime64) or a plain number.
        parameters: the record's global attributes that are numbers, such as a viscosity: what its physics depends on.
    """

    variables: tuple[Variable, ...]
    axes: tuple[Axis, ...]
    time_step: float
    time_units: str
    calendar: bool
    parameters: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, dataset: xr.Dataset, names: Sequence[str], stride: int = 1) -> RecordSpec:
        """Read the spec of the variables `names` off `dataset`, time step taken `stride` record steps long.

        Raises:
            InputError: a variable or its units are missing.
        """
        variables = tuple(Variable.of(dataset, name) for name in names)
        dims = dict.fromkeys(dim for variable in variables for dim in variable.dims)
        axes = tuple(Axis.of(dataset, dim) for dim in dims)
        if TIME not in dataset.dims:
            return cls(variables, axes, 0.0, "1", False, _parameters(dataset))
        step, units, calendar = time_step(dataset)
        return cls(variables, axes, step * stride, units, calendar, _parameters(dataset))

    def variable(self, name: str) -> Variable:
        """The variable called `name`."""
        return next(v for v in self.variables if v.name == name)

    def axis(self, name: str) -> Axis:
        """The axis called `name`."""
        return next(a for a in self.axes if a.name == name)

    def differences(self, other: RecordSpec, check_time: bool = True) -> list[str]:
        """Sentences on everything in which `other` differs from this spec; empty where they agree.

        Only what this spec needs is compared: variables that `other` has besides do not matter.
        """
        found: list[str] = []
        for variable in self.variables:
            match = [v for v in other.variables if v.name == variable.name]
            if not match:
                found.append(f"variable '{variable.name}' is missing")
            elif match[0].units != variable.units:
                found.append(f"variable '{variable.name}' is in '{match[0].units}', expected '{variable.units}'")
            elif match[0].dims != variable.dims:
                found.append(f"variable '{variable.name}' lies on {match[0].dims}, expected {variable.dims}")
        names = {a.name: a for a in other.axes}
        for axis in self.axes:
            sentence = axis.difference(names[axis.name]) if axis.name in names else None
            if sentence:
                found.append(sentence)
        if check_time and self.calendar != other.calendar:
            found.append(f"time is {_time_kind(other)}, expected {_time_kind(self)}")
        elif check_time and not np.isclose(self.time_step, other.time_step, rtol=STEP_TOLERANCE):
            found.append(
                f"the time step is {other.time_step:g} {other.time_units}, "
                f"expected {self.time_step:g} {self.time_units}"
            )
        return found

    def require(self, other: RecordSpec, where: str, check_time: bool = True) -> None:
        """Refuse a record that differs in what this spec needs.

        Raises:
            InputError: it does; every difference is listed.
        """
        differences = self.differences(other, check_time)
        if differences:
            raise InputError(
                f"{where} does not fit what the model was trained for: " + "; ".join(differences) + _advice(differences)
            )

    def other_parameters(self, other: RecordSpec) -> list[str]:
        """Sentences on the parameters that both have and that differ: no hindrance, but worth a warning."""
        theirs = dict(other.parameters)
        return [
            f"{name} is {theirs[name]:g}, in training it was {value:g}"
            for name, value in self.parameters
            if name in theirs and not np.isclose(theirs[name], value, rtol=1e-4, equal_nan=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: the inverse of `from_dict`."""
        return {
            "variables": [
                {
                    "name": v.name,
                    "units": v.units,
                    "long_name": v.long_name,
                    "dims": list(v.dims),
                    "attrs": [list(a) for a in v.attrs],
                }
                for v in self.variables
            ],
            "axes": [{"name": a.name, "units": a.units, "values": list(a.values)} for a in self.axes],
            "time_step": self.time_step,
            "time_units": self.time_units,
            "calendar": self.calendar,
            "parameters": [list(p) for p in self.parameters],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RecordSpec:
        """Rebuild the spec that `to_dict` wrote."""
        return cls(
            tuple(
                Variable(
                    v["name"],
                    v["units"],
                    v["long_name"],
                    tuple(v["dims"]),
                    tuple((k, x) for k, x in v["attrs"]),
                )
                for v in plain["variables"]
            ),
            tuple(Axis(a["name"], a["units"], tuple(a["values"])) for a in plain["axes"]),
            float(plain["time_step"]),
            str(plain["time_units"]),
            bool(plain["calendar"]),
            tuple((name, float(value)) for name, value in plain.get("parameters", ())),
        )


def _parameters(dataset: xr.Dataset) -> tuple[tuple[str, float], ...]:
    """Global attributes that are single numbers, without those that Workbench writes about the making of a record."""
    numbers = {str(k): v for k, v in dataset.attrs.items() if isinstance(v, (int, float, np.number))}
    return tuple((k, float(v)) for k, v in numbers.items() if not k.startswith("workbench_"))


def _time_kind(spec: RecordSpec) -> str:
    return "a calendar date" if spec.calendar else f"a number in '{spec.time_units}'"


def time_numbers(dataset: xr.Dataset) -> tuple[np.ndarray, str, bool]:
    """Time axis as float64 numbers with units: seconds since the first entry for calendar dates.

    Returns:
        values ``[time]``, their units, and whether time is a calendar date.
    """
    if TIME not in dataset.coords:
        return np.arange(dataset.sizes[TIME], dtype=float), "1", False
    time = dataset[TIME]
    if np.issubdtype(time.dtype, np.datetime64):
        return (time.values - time.values[0]) / np.timedelta64(1, "s"), "s", True
    if time.dtype.kind not in "iuf":
        raise InputError(
            f"the time axis has dtype {time.dtype}: expected datetime64 or numbers "
            "(a non-standard calendar needs ds.convert_calendar('standard') first)"
        )
    return time.values.astype(float), str(time.attrs.get("units", "1")), False


def time_step(dataset: xr.Dataset) -> tuple[float, str, bool]:
    """Median step of the time axis, its units, and whether time is a calendar date."""
    values, units, calendar = time_numbers(dataset)
    return (float(np.median(np.diff(values))) if len(values) > 1 else 0.0), units, calendar


def segments(dataset: xr.Dataset, gaps: str = "error") -> list[tuple[int, int]]:
    """Runs of uniformly spaced time steps, as half-open index ranges.

    Args:
        dataset: a record with a `time` dimension.
        gaps: ``error`` refuses a time axis that is not uniform; ``split`` cuts it where a step differs from
            the median step, so that no window crosses the gap.

    Raises:
        InputError: time does not increase, or is not uniform while `gaps` is ``error``.
    """
    values, units, _ = time_numbers(dataset)
    steps = np.diff(values)
    if len(steps) == 0:
        return [(0, len(values))]
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        raise InputError(
            f"the time axis does not increase at index {at + 1} ({_label(dataset, at)} is followed by "
            f"{_label(dataset, at + 1)}); sort it (ds.sortby('time')) or drop the duplicate"
        )
    step = float(np.median(steps))
    broken = np.flatnonzero(np.abs(steps - step) > STEP_TOLERANCE * step)
    if len(broken) and gaps == "error":
        at = int(broken[0])
        raise InputError(
            f"the time axis is not uniform: the step is {step:g} {units}, but {steps[at]:g} {units} between index "
            f"{at} ({_label(dataset, at)}) and {at + 1} ({_label(dataset, at + 1)}), {len(broken)} such places; "
            "set data.gaps: split to keep windows from crossing them"
        )
    edges = [0, *(int(b) + 1 for b in broken), len(values)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _label(dataset: xr.Dataset, index: int) -> str:
    return str(dataset[TIME].values[index])[:19] if TIME in dataset.coords else str(index)


def _advice(differences: Sequence[str]) -> str:
    """How to repair the first difference of a known kind."""
    text = " ".join(differences)
    if "reversed" in text:
        return ". Sort the axis in the file (ds.sortby(...)) to the order of training"
    if " is in " in text:
        return ". Convert the units in the file, then set the 'units' attribute"
    if "is missing" in text:
        return ". Rename the variable in the file (ds.rename(...)), or choose data.state to match"
    if "points, expected" in text or " runs " in text:
        return ". Use a record on the grid of training, or train on this one"
    if "time step" in text:
        return ". Resample the file to the training step, or set data.stride"
    return ""
