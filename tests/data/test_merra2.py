"""The published MERRA-2 files: read as they lie, in the order of the channels, or refused with the file named."""

import pickle
import shutil

import h5py
import numpy as np
import pytest
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.reader import WindowReader
from workbench.data.readers.merra2 import published_scalers
from workbench.data.readers.merra2_layout import CONSTANT, LEVELS, NOMINAL_PRESSURE, SURFACE, VERTICAL
from workbench.data.readers.merra2_replica import write_replica
from workbench.data.rechunk import rechunk
from workbench.data.statistics import fit_statistics
from workbench.data.store import is_zarr, open_record
from workbench.data.windows import Part, Windows
from workbench.errors import DamagedChunk, InputError

STATE = [*SURFACE, *VERTICAL]
GRID = (7, 12)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Three days, and the climatology of two slots of two days, with the chunks that HDF5 chooses."""
    folder = tmp_path_factory.mktemp("merra2")
    slots = [(d, h) for d in (1, 2) for h in (0, 12)]
    return write_replica(folder, days=3, grid=GRID, slots=slots, one_step_chunks=False)


@pytest.fixture
def copy(days, tmp_path):
    """A folder of two days to spoil."""
    for name in (
        "MERRA2_sfc_20200101.nc",
        "MERRA2_sfc_20200102.nc",
        "MERRA_pres_20200101.nc",
        "MERRA_pres_20200102.nc",
    ):
        shutil.copy(days / name, tmp_path)
    return tmp_path


def reference_state(folder, day, hour):
    """160 channels of one time as the published loader stacks them: read by sorted places, then turned over."""
    with h5py.File(folder / f"MERRA2_sfc_{day}.nc") as surface, h5py.File(folder / f"MERRA_pres_{day}.nc") as vertical:
        step = list(surface["time"][()]).index(60 * hour)
        stored = list(vertical["lev"][()])
        places = sorted(stored.index(level) for level in LEVELS)
        levels = np.stack([vertical[name][step, places] for name in VERTICAL])[:, ::-1]
        fields = np.stack([surface[name][step] for name in SURFACE])
    return np.concatenate([fields, levels.reshape(-1, *fields.shape[1:])])


def read(record, roles, starts, length=2, **options):
    reader = WindowReader(record, roles, crop=record.encoding.get("crop"), **options)
    windows = Windows(np.zeros(len(starts), np.int64), np.array(starts), length)
    out = {role: np.empty(reader.buffer_shape(role, windows, len(starts)), np.float32) for role in reader.roles}
    reader.read(windows, np.arange(len(starts)), out, missing="error")
    return out


@pytest.mark.parametrize("memory", [0, 2**30])
def test_channels_are_those_of_the_published_loader(days, memory):
    """Across midnight, from chunks of several steps and half of the levels."""
    out = read(open_record(str(days)), {"state": STATE, "forcing": CONSTANT}, [0, 7, 21], cache_bytes=memory)
    for row, (day, hour) in enumerate([("20200101", 0), ("20200101", 21), ("20200103", 15)]):
        np.testing.assert_array_equal(out["state"][row, 0], reference_state(days, day, hour))
    np.testing.assert_array_equal(out["state"][1, 1], reference_state(days, "20200102", 0))
    with h5py.File(days / "MERRA2_sfc_20200103.nc") as file:
        np.testing.assert_array_equal(out["forcing"][2, 1], np.stack([file[name][()] for name in CONSTANT]))


def test_the_record_says_what_it_holds(days):
    record = open_record(str(days))
    assert not is_zarr(str(days))
    assert record.T.dims == ("time", "lev", "lat", "lon") and record.T.attrs["units"] == "K"
    assert record.lev.values.tolist() == list(LEVELS) and np.all(np.diff(record.nominal_pressure) > 0)
    assert record.nominal_pressure.values.tolist() == list(NOMINAL_PRESSURE)
    assert record.time.values[[0, -1]].astype("datetime64[h]").astype(str).tolist() == [
        "2020-01-01T00",
        "2020-01-03T21",
    ]
    assert {str(n) for n in record.data_vars} == {*STATE, *CONSTANT}


def test_a_crop_and_a_lazy_selection_read_the_same(days):
    whole = open_record(str(days))[["T", "PS"]].load()
    crop = {"lat": (0, 6), "lev": (3, 9), "time": (5, 20)}
    part = open_record(str(days), crop)
    expected = whole.isel({d: slice(*b) for d, b in crop.items()})
    xr.testing.assert_equal(part[["T", "PS"]].compute(), expected)
    out = read(part, {"state": ["T", "PS"]}, [9])["state"]
    np.testing.assert_array_equal(out[0, :, :6], expected.T[9:11])
    np.testing.assert_array_equal(out[0, :, 6], expected.PS[9:11])
    np.testing.assert_array_equal(part.T[[1, 4, 12], ::2, -1].values, expected.T.values[[1, 4, 12], ::2, -1])


@pytest.mark.parametrize("order", ["up", "shuffled", "all 72"])
def test_levels_are_found_by_their_numbers(copy, order):
    """A file that holds its levels the other way up, anyhow, or with others between them, gives the same record."""
    before = open_record(str(copy)).T.values
    path = copy / "MERRA_pres_20200102.nc"
    with xr.open_dataset(path, decode_times=False) as opened:
        vertical = opened.load()
    chosen = {"up": np.arange(14)[::-1], "shuffled": np.random.default_rng(0).permutation(14)}.get(order)
    other = vertical.isel(lev=chosen) if chosen is not None else vertical.reindex(lev=np.arange(72.0, 0, -1))
    other.to_netcdf(path)
    np.testing.assert_array_equal(open_record(str(copy)).T.values, before)
    np.testing.assert_array_equal(read(open_record(str(copy)), {"state": ["T"]}, [8])["state"][0], before[8:10])


def test_a_store_has_one_step_a_chunk_and_the_same_numbers(days, tmp_path):
    names = ["PS", "T", "FRACI"]
    path = rechunk(str(days), tmp_path / "merra2.zarr", variables=names, chunks={"time": 1})
    store, files = open_record(str(path)), open_record(str(days))
    assert store.T.encoding["chunks"] == (1, 14, *GRID) and store.T.encoding["shards"][0] == 24
    both = [read(record, {"state": names}, [7])["state"] for record in (store, files)]
    np.testing.assert_array_equal(*both)
    xr.testing.assert_equal(store.load(), files[names].load())


def test_a_lazy_variable_travels_to_other_processes(days):
    lazy = open_record(str(days)).QV
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy[5:11, 3])).values, lazy[5:11, 3].values)


def test_statistics_see_every_state_of_the_files(days, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    record = open_record(str(days))
    found = fit_statistics(record, ["T"], Part("train", np.array([0]), ((0, 24),))).variables["T"]
    np.testing.assert_allclose(found.mean, record.T.mean(("time", "lat", "lon")), rtol=1e-6)


# ---------------------------------------------------------------------------------------------- climatology


def test_the_published_climatology_and_its_scalers(days):
    folder = str(days / "climatology")
    found = open_record(folder)
    assert found.T.dims == ("dayofyear", "hour", "lev", "lat", "lon")
    assert found.dayofyear.values.tolist() == [1, 2] and found.hour.values.tolist() == [0, 12]
    with h5py.File(days / "climatology" / "climate_vertical_doy002_hour12.nc") as file:
        np.testing.assert_array_equal(found.T[1, 1], file["T"][()][::-1])
    with h5py.File(days / "climatology" / "anomaly_variance_vertical.nc") as file:
        np.testing.assert_allclose(found.QV_anomaly_variance, np.clip(file["QV"][()][::-1], 1e-7, 1e7))
    assert found.QV_anomaly_variance.values.min() == 1e-7  # as the published scalers are used
    scalers = published_scalers(folder)
    with h5py.File(days / "climatology" / "musigma_vertical.nc") as file:
        np.testing.assert_array_equal(scalers.T.sel(statistic="mean"), file["T"][0][::-1])
    assert float(scalers.PHIS.sel(statistic="std")) == 2e3
    assert found.attrs["fit_first"][:4] == "1980" and found.attrs["fit_last"][:4] == "2019"


def test_a_climatology_becomes_a_store_with_one_field_a_chunk(days, tmp_path):
    names = ["T", "PS", "T_anomaly_variance"]
    path = rechunk(str(days / "climatology"), tmp_path / "climatology.zarr", variables=names)
    store = open_record(str(path))
    assert store.T.encoding["chunks"] == (1, 1, 14, *GRID)
    assert store.attrs["fit_period"] == "1980-01-01T00:00:00 .. 2019-12-31T21:00:00"
    xr.testing.assert_equal(store.load(), open_record(str(days / "climatology"))[names].load())


# ---------------------------------------------------------------------------------------------- refused


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def test_a_missing_level_is_named(copy):
    path = copy / "MERRA_pres_20200102.nc"
    with xr.open_dataset(path, decode_times=False) as opened:
        shorter = opened.load().drop_sel(lev=45.0)
    shorter.to_netcdf(path)
    record = open_record(str(copy))
    with pytest.raises(InputError, match=r"20200102.nc lacks the model levels 45: expected 34, .* found 72, 71, 68"):
        read(record, {"state": ["T"]}, [0])
    with pytest.raises(InputError, match="lacks the model levels 45"):
        record.T.values  # noqa: B018


def test_a_missing_variable_is_named(copy):
    edit(copy / "MERRA2_sfc_20200102.nc", lambda file: file.__delitem__("TQV"))
    with pytest.raises(InputError, match=r"MERRA2_sfc_20200102.nc has no variable 'TQV', the first file has it"):
        read(open_record(str(copy)), {"state": ["TQV"]}, [8])
    edit(copy / "MERRA2_sfc_20200101.nc", lambda file: file.__delitem__("TQV"))
    with pytest.raises(InputError, match="'TQV' is not in the record"):
        read(open_record(str(copy)), {"state": ["TQV"]}, [0])


@pytest.mark.parametrize("lon", [30.0 * np.arange(12), 180 - 30.0 * np.arange(12)])
def test_other_longitudes_are_refused(copy, lon):
    edit(copy / "MERRA2_sfc_20200101.nc", lambda file: file["lon"].write_direct(lon))
    with pytest.raises(InputError, match=r"'lon' runs from .* expected eastwards from -180 .* roll every file"):
        open_record(str(copy))


def test_a_grid_that_changes_between_files_is_refused(copy):
    edit(copy / "MERRA_pres_20200102.nc", lambda file: file["lat"].write_direct(np.linspace(90, -90, 7)))
    with pytest.raises(
        InputError, match=r"MERRA_pres_20200102.nc: 'lat' has 7 points from 90 to -90, expected 7 from -90"
    ):
        read(open_record(str(copy)), {"state": ["T"]}, [8])


def test_times_that_are_not_those_of_the_day_are_refused(copy):
    edit(copy / "MERRA_pres_20200102.nc", lambda file: file["time"].write_direct(np.arange(0, 24 * 60, 180, "i4") + 60))
    with pytest.raises(InputError, match=r"MERRA_pres_20200102.nc holds 8 times 2020-01-02T01:00, .* by its name"):
        read(open_record(str(copy)), {"state": ["T"]}, [8])
    edit(copy / "MERRA2_sfc_20200101.nc", lambda file: file["time"].attrs.__delitem__("begin_date"))
    with pytest.raises(InputError, match="expected minutes in 'time' after its attribute begin_date"):
        open_record(str(copy))


def test_a_file_without_its_partner_is_refused(copy):
    (copy / "MERRA_pres_20200102.nc").unlink()
    with pytest.raises(InputError, match=r"MERRA2_sfc_20200102.nc has no partner MERRA_pres_20200102.nc beside it"):
        open_record(str(copy))


def test_a_truncated_file_is_damage(copy):
    path = copy / "MERRA_pres_20200102.nc"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DamagedChunk, match=r"MERRA_pres_20200102.nc cannot be opened as NetCDF-4"):
        read(open_record(str(copy)), {"state": ["T"]}, [8])


def test_nothing_over_the_sea_is_filled_as_published_and_refused_elsewhere(copy):
    def lose(name):
        def change(file):
            file[name][3, 2, 5] = np.nan

        return change

    for name in ("GWETROOT", "LAI", "T2M"):
        edit(copy / "MERRA2_sfc_20200101.nc", lose(name))
    record = open_record(str(copy))
    found = read(record, {"state": ["GWETROOT", "LAI"]}, [3])["state"][0, 0, :, 2, 5]
    assert found.tolist() == [1.0, 0.0] and record.LAI.values[3, 2, 5] == 0
    with pytest.raises(InputError, match=r"'T2M' has a missing value .*2020-01-01T09.* data.missing: mask"):
        read(record, {"state": ["T2M"]}, [3])


def test_a_slot_that_is_not_there_is_named(days, tmp_path):
    for name in ("surface_doy001_hour00", "surface_doy002_hour12", "vertical_doy001_hour00", "vertical_doy002_hour12"):
        shutil.copy(days / "climatology" / f"climate_{name}.nc", tmp_path)
    found = open_record(str(tmp_path))
    assert (found.states.values > 0).tolist() == [[True, False], [False, True]]
    with pytest.raises(DamagedChunk, match="climate_vertical_doy001_hour12.nc is not there: fetch it"):
        found.T[0, 1].values  # noqa: B018


def test_published_scalers_need_their_folder():
    with pytest.raises(InputError, match="data.climatology must name the folder of published files"):
        DataConfig(record="x", state=("T",), normalise="published")
