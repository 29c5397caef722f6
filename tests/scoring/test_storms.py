"""Storms of a rollout beside the record's: known lags, lost storms, the motion at the start, the command."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from workbench import experiment as experiments
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.evaluate import evaluate_long_run, main
from workbench.metrics.great_circle import destination, distance

STEPS, HOURS = 4, 12
GRID = (np.linspace(25, 70, 31), np.linspace(-70, 5, 51))


def pressure(storms, length):
    """``[time, lat, lon]`` of storms given as (start lat, start lon, course, km a step, depth)."""
    lat, lon = GRID[0][:, None], GRID[1][None]
    field = np.full((length, len(GRID[0]), len(GRID[1])), 101300.0)
    for lat0, lon0, course, far, depth in storms:
        path = destination(lat0, lon0, course, far * np.arange(length))
        for k in range(length):
            field[k] -= depth * np.exp(-0.5 * (distance(path[0][k], path[1][k], lat, lon) / 450.0) ** 2)
    return field


STORMS = [(35.0, -60.0, 70.0, 300.0, 4000.0), (60.0, -10.0, 200.0, 60.0, 1500.0)]
"""One that moves and a weaker one that hardly does; both are there all the time."""


@pytest.fixture
def run(tmp_path):
    """An experiment on a record of 14 states, of which the last 9 are the test part."""
    record = xr.Dataset(
        {"slp": (("time", "lat", "lon"), pressure(STORMS, 14), {"units": "Pa"})},
        {
            "time": pd.date_range("2001-01-01", periods=14, freq=f"{HOURS}h"),
            "lat": ("lat", GRID[0], {"units": "degrees_north"}),
            "lon": ("lon", GRID[1], {"units": "degrees_east"}),
        },
    )
    write_record(record, tmp_path / "record.zarr", chunks={"time": 5})
    config = {
        "data": {
            "record": str(tmp_path / "record.zarr"),
            "state": ["slp"],
            "split": {"train": [0.0, 0.25], "validation": [0.25, 0.35], "test": [0.35, 1.0]},
        },
        "rollout": {"steps": STEPS, "starts": 0},
        "evaluate": {"metrics": ["rmse"], "baselines": [], "resamples": 50, "long_run": {"domain": "storms"}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def load(run, *overrides):
    return experiments.load([str(run / "run.yaml")], overrides, str(run / "out"))


def forecast(run, change=lambda values: values, first=5):
    """Forecasts from every test state that has four states after it: the truth, changed."""
    with xr.open_zarr(run / "record.zarr") as opened:
        record = opened.load()
    starts = np.arange(first, 14 - STEPS)
    index = xr.DataArray(starts[:, None] + np.arange(1, STEPS + 1), dims=("init_time", "lead_time"))
    chosen = record.isel(time=index)
    found = chosen.rename(time="valid_time").assign_coords(
        init_time=record.time.values[starts],
        lead_time=(np.arange(1, STEPS + 1) * np.timedelta64(HOURS, "h")).astype("timedelta64[ns]"),
    )
    found["slp"] = found.slp.copy(data=change(found.slp.values))
    return found.expand_dims(member=[0]).transpose("member", "init_time", "lead_time", ...)


def test_a_perfect_forecast_has_no_error_and_the_moving_storm_goes_straight_on(run):
    found = evaluate_long_run(load(run), forecast(run))
    starts = 14 - STEPS - 5
    assert found.sizes["storm"] == 2 * starts and found["storms"].sel(sample="all").values.tolist() == [2 * starts] * 5
    np.testing.assert_allclose(found.track_error.sel(forecast="model"), 0, atol=1e-6)
    assert float(found.track_error.sel(forecast="persistence_of_motion").max()) < 60  # both go along great circles
    np.testing.assert_allclose(found.pressure_error.sel(forecast="persistence_of_motion"), 0, atol=40)
    assert (found.followed.sel(sample="all") == 1).all() and np.isnan(found.mean_absolute_wind_error).all()
    assert found.verdict.startswith("puts storms off by 0 km at 12 h (motion at the start carried on: ")


def test_a_storm_that_stays_behind_and_fills(run):
    def change(values):
        slow = [(*destination(35.0, -60.0, 70.0, 300.0 * start), 74.0, 200.0, 3000.0) for start in range(5, 10)]
        moved = np.stack([pressure([s], STEPS + 1)[1:] for s in slow])
        second = pressure([STORMS[1]], 14)
        index = np.arange(5, 10)[:, None] + np.arange(1, STEPS + 1)
        return moved + second[index] - 101300.0

    found = evaluate_long_run(load(run), forecast(run, change))
    deep = found.isel(storm=np.flatnonzero(found.pressure.sel(source="truth")[:, 0] < 98500))
    error = deep.track_error.sel(forecast="model").mean("storm")
    np.testing.assert_allclose(error, [0, 100, 200, 300, 400], atol=40)
    np.testing.assert_allclose(deep.pressure_error.sel(forecast="model")[:, 1:], 1000, atol=60)
    assert found["storms"].sel(sample="deepest tenth").values.tolist() == [1] * 5


def test_a_storm_that_the_model_loses_does_not_count_for_the_motion_either(run):
    def change(values):
        gone = values.copy()
        gone[:, 2:] = pressure([STORMS[0]], 14)[np.arange(5, 10)[:, None] + np.arange(3, STEPS + 1)]
        return gone

    found = evaluate_long_run(load(run), forecast(run, change))
    assert found["storms"].sel(sample="all").values.tolist() == [10, 10, 10, 5, 5]
    assert found.followed.sel(sample="all").values.tolist() == [1, 1, 1, 0.5, 0.5]


def test_the_command_prints_and_writes(run, capsys):
    forecast(run).drop_encoding().to_zarr(run / "out" / "rollout.zarr", consolidated=False)
    words = ["-c", str(run / "run.yaml"), "--run-dir", str(run / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "storms: deepest tenth" in printed and "persistence of motion" in printed
    assert printed.rstrip().splitlines()[-2].startswith("The model puts storms off by 0 km at 12 h")
    with xr.open_dataset(run / "out" / "storms.nc", decode_timedelta=True) as stored:
        assert stored.sizes["storm"] == 10 and stored.attrs["pressure"] == "slp"
    assert main([*words, "--overwrite", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["long_run"]
    assert plain["samples"]["all"]["storms"] == [10] * 5 and plain["lead_time"] == [
        "0 h",
        "12 h",
        "24 h",
        "36 h",
        "2 d",
    ]


def test_what_has_no_storms(run):
    with pytest.raises(InputError, match="no storm in 'slp' at any of 5 starts: expected lows with a closed contour"):
        with xr.open_zarr(run / "record.zarr") as opened:
            flat = opened.load() * 0 + 101300.0
        flat.slp.attrs["units"] = "Pa"
        write_record(flat, run / "flat.zarr", chunks={"time": 5})
        evaluate_long_run(load(run, f"--data.record={run / 'flat.zarr'}"), forecast(run))
    with pytest.raises(InputError, match="references are of the domain channel: beside storms stands their own motion"):
        load(run, "--evaluate.long_run.references={les: x.zarr}")
