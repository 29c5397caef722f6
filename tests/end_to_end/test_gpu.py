"""Training on a GPU: from the weights that a CPU starts from, resumed, and in parts."""

import csv

import pytest
import torch
import weather
import xarray as xr

from workbench.cli import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weather.stored(tmp_path)
    (tmp_path / "weather.yaml").write_text(weather.EXPERIMENT)


def fit(run, *words, device="gpu"):
    """The rows of the log."""
    words = ["--run-dir", run, f"--trainer.accelerator={device}", "--trainer.devices=1", *words]
    assert main(["fit", "-c", "weather.yaml", *words]) == 0
    with open(f"{run}/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(run):
    return torch.load(f"{run}/checkpoints/last.ckpt", map_location="cpu", weights_only=True)["state_dict"]


def losses(rows):
    return [float(row["train_loss"]) for row in rows if row["train_loss"]]


def test_every_device_starts_from_the_same_weights(folder):
    still = "--model.init_args.optimisation.learning_rate=1e-12"
    for device in ("cpu", "gpu"):
        fit(device, still, "--trainer.max_epochs=1", device=device)
    expected = weights("cpu")
    for name, value in weights("gpu").items():
        if name.startswith("network."):
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8)


def test_a_resumed_training_goes_on(folder):
    steady = "--model.init_args.optimisation.schedule=constant"
    whole = losses(fit("whole", steady))
    fit("parted", steady, "--trainer.max_epochs=1")
    resumed = losses(fit("parted", steady, "--resume"))
    torch.testing.assert_close(torch.tensor(resumed), torch.tensor(whole), rtol=1e-3, atol=0)


def test_a_network_in_parts_learns_as_a_whole_one(folder):
    whole, parts = losses(fit("whole")), losses(fit("parts", "--trainer.strategy=fsdp"))
    torch.testing.assert_close(torch.tensor(parts), torch.tensor(whole), rtol=1e-3, atol=0)


def test_forecasts_are_those_of_the_cpu(folder):
    fit("run")
    found = []
    for device in ("cpu", "cuda"):
        assert main(["rollout", "-c", "weather.yaml", "--run-dir", "run", "--device", device, "--overwrite"]) == 0
        with xr.open_zarr("run/rollout.zarr") as rollout:
            found.append(rollout.load())
    xr.testing.assert_allclose(*found, rtol=1e-4)
