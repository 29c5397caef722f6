"""The whole comparison: a solver of known error and cost, and Kolmogorov flow on a tiny model."""

import dataclasses

import numpy as np
import pytest
import spinning
import torch
import xarray as xr
import yaml
from project import waves

from workbench import cli
from workbench.commands.speedup import list_candidates
from workbench.data import recipe
from workbench.data.starts import Problem
from workbench.data.store import open_data
from workbench.equal_error import clock, errors
from workbench.equal_error.compare import scorer
from workbench.equal_error.contestants import solver_of, solvers, surrogate
from workbench.equal_error.profiles import Profiles
from workbench.equal_error.ratios import points_of
from workbench.equal_error.starts import Starts
from workbench.errors import InputError
from workbench.experiment import load
from workbench.models import FNO
from workbench.report.page import write_report
from workbench.speedup import speedup
from workbench.weights import card_of, export

RECIPE = """
name: waves
title: waves
licence: CC0-1.0
source: {class_path: spinning.%s}
presets: {tiny: {}}
"""
EXPERIMENT = {
    "data": {
        "record": "waves/tiny",
        "state": ["height"],
        "split": {"by": "trajectory", "train": [0, 2], "validation": [2, 3], "test": [3, 8]},
    },
    "model": {"class_path": "ForecastTask"},
    "rollout": {"steps": 2},
    "evaluate": {"resamples": 200},
}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch, tmp_path):
    monkeypatch.setattr(clock, "SHORTEST", 0.02)
    monkeypatch.setattr(clock, "BATCH_SIZES", (2, 4))
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def experiment_of(folder, changes=None, overrides=()):
    config = {**EXPERIMENT, **(changes or {})}
    (folder / "known.yaml").write_text(yaml.safe_dump(config))
    return load([str(folder / "known.yaml")], overrides)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """An experiment on a built record of the named source, timed by a clock that no load disturbs."""
    monkeypatch.setattr(clock, "time", spinning.CLOCK)

    def made(source="SpinningWaves", changes=None, overrides=()):
        declared = tmp_path / "datasets" / "waves"
        declared.mkdir(parents=True, exist_ok=True)
        (declared / "recipe.yaml").write_text(RECIPE % source)
        for module in ("workbench.data.recipe", "workbench.data.store"):
            monkeypatch.setattr(f"{module}.folder", lambda name: tmp_path / name)
        recipe.build(recipe.read_recipe("waves/tiny"), overwrite=True)
        return experiment_of(tmp_path, changes, overrides)

    return made


def test_a_known_law_gives_the_known_ratio(make):
    """Errors 0.1 h^2 for UNIT h^-3 seconds, half of that in batches of four; the surrogate is as good as h = 0.35."""
    experiment = make()
    task = spinning.task_of(open_data(experiment.data), experiment.data, error=0.1 * 0.35**2, seconds=8e-3)
    sheet = speedup(experiment, task, leads=[1], forecasts=5, rounds=3, attrs={"hardware": "a test"})
    np.testing.assert_allclose(sheet.error.sel(point="step 1")[1:4], 0.1 * np.array([1, 0.5, 0.25]) ** 2, rtol=1e-3)
    known = spinning.UNIT * 0.35**-3 / 8e-3
    for batch in ("one", "best"):
        found = sheet.sel(point="step 1", batch=batch, clock="wall")
        expected = known * (1 if batch == "one" else 4**-0.5)
        assert float(found.ratio) == pytest.approx(expected, rel=1e-3)
        assert float(found.ratio_low) == pytest.approx(expected, rel=1e-3)
        assert str(found.equal_solver.values) == "h = 0.25" and str(found.bound.values) == "between"
    assert sheet.batch_size.sel(batch="best")[1:4].values.tolist() == [4, 4, 4]
    assert sheet.attrs["headline"].startswith("at the error of the surrogate over 2 steps")
    assert ": a speed-up" in sheet.attrs["headline"] and sheet.attrs["threads"] == 1
    assert str(sheet.note.sel(solver="unstable").values) == "time_step 2 exceeds the admissible 1"
    assert str(sheet.note.sel(solver="h = 0.19").values).startswith("not run")
    with xr.open_dataset(experiment.run_dir / "speedup.nc") as written:
        xr.testing.assert_allclose(written.load(), sheet)


def test_a_stopped_comparison_goes_on_with_the_next_candidate(make, monkeypatch):
    experiment = make()
    task = spinning.task_of(open_data(experiment.data), experiment.data, error=0.03)
    measured, measure = [], errors.measure

    def counting(contestant, *arguments):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(contestant.label)
        return measure(contestant, *arguments)

    monkeypatch.setattr(errors, "measure", counting)
    with pytest.raises(KeyboardInterrupt):
        speedup(experiment, task, steps=2, forecasts=5, rounds=2)
    assert measured == ["surrogate", "unstable", "h = 1"]
    measured.clear()
    sheet = speedup(experiment, task, steps=2, forecasts=5, rounds=2, patterns=("unstable", "h = 1", "h = 0.5"))
    assert measured == ["h = 0.5"] and sheet.sizes["round"] == 2
    assert not (experiment.run_dir / ".speedup.partial").exists()
    with pytest.raises(InputError, match="exists already"):
        speedup(experiment, task)


def test_forecasts_that_leave_the_record_are_cut_to_half_of_the_split(make):
    experiment = make(overrides=["--rollout.steps=400"])
    task = spinning.task_of(open_data(experiment.data), experiment.data, error=0.03)
    sheet = speedup(experiment, task, forecasts=5, rounds=1, patterns=("h = 1",))
    assert sheet.point.values.tolist() == ["step 1", "step 2", "step 3", "steps 1 to 3"]


def test_forecasts_are_as_long_as_the_surrogate_is_good_for_something(make, monkeypatch):
    """Its error is 1.3^n - 1, that of the training mean 1: two steps are better, the third is not."""
    experiment = make(overrides=["--rollout.steps=6"])
    task = spinning.task_of(open_data(experiment.data), experiment.data, error=0.3)
    measured, measure = [], errors.measure
    monkeypatch.setattr(errors, "measure", lambda who, *rest: measured.append(who.label) or measure(who, *rest))
    sheet = speedup(experiment, task, forecasts=5, rounds=1, patterns=("h = 1",))
    assert sheet.sizes["lead_time"] == 2 and not sheet.moot.any()
    assert measured == ["surrogate", "h = 1"]  # what showed how far it is good for something is not made again
    np.testing.assert_allclose(sheet.surrogate_error_by_lead, [0.3, 0.69], rtol=1e-3)
    sheet = speedup(experiment, task, forecasts=5, rounds=1, patterns=("h = 1",), leads=[3], overwrite=True)
    assert sheet.sizes["lead_time"] == 3 and sheet.moot.sel(point="step 3")


def test_long_runs_go_on_where_forecasts_have_been_beaten(make, tmp_path):
    """The statistics of the surrogate are those of h = 0.3, its forecasts those of h = 0.9."""
    experiment = make()
    record = open_data(experiment.data)
    starts = Starts.choose(Problem.of(record, experiment.data, 2), "test", 5)
    own = surrogate(spinning.task_of(record, experiment.data, error=0.1 * 0.9**2), "cpu", starts)

    class Amplitude(Profiles):
        """The growth of the first interval; that of the surrogate is set to that of h = 0.3."""

        def of_runs(self, states, progress=None):
            growth = float(next(states).std(correction=0)) / float(starts.before(["height"], [0]).std(correction=0)) - 1
            growth = 0.1 * 0.3**2 if abs(growth - 0.1 * 0.9**2) < 1e-3 else growth
            return np.full((4, *self.truth.shape), growth)

        def distances(self, found):
            return found.mean((0, 1, 2), keepdims=True)[0, 0]

    profiles = Amplitude((0,), (2,), 2, np.zeros((2, 3, 1)), np.zeros(1))
    points = points_of([1, 2], 2)
    results = errors.measure_all(
        own,
        solvers(solver_of(record), ["height"], 1.0, "cpu", ("h *",)),
        starts,
        errors.Notebook(tmp_path / "kept", {}),
        "cpu",
        scorer(points, profiles),
        profiles=profiles,
    )
    short = [not np.isnan(result.errors).any() for result in results]
    long = [result.moments.size > 0 and not np.isnan(result.moments).any() for result in results]
    assert short == [True, True, True, False, False]  # h = 0.5 beats the surrogate
    assert long == [True, True, True, True, False]  # h = 0.25 does, for the long run
    assert [bool(result.note) for result in results] == [False, False, False, False, True]


def test_other_starts_begin_anew(make):
    experiment = make()
    notebook = errors.Notebook(experiment.run_dir / "kept", {"starts": [1, 2]})
    notebook.keep("a", errors.Result(np.ones((2, 3)), np.empty(0), 0.5))
    again = errors.Notebook(experiment.run_dir / "kept", {"starts": [1, 2]}).find("a")
    assert again.seconds == 0.5 and again.errors.shape == (2, 3) and again.note == ""
    assert errors.Notebook(experiment.run_dir / "kept", {"starts": [1, 3]}).find("a") is None


def test_no_better_than_doing_nothing_is_said_and_not_compared(make):
    experiment = make()
    task = spinning.task_of(open_data(experiment.data), experiment.data, error=0.9, seconds=1e-5)
    sheet = speedup(experiment, task, forecasts=5, rounds=2, patterns=("h = 1",))
    assert sheet.moot.values.all()
    assert "no better than persistence, which costs nothing" in sheet.attrs["headline"]
    assert sheet.attrs["verdict"] == "no speed-up"


def test_kolmogorov_flow_from_recipe_to_report(tmp_path, capsys):
    """An untrained model; the candidate with the record's own settings repeats the record."""
    small = dict(resolution=24, solver_resolution=24, steps=8, spin_up=1.0, trajectories=6, time_step=0.03125)
    recipe.build(recipe.read_recipe("kolmogorov_flow/tiny", small))
    data = {**EXPERIMENT["data"], "record": "kolmogorov_flow/tiny", "state": ["vorticity"]}
    data["split"] = {**data["split"], "test": [3, 6]}
    experiment = experiment_of(tmp_path, {"data": data})
    task = spinning.task_of(open_data(experiment.data), experiment.data, FNO, width=4, modes=4, layers=1, projection=8)
    export(task, tmp_path / "tiny.safetensors", card_of(task))
    words = ["speedup", "-c", "known.yaml", "--weights", "tiny.safetensors", "--quick", "--starts", "5"]
    words = [*words, "--candidates", "24 x 24, dt 0.03125; 18 x 18, dt 0.*", "--leads", "2"]
    assert cli.main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "solver / surrogate" in out and "wrote runs/known/speedup.nc" in out
    with xr.open_dataset(experiment.run_dir / "speedup.nc") as sheet:
        found = sheet.error.sel(point="step 2").load()
        assert sheet.attrs["starts"] == 6 and json_settings(sheet, "24 x 24, dt 0.03125")["resolution"] == 24
    assert float(found.sel(solver="24 x 24, dt 0.03125")) < 1e-5
    assert 1e-3 < float(found.sel(solver="18 x 18, dt 0.04167")) < 0.5
    (experiment.run_dir / "metrics.csv").write_text("epoch,step,train_loss\n0,1,0.5\n")
    page = write_report(experiment).read_text()
    assert 'id="speed"' in page and "Speed at equal error" in page


def json_settings(sheet, label):
    return yaml.safe_load(str(sheet.settings.sel(solver=label).values))


# ---------------------------------------------------------------------------------------------------- bad input


def test_a_record_of_no_solver_is_refused(tmp_path):
    waves().to_netcdf(tmp_path / "waves.nc")
    experiment = experiment_of(tmp_path, {"data": {**EXPERIMENT["data"], "record": "waves.nc"}})
    with pytest.raises(InputError, match="waves.nc was not made by a solver that can be coarsened: it names no recipe"):
        list_candidates(experiment)


def test_a_source_that_cannot_be_coarsened_is_refused(make):
    with pytest.raises(
        InputError, match="a solver that can be coarsened: its source spinning.Waves offers no coarsening"
    ):
        list_candidates(make("Waves"))


def test_a_cropped_record_is_refused(make):
    with pytest.raises(InputError, match="is cropped"):
        list_candidates(make(overrides=["--data.crop={x: [0, 8]}"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leads": [3]}, "step 3 is beyond the forecasts: leads go from 1 to 2"),
        ({"steps": 8}, "forecasts of 8 steps were asked for: the test split holds the truth of 1 to 7 steps"),
        ({"thread_count": 0}, "at least one thread"),
        ({"patterns": ("h = 7",)}, "no candidate matches 'h = 7'; they are unstable; h = 1"),
        ({"variables": ("depth*",)}, "no variable matches 'depth.': the experiment forecasts height; choose with"),
        ({"patterns": ("unstable",), "forecasts": 2}, "fails at every setting that was tried .unstable: time_step 2"),
    ],
)
def test_wrong_options_are_refused(make, options, message):
    experiment = make()
    task = spinning.task_of(open_data(experiment.data), experiment.data, seconds=1e-5)
    with pytest.raises(InputError, match=message):
        speedup(experiment, task, **options)


def test_a_surrogate_with_forcing_is_refused(make):
    data = {**EXPERIMENT["data"], "forcing": ["load"]}
    experiment = make()
    record = open_data(experiment.data)
    loaded = record.assign(load=record.height)
    forced = experiment_of(experiment.run_dir.parent.parent, {"data": data})
    task = spinning.task_of(loaded, forced.data)
    starts = Starts.choose(Problem.of(record, experiment.data, 2), "test", 5)
    with pytest.raises(InputError, match="works with forcing"):
        surrogate(task, "cpu", starts)
    other = dataclasses.replace(starts, problem=dataclasses.replace(starts.problem, names=("height", "depth")))
    with pytest.raises(InputError, match="the surrogate does not forecast 'depth'"):
        surrogate(spinning.task_of(record, experiment.data), "cpu", other)


def test_missing_weights_and_misspelt_leads_are_one_line(make, capsys):
    make()
    assert cli.main(["speedup", "-c", "known.yaml"]) == 2
    assert "no trained model at runs/known/checkpoints/best.ckpt" in capsys.readouterr().err
    (weights := torch.nn.Linear(1, 1)).requires_grad_(False)
    torch.save(weights.state_dict(), "foreign.pt")
    assert cli.main(["speedup", "-c", "known.yaml", "--weights", "foreign.pt"]) == 2
    assert "carries no Workbench card" in capsys.readouterr().err


def test_leads_that_are_no_numbers_are_refused():
    from workbench.commands.speedup import _numbers

    with pytest.raises(InputError, match="--leads is 'one': expected steps such as 1,10,20"):
        _numbers("one")
