"""Distances, bearings and displacements on the sphere; angles in degrees, distances in kilometres."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.metrics.sphere import EARTH_RADIUS

KILOMETRES_PER_DEGREE = np.pi / 180.0 * EARTH_RADIUS / 1e3


def distance(lat1: Any, lon1: Any, lat2: Any, lon2: Any) -> Any:
    """Return the great-circle distance by the haversine formula, exact for points near and far alike."""
    a, b = np.deg2rad(lat1), np.deg2rad(lat2)
    half = np.deg2rad(np.subtract(lon2, lon1)) / 2.0
    square = np.sin((b - a) / 2.0) ** 2 + np.cos(a) * np.cos(b) * np.sin(half) ** 2
    return 2e-3 * EARTH_RADIUS * np.arcsin(np.sqrt(np.clip(square, 0.0, 1.0)))


def bearing(lat1: Any, lon1: Any, lat2: Any, lon2: Any) -> Any:
    """Return the direction from the first point to the second at the first, clockwise from north."""
    a, b, east = np.deg2rad(lat1), np.deg2rad(lat2), np.deg2rad(np.subtract(lon2, lon1))
    northward = np.cos(a) * np.sin(b) - np.sin(a) * np.cos(b) * np.cos(east)
    return np.rad2deg(np.arctan2(np.sin(east) * np.cos(b), northward))


def destination(lat: Any, lon: Any, direction: Any, far: Any) -> tuple[Any, Any]:
    """Return the latitude and longitude reached from a point along the great circle of a direction."""
    a, course, angle = np.deg2rad(lat), np.deg2rad(direction), np.asarray(far) * 1e3 / EARTH_RADIUS
    north = np.clip(np.sin(a) * np.cos(angle) + np.cos(a) * np.sin(angle) * np.cos(course), -1.0, 1.0)
    east = np.arctan2(np.sin(course) * np.sin(angle) * np.cos(a), np.cos(angle) - np.sin(a) * north)
    return np.rad2deg(np.arcsin(north)), np.asarray(lon) + np.rad2deg(east)


def carried_on(lat: Any, lon: Any, before_lat: Any, before_lon: Any, times: Any) -> tuple[Any, Any]:
    """Return where the motion from a point before to this one leads, `times` as far again along its great circle."""
    course = bearing(lat, lon, before_lat, before_lon) + 180.0
    return destination(lat, lon, course, distance(before_lat, before_lon, lat, lon) * np.asarray(times))
