"""Random input delta and lead time: every pair alike, the right states, and the same after any interruption."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.config import DataConfig, Split
from workbench.data.loader import WindowLoader
from workbench.data.module import RecordDataModule
from workbench.data.order import draw_timings
from workbench.data.preflight import look
from workbench.data.reader import WindowReader
from workbench.data.store import open_record
from workbench.data.windows import Part, Timings, Windows, lay_out, sample_windows
from workbench.data.writer import write_record
from workbench.errors import InputError

DELTAS, LEADS = (1, 2, 3, 4), (0, 2, 4, 8)
"""Those of the paper in steps of three hours."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Three-hourly; every value is the number of its step."""
    count = 96
    values = np.broadcast_to(np.arange(count, dtype="f4")[:, None, None], (count, 2, 3))
    data = xr.Dataset(
        {"u": (("time", "lat", "lon"), values, {"units": "K"})},
        {"time": pd.date_range("2001-01-01", periods=count, freq="3h"), "lat": [0.0, 1.0], "lon": [0.0, 1.0, 2.0]},
    )
    return str(write_record(data, tmp_path_factory.mktemp("timings") / "r.zarr", chunks={"time": 8}))


def config(stored, **options):
    settled = {"state": ("u",), "history": 2, "input_deltas": DELTAS, "leads": LEADS, "batch_size": 6, **options}
    return DataConfig(record=stored, split=Split(train=(0, 0.6), validation=(0.6, 0.8), test=(0.8, 1.0)), **settled)


def loader(stored, **options):
    chosen = {k: options.pop(k) for k in list(options) if k in ("history", "horizon", "input_deltas", "leads")}
    found = config(stored, **chosen)
    record = open_record(stored)
    windows = sample_windows(record, Part("train", np.zeros(1, int), ((0, 60),)), found)
    reader = WindowReader(record, {"state": ["u"]})
    return WindowLoader(reader, windows, **{"batch_size": 6, **options})


@settings(max_examples=30, deadline=None)
@given(
    deltas=st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True),
    leads=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    history=st.integers(1, 3),
    horizon=st.integers(1, 3),
    runs=st.lists(st.tuples(st.integers(0, 5), st.integers(42, 60)), min_size=1, max_size=3),
)
def test_a_window_is_its_inputs_a_delta_apart_and_its_targets_a_lead_apart(deltas, leads, history, horizon, runs):
    edges, at = [], 0
    for skip, size in runs:
        edges.append((at + skip, at + skip + size))
        at += skip + size + 1
    timings = Timings.of(deltas, leads, history, horizon, 3.0)
    windows = lay_out(Part("train", np.zeros(1, int), tuple(edges)), history + horizon, timings=timings)
    reach = max(deltas) * (history - 1) + max(leads) * horizon
    assert len(windows) == sum(hi - lo - reach for lo, hi in edges) and windows.span == reach + 1
    drawn = draw_timings(windows, "full", 0, 3)
    index = np.arange(len(windows))
    times, delta, lead = drawn.times(index), *(a[drawn.drawn] / 3 for a in (timings.input_delta, timings.lead_time))
    latest = windows.start + max(deltas) * (history - 1)
    for step in range(history):
        np.testing.assert_array_equal(times[:, history - 1 - step], latest - step * delta)
    for step in range(horizon):
        np.testing.assert_array_equal(times[:, history + step], latest + (step + 1) * lead)
    inside = [(times >= lo).all(1) & (times < hi).all(1) for lo, hi in edges]
    assert np.sum(inside, 0).tolist() == [1] * len(windows)


def test_every_pair_is_as_likely_in_every_epoch_and_differs_between_epochs():
    timings = Timings.of(DELTAS, LEADS, 2, 1, 3.0)
    many = Windows(np.zeros(64000, int), np.arange(64000), 3, timings=timings)
    counts = [np.bincount(draw_timings(many, "block", 0, epoch).drawn, minlength=16) for epoch in range(3)]
    for count in counts:
        assert len(count) == 16 and ((count - 4000) ** 2 / 4000).sum() < 44.3  # chi-squared, 15 degrees, p = 1e-4
    first, second = (draw_timings(many, "block", 0, epoch).drawn for epoch in (0, 1))
    assert abs(float((first == second).mean()) - 1 / 16) < 0.005
    fixed = [draw_timings(many, "none", 0, epoch).drawn for epoch in (0, 1)]
    assert np.array_equal(*fixed) and not np.array_equal(draw_timings(many, "none", 1, 0).drawn, fixed[0])


@pytest.mark.parametrize("shuffle", ["block", "full", "none"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_batches_hold_the_states_that_they_say(stored, shuffle, horizon):
    found = loader(stored, shuffle=shuffle, horizon=horizon)
    for batch in [*found, *found]:
        states, index = batch["state"][:, :, 0, 0, 0], batch["index"]
        latest = torch.from_numpy(found.windows.start)[index] + 4
        assert torch.equal(states[:, 1], latest.float())
        assert torch.equal(3 * (states[:, 1] - states[:, 0]), batch["input_delta"])
        for step in range(horizon):
            assert torch.equal(3 * (states[:, 2 + step] - states[:, 1]), (step + 1) * batch["lead_time"])
        assert batch["lead_time"].dtype == torch.float32 and batch["lead_time"].shape == index.shape
    assert {d.item() for b in found for d in b["lead_time"]} <= {0, 6, 12, 24}


@pytest.mark.parametrize("shuffle", ["block", "full"])
def test_an_interrupted_epoch_goes_on_to_the_bit(stored, shuffle):
    whole = loader(stored, shuffle=shuffle)
    expected = [{k: v.clone() for k, v in b.items()} for _ in range(2) for b in whole]
    begun = loader(stored, shuffle=shuffle)
    running = iter(begun)
    seen = [{k: v.clone() for k, v in next(running).items()} for _ in range(3)]
    running.close()
    state = json.loads(json.dumps(begun.state_dict()))
    resumed = loader(stored, shuffle=shuffle)
    resumed.load_state_dict(state)
    seen += [{k: v.clone() for k, v in b.items()} for _ in range(2) for b in resumed]
    assert len(seen) == len(expected)
    for one, other in zip(seen, expected, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_window_draws_the_same_on_any_number_of_ranks(stored):
    def drawn(world_size, batch_size):
        found = {}
        for rank in range(world_size):
            for batch in loader(stored, shuffle="block", rank=rank, world_size=world_size, batch_size=batch_size):
                pairs = zip(batch["input_delta"].tolist(), batch["lead_time"].tolist(), strict=True)
                found |= dict(zip(batch["index"].tolist(), pairs, strict=True))
        return found

    alone = drawn(1, 6)
    assert len(set(alone.values())) > 10 and drawn(2, 5) == alone


def test_other_timings_do_not_resume(stored):
    state = loader(stored).state_dict()
    with pytest.raises(InputError, match=r"resume with the same .* input_deltas, leads"):
        loader(stored, leads=(1, 2, 4, 8)).load_state_dict(state)


def test_one_of_both_is_enough_and_the_other_is_the_stride(stored):
    found = config(stored, input_deltas=(), stride=2)
    windows = sample_windows(open_record(stored), Part("train", np.zeros(1, int), ((0, 40),)), found)
    assert windows.timings.input_delta.tolist() == [6.0] * 4 and windows.timings.lead_time.tolist() == [0, 6, 12, 24]
    assert {n: len(w) for n, w in look(config(stored)).windows.items()} == {"train": 46, "validation": 7, "test": 7}


def test_validation_draws_the_same_every_time(stored):
    module = RecordDataModule(**vars(config(stored)))
    module.prepare_data()
    module.setup()
    found = module.loader("validation", "none")
    first, second = ([b["lead_time"].tolist() for b in found] for _ in range(2))
    assert first == second


def test_what_cannot_be_drawn_is_refused(stored):
    with pytest.raises(InputError, match=r"data.input_deltas is \[0\]: expected steps of at least 1"):
        config(stored, input_deltas=(0,))
    with pytest.raises(InputError, match=r"data.leads is \[-1, 2\]: expected steps of at least 0"):
        config(stored, leads=(-1, 2))
    with pytest.raises(InputError, match="data.input_deltas lie between inputs, data.history is 1: set it to 2"):
        config(stored, history=1)
    with pytest.raises(InputError, match="spans 105 steps .* with the longest input delta and lead"):
        look(config(stored, leads=(100,)))
