"""Scores against numbers worked by hand, their definitions, and the package `scores`."""

import numpy as np
import pytest
import scores as peer
import xarray as xr

from workbench.data import weights
from workbench.errors import InputError
from workbench.metrics import METRICS, describe, evaluate
from workbench.metrics.base import sample_mean
from workbench.metrics.fields import CORRELATION, FIELD_METRICS, NRMSE_RANGE, variance_of

EVERY_DIM = ("init_time", "y", "x")
FIELD_NAMES = [metric.name for metric in FIELD_METRICS]


def dataset(values, **coords):
    """Return a Dataset with variable u on (init_time, y, x)."""
    values = np.asarray(values, dtype=float)
    sizes = dict(zip(EVERY_DIM, values.shape, strict=True))
    labels = {dim: coords.get(dim, np.arange(float(size))) for dim, size in sizes.items()}
    return xr.Dataset({"u": (EVERY_DIM, values)}, labels)


@pytest.fixture
def record():
    """Return (prediction, truth, climatology) that resemble a forecast: anomalies correlate at about 0.9."""
    rng = np.random.default_rng(0)
    climatology = 10.0 + rng.normal(size=(7, 6, 8))
    anomaly = rng.normal(size=(7, 6, 8))
    truth = climatology + anomaly
    prediction = climatology + 0.9 * anomaly + 0.4 * rng.normal(size=(7, 6, 8))
    y = np.linspace(-75, 75, 6)
    return dataset(prediction, y=y), dataset(truth, y=y), dataset(climatology, y=y)


def score(name, prediction, truth, **options):
    return float(evaluate([name], prediction, truth, over=EVERY_DIM, **options).u.sel(metric=name))


# Truth 1 2 / 3 4 at two starts, errors +1 everywhere at the first and -3 everywhere at the second.
TRUTH = dataset([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]])
PREDICTION = dataset([[[2.0, 3.0], [4.0, 5.0]], [[-2.0, -1.0], [0.0, 1.0]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", 5.0),  # (1 + 9) / 2
        ("rmse", np.sqrt(5.0)),
        ("rmse_root_first", 2.0),  # (1 + 3) / 2
        ("mae", 2.0),
        ("bias", -1.0),  # (1 - 3) / 2
        ("nrmse_std", np.sqrt(5.0 / 1.25)),  # the variance of 1 2 3 4 is 1.25
        ("nrmse_range", np.sqrt(5.0) / 3.0),
        ("relative_l2", 0.5 * (1.0 + 3.0) / np.sqrt(7.5)),  # the mean square of 1 2 3 4 is 7.5
        ("correlation_sample_mean", 1.0),
        # moments: <p> 1.5, <t> 2.5, <p^2> (54 + 6) / 8 = 7.5, <pt> (40 + 0) / 8 = 5
        ("correlation", (5.0 - 1.5 * 2.5) / np.sqrt((7.5 - 2.25) * 1.25)),
    ],
)
def test_hand_worked_values(name, expected):
    assert score(name, PREDICTION, TRUTH) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # climatology 1 everywhere: p' = 1 2 3 4 and -3 -2 -1 0, t' = 0 1 2 3 twice
        ("acc", (20 - 4) / np.sqrt((30 + 14) * (14 + 14))),
        ("acc_sample_mean", 0.5 * (20 / np.sqrt(30 * 14) - 4 / 14)),
        ("acc_centred_sample_mean", 1.0),
        ("activity", np.sqrt((30 + 14) / 8)),
        ("activity_ratio", np.sqrt((30 + 14) / 28)),
    ],
)
def test_hand_worked_anomaly_scores(name, expected):
    assert score(name, PREDICTION, TRUTH, climatology=xr.ones_like(TRUTH)) == pytest.approx(expected, rel=1e-14)


def test_weights_enter_before_the_root():
    weight = xr.DataArray([1.0, 3.0], dims="init_time", coords={"init_time": [0.0, 1.0]})
    assert score("mse", PREDICTION, TRUTH, weights=weight) == pytest.approx((1 + 27) / 4)
    assert score("rmse_root_first", PREDICTION, TRUTH, weights=weight) == pytest.approx((1 + 9) / 4)


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_a_perfect_forecast_scores_the_optimum(name, record):
    _, truth, climatology = record
    optimum = METRICS[name].optimum
    value = score(name, truth, truth, climatology=climatology, weights=weights.cos_latitude(truth.y))
    assert optimum is None or value == pytest.approx(optimum, abs=1e-14)


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_units_scale_as_the_metric_says(name, record):
    prediction, truth, climatology = record
    once = score(name, prediction, truth, climatology=climatology)
    thousandfold = score(name, 1000 * prediction, 1000 * truth, climatology=1000 * climatology)
    assert thousandfold == pytest.approx(once * 1000.0 ** METRICS[name].unit_power, rel=1e-12)


@pytest.mark.parametrize("weight", [None, weights.cos_latitude])
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("mse", peer.continuous.mse),
        ("rmse", peer.continuous.rmse),
        ("mae", peer.continuous.mae),
        ("bias", peer.continuous.additive_bias),
    ],
)
def test_errors_agree_with_scores(name, oracle, weight, record):
    prediction, truth, _ = record
    w = None if weight is None else weight(truth.y)
    # scores averages w s over the points without dividing by the weights: normalise them to mean one.
    theirs = oracle(prediction.u, truth.u, weights=None if w is None else w / w.mean())
    assert score(name, prediction, truth, weights=w) == pytest.approx(float(theirs), rel=1e-13)


def test_correlations_agree_with_scores(record):
    prediction, truth, climatology = record
    theirs = peer.continuous.correlation.pearsonr(prediction.u, truth.u)
    assert score("correlation", prediction, truth) == pytest.approx(float(theirs), rel=1e-12)
    anomalies = prediction.u - climatology.u, truth.u - climatology.u
    ours = score("acc_centred", prediction, truth, climatology=climatology)
    assert ours == pytest.approx(float(peer.continuous.correlation.pearsonr(*anomalies)), rel=1e-12)
    each = peer.continuous.correlation.pearsonr(*anomalies, preserve_dims=["init_time"]).mean()
    ours = score("acc_centred_sample_mean", prediction, truth, climatology=climatology)
    assert ours == pytest.approx(float(each), rel=1e-12)


def test_root_last_is_never_below_root_first(record):
    prediction, truth, _ = record
    assert score("rmse", prediction, truth) > score("rmse_root_first", prediction, truth)


def test_correlation_of_a_small_signal_on_a_large_mean_keeps_nine_digits():
    rng = np.random.default_rng(2)
    t = rng.normal(size=(4, 50, 50))
    p = t + 0.3 * rng.normal(size=t.shape)
    expected = np.corrcoef(p.ravel(), t.ravel())[0, 1]
    offset = 1000.0  # a pressure record: mean 1e5 Pa, deviation 1e2 Pa
    assert score("correlation", dataset(p + offset), dataset(t + offset)) == pytest.approx(expected, rel=2e-9)


def test_a_constant_truth_has_no_correlation():
    constant = dataset(np.full((3, 40, 40), 0.1))
    noisy = dataset(np.random.default_rng(0).normal(size=(3, 40, 40)))
    assert np.isnan(score("correlation", noisy, constant))
    assert np.isnan(score("nrmse_std", noisy, constant))
    assert np.isnan(score("nrmse_range", noisy, constant))
    assert np.isnan(score("relative_l2", noisy, 0 * constant))


def test_variance_keeps_nan():
    np.testing.assert_array_equal(variance_of(np.array([np.nan, 1.0]), np.array([1.0, 1.0])), [np.nan, 0.0])


def test_every_metric_states_its_definition_and_source():
    text = describe()
    for name, metric in METRICS.items():
        assert metric.definition and metric.source and metric.definition in text
        assert f"{name} [" in text
    assert describe(["rmse"]).startswith("rmse [units of the variable]\n")


@pytest.mark.parametrize("metric", [sample_mean(CORRELATION, "twice", ""), NRMSE_RANGE])
def test_a_sample_mean_is_taken_of_point_statistics_only(metric):
    with pytest.raises(InputError, match=f"metric '{metric.name}' is not a function of means"):
        sample_mean(metric, "name", "")
