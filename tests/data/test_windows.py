import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.config import DataConfig, Split
from workbench.data.windows import Part, lay_out, parts
from workbench.errors import InputError


def config(**split) -> DataConfig:
    return DataConfig(record="x", state=("slp",), split=Split(**split))


@given(
    runs=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), min_size=1, max_size=4),
    trajectories=st.sets(st.integers(0, 20), min_size=1, max_size=4),
    length=st.integers(1, 6),
    stride=st.integers(1, 4),
    every=st.integers(1, 3),
)
def test_windows_stay_inside_their_run_and_are_complete(runs, trajectories, length, stride, every):
    edges, at = [], 0
    for skip, size in runs:
        edges.append((at + skip, at + skip + size))
        at += skip + size + 1
    part = Part("train", np.array(sorted(trajectories)), tuple(edges))
    span = (length - 1) * stride + 1
    expected = {(t, s) for t in trajectories for lo, hi in edges for s in range(lo, hi, every) if s + span <= hi}
    if not expected:
        with pytest.raises(InputError, match="no window fits into the train split"):
            lay_out(part, length, stride, every)
        return
    windows = lay_out(part, length, stride, every)
    assert len(windows) == len(expected)
    assert set(zip(windows.trajectory.tolist(), windows.start.tolist(), strict=True)) == expected
    for i in range(len(windows)):
        times = windows.times(i)
        assert any(lo <= times[0] and times[-1] < hi for lo, hi in edges)
        assert len(times) == length and np.all(np.diff(times) == stride)


def test_split_by_dates_includes_both_ends_and_keeps_the_gap(record):
    found = parts(
        record,
        config(
            train=("2001-01-01", "2001-01-20"),
            validation=("2001-01-21", "2001-01-30"),
            test=("2001-01-31", "2001-02-09"),
            gap=2,
        ),
    )
    assert [found[n].runs for n in ("train", "validation", "test")] == [((0, 20),), ((22, 30),), ((32, 40),)]
    assert found["train"].label(record) == "3 of 3 trajectories, 2001-01-01T00:00:00 .. 2001-01-20T00:00:00"


def test_split_by_fraction_covers_everything_once(record):
    found = parts(record, config())
    assert [p.runs for p in found.values()] == [((0, 32),), ((32, 36),), ((36, 40),)]


def test_split_by_trajectory_and_by_label(record):
    found = parts(record, config(by="trajectory", train=(0, 0.34), validation=(1, 2), test=(2, 3)))
    assert [p.trajectories.tolist() for p in found.values()] == [[0], [1], [2]]
    labelled = record.assign_coords(policy=("trajectory", ["a", "b", "a"]))
    found = parts(
        labelled.isel(trajectory=[0, 1, 2, 0]).assign_coords(policy=("trajectory", ["a", "b", "a", "c"])),
        config(by="policy", train=("a",), validation=("b",), test=("c",)),
    )
    assert [p.trajectories.tolist() for p in found.values()] == [[0, 2], [1], [3]]
    with pytest.raises(InputError, match="the test split .* selects nothing"):
        parts(labelled, config(by="policy", train=("a",), validation=("b",), test=("c",)))


def test_windows_never_cross_a_gap(record):
    broken = record.isel(time=[*range(10), *range(12, 40)])
    found = parts(broken, DataConfig(record="x", state=("slp",), gaps="split"))
    windows = lay_out(found["train"], 4)
    days = (broken.time.values - broken.time.values[0]) / np.timedelta64(1, "D")
    for i in range(len(windows)):
        assert np.all(np.diff(days[windows.times(i)]) == 1)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": (0.0, 0.9), "validation": (0.8, 0.95), "test": (0.95, 1.0)}, "train and validation splits overlap"),
        ({"train": ("1999-01-01", "1999-02-01")}, "train split .* selects nothing"),
        ({"train": (0.0, 0.5, 0.6)}, "expected \\[first, last\\]"),
        ({"by": "cell"}, "data.split.by is 'cell': expected time, trajectory, or a coordinate"),
        ({"by": "trajectory", "train": (0, 2), "validation": (1, 2), "test": (2, 3)}, "overlap"),
        ({"train": ("soon", "later")}, "does not fit the time axis"),
    ],
)
def test_bad_splits_are_refused(record, split, message):
    with pytest.raises(InputError, match=message):
        parts(record, config(**split))


def test_bad_counts_and_doubled_variables_are_refused():
    with pytest.raises(InputError, match="data.history is 0"):
        DataConfig(record="x", state=("a",), history=0)
    with pytest.raises(InputError, match="listed under data.state and data.forcing"):
        DataConfig(record="x", state=("a",), forcing=("a",))
    with pytest.raises(InputError, match="split part 'dev' is unknown"):
        Split().part("dev")
