"""Any field as something that fits on paper: its space dimensions, the cut through it, its colour scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from workbench.data.spec import LEVEL_NAMES
from workbench.report.labels import describe, moment, plain, with_units
from workbench.report.style import ERROR_MAP, POSITIVE_MAP, SIGNED_MAP

SAMPLE_DIMS = ("member", "trajectory", "init_time", "lead_time", "time")
HORIZONTAL = ("x", "lon", "longitude", "node_x", "elem_x")
VERTICAL = ("y", "z", "lat", "latitude", "node_y", "elem_y", "node_z", "elem_z")
THICKNESS = ("node_z", "elem_z")
"""Across a structure, which is looked at from the side unless asked otherwise."""
LATITUDES = ("degrees_north", "degree_north", "lat", "latitude")
LONGITUDES = ("degrees_east", "degree_east", "lon", "longitude")
"""Units or, where a coordinate has none, names that mark geographical axes."""


def space_dims(field: xr.DataArray) -> tuple[str, ...]:
    """The dimensions of `field` besides member, trajectory and the times, levels included."""
    return tuple(str(d) for d in field.dims if d not in SAMPLE_DIMS)


def cut(field: xr.DataArray, normal: str | None = None) -> tuple[xr.DataArray, str]:
    """Bring `field` down to at most two space dimensions.

    Levels are cut at the first entry, further dimensions at their middle.

    Args:
        field: any field; sample dimensions stay.
        normal: the space dimension to cut first; by default the thickness of a structure, else the leading one.

    Returns:
        the cut field, and a sentence that says where it was cut (empty if it was not).
    """
    notes = []
    while len(dims := space_dims(field)) > 2:
        levels = [d for d in dims if d in LEVEL_NAMES]
        across = [d for d in dims if d in THICKNESS] or [dims[0]]
        dim = levels[0] if levels else normal if normal in dims else across[0]
        index = 0 if levels else field.sizes[dim] // 2
        notes.append(_where(field, dim, index) + ("" if levels else " (mid-plane)"))
        field = field.isel({dim: index}, drop=True)
    return _upright(field), ", ".join(notes)


def _upright(field: xr.DataArray) -> xr.DataArray:
    """Turn a field stored ``(x, y)`` into ``(y, x)``: the last dimension runs to the right."""
    dims = space_dims(field)
    if len(dims) == 2 and dims[0] in HORIZONTAL and dims[1] in VERTICAL:
        return field.transpose(..., dims[1], dims[0])
    return field


def _where(field: xr.DataArray, dim: str, index: int) -> str:
    if dim not in field.coords:
        return f"{dim} index {index}"
    coordinate = field[dim]
    return f"{axis_name(dim)} = {moment(coordinate.values[index], coordinate.attrs.get('units', '1'))}"


def normals(field: xr.DataArray) -> tuple[str | None, ...]:
    """The dimensions normal to which a field is worth cutting: all three of a volume, else None once."""
    dims = [d for d in space_dims(field) if d not in LEVEL_NAMES]
    return tuple(dims) if len(dims) == 3 else (None,)


def positions(field: xr.DataArray, dim: str) -> np.ndarray:
    """Coordinate values along `dim`; where they are missing or are labels, positions counted from 0."""
    if dim in field.coords and field[dim].dtype.kind in "iuf":
        return field[dim].values.astype(float)
    return np.arange(field.sizes[dim], dtype=float)


def axis_label(field: xr.DataArray, dim: str) -> str:
    """Name and units of the axis `dim`."""
    if dim not in field.coords:
        return f"{plain(dim)} (index)"
    return describe(field[dim]) if axis_name(dim) == dim else with_units(axis_name(dim), _units(field, dim))


def axis_name(dim: str) -> str:
    """``x`` for ``node_x`` and ``elem_x``, which are grids along the same axis; others keep their names."""
    return dim.removeprefix("node_").removeprefix("elem_")


def is_map(field: xr.DataArray) -> bool:
    """Whether a field ``(y, x)`` lies on latitude and longitude."""
    y, x = space_dims(field)
    return bool({_units(field, y), y} & set(LATITUDES) and {_units(field, x), x} & set(LONGITUDES))


def aspect(field: xr.DataArray) -> float | Literal["auto"]:
    """Height of a unit of y over the width of a unit of x, for a field ``(y, x)``.

    Longitude is shortened by the cosine of the mean latitude; axes of one unit are drawn to scale unless the picture
    would be over six times longer than wide; anything else fills the frame.
    """
    y, x = space_dims(field)
    y_values, x_values = positions(field, y), positions(field, x)
    if is_map(field):
        return float(1 / max(np.cos(np.deg2rad(y_values.mean())), 0.2))
    shape = _extent(y_values) / _extent(x_values)
    to_scale = _units(field, y) == _units(field, x) and 1 / 6 <= shape <= 6
    return 1.0 if to_scale else "auto"


def height_over_width(field: xr.DataArray) -> float:
    """Height of the picture of a field ``(y, x)`` over its width; 0.6 where it fills the frame."""
    y, x = space_dims(field)
    scale = aspect(field)
    if isinstance(scale, str):
        return 0.6
    return float(np.clip(scale * _extent(positions(field, y)) / _extent(positions(field, x)), 0.15, 4.0))


def _units(field: xr.DataArray, dim: str) -> str:
    return str(field[dim].attrs.get("units", "1")) if dim in field.coords else "index"


def _extent(values: np.ndarray) -> float:
    """Length of an axis from the outer edge of its first cell to that of its last."""
    if len(values) < 2:
        return 1.0
    return float(np.ptp(values)) * len(values) / (len(values) - 1) or 1.0


@dataclass(frozen=True)
class Scale:
    """A colour map and its limits."""

    colormap: str
    low: float
    high: float

    def exceeded_by(self, values: np.ndarray) -> str:
        """On which sides finite `values` leave the limits: ``neither``, ``min``, ``max`` or ``both``."""
        finite = values[np.isfinite(values)]
        below, above = bool((finite < self.low).any()), bool((finite > self.high).any())
        return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")


def truth_scale(truth: np.ndarray) -> Scale:
    """Limits of the truth, so that a prediction that runs away does not wash it out; symmetric for signed fields."""
    low, high = _range(truth)
    if low < 0 < high and min(-low, high) > 0.1 * max(-low, high):
        bound = max(-low, high)
        return Scale(SIGNED_MAP, -bound, bound)
    return Scale(POSITIVE_MAP, low, high)


def error_scale(error: np.ndarray) -> Scale:
    """Symmetric limits that hold 99.5 % of the errors."""
    finite = np.abs(error[np.isfinite(error)])
    bound = float(np.quantile(finite, 0.995)) if finite.size else 1.0
    return Scale(ERROR_MAP, -(bound or 1.0), bound or 1.0)


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
