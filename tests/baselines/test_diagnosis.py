"""What stands beside a diagnosis, on records for which it is exact."""

import numpy as np
import pytest
import xarray as xr

from workbench.baselines.diagnosis import DIAGNOSES, fit_diagnosis, suitable
from workbench.baselines.forecasts import fit_baselines
from workbench.data.cells import along_axes, axis_means
from workbench.data.config import DataConfig
from workbench.data.spec import Axis
from workbench.data.starts import Problem
from workbench.errors import InputError

DIMS = ("trajectory", "time", "level", "lat", "lon")
STARTS = np.array([55, 58])


def problem(fields: xr.Dataset, **options) -> Problem:
    return Problem.of(fields, DataConfig("memory", horizon=0, **options), 1)


def record(**fields) -> xr.Dataset:
    coords = {"trajectory": [0, 1], "time": np.arange(60.0), "level": [500.0, 850.0]}
    places = {"lat": ("lat", np.linspace(40, 54, 8), {"units": "degrees_north"}), "lon": ("lon", np.arange(12.0))}
    data = {name: (DIMS, values, attrs) for name, (values, attrs) in fields.items()}
    return xr.Dataset(data, coords | places, {"periodic": "lat lon"})


def random(seed):
    return np.random.default_rng(seed).normal(280, 5, (2, 60, 2, 8, 12)), {"units": "K"}


def stencil(field):
    """A linear map of what is around, another one at each point, and a constant."""
    rng = np.random.default_rng(7)
    found = rng.normal(size=field.shape[-2:])
    for shift in np.ndindex(3, 3):
        found = found + rng.normal(size=field.shape[-2:]) * np.roll(field, np.array(shift) - 1, (-2, -1))
    return found


def predicted(name, one):
    predict, words = fit_diagnosis(name, one)
    assert words == DIAGNOSES[name]
    return predict(np.array([1]), STARTS)


def test_a_regression_finds_any_linear_map_of_what_is_around():
    a, attrs = random(0)
    fields = record(a=(a, attrs), b=(stencil(a) + a[:, :, ::-1], attrs))
    found = predicted("regression", problem(fields, forcing=("a",), diagnostic=("b",)))["b"]
    truth = fields["b"].isel(trajectory=[1], time=STARTS)
    wrong = found.transpose(*truth.rename(time="init_time").dims).values - truth.values
    assert np.abs(wrong).max() < 0.01 * float(truth.std())


def test_interpolation_and_regression_of_means_see_the_means_alone():
    a, attrs = random(0)
    one = problem(record(a=(a.copy(), attrs)), state=("a",), coarsen=4)
    maps = [axis_means(Axis.of(one.record, dim), 4) for dim in ("lat", "lon")]
    noise = np.random.default_rng(1).normal(size=a.shape)
    inside = noise - np.repeat(np.repeat(along_axes(noise, maps), 4, -1), 4, -2)

    def maps_of(predict):
        return predict(np.array([1]), STARTS)["a"].transpose("trajectory", "init_time", *DIMS[2:]).values

    for name in ("nearest", "bilinear", "bicubic", "regression"):
        predict, _ = fit_diagnosis(name, one)
        found = maps_of(predict)
        assert found.shape == (1, 2, 2, 8, 12)
        if name == "nearest":
            np.testing.assert_allclose(along_axes(found, maps), along_axes(a[1:, STARTS], maps))
        one.record["a"].values[:] = a + inside
        np.testing.assert_allclose(maps_of(predict), found, atol=1e-9)
        one.record["a"].values[:] = a


def test_the_closure_by_gradients_finds_its_coefficient():
    (a, attrs), (b, _) = random(0), random(1)

    def slope(field, axis):
        return (np.roll(field, -1, axis) - np.roll(field, 1, axis)) / 2

    flux = 0.7 / 12 * sum(slope(a, axis) * slope(b, axis) for axis in (-2, -1))
    pair = {"units": "K2", "covariance_of": "a b"}
    fields = record(a=(a, attrs), b=(b, attrs), ab=(flux, pair)).isel(level=0, drop=True)
    one = problem(fields, forcing=("a", "b"), diagnostic=("ab",))
    assert suitable(one) == ("climatology", "regression", "gradient")
    np.testing.assert_allclose(predicted("gradient", one)["ab"], flux[1:, STARTS, 0], atol=1e-9)
    del fields["ab"].attrs["covariance_of"]
    with pytest.raises(InputError, match="its attribute 'covariance_of' is '', expected such as 'u v'"):
        fit_diagnosis("gradient", one)


def test_what_does_not_suit_is_refused():
    a, attrs = random(0)
    fields = record(a=(a, attrs), b=(a, attrs))
    flux = problem(fields, forcing=("a",), diagnostic=("b",))
    with pytest.raises(InputError, match="interpolates means over cells: set data.coarsen"):
        fit_diagnosis("bilinear", flux)
    with pytest.raises(InputError, match="the baseline 'persistence' forecasts, and nothing lies ahead"):
        fit_baselines(("persistence",), flux, None, {})
    ahead = Problem.of(fields, DataConfig("memory", ("a",)), 1)
    with pytest.raises(InputError, match=r"is one of diagnoses \(data.horizon: 0\)"):
        fit_diagnosis("regression", ahead)
