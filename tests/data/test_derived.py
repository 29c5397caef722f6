"""Calendar and position channels: the formulas, on any record with dates and degrees, at no cost of memory."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from workbench import cli
from workbench.data.config import DataConfig, Split
from workbench.data.derived import CALENDAR, POSITION, with_derived
from workbench.data.module import RecordDataModule
from workbench.data.packing import Packing
from workbench.data.store import open_data
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.errors import InputError

FORCING, STATIC = tuple(CALENDAR), tuple(POSITION)


@pytest.fixture
def stored(tmp_path):
    """Six-hourly over the end of a leap year, longitude first, named as ERA5 names them."""
    time = pd.date_range("2020-12-28", periods=40, freq="6h")
    values = np.random.default_rng(0).normal(size=(40, 6, 4)).astype("f4")
    data = xr.Dataset(
        {"t2m": (("time", "longitude", "latitude"), values, {"units": "K"})},
        {
            "time": time,
            "longitude": ("longitude", 60.0 * np.arange(6), {"units": "degrees_east"}),
            "latitude": ("latitude", [60.0, 20.0, -20.0, -60.0], {"units": "degrees_north"}),
        },
    )
    return str(write_record(data, tmp_path / "r.zarr"))


def config(stored, **options):
    return DataConfig(record=stored, state=("t2m",), forcing=FORCING, static=STATIC, **options)


def test_formulas(stored):
    found = open_data(config(stored))
    at = found.sel(time="2020-12-31 18:00", longitude=120.0, latitude=-20.0)
    year, day, lat, lon = 2 * np.pi * 366 / 366, 2 * np.pi * 18 / 24, np.deg2rad(-20), np.deg2rad(120)
    expected = {
        "cos_day_of_year": np.cos(year),
        "sin_day_of_year": np.sin(year),
        "cos_hour_of_day": np.cos(day),
        "sin_hour_of_day": np.sin(day),
        "latitude_radians": lat,
        "longitude_radians": lon,
        "sin_latitude": np.sin(lat),
        "cos_longitude": np.cos(lon),
        "sin_longitude": np.sin(lon),
    }
    for name, value in expected.items():
        assert float(at[name]) == pytest.approx(value, abs=1e-6), name
    first = found.sel(time="2021-01-01 00:00", longitude=0, latitude=20)
    assert float(first.cos_day_of_year) == pytest.approx(np.cos(2 * np.pi / 366), abs=1e-6)
    assert found.cos_day_of_year.values.base is not None and found.cos_day_of_year.values.strides[1:] == (0, 0)


def test_they_reach_the_batch_unscaled_on_the_grid_of_the_record(stored):
    module = RecordDataModule(**vars(config(stored, history=2, split=Split(gap=0), batch_size=4)))
    module.prepare_data()
    module.setup()
    found = open_data(module.config).load()
    loader = module.loader("train", "full")
    batch = next(iter(loader))
    assert batch["forcing"].shape == (4, 3, 4, 6, 4) and batch["static"].shape == (4, 5, 6, 4)
    times = loader.windows.times(batch["index"].numpy())
    for row in range(4):
        here = found.isel(time=times[row])
        expected = np.stack([here[n].transpose("time", "longitude", "latitude") for n in FORCING], 1)
        np.testing.assert_array_equal(batch["forcing"][row], expected)
    np.testing.assert_array_equal(batch["static"][0, 0], found.latitude_radians.transpose("longitude", "latitude"))
    groups = module.packing.groups
    assert groups["forcing"].mean == (0.0,) * 4 and groups["static"].std == (1.0,) * 5
    assert Packing.from_dict(module.packing.to_dict()) == module.packing
    module.packing.check(open_data(module.config), "the record")
    assert set(module.card()["statistics"]) == {"t2m"}


def test_an_experiment_checks_out_with_them_and_a_climatology(stored, tmp_path, capsys):
    """From the file through the network, one batch of training."""
    experiment = tmp_path / "e.yaml"
    experiment.write_text(
        f"data: {{record: {stored}, state: [t2m], forcing: {list(FORCING)}, static: {list(STATIC)}, climatology: fit, "
        "split: {train: [0, 0.6], validation: [0.6, 0.8], test: [0.8, 1.0]}}\n"
        "model:\n  class_path: ForecastTask\n  init_args:\n"
        "    network: {class_path: FNO, init_args: {width: 4, modes: [2, 2], layers: 1, projection: 4}}\n"
        "rollout: {steps: 2}\n"
    )
    assert cli.main(["check", "-c", str(experiment)]) == 0
    assert "parameters; first loss" in capsys.readouterr().out


def test_a_record_that_has_such_a_variable_keeps_its_own(stored):
    data = open_data(DataConfig(record=stored, state=("t2m",)))
    own = data.assign(sin_latitude=data.t2m.isel(time=0, drop=True))
    assert with_derived(own, ("t2m", "sin_latitude")) is own


def test_what_they_need_is_named():
    values = np.zeros((2, 2, 2))
    numbered = xr.Dataset({"u": (("time", "lat", "lon"), values)}, {"time": [0.0, 1.0], "lat": [0.0, 1.0]})
    with pytest.raises(InputError, match="no axis of longitude, which .* its dimensions are time, lat, lon"):
        with_derived(numbered, ["sin_latitude"])
    with pytest.raises(InputError, match="'cos_hour_of_day' needs calendar dates on the time axis"):
        with_derived(numbered.assign_coords(lon=[0.0, 1.0]), ["cos_hour_of_day"])


def test_splits_do_not_see_them(stored):
    found = config(stored)
    assert parts(open_data(found), found)["train"].steps == 32
