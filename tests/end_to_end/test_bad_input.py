"""Every kind of bad input gives one clear error."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from project import call as run
from project import waves

from workbench.data.writer import write_record
from workbench.locks import take_lock

pytestmark = pytest.mark.long


def refuse(folder, *words):
    done = run(folder, *words, ok=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("rollout.zarr", "report.html"))
    return tmp_path / "copy"


CASES = {
    "missing store": (["--data.record=nowhere.zarr"], "no record at 'nowhere.zarr': expected a Zarr store"),
    "missing variable": (["--data.state=[depth]"], "variable 'depth' is not in the record; it has 'height'"),
    "typo": (["--data.horizn=3"], "unknown key 'data.horizn': did you mean 'horizon'?"),
    "network typo": (["--model.init_args.network.init_args.wdith=3"], "did you mean 'width'?"),
    "wrong units": (["--data.units={height: cm}"], "variable 'height' is in 'm' in the file, data.units says 'cm'"),
    "too long a window": (["--data.horizon=40"], "no window fits into the train split"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_settings(trained, case):
    words, message = CASES[case]
    found = refuse(trained, "fit", "-c", "waves.yaml", "--run-dir", "runs/other", *words)
    assert message in found
    assert not (trained / "runs" / "other").exists()


def test_two_trainings_in_one_place(trained):
    place = trained / "runs" / ".busy.lock"
    with take_lock(place):
        found = refuse(trained, "fit", "-c", "waves.yaml", "--run-dir", "runs/busy")
        assert "another process is training in" in found and "--run-dir" in found
        assert not (trained / "runs" / "busy").exists()
        place.unlink()
    with take_lock(place):  # a lock that was given back can be taken again
        place.unlink()


def test_time_that_is_not_uniform(folder):
    waves().isel(time=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]).to_netcdf(folder / "gap.nc")
    found = refuse(folder, "fit", "-c", "waves.yaml", "--run-dir", "runs/x", "--data.record=gap.nc")
    assert "the time axis is not uniform: the step is 0.25 s, but 0.5 s between index 4 (1.0) and 5 (1.5)" in found


def test_missing_values(folder):
    record = waves()
    record.height[0, 0, 3, 4] = np.nan
    record.to_netcdf(folder / "nan.nc")
    found = refuse(folder, "fit", "-c", "waves.yaml", "--run-dir", "runs/x", "--data.record=nan.nc")
    assert "'height' has missing (NaN) values in the train split, first at" in found and "data.missing: mask" in found


def test_a_corrupt_chunk_is_named(folder):
    path = write_record(waves(), folder / "waves.zarr")
    chunk = path / "height" / "c" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    found = refuse(folder, "fit", "-c", "waves.yaml", "--run-dir", "runs/x", "--data.record=waves.zarr")
    assert "variable 'height', chunk (0, 0, 0, 0)" in found and "waves.zarr" in found


def test_a_checkpoint_of_another_model(folder):
    words = ["--resume", "--model.init_args.network.init_args.width=12"]
    found = refuse(folder, "fit", "-c", "waves.yaml", *words)
    assert "holds another model: FNO(width=8), the experiment asks for FNO(width=12)" in found


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_a_checkpoint_of_another_grid(folder, verb):
    waves().isel(x=slice(0, 8)).to_netcdf(folder / "half.nc")
    found = refuse(folder, verb, "-c", "waves.yaml", *["--resume"][: verb == "fit"], "--data.record=half.nc")
    assert ".ckpt: the record half.nc does not fit what the model was trained for: axis 'x' has 8 points" in found
    assert "expected 16. Use a record on the grid of training" in found


class Evil:
    def __reduce__(self):
        return eval, ("open('mark', 'w')",)


@pytest.mark.parametrize("save", ["pickle", "torch"])
def test_a_foreign_pickle_is_refused_and_never_executed(folder, save):
    if save == "pickle":
        (folder / "evil.ckpt").write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"state_dict": {}, "x": Evil()}, folder / "evil.ckpt")
    for words in (
        ["predict", "evil.ckpt", "waves.nc", "-o", "x.nc"],
        ["rollout", "-c", "waves.yaml", "--weights", "evil.ckpt"],
    ):
        found = refuse(folder, *words)
        assert "refused" in found
    assert not (folder / "mark").exists()


def test_a_file_that_the_model_was_not_trained_for(folder):
    run(folder, "export", "-c", "waves.yaml", "-o", "m.safetensors")
    changed = waves()
    changed.height.attrs["units"] = "cm"
    changed.to_netcdf(folder / "cm.nc")
    found = refuse(folder, "predict", "m.safetensors", "cm.nc", "-o", "o.nc")
    assert "variable 'height' is in 'cm', expected 'm'" in found and "Convert the units" in found
    waves().isel(time=slice(0, None, 2)).to_netcdf(folder / "slow.nc")
    assert "the time step is 0.5 s, expected 0.25 s" in refuse(
        folder, "predict", "m.safetensors", "slow.nc", "-o", "o.nc"
    )
    waves().isel(x=slice(0, 8)).to_netcdf(folder / "half.nc")
    assert "axis 'x' has 8 points, expected 16" in refuse(folder, "predict", "m.safetensors", "half.nc", "-o", "o.nc")
    assert not (folder / "o.nc").exists()


def test_an_unknown_verb_and_no_experiment(folder):
    assert "unknown verb 'fti': did you mean 'fit'?" in refuse(folder, "fti")
    assert "no experiment given" in refuse(folder, "evaluate")
