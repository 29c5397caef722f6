"""Downscaling and fluxes as a user runs them: one command from record to report, another network beside."""

import numpy as np
import pytest
import xarray as xr
import yaml
from project import run

from workbench.commands.predict import from_file
from workbench.commands.rollout import roll_out
from workbench.errors import InputError
from workbench.evaluate import evaluate, evaluate_long_run
from workbench.experiment import load

pytestmark = pytest.mark.long

CORE = {
    "class_path": "PrithviCore",
    "init_args": {"embed_dim": 16, "n_heads": 2, "n_blocks_encoder": 0, "mask_unit_size_px": [4, 4]},
}
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
DOWNSCALING = {
    "data": {
        "record": "coast.nc",
        "state": ["t2m"],
        "coarsen": 4,
        "horizon": 0,
        "batch_size": 16,
        "split": {"train": [0, 0.6], "validation": [0.6, 0.8], "test": [0.8, 1]},
    },
    "model": {
        "class_path": "DownscalingTask",
        "init_args": {
            "network": {
                "class_path": "Downscaling",
                "init_args": {"width": 16, "upscale": [1, 4], "local_regression": True, "body": CORE},
            },
            "optimisation": {"learning_rate": 1.0e-2},
        },
    },
    "trainer": {"max_epochs": 4, "log_every_n_steps": 1, **TRAINER},
    "rollout": {"steps": 1, "starts": 0},
    "evaluate": {
        "metrics": ["rmse", "bias"],
        "baselines": ["climatology", "bilinear", "regression"],
        "spectra": ["lon"],
        "long_run": {"domain": "diagnosis"},
        "resamples": 100,
    },
}


def coast(steps: int = 120) -> xr.Dataset:
    """Large waves over a field that does not change and a difference that follows the mean: what cells do not show."""
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(50, 57, 16), np.linspace(0, 15.5, 32)
    fine = rng.normal(0, 1, (2, 16, 32))
    angle = 2 * np.pi * (np.arange(32) / 32 - np.arange(steps)[:, None, None] / 17)
    waves = 3 * np.cos(angle) * np.ones((1, 16, 1)) + rng.normal(0, 2, (steps, 1, 1))
    field = (280 + waves + fine[0] + 0.2 * waves * fine[1]).astype("f4")
    dims = ("time", "lat", "lon")
    coords = {
        "time": np.datetime64("2019-03-01", "ns") + np.arange(steps) * np.timedelta64(1, "h"),
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
    }
    return xr.Dataset({"t2m": (dims, field, {"units": "K", "long_name": "temperature"})}, coords, {"title": "Coast"})


def write(path, content):
    path.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def downscaled(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("downscaling")
    coast().to_netcdf(folder / "coast.nc")
    write(folder / "coast.yaml", DOWNSCALING)
    (status,), (said,), _ = server.run(folder, "pipeline", "-c", "coast.yaml", WORKBENCH_DATA=str(folder / "data"))
    assert status == 0, said
    return folder, said


def test_a_pipeline_downscales_scores_and_reports(downscaled):
    folder, said = downscaled
    home = folder / "runs" / "coast"
    with xr.open_zarr(home / "rollout.zarr", decode_timedelta=True) as found:
        assert found["t2m"].dims == ("member", "init_time", "lead_time", "lat", "lon")
        assert found["lead_time"].values.tolist() == [0] and found.sizes["init_time"] == 24
        assert (found["valid_time"].isel(lead_time=0).values == found["init_time"].values).all()
    with xr.open_dataset(home / "scores.nc") as scores:
        rmse = scores["score"].sel(metric="rmse", variable="t2m").isel(lead_time=0)
        assert float(rmse.sel(forecast="model")) < 0.5 * float(rmse.sel(forecast="bilinear"))
        assert "decorrelation_lead" not in scores and scores["spectrum"].sizes["source"] == 5
    with xr.open_dataset(home / "diagnosis.nc") as maps:
        one = maps["score"].sel(variable="t2m")
        assert float(one.sel(forecast="bilinear", metric="fine_power")) < 0.3
        assert abs(float(one.sel(forecast="model", metric="fine_power")) - 1) < 0.3
    page = (home / "report.html").read_text()
    assert "Maps, series and distributions" in page and "hellinger" in page
    assert "maps over 24 instants" in said and "The surrogate beats its baselines" in said


def test_another_run_stands_beside_and_a_missing_one_is_refused(downscaled, monkeypatch):
    monkeypatch.chdir(downscaled[0])
    experiment = load(["coast.yaml"], ["--evaluate.beside={copy: runs/coast}"])
    rmse = evaluate(experiment, overwrite=True)["score"].sel(metric="rmse").squeeze()
    assert float(rmse.sel(forecast="copy")) == float(rmse.sel(forecast="model"))
    maps = evaluate_long_run(experiment, overwrite=True)["score"]
    np.testing.assert_array_equal(maps.sel(forecast="copy"), maps.sel(forecast="model"))
    with pytest.raises(InputError, match="'other', and there is no forecast in runs/none: roll it out first"):
        evaluate(load(["coast.yaml"], ["--evaluate.beside={other: runs/none}"]), overwrite=True)


def test_weights_alone_downscale_a_file_and_more_steps_are_refused(downscaled, monkeypatch):
    monkeypatch.chdir(downscaled[0])
    coast(3).to_netcdf("three.nc")
    from_file("runs/coast/checkpoints/best.ckpt", "three.nc", "fine.nc", 1, True, "cpu", False)
    with xr.open_dataset("fine.nc", decode_timedelta=True) as fine:
        assert fine.sizes["init_time"] == 3 and np.isfinite(fine["t2m"]).all()
    with pytest.raises(InputError, match="a diagnosis has one step and one member, found rollout.steps 2"):
        roll_out(load(["coast.yaml"], ["--rollout.steps=2"]), device="cpu", overwrite=True)
    with pytest.raises(InputError, match="data.horizon is 1, and the DownscalingTask in .* forecasts nothing"):
        roll_out(load(["coast.yaml"], ["--data.horizon=1", "--data.coarsen=1"]), device="cpu", overwrite=True)


@pytest.mark.slow
def test_fluxes_of_shallow_water_beat_the_closure(tmp_path):
    """The packaged experiment on the tiny dataset: the core's network against gradients and what is linear."""
    write(tmp_path / "tiny.yaml", {
        "data": {"record": "shallow_water/tiny",
                 "split": {"by": "trajectory", "train": [0, 12], "validation": [12, 13], "test": [13, 16]}},
    })  # fmt: skip
    run(tmp_path, "pipeline", "-c", "weather/flux_shallow_water", "-c", "tiny.yaml", "--run-dir", "run")
    with xr.open_dataset(tmp_path / "run" / "diagnosis.nc") as found:
        correlation = found["score"].sel(metric="correlation").mean("variable")
        assert float(correlation.sel(forecast="model")) > float(correlation.drop_sel(forecast="model").max()) > 0.6
