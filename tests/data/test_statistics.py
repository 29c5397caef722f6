import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import statistics as module
from workbench.data.statistics import Moments, fit_statistics
from workbench.data.store import open_record
from workbench.data.windows import Part
from workbench.data.writer import write_record
from workbench.errors import InputError

TRAIN = Part("train", np.array([0, 2]), ((0, 12), (15, 30)))


def chosen(record, name="slp"):
    """The training values in float64, and their changes inside each run."""
    values = record[name].values[[0, 2]].astype(np.float64)
    runs = [values[:, 0:12], values[:, 15:30]]
    return np.concatenate(runs, 1), np.concatenate([r[:, 2:] - r[:, :-2] for r in runs], 1)


@given(
    cuts=st.lists(st.integers(1, 199), max_size=8, unique=True),
    offset=st.sampled_from([0.0, 1e5, -3e7]),
    seed=st.integers(0, 50),
)
def test_merging_blocks_in_any_split_equals_the_whole(cuts, offset, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(offset, 3.0, (2, 200))
    weights = rng.uniform(0.1, 2, 200)
    whole = Moments.of(values, weights)
    edges = [0, *sorted(cuts), 200]
    blocks = [Moments.of(values[:, a:b], weights[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    order = rng.permutation(len(blocks))
    merged = blocks[order[0]]
    for i in order[1:]:
        merged = merged + blocks[i]
    scale = max(1.0, abs(offset))
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(merged.std, whole.std, rtol=1e-12 * scale)
    mean = np.average(values, 1, weights)
    np.testing.assert_allclose(whole.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(whole.std**2, np.average((values - mean[:, None]) ** 2, 1, weights), rtol=1e-10)


@pytest.mark.parametrize("block_bytes", [1, 2000, 10**9])
def test_statistics_are_those_of_the_training_part_alone(record, tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    found = fit_statistics(opened, ["slp", "t2m"], TRAIN, stride=2)
    values, change = chosen(record)
    slp = found.variables["slp"]
    assert slp.mean[0] == pytest.approx(values.mean(), rel=1e-12)
    assert slp.std[0] == pytest.approx(values.std(), rel=1e-12)
    assert (slp.minimum[0], slp.maximum[0]) == (values.min(), values.max())
    assert slp.tendency_std[0] == pytest.approx(change.std(), rel=1e-12)
    assert slp.tendency_mean[0] == pytest.approx(change.mean(), rel=1e-9)


def test_area_weights_enter(record, tmp_path):
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    weights = np.cos(np.deg2rad(record.lat))
    found = fit_statistics(opened, ["slp"], TRAIN, weights=weights)
    values = chosen(record)[0]
    expected = np.average(values, weights=np.broadcast_to(weights.values[:, None], values.shape))
    assert found.variables["slp"].mean[0] == pytest.approx(expected, rel=1e-12)


def test_one_number_per_level(tmp_path):
    rng = np.random.default_rng(0)
    z = (("time", "level", "x"), rng.normal([[[1.0], [5.0]]], 1, (20, 2, 30)), {"units": "m"})
    path = write_record(
        xr.Dataset({"z": z}, coords={"time": np.arange(20.0), "level": [500, 850]}), tmp_path / "z.zarr"
    )
    opened = open_record(str(path))
    found = fit_statistics(opened, ["z"], Part("train", np.array([0]), ((0, 20),)))
    np.testing.assert_allclose(found.variables["z"].mean, z[1].mean((0, 2)), rtol=1e-12)


def test_results_are_kept_and_belong_to_one_selection(record, tmp_path, monkeypatch):
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    first = fit_statistics(opened, ["slp"], TRAIN)
    assert len(list((tmp_path / "a.zarr.statistics").iterdir())) == 1
    monkeypatch.setattr(module, "_variable_statistics", lambda *a: pytest.fail("computed again"))
    assert fit_statistics(opened, ["slp"], TRAIN) == first
    monkeypatch.undo()
    other = fit_statistics(opened, ["slp"], Part("train", np.array([0]), ((0, 12),)))
    assert other.key != first.key and other.variables != first.variables


def test_a_changed_record_is_not_mistaken_for_the_old_one(record, tmp_path):
    path = write_record(record, tmp_path / "a.zarr")
    before = fit_statistics(open_record(str(path)), ["slp"], TRAIN)
    write_record(record.assign(slp=(record.slp + 7).assign_attrs(record.slp.attrs)), path, overwrite=True)
    after = fit_statistics(open_record(str(path)), ["slp"], TRAIN)
    assert after.variables["slp"].mean[0] == pytest.approx(before.variables["slp"].mean[0] + 7, abs=0.01)


def test_only_the_train_split_is_accepted(record, tmp_path):
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    with pytest.raises(InputError, match="must come from the train split, not from 'test'"):
        fit_statistics(opened, ["slp"], Part("test", np.array([0]), ((0, 5),)))


def test_missing_values_are_named_or_left_out(record, tmp_path):
    record.slp[2, 7, 3, 1] = np.nan
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    place = "first at trajectory=2, time=2001-01-08T00:00:00, lat=46.0, lon=10.0"
    with pytest.raises(InputError, match=f"'slp' has 1 missing .* {place}; set data.missing: mask"):
        fit_statistics(opened, ["slp"], TRAIN)
    found = fit_statistics(opened, ["slp"], TRAIN, missing="mask")
    assert found.variables["slp"].mean[0] == pytest.approx(np.nanmean(chosen(record)[0]), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(0, 5))
def test_tendencies_never_cross_a_run(stride, gap):
    """A jump between two runs must not appear in the tendency."""
    values = np.concatenate([np.zeros(10), np.full(gap, 50.0), np.full(10, 100.0)])
    dataset = xr.Dataset({"a": ("time", values)}, coords={"time": np.arange(len(values), dtype=float)})
    part = Part("train", np.array([0]), ((0, 10), (10 + gap, 20 + gap)))
    found = module._variable_statistics(dataset.chunk(time=3), "a", part, stride, None, False)
    assert found.tendency_std == [0.0] and found.std[0] == pytest.approx(50.0)
