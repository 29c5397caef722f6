import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workbench.errors import InputError
from workbench.metrics.long_run import (
    band,
    batch_numbers,
    exit_step,
    jackknife,
    neighbour_correlation,
    random_halves,
    relative_l2,
    wasserstein,
)


def sums_of(values, numbers):
    """Sums and counts over batches of one number a state."""
    known = np.unique(numbers[numbers >= 0])
    total = [values[numbers == n].sum() for n in known]
    count = [float((numbers == n).sum()) for n in known]
    return xr.Dataset({"total": ("batch", total), "count": ("batch", count)})


def mean(sums):
    return xr.Dataset({"mean": sums["total"] / sums["count"]})


def autoregressive(rng, runs, states, memory):
    noise = rng.normal(size=(runs, states)) * np.sqrt(1 - memory**2)
    noise[:, 0] /= np.sqrt(1 - memory**2)
    for t in range(1, states):
        noise[:, t] += memory * noise[:, t - 1]
    return noise


@given(st.integers(1, 8), st.integers(1, 200), st.integers(0, 50), st.integers(2, 30))
def test_batches_are_equal_stretches_of_one_run(runs, states, first, wanted):
    if first >= states:
        return
    numbers = batch_numbers(runs, states, first, wanted)
    assert (numbers[:, :first] == -1).all() and (numbers[:, first:] >= 0).all()
    assert (np.diff(numbers[:, first:], axis=1) >= 0).all()
    counts = np.bincount(numbers[numbers >= 0])
    assert counts.max() - counts.min() <= 1 and counts.min() > 0
    assert len(counts) >= min(wanted, runs * (states - first))
    assert all(len(set(np.argwhere(numbers == n)[:, 0])) == 1 for n in np.unique(numbers[numbers >= 0]))


def test_the_jackknife_of_a_mean_is_the_variance_of_batch_means():
    values = np.random.default_rng(0).normal(size=(2, 40))
    numbers = batch_numbers(2, 40, wanted=8)
    found = jackknife(sums_of(values, numbers), mean)
    means = np.array([values[numbers == n].mean() for n in range(8)])
    assert float(found.variance["mean"]) == pytest.approx(means.var(ddof=1) / 8, rel=1e-12)
    low, high = found.interval(0.95)
    half = stats.t.ppf(0.975, 7) * means.std(ddof=1) / np.sqrt(8)
    assert float(high["mean"] - low["mean"]) == pytest.approx(2 * half, rel=1e-12)


def test_intervals_of_a_process_with_memory_hold_its_mean_as_often_as_they_say():
    # 400 series; 20 batches of 100 states whose memory is 19: the binomial spread of the coverage is 1.1 %
    rng = np.random.default_rng(1)
    series = autoregressive(rng, 400, 2000, 0.9)
    numbers = batch_numbers(1, 2000)
    held = naive = 0
    for values in series[:, None]:
        found = jackknife(sums_of(values, numbers), mean)
        low, high = found.interval(0.95)
        held += float(low["mean"]) < 0 < float(high["mean"])
        naive += abs(values.mean()) < 1.96 * values.std() / np.sqrt(2000)
    assert 0.90 < held / 400 < 0.98
    assert naive / 400 < 0.6  # states counted as independent: an interval four times too narrow


def test_the_interval_of_a_standard_deviation_is_not_biased_by_short_batches():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        values, numbers = rng.normal(size=(1, 100)), batch_numbers(1, 100)
        sums = sums_of(values**2, numbers).rename(total="square").assign(total=sums_of(values, numbers)["total"])
        found = jackknife(
            sums, lambda s: xr.Dataset({"std": np.sqrt(s["square"] / s["count"] - (s["total"] / s["count"]) ** 2)})
        )
        low, high = found.interval(0.95)
        held += float(low["std"]) < 1.0 < float(high["std"])
    assert 0.88 < held / 200 < 0.99


def test_one_batch_gives_no_interval():
    found = jackknife(sums_of(np.ones((1, 4)), np.zeros((1, 4), int)), mean)
    assert float(found.value["mean"]) == 1.0
    assert np.isnan(found.interval(0.95)[0]["mean"])


def test_two_halves_hold_every_batch_once():
    sums = sums_of(np.random.default_rng(0).normal(size=(1, 70)), batch_numbers(1, 70, wanted=7))
    first, second = random_halves(sums, 5)
    np.testing.assert_allclose(first["total"] + second["total"], float(sums["total"].sum()))
    assert set(first["count"].values) == {30.0} and set(second["count"].values) == {40.0}


def test_successive_batches_are_correlated_where_they_are_shorter_than_the_memory():
    rng = np.random.default_rng(3)
    series = xr.DataArray(autoregressive(rng, 3, 2000, 0.98), dims=("run", "time"))
    assert neighbour_correlation(series, batch_numbers(3, 2000, wanted=600)) > 0.7
    assert abs(neighbour_correlation(series, batch_numbers(3, 2000, wanted=20))) < 0.45
    assert np.isnan(neighbour_correlation(series, batch_numbers(3, 2000, wanted=3)))


def test_wasserstein_distance_of_gaussians():
    edges = np.linspace(-8, 8, 65)
    cdf = xr.DataArray(stats.norm.cdf(edges), dims="edge")
    at = xr.DataArray(edges, dims="edge")
    assert float(wasserstein(cdf, at, cdf, at, "edge")) == 0.0
    assert float(wasserstein(cdf, at + 0.5, cdf, at, "edge")) == pytest.approx(0.5, rel=1e-12)
    assert float(wasserstein(cdf, 1.5 * at, cdf, at, "edge")) == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=0.01)
    assert np.isnan(wasserstein(cdf * np.nan, at, cdf, at, "edge"))


def test_relative_l2_hand_worked():
    truth = xr.DataArray([0.0, 3.0, 4.0], dims="y")
    assert float(relative_l2(truth + xr.DataArray([0.3, 0.0, 0.4], dims="y"), truth, "y")) == pytest.approx(0.1)


def history(rows):
    return xr.DataArray(np.asarray(rows, float), dims=("run", "step"))


def test_the_truth_never_leaves_its_own_band():
    truth = history(np.random.default_rng(0).standard_cauchy(size=(3, 50)))
    low, high = band(truth, ["run", "step"])
    assert np.isinf(exit_step(truth, low, high)).all()


def test_the_band_reaches_half_the_range_beyond_it_and_the_first_step_outside_counts():
    low, high = band(history([[1.0, 2.0], [3.0, 2.0]]), ["run", "step"])
    assert (float(low), float(high)) == (0.0, 4.0)
    found = exit_step(history([[1, 2, 3], [1, 5, 2], [-1, 1, 1], [1, 1, np.nan], [1, np.inf, 1]]), low, high)
    np.testing.assert_array_equal(found, [np.inf, 2, 1, 3, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_numbers(1, 10, first=10), "all 10 states lie in the transient of 10"),
        (lambda: batch_numbers(1, 10, wanted=1), "at least two batches, 1 were asked for"),
        (
            lambda: random_halves(xr.Dataset({"a": ("batch", [1.0])}), 2),
            "two halves need at least two batches, found 1",
        ),
        (lambda: jackknife(xr.Dataset({"a": ("time", [1.0])}), mean), r"expected \('batch',\) among its dimensions"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
