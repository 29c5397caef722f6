"""The truth beside a forecast is the record at the valid times; forecasts that stopped are told where."""

import json

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.report.case import leads_with_truth, pick_case, starts_count, stops, truth_of


def make_record(calendar: bool = False, trajectories: bool = False, steps: int = 12) -> xr.Dataset:
    time = (
        np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
        if calendar
        else np.arange(steps) / 2
    )
    values = np.arange(steps * 3, dtype=float).reshape(steps, 3)
    dims, coords = ["time", "x"], {"time": time, "x": [0.0, 1.0, 2.0]}
    if trajectories:
        values = np.stack([values, values + 100])
        dims, coords = ["trajectory", *dims], {"trajectory": [7, 4], **coords}
    return xr.Dataset({"u": (dims, values, {"units": "m"}), "other": ("time", np.zeros(steps))}, coords)


def make_forecast(record: xr.Dataset, leads: int = 3, **attrs: object) -> xr.Dataset:
    time = record["time"].values
    init, lead = time[2:4], time[1 : leads + 1] - time[0]
    shape = (2, *((record.sizes["trajectory"],) if "trajectory" in record.dims else ()), 2, leads, 3)
    dims = ["member", *(["trajectory"] if "trajectory" in record.dims else []), "init_time", "lead_time", "x"]
    coords = {d: record[d] for d in ("trajectory", "x") if d in dims}
    forecast = xr.Dataset(
        {"u": (dims, np.zeros(shape), {"units": "km"})},
        {"member": [0, 1], "init_time": init, "lead_time": lead, **coords},
        attrs,
    )
    return forecast.assign_coords(valid_time=(("init_time", "lead_time"), init[:, None] + lead))


@pytest.mark.parametrize("calendar", [False, True])
def test_truth_is_the_record_at_the_valid_times(calendar):
    record = make_record(calendar)
    case = pick_case(make_forecast(record), record, start=1)
    np.testing.assert_array_equal(case.truth["u"].values, record["u"].values[4:7])
    assert case.truth["u"].dims == ("lead_time", "x") == case.prediction["u"].dims
    assert case.label == ("start 2001-01-04 00:00" if calendar else "start 1.5")
    assert case.truth["u"].attrs["units"] == "km" and list(case.truth.data_vars) == ["u"]


def test_trajectories_are_found_by_label_and_counted_slowly():
    record = make_record(trajectories=True)
    forecast = make_forecast(record).isel(trajectory=[1])
    assert starts_count(forecast) == 2
    case = pick_case(forecast, record, start=1)
    np.testing.assert_array_equal(case.truth["u"].values, record["u"].values[1, 4:7])
    assert case.label == "trajectory 4, start 1.5"
    unlabelled = record.drop_vars("trajectory")
    case = pick_case(forecast.assign_coords(trajectory=[1]), unlabelled, start=0)
    np.testing.assert_array_equal(case.truth["u"].values, record["u"].values[1, 3:6])
    with pytest.raises(InputError, match="trajectory 9 of the forecast is not in the record"):
        pick_case(forecast.assign_coords(trajectory=[9]), record, start=0)


def test_pair_reads_the_chosen_leads_of_the_cut_field():
    record = make_record()
    truth, prediction, where = pick_case(make_forecast(record), record, start=0).pair("u", np.array([0, 2]))
    np.testing.assert_array_equal(truth.values, record["u"].values[[3, 5]])
    assert prediction.shape == (2, 3) and where == ""


def test_leads_beyond_the_record_are_left_out():
    record = make_record()
    forecast = make_forecast(record, leads=8)
    short = record.isel(time=slice(0, 6))
    assert leads_with_truth(forecast.isel(init_time=0), short) == 3
    assert pick_case(forecast, short, start=0).truth.sizes["lead_time"] == 3
    with pytest.raises(InputError, match=r"starts where the record ends \(1\)"):
        pick_case(forecast, record.isel(time=slice(0, 3)), start=0)


def test_another_record_is_refused():
    record = make_record()
    forecast = make_forecast(record)
    prediction = forecast.isel(init_time=0, member=0)
    with pytest.raises(InputError, match="holds none of the forecast's variables"):
        truth_of(prediction, record.rename(u="v"))
    with pytest.raises(InputError, match="different grids: axis 'x' runs 0..3, expected 0..2"):
        truth_of(prediction, record.assign_coords(x=[0.0, 1.5, 3.0]))
    with pytest.raises(InputError, match="no state at valid time"):
        truth_of(prediction, record.assign_coords(time=record["time"] + 0.25))
    with pytest.raises(InputError, match="report.start is -1, the forecast has 2 starts"):
        pick_case(forecast, record, start=-1)


def test_a_damaged_chunk_is_named(tmp_path):
    from workbench.data.store import open_record
    from workbench.data.writer import write_record

    record = make_record()
    path = write_record(record, tmp_path / "truth.zarr")
    chunk = path / "u" / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    case = pick_case(make_forecast(record), open_record(str(path)), start=0)
    with pytest.raises(InputError, match=r"damaged chunk in .*truth\.zarr: variable 'u', chunk \(3, 0\)"):
        case.pair("u")


def test_stops_are_told_with_labels_and_found_by_their_start():
    record = make_record(calendar=True, trajectories=True)
    note = {"member": 0, "trajectory": 1, "init_time": "2001-01-04T00:00:00.000000000", "step": 2, "variable": "u"}
    forecast = make_forecast(record, workbench_stopped=json.dumps([{**note, "index": [1]}, {**note, "member": 1}]))
    first, second = stops(forecast, record)
    assert (first.label, first.start, first.step, first.place) == ("trajectory 4, start 2001-01-04 00:00", 3, 2, "[1]")
    assert second.member == 1
    assert pick_case(forecast, record, start=3).stop == first
    assert pick_case(forecast, record, start=2).stop is None


def test_stops_of_a_record_with_plain_numbers_for_time():
    record = make_record()
    note = {"member": 0, "init_time": str(np.float32(1.5)), "step": 1, "variable": "u", "index": [0]}
    (stop,) = stops(make_forecast(record, workbench_stopped=json.dumps([note])))
    assert stop.label == "start 1.5" and stop.start == 1
    assert stops(make_forecast(record)) == []


def test_a_stop_without_its_record_is_told_by_position():
    record = make_record(trajectories=True)
    note = {"member": 0, "trajectory": 1, "init_time": "1.5", "step": 2, "variable": "u", "index": [1]}
    (stop,) = stops(make_forecast(record, workbench_stopped=json.dumps([note])), None)
    assert stop.label == "trajectory at position 1, start 1.5" and stop.start == -1
