import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from workbench import experiment as experiments
from workbench.baselines.forecasts import persistence
from workbench.commands import baselines
from workbench.data.climatology import fit_climatology
from workbench.data.starts import Problem, choose_starts
from workbench.data.store import open_data
from workbench.data.weights import cos_latitude, latitude_area
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.evaluate import evaluate, main
from workbench.metrics.spectra import power_spectrum

STEPS = 6


def autoregressive(shape, phi=0.9, seed=0):
    """Noise with memory along the second axis, ``(trajectory, time, ...)``."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    for t in range(1, shape[1]):
        values[:, t] = phi * values[:, t - 1] + np.sqrt(1 - phi**2) * values[:, t]
    return values


def box(trajectories=12, length=40):
    """A periodic record of `u` on ``(trajectory, time, y, x)``, its time in seconds."""
    step = 2 * np.pi / 8
    return xr.Dataset(
        {
            "u": (
                ("trajectory", "time", "y", "x"),
                2.0 + autoregressive((trajectories, length, 4, 8)),
                {"units": "m s-1", "long_name": "velocity"},
            )
        },
        {
            "trajectory": np.arange(100, 100 + trajectories),
            "time": ("time", 0.5 * np.arange(length), {"units": "s"}),
            "y": ("y", step * np.arange(4), {"units": "m"}),
            "x": ("x", step * np.arange(8), {"units": "m"}),
        },
        attrs={"periodic": "x"},
    )


class Run:
    """A run directory with a record, an experiment and a forecast that a test makes from the truth."""

    def __init__(self, folder, record, data=None, rollout=None, evaluate=None):
        self.folder = folder
        write_record(record, folder / "record.zarr", chunks={"time": 7})
        split = {"by": "trajectory", "train": [0, 0.5], "validation": [0.5, 0.6], "test": [0.6, 1.0]}
        self.config = {
            "data": {"record": str(folder / "record.zarr"), "state": ["u"], "split": split, **(data or {})},
            "rollout": {"steps": STEPS, "starts": 5, **(rollout or {})},
            "evaluate": {"metrics": ["rmse"], "resamples": 200, **(evaluate or {})},
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(self.config))

    def experiment(self, *overrides):
        return experiments.load([str(self.folder / "run.yaml")], overrides, str(self.folder / "out"))

    @property
    def words(self):
        return ["-c", str(self.folder / "run.yaml"), "--run-dir", str(self.folder / "out")]

    def pieces(self, part="test"):
        """The problem, the persistence forecast and the truth in its shape, in memory."""
        experiment = self.experiment()
        config = experiment.data
        problem = Problem.of(open_data(config), config, experiment.rollout.steps)
        trajectories, starts = choose_starts(
            problem.parts[part], config.history, config.stride, problem.steps, experiment.rollout.starts
        )
        forecast = persistence(problem, trajectories, starts).compute()
        index = xr.DataArray(
            starts[:, None] + config.stride * np.arange(1, problem.steps + 1), dims=("init_time", "lead_time")
        )
        truth = problem.record[list(problem.names)].isel(time=index).drop_vars("time")
        if "trajectory" in truth.dims:
            truth = truth.isel(trajectory=trajectories)
        truth = truth.expand_dims("member").assign_coords(forecast.coords).transpose(*forecast[problem.names[0]].dims)
        return problem, forecast, truth.compute()

    def write(self, forecast, **attrs):
        """Leave a forecast where a rollout would."""
        path = self.folder / "out" / "rollout.zarr"
        forecast.drop_encoding().assign_attrs(attrs).chunk(init_time=2).to_zarr(path, mode="w", consolidated=False)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, box())


def noisy(truth, amplitude, seed=5):
    """The truth plus white noise whose amplitude may depend on the lead."""
    rng = np.random.default_rng(seed)
    amplitude = xr.DataArray(np.broadcast_to(amplitude, STEPS), dims="lead_time")
    return truth.map(
        lambda a: (a + amplitude * xr.DataArray(rng.normal(size=a.shape), dims=a.dims)).transpose(*a.dims),
        keep_attrs=True,
    )


# ------------------------------------------------------------------------------------------------------ scores


def test_scores_are_those_of_the_formula(run):
    _, forecast, truth = run.pieces()
    run.write(noisy(truth, np.linspace(0.1, 2, STEPS)))
    found = evaluate(run.experiment())
    written = noisy(truth, np.linspace(0.1, 2, STEPS)).u
    for name, prediction in (("model", written), ("persistence", forecast.u)):
        expected = np.sqrt(((prediction - truth.u) ** 2).mean(["member", "trajectory", "init_time", "y", "x"]))
        np.testing.assert_allclose(found.score.sel(forecast=name, metric="rmse", variable="u"), expected, rtol=1e-12)
    assert list(found.forecast.values) == ["model", "persistence", "climatology"]
    assert found.lead_time.attrs["units"] == "s" and found.lead_time.values.tolist() == [0.5, 1, 1.5, 2, 2.5, 3]
    with xr.open_dataset(run.folder / "out" / "scores.nc", decode_timedelta=True) as stored:
        xr.testing.assert_identical(stored.load(), found)
    assert json.loads(found.metric.attrs["definition"])["rmse"] == "sqrt <(p - t)^2>"
    assert json.loads(found["variable"].attrs["units"]) == {"u": "m s-1"}


def test_a_forecast_in_netcdf_scores_the_same(run):
    _, _, truth = run.pieces()
    forecast = noisy(truth, 0.5)
    zarr = evaluate(run.experiment(), forecast)
    forecast.drop_encoding().to_netcdf(run.folder / "out" / "rollout.nc")
    xr.testing.assert_identical(evaluate(run.experiment("--rollout.format=netcdf"), overwrite=True), zarr)
    xr.testing.assert_identical(evaluate(run.experiment(), overwrite=True), zarr)


def test_a_perfect_forecast_beats_everything_to_the_last_step(run):
    _, _, truth = run.pieces()
    run.write(truth)
    found = evaluate(run.experiment("--evaluate.metrics=[rmse, acc]"))
    assert (found.score.sel(forecast="model", metric="rmse") == 0).all()
    assert np.allclose(found.score.sel(forecast="model", metric="acc"), 1)
    assert (found.beats_to == STEPS).all() and (found.beats_to_low == STEPS).all()
    assert (found.beats_to_lead == 3.0).all()
    assert (found.p_value < 0.1).all()
    assert found.attrs["verdict"] == "beats its baselines"
    assert found.attrs["headline"] == (
        "u: beats persistence and climatology to step 6 of 6 (rmse, paired block bootstrap over 25 starts, 95 %)"
    )


def test_the_headline_counts_the_steps_until_the_model_is_no_better(run):
    _, _, truth = run.pieces()
    run.write(noisy(truth, np.array([0.1, 0.1, 0.1, 5.0, 0.1, 0.1])))
    found = evaluate(run.experiment())
    assert (found.beats_to == 3).all()
    assert found.score.sel(forecast="model", metric="rmse", variable="u")[3] > 4
    assert "beats persistence and climatology to step 3 of 6" in found.attrs["headline"]


def test_a_model_that_is_no_better_is_called_that(run):
    _, forecast, truth = run.pieces()
    run.write(noisy(truth, 3.0))
    found = evaluate(run.experiment())
    assert (found.beats_to == 0).all() and (found.beats_to_lead == 0).all()
    assert found.attrs["verdict"].startswith(
        "does not beat its baselines: u is no better than persistence at the first"
    )
    assert found.attrs["headline"].startswith("u: does not beat persistence or climatology (rmse")
    run.write(forecast)
    again = evaluate(run.experiment(), overwrite=True)
    assert int(again.beats_to.sel(baseline="persistence", variable="u")) == 0


def test_a_lead_within_chance_does_not_count_as_beaten(run):
    """A forecast that is persistence and a grain of noise beats it at the first step by luck, if at all."""
    _, forecast, truth = run.pieces()
    better = forecast.copy()
    better["u"] = (
        (forecast.u + 1e-4 * np.sign(truth.u - forecast.u) * (truth.trajectory % 2 * 2.02 - 1))
        .transpose(*forecast.u.dims)
        .assign_attrs(forecast.u.attrs)
    )
    run.write(better)
    found = evaluate(run.experiment())
    first = found.isel(lead_time=0).sel(variable="u", baseline="persistence")
    assert float(first.p_value) > 0.05
    assert found.attrs["verdict"].startswith("does not beat its baselines: u is")


def test_intervals_hold_the_score(run):
    _, _, truth = run.pieces()
    run.write(noisy(truth, 0.5))
    found = evaluate(run.experiment())
    assert (found.score_low < found.score).all() and (found.score < found.score_high).all()
    narrow = evaluate(run.experiment("--evaluate.confidence=0.5"), overwrite=True)
    assert ((narrow.score_high - narrow.score_low) < (found.score_high - found.score_low)).all()


def test_three_starts_are_too_few_for_an_interval(tmp_path):
    run = Run(tmp_path, box(5), rollout={"starts": 1})
    _, _, truth = run.pieces()
    run.write(truth)
    found = evaluate(run.experiment())
    assert found.attrs["starts"] == 2 and (found.beats_to == STEPS).all()
    for name in ("score_low", "p_value", "beats_to_low", "decorrelation_lead_low"):
        assert found[name].isnull().all()
    assert found.attrs["headline"].endswith("(rmse, 2 starts: too few for an interval)")


@pytest.mark.parametrize("size", [1, 20_000])
def test_blocks_and_chunks_do_not_change_scores(run, monkeypatch, size):
    _, _, truth = run.pieces()
    forecast = noisy(truth, np.linspace(0.1, 2, STEPS)).isel(trajectory=slice(2), init_time=[0, 3], lead_time=slice(4))
    options = ("--evaluate.metrics=[rmse, correlation, acc, nrmse_range]", "--evaluate.baselines=[climatology]")
    whole = evaluate(run.experiment(*options), forecast)
    monkeypatch.setattr("workbench.scoring.tally.BLOCK_BYTES", size)
    monkeypatch.setattr("workbench.data.blocks.BLOCK_BYTES", size)
    parts = evaluate(run.experiment(*options), forecast.chunk(init_time=2, lead_time=4), overwrite=True)
    xr.testing.assert_allclose(parts, whole, rtol=1e-10)


def test_dates_and_latitude(tmp_path):
    """A daily record on the sphere: cos(lat) weights, day-of-year climatology, leads as time differences."""
    values = autoregressive((1, 900, 5, 6), phi=0.8)[0]
    record = xr.Dataset(
        {"u": (("time", "lat", "lon"), values, {"units": "K"})},
        {
            "time": pd.date_range("2001-01-01", periods=900),
            "lat": ("lat", np.linspace(-80, 80, 5), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(6) * 60.0, {"units": "degrees_east"}),
        },
    )
    split = {"train": ["2001-01-01", "2002-12-31"], "validation": ["2003-01-01", "2003-01-31"]}
    run = Run(tmp_path, record, data={"split": {**split, "test": ["2003-02-01", "2003-06-30"]}})
    _, _, truth = run.pieces()
    run.write(noisy(truth, 0.3))
    found = evaluate(run.experiment("--evaluate.metrics=[rmse, acc]"))
    squared = ((noisy(truth, 0.3).u - truth.u) ** 2).weighted(cos_latitude(record.lat)).mean(["lat", "lon"])
    expected = np.sqrt(squared.mean(["member", "init_time"]))
    np.testing.assert_allclose(found.score.sel(forecast="model", metric="rmse", variable="u"), expected, rtol=1e-12)
    assert found.attrs["weights"] == "cos(lat)"
    assert found.lead_time.values[0] == np.timedelta64(1, "D")
    assert found.attrs["climatology_period"].startswith("2001-01-01")
    assert found.beats_to_lead.values[0, 0] == np.timedelta64(6, "D")
    assert np.isnat(found.decorrelation_lead.sel(forecast="model").values[0])
    gone = found.decorrelation_lead.sel(forecast="persistence").values[0]
    assert np.timedelta64(0) < gone < np.timedelta64(2, "D")
    with xr.open_dataset(tmp_path / "out" / "scores.nc", decode_timedelta=True) as stored:
        xr.testing.assert_identical(stored.load(), found)


def test_levels_are_rows_of_their_own(tmp_path):
    record = box()
    record = xr.concat([record, 10 * record], "level").assign_coords(level=("level", [500.0, 850.0], {"units": "hPa"}))
    record["u"] = record.u.transpose("trajectory", "time", "level", "y", "x").assign_attrs(units="m s-1")
    run = Run(tmp_path, record.assign_attrs(periodic=["x", "y"]))
    _, _, truth = run.pieces()
    run.write(noisy(truth, 0.5))
    found = evaluate(run.experiment())
    assert list(found["variable"].values) == ["u[0]", "u[1]"]
    persistence_rmse = found.score.sel(forecast="persistence", metric="rmse")
    np.testing.assert_allclose(
        persistence_rmse.sel(variable="u[1]"), 10 * persistence_rmse.sel(variable="u[0]"), rtol=1e-12
    )
    assert found.spectrum.sizes["variable"] == 2


def test_spectra_hold_the_mean_square(run):
    _, _, truth = run.pieces()
    run.write(noisy(truth, 0.5))
    found = evaluate(run.experiment())
    assert list(found.source.values) == ["truth", "model", "persistence", "climatology"]
    assert found.spectrum_lead.values.tolist() == [0.5, 1.0, 1.5, 3.0]
    assert found.wavenumber.attrs["units"] == "(m)-1"
    mean = power_spectrum(truth.u, "x").mean(["member", "trajectory", "init_time", "y"])
    at_leads = mean.isel(lead_time=[0, 1, 2, 5]).transpose("lead_time", "wavenumber")
    np.testing.assert_allclose(found.spectrum.sel(source="truth", variable="u"), at_leads, rtol=1e-10)
    square = (noisy(truth, 0.5).u.isel(lead_time=-1) ** 2).mean()
    assert float(found.spectrum.sel(source="model", variable="u")[-1].sum()) == pytest.approx(float(square))
    variance = truth.u.var(["y", "x"]).mean(["member", "trajectory", "init_time"])
    np.testing.assert_allclose(found.variance.sel(source="truth", variable="u"), variance, rtol=1e-10)


def test_spectra_of_what_is_not_there(run):
    run.write(run.pieces()[2])
    with pytest.raises(InputError, match="asked for along q .*the record has trajectory, time, y, x"):
        evaluate(run.experiment("--evaluate.spectra=[q]"))


def test_many_variables_and_a_single_step(tmp_path):
    """Diagnostics are scored like states; the sentence names three rows and counts the others."""
    record = box()
    for k, name in enumerate("abcd"):
        record[name] = (record.u.isel(y=0, drop=True) * (k + 1)).assign_attrs(units="K")
    data = {"state": ["u", "a"], "diagnostic": ["b", "c", "d"]}
    run = Run(tmp_path, record, data=data, rollout={"steps": 1})
    _, _, truth = run.pieces()
    run.write(truth)
    found = evaluate(run.experiment())
    assert list(found["variable"].values) == ["u", "a", "b", "c", "d"] and found.sizes["lead_time"] == 1
    assert found.attrs["headline"].startswith("u: beats persistence and climatology to step 1 of 1; a: beats")
    assert "; 2 more variables in the table (rmse," in found.attrs["headline"]
    np.testing.assert_allclose(
        found.score.sel(metric="rmse", variable="d"), 4 * found.score.sel(metric="rmse", variable="a"), rtol=1e-12
    )


# ------------------------------------------------------------------------------------------ members and gaps


def test_a_stopped_forecast_ends_the_scores_and_is_counted(run):
    _, _, truth = run.pieces()
    forecast = noisy(truth, 0.1)
    forecast["u"][{"trajectory": 1, "init_time": 2, "lead_time": slice(2, None)}] = np.nan
    run.write(forecast, workbench_stopped=json.dumps([{"member": 0, "trajectory": 1, "init_time": 2.0, "step": 3}]))
    found = evaluate(run.experiment())
    model = found.score.sel(forecast="model", metric="rmse", variable="u")
    assert np.isfinite(model[:2]).all() and model[2:].isnull().all()
    assert found.finite_starts.sel(forecast="model", variable="u").values.tolist() == [25, 25, 24, 24, 24, 24]
    assert (found.beats_to == 2).all() and found.attrs["stopped"] == 1
    assert "to step 2 of 6" in found.attrs["headline"]
    assert found.score.sel(forecast="persistence").notnull().all()


def test_a_forecast_that_is_never_finite(run):
    run.write(run.pieces()[1].map(lambda a: a * np.nan, keep_attrs=True))
    found = evaluate(run.experiment())
    assert found.attrs["verdict"] == "does not beat its baselines: u has no finite rmse at the first step"


def test_an_ensemble_is_scored_by_its_mean_and_as_an_ensemble(run):
    _, _, truth = run.pieces()
    members = xr.concat([noisy(truth, 0.5, seed) for seed in range(4)], "member").assign_coords(member=np.arange(4))
    found = evaluate(run.experiment(), members)
    mean = members.u.mean("member") - truth.u.isel(member=0)
    expected = np.sqrt((mean**2).mean(["trajectory", "init_time", "y", "x"]))
    model = found.score.sel(forecast="model", variable="u")
    np.testing.assert_allclose(model.sel(metric="rmse"), expected, rtol=1e-12)
    assert np.allclose(model.sel(metric="spread_skill_ratio"), np.sqrt(5 / 4) * 0.5 / 0.25, rtol=0.05)
    assert (model.sel(metric="crps") < found.score.sel(forecast="climatology", variable="u", metric="crps")).all()
    assert found.score.sel(forecast="persistence", metric="spread").isnull().all()
    alone = truth.u.var(["y", "x"]).mean(["member", "trajectory", "init_time"]) + 0.25
    assert np.allclose(found.variance.sel(source="model", variable="u"), alone, rtol=0.1)
    assert found.attrs["members"] == 4


def globe(days=900):
    """A daily record of wind on the whole sphere."""
    values = autoregressive((2, days, 7, 12), phi=0.8).astype("f4")
    attrs = {"units": "m s-1"}
    return xr.Dataset(
        {name: (("time", "lat", "lon"), v, attrs) for name, v in zip(("u", "v"), values, strict=True)},
        {
            "time": pd.date_range("2001-01-01", periods=days),
            "lat": ("lat", np.linspace(90, -90, 7), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(12) * 30.0, {"units": "degrees_east"}),
        },
    )


GLOBE = {
    "state": ["u", "v"],
    "split": {
        "train": ["2001-01-01", "2002-12-31"],
        "validation": ["2003-01-01", "2003-01-31"],
        "test": ["2003-02-01", "2003-06-30"],
    },
}


def test_a_wind_is_scored_as_one_and_printed_with_other_metrics(tmp_path, capsys):
    run = Run(tmp_path, globe(), data=GLOBE, evaluate={"vectors": {"wind": ["u", "v"]}, "weights": "area"})
    _, _, truth = run.pieces()
    noised = noisy(truth, 0.3)
    run.write(noised)
    assert main([*run.words, "--evaluate.printed=[acc, bias, activity]"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.rstrip().endswith(" over 5 starts")] == [
        "rmse", "acc", "bias", "activity"
    ]  # fmt: skip
    assert "wind: beats persistence and climatology" in printed
    with xr.open_dataset(tmp_path / "out" / "scores.nc", decode_timedelta=True) as stored:
        found = stored.load()
    square = sum((noised[n] - truth[n]) ** 2 for n in ("u", "v"))
    expected = np.sqrt(square.weighted(latitude_area(truth.lat)).mean(["member", "init_time", "lat", "lon"]))
    model = found.score.sel(forecast="model", variable="wind")
    np.testing.assert_allclose(model.sel(metric="rmse"), expected, rtol=1e-6)
    assert np.isfinite(found.score.sel(variable="wind", metric=["acc", "activity"])[0]).all()
    assert found.score.sel(variable="wind", metric="bias").isnull().all()
    assert found.variance.sel(variable="wind").isnull().all() and found.attrs["weights"] == "area(lat)"


@pytest.mark.parametrize(("dims", "longest"), [(["lat", "lon"], 5), (["lon"], 6)])
def test_spectra_of_the_globe_hold_the_mean_square(tmp_path, dims, longest):
    run = Run(tmp_path, globe(), data=GLOBE, evaluate={"spectra": dims, "baselines": []})
    _, _, truth = run.pieces()
    if longest == 5:  # what the grid holds up to its truncation
        lat, lon = np.deg2rad(truth.lat), np.deg2rad(truth.lon)
        smooth = np.sin(lat) + np.sin(2 * lon) * np.cos(lat) ** 2
        truth = truth.map(lambda a: (0 * a + smooth).transpose(*a.dims), keep_attrs=True)
    run.write(truth)
    spectrum = evaluate(run.experiment()).spectrum.sel(source="model", variable="u")
    assert spectrum.wavenumber.values.tolist() == list(range(longest + 1))
    if longest == 5:  # <sin^2> = 1/3 and <cos^4> / 2 = 4/15
        np.testing.assert_allclose(spectrum.sum("wavenumber"), 1 / 3 + 4 / 15, rtol=1e-6)
    else:
        square = (truth.u**2).weighted(cos_latitude(truth.lat)).mean(["lat", "lon", "init_time", "member"])
        np.testing.assert_allclose(spectrum.sum("wavenumber"), square.values[[0, 1, 2, 5]], rtol=1e-6)


def test_a_vector_of_what_is_not_there(tmp_path):
    run = Run(tmp_path, globe(), data=GLOBE)
    forecast = run.pieces()[2]
    refused(run, forecast, "'wind' of u, w: expected a new name", "--evaluate.vectors={wind: [u, w]}")
    refused(run, forecast, "'u' of u, v: expected a new name", "--evaluate.vectors={u: [u, v]}")
    override = ("--evaluate.vectors={wind: [u, v]}", "--evaluate.headline=mae")
    refused(run, forecast, "evaluate.headline is 'mae', which a vector does not have", *override)


def test_missing_values_are_refused_or_masked(tmp_path):
    record = box()
    record["u"][{"time": slice(9, None, 3), "x": 0}] = np.nan
    run = Run(tmp_path, record, data={"missing": "mask"})
    _, _, truth = run.pieces()
    filled = noisy(truth.fillna(77.0), 0.5)
    found = evaluate(run.experiment(), filled)
    expected = np.sqrt(((filled.u - truth.u) ** 2).mean(["member", "trajectory", "init_time", "y", "x"]))
    np.testing.assert_allclose(found.score.sel(forecast="model", metric="rmse", variable="u"), expected, rtol=1e-12)
    assert found.score.notnull().all()
    clean = box()
    clean["u"][{"trajectory": 10, "time": 20}] = np.nan
    (tmp_path / "b").mkdir()
    with pytest.raises(
        InputError, match="'u' has missing .* among the states to score, first at trajectory=110, time=10"
    ):
        evaluate(Run(tmp_path / "b", clean).experiment(), filled)


# ------------------------------------------------------------------------------------------------------ refusals


def refused(run, forecast, match, *overrides):
    with pytest.raises(InputError, match=match):
        evaluate(run.experiment(*overrides), forecast)
    assert not (run.folder / "out" / "scores.nc").exists()


def test_a_forecast_of_training_states_is_refused(run):
    problem, forecast, truth = run.pieces("train")
    refused(run, truth, r"180 of 180 forecast states lie in the training split \(6 of 12 trajectories.*; roll out")
    found = evaluate(run.experiment("--rollout.split=train"), truth)
    assert found.attrs["verdict"] == "beats its baselines (on the split that the model was trained on)"


def test_a_model_of_another_split_is_refused(run):
    (run.folder / "out").mkdir()
    (run.folder / "out" / "data_card.json").write_text(json.dumps({"splits": {"train": "11 of 12 trajectories"}}))
    refused(run, run.pieces()[2], "was trained on 11 of 12 trajectories, the experiment's train split is now 6 of 12")


def test_a_climatology_that_knows_the_answer_is_refused(run):
    problem, _, truth = run.pieces()
    leaking = fit_climatology(problem.record, ["u"], problem.parts["train"]).assign_attrs(fit_trajectories=[0, 9])
    with pytest.raises(InputError, match="the climatology was fitted on 6 of 12 .* the score would know its answer"):
        evaluate(run.experiment(), truth, climatology=leaking)
    evaluate(run.experiment(), truth, climatology=fit_climatology(problem.record, ["u"], problem.parts["train"]))


def test_no_forecast_says_how_to_make_one(run):
    refused(run, None, "no forecast to score: .*workbench rollout -c run .*workbench baselines -c run")


def test_scores_are_never_overwritten_by_accident(run):
    run.write(run.pieces()[2])
    evaluate(run.experiment())
    before = (run.folder / "out" / "scores.nc").read_bytes()
    with pytest.raises(InputError, match="scores.nc exists already; pass --overwrite"):
        evaluate(run.experiment())
    assert (run.folder / "out" / "scores.nc").read_bytes() == before
    assert sorted(p.name for p in (run.folder / "out").iterdir()) == ["rollout.zarr", "scores.nc"]


def test_a_forecast_of_something_else_is_refused(run):
    _, forecast, truth = run.pieces()
    refused(run, truth.rename(u="v"), "the forecast has no variable 'u'; it has v")
    refused(run, truth.isel(member=0), r"has dimensions \('trajectory', .* and lacks member: expected \(member,")
    centimetres = truth.copy()
    centimetres["u"] = centimetres.u.assign_attrs(units="cm s-1")
    refused(run, centimetres, "variable 'u' is in 'cm s-1', expected 'm s-1'")
    refused(run, truth.isel(x=slice(4)), "axis 'x' has 4 points, expected 8")
    refused(run, truth.isel(x=slice(None, None, -1)), "axis 'x' is reversed")
    refused(run, truth.assign_coords(trajectory=truth.trajectory + 50), "trajectory 157 of the forecast is not in the")
    refused(
        run, truth.isel(trajectory=0, drop=True), "the record has a dimension 'trajectory' and the forecast has none"
    )
    refused(run, truth.isel(lead_time=[0, 2, 4]), r"are \[1, 2\] record steps apart, the experiment forecasts every 1")
    refused(run, truth, r"are \[1\] record steps apart, the experiment forecasts every 2", "--data.stride=2")


def test_a_forecast_that_runs_past_the_record_names_its_start(run):
    _, _, truth = run.pieces()
    later = truth.assign_coords(init_time=truth.init_time + 0.5, valid_time=truth.valid_time + 0.5)
    refused(run, later, r"no state at valid time 20.0 \(forecast from 17.0\)")


def test_a_grid_that_differs_by_rounding_alone_is_the_same(run):
    _, _, truth = run.pieces()
    evaluate(run.experiment(), truth.assign_coords(x=truth.x.astype("f4"), trajectory=truth.trajectory.astype("f4")))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("--evaluate.metrics=[rmsee]", "no metric 'rmsee': did you mean 'rmse'"),
        ("--evaluate.baselines=[climatolgy]", "no baseline 'climatolgy' .*: did you mean 'climatology'"),
        ("--evaluate.headline=activity", "evaluate.headline is 'activity', by which a model cannot be compared"),
        (
            "--evaluate.metrics=[crps_fair]",
            "names 'crps_fair', which needs an ensemble, and the forecast has one member",
        ),
        ("--evaluate.headline=spread", "evaluate.headline is 'spread'"),
        (
            "--evaluate.weights=cos_lat",
            "evaluate.weights is 'cos_lat', but 'u' lies on y, x, none of which is a latitude",
        ),
    ],
)
def test_names_that_mean_nothing(run, override, match):
    refused(run, run.pieces()[2], match, override)


# ------------------------------------------------------------------------------------------------------ commands


def test_the_command_prints_a_table_and_the_headline_last(run, capsys):
    _, _, truth = run.pieces()
    run.write(noisy(truth, 0.1))
    assert main([*run.words, "--evaluate.headline=mae"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "mae over 25 starts" in lines[0] and any("persistence" in line and "0.5 s" not in line for line in lines)
    assert lines[-2].startswith("u: beats persistence and climatology to step 6 of 6 (mae,")
    assert lines[-1] == f"wrote {run.folder / 'out' / 'scores.nc'}"


def test_the_command_as_json(run, capsys):
    _, _, truth = run.pieces()
    forecast = noisy(truth, 0.1)
    forecast["u"][{"trajectory": 0, "lead_time": 5}] = np.nan
    run.write(forecast)
    assert main([*run.words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["beats_to"] == {"u": {"persistence": 5, "climatology": 5}} and found["verdict"] == "beats its baselines"
    )
    assert found["score"]["u"]["model"][5] is None and found["score"]["u"]["model"][0] == pytest.approx(0.1, rel=0.1)
    assert found["lead_time"][0] == "0.5 s"


def test_the_list_defines_every_metric(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "rmse [units of the variable]\n    sqrt <(p - t)^2>" in listed and "acc [1]" in listed


def test_the_list_defines_every_baseline(capsys):
    assert baselines.main(["--list"]) == 0
    assert "persistence\n    the state at the start" in capsys.readouterr().out


def test_baselines_alone_need_no_model(run, capsys):
    assert baselines.main(run.words) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == f"wrote {run.folder / 'out' / 'baselines.nc'}"
    assert lines[-2].startswith("u: a model has to beat ") and "at step 6 (rmse" in lines[-2]
    with xr.open_dataset(run.folder / "out" / "baselines.nc", decode_timedelta=True) as found:
        assert list(found.forecast.values) == ["persistence", "climatology", "damped_persistence", "linear"]
        stored = found.score.sel(forecast="persistence").load()
    with pytest.raises(InputError, match="baselines.nc exists already"):
        baselines.main(run.words)
    run.write(run.pieces()[2])
    beside = evaluate(run.experiment()).score.sel(forecast="persistence")
    np.testing.assert_allclose(stored.sel(metric="rmse"), beside.sel(metric="rmse"), rtol=1e-12)


def test_without_baselines_there_is_a_score_and_no_verdict(run):
    run.write(run.pieces()[2])
    found = evaluate(run.experiment("--evaluate.baselines=[]"))
    assert list(found.forecast.values) == ["model"] and "beats_to" not in found
    assert found.attrs["verdict"] == "not compared with baselines"
    with pytest.raises(InputError, match="evaluate.baselines is empty: name at least one of persistence, climatology"):
        baselines.main([*run.words, "--evaluate.baselines=[]"])


def test_baselines_alone_are_those_that_the_file_names(run, capsys):
    chosen = ["--evaluate.baselines=[linear]", "--evaluate.metrics=[rmse, spread]"]
    assert baselines.main([*run.words, "--json", "--rollout.steps=2", *chosen]) == 0
    assert list(json.loads(capsys.readouterr().out)["score"]["u"]) == ["linear"]


def test_help_and_import_do_without_torch():
    code = (
        "import sys, workbench.evaluate, workbench.commands.baselines\n"
        "from workbench.cli import main\n"
        "for verb in ('evaluate', 'baselines'):\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as done: assert done.code == 0\n"
        "import workbench.scoring.judge, workbench.baselines.forecasts\n"
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("reads ") >= 2
    for verb in ("evaluate", "baselines"):
        assert f"workbench {verb} -c kolmogorov/fno" in done.stdout
