"""Means over cells and interpolation: exact on what they must be exact on."""

import numpy as np
import pytest
import torch

from workbench.data.cells import along_axes, axis_means, interpolation
from workbench.data.spec import Axis
from workbench.errors import InputError


def axis(name, values, units):
    return Axis(name, units, tuple(float(v) for v in values))


def test_means_are_weighted_by_area():
    latitudes = np.linspace(40, 75, 8)
    weights = np.cos(np.deg2rad(latitudes)).reshape(2, 4)
    field = np.random.default_rng(0).normal(size=(3, 8))
    expected = (field.reshape(3, 2, 4) * weights).sum(-1) / weights.sum(-1)
    np.testing.assert_allclose(along_axes(field, [axis_means(axis("lat", latitudes, "degrees_north"), 4)]), expected)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic"])
def test_interpolation_keeps_a_constant_and_bilinear_is_torchs(kind):
    maps = [interpolation(n, 4, kind) for n in (3, 5)]
    np.testing.assert_allclose(along_axes(np.ones((2, 3, 5)), maps), 1.0)
    if kind != "bicubic":
        means = np.random.default_rng(0).normal(size=(1, 1, 3, 5))
        torchs = torch.nn.functional.interpolate(torch.from_numpy(means), scale_factor=4, mode=kind)
        np.testing.assert_allclose(along_axes(means, maps), torchs.numpy(), atol=1e-12)


@pytest.mark.parametrize(("kind", "degree"), [("bilinear", 1), ("bicubic", 2)])
def test_polynomials_are_reproduced_inside(kind, degree):
    """Keys (1981): cubic convolution with a = -1/2 is exact for quadratics."""
    cells, factor = 9, 4
    points = (np.arange(cells * factor) + 0.5) / factor - 0.5
    inside = slice(2 * factor, -2 * factor)
    found = interpolation(cells, factor, kind) @ np.arange(cells) ** float(degree)
    np.testing.assert_allclose(found[inside], points[inside] ** degree, atol=1e-12)


def test_the_means_of_repeated_values_are_the_values():
    means = axis_means(axis("x", np.arange(12.0), "m"), 4)
    np.testing.assert_allclose(means @ interpolation(3, 4, "nearest"), np.eye(3), atol=1e-15)


def test_a_grid_that_is_no_whole_number_of_cells_is_refused_with_the_crop():
    with pytest.raises(InputError, match=r"'lon' has 49 points: crop to 48 \(data.crop: \{lon: \[0, 48\]\}\)"):
        axis_means(axis("lon", np.arange(49.0), "degrees_east"), 4)
