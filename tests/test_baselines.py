import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from workbench.baselines.damping import fit_damping
from workbench.baselines.forecasts import BASELINES, fit_baselines
from workbench.baselines.linear import fit_linear
from workbench.data.climatology import climatology_at, fit_climatology
from workbench.data.config import DataConfig, Split
from workbench.data.starts import Problem, choose_starts, time_index
from workbench.data.weights import cos_latitude
from workbench.errors import InputError
from workbench.metrics import accumulate, finish

THIRDS = Split(by="trajectory", train=(0, 1 / 3), validation=(1 / 3, 2 / 3), test=(2 / 3, 1))
WEATHER = Path(__file__).parents[2] / "shared" / "data" / "weather"


def record(values, space=("x",), **coords):
    """A record of `u` on ``([trajectory,] time, *space)``, one time unit a step."""
    dims = (*(("trajectory",) if values.ndim > 1 + len(space) else ()), "time", *space)
    sizes = dict(zip(dims, values.shape, strict=True))
    grid = {d: np.arange(float(sizes[d])) for d in space} | {"time": np.arange(float(sizes["time"]))}
    return xr.Dataset({"u": (dims, values, {"units": "m", "long_name": "displacement"})}, grid | coords)


def pose(data, steps, history=1, stride=1, split=None, **options):
    config = DataConfig(
        record="", state=tuple(data.data_vars), history=history, stride=stride, split=split or Split(), **options
    )
    return Problem.of(data, config, steps)


def forecast(name, problem, part="test", count=0):
    """The forecast of one baseline, its truth, and its starts."""
    climatology = fit_climatology(problem.record, problem.names, problem.parts["train"], problem.missing)
    weights = {n: np.ones(problem.shape(n)) for n in problem.names}
    trajectories, starts = choose_starts(problem.parts[part], problem.history, problem.stride, problem.steps, count)
    found = fit_baselines([name], problem, climatology, weights)[name](trajectories, starts)
    index = time_index(problem.record, found["valid_time"])
    truth = problem.record.isel(time=xr.DataArray(index.values, dims=index.dims)).drop_vars("time")
    if "trajectory" in problem.record.dims:
        truth = truth.isel(trajectory=trajectories)
    return found.isel(member=0), truth, starts


def error(found, truth, name="u"):
    """Root mean square error at each lead."""
    difference = found[name] - truth[name].astype(float).drop_vars("trajectory", errors="ignore")
    return np.sqrt((difference**2).mean([d for d in difference.dims if d != "lead_time"])).values


def autoregressive(phi, length, seed=0, trajectories=None):
    """x(t + 1) = phi x(t) + noise of variance 1 - phi^2, about a mean of 3."""
    rng = np.random.default_rng(seed)
    shape = (*(() if trajectories is None else (trajectories,)), length, len(phi))
    noise = rng.normal(size=shape) * np.sqrt(1 - phi**2)
    values = np.zeros(shape)
    values[..., 0, :] = rng.normal(size=values[..., 0, :].shape)
    for t in range(1, length):
        values[..., t, :] = phi * values[..., t - 1, :] + noise[..., t, :]
    return values + 3.0


# ------------------------------------------------------------------------------------------- what each one is


def test_persistence_is_the_state_at_the_start_on_the_grid_of_the_record():
    data = record(np.random.default_rng(0).normal(size=(3, 60, 4)).astype("f4"), trajectory=np.array([5, 6, 9]))
    problem = pose(data, 3, stride=2, split=THIRDS)
    found, _, starts = forecast("persistence", problem)
    assert found.u.dims == ("trajectory", "init_time", "lead_time", "x")
    assert found.trajectory.values.tolist() == [9] and found.lead_time.values.tolist() == [2, 4, 6]
    assert found.u.attrs == {"units": "m", "long_name": "displacement"}
    assert np.array_equal(found.u.isel(trajectory=0), np.repeat(data.u.values[2, starts][:, None], 3, axis=1))
    assert np.array_equal(found.valid_time, starts[:, None] + np.array([2.0, 4, 6]))


def test_climatology_forecast_is_the_training_mean_at_every_lead():
    data = record(np.random.default_rng(0).normal(size=(100, 4)))
    found, truth, _ = forecast("climatology", pose(data, 3))
    assert found.u.shape == truth.u.shape
    assert np.allclose(found.u, data.u[:80].mean("time"), rtol=1e-14)


def test_damping_is_the_lag_regression_of_the_anomaly_at_each_point():
    data = record(np.random.default_rng(0).normal(size=(200, 3)).cumsum(0))
    problem = pose(data, 2, stride=3)
    climatology = fit_climatology(data, ["u"], problem.parts["train"])
    found = fit_damping(problem, climatology).u.values
    anomaly = data.u.values[:160] - climatology.u.values
    for i, lag in enumerate((3, 6)):
        p, q = anomaly[:-lag], anomaly[lag:]
        np.testing.assert_allclose(found[i], (p * q).sum(0) / (p * p).sum(0), rtol=1e-12)


def test_damping_never_pairs_states_across_a_gap_or_a_trajectory(monkeypatch):
    values = np.random.default_rng(0).normal(size=(2, 60, 3)).cumsum(1)
    data = record(values).assign_coords(time=np.concatenate([np.arange(30.0), np.arange(30.0) + 100]))
    split = Split(train=(0.0, 0.75), validation=(0.75, 0.9), test=(0.9, 1.0))
    problem = pose(data, 2, split=split, gaps="split")
    climatology = fit_climatology(data, ["u"], problem.parts["train"])
    anomaly = values[:, :45] - climatology.u.values
    runs = [anomaly[r, a:b] for r in (0, 1) for a, b in ((0, 30), (30, 45))]
    expected = sum((a[:-2] * a[2:]).sum(0) for a in runs) / sum((a[:-2] ** 2).sum(0) for a in runs)
    np.testing.assert_allclose(fit_damping(problem, climatology).u.values[1], expected, rtol=1e-12)
    monkeypatch.setattr("workbench.data.blocks.BLOCK_BYTES", 24 * 9)
    np.testing.assert_allclose(fit_damping(problem, climatology).u.values[1], expected, rtol=1e-12)


# ------------------------------------------------------------------------------------- where the optimum is known


def test_damped_persistence_reaches_the_optimum_of_an_autoregressive_process():
    """The best forecast of AR(1) is phi^L x, and misses by sqrt(1 - phi^(2 L))."""
    phi = np.array([0.5, 0.9, 0.97])
    problem = pose(record(autoregressive(phi, 40_000)), 4)
    climatology = fit_climatology(problem.record, ["u"], problem.parts["train"])
    leads = np.arange(1, 5)[:, None]
    assert np.allclose(fit_damping(problem, climatology).u, phi**leads, atol=0.03)
    damped, persistence, mean = (
        error(*forecast(name, problem)[:2]) for name in ("damped_persistence", "persistence", "climatology")
    )
    assert np.allclose(damped, np.sqrt((1 - phi ** (2 * leads)).mean(1)), rtol=0.05)
    assert (damped < persistence).all() and (damped < mean).all()


def orbit(size, length, mix=0):
    """A linear system x(t + 1) = A x(t): `size` / 2 rotations of whole periods in 40 steps, seen in other coordinates.

    Over whole periods the mean is zero, so that the climatology is the true mean of the system.
    """
    phase = 2 * np.pi * np.arange(length)[:, None] * np.arange(1, size, 2) / 40
    states = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) * np.arange(1.0, size + 1)
    return states @ np.linalg.qr(np.random.default_rng(mix).normal(size=(size, size)))[0]


@pytest.mark.parametrize("stride", [1, 3])
def test_linear_is_exact_on_a_linear_system(stride):
    data = record(7.0 + orbit(8, 400))
    found, truth, _ = forecast("linear", pose(data, 6, stride=stride))
    assert error(found, truth).max() < 1e-5
    assert error(*forecast("persistence", pose(data, 6, stride=stride))[:2]).min() > 0.1


def test_a_second_order_system_needs_two_states():
    """Standing waves, x(t + 1) = 2 cos(w) x(t) - x(t - 1): the state alone does not tell which way it moves."""
    t, w = np.arange(600.0), 2 * np.pi * np.array([6, 13, 21]) / 120
    data = record(np.cos(w * t[:, None] + np.array([0.1, 1.0, 2.0])))
    one, two = (error(*forecast("linear", pose(data, 3, history=h))[:2]) for h in (1, 2))
    assert two.max() < 1e-5 and one.min() > 0.1


def test_linear_takes_all_variables_of_different_units_together():
    """u drives v one step later; each alone is unpredictable."""
    rng = np.random.default_rng(0)
    u = 1e5 + 1e3 * rng.normal(size=(3000, 2))
    v = np.zeros((3000, 2))
    v[1:] = 1e-6 * (u[:-1] - 1e5)
    data = record(u)
    data["v"] = (("time", "x"), v, {"units": "K"})
    found, truth, _ = forecast("linear", pose(data, 1))
    assert error(found, truth, "v")[0] < 0.05 * v.std()
    assert error(found, truth, "u")[0] > 0.9 * 1e3


def test_linear_never_does_worse_than_damping_what_it_cannot_see():
    """White in space, so that modes are of no help: what they leave out is damped like the whole."""
    problem = pose(record(autoregressive(np.full(300, 0.8), 500)), 3)
    linear, damped = (error(*forecast(name, problem)[:2]) for name in ("linear", "damped_persistence"))
    assert (linear < 1.02 * damped).all()


def test_linear_says_what_was_chosen():
    problem = pose(record(orbit(8, 300)), 2)
    climatology = fit_climatology(problem.record, ["u"], problem.parts["train"])
    model = fit_linear(problem, climatology, {"u": np.ones(8)})
    assert "8 modes, ridge 1e-08 (chosen on the validation part)" in model.definition
    assert "functions of 240 training states" in model.definition


def test_linear_works_with_more_points_than_states():
    values = orbit(6, 200) @ np.random.default_rng(3).normal(size=(6, 2000))
    found, truth, _ = forecast("linear", pose(record(values), 2))
    assert error(found, truth).max() < 1e-4 * values.std()


# ------------------------------------------------------------------------------------------- laid out like any other


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_lazy_on_a_lazy_record_and_equal_on_any_chunks(name, monkeypatch):
    data = record(autoregressive(np.array([0.5, 0.9, 0.97, 0.2]), 80, trajectories=3))
    data.u.attrs["standard_name"] = "sea_surface_height"
    split = THIRDS
    eager, truth, _ = forecast(name, pose(data, 3, split=split))
    monkeypatch.setattr("workbench.baselines.forecasts.CHUNK_BYTES", 8 * 4 * 3 * 5)
    lazy, _, _ = forecast(name, pose(data.chunk(time=7, trajectory=1), 3, split=split))
    if name == "climatology":  # one field seen many times takes no memory
        assert np.asarray(lazy.u.data).strides[-3:-1] == (0, 0)
    else:
        assert lazy.u.chunks is not None and max(lazy.u.chunksizes["init_time"]) <= 5
    xr.testing.assert_allclose(lazy.compute(), eager, rtol=1e-10)
    assert lazy.u.dims == ("trajectory", "init_time", "lead_time", "x") == truth.u.transpose(*lazy.u.dims).dims
    assert lazy.u.attrs == {"units": "m", "long_name": "displacement", "standard_name": "sea_surface_height"}


@pytest.mark.parametrize("name", BASELINES)
def test_missing_values_are_taken_as_climatology(name):
    values = autoregressive(np.array([0.5, 0.9]), 400)
    values[::7, 0] = np.nan
    found, _, starts = forecast(name, pose(record(values), 2, missing="mask"))
    assert np.isfinite(found.u).all()
    if name == "persistence":
        gone = np.isnan(values[starts, 0])
        assert gone.any() and np.allclose(found.u[gone, :, 0], np.nanmean(values[:320, 0]))


# ------------------------------------------------------------------------------------------- refusals


def test_an_unknown_baseline_names_its_neighbour():
    problem = pose(record(np.zeros((50, 2))), 1)
    with pytest.raises(InputError, match="no baseline 'persistance' .*: did you mean 'persistence'?"):
        fit_baselines(["persistance"], problem, None, {})
    with pytest.raises(InputError, match="no baseline 'xyz' .*: choose among persistence, climatology"):
        fit_baselines(["xyz"], problem, None, {})


def test_a_baseline_of_anomalies_needs_a_climatology():
    with pytest.raises(InputError, match="'linear' needs a climatology"):
        fit_baselines(["linear"], pose(record(np.zeros((50, 2))), 1), None, {})


@pytest.mark.parametrize(("name", "part"), [("damped_persistence", "train"), ("linear", "validation")])
def test_a_lead_beyond_the_fitting_split_has_no_regression(name, part):
    data = record(np.random.default_rng(0).normal(size=(100, 2)))
    split = {
        "train": Split(train=(0.0, 0.1), validation=(0.1, 0.5), test=(0.5, 1.0)),
        "validation": Split(train=(0.0, 0.5), validation=(0.5, 0.6), test=(0.6, 1.0)),
    }[part]
    with pytest.raises(InputError, match=f"the {part} split holds no history and a state 10 steps later"):
        forecast(name, pose(data, 12, split=split))


# ------------------------------------------------------------------------------------------- published numbers

RECORDS = {
    "ncep_slp": ("ncep_slp_natl_daily_2001_2010.nc", "2009-07-01", {"slp": "Pa"}),
    "eraint": ("eraint_msl_z500_t850_12utc_2000_2010.nc", "2010-01-01", {"msl": "Pa", "z500": "m2 s-2", "t850": "K"}),
}
PUBLISHED = [  # the table of shared/data/weather/README.md: record, variable, lead in days, scores as printed there
    ("ncep_slp", "slp", 1, "611.3", "991.5", "583.8"),
    ("ncep_slp", "slp", 2, "907.4", "992.2", "809.1"),
    ("ncep_slp", "slp", 3, "1034.8", "992.9", "886.8"),
    ("ncep_slp", "slp", 5, "1169.8", "994.1", "953.7"),
    ("eraint", "msl", 1, "570.9", "865.6", "538.5"),
    ("eraint", "msl", 2, "826.9", "866.1", "728.7"),
    ("eraint", "z500", 1, "600.8", "1032.2", "574.6"),
    ("eraint", "z500", 2, "909.5", "1031.6", "816.7"),
    ("eraint", "t850", 1, "2.787", "3.963", "2.619"),
    ("eraint", "t850", 2, "3.930", "3.961", "3.419"),
]


@pytest.fixture(scope="module")
def published():
    if not WEATHER.is_dir():
        pytest.skip(f"the published records are not here: no {WEATHER}")
    return json.loads((WEATHER / "baselines.json").read_text())


@pytest.mark.parametrize(("source", "variable", "days", "persistence", "climatology", "damped"), PUBLISHED)
def test_published_scores_of_real_records(published, source, variable, days, persistence, climatology, damped):
    file, test, units = RECORDS[source]
    with xr.open_dataset(WEATHER / file) as opened:
        data = opened[[variable]].load()
    data[variable].attrs["units"] = units[variable]
    split = Split(train=("1900", "2008-12-31"), validation=("2009-01-01", "2009-06-30"), test=(test, "2010-12-31"))
    problem = pose(data, days, split=split)
    fitted = fit_climatology(data, [variable], problem.parts["train"])
    trajectories, starts = choose_starts(problem.parts["test"], 1, 1, days)
    wanted = published[source][variable][f"{24 * days}h"]
    assert len(starts) == wanted["n"]
    found, rest = {}, {}
    names = ("persistence", "climatology", "damped_persistence")
    for name, make in fit_baselines(names, problem, fitted, {}).items():
        prediction = make(trajectories, starts).isel(lead_time=[-1]).compute()
        truth = (
            data.isel(time=starts + days).rename(time="init_time").drop_vars("init_time").expand_dims("lead_time", 1)
        )
        truth = truth.assign_coords(init_time=prediction.init_time, lead_time=prediction.lead_time)
        options = {"over": ("lat", "lon"), "weights": cos_latitude(data.lat)}
        options["climatology"] = climatology_at(fitted, prediction.valid_time)
        metrics = ["rmse", "rmse_root_first", "acc_sample_mean"]
        scores = finish(metrics, accumulate(metrics, prediction, truth, **options).sum("init_time"))[variable].squeeze()
        found[name], rest[name] = float(scores[0]), scores[1:].values
    digits = len(persistence.partition(".")[2])
    assert [f"{score:.{digits}f}" for score in found.values()] == [persistence, climatology, damped]
    exact = [wanted[key] for key in ("persistence", "climatology", "damped_anom_persistence")]
    np.testing.assert_allclose(list(found.values()), exact, rtol=1e-9)
    np.testing.assert_allclose(rest["persistence"], [wanted["persistence_wb1"], wanted["acc_persistence"]], rtol=1e-9)
    assert rest["damped_persistence"][1] == pytest.approx(wanted["acc_damped"], rel=1e-9)
