from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from workbench.data.climatology import climatology_at, fit_climatology, refuse_leak, window_weights
from workbench.data.config import DataConfig, Split
from workbench.data.windows import Part, parts
from workbench.errors import InputError

ALL = np.zeros(1, dtype=int)


def daily(values, start="2001-01-01", freq="D", name="u"):
    time = pd.date_range(start, periods=len(values), freq=freq)
    array = np.asarray(values, dtype=float).reshape(len(values), -1)
    return xr.Dataset({name: (("time", "x"), array, {"units": "K"})}, {"time": time, "x": np.arange(array.shape[1])})


def whole(record, name="train"):
    return Part(name, np.arange(record.sizes.get("trajectory", 1)), ((0, record.sizes["time"]),))


def test_window_is_a_parabola_that_vanishes_outside_and_closes_over_the_year():
    weights = window_weights()
    assert weights[180, 180] == 1 and weights[180, 150] == pytest.approx(1 - (30 / 31) ** 2) and weights[180, 149] == 0
    assert np.array_equal(weights, weights.T)
    assert np.allclose(weights[0], np.roll(weights[180], -180))
    assert np.count_nonzero(weights[0]) == 61


def test_a_constant_is_its_own_climatology_on_every_day():
    found = fit_climatology(daily(np.full(800, 3.25)), ["u"], whole(daily(np.zeros(800))))
    assert found.u.shape == (365, 1) and np.allclose(found.u, 3.25, rtol=1e-15)


def test_an_annual_wave_keeps_its_phase_and_loses_the_amplitude_that_the_window_takes():
    """A window w scales cos(2 pi d / 365) by sum w cos / sum w."""
    record = daily(np.cos(2 * np.pi * (np.arange(365 * 3) % 365) / 365), start="2001-01-01")
    found = fit_climatology(record, ["u"], whole(record)).u.values[:, 0]
    days = np.arange(-30, 31)
    weights = 1 - (days / 31.0) ** 2
    gain = (weights * np.cos(2 * np.pi * days / 365)).sum() / weights.sum()
    assert np.allclose(found, gain * np.cos(2 * np.pi * np.arange(365) / 365), atol=1e-12)


def test_day_366_counts_as_day_365():
    record = daily(np.arange(366.0), start="2004-01-01")
    at = climatology_at(fit_climatology(record, ["u"], whole(record)), record.time[[364, 365]])
    assert float(at.u[0, 0]) == float(at.u[1, 0])
    assert at.u.dims == ("time", "x")


def test_each_time_of_day_has_its_own_mean():
    record = daily(np.tile([1.0, 2.0, 3.0, 4.0], 400), freq="6h")
    found = fit_climatology(record, ["u"], whole(record))
    assert found.u.dims == ("dayofyear", "hour", "x") and found.hour.values.tolist() == [0, 6, 12, 18]
    at = climatology_at(found, record.time[5:9])
    assert np.allclose(at.u[:, 0], [2, 3, 4, 1])
    with pytest.raises(InputError, match="holds the hours 0, 6, 12, 18 and is asked for 3 h"):
        climatology_at(found, record.time[:1] + np.timedelta64(3, "h"))


def test_noon_every_day_needs_no_hour():
    record = daily(np.arange(400.0), start="2001-01-01 12:00")
    assert fit_climatology(record, ["u"], whole(record)).u.dims == ("dayofyear", "x")


def test_many_times_of_day_fall_into_whole_hours():
    record = daily(np.tile(np.repeat(np.arange(24.0), 4), 40), freq="15min")
    found = fit_climatology(record, ["u"], whole(record))
    assert found.hour.values.tolist() == list(range(24))
    assert np.allclose(climatology_at(found, record.time[:96]).u[:, 0], np.repeat(np.arange(24.0), 4))


def test_without_dates_it_is_the_mean_over_time_and_training_trajectories():
    values = np.random.default_rng(0).normal(size=(4, 7, 3))
    record = xr.Dataset(
        {"u": (("trajectory", "time", "x"), values, {"units": "1"})}, {"time": np.arange(7.0), "x": np.arange(3)}
    )
    found = fit_climatology(record, ["u"], Part("train", np.array([0, 2]), ((0, 7),)))
    assert found.u.dims == ("x",) and np.allclose(found.u, values[[0, 2]].mean((0, 1)))
    assert climatology_at(found, record.time).u.dims == ("x",)


def test_lookup_is_lazy_where_chunks_are_given_and_equal():
    record = daily(np.random.default_rng(1).normal(size=(800, 3)))
    found = fit_climatology(record, ["u"], whole(record))
    times = record.time[:20].rename(time="init_time") + xr.DataArray(pd.to_timedelta([1, 2, 3], "D"), dims="lead_time")
    now, later = climatology_at(found, times), climatology_at(found, times, {"init_time": 8, "lead_time": 2})
    assert later.u.chunks[:2] == ((8, 8, 4), (2, 1)) and later.u.dims == ("init_time", "lead_time", "x")
    xr.testing.assert_equal(now, later.compute())


def test_blocks_do_not_matter(monkeypatch):
    record = daily(np.random.default_rng(2).normal(size=(800, 3)))
    once = fit_climatology(record, ["u"], whole(record))
    monkeypatch.setattr("workbench.data.slot_means.PIECE_BYTES", 24 * 7)
    np.testing.assert_allclose(fit_climatology(record.chunk(time=5), ["u"], whole(record)).u, once.u, rtol=1e-12)


def test_missing_values_are_refused_or_left_out():
    values = np.ones((800, 2))
    values[40, 1] = np.nan
    values[41, 1] = 3.0
    record = daily(values)
    with pytest.raises(InputError, match=r"'u' has missing .* time=2001-02-10.*, x=1; set data.missing: mask"):
        fit_climatology(record, ["u"], whole(record))
    found = fit_climatology(record, ["u"], whole(record), missing="mask").u
    plain = fit_climatology(daily(np.nan_to_num(values, nan=1.0)), ["u"], whole(record)).u
    assert np.allclose(found[:, 0], 1) and np.isfinite(found).all() and found[35, 1] > plain[35, 1]


def test_only_the_training_split_may_be_fitted():
    record = daily(np.zeros(40))
    with pytest.raises(InputError, match="must come from the train split, not from 'test'"):
        fit_climatology(record, ["u"], whole(record, "test"))


def test_a_season_that_was_never_seen_has_no_climatology():
    record = daily(np.zeros(100), start="2001-03-01")
    found = fit_climatology(record, ["u"], whole(record))
    climatology_at(found, xr.DataArray(pd.to_datetime(["2005-07-01"]), dims="t"))
    with pytest.raises(InputError, match="no training state within 30 days of 2005-12-24"):
        climatology_at(found, xr.DataArray(pd.to_datetime(["2005-12-24"]), dims="t"))


def test_a_leak_is_refused():
    record = daily(np.zeros(1000))
    split = Split(train=(0.0, 0.5), validation=(0.5, 0.7), test=(0.7, 1.0))
    found = fit_climatology(record, ["u"], parts(record, DataConfig(record="", state=("u",), split=split))["train"])
    refuse_leak(found, record.time[500:], ALL)
    with pytest.raises(InputError, match=r"fitted on 2001-01-01.* holds 1 of the times .*2002-05-15"):
        refuse_leak(found, record.time[499:], ALL)
    refuse_leak(found, record.time[499:], ALL + 1)
    with pytest.raises(InputError, match="does not say what it was fitted on"):
        refuse_leak(found.drop_attrs(), record.time, ALL)


def test_its_period_survives_a_file(tmp_path: Path):
    record = daily(np.zeros(1000))
    fit_climatology(record, ["u"], whole(record)).to_netcdf(tmp_path / "climatology.nc")
    with (
        xr.open_dataset(tmp_path / "climatology.nc") as found,
        pytest.raises(InputError, match="holds 1000 of the times"),
    ):
        refuse_leak(found, record.time, ALL)
