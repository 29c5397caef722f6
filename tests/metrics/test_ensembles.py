import numpy as np
import pytest
import xarray as xr
from scores.probability import crps_for_ensemble

from workbench.errors import InputError
from workbench.metrics import evaluate
from workbench.metrics.ensembles import ENSEMBLE_METRICS

DIMS = ("member", "init_time", "x")


def pair(members, truth):
    """Return (prediction, truth) Datasets of members ``(member, init_time, x)`` and truth ``(init_time, x)``."""
    coords = {"init_time": np.arange(float(truth.shape[0])), "x": np.arange(float(truth.shape[1]))}
    return xr.Dataset({"u": (DIMS, members)}, coords), xr.Dataset({"u": (DIMS[1:], truth)}, coords)


def scores_of(names, members, truth):
    found = evaluate(names, *pair(members, truth), over=("init_time", "x"))
    return [float(found.u.sel(metric=name)) for name in names]


def test_hand_worked_crps():
    # members 0 1 3, truth 2: mean |x - t| = (2 + 1 + 1) / 3; sum over all pairs of |x_i - x_j| = 2 (1 + 3 + 2) = 12
    members, truth = np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1), np.full((1, 1), 2.0)
    crps, fair = scores_of(["crps", "crps_fair"], members, truth)
    assert crps == pytest.approx(4 / 3 - 12 / 18)
    assert fair == pytest.approx(4 / 3 - 12 / 12)


def test_hand_worked_spread_and_skill():
    # members 0 1 3 about 4/3 have the variance 7/3; the mean misses 2 by 2/3
    members, truth = np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1), np.full((1, 1), 2.0)
    spread, skill, ratio = scores_of(["spread", "skill", "spread_skill_ratio"], members, truth)
    assert spread == pytest.approx(np.sqrt(7 / 3))
    assert skill == pytest.approx(2 / 3)
    assert ratio == pytest.approx(np.sqrt(4 / 3) * np.sqrt(7 / 3) / (2 / 3))


def test_hand_worked_unbiased_skill():
    members, truth = np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1), np.full((1, 1), 4.0)
    skill, ratio = scores_of(["skill_unbiased", "spread_skill_ratio_unbiased"], members, truth)
    assert skill == pytest.approx(np.sqrt((8 / 3) ** 2 - 7 / 9))
    assert ratio == pytest.approx(np.sqrt(7 / 3) / skill)
    truth = np.full((1, 1), 4 / 3)  # no error, less than the spread of the mean: no estimate
    assert np.isnan(scores_of(["skill_unbiased", "spread_skill_ratio_unbiased"], members, truth)).all()


def test_almost_fair_crps_is_between_the_plain_and_the_fair_one():
    rng = np.random.default_rng(0)
    plain, fair, almost = scores_of(
        ["crps", "crps_fair", "crps_almost_fair"], rng.normal(size=(4, 5, 6)), rng.normal(size=(5, 6))
    )
    assert almost == pytest.approx(0.95 * fair + 0.05 * plain)


@pytest.mark.parametrize(("name", "method"), [("crps", "ecdf"), ("crps_fair", "fair")])
def test_crps_agrees_with_scores(name, method):
    rng = np.random.default_rng(0)
    members, truth = rng.normal(size=(7, 5, 6)), rng.normal(size=(5, 6))
    prediction, observed = pair(members, truth)
    theirs = crps_for_ensemble(prediction.u, observed.u, "member", method=method)
    assert scores_of([name], members, truth)[0] == pytest.approx(float(theirs), rel=1e-13)


def test_one_member_has_the_crps_of_the_mean_absolute_error():
    rng = np.random.default_rng(1)
    crps, mae = scores_of(["crps", "mae"], rng.normal(size=(1, 5, 6)), rng.normal(size=(5, 6)))
    assert crps == pytest.approx(mae, rel=1e-15)


def test_a_large_gaussian_ensemble_has_the_closed_form_crps():
    """CRPS(N(0, 1), t) = t (2 Phi(t) - 1) + 2 phi(t) - 1 / sqrt pi, Gneiting et al. (2005), eq. 5."""
    from scipy.stats import norm

    truth = np.linspace(-3, 3, 13)
    quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    expected = truth * (2 * norm.cdf(truth) - 1) + 2 * norm.pdf(truth) - 1 / np.sqrt(np.pi)
    members = np.broadcast_to(quantiles[:, None, None], (20_000, 1, 13))
    prediction, observed = pair(members, truth[None])
    found = evaluate(["crps"], prediction, observed, over=("init_time",)).u.sel(metric="crps")
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_fair_crps_does_not_depend_on_ensemble_size():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(1, 40_000))
    members = rng.normal(size=(16, 1, 40_000))
    small, large = (scores_of(["crps", "crps_fair"], members[:m], truth) for m in (2, 16))
    assert large[1] == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)  # CRPS of the perfect Gaussian forecast
    assert small[1] == pytest.approx(large[1], rel=0.02)
    assert small[0] > 1.2 * large[0]


@pytest.mark.parametrize("size", [3, 20])
def test_a_perfect_ensemble_has_spread_skill_ratio_one(size):
    rng = np.random.default_rng(4)
    centre = rng.normal(size=(1, 20_000))
    draws = centre + rng.normal(size=(size + 1, 1, 20_000))
    ratios = scores_of(["spread_skill_ratio", "spread_skill_ratio_unbiased"], draws[1:], draws[0])
    assert ratios == pytest.approx([1.0, 1.0], abs=0.02)


def test_other_metrics_score_the_ensemble_mean():
    rng = np.random.default_rng(5)
    members, truth = rng.normal(size=(4, 3, 5)), rng.normal(size=(3, 5))
    of_mean = evaluate(["rmse"], *pair(members.mean(0, keepdims=True), truth), over=("init_time", "x"))
    assert scores_of(["rmse"], members, truth)[0] == pytest.approx(float(of_mean.u[0]), rel=1e-14)


def test_a_diverged_member_is_seen():
    members, truth = np.zeros((3, 2, 2)), np.ones((2, 2))
    members[0, 0, 0] = np.inf
    members[1, 1, 1] = np.nan
    prediction, observed = pair(members, truth)
    found = evaluate(["crps", "crps_fair", "spread"], prediction, observed, over=("x",))
    assert np.isnan(found.u).all()


@pytest.mark.parametrize("name", [m.name for m in ENSEMBLE_METRICS if m.name not in ("crps", "skill")])
def test_two_members_are_needed(name):
    with pytest.raises(InputError, match="'member' dimension with at least 2 members, found 1"):
        scores_of([name], np.zeros((1, 2, 2)), np.zeros((2, 2)))


def test_crps_needs_members():
    prediction, truth = pair(np.zeros((1, 2, 2)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="'member' dimension with at least 1 member, found 0"):
        evaluate(["crps"], prediction.isel(member=0), truth, over=("x",))
