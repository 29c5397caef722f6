import signal

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.commands import dataset as verb
from workbench.data import moments
from workbench.data import statistics as module
from workbench.data.moments import RANKS, Moments, rank_errors
from workbench.data.statistics import fit_statistics, statistics_key, statistics_path
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


# ---------------------------------------------------------------------------------------------- quantiles


def rank_differences(values, quantiles):
    """How far each quantile lies from its rank: 0 where its rank interval among the values holds it."""
    ordered = np.sort(values.ravel())
    low, high = (np.searchsorted(ordered, quantiles, side) / len(ordered) for side in ("left", "right"))
    return np.maximum(0, np.maximum(low - RANKS, RANKS - high))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_quantiles_are_within_the_stated_rank_error(tmp_path, monkeypatch, dtype):
    """A skewed field of 800,000 values, in many blocks, all of them sketched."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 400_000)
    values = np.random.default_rng(0).lognormal(size=(1000, 20, 40)).astype(dtype)
    values[5, 3, :7], values[7, 0, 0] = np.nan, np.inf
    record = xr.Dataset({"a": (("time", "y", "x"), values)}).chunk(time=100)
    part = Part("train", np.array([0]), ((0, 400), (450, 1000)))
    found = module._variable_statistics(record, "a", part, 1, None, False)
    chosen = np.concatenate([values[:400], values[450:]])
    (quantiles,) = found.quantiles
    assert found.missing == [8] and quantiles == sorted(quantiles)
    assert (rank_differences(chosen[np.isfinite(chosen)], quantiles) <= 2 * np.array(rank_errors())).all()
    assert set(np.array(quantiles, dtype)) <= set(chosen.ravel())


def test_of_many_values_some_are_sketched_without_preferring_a_column(tmp_path, monkeypatch):
    """Each column has a level of its own: a regular stride would see only some of the columns."""
    monkeypatch.setattr(module, "SKETCHED_VALUES", 60_000)
    values = np.arange(64.0) + np.zeros((20_000, 64))
    record = xr.Dataset({"a": (("time", "x"), values.astype("f4"))}).chunk(time=1000)
    found = module._variable_statistics(record, "a", Part("train", np.array([0]), ((0, 20_000),)), 1, None, False)
    errors = [0.001 + 2.576 * np.sqrt(r * (1 - r) / 60_000) for r in RANKS]
    assert (rank_differences(values, found.quantiles[0]) <= 2 * np.array(errors)).all()


def test_thinning_takes_one_value_of_each_group():
    taken = moments.thin_out(np.arange(1003), 10, 3)
    np.testing.assert_array_equal(taken // 10, np.arange(100))
    assert len(np.unique(taken % 10)) == 10
    np.testing.assert_array_equal(taken, moments.thin_out(np.arange(1003), 10, 3))


def test_a_channel_without_values_has_no_quantiles():
    record = xr.Dataset({"a": (("time", "level"), np.stack([np.arange(9.0), np.full(9, np.nan)], 1))}).chunk()
    found = module._variable_statistics(record, "a", Part("train", np.array([0]), ((0, 9),)), 1, None, False)
    assert np.isnan(found.quantiles[1]).all() and found.quantiles[0][4] == 4.0


def test_quantiles_are_kept_with_their_error(record, tmp_path):
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    found = fit_statistics(opened, ["slp"], TRAIN)
    again = fit_statistics(opened, ["slp"], TRAIN)
    assert again == found and len(found.variables["slp"].quantiles[0]) == len(RANKS)
    assert found.rank_errors == rank_errors() and max(rank_errors()) < 0.001 and rank_errors()[0] < 0.00025


def test_older_statistics_are_computed_again_with_a_word(record, tmp_path, capsys):
    opened = open_record(str(write_record(record, tmp_path / "a.zarr")))
    older = statistics_path(opened, statistics_key(opened, ["slp"], TRAIN, 1, False, version=1))
    older.parent.mkdir()
    older.write_text("{}")
    found = fit_statistics(opened, ["slp"], TRAIN)
    said = capsys.readouterr().err
    assert said.startswith(f"statistics are computed again into {older.parent}") and "without quantiles" in said
    assert fit_statistics(opened, ["slp"], TRAIN) == found and capsys.readouterr().err == ""


# ---------------------------------------------------------------------------------------------- where they are computed


def test_a_cluster_finds_the_same_numbers(record, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(module, "BLOCK_BYTES", 3000)
    found = []
    for name in ("local", "cluster"):
        opened = open_record(str(write_record(record, tmp_path / f"{name}.zarr")))
        weights = np.cos(np.deg2rad(record.lat))
        if name == "local":
            found.append(fit_statistics(opened, ["slp", "t2m"], TRAIN, stride=2, weights=weights))
            continue
        where = dict(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None)
        with distributed.Client(**where) as client:
            found.append(fit_statistics(opened, ["slp", "t2m"], TRAIN, stride=2, weights=weights))
            assert "merge" in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    for name, one in found[0].variables.items():
        for field in ("mean", "std", "minimum", "maximum", "tendency_mean", "tendency_std", "missing"):
            np.testing.assert_allclose(getattr(found[1].variables[name], field), getattr(one, field), rtol=1e-12)
        values = np.concatenate([record[name].values[[0, 2]][:, a:b] for a, b in TRAIN.runs], 1)
        assert (rank_differences(values, found[1].variables[name].quantiles[0]) <= 0.001).all()


def test_killed_half_way_nothing_is_kept(server, record, tmp_path):
    path = write_record(record, tmp_path / "a.zarr")
    code = """
    import os, signal, sys
    import numpy as np
    from workbench.data import statistics as module
    from workbench.data.store import open_record
    from workbench.data.windows import Part
    if sys.argv[1] == "kill":
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    found = module.fit_statistics(open_record("a.zarr"), ["slp"], Part("train", np.array([0, 2]), ((0, 12), (15, 30))))
    print(repr(found.variables["slp"].mean[0]))
    """
    done = {}
    for what in ("kill", "run"):
        done[what] = server.script(tmp_path, code, what)
        files = list((tmp_path / "a.zarr.statistics").glob("*.json"))
        assert len(files) == (what == "run")
    assert done["kill"][0] == -signal.SIGKILL and done["run"][0] == 0, done["run"][1]
    assert float(done["run"][1]) == pytest.approx(chosen(record)[0].mean(), rel=1e-12)
    assert path.exists()


def test_the_command_prints_and_keeps_what_training_uses(record, tmp_path, capsys, monkeypatch):
    write_record(record, tmp_path / "a.zarr")
    text = "data: {record: a.zarr, state: [slp, t2m], split: {by: time, train: [0, 0.5]}}\nmodel: {}\n"
    (tmp_path / "a.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert verb.main(["statistics", "-c", "a.yaml", "--data.stride=2"]) == 0
    first = capsys.readouterr().out
    assert "training split, 3 of 3 trajectories, 2001-01-01" in first and "0.999" in first and "slp Pa" in first
    (kept,) = (tmp_path / "a.zarr.statistics").glob("*.json")
    assert first.rstrip().endswith(f"kept in {kept.relative_to(tmp_path)}")
    monkeypatch.setattr(module, "_variable_statistics", lambda *a: pytest.fail("computed again"))
    assert verb.main(["statistics", "-c", "a.yaml", "--data.stride=2"]) == 0
    assert capsys.readouterr().out == first


def test_a_folder_that_is_meant_to_stay_as_it_is_gets_no_statistics(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    record = xr.Dataset()
    record.encoding["source"] = str(shelf / "a.zarr")
    assert statistics_path(record, "k").parent.parent == shelf
    shelf.chmod(0o555)
    assert statistics_path(record, "k").parent == tmp_path / "data" / "statistics"
