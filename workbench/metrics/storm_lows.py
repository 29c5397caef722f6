"""Lows of one field of sea level pressure: local minima with a closed contour, placed between grid points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from workbench.metrics.great_circle import KILOMETRES_PER_DEGREE, distance


@dataclass(frozen=True)
class Rules:
    """What counts as a storm, and how its positions are linked in time.

    In outline and in its numbers for extratropical cyclones the tracker is TempestExtremes: Ullrich et al. (2021),
    doi:10.5194/gmd-14-5023-2021, sec. 3.1, and Ullrich & Zarzycki (2017), doi:10.5194/gmd-10-1069-2017. Distances are
    along great circles. A guess from the motion so far, as in Marchok (2021), doi:10.1175/JAMC-D-21-0037.1, makes
    links possible where states are a day apart.

    Args:
        rise: Pa by which pressure rises from the minimum to the closed contour.
        contour: degrees within which every path from the minimum meets the contour.
        merge: degrees within which the deepest of several minima is kept.
        wind: degrees within which the strongest wind is taken.
        speed: m/s that no storm exceeds.
        turn: m/s by which a motion differs from the one before at most.
        gap: time steps that a storm may go unseen.
        points: positions that make a storm.
    """

    rise: float = 200.0
    contour: float = 5.5
    merge: float = 6.0
    wind: float = 2.0
    speed: float = 30.0
    turn: float = 15.0
    gap: int = 0
    points: int = 2


@dataclass(frozen=True)
class Grid:
    """Latitudes and longitudes in degrees, and whether the longitudes go once around."""

    lat: np.ndarray
    lon: np.ndarray
    cyclic: bool


@dataclass(frozen=True, eq=False)
class Lows:
    """Lows of one time: latitudes, longitudes, pressures (Pa) and strongest winds (m/s; NaN where none is given)."""

    lat: np.ndarray
    lon: np.ndarray
    pressure: np.ndarray
    wind: np.ndarray

    def __len__(self) -> int:
        return len(self.lat)


def find_lows(pressure: np.ndarray, grid: Grid, rules: Rules, speed: np.ndarray | None = None) -> Lows:
    """The lows of one field; none where it is not finite.

    Args:
        pressure: Pa, ``[lat, lon]``.
        grid: of the field.
        rules: what counts.
        speed: of the wind, m/s, ``[lat, lon]``.
    """
    pressure = pressure.astype(np.float64)
    rows = [] if not np.isfinite(pressure).all() else _kept(_minima(pressure, grid), pressure, grid, rules)
    found = []
    for i, j in rows:
        if _closed(pressure, grid, i, j, rules):
            lat, lon, least = _between_points(pressure, grid, i, j)
            found.append((lat, lon, least, _strongest(speed, grid, lat, lon, rules.wind)))
    return Lows(*np.array(found, dtype=np.float64).reshape(-1, 4).T)


def _minima(pressure: np.ndarray, grid: Grid) -> list[tuple[int, int]]:
    """Points not above any of their eight neighbours and below one, the deepest first; none on an edge."""
    around = np.pad(pressure, ((0, 0), (1, 1)), mode="wrap") if grid.cyclic else pressure
    inner = around[1:-1, 1:-1]
    lowest, below = np.ones(inner.shape, dtype=bool), np.zeros(inner.shape, dtype=bool)
    n, m = around.shape
    for di, dj in ((a, b) for a in (0, 1, 2) for b in (0, 1, 2) if (a, b) != (1, 1)):
        neighbour = around[di : n - 2 + di, dj : m - 2 + dj]
        lowest &= inner <= neighbour
        below |= inner < neighbour
    rows, columns = np.nonzero(lowest & below)
    columns = columns + (0 if grid.cyclic else 1)
    order = np.argsort(pressure[rows + 1, columns], kind="stable")
    return [(int(i), int(j)) for i, j in zip(rows[order] + 1, columns[order], strict=True)]


def _kept(minima: list[tuple[int, int]], pressure: np.ndarray, grid: Grid, rules: Rules) -> list[tuple[int, int]]:
    """Those with no deeper one near."""
    kept: list[tuple[int, int]] = []
    for i, j in minima:
        rows, columns = np.array(kept, dtype=np.int64).reshape(-1, 2).T
        near = distance(grid.lat[i], grid.lon[j], grid.lat[rows], grid.lon[columns])
        if not (near <= rules.merge * KILOMETRES_PER_DEGREE).any():
            kept.append((i, j))
    return kept


def _closed(pressure: np.ndarray, grid: Grid, i: int, j: int, rules: Rules) -> bool:
    """Whether the connected region below the contour around a minimum ends within reach and inside the grid."""
    limit = rules.contour * KILOMETRES_PER_DEGREE
    near = np.flatnonzero(np.abs(grid.lat - grid.lat[i]) <= rules.contour)
    rows = np.arange(max(near[0] - 1, 0), min(near[-1] + 2, len(grid.lat)))
    columns = _columns(grid, j, np.abs(grid.lat[rows]).max(), rules.contour)
    below = pressure[np.ix_(rows, columns)] < pressure[i, j] + rules.rise
    labels, _ = scipy.ndimage.label(below, np.ones((3, 3)))
    region = labels == labels[np.flatnonzero(rows == i)[0], np.flatnonzero(columns == j)[0]]
    far = distance(grid.lat[i], grid.lon[j], grid.lat[rows][:, None], grid.lon[columns])
    edge = np.zeros_like(region)
    step = np.abs(np.diff(grid.lat)).max()
    edge[[r in (0, len(grid.lat) - 1) and abs(grid.lat[r]) < 90.0 - step for r in rows]] = True
    if not grid.cyclic:
        edge[:, (columns == 0) | (columns == len(grid.lon) - 1)] = True
    return not (region & (edge | (far > limit))).any()


def _columns(grid: Grid, j: int, highest: float, reach: float) -> np.ndarray:
    """Columns within `reach` degrees of great circle of the column j at latitudes up to `highest`, and one beyond."""
    step, count = np.abs(np.diff(grid.lon)).mean(), len(grid.lon)
    inside = np.sin(np.deg2rad(reach)) / max(np.cos(np.deg2rad(highest)), 1e-9)
    width = 180.0 if inside >= 1.0 else float(np.rad2deg(np.arcsin(inside)))
    side = int(np.ceil(width / step)) + 1
    if not grid.cyclic:
        return np.arange(max(j - side, 0), min(j + side + 1, count))
    side = min(side, (count - 1) // 2)
    return np.arange(j - side, j + side + 1) % count


def _between_points(pressure: np.ndarray, grid: Grid, i: int, j: int) -> tuple[float, float, float]:
    """Latitude, longitude and pressure of the minimum of the quadratic through a point and its neighbours."""
    east, west = ((j + s) % len(grid.lon) for s in (1, -1))
    f = pressure[i - 1 : i + 2][:, [west, j, east]]
    slope = np.array([f[2, 1] - f[0, 1], f[1, 2] - f[1, 0]]) / 2.0
    mixed = (f[2, 2] + f[0, 0] - f[2, 0] - f[0, 2]) / 4.0
    curvature = np.array([[f[2, 1] + f[0, 1] - 2 * f[1, 1], mixed], [mixed, f[1, 2] + f[1, 0] - 2 * f[1, 1]]])
    place = np.zeros(2)
    if curvature[0, 0] > 0 and np.linalg.det(curvature) > 0:
        place = np.clip(-np.linalg.solve(curvature, slope), -1.0, 1.0)
    rows = grid.lat[i - 1 : i + 2]
    lat = rows[1] + (place[0] * (rows[2] - rows[1]) if place[0] > 0 else place[0] * (rows[1] - rows[0]))
    lon = grid.lon[j] + place[1] * (grid.lon[1] - grid.lon[0])
    least = f[1, 1] + slope @ place + 0.5 * place @ curvature @ place
    return float(lat), float(lon), float(least)


def _strongest(speed: np.ndarray | None, grid: Grid, lat: float, lon: float, reach: float) -> float:
    if speed is None:
        return float("nan")
    near = distance(lat, lon, grid.lat[:, None], grid.lon) <= reach * KILOMETRES_PER_DEGREE
    return float(speed[near].max(initial=-np.inf, where=np.isfinite(speed[near])))
