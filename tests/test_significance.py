"""The paired block bootstrap: coverage, p-values, horizons; batch means."""

import collections
import sys

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter

from workbench.errors import InputError
from workbench.metrics import METRICS, accumulate, evaluate
from workbench.metrics.base import WeightedSums
from workbench.significance import compare, headline, time_mean


def autoregressive(count, correlation, series, seed=0):
    """Return AR(1) series ``(count, series)`` of unit innovations."""
    noise = np.random.default_rng(seed).normal(size=(count + 100, series))
    return lfilter([1.0], [1.0, -correlation], noise, axis=0)[100:]


def sums_of(error, statistic="absolute_error", **extra):
    """Return the sums of absolute errors ``(start, lead)`` of unit weight."""
    starts, leads = error.shape
    coords = {"init_time": np.arange(float(starts)), "lead_time": np.arange(1.0, leads + 1)}
    weights = xr.Dataset({"u": (("init_time", "lead_time"), np.ones_like(error))}, coords)
    sums = xr.Dataset({"u": (("statistic", "init_time", "lead_time"), error[None])}, coords)
    return WeightedSums(sums.assign_coords(statistic=[statistic]), weights, xr.Dataset())


def forecasts(starts=40, leads=6, seed=0, trajectories=None):
    """Return (good, bad, truth) forecasts of u on (init_time, lead_time, x), correlated from start to start."""
    rng = np.random.default_rng(seed)
    shape = (starts, leads, 8)
    truth = rng.normal(size=shape)
    noise = lfilter([1.0], [1.0, -0.6], rng.normal(size=(2, *shape)), axis=1)
    growth = np.linspace(0.5, 1.5, leads)[:, None]
    good, bad = truth + growth * noise[0], truth + noise[1]
    coords = {"init_time": np.arange(float(starts)), "lead_time": np.arange(1.0, leads + 1), "x": np.arange(8.0)}
    return tuple(xr.Dataset({"u": (tuple(coords), values)}, coords) for values in (good, bad, truth))


GOOD, BAD, TRUTH = forecasts()


def compared(metric="rmse", first=GOOD, second=BAD, truth=TRUTH, **options):
    a, b = (accumulate([metric], f, truth, over="x", climatology=0 * truth) for f in (first, second))
    return compare(metric, a, b, "u", **options)


# --------------------------------------------------------------------------------------- calibration
# One comparison of many leads whose series are independent is as many experiments at once.


@pytest.mark.parametrize(("correlation", "starts", "lowest"), [(0.0, 60, 0.93), (0.5, 100, 0.88), (0.8, 400, 0.88)])
def test_intervals_cover_the_true_difference(correlation, starts, lowest):
    first, second = (50.0 + autoregressive(starts, correlation, 600, seed) for seed in (1, 2))
    found = compare("mae", sums_of(first), sums_of(second), "u")
    covered = float(((found.lower <= 0) & (found.upper >= 0)).mean())
    assert lowest < covered < 0.99


def test_p_values_are_uniform_where_there_is_no_difference():
    first, second = (50.0 + autoregressive(120, 0.3, 800, seed) for seed in (3, 4))
    p = compare("mae", sums_of(first), sums_of(second), "u").p_value
    for level in (0.05, 0.25, 0.5, 0.75):
        assert float((p < level).mean()) == pytest.approx(level, abs=0.06)


def test_ignoring_the_autocorrelation_would_be_overconfident():
    first, second = (50.0 + autoregressive(400, 0.8, 400, seed) for seed in (1, 2))
    naive = compare("mae", sums_of(first), sums_of(second), "u", block_length=1)
    assert float(((naive.lower <= 0) & (naive.upper >= 0)).mean()) < 0.6


def test_few_independent_starts_have_the_interval_of_student():
    from scipy.stats import t as student

    difference = np.random.default_rng(0).normal(size=(12, 300))
    fifty = np.full((12, 300), 50.0)
    found = compare("mae", sums_of(50 + difference), sums_of(fifty), "u", block_length=1, resamples=4000)
    width = 2 * student.ppf(0.975, 11) * difference.std(axis=0, ddof=1) / np.sqrt(12)
    assert float(((found.upper - found.lower) / width).mean()) == pytest.approx(1.0, abs=0.02)


def test_p_value_and_interval_agree_on_what_is_significant():
    error = 50 + 0.6 + np.random.default_rng(1).normal(size=(8, 500))
    found = compare("mae", sums_of(error), sums_of(np.full((8, 500), 50.0)), "u", block_length=1, resamples=4000)
    excludes_zero = (found.lower > 0) | (found.upper < 0)
    assert 0.1 < float(excludes_zero.mean()) < 0.6
    assert float((excludes_zero == (found.p_value < 0.05)).mean()) > 0.98


def test_pairing_removes_what_both_forecasts_share():
    shared = 20 * autoregressive(60, 0.5, 1)
    first, second = (200 + shared + 0.1 * autoregressive(60, 0.0, 1, seed) + seed for seed in (1, 2))
    found = compare("mae", sums_of(first), sums_of(second), "u")
    assert float(found.p_value[0]) < 0.01
    assert float(found.upper[0] - found.lower[0]) < 0.3


# --------------------------------------------------------------------------------------- values and horizon


def test_scores_and_difference_are_those_of_the_evaluation():
    found = compared()
    rmse = [evaluate(["rmse"], f, TRUTH, over=("init_time", "x")).u.sel(metric="rmse") for f in (GOOD, BAD)]
    np.testing.assert_allclose(found["first"], rmse[0], rtol=1e-12)
    np.testing.assert_allclose(found["second"], rmse[1], rtol=1e-12)
    np.testing.assert_allclose(found.difference, rmse[0] - rmse[1], rtol=1e-9)
    assert ((found.lower < found.difference) & (found.difference < found.upper)).all()
    xr.testing.assert_equal(found.lead_time, TRUTH.lead_time)


def test_the_horizon_is_the_last_lead_before_the_first_loss():
    errors = np.ones((20, 6)) + 0.01 * np.random.default_rng(0).normal(size=(20, 6))
    better = errors + np.array([-0.5, -0.5, -0.5, 0.5, -0.5, 0.5])
    found = compare("mae", sums_of(better), sums_of(errors), "u")
    assert (int(found.horizon), int(found.horizon_lower), int(found.horizon_upper)) == (3, 3, 3)
    assert headline(found, "persistence").startswith("beats persistence to step 3 (paired block bootstrap, 20 starts")
    always = compare("mae", sums_of(errors - 0.5), sums_of(errors), "u")
    assert headline(always, "persistence").startswith("beats persistence to step 6 (the last) (")
    never = compare("mae", sums_of(errors), sums_of(better), "u")
    assert int(never.horizon) == 0
    assert headline(never, "persistence").startswith("does not beat persistence at the first step (")


def test_an_uncertain_horizon_has_a_width():
    leads = np.arange(1, 41)
    noise = autoregressive(50, 0.5, 1) + 0.1 * np.random.default_rng(1).normal(size=(50, 40))
    first = 10 + noise + 0.2 * (leads - 30)
    found = compare("mae", sums_of(first), sums_of(np.full((50, 40), 10.0)), "u")
    assert 22 < int(found.horizon_lower) <= int(found.horizon) <= int(found.horizon_upper) < 36
    width = int(np.ceil((found.horizon_upper - found.horizon_lower) / 2))
    assert width > 0
    assert f"to step {int(found.horizon)} ± {width} (paired" in headline(found, "persistence")


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.optimum is not None])
def test_every_metric_with_an_optimum_can_be_compared(name):
    rng = np.random.default_rng(0)
    first, second = (f.expand_dims(member=3) + 0.3 * rng.normal(size=(3, *f.u.shape)) for f in (GOOD, BAD))
    found = compared(name, first, second, resamples=50)
    expected = evaluate([name], first, TRUTH, over=("init_time", "x"), climatology=0 * TRUTH)
    np.testing.assert_allclose(found["first"], expected.u[0], rtol=1e-10)
    assert np.isfinite(found.p_value).all()


def test_a_higher_score_is_better_where_the_optimum_is_one():
    found = compared("correlation")
    assert found["first"][0] > found["second"][0]
    assert int(found.horizon) > 0


def test_a_forecast_does_not_differ_from_itself():
    found = compared(second=GOOD)
    assert (found.p_value == 1.0).all()
    assert int(found.horizon) == 0


def test_a_diverged_forecast_loses_from_the_lead_at_which_it_diverged():
    blown_up = GOOD.copy(deep=True)
    blown_up.u[dict(init_time=7, lead_time=slice(1, None))] = np.inf
    found = compared(first=blown_up)
    assert int(found.horizon) == 1
    assert np.isfinite(found.p_value[0]) and np.isnan(found.p_value[1:]).all()


def test_levels_are_kept_beside_the_leads():
    deep = [xr.concat([f, f * 1.0], dim="level") for f in (GOOD, BAD, TRUTH)]
    found = compared(first=deep[0], second=deep[1], truth=deep[2])
    alone = compared()
    assert found.difference.dims == ("lead_time", "level")
    assert found.horizon.dims == ("level",)
    np.testing.assert_allclose(found.difference.isel(level=1), alone.difference, rtol=1e-9)
    assert int(found.horizon[0]) == int(alone.horizon)
    with pytest.raises(InputError, match="a headline needs one horizon"):
        headline(found, "persistence")
    headline(found.isel(level=0), "persistence")


def test_without_leads_there_is_no_horizon():
    one = [f.isel(lead_time=0, drop=True) for f in (GOOD, BAD, TRUTH)]
    found = compared(first=one[0], second=one[1], truth=one[2])
    assert found.difference.ndim == 0
    with pytest.raises(InputError, match="a headline needs one horizon"):
        headline(found, "persistence")


def test_trajectories_are_blocks():
    stacked = [
        xr.concat([f.isel(init_time=slice(8 * i, 8 * i + 8)).assign_coords(init_time=np.arange(8.0)) for i in range(5)],
                  dim="trajectory") for f in (GOOD, BAD, TRUTH)
    ]  # fmt: skip
    found = compared(first=stacked[0], second=stacked[1], truth=stacked[2])
    assert (found.attrs["starts"], found.attrs["block_length"], found.attrs["blocks"]) == (40, 8, 5)
    np.testing.assert_allclose(found["first"], compared()["first"], rtol=1e-12)
    shorter = compared(first=stacked[0], second=stacked[1], truth=stacked[2], block_length=2)
    assert shorter.attrs["blocks"] == 20
    only = [f.isel(init_time=0, drop=True) for f in stacked]
    single = compared(first=only[0], second=only[1], truth=only[2])
    assert (single.attrs["starts"], single.attrs["block_length"]) == (5, 1)


def test_results_are_reproducible_by_seed():
    xr.testing.assert_identical(compared(seed=1), compared(seed=1))
    assert not compared(seed=1).lower.equals(compared(seed=2).lower)


def test_a_thousand_resamples_call_no_more_functions_than_ten():
    """They are products of matrices; a loop over them would take seconds."""
    first, second = (sums_of(50.0 + autoregressive(100, 0.5, 100, seed)) for seed in (1, 2))

    def calls(resamples):
        found = collections.Counter()
        sys.setprofile(lambda frame, event, _: found.update([event]))
        try:
            compare("mae", first, second, "u", resamples=resamples)
        finally:
            sys.setprofile(None)
        return found["call"] + found["c_call"]

    calls(10)  # caches
    assert abs(calls(1000) - calls(10)) < 100


# --------------------------------------------------------------------------------------- refusals


def test_refusals():
    a, b = (accumulate(["rmse", "activity"], f, TRUTH, over="x", climatology=TRUTH) for f in (GOOD, BAD))
    whole = accumulate(["rmse"], GOOD, TRUTH, over=("init_time", "x"))
    other_starts = accumulate(
        ["rmse"], *(f.assign_coords(init_time=f.init_time + 1) for f in (GOOD, TRUTH)), over="x"
    )  # fmt: skip
    over_leads = accumulate(["rmse"], BAD, TRUTH, over="lead_time")
    three = accumulate(["rmse"], *(f.isel(init_time=slice(3)) for f in (GOOD, TRUTH)), over="x")
    for message, call in {
        "metric 'activity' has no optimum": lambda: compare("activity", a, b, "u"),
        "there is no metric 'rmsee'": lambda: compare("rmsee", a, b, "u"),
        r"needs the statistics \['absolute_error'\]": lambda: compare("mae", a, b, "u"),
        r"sums are of \['u'\] and lack variable 'v'": lambda: compare("rmse", a, b, "v"),
        "keep none of the one or two start dimensions": lambda: compare("rmse", whole, whole, "u"),
        "first sums keep .* and the second": lambda: compare("rmse", a, over_leads, "u"),
        "coordinate 'init_time' differs between the first sums": lambda: compare("rmse", a, other_starts, "u"),
        r"3 starts in blocks of 1 make 3.0 independent blocks": lambda: compare("rmse", three, three, "u"),
        "40 starts in blocks of 20 make 2.0": lambda: compare("rmse", a, b, "u", block_length=20),
        "block_length of 1 to 40 starts, found 0": lambda: compare("rmse", a, b, "u", block_length=0),
        "0 < confidence < 1": lambda: compare("rmse", a, b, "u", confidence=95.0),
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            call()


# --------------------------------------------------------------------------------------- batch means


def test_batch_means_cover_the_mean_of_an_autocorrelated_series():
    series = xr.DataArray(3.0 + autoregressive(2000, 0.7, 400), dims=("time", "point"))
    found = time_mean(series)
    covered = float(((found.lower < 3.0) & (found.upper > 3.0)).mean())
    assert 0.9 < covered < 0.98
    assert found.attrs["batch_length"] == 44 and found.attrs["batches"] == 45
    exact = 1 / (1 - 0.7) / np.sqrt(2000)  # the long-run deviation of an AR(1) is sigma / (1 - phi)
    assert float(found.standard_error.mean()) == pytest.approx(exact, rel=0.1)


def test_batch_means_of_white_noise_agree_with_the_textbook():
    series = xr.DataArray(np.random.default_rng(0).normal(size=(2500, 200)), dims=("time", "point"))
    assert float(time_mean(series).standard_error.mean()) == pytest.approx(1 / 50, rel=0.05)
    np.testing.assert_allclose(time_mean(series)["mean"], series.mean("time"), rtol=1e-12)


def test_batch_means_are_lazy_and_loud():
    series = xr.DataArray(autoregressive(100, 0.5, 2), dims=("t", "point")).chunk(t=30)

    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        lazy = time_mean(series, "t")
    xr.testing.assert_allclose(lazy.compute(), time_mean(series.compute(), "t"))
    assert np.isnan(time_mean(series.compute().where(series.compute() < 1), "t")["mean"]).all()
    with pytest.raises(InputError, match="at least 16 values along 'time', found 0"):
        time_mean(series)
    with pytest.raises(InputError, match="found 9"):
        time_mean(series.isel(t=slice(9)), "t")
