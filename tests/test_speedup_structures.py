"""Structures under loads against their solver, from the record to the report; the network is hardly trained."""

import functools

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from workbench import cli
from workbench.data import recipe
from workbench.data.packing import Packing
from workbench.data.starts import Problem
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_data
from workbench.data.windows import parts
from workbench.equal_error import clock
from workbench.equal_error.contestants import surrogate
from workbench.equal_error.errors import measure
from workbench.equal_error.starts import Starts
from workbench.experiment import load
from workbench.models.deepfea import DeepFEA
from workbench.plan import ForecastPlan
from workbench.report.page import write_report
from workbench.rollout import write_rollout
from workbench.tasks import TransientTask
from workbench.weights import card_of, export

EXPERIMENT = {
    "data": {
        "record": "beam_2d/tiny",
        "state": ["displacement_x", "displacement_y", "velocity_x", "velocity_y"],
        "forcing": ["load_x", "load_y"],
        "static": ["support_x", "support_y", "node_youngs_modulus"],
        "diagnostic": ["von_mises"],
        "horizon": 10,
        "split": {"by": "trajectory", "train": [0, 30], "validation": [30, 32], "test": [32, 36]},
    },
    "model": {"class_path": "TransientTask"},
    "rollout": {"steps": 10, "starts": 1},
    "evaluate": {"resamples": 200},
}
DISPLACEMENT = ["displacement_x", "displacement_y"]


@pytest.fixture(scope="module")
def beam(tmp_path_factory):
    """A folder with a built record, an experiment, and weights after a few steps of training."""
    folder = tmp_path_factory.mktemp("beam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(folder / "data"))
        patch.chdir(folder)
        changes = {"elements": [4, 4], "refinement": 2, "intervals": 10, "periods": 1.0, "trajectories": 36}
        recipe.build(recipe.read_recipe("beam_2d/tiny", changes))
        (folder / "beam.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        experiment = load([str(folder / "beam.yaml")])
        record = open_data(experiment.data).load()
        export(task := trained(record, experiment.data), folder / "beam.safetensors", card_of(task))
        yield experiment, record, task


def trained(record, data, steps=100):
    torch.manual_seed(0)
    train = parts(record, data)["train"]
    packing = Packing.fit(record, data, fit_statistics(record, data.variables(), train))
    network = functools.partial(DeepFEA, hidden=(8,), peephole="channel")
    supports = {name: name.replace("displacement", "support") for name in DISPLACEMENT}
    task = TransientTask(network, loads="both", supports=supports).build(packing)
    batch = {role: packing.pack(record.isel(trajectory=train.trajectories), role) for role in packing.groups}
    optimiser = torch.optim.Adam(task.parameters(), 2e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        task.sample_losses(batch, training=False).mean().backward()
        optimiser.step()
    return task.eval()


def starts_of(experiment, record, names, steps=10):
    problem = Problem.of(record, experiment.data, steps)
    return Starts.choose(Problem(record, problem.parts, tuple(names), 1, 1, steps), "test", 8, at_rest=True)


@pytest.mark.parametrize("names", [DISPLACEMENT, ["velocity_x"], ["von_mises"]])
def test_the_surrogate_forecasts_what_a_rollout_writes(beam, tmp_path, names):
    """Loads and material reach it as in a rollout; over all leads the error is the relative L2 of the scores."""
    experiment, record, task = beam
    starts = starts_of(experiment, record, names)
    contestant = surrogate(task, "cpu", starts)
    plan = ForecastPlan(record, starts.trajectories, np.array([0]), 10)
    written = xr.open_zarr(write_rollout(task, plan, tmp_path / "out.zarr").path).isel(member=0, init_time=0)
    states = torch.stack(list(contestant.prepare()(starts.before(contestant.reads, range(4)))), 1)
    expected = np.stack([written[name].values for name in names], 2)
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    truth = starts.truth(range(4)).numpy()
    error = np.sqrt((measure(contestant, starts, "cpu").errors ** 2).mean(1))
    off, size = (np.linalg.norm(x.reshape(4, -1), axis=1) for x in (expected - truth, truth))
    np.testing.assert_allclose(error, off / size, rtol=1e-4)


def test_persistence_of_a_body_at_rest_is_as_wrong_as_the_truth_is_large(beam):
    experiment, record, _ = beam
    errors = starts_of(experiment, record, DISPLACEMENT).without_a_model()
    np.testing.assert_allclose(np.sqrt((errors["persistence"] ** 2).mean(1)), 1, rtol=1e-6)


def test_from_recipe_to_report(beam, monkeypatch, capsys):
    experiment, _, _ = beam
    monkeypatch.setattr(clock, "SHORTEST", 0.01)
    monkeypatch.setattr(clock, "BATCH_SIZES", (2, 4))
    words = ["speedup", "-c", "beam.yaml", "--weights", "beam.safetensors", "--quick"]
    chosen = ["--candidates", "* x *, 4 steps", "--leads", "10"]
    assert cli.main([*words, "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9
    assert cli.main([*words, *chosen]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "beam: not at equal error: the solver that made the record (8 x 8, 4 steps) takes" in out
    with xr.open_dataset(experiment.run_dir / "speedup.nc") as sheet:
        sheet.load()
    errors = sheet.error.sel(point="steps 1 to 10")
    assert float(errors.sel(solver="8 x 8, 4 steps")) < 3e-7
    assert 0.02 < float(errors.sel(solver="4 x 4, 4 steps")) < float(errors.sel(solver="2 x 2, 4 steps")) < 1
    assert float(sheet.surrogate_error.sel(point="steps 1 to 10")) < 0.95
    assert not sheet.moot.sel(point="steps 1 to 10")
    assert float(sheet.error_without_model.sel(reference="persistence", point="steps 1 to 10")) == pytest.approx(1)
    whole = sheet.sel(point="steps 1 to 10", batch="one", clock="cpu")
    assert np.isfinite(whole.ratio) and float(whole.seconds.sel(solver="8 x 8, 4 steps").median()) > 1e-3
    assert sheet.batch_size.sel(batch="best").values.tolist() == [1, 1, 1]  # the linear solver goes one by one
    plain = sheet.plain_seconds.sel(clock="cpu").median("round")
    np.testing.assert_allclose(
        sheet.plain_ratio.sel(clock="cpu"), plain.sel(side="solver of the record") / plain.sel(side="surrogate")
    )
    assert sheet.together.values.tolist() == [1, 32] and float(sheet.plain_ratio.sel(clock="cpu", together=32)) > 1
    assert sheet.attrs["headline"].startswith("at the error of the surrogate over 10 steps (relative L2")
    experiment.run_dir.joinpath("metrics.csv").write_text("epoch,step,train_loss\n0,1,0.5\n")
    page = write_report(experiment).read_text()
    assert 'id="speed"' in page and "Plain ratio against the record" in page

    assert cli.main([*words, *chosen, "--variables", "von_*", "--steps", "4", "--leads", "4", "--overwrite"]) == 0
    with xr.open_dataset(experiment.run_dir / "speedup.nc") as sheet:
        assert sheet.sizes["lead_time"] == 4 and " of von_mises, " in sheet.error.attrs["long_name"]
        assert float(sheet.error.sel(point="steps 1 to 4", solver="8 x 8, 4 steps")) < 3e-7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variables", "stress_*"], "no variable matches 'stress_*': the experiment forecasts displacement_x"),
        (["--variables", "*"], "variables on one grid can be compared"),
        (["--data.history=2", "--steps", "4"], "split cannot start before instant 1: split by trajectory"),
        (["--steps", "11"], "the test split holds the truth of 1 to 10 steps"),
    ],
)
def test_wrong_options_are_refused(beam, capsys, words, message):
    assert cli.main(["speedup", "-c", "beam.yaml", "--weights", "beam.safetensors", "--overwrite", *words]) == 2
    assert message in capsys.readouterr().err
