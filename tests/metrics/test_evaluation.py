"""The evaluation as a whole: labels, laziness, masks, independence of chunking, refusals."""

import subprocess
import sys
from functools import reduce
from operator import add

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import weights
from workbench.errors import InputError
from workbench.metrics import METRICS, accumulate, concatenate, evaluate, find_metric, finish
from workbench.metrics.base import COMPONENT, Fields, Statistic, aggregate

SPACE = ("y", "x")
ALL = ("init_time", *SPACE)
NAMES = tuple(METRICS)


def forecast(starts=6, members=3, seed=0):
    """Return (prediction, truth, climatology) of u and p with dates as starts and hours as leads."""
    rng = np.random.default_rng(seed)
    init = np.datetime64("2001-01-01", "ns") + np.arange(starts) * np.timedelta64(1, "D")
    lead = np.arange(1, 4) * np.timedelta64(6, "h").astype("timedelta64[ns]")
    coords = {"init_time": init, "lead_time": lead, "y": np.linspace(-60, 60, 5), "x": np.arange(4.0)}
    dims = tuple(coords)
    shape = tuple(len(c) for c in coords.values())
    truth = {name: (dims, rng.normal(size=shape), {"units": "m s-1"}) for name in ("u", "p")}
    drawn = {n: rng.normal(size=(members, *shape)) + v[1] for n, v in truth.items()}
    prediction = {name: (("member", *dims), v, {"units": "m s-1", "long_name": name}) for name, v in drawn.items()}
    climatology = {name: (("lead_time", "y", "x"), 0.1 * rng.normal(size=shape[1:])) for name in truth}
    space = {k: v for k, v in coords.items() if k != "init_time"}
    return xr.Dataset(prediction, coords), xr.Dataset(truth, coords), xr.Dataset(climatology, space)


PREDICTION, TRUTH, CLIMATOLOGY = forecast()
WEIGHTS = weights.latitude_area(TRUTH.y)


def refuse_to_compute(*args, **kwargs):
    raise AssertionError("something was computed before it was asked for")


def test_scores_keep_labels_and_units():
    found = evaluate(["rmse", "acc"], PREDICTION, TRUTH, over=ALL, climatology=CLIMATOLOGY, weights=WEIGHTS)
    assert set(found.data_vars) == {"u", "p"}
    assert found.u.dims == ("metric", "lead_time")
    assert list(found.metric.values) == ["rmse", "acc"]
    assert list(found.unit_power.values) == [1, 0]
    assert found.u.attrs["units"] == "m s-1"
    xr.testing.assert_equal(found.lead_time, TRUTH.lead_time)


def test_scores_survive_netcdf(tmp_path):
    found = evaluate(["rmse", "bias"], PREDICTION, TRUTH, over=ALL)
    found.to_netcdf(tmp_path / "scores.nc")
    with xr.open_dataset(tmp_path / "scores.nc", decode_timedelta=True) as again:
        xr.testing.assert_equal(again.u.sel(metric="bias"), found.u.sel(metric="bias"))


def test_truth_selected_at_the_valid_times_is_aligned():
    days = np.datetime64("2001-01-01", "ns") + np.arange(8) * np.timedelta64(1, "D")
    record = xr.Dataset({"u": ("time", np.arange(8.0))}, {"time": days})
    init = record.time[:5].rename(time="init_time")
    lead = xr.DataArray(np.arange(1, 4) * np.timedelta64(1, "D"), dims="lead_time")
    valid = (init + lead.assign_coords(lead_time=lead.values)).assign_coords(init_time=init.values)
    persistence = record.u.sel(time=init).drop_vars("time") + 0 * valid.astype(float)
    forecast = persistence.to_dataset(name="u").assign_coords(valid_time=valid).expand_dims("member")
    found = evaluate(["bias"], forecast, record.sel(time=forecast.valid_time), over="init_time")
    np.testing.assert_array_equal(found.u[0], [-1.0, -2.0, -3.0])


def test_one_name_may_be_given_as_a_string():
    a = evaluate(["rmse"], PREDICTION, TRUTH, over="x")
    xr.testing.assert_identical(a, evaluate(["rmse"], PREDICTION, TRUTH, over=("x",)))


def test_order_of_dimensions_does_not_matter():
    shuffled = PREDICTION.transpose("x", "lead_time", "member", "y", "init_time")
    a = evaluate(NAMES, shuffled, TRUTH, over=ALL, climatology=CLIMATOLOGY, weights=WEIGHTS)
    b = evaluate(NAMES, PREDICTION, TRUTH, over=ALL[::-1], climatology=CLIMATOLOGY, weights=WEIGHTS)
    xr.testing.assert_allclose(a, b.transpose(*a.u.dims), rtol=1e-12)


def test_float32_is_averaged_in_double():
    """2**24 and nine ones: in float32 each one would be lost."""
    values = np.ones(10, dtype=np.float32)
    values[0] = 2**24
    field = xr.Dataset({"u": ("x", values)})
    sums = accumulate(["mae"], field, 0 * field, over="x")
    assert float(sums.sums.u.sel(statistic="absolute_error")) == 2**24 + 9


def test_a_statistic_shared_by_metrics_is_computed_once():
    calls = []

    def squared(fields):
        calls.append(1)
        return fields.error**2

    statistics = [Statistic("e2", squared), Statistic("e2", squared)]
    field = xr.DataArray(np.ones(3), dims="x")
    sums = aggregate(statistics, {"u": Fields(field, field)}, {"u": xr.DataArray(1.0)}, over=["x"])
    assert len(calls) == 1
    assert list(sums.sums.statistic.values) == ["e2"]
    everything = accumulate(["mse", "rmse", "skill", "nrmse_std"], PREDICTION, TRUTH, over=ALL)
    assert sorted(everything.sums.statistic.values) == ["squared_error", "truth", "truth_squared"]


# ------------------------------------------------------------------------------------------------ laziness


def test_nothing_is_computed_until_asked():
    lazy = [d.chunk({"init_time": 2, "x": 3}) for d in (PREDICTION, TRUTH)]
    lazy_weights, mask = WEIGHTS.chunk(), (TRUTH.u > -1).chunk()
    with dask.config.set(scheduler=refuse_to_compute):
        found = evaluate(
            NAMES, *lazy, over=ALL, climatology=CLIMATOLOGY.chunk(), weights=lazy_weights, mask=mask
        )  # fmt: skip
        with pytest.raises(AssertionError, match="before it was asked for"):
            found.compute()
    eager = evaluate(NAMES, PREDICTION, TRUTH, over=ALL, climatology=CLIMATOLOGY, weights=WEIGHTS, mask=TRUTH.u > -1)
    xr.testing.assert_allclose(found.compute(), eager, rtol=1e-13)


def test_metrics_and_significance_need_no_torch():
    code = "import sys, workbench.significance, workbench.metrics.spectra, workbench.metrics.stability; "
    code += "sys.exit('torch' in sys.modules or 'pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------- independence of chunking


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_split_in_any_order_gives_the_same_sums(data):
    starts = data.draw(st.integers(2, 8))
    prediction, truth, climatology = forecast(starts, seed=data.draw(st.integers(0, 1000)))
    order = data.draw(st.permutations(range(starts)))
    cuts = sorted(data.draw(st.sets(st.integers(1, starts - 1))))
    parts = [list(part) for part in np.split(np.array(order), cuts)]
    prediction, truth = prediction[["u"]], truth[["u"]]
    options = dict(over=ALL, climatology=climatology, weights=WEIGHTS, mask=truth > -1)
    whole = accumulate(NAMES, prediction, truth, **options)

    def of(part):
        chosen = dict(options, mask=(truth > -1).isel(init_time=part))
        return accumulate(NAMES, prediction.isel(init_time=part), truth.isel(init_time=part), **chosen)

    merged = reduce(add, map(of, parts))
    np.testing.assert_allclose(merged.weights.to_array(), whole.weights.to_array(), rtol=1e-14)
    np.testing.assert_array_equal(merged.maxima.to_array(), whole.maxima.to_array())
    # A sum of mixed signs is exact relative to the sum of magnitudes, here of order one per unit weight.
    scale = float(abs(whole.weights.to_array()).max())
    np.testing.assert_allclose(merged.sums.to_array(), whole.sums.to_array(), rtol=1e-14, atol=1e-14 * scale)
    for name in ("rmse", "mae", "rmse_root_first", "relative_l2", "crps", "spread"):
        np.testing.assert_allclose(finish([name], merged).to_array(), finish([name], whole).to_array(), rtol=1e-14)


def test_a_maximum_alone_is_kept_without_sums():
    sums = accumulate(["rmse"], PREDICTION, TRUTH, over=SPACE)
    largest = Statistic("largest", lambda fields: fields.truth, reduce="max")
    fields = {"u": Fields(TRUTH.u, TRUTH.u)}
    alone = aggregate([largest], fields, {"u": xr.DataArray(1.0)}, over=ALL)
    assert not alone.sums
    np.testing.assert_array_equal(alone.means(["largest"])["u"][0], TRUTH.u.max(ALL))
    assert not sums.maxima


def test_sums_per_start_finish_to_the_whole_and_to_each_start():
    options = dict(climatology=CLIMATOLOGY, weights=WEIGHTS)
    per_start = accumulate(NAMES, PREDICTION, TRUTH, over=SPACE, **options)
    whole = evaluate(NAMES, PREDICTION, TRUTH, over=ALL, **options)
    xr.testing.assert_allclose(finish(NAMES, per_start.sum("init_time")), whole, rtol=1e-13)
    one = slice(2, 3)
    alone = evaluate(NAMES, PREDICTION.isel(init_time=one), TRUTH.isel(init_time=one), over=ALL, **options)
    xr.testing.assert_allclose(finish(NAMES, per_start).isel(init_time=2, drop=True), alone, rtol=1e-13)


def test_sums_of_parts_concatenate_along_the_starts():
    whole = accumulate(["rmse", "nrmse_range"], PREDICTION, TRUTH, over=SPACE)
    parts = [
        accumulate(["rmse", "nrmse_range"], PREDICTION.isel(init_time=s), TRUTH.isel(init_time=s), over=SPACE)
        for s in (slice(0, 2), slice(2, 6))
    ]
    joined = concatenate(parts, "init_time")
    xr.testing.assert_identical(joined.sums, whole.sums)
    xr.testing.assert_identical(joined.weights, whole.weights)
    xr.testing.assert_identical(joined.maxima, whole.maxima)
    xr.testing.assert_identical(concatenate(parts[:1], "init_time").sums, parts[0].sums)


def test_sample_means_average_over_the_named_starts():
    renamed = [d.rename(init_time="sample") for d in (PREDICTION, TRUTH)]
    a = evaluate(["rmse_root_first"], *renamed, over=("sample", *SPACE), starts="sample")
    b = evaluate(["rmse_root_first"], PREDICTION, TRUTH, over=ALL)
    xr.testing.assert_equal(a, b)
    root_last = evaluate(["rmse"], *renamed, over=("sample", *SPACE))
    without = evaluate(["rmse_root_first"], *renamed, over=("sample", *SPACE))
    np.testing.assert_array_equal(without.u, root_last.u)


# ------------------------------------------------------------------------------------------ missing values


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_is_never_skipped(name):
    spoiled = PREDICTION.copy(deep=True)
    spoiled.u[dict(member=1, init_time=2, lead_time=1, y=3, x=0)] = np.nan
    options = {"over": ALL, "climatology": CLIMATOLOGY, "weights": WEIGHTS}
    found, clean = (evaluate([name], forecast, TRUTH, **options) for forecast in (spoiled, PREDICTION))
    # what estimates a square without bias may find none that is positive
    missing = np.isnan(clean.u.values[0])
    assert "unbiased" in name or not missing.any()
    assert list(np.isnan(found.u.values[0])) == list(missing | [False, True, False])
    xr.testing.assert_equal(found.p, clean.p)


@pytest.mark.parametrize("name", NAMES)
def test_masked_points_count_for_nothing_and_may_be_nan(name):
    land = (TRUTH.x == 3.0) & (TRUTH.y > -100)
    holes = [d.where(~land) for d in (PREDICTION, TRUTH)]
    options = dict(over=ALL, climatology=CLIMATOLOGY, weights=WEIGHTS)
    masked = evaluate([name], *holes, mask=~land, **options)
    options["climatology"] = CLIMATOLOGY.isel(x=slice(3))
    without = evaluate([name], *(d.isel(x=slice(3)) for d in (PREDICTION, TRUTH)), **options)
    xr.testing.assert_allclose(masked, without, rtol=1e-13)


def test_a_start_without_valid_points_has_no_weight():
    mask = TRUTH.init_time != TRUTH.init_time[1]
    options = dict(over=ALL, climatology=CLIMATOLOGY)
    keep = [0, 2, 3, 4, 5]
    masked = evaluate(NAMES, PREDICTION, TRUTH, mask=mask, **options)
    without = evaluate(NAMES, PREDICTION.isel(init_time=keep), TRUTH.isel(init_time=keep), **options)
    xr.testing.assert_allclose(masked, without, rtol=1e-13)


def as_vector(dataset, name="wind"):
    parts = xr.concat([dataset.u, dataset.p], COMPONENT, combine_attrs="override")
    return parts.to_dataset(name=name)


def test_a_vector_has_the_scores_of_its_length():
    """sqrt <|d|^2>, sums of squares and products over components; a mask leaves out the whole vector."""
    p, t, c = PREDICTION.mean("member"), TRUTH, CLIMATOLOGY
    mask = xr.DataArray(np.random.default_rng(0).random((6, 3, 5, 4)) > 0.3, TRUTH.u.coords, TRUTH.u.dims)
    options = {"over": ALL, "weights": WEIGHTS, "mask": mask}
    vectors = [as_vector(d) for d in (p, t, c)]
    metrics = ["rmse", "rmse_root_first", "acc", "activity"]
    found = evaluate(metrics, *vectors[:2], climatology=vectors[2], **options).wind
    w = (WEIGHTS * mask).transpose(*TRUTH.u.dims)
    square = sum((p[n] - t[n]) ** 2 for n in ("u", "p"))
    np.testing.assert_allclose(found.sel(metric="rmse"), np.sqrt(square.weighted(w).mean(ALL)), rtol=1e-12)
    each = np.sqrt(square.weighted(w).mean(SPACE)).weighted(w.sum(SPACE)).mean("init_time")
    np.testing.assert_allclose(found.sel(metric="rmse_root_first"), each, rtol=1e-12)
    forecast, observed = ([d[n] - c[n] for n in ("u", "p")] for d in (p, t))
    pp, tt, pt = (
        sum(a * b for a, b in zip(x, y, strict=True)).weighted(w).mean(ALL)
        for x, y in ((forecast, forecast), (observed, observed), (forecast, observed))
    )
    np.testing.assert_allclose(found.sel(metric="acc"), pt / np.sqrt(pp * tt), rtol=1e-12)
    np.testing.assert_allclose(found.sel(metric="activity"), np.sqrt(pp), rtol=1e-12)


def test_a_vector_has_no_bias():
    with pytest.raises(InputError, match="'wind' is a vector, which has no bias, crps: expected some of mse, rmse"):
        evaluate(["rmse", "bias", "crps"], as_vector(PREDICTION), as_vector(TRUTH), over=ALL)


def test_no_valid_point_at_all_is_nan():
    mask = xr.zeros_like(TRUTH.x, dtype=bool)
    assert np.isnan(evaluate(["rmse", "relative_l2"], PREDICTION, TRUTH, over=ALL, mask=mask).u).all()


def test_weights_and_masks_may_differ_by_variable():
    both = evaluate(
        ["rmse"], PREDICTION, TRUTH, over=ALL, mask=TRUTH > 0,
        weights=xr.Dataset({"u": WEIGHTS, "p": xr.ones_like(WEIGHTS)}),
    )  # fmt: skip
    u = evaluate(["rmse"], PREDICTION[["u"]], TRUTH, over=ALL, mask=TRUTH.u > 0, weights=WEIGHTS)
    p = evaluate(["rmse"], PREDICTION[["p"]], TRUTH, over=ALL, mask=TRUTH.p > 0)
    np.testing.assert_allclose(both.u, u.u, rtol=1e-14)
    np.testing.assert_allclose(both.p, p.p, rtol=1e-14)


# ------------------------------------------------------------------------------------------------ refusals


def refused(match, metrics=("rmse",), prediction=PREDICTION, truth=TRUTH, over=ALL, **options):
    with pytest.raises(InputError, match=match):
        evaluate(metrics, prediction, truth, over=over, **options)


def test_unknown_metric():
    refused("no metric 'rsme': did you mean .*'rmse'", metrics=["rsme"])
    refused("no metric 'zzzz': choose among mse, rmse", metrics=["zzzz"])
    refused("no metric was asked for", metrics=[])
    assert find_metric("rmse") is METRICS["rmse"]


def test_variables_must_match():
    refused(r"the truth has variables \['p'\] and lacks \['u'\]", truth=TRUTH[["p"]])
    refused("the prediction holds no variable", prediction=PREDICTION[[]])
    extra = TRUTH.assign(forcing=TRUTH.u)
    xr.testing.assert_identical(
        evaluate(["rmse"], PREDICTION, extra, over=ALL), evaluate(["rmse"], PREDICTION, TRUTH, over=ALL)
    )


def test_units_must_match():
    feet = TRUTH.assign(u=TRUTH.u.assign_attrs(units="ft s-1"))
    refused("variable 'u' is in 'm s-1' in the prediction and in 'ft s-1' in the truth", truth=feet)


def test_dimensions_must_match():
    refused("'time' in the truth|'u' has dimensions .* in the truth", truth=TRUTH.rename(lead_time="time"))
    refused("'u' has dimensions .* in the prediction", truth=TRUTH.isel(lead_time=0, drop=True))
    refused(r"variable 'u': expected \('z',\) among its dimensions", over=("z", "x"))


def test_coordinates_must_match():
    shifted = TRUTH.assign_coords(x=TRUTH.x + [0, 0, 0.5, 0])
    refused("coordinate 'x' differs .* at index 2 prediction has 2.0, truth has 2.5", truth=shifted)
    refused("coordinate 'init_time' differs .* 6 points .* 5 points", truth=TRUTH.isel(init_time=slice(5)))
    refused("coordinate 'y' differs .* at index 0", truth=TRUTH.isel(y=slice(None, None, -1)))
    refused("'x' has a coordinate in prediction but none in truth", truth=TRUTH.drop_vars("x"))
    bare = [d.drop_vars("x") for d in (PREDICTION, TRUTH)]
    refused("prediction has 4 points, truth has 3", prediction=bare[0], truth=bare[1].isel(x=slice(3)))
    refused("coordinate 'lead_time' differs", truth=TRUTH.assign_coords(lead_time=[6.0, 12.0, 18.0]))


def test_equal_times_of_different_resolution_match():
    coarse = TRUTH.assign_coords(init_time=TRUTH.init_time.astype("datetime64[s]"))
    evaluate(["rmse"], PREDICTION, coarse, over=ALL)


def test_weights_must_fit():
    refused(
        r"weights of 'u': expected no dimensions beyond .* found \['level'\]",
        weights=xr.DataArray(np.ones(3), dims="level"),
    )
    refused("coordinate 'y' differs between truth and the weights", weights=WEIGHTS.assign_coords(y=WEIGHTS.y + 1))
    refused("negative number or NaN", weights=WEIGHTS - 1.0)
    refused("negative number or NaN", weights=WEIGHTS.where(WEIGHTS.y > 0))
    refused(r"weights are given for \['u'\] and lack 'p'", weights=WEIGHTS.to_dataset(name="u"))


def test_masks_must_be_boolean():
    refused("mask of 'u' is of type float64", mask=TRUTH.u)


def test_climatology_must_fit():
    refused("no climatology was given", metrics=["acc"])
    refused("lacks 'p'", metrics=["acc"], climatology=CLIMATOLOGY[["u"]])
    by_day = CLIMATOLOGY.expand_dims(dayofyear=[1, 2])
    refused(r"\['dayofyear'\].*truth.valid_time.dt.dayofyear", metrics=["acc"], climatology=by_day)


def test_sums_that_do_not_combine():
    sums = accumulate(["rmse"], PREDICTION, TRUTH, over=ALL)
    others = {
        "coordinate 'statistic' differs": accumulate(["mae"], PREDICTION, TRUTH, over=ALL),
        "of .'p', 'u'. and of .'u'. do not combine": accumulate(["rmse"], PREDICTION[["u"]], TRUTH, over=ALL),
        "dimensions .* do not combine": accumulate(["rmse"], PREDICTION, TRUTH, over=SPACE),
        "coordinate 'lead_time' differs": accumulate(
            ["rmse"], PREDICTION.isel(lead_time=slice(2)), TRUTH.isel(lead_time=slice(2)), over=ALL
        ),
    }
    for message, other in others.items():
        with pytest.raises(InputError, match=message):
            sums + other
    with pytest.raises(InputError, match="'absolute_error' is not among the accumulated .'squared_error'."):
        finish(["mae"], sums)
    with pytest.raises(InputError, match=r"the sums of 'u': expected \('init_time',\)"):
        sums.sum("init_time")
    with pytest.raises(InputError, match="nothing to concatenate"):
        concatenate([], "init_time")
