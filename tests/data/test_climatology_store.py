"""Climatologies that are written as they come, and read beside the record: equal to those in memory, never a leak."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from workbench import cli
from workbench.data.climatology import climatology_at, fit_climatology
from workbench.data.climatology_reader import ClimatologyReader
from workbench.data.climatology_store import open_climatology, write_climatology
from workbench.data.config import DataConfig, Split
from workbench.data.loader import WindowLoader
from workbench.data.module import RecordDataModule
from workbench.data.reader import WindowReader
from workbench.data.readers.merra2_replica import write_replica
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_data, open_record
from workbench.data.windows import Part, Windows, parts
from workbench.data.writer import write_record
from workbench.errors import InputError

SPLIT = Split(
    train=("2001-01-01", "2003-12-31"), validation=("2004-01-01", "2004-06-30"), test=("2004-07-01", "2004-12-31")
)
NAMES = ("t", "slp")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Four years, twice a day: one variable on levels behind latitude, one without; a leap year at the end."""
    time = pd.date_range("2001-01-01", "2004-12-31 12:00", freq="12h")
    random, season = np.random.default_rng(0), np.sin(2 * np.pi * time.day_of_year.values / 365)
    noise = np.array([1.0, 3.0])[:, None] * random.normal(size=(len(time), 4, 2, 5))
    t = 280 + 10 * season[:, None, None, None] + noise
    slp = 1e5 + 300 * random.normal(size=(len(time), 4, 5)) + 50 * (time.hour.values == 12)[:, None, None]
    data = xr.Dataset(
        {
            "t": (("time", "lat", "level", "lon"), t.astype("f4"), {"units": "K", "long_name": "temperature"}),
            "slp": (("time", "lat", "lon"), slp.astype("f4"), {"units": "Pa", "long_name": "sea level pressure"}),
        },
        {
            "time": time,
            "lat": ("lat", [60.0, 30.0, 0.0, -30.0], {"units": "degrees_north"}),
            "level": ("level", [500.0, 850.0], {"units": "hPa"}),
            "lon": ("lon", 72.0 * np.arange(5), {"units": "degrees_east"}),
        },
    )
    return str(write_record(data, tmp_path_factory.mktemp("climatology") / "r.zarr", chunks={"time": 100}))


def config(record, **options):
    return DataConfig(**{"record": record, "state": NAMES, "history": 2, "split": SPLIT, "batch_size": 8, **options})


def train(dataset, source):
    return parts(dataset, config(source))["train"]


@pytest.fixture(scope="module")
def store(record, tmp_path_factory):
    dataset = open_record(record)
    return write_climatology(dataset, NAMES, train(dataset, record), tmp_path_factory.mktemp("stored") / "c.zarr")


def test_the_store_is_the_climatology_in_memory(record, store):
    dataset, found = open_record(record), open_record(str(store))
    expected = fit_climatology(dataset, NAMES, train(dataset, record))
    assert found.t.dims == ("dayofyear", "hour", "lat", "level", "lon")
    assert found.t.encoding["chunks"] == (102, 1, 4, 2, 5)  # as many days as make 16 KiB
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-7)
    assert np.array_equal(found.states, expected.states)
    assert found.attrs["fit_period"] == expected.attrs["fit_period"] and found.attrs["fit_trajectories"] == [0]


def test_the_variance_is_that_of_the_anomalies(record, store):
    """Against the definition, step by step: area-weighted mean square of x minus the climatology at its time."""
    dataset = open_record(record)
    part = train(dataset, record)
    chosen = part.select(dataset).load()
    anomaly = chosen.astype(float) - climatology_at(fit_climatology(dataset, NAMES, part), chosen.time)
    weights = np.cos(np.deg2rad(dataset.lat))
    found = open_record(str(store))
    for name in NAMES:
        expected = (anomaly[name] ** 2).weighted(weights).mean(("time", "lat", "lon"))
        np.testing.assert_allclose(found[f"{name}_anomaly_variance"], expected, rtol=1e-9)
    assert found.t_anomaly_variance.dims == ("level",) and found.t_anomaly_variance.attrs["units"] == "(K)2"


@pytest.mark.parametrize("days", [60, 365])
def test_memory_does_not_change_the_result(record, store, tmp_path, monkeypatch, days):
    """Two months at a time, or one of the two hours at a time; a few steps a task."""
    monkeypatch.setattr("workbench.data.slot_means.SUM_BYTES", 8 * 20 * days)
    monkeypatch.setattr("workbench.data.slot_means.PIECE_BYTES", 8 * 20 * 100)
    monkeypatch.setattr("workbench.data.climatology_store.CHUNK_BYTES", 4 * 20 * 10)
    monkeypatch.setattr("workbench.data.climatology_store.SHARD_BYTES", 4 * 20 * 30)
    dataset = open_record(record)
    found = open_record(str(write_climatology(dataset, ["slp"], train(dataset, record), tmp_path / "c.zarr")))
    expected = open_record(str(store))
    assert (found.slp.encoding["chunks"][0], found.slp.encoding["shards"][0]) == (10, 30)
    np.testing.assert_allclose(found.slp, expected.slp, rtol=1e-7)
    np.testing.assert_allclose(found.slp_anomaly_variance, expected.slp_anomaly_variance, rtol=1e-9)


def test_a_build_that_was_stopped_goes_on(record, store, tmp_path, monkeypatch):
    dataset = open_record(record)
    part = train(dataset, record)
    seen = []

    def stop(done, total):
        seen.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_climatology(dataset, NAMES, part, tmp_path / "c.zarr", progress=stop)
    assert seen == [1] and not (tmp_path / "c.zarr").exists()
    means = []
    from workbench.data import climatology_store

    real = climatology_store.slot_means
    monkeypatch.setattr(climatology_store, "slot_means", lambda *a, **k: means.append(a[1]) or real(*a, **k))
    found = open_record(str(write_climatology(dataset, NAMES, part, tmp_path / "c.zarr")))
    assert means == ["slp"]
    xr.testing.assert_equal(found.load(), open_record(str(store)).load())


def test_missing_values_count_neither_in_the_mean_nor_in_the_variance(tmp_path):
    values = np.random.default_rng(0).normal(size=(800, 3))
    values[::3, 1] = np.nan
    time = pd.date_range("2001-01-01", periods=800)
    data = xr.Dataset({"u": (("time", "x"), values, {"units": "K"})}, {"time": time, "x": np.arange(3.0)})
    data = open_record(str(write_record(data, tmp_path / "r.zarr", chunks={"time": 100})))
    part = Part("train", np.zeros(1, int), ((0, 800),))
    with pytest.raises(InputError, match=r"'u' has missing .*, first at time=2001-01-01.*, x=1.0; set data.missing"):
        write_climatology(data, ["u"], part, tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    found = open_record(str(write_climatology(data, ["u"], part, tmp_path / "m.zarr", missing="mask")))
    anomaly = data.u - climatology_at(fit_climatology(data, ["u"], part, "mask"), data.time).u
    assert float(found.u_anomaly_variance) == pytest.approx(float((anomaly**2).mean()), rel=1e-9)


# ---------------------------------------------------------------------------------------------- in batches


def test_batches_hold_the_climatology_of_their_targets(record):
    """A leap year's last day among them; whichever states a window draws."""
    module = RecordDataModule(
        **vars(config(record, climatology="fit", horizon=2, input_deltas=(1, 3), leads=(0, 2), shuffle="none"))
    )
    module.prepare_data()
    module.setup()
    dataset = open_record(record).load()
    expected = fit_climatology(dataset, NAMES, module.parts["train"])
    valid = pd.DatetimeIndex(dataset.time.values)
    for loader in (module.loader("train", "block"), module.loader("test", "none")):
        batch = next(iter(loader))
        windows = loader.windows
        for row, index in enumerate(batch["index"].tolist()):
            latest = valid[windows.start[index] + 3]
            lead = pd.Timedelta(float(batch["lead_time"][row]), "h")
            times = xr.DataArray(pd.DatetimeIndex([latest + lead, latest + 2 * lead]), dims="time")
            at = climatology_at(expected, times)
            stacked = np.concatenate([at.t.transpose("time", "level", "lat", "lon"), at.slp.values[:, None]], 1)
            np.testing.assert_allclose(batch["climatology"][row].numpy(), stacked, rtol=1e-6)
    variance = open_climatology(dataset, module.config, module.parts)
    std = np.sqrt([*variance.t_anomaly_variance.values, float(variance.slp_anomaly_variance)])
    np.testing.assert_allclose(module.packing.groups["state"].anomaly_std, std)
    assert module.card()["climatology"]["period"] == "2001-01-01T00:00:00 .. 2003-12-31T12:00:00"
    json.dumps(module.card(), allow_nan=False)


def test_a_sample_in_the_place_of_a_damaged_one_has_its_own_climatology(record, tmp_path):
    shutil.copytree(record, tmp_path / "r.zarr")
    for name in ("t", "slp"):
        chunk = next((tmp_path / "r.zarr" / name / "c" / "3").rglob("0"))
        chunk = chunk if chunk.is_file() else next(p for p in chunk.rglob("*") if p.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-9] + b"damaged!!")
    dataset, whole = open_record(str(tmp_path / "r.zarr")), open_record(record)
    climatology = fit_climatology(whole, NAMES, train(whole, record))
    starts = np.arange(290, 410, 10)  # ten of them touch the steps 300 to 399
    reader = WindowReader(dataset, {"state": NAMES}, cache_bytes=0)
    means = ClimatologyReader(climatology, NAMES, whole.time, 1, cache_bytes=0)
    loader = WindowLoader(
        reader, Windows(0 * starts, starts, 2), batch_size=3, shuffle="none", damaged="skip", climatology=means
    )
    at = climatology_at(climatology, whole.time).slp
    for batch in loader:
        for row, index in enumerate(batch["index"].tolist()):
            expected = at[starts[index] + 1].values.astype("f4")
            np.testing.assert_array_equal(batch["climatology"][row, 0, 2], expected)
    assert loader.replaced == 10


def test_it_is_fitted_once_and_kept_beside_the_record(record, monkeypatch):
    def opened():
        dataset = open_record(record)
        return open_climatology(dataset, config(record, climatology="fit"), {"train": train(dataset, record)})

    first = opened()
    monkeypatch.setattr("workbench.data.climatology_store.write_climatology", None)
    again = opened()
    assert first.encoding["source"] == again.encoding["source"]
    assert f"{record}.statistics/climatology-" in first.encoding["source"]


def test_the_published_folder_serves_a_record_of_published_files(tmp_path):
    slots = [(365, hour) for hour in range(0, 24, 3)]
    folder = write_replica(tmp_path, start="2020-12-31", days=1, grid=(7, 12), slots=slots)
    split = Split(train=(0.0, 0.5), validation=(0.5, 0.75), test=(0.75, 1.0))
    module = RecordDataModule(
        record=str(folder),
        state=("T2M", "T"),
        forcing=("cos_day_of_year", "PHIS"),
        static=("latitude_radians",),
        climatology=str(folder / "climatology"),
        normalise="published",
        crop={"lat": (0, 6)},
        split=split,
        batch_size=2,
    )
    module.prepare_data()
    module.setup()
    batch = next(iter(module.loader("train", "none")))
    assert batch["climatology"].shape == (2, 1, 15, 6, 12)
    stored = open_record(str(folder / "climatology")).isel(lat=slice(0, 6)).load()
    # the first target is 31 December 2020, 03 h: day 366 counts as day 365
    np.testing.assert_array_equal(batch["climatology"][0, 0, 0], stored.T2M.sel(dayofyear=365, hour=3))
    np.testing.assert_array_equal(batch["climatology"][0, 0, 1:], stored["T"].sel(dayofyear=365, hour=3))
    state, forcing = module.packing.groups["state"], module.packing.groups["forcing"]
    assert state.mean[0] == 280.0 and state.std[:2] == (15.0, 15.0)
    assert forcing.mean == (0.0, 3e3) and forcing.std == (1.0, 2e3)
    np.testing.assert_allclose(state.anomaly_std, 0.4 * 15 / np.sqrt(2))


# ---------------------------------------------------------------------------------------------- refused


def test_a_climatology_that_saw_the_test_is_refused_unless_forced(record, store):
    dataset = open_record(record)
    earlier = Split(
        train=("2001-01-01", "2002-06-30"), validation=("2002-07-01", "2002-12-31"), test=("2003-01-01", "2003-12-31")
    )
    leaky = config(record, climatology=str(store), split=earlier)
    with pytest.raises(InputError, match=r"validation split: .* holds 368 of the times .* set data.leaky_climatology"):
        open_climatology(dataset, leaky, parts(dataset, leaky))
    forced = replace(leaky, leaky_climatology=True)
    assert open_climatology(dataset, forced, parts(dataset, forced)).sizes["hour"] == 2


def test_a_climatology_of_another_grid_or_without_variances_is_refused(record, store):
    cut = open_data(config(record, crop={"lat": (1, 4)}))
    found = config(record, climatology=str(store))
    with pytest.raises(InputError, match="does not fit the record: axis 'lat' has 4 points, expected 3"):
        open_climatology(cut, found, parts(cut, found))
    with pytest.raises(InputError, match="is no climatology of t, slp: expected variables of these names"):
        open_climatology(cut, config(record, climatology=record), {})
    cropped = config(record, climatology=str(store), crop={"lat": (1, 4)})
    assert open_climatology(cut, cropped, parts(cut, cropped)).sizes["lat"] == 3


def test_a_time_that_it_does_not_have_is_named(record, store):
    dataset, spring = open_record(record), open_record(str(store)).isel(dayofyear=slice(59, 151)).load()
    reader = ClimatologyReader(spring, NAMES, dataset.time, 1)
    windows = Windows(np.zeros(2, int), np.array([200, 600]), 2)
    out = np.empty(reader.buffer_shape(windows, 2), np.float32)
    reader.start(windows, np.array([0]), out[:1])()
    np.testing.assert_array_equal(out[0, 0, 2], spring.slp.sel(dayofyear=101, hour=12))
    with pytest.raises(InputError, match="no climatology for 2001-10-28T12:00: expected every day of the year"):
        reader.start(windows, np.array([0, 1]), out)


def test_other_hours_are_refused(record, store):
    time = open_record(record).time
    with pytest.raises(InputError, match="holds the hours 0, 12 and is asked for 3 h"):
        ClimatologyReader(open_record(str(store)), NAMES, time + np.timedelta64(3, "h"), 1)


def test_years_must_lie_in_the_training_split(record, tmp_path, capsys):
    experiment = tmp_path / "e.yaml"
    experiment.write_text(
        f"data:\n  record: {record}\n  state: [slp]\n  split:\n    train: ['2001-01-01', '2003-12-31']\n"
        "    validation: ['2004-01-01', '2004-06-30']\n    test: ['2004-07-01', '2004-12-31']\n"
    )
    words = ["dataset", "climatology", "-c", str(experiment), "-o", str(tmp_path / "c.zarr"), "--years"]
    assert cli.main([*words, "2002", "2004"]) == 2
    assert "years 2002 to 2004 are not all in the train split, which has 2001 to 2003" in capsys.readouterr().err
    assert cli.main([*words, "2002", "2003"]) == 0
    dataset = open_record(record)
    some = Part("train", np.zeros(1, int), ((730, 2190),))
    np.testing.assert_allclose(
        open_record(str(tmp_path / "c.zarr")).slp, fit_climatology(dataset, ["slp"], some).slp, rtol=1e-7
    )
    assert cli.main(words[:4] + ["--years", "2002", "2003"]) == 2
    assert "say where with -o" in capsys.readouterr().err


def test_statistics_are_still_those_of_the_record(record):
    """The climatology kept beside them is no part of the record's fingerprint."""
    dataset = open_record(record)
    part = train(dataset, record)
    assert fit_statistics(dataset, NAMES, part).key == fit_statistics(open_record(record), NAMES, part).key
