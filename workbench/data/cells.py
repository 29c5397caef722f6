"""Means over cells of a grid, and interpolation from cells to points: one small matrix an axis, free of torch.

A cell is `factor` points along each axis. Its value is the area-weighted mean of its points, its place their middle.
Both maps are products of maps along one axis, since area weights are products of weights along axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from workbench.data.grid import axis_weights
from workbench.data.spec import Axis, RecordSpec
from workbench.errors import InputError

Interpolation = Literal["nearest", "bilinear", "bicubic"]


def means_of(spec: RecordSpec, space: Sequence[str], factor: int) -> list[np.ndarray]:
    """The map from points to means over cells along each axis of a grid, ``float64[cells, points]``.

    Raises:
        InputError: an axis is no whole number of cells.
    """
    return [axis_means(spec.axis(dim), factor) for dim in space]


def axis_means(axis: Axis, factor: int) -> np.ndarray:
    """The map from points to means over cells along one axis, ``float64[cells, points]``.

    Raises:
        InputError: the points are no whole number of cells.
    """
    points = len(axis.values)
    if points % factor:
        kept = points // factor * factor
        repair = f"crop to {kept} (data.crop: {{{axis.name}: [0, {kept}]}})" if kept else "take a smaller one"
        raise InputError(f"data.coarsen is {factor}, and '{axis.name}' has {points} points: {repair}")
    weights = axis_weights(axis)
    shares = np.ones(points) if weights is None else np.asarray(weights.values, np.float64)
    shares = shares.reshape(-1, factor)
    shares = shares / shares.sum(1, keepdims=True)
    found = np.zeros((points // factor, points))
    found[np.arange(points) // factor, np.arange(points)] = shares.ravel()
    return found


def interpolation(cells: int, factor: int, kind: Interpolation) -> np.ndarray:
    """The map from cells to their points along one axis, ``float64[cells * factor, cells]``.

    Beyond the middle of the outermost cells their values go on. ``bicubic`` is cubic convolution with a = -1/2.

    Source: Keys (1981), IEEE Trans. Acoust. Speech Signal Process. 29, 1153, equation 4.
    """
    place = (np.arange(cells * factor) + 0.5) / factor - 0.5
    if kind == "nearest":
        left, weights = np.arange(cells * factor) // factor, [np.ones(cells * factor)]
    else:
        left = np.floor(place).astype(int)
        t = place - left
        if kind == "bilinear":
            weights = [1 - t, t]
        else:
            left = left - 1
            weights = [_cubic(1 + t), _cubic(t), _cubic(1 - t), _cubic(2 - t)]
    found = np.zeros((cells * factor, cells))
    for k, weight in enumerate(weights):
        np.add.at(found, (np.arange(cells * factor), np.clip(left + k, 0, cells - 1)), weight)
    return found


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Weight of a cell by its distance, 0 to 2 cells."""
    d = distance
    return np.where(d <= 1, (1.5 * d - 2.5) * d**2 + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2)


def along_axes(fields: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
    """Apply a map to each of the last axes of ``fields[..., *space]``."""
    for k, one in enumerate(maps):
        axis = k - len(maps)
        fields = np.moveaxis(np.tensordot(fields, one, axes=(axis, 1)), -1, axis)
    return fields
