"""Channels that follow from a record's dates and grid alone: time of year and day, and position.

An experiment lists them like variables of the record, under ``data.forcing`` and ``data.static``. With the day of the
year d (1 .. 366), the hour of the day h (0 .. 24), latitude and longitude,

    cos_day_of_year = cos(2 pi d / 366),  sin_day_of_year = sin(2 pi d / 366),
    cos_hour_of_day = cos(2 pi h / 24),   sin_hour_of_day = sin(2 pi h / 24),

and latitude_radians, longitude_radians, sin_latitude, cos_longitude, sin_longitude. They are not normalised.

Source: Schmude et al. (2024), Prithvi WxC, arXiv:2409.13598, section 3.2, whose model takes the first four at the time
of the latest input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from workbench.data.grid import is_latitude, is_longitude
from workbench.data.spec import TIME, Axis
from workbench.errors import InputError

Angle = Callable[[np.ndarray], np.ndarray]

CALENDAR: dict[str, tuple[str, Angle]] = {
    "cos_day_of_year": ("day", np.cos),
    "sin_day_of_year": ("day", np.sin),
    "cos_hour_of_day": ("hour", np.cos),
    "sin_hour_of_day": ("hour", np.sin),
}
POSITION: dict[str, tuple[str, Angle]] = {
    "latitude_radians": ("latitude", np.positive),
    "longitude_radians": ("longitude", np.positive),
    "sin_latitude": ("latitude", np.sin),
    "cos_longitude": ("longitude", np.cos),
    "sin_longitude": ("longitude", np.sin),
}
MARK = "workbench_derived"
"""Attribute of a derived variable."""


def is_derived(array: xr.DataArray) -> bool:
    """Whether a variable was made here."""
    return MARK in array.attrs


def with_derived(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """`dataset` with those of `names` that it lacks and that can be derived, as views that take no memory.

    Returns:
        the Dataset with variables ``float32(time, latitude, longitude)`` of time and ``(latitude, longitude)`` of
        position, these two in the order in which the record has them.

    Raises:
        InputError: one is asked for, and there are no dates, or no axes of latitude and longitude.
    """
    wanted = [n for n in names if n not in dataset.data_vars and n in {**CALENDAR, **POSITION}]
    if not wanted:
        return dataset
    grid = {what: _axis(dataset, what) for what in ("latitude", "longitude")}
    dims = _in_order(dataset, tuple(grid.values()))
    shape = tuple(dataset.sizes[d] for d in dims)
    found = {}
    for name in wanted:
        if name in CALENDAR:
            angle, function = CALENDAR[name]
            values = function(_time_angle(dataset, name, angle)).astype(np.float32)[:, None, None]
            field = xr.Variable((TIME, *dims), np.broadcast_to(values, (len(values), *shape)))
        else:
            axis, function = POSITION[name]
            values = function(np.deg2rad(dataset[grid[axis]].values.astype(np.float64))).astype(np.float32)
            place = values[:, None] if dims[0] == grid[axis] else values[None]
            field = xr.Variable(dims, np.broadcast_to(place, shape))
        units = "rad" if name.endswith("radians") else "1"
        field.attrs = {"units": units, "long_name": name.replace("_", " "), MARK: 1}
        found[name] = field
    return dataset.assign(found)


def _axis(dataset: xr.Dataset, what: str) -> str:
    """The dimension that is latitude or longitude."""
    check = is_latitude if what == "latitude" else is_longitude
    dims = [str(d) for d in dataset.dims if d in dataset.coords and d != TIME and check(Axis.of(dataset, str(d)))]
    if not dims:
        raise InputError(
            f"the record has no axis of {what}, which derived channels need: expected a dimension with a coordinate in "
            f"degrees, named {what} or with such units; its dimensions are {', '.join(map(str, dataset.dims))}"
        )
    return dims[0]


def _in_order(dataset: xr.Dataset, dims: tuple[str, ...]) -> tuple[str, ...]:
    """`dims` in the order of the first variable that has them all."""
    first = next((array.dims for array in dataset.data_vars.values() if set(dims) <= set(array.dims)), dims)
    return tuple(sorted(dims, key=first.index))


def _time_angle(dataset: xr.Dataset, name: str, angle: str) -> np.ndarray:
    """Angle in the year or in the day of each time, in radians."""
    if TIME not in dataset.coords or not np.issubdtype(dataset[TIME].dtype, np.datetime64):
        raise InputError(f"'{name}' needs calendar dates on the time axis: the record has none")
    time = dataset[TIME]
    if angle == "day":
        return 2 * np.pi * time.dt.dayofyear.values / 366
    into_day = (time.values - time.values.astype("datetime64[D]")) / np.timedelta64(1, "h")
    return np.asarray(2 * np.pi * into_day / 24)
