"""What follows from the axes of a record: area weights, and which part of a larger record lies on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Literal

import numpy as np
import xarray as xr

from workbench.data import weights
from workbench.data.spec import LEVEL_NAMES, Axis, RecordSpec

Weighting = Literal["auto", "cos_lat", "area", "quadrature", "uniform"]


def is_latitude(axis: Axis) -> bool:
    """Whether an axis is latitude in degrees, by its CF units or its usual names."""
    return axis.units in ("degrees_north", "degree_north", "degreesN") or axis.name in ("lat", "latitude")


def is_longitude(axis: Axis) -> bool:
    """Whether an axis is longitude in degrees, by its CF units or its usual names."""
    return axis.units in ("degrees_east", "degree_east", "degreesE") or axis.name in ("lon", "longitude")


def crop_onto(dataset: xr.Dataset, axes: Sequence[Axis]) -> dict[str, tuple[int, int]]:
    """The index ranges of a larger record that hold exactly `axes`; empty where one of them is not a part of it."""
    crop = {}
    for axis in axes:
        if axis.name not in dataset.dims or dataset.sizes[axis.name] <= len(axis.values):
            continue
        found, wanted = Axis.of(dataset, axis.name), len(axis.values)
        ranges = [(first, first + wanted) for first in range(len(found.values) - wanted + 1)]
        fitting = [r for r in ranges if axis.difference(replace(found, values=found.values[slice(*r)])) is None]
        if not fitting:
            return {}
        crop[axis.name] = fitting[0]
    return crop


def axis_weights(axis: Axis, kind: Weighting = "auto") -> xr.DataArray | None:
    """Weights along one axis, or None where they are uniform.

    ``auto`` is the cosine of latitude on a latitude axis, the trapezoidal rule on a stretched axis, else uniform.
    """
    if kind == "uniform" or len(axis.values) < 2 or isinstance(axis.values[0], str) or axis.name in LEVEL_NAMES:
        return None
    coordinate = xr.DataArray(np.array(axis.values, float), dims=axis.name, name=axis.name)
    coordinate = coordinate.assign_coords({axis.name: coordinate.values})
    if is_latitude(axis):
        return weights.latitude_area(coordinate) if kind == "area" else weights.cos_latitude(coordinate)
    steps = np.abs(np.diff(coordinate.values))
    stretched = np.ptp(steps) > 1e-4 * steps.mean()
    return weights.trapezoid(coordinate) if stretched and kind in ("auto", "quadrature") else None


def grid_weights(axes: Sequence[Axis], kind: Weighting = "auto") -> xr.DataArray | None:
    """Product of the weights of all axes, or None where every one is uniform."""
    found = [w for axis in axes if (w := axis_weights(axis, kind)) is not None]
    return reduce(lambda a, b: a * b, found) if found else None


def mean_one_weights(spec: RecordSpec, space: Sequence[str]) -> np.ndarray:
    """Area weights of mean 1 on the grid `space` of a record, as ``float32[*space]``."""
    axes = [spec.axis(dim) for dim in space]
    template = xr.DataArray(np.ones([len(a.values) for a in axes]), dims=[a.name for a in axes])
    found = grid_weights(axes)
    full = template if found is None else (template * found.drop_vars(list(found.coords))).transpose(*space)
    return np.asarray((full / full.mean()).values, dtype=np.float32)
