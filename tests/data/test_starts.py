import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.config import DataConfig
from workbench.data.starts import Problem, choose_starts, forecast_times, time_index
from workbench.data.windows import Part
from workbench.errors import InputError


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(8, 40)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(0, 12),
)
def test_history_and_leads_of_every_start_lie_in_one_run(gaps, history, stride, steps, count):
    edges = np.cumsum([0, *(n for pair in gaps for n in pair)])
    runs = tuple((int(edges[2 * i + 1]), int(edges[2 * i + 2])) for i in range(len(gaps)))
    part = Part("test", np.arange(2), runs)
    back, ahead = (history - 1) * stride, steps * stride
    possible = [t for lo, hi in runs for t in range(lo, hi) if lo <= t - back and t + ahead < hi]
    if not possible:
        with pytest.raises(InputError, match="no forecast of"):
            choose_starts(part, history, stride, steps, count)
        return
    trajectories, starts = choose_starts(part, history, stride, steps, count)
    assert trajectories.tolist() == [0, 1]
    assert set(starts.tolist()) <= set(possible)
    assert (np.diff(starts) > 0).all()
    assert len(starts) == (len(possible) if count == 0 else min(count, len(possible)))
    if count > 1:
        assert starts[0] == possible[0] and starts[-1] == possible[-1]


def test_starts_are_evenly_spaced():
    assert choose_starts(Part("test", np.zeros(1, int), ((100, 200),)), 1, 1, 9, 7)[1].tolist() == list(
        range(100, 191, 15)
    )


def test_a_forecast_that_does_not_fit_names_the_longest_that_does():
    part = Part("test", np.zeros(1, int), ((0, 10), (12, 30)))
    with pytest.raises(InputError, match=r"the longest run has 18; lower rollout.steps to at most 7"):
        choose_starts(part, 2, 2, 9)
    assert len(choose_starts(part, 2, 2, 7)[1]) == 2


def record(time, **attrs):
    return xr.Dataset({"u": (("time", "x"), np.zeros((len(time), 2)), {"units": "1"})}, {"time": ("time", time, attrs)})


def test_coordinates_of_a_dated_forecast():
    times = forecast_times(record(pd.date_range("2001-01-01", periods=9, freq="6h")), np.array([1, 3]), 2, 2)
    assert np.array_equal(times["init_time"], np.array(["2001-01-01T06", "2001-01-01T18"], dtype="datetime64[ns]"))
    assert (times["lead_time"].values / np.timedelta64(1, "h")).tolist() == [12, 24]
    assert times["valid_time"].values[1, 1] == np.datetime64("2001-01-02T18")


def test_coordinates_of_a_forecast_in_numbers_carry_the_units_of_time():
    times = forecast_times(record(np.arange(9.0) * 0.5 + 3, units="s"), np.array([1]), 1, 3)
    assert times["lead_time"].values.tolist() == [0.5, 1.0, 1.5]
    assert times["valid_time"].values.tolist() == [[4.0, 4.5, 5.0]]
    assert times["lead_time"].attrs["units"] == "s"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_valid_times_find_their_states_whatever_the_rounding(dtype):
    data = record((np.arange(3000) * 0.1 + 0.3).astype(dtype), units="s")
    starts = np.array([0, 17, 1999])
    valid = forecast_times(data, starts, 1, 1000)["valid_time"]
    assert np.array_equal(time_index(data, valid).values, starts[:, None] + np.arange(1, 1001))


def test_a_valid_time_past_the_record_names_the_forecast():
    data = record(pd.date_range("2001-01-01", periods=5))
    times = forecast_times(data, np.array([1, 3]), 1, 1)
    valid = (times["init_time"] + xr.DataArray(pd.to_timedelta([1, 2], "D"), dims="lead_time")).assign_coords(
        init_time=times["init_time"]
    )
    with pytest.raises(InputError, match=r"no state at valid time 2001-01-06.*\(forecast from 2001-01-04.*rollout"):
        time_index(data, valid)


def test_a_time_between_two_states_is_none_of_them():
    with pytest.raises(InputError, match="no state at valid time 1.4"):
        time_index(record(np.arange(4.0), units="s"), xr.DataArray([1.0, 1.4], dims="init_time"))


def test_numbers_and_dates_do_not_match():
    with pytest.raises(InputError, match="made from another record"):
        time_index(record(pd.date_range("2001-01-01", periods=5)), xr.DataArray([1.0], dims="init_time"))


def test_a_problem_needs_time():
    data = record(np.arange(40.0), units="s").assign(mask=("x", [0.0, 1.0], {"units": "1"}))
    with pytest.raises(InputError, match="'mask' .* does not change in time: list it under data.static"):
        Problem.of(data, DataConfig(record="", state=("u", "mask")), 2)


def test_windows_of_a_problem_are_counted_for_each_lead():
    problem = Problem.of(
        record(np.arange(40.0), units="s"), DataConfig(record="", state=("u",), history=2, stride=2), 3
    )
    assert problem.windows("train").tolist() == [28, 26, 24]
    assert problem.windows("test").tolist() == [0, 0, 0]
