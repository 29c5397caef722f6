import json
import shutil

import numpy as np
import pytest
import xarray as xr
import yaml
from project import call as run
from project import waves

pytestmark = pytest.mark.long


def test_the_pipeline_leaves_everything_a_run_consists_of(trained):
    out = trained / "runs" / "waves"
    expected = {"checkpoints", "config.yaml", "data_card.json", "fit.json", "metrics.csv", "rollout.zarr", "scores.nc"}
    assert expected | {"report.html"} <= {p.name for p in out.iterdir()}
    last = (trained / "stdout.txt").read_text().strip().splitlines()
    assert "height: beats persistence" in last[-2]
    assert last[-1].startswith("The surrogate ") and last[-1].endswith("runs/waves/report.html")
    summary = json.loads((out / "fit.json").read_text())
    assert summary["epochs"] == 6 and 0 <= summary["waited_fraction"] < 0.5


def test_the_surrogate_learned_the_waves(trained):
    with xr.open_dataset(trained / "runs/waves/scores.nc", decode_timedelta=True) as scores:
        rmse = scores.score.sel(metric="rmse", variable="height")
        assert float(rmse.sel(forecast="model")[0]) < 0.5 * float(rmse.sel(forecast="persistence")[0])


def test_the_forecast_opens_in_xarray_alone(trained):
    out = xr.open_zarr(trained / "runs/waves/rollout.zarr")
    truth = waves()
    assert out.height.dims == ("member", "trajectory", "init_time", "lead_time", "y", "x")
    assert out.height.attrs == truth.height.attrs
    np.testing.assert_array_equal(out.x, truth.x)
    np.testing.assert_allclose(out.valid_time, out.init_time + out.lead_time)
    assert out.attrs["workbench_record"].endswith("waves.nc")


def test_the_written_config_runs_again(trained):
    config = yaml.safe_load((trained / "runs/waves/config.yaml").read_text())
    assert config["data"]["state"] == ["height"]
    network = config["model"]["init_args"]["network"]
    assert network["class_path"] == "workbench.models.FNO" or network["class_path"] == "workbench.models.fno.FNO"
    text = run(trained, "check", "-c", "runs/waves/config.yaml", "--no-batch").stdout
    assert "train: " in text


def test_a_second_pipeline_finds_everything_done(trained):
    text = run(trained, "pipeline", "-c", "waves.yaml").stdout
    assert text.count("done before") == 3


def test_validate_and_test_score_the_best_checkpoint(trained):
    validated = run(trained, "validate", "-c", "waves.yaml").stdout
    assert "validation_loss" in validated
    assert "test_loss" in run(trained, "test", "-c", "waves.yaml").stdout


def test_predict_from_the_experiment_covers_every_start(trained):
    run(trained, "predict", "-c", "waves.yaml", "-o", "all.nc")
    with xr.open_dataset(trained / "all.nc") as out:
        assert out.sizes["init_time"] == 14 and out.sizes["lead_time"] == 2


def test_one_safetensors_file_predicts_alone(trained, tmp_path):
    run(trained, "export", "-c", "waves.yaml", "-o", str(tmp_path / "waves.safetensors"))
    waves().isel(time=slice(0, 5), trajectory=[9]).to_netcdf(tmp_path / "in.nc")
    run(tmp_path, "predict", "waves.safetensors", "in.nc", "-o", "out.nc", "--steps", "3")
    run(trained, "predict", "-c", "waves.yaml", "-o", str(tmp_path / "all.zarr"))
    with xr.open_dataset(tmp_path / "out.nc") as alone:
        assert alone.sizes["lead_time"] == 3 and float(alone.init_time[0]) == 1.0
        together = xr.open_zarr(tmp_path / "all.zarr").sel(trajectory=9, init_time=1.0)
        found = alone.height.isel(lead_time=slice(0, 2)).squeeze()
        np.testing.assert_allclose(found, together.height.squeeze(), rtol=1e-5, atol=1e-6)


def test_an_existing_run_is_kept_unless_told_otherwise(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    folder = tmp_path / "copy"
    refused = run(folder, "fit", "-c", "waves.yaml", ok=False)
    assert refused.returncode == 2 and "holds a trained model already; pass --resume" in refused.stderr
    for verb in ("rollout", "evaluate", "report"):
        refused = run(folder, verb, "-c", "waves.yaml", ok=False)
        assert refused.returncode == 2 and "--overwrite" in refused.stderr, verb
    run(folder, "fit", "-c", "waves.yaml", "--overwrite", "--trainer.max_epochs=1")
    assert (folder / "runs/waves.previous/report.html").exists()
    assert json.loads((folder / "runs/waves/fit.json").read_text())["epochs"] == 1


def test_a_training_too_short_for_a_validation_says_so(trained, tmp_path):
    shutil.copy(trained / "waves.nc", tmp_path)
    shutil.copy(trained / "waves.yaml", tmp_path)
    done = run(tmp_path, "fit", "-c", "waves.yaml", "--trainer.max_steps=1")
    assert "no validation was due" in done.stdout
    assert json.loads((tmp_path / "runs/waves/fit.json").read_text())["best_validation_loss"] is None
    refused = run(tmp_path, "rollout", "-c", "waves.yaml", ok=False)
    assert refused.returncode == 2 and "best.ckpt" in refused.stderr
