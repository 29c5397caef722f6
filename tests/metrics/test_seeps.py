"""SEEPS against the package `scores`, its own expectation of one, and a real record of daily precipitation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scores.categorical import seeps as theirs

from workbench.errors import InputError
from workbench.metrics.seeps import precipitation_climate, seeps

WEATHER = Path(__file__).parents[3] / "shared" / "data" / "weather"


def rain(days=3000, places=4, seed=0):
    """Daily amounts ``(time, place)``, drier from place to place."""
    rng = np.random.default_rng(seed)
    wet = rng.random((days, places)) > np.linspace(0.05, 0.95, places)
    values = np.round(wet * rng.gamma(0.7, 6.0, (days, places)), 1)  # rounded, so that thresholds are met
    coords = {"time": pd.date_range("2001-01-01", periods=days), "place": np.arange(places)}
    return xr.DataArray(values, coords, ("time", "place"), name="tp", attrs={"units": "mm"})


def at(climate, amounts):
    return climate.sel(month=amounts.time.dt.month).drop_vars("month")


def test_point_by_point_as_scores_has_it():
    truth, prediction = rain(), rain(seed=1)
    climate = at(precipitation_climate(truth), truth)
    expected = theirs(prediction, truth, climate.dry_probability, climate.heavy_threshold, preserve_dims="all")
    found = seeps(prediction, truth, climate)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.isnan(found).any() and float(found.max()) > 1  # some places are too dry to count, some errors are large


@pytest.mark.parametrize("over", ["time", ("time", "place")])
def test_averages_leave_out_what_does_not_count(over):
    truth, prediction = rain(places=6), rain(places=6, seed=1)
    climate = at(precipitation_climate(truth), truth)
    weights = xr.DataArray([1.0, 2, 3, 4, 5, 6], dims="place")
    found = seeps(prediction, truth, climate, over=over, weights=weights)
    each = seeps(prediction, truth, climate)
    expected = each.weighted(weights).mean(over)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_perfect_forecast_has_0_and_constant_and_random_ones_have_1():
    truth = rain(40_000, 3).isel(place=[1])
    climate = at(precipitation_climate(truth), truth)
    assert float(seeps(truth, truth, climate, over=truth.dims)) == 0
    for amount in (0.0, 1e-9 + float(climate.heavy_threshold.min()) / 2, 1e3):
        constant = xr.full_like(truth, amount)
        assert float(seeps(constant, truth, climate, over=truth.dims)) == pytest.approx(1, abs=0.02)
    shuffled = truth.copy(data=np.random.default_rng(3).permutation(truth.values))
    assert float(seeps(shuffled, truth, climate, over=truth.dims)) == pytest.approx(1, abs=0.02)


def test_amounts_equal_to_a_threshold_belong_below_it():
    climate = xr.Dataset({"dry_probability": ("x", [0.5] * 4), "heavy_threshold": ("x", [3.0] * 4)})
    amount = xr.DataArray([0.2, 0.2 + 1e-9, 3.0, 3.0 + 1e-9], dims="x")
    dry = xr.zeros_like(amount)
    np.testing.assert_allclose(seeps(amount, dry, climate), [0, 1, 1, 1 + 0.5 * 3 / 2.5])


def test_a_missing_forecast_is_seen():
    truth = rain(200, 2)
    climate = at(precipitation_climate(rain()), truth).isel(place=[0, 1])
    prediction = truth.copy()
    prediction[5, 1] = np.nan
    found = seeps(prediction, truth, climate, over="time")
    assert np.isnan(found).values.tolist()[1]


def test_lazy():
    truth, prediction = rain(), rain(seed=1)
    climate = precipitation_climate(truth.chunk(time=500))
    lazy = seeps(prediction.chunk(time=500), truth.chunk(time=500), at(climate, truth), over="time")
    assert lazy.chunks is not None
    found = seeps(prediction, truth, at(precipitation_climate(truth), truth), over="time")
    np.testing.assert_allclose(lazy, found, rtol=1e-12)


def test_a_climate_of_all_months_is_refused():
    truth = rain(400)
    with pytest.raises(InputError, match=r"beyond the truth \['month'\]: select the months first"):
        seeps(truth, truth, precipitation_climate(truth))
    with pytest.raises(InputError, match="needs dates, found a time of type int64"):
        precipitation_climate(truth.assign_coords(time=np.arange(400)))


def test_persistence_of_a_real_record_is_better_than_chance():
    if not WEATHER.is_dir():
        pytest.skip(f"the real records are not here: no {WEATHER}")
    with xr.open_dataset(WEATHER / "synoptReg_pcp_spread.nc") as opened:
        amount = opened.tp[:, ::8, ::8].load()
    climate = precipitation_climate(amount.sel(time=slice("2000", "2007")))
    test = amount.sel(time=slice("2008", "2010"))
    truth = test[1:]
    yesterday = test[:-1].assign_coords(time=truth.time)
    score = float(seeps(yesterday, truth, at(climate, truth), over=truth.dims))
    assert 0.5 < score < 0.95


def test_the_climate_is_that_of_pandas():
    amount = rain(800, 3)
    amount[5:40, 1] = np.nan
    climate = precipitation_climate(amount)
    for place in range(3):
        series = amount.isel(place=place).to_series().dropna()
        months = series.index.month
        np.testing.assert_allclose(climate.dry_probability[place], (series <= 0.2).groupby(months).mean(), rtol=1e-13)
        wet = series[series > 0.2]
        expected = wet.groupby(wet.index.month).quantile(2 / 3).reindex(range(1, 13))
        np.testing.assert_allclose(climate.heavy_threshold[place], expected, rtol=1e-13)
