import numpy as np
import pytest
import xarray as xr

from workbench.data import weights
from workbench.errors import InputError
from workbench.metrics import evaluate


def coordinate(values, name="y", **attrs):
    return xr.DataArray(np.asarray(values, dtype=float), dims=name, coords={name: values}, name=name, attrs=attrs)


def gaussian_latitudes(rows):
    return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))


@pytest.mark.parametrize("rows", [np.linspace(-90, 90, 19), np.linspace(89, -89, 90), gaussian_latitudes(32)])
def test_latitude_areas_of_a_global_grid_add_up_to_the_sphere(rows):
    area = weights.latitude_area(coordinate(rows))
    assert float(2 * np.pi * area.sum()) == pytest.approx(4 * np.pi, rel=1e-14)


def test_latitude_area_of_a_region_ends_half_a_cell_beyond_its_rows():
    area = weights.latitude_area(coordinate([20.0, 30.0, 40.0]))
    expected = np.diff(np.sin(np.deg2rad([15.0, 25.0, 35.0, 45.0])))
    np.testing.assert_allclose(area, expected, rtol=1e-14)


def test_a_pole_row_has_area_but_no_cosine():
    rows = coordinate([-90.0, 0.0, 90.0])
    np.testing.assert_array_equal(weights.cos_latitude(rows), [0.0, 1.0, 0.0])
    assert float(weights.latitude_area(rows)[0]) == pytest.approx(1 - np.sin(np.deg2rad(45)))


def test_gaussian_areas_come_near_the_gaussian_quadrature_weights():
    rows, quadrature = np.polynomial.legendre.leggauss(64)
    area = weights.latitude_area(coordinate(np.rad2deg(np.arcsin(rows))))
    np.testing.assert_allclose(area, quadrature, rtol=0.06)


def test_trapezoid_integrates_a_linear_function_on_a_stretched_grid_exactly():
    y = coordinate(np.tanh(np.linspace(-2, 2, 17)) / np.tanh(2.0))
    weight = weights.trapezoid(y)
    assert float(weight.sum()) == pytest.approx(2.0, rel=1e-14)
    assert float((weight * (3 * y + 1)).sum()) == pytest.approx(2.0, rel=1e-14)


def test_trapezoid_converges_at_second_order():
    def error(points):
        y = coordinate(np.linspace(0, 1, points) ** 2)
        return abs(float((weights.trapezoid(y) * np.exp(y)).sum()) - (np.e - 1))

    assert np.log2(error(41) / error(81)) == pytest.approx(2.0, abs=0.05)


def test_cell_width_is_the_distance_of_the_edges():
    np.testing.assert_array_equal(weights.cell_width(coordinate([0.5, 2.0]), [0.0, 1.0, 3.0]), [1.0, 2.0])
    np.testing.assert_array_equal(weights.cell_width(coordinate([2.0, 0.5]), [3.0, 1.0, 0.0]), [2.0, 1.0])


@pytest.mark.parametrize(
    "rule", [weights.uniform, weights.cos_latitude, weights.latitude_area, weights.trapezoid, None]
)
@pytest.mark.parametrize("rows", [np.linspace(-90, 90, 7), np.sort(np.random.default_rng(1).uniform(-80, 80, 9))])
def test_a_constant_error_of_two_has_rmse_two_on_every_grid(rule, rows):
    y = coordinate(rows)
    truth = xr.Dataset({"t": (("init_time", "y", "x"), np.random.default_rng(0).normal(size=(3, y.size, 5)))})
    truth = truth.assign_coords(y=y)
    weight = None if rule is None else rule(truth.y)
    scores = evaluate(
        ["rmse", "rmse_root_first", "mae", "bias"], truth + 2.0, truth, over=("init_time", "y", "x"), weights=weight
    )
    np.testing.assert_allclose(scores.t, 2.0, rtol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weights.cos_latitude(coordinate([0.0, 100.0])), r"within -90..90 degrees, found 'y' from 0.0 to 100"),
        (lambda: weights.trapezoid(coordinate([0.0, 2.0, 1.0])), r"rise or fall throughout, found 'y' with 3 points"),
        (lambda: weights.trapezoid(coordinate([0.0])), r"at least two points"),
        (lambda: weights.uniform(xr.DataArray(np.ones((2, 2)), dims=("a", "b"), name="q")), r"one-dimensional.*'q'"),
        (lambda: weights.cell_width(coordinate([0.5, 2.0]), [0.0, 1.0]), r"expected 3 edges.*found 2 edges"),
        (lambda: weights.cell_width(coordinate([0.5, 2.0]), [0.0, 1.0, 1.5]), r"enclose them"),
    ],
)
def test_bad_coordinates_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
