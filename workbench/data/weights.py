"""Weights for averages over a grid: functions of one coordinate, multiplied together where there are several.

Every average divides by the sum of its weights, so only ratios of weights matter: a constant error of 2 has a
root mean square of 2 under any of them.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.errors import InputError


def uniform(coordinate: xr.DataArray) -> xr.DataArray:
    """Return the weight 1 at every point of ``coordinate``."""
    return _labelled(coordinate, np.ones_like(_values(coordinate)))


def cos_latitude(latitude: xr.DataArray) -> xr.DataArray:
    """Return cos(latitude), latitude in degrees; zero at a pole."""
    _require_latitude(latitude)
    # cos(90 degrees) is 6e-17 in floating point; a pole has no extent.
    return _labelled(latitude, np.maximum(np.cos(np.deg2rad(_values(latitude))), 0.0).round(15))


def latitude_area(latitude: xr.DataArray) -> xr.DataArray:
    """Return the relative area of each latitude row, |sin b_{i+1} - sin b_i|.

    The bounds b lie midway between rows. An outermost bound is the pole where the row lies within one grid spacing
    of it (global grids, equiangular or Gaussian: the weights add up to 2), else half a spacing beyond the row.

    Args:
        latitude: One-dimensional and monotonic, in degrees, at least two rows.
    """
    _require_latitude(latitude)
    rows = _monotonic(latitude)
    middle = 0.5 * (rows[1:] + rows[:-1])
    first = _outer_bound(rows[0], rows[0] - rows[1])
    last = _outer_bound(rows[-1], rows[-1] - rows[-2])
    bounds = np.deg2rad(np.concatenate([[first], middle, [last]]))
    return _labelled(latitude, np.abs(np.diff(np.sin(bounds))))


def _outer_bound(row: float, outward: float) -> float:
    pole = np.copysign(90.0, outward)
    return float(pole) if abs(pole - row) <= abs(outward) else float(row + 0.5 * outward)


def trapezoid(coordinate: xr.DataArray) -> xr.DataArray:
    """Return trapezoidal quadrature weights on a possibly stretched grid, |x_{i+1} - x_{i-1}| / 2.

    The end points count with half their interval: the grid runs from boundary to boundary, walls included, and the
    weights add up to its extent.

    Args:
        coordinate: One-dimensional and monotonic, at least two points.
    """
    points = _monotonic(coordinate)
    half = 0.5 * np.abs(np.diff(points))
    return _labelled(coordinate, np.concatenate([half, [0.0]]) + np.concatenate([[0.0], half]))


def cell_width(coordinate: xr.DataArray, bounds: Sequence[float] | np.ndarray) -> xr.DataArray:
    """Return the widths |b_{i+1} - b_i| of cells whose centres are ``coordinate``.

    Args:
        coordinate: The n cell centres.
        bounds: The n + 1 cell edges, in the same order and units.

    Raises:
        InputError: A centre does not lie between its edges.
    """
    edges, centres = np.asarray(bounds, dtype=np.float64), _values(coordinate)
    inside = edges.shape == (centres.size + 1,) and np.all((centres - edges[:-1]) * (edges[1:] - centres) > 0)
    if not inside:
        raise InputError(
            f"'{coordinate.name}' has {centres.size} cell centres: expected {centres.size + 1} edges that enclose "
            f"them in the same order, found {edges.size} edges"
        )
    return _labelled(coordinate, np.abs(np.diff(edges)))


def _labelled(coordinate: xr.DataArray, values: np.ndarray) -> xr.DataArray:
    dim = coordinate.dims[0]
    return xr.DataArray(values, dims=(dim,), coords={dim: coordinate.values}, name="weight")


def _values(coordinate: xr.DataArray) -> np.ndarray:
    if coordinate.ndim != 1:
        raise InputError(
            f"weights need a one-dimensional coordinate, found '{coordinate.name}' with dimensions "
            f"{tuple(str(d) for d in coordinate.dims)}: pass one coordinate of the grid, for example ds['y']"
        )
    return np.asarray(coordinate.values, dtype=np.float64)


def _monotonic(coordinate: xr.DataArray) -> np.ndarray:
    points = _values(coordinate)
    steps = np.diff(points)
    if points.size < 2 or not (np.all(steps > 0) or np.all(steps < 0)):
        raise InputError(
            f"weights from spacing need at least two points that rise or fall throughout, found '{coordinate.name}' "
            f"with {points.size} points: sort it with .sortby('{coordinate.name}')"
        )
    return points


def _require_latitude(latitude: xr.DataArray) -> None:
    values = _values(latitude)
    if not np.all(np.abs(values) <= 90.0):
        raise InputError(
            f"expected latitudes within -90..90 degrees, found '{latitude.name}' from {np.min(values)} to "
            f"{np.max(values)}: pass the latitude coordinate, in degrees"
        )
