import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.spec import RecordSpec, segments
from workbench.errors import InputError


def test_spec_survives_json(record):
    spec = RecordSpec.of(record, ["t2m", "slp"], stride=2)
    assert RecordSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert [v.name for v in spec.variables] == ["t2m", "slp"]
    assert (spec.time_step, spec.time_units, spec.calendar) == (2 * 86400.0, "s", True)


def test_equal_records_do_not_differ(record):
    spec = RecordSpec.of(record, ["slp"])
    assert spec.differences(RecordSpec.of(record.isel(time=slice(5, 9)), ["t2m", "slp"])) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.rename(slp="msl"), "variable 'slp' is missing"),
        (lambda d: d.assign(slp=d.slp.assign_attrs(units="hPa")), "variable 'slp' is in 'hPa', expected 'Pa'"),
        (lambda d: d.isel(lat=slice(None, None, -1)), "axis 'lat' is reversed: starts at 30, expected 70"),
        (lambda d: d.isel(lon=slice(0, 7)), "axis 'lon' has 7 points, expected 8"),
        (lambda d: d.assign_coords(lon=d.lon - 20), "axis 'lon' runs -20..50, expected 0..70"),
        (lambda d: d.isel(time=slice(0, None, 3)), "the time step is 259200 s, expected 86400 s"),
        (lambda d: d.assign_coords(time=np.arange(40.0)), "time is a number in '1', expected a calendar date"),
    ],
)
def test_every_difference_is_named(record, change, sentence):
    spec = RecordSpec.of(record, ["slp"])
    changed = change(record)
    found = spec.differences(RecordSpec.of(changed, [v for v in ("slp", "msl") if v in changed]))
    assert any(sentence in s for s in found), found


def test_longitudes_from_another_meridian_come_with_the_way_back(record):
    world = record.assign_coords(lon=("lon", 45.0 * np.arange(8) - 180, record.lon.attrs))
    other = world.assign_coords(lon=("lon", world.lon.values % 360, world.lon.attrs)).sortby("lon")
    found = RecordSpec.of(world, ["slp"]).differences(RecordSpec.of(other, ["slp"]))
    assert found[0].startswith("axis 'lon' counts the same meridians 0..315, expected -180..135: ds.assign_coords(")
    xr.testing.assert_equal(eval(found[0].partition(": ")[2], {"ds": other}), world)


def test_a_stretched_axis_is_told_from_a_uniform_one(record):
    spec = RecordSpec.of(record, ["slp"])
    stretched = record.assign_coords(lat=70 - 40 * np.linspace(0, 1, 6) ** 2)
    assert "spaced differently" in spec.differences(RecordSpec.of(stretched, ["slp"]))[0]


def test_missing_variable_lists_what_there_is(record):
    with pytest.raises(InputError, match="variable 'psl' is not in the record; it has 'slp', 't2m'"):
        RecordSpec.of(record, ["psl"])


def test_missing_units_are_an_error(record):
    del record.slp.attrs["units"]
    with pytest.raises(
        InputError,
        match="variable 'slp' has no 'units' attribute in the file; say them .* data.units: {slp: UNITS}",
    ):
        RecordSpec.of(record, ["slp"])


def test_a_gap_is_an_error_or_splits(record):
    broken = record.isel(time=[*range(10), *range(12, 40)])
    with pytest.raises(InputError, match="not uniform: the step is 86400 s, but 259200 s between index 9"):
        segments(broken)
    assert segments(broken, "split") == [(0, 10), (10, 38)]


def test_time_that_does_not_increase_is_an_error(record):
    with pytest.raises(InputError, match="does not increase at index 5"):
        segments(record.isel(time=[*range(5), *range(4, 40)]))


@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.sampled_from([0.1, 1.0, 3600.0]))
def test_segments_partition_the_time_axis(lengths, step):

    runs = [np.arange(n) for n in lengths]
    time, start = [], 0.0
    for run in runs:
        time.append(start + run * step)
        start = time[-1][-1] + 3 * step
    values = np.concatenate(time)
    if 2 * (len(lengths) - 1) >= len(values) - 1:  # gaps must not be as common as steps
        return
    dataset = xr.Dataset(coords={"time": values})
    found = segments(dataset, "split")
    assert [hi - lo for lo, hi in found] == lengths
    assert found[0][0] == 0 and found[-1][1] == len(values)
