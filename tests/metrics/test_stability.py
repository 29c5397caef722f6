import dask
import numpy as np
import pytest
import xarray as xr

from workbench.data import weights
from workbench.errors import InputError
from workbench.metrics.stability import (
    drift_rate,
    energy_drift,
    first_nonfinite_step,
    mean_energy,
    time_to_decorrelation,
    useful_horizon,
)


def curve(values, leads=None, **attrs):
    """Return values ``(lead_time,)`` or ``(init_time, lead_time)``."""
    values = np.asarray(values, dtype=float)
    leads = np.arange(1.0, values.shape[-1] + 1) if leads is None else leads
    dims = ("init_time", "lead_time")[-values.ndim :]
    return xr.DataArray(values, dims=dims, coords={"lead_time": ("lead_time", leads, attrs)})


def test_decorrelation_is_interpolated_between_leads():
    # 0.9 at lead 2, 0.5 at lead 3: 0.8 is reached a quarter of the way
    found = time_to_decorrelation(curve([1.0, 0.9, 0.5, 0.9]), 0.8)
    assert float(found) == pytest.approx(2.25)


def test_decorrelation_for_each_start():
    found = time_to_decorrelation(curve([[0.6, 0.9], [0.9, 0.81], [np.nan, 0.9], [0.9, np.nan], [0.8, 0.7]]), 0.8)
    # between 1 at lead 0 and 0.6 at lead 1; never; at its NaN; at its NaN; touches 0.8 at lead 1 and then falls
    np.testing.assert_allclose(found, [0.5, np.inf, 1.0, 2.0, 1.0])


def test_time_differences_are_given_in_hours():
    leads = np.arange(1, 4) * np.timedelta64(6, "h").astype("timedelta64[ns]")
    found = time_to_decorrelation(curve([0.9, 0.7, 0.5], leads), 0.8)
    assert float(found) == pytest.approx(9.0)
    assert found.attrs["units"] == "h"
    assert time_to_decorrelation(curve([0.9], units="s"), 0.8).attrs["units"] == "s"


@pytest.mark.parametrize(
    ("score", "baseline", "horizon"),
    [
        ([1.0, 2.0, 5.0], [2.0, 3.0, 4.0], 2.5),
        ([1.0, 2.0], [2.0, 3.0], np.inf),
        ([3.0, 1.0], [2.0, 2.0], 0.0),
        ([2.0, 2.0], [2.0, 2.0], 0.0),  # as good as the baseline is no better
        ([1.0, np.nan, 1.0], [2.0, 2.0, 2.0], 2.0),
        ([1.0, np.inf, 1.0], [2.0, 2.0, 2.0], 2.0),
    ],
)
def test_useful_horizon(score, baseline, horizon):
    assert float(useful_horizon(curve(score), curve(baseline))) == pytest.approx(horizon)


def test_a_baseline_may_be_the_same_for_all_starts():
    found = useful_horizon(curve([[1.0, 3.0], [3.0, 3.0]]), curve([2.0, 2.0]))
    np.testing.assert_allclose(found, [1.5, 0.0])


def test_first_nonfinite_step_looks_at_every_variable():
    u = np.zeros((3, 4, 2, 2))
    p = np.zeros((3, 4))
    u[0, 2, 1, 1] = np.nan
    p[0, 1] = np.inf
    u[1, 3, 0, 0] = -np.inf
    forecast = xr.Dataset({"u": (("init_time", "lead_time", "y", "x"), u), "p": (("init_time", "lead_time"), p)})
    np.testing.assert_array_equal(first_nonfinite_step(forecast, ("y", "x")), [2.0, 4.0, np.inf])


def test_mean_energy_is_weighted():
    y = xr.DataArray([0.0, 1.0, 3.0], dims="y", coords={"y": [0.0, 1.0, 3.0]}, name="y")
    u = xr.DataArray([1.0, 2.0, 3.0], dims="y", coords={"y": y}, name="u")
    assert float(mean_energy([u, 2 * u], "y")) == pytest.approx(2.5 * 14 / 3)
    weight = weights.trapezoid(y)  # 0.5, 1.5, 1
    assert float(mean_energy([u], "y", weight)) == pytest.approx(0.5 * (0.5 + 6 + 9) / 3)
    assert np.isnan(mean_energy([u.where(u > 1)], "y", weight))


def test_drift_and_its_rate():
    truth = curve([2.0, 2.0, 2.0, 2.0])
    energy = truth * (1 + 0.1 * truth.lead_time)
    drift = energy_drift(energy, truth)
    np.testing.assert_allclose(drift, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(energy_drift(energy, truth[0].drop_vars("lead_time")), drift)
    rate = drift_rate(drift)
    assert float(rate) == pytest.approx(0.1)
    assert rate.attrs["units"] == "(1)-1"
    assert np.isnan(drift_rate(drift.where(drift.lead_time < 4)))


def test_everything_is_lazy():
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    correlation = curve([[0.9, 0.7, 0.5], [0.9, 0.85, 0.1]])
    lazy = correlation.chunk(init_time=1, lead_time=2)
    with dask.config.set(scheduler=refuse):
        times = time_to_decorrelation(lazy, 0.8)
        horizons = useful_horizon(1 - lazy, 0.25 + 0 * lazy)
        step = first_nonfinite_step(lazy.to_dataset(name="u"), "init_time")
        rate = drift_rate(energy_drift(mean_energy([lazy], "init_time"), 1 + 0 * lazy[0]))
    np.testing.assert_allclose(times, time_to_decorrelation(correlation, 0.8))
    np.testing.assert_allclose(horizons, useful_horizon(1 - correlation, 0.25 + 0 * correlation))
    assert float(step) == np.inf
    assert float(rate) < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_to_decorrelation(curve([0.9]), 1.5), "between -1 and 1, found 1.5"),
        (lambda: time_to_decorrelation(curve([0.9, 0.8], [0.0, 1.0]), 0.5), "rise from above 0 along 'lead_time'"),
        (lambda: time_to_decorrelation(curve([0.9, 0.8], [2.0, 1.0]), 0.5), "sort with .sortby"),
        (lambda: time_to_decorrelation(curve([0.9]), 0.5, lead="step"), r"expected \('step',\) among"),
        (lambda: useful_horizon(curve([1.0]), curve([1.0, 2.0])), "coordinate 'lead_time' differs"),
        (lambda: energy_drift(curve([1.0]), curve([1.0, 2.0])), "coordinate 'lead_time' differs"),
        (lambda: mean_energy([], "y"), "at least one component"),
        (lambda: mean_energy([curve([1.0])], "y"), r"expected \('y',\) among"),
        (lambda: mean_energy([curve([1.0, 2.0])], "lead_time", curve([1.0])), "differs between the field and the weig"),
        (
            lambda: first_nonfinite_step(xr.Dataset({"u": ("y", [1.0])}), "y"),
            r"variable 'u': expected \('lead_time',\)",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
