"""The sheet of a structure: a model that was never trained, and forecasts that are known."""

import functools
import json

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from workbench import experiment as experiments
from workbench.data.packing import Packing
from workbench.data.starts import Problem, choose_starts
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_data
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.evaluate import evaluate_long_run, main
from workbench.models.deepfea import DeepFEA
from workbench.plan import ForecastPlan
from workbench.rollout import write_rollout
from workbench.scoring.structures import long_run, summary
from workbench.scoring.structures_verdict import motion_means, verdict
from workbench.simulate.structures import Structures
from workbench.tasks import TransientTask

pytestmark = pytest.mark.long

BASELINES = ["persistence", "quasi_static", "modal", "coarse_mesh"]
CONFIG = {
    "data": {
        "state": ["displacement_x", "displacement_y", "velocity_x", "velocity_y"],
        "forcing": ["load_x", "load_y"],
        "static": ["support_x", "node_youngs_modulus"],
        "diagnostic": ["von_mises"],
        "split": {"by": "trajectory", "train": [0, 0.5], "validation": [0.5, 0.75], "test": [0.75, 1]},
    },
    "rollout": {"steps": 20, "starts": 1},
    "evaluate": {
        "metrics": ["rmse"],
        "baselines": BASELINES,
        "resamples": 50,
        "long_run": {"domain": "structures"},
    },
}


class Project:
    """The preset ``beam_2d/tiny``, its experiment, and forecasts of the test split."""

    def __init__(self, folder):
        self.folder = folder
        record = Structures(elements=(8, 4), intervals=20, trajectories=16).simulate(range(16))
        write_record(record, folder / "beam.zarr", chunks={"trajectory": 16})
        config = {**CONFIG, "data": {"record": str(folder / "beam.zarr"), **CONFIG["data"]}}
        (folder / "beam.yaml").write_text(yaml.safe_dump(config))
        self.words = ["-c", str(folder / "beam.yaml"), "--run-dir", str(folder / "run")]
        self.record = open_data(self.experiment().data)

    def experiment(self, *overrides):
        return experiments.load(self.words[1:2], overrides, self.words[3])

    def truth(self):
        """What happened, laid out as a forecast."""
        problem = Problem.of(self.record, self.experiment().data, 20)
        trajectories, starts = choose_starts(problem.parts["test"], 1, 1, 20, 1)
        times = problem.times(starts)
        index = xr.DataArray(starts[:, None] + np.arange(1, 21), dims=("init_time", "lead_time"))
        fields = self.record[list(problem.names)].isel(trajectory=trajectories, time=index).drop_vars("time")
        return fields.assign_coords(times).expand_dims(member=[0]).compute()

    def score(self, forecast, *overrides):
        return evaluate_long_run(self.experiment(*overrides), forecast, overwrite=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("beam"))


ALONE = "--evaluate.baselines=[persistence, quasi_static]"


def test_an_untrained_model_is_scored_beside_every_baseline(project, capsys):
    experiment = project.experiment()
    data = experiment.data
    split = parts(project.record, data)
    statistics = fit_statistics(project.record, data.variables(), split["train"], missing=data.missing)
    torch.manual_seed(0)
    network = functools.partial(DeepFEA, hidden=(4, 3), peephole="channel")
    task = TransientTask(network).build(Packing.fit(project.record, data, statistics)).eval()
    plan = ForecastPlan(project.record, split["test"].trajectories, np.array([0]), 20)
    write_rollout(task, plan, experiment.forecast)
    assert main(project.words) == 0
    printed = capsys.readouterr().out
    assert "4 forecasts of a structure" in printed and "The model does not meet the bars: " in printed
    with xr.open_dataset(experiment.long_run) as scores:
        scores.load()
    assert scores["forecast"].values.tolist() == ["model", *BASELINES]
    assert scores["quantity"].values.tolist()[:3] == ["displacement", "velocity", "displacement_x"]
    assert np.isfinite(scores["score"]).all() and json.loads(scores.attrs["missing"]) == {}
    error = scores["score"].sel(quantity="displacement", metric="relative_l2")
    np.testing.assert_allclose(error.sel(forecast="persistence"), 1, rtol=1e-12)
    np.testing.assert_allclose(scores["score"].sel(forecast="persistence", metric="skill"), 0, atol=1e-12)
    assert float(error.sel(forecast="coarse_mesh")) < float(error.sel(forecast="quasi_static")) < 1
    plain = json.loads(json.dumps(summary(scores)))
    assert plain["verdict"] == scores.attrs["verdict"]
    assert plain["score"]["modal"]["von_mises"]["nrmse"] > 0 and plain["motion"]["model"]["peak_error"] > 0


WITHOUT = ("--data.state=[displacement_x, displacement_y]", "--evaluate.baselines=[persistence]")


def test_the_truth_is_perfect_and_has_the_frequency_of_its_record(project):
    scores = project.score(project.truth(), ALONE)
    mine = scores["score"].sel(forecast="model")
    assert np.abs(mine.sel(metric=["nmae", "nrmse", "relative_l2", "relative_l2_pooled"])).max() == 0
    assert (mine.sel(metric=["r2", "skill"]) == 1).all()
    for name in ("peak_error", "peak_distance", "energy_error", "energy_drift", "frequency_error"):
        assert np.abs(scores[name].sel(forecast="model")).max() == 0
    found = scores["natural_frequency"].sel(source="truth", init_time=0)
    np.testing.assert_allclose(found, project.record["natural_frequency"].isel(trajectory=[12, 13, 14, 15]), rtol=5e-3)
    expected = project.record["kinetic_energy"] + project.record["strain_energy"]
    found = scores["energy"].sel(source="truth").isel(init_time=0)
    np.testing.assert_allclose(
        found, expected.isel(trajectory=[12, 13, 14, 15], time=slice(1, None)), rtol=1e-4, atol=1e-6
    )
    for k, trajectory in enumerate((12, 13, 14, 15)):
        run = project.record.isel(trajectory=trajectory, time=slice(1, None))
        length = np.hypot(run["displacement_x"], run["displacement_y"]).max("time")
        at = {d: scores[f"probe_{d}"].isel(trajectory=k, init_time=0, drop=True) for d in ("node_y", "node_x")}
        assert float(length.sel(at)) == float(length.max())
        for source in ("truth", "model"):
            here = scores.sel(source=source).isel(trajectory=k, init_time=0)
            np.testing.assert_array_equal(here["probe_displacement_y"], run["displacement_y"].sel(at))
            np.testing.assert_array_equal(here["largest_stress"], run["von_mises"].max(("elem_y", "elem_x")))
    assert (scores["probe_displacement_x"].sel(source="persistence") == 0).all()
    assert scores["probe_displacement_x"].attrs["units"] == "m" and scores["largest_stress"].attrs["units"] == "Pa"
    assert scores.attrs["verdict"].startswith("meets the bars: NRMSE 0 % of the range at most")
    assert scores.attrs["verdict"].endswith("better than persistence and quasi-static")


def test_known_errors_have_known_scores(project):
    truth = project.truth()
    spans = {name: float(truth[name].max() - truth[name].min()) for name in truth.data_vars}
    shifted = truth["displacement_x"] + 0.1 * spans["displacement_x"]
    scores = project.score(truth.assign(von_mises=1.2 * truth["von_mises"], displacement_x=shifted), ALONE)
    mine = scores["score"].sel(forecast="model")
    np.testing.assert_allclose(mine.sel(quantity="displacement_x", metric=["nmae", "nrmse"]), 0.1, rtol=1e-5)
    by_lead = scores["score_by_lead"].sel(forecast="model", quantity="displacement_x", metric="nmae")
    np.testing.assert_allclose(by_lead, 0.1, rtol=1e-5)
    assert float(mine.sel(quantity="displacement", metric="nmae")) == pytest.approx(0.05, rel=1e-5)
    assert float(mine.sel(quantity="displacement", metric="nrmse")) == pytest.approx(0.1 / np.sqrt(2), rel=1e-5)
    np.testing.assert_allclose(
        mine.sel(quantity="von_mises", metric=["relative_l2", "relative_l2_pooled"]), 0.2, rtol=1e-5
    )
    np.testing.assert_allclose(scores["peak_error"].sel(forecast="model"), 0.2, rtol=1e-5)
    assert np.abs(scores["peak_distance"].sel(forecast="model")).max() == 0
    assert "NRMSE of displacement_x is 10 % of its range (bar 3 %)" in scores.attrs["verdict"]
    faster = truth.assign({f"velocity_{axis}": 2 * truth[f"velocity_{axis}"] for axis in "xy"})
    assert (project.score(faster, ALONE)["energy_drift"].sel(forecast="model") > 0.01).all()


def test_a_forecast_that_stopped_has_no_scores_and_says_so(project):
    truth = project.truth()
    truth["displacement_y"][{"lead_time": slice(10, None), "trajectory": 1}] = np.nan
    scores = project.score(truth, ALONE)
    assert np.isnan(scores["score"].sel(forecast="model", quantity="displacement", metric="nrmse"))
    assert "NRMSE of displacement_y is not finite of its range" in scores.attrs["verdict"]
    assert "relative L2 of displacement is nan" in scores.attrs["verdict"]
    assert int(motion_means(scores)["frequency_forecasts"].sel(forecast="model")) == 3


def test_energy_without_velocity_is_that_of_the_slopes(project):
    with_velocity = project.score(project.truth(), ALONE)["energy"]
    truth = project.truth().drop_vars(["velocity_x", "velocity_y"])
    scores = project.score(truth, *WITHOUT)
    exact, found = (e.sel(source="truth").isel(lead_time=slice(0, -1)) for e in (with_velocity, scores["energy"]))
    assert float(np.abs(found - exact).max() / exact.max()) < 0.1
    assert np.abs(scores["energy_error"].sel(forecast="model")).max() == 0
    doubled = truth.assign({name: 2 * truth[name] for name in ("displacement_x", "displacement_y")})
    scores = project.score(doubled, *WITHOUT)
    np.testing.assert_allclose(
        scores["energy"].sel(source="model"), 4 * scores["energy"].sel(source="truth"), rtol=1e-5
    )


def test_what_cannot_be_computed_is_named(project):
    scores = project.score(project.truth().drop_vars(["velocity_x", "velocity_y"]), *WITHOUT)
    assert scores.attrs["verdict"].endswith("; not compared with quasi_static (evaluate.baselines)")
    bare = project.record.drop_vars("velocity_x").assign_attrs(simulation="{}")
    scores = long_run(project.experiment(*WITHOUT), bare, project.truth().drop_vars(["velocity_x", "velocity_y"]))
    assert "frequency_error" not in scores and "peak_error" in scores
    assert "cannot be computed again" in json.loads(scores.attrs["missing"])["natural_frequency"]


def test_wrong_experiments_are_refused(project):
    with pytest.raises(InputError, match="scored on its displacement, and the experiment forecasts velocity_x"):
        project.score(project.truth(), "--data.state=[velocity_x]", "--data.diagnostic=[]")
    with pytest.raises(InputError, match="references are of the domain channel"):
        project.experiment("--evaluate.long_run.references={a: b}")
    with pytest.raises(InputError, match="did you mean 'quasi_static'"):
        project.score(project.truth(), "--evaluate.baselines=[quasistatic]")
    with pytest.raises(InputError, match="'strain_rate' is forecast, which the baselines of structures"):
        named = project.record.assign(strain_rate=project.record["von_mises"])
        forecast = project.truth().assign(strain_rate=project.truth()["von_mises"])
        long_run(project.experiment("--data.diagnostic=[strain_rate]", ALONE), named, forecast)


def test_the_verdict_names_every_bar_that_is_missed():
    quantities = ["displacement", "displacement_x", "displacement_y", "von_mises"]
    values = np.zeros((2, 4, 2)) + [0.01, 0.1]
    values[1] = 0.5
    scores = xr.Dataset(
        {"score": (("forecast", "quantity", "metric"), values)},
        {"forecast": ["model", "quasi_static"], "quantity": quantities, "metric": ["nrmse", "relative_l2"]},
    )
    words = (
        "meets the bars: NRMSE 1 % of the range at most (displacement_x), relative L2 0.1 in displacement, relative L2 "
    )
    words += "0.1 in von Mises stress, better than quasi-static; not compared with persistence (evaluate.baselines)"
    assert verdict(scores) == words
    scores["score"][0, 3] = [0.04, 0.6]
    found = verdict(scores)
    for part in (
        "NRMSE of von Mises stress is 4 % of its range (bar 3 %)",
        "relative L2 of von Mises stress is 0.6 (bar 0.20)",
        "von Mises stress is no better than quasi-static (0.6 against 0.5)",
    ):
        assert part in found
    assert "von Mises stress is not forecast" in verdict(scores.sel(quantity=quantities[:3]))
