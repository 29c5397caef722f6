"""Ratios, their intervals and bounds, from errors and timings whose law is known."""

import numpy as np
import pytest

from workbench.equal_error.front import AT_LEAST, AT_MOST, BETWEEN
from workbench.equal_error.ratios import Draws, mean_errors, points_of, ratio_at

H = np.array([1.0, 0.5, 0.25, 0.125])
POINTS = points_of([1, 4], 4)


def contest(scale: float, noise: float = 0.1, starts: int = 24, rounds: int = 9):
    """Errors C h^2 with a common factor a start, surrogate first; seconds h^-3 with a common factor a round."""
    rng = np.random.default_rng(0)
    hard = np.exp(noise * rng.standard_normal((starts, 1))) * np.ones((1, 4))
    errors = np.stack([scale * hard, *(h**2 * hard for h in H)])
    slow = np.exp(noise * rng.standard_normal(rounds))
    return errors, H[:, None] ** -3 * slow, 10.0 * slow


def compare(scale: float, **options):
    errors, seconds, own = contest(scale, **options)
    draws = Draws.of((1, errors.shape[1]), errors[0], seconds.shape[1], resamples=400)
    means = mean_errors(errors, draws.starts, POINTS)
    return ratio_at(means[:, 1:, 0], means[:, 0, 0], seconds, own, draws, 0.95)


def test_what_all_have_in_common_cancels():
    """Hard starts and slow rounds hit both sides: the ratio is exact and its interval has no width."""
    found = compare(0.3**2)
    assert found.ratio == pytest.approx(0.3**-3 / 10)
    assert found.low == pytest.approx(found.ratio) == pytest.approx(found.high)
    assert found.bound == BETWEEN


def test_bounds_are_open_on_their_side():
    cheap, dear = compare(4.0), compare(1e-3)
    assert cheap.bound == AT_MOST and cheap.ratio == pytest.approx(0.1) and cheap.low == 0
    assert dear.bound == AT_LEAST and dear.ratio == pytest.approx(51.2) and dear.high == np.inf


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Independent noise on starts and rounds of both sides: of 60 experiments about 95 % cover the known ratio."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(60):
        errors = np.stack([0.09 * np.ones((40, 1)), *(h**2 * np.ones((40, 1)) for h in H)])
        errors *= np.exp(0.2 * rng.standard_normal(errors.shape) - 0.02)
        seconds = H[:, None] ** -3 * np.exp(0.05 * rng.standard_normal((4, 15)))
        own = 10 * np.exp(0.05 * rng.standard_normal(15))
        draws = Draws.of((40, 1), errors[0], 15, resamples=200)
        means = mean_errors(errors, draws.starts, points_of([1], 1))
        found = ratio_at(means[:, 1:, 0], means[:, 0, 0], seconds, own, draws, 0.95)
        covered += found.low <= 0.3**-3 / 10 <= found.high
    assert covered >= 51


def test_too_few_starts_have_no_interval():
    assert np.isnan(compare(0.09, starts=3).low)


def test_a_failure_from_one_start_is_a_failure_only_where_it_is_drawn():
    errors, _, _ = contest(0.09)
    errors[1, 5, 3] = np.inf
    counts = np.ones((2, 24))
    counts[1, 5] = 0
    means = mean_errors(errors, counts, POINTS)
    assert np.isinf(means[0, 1, 1:]).all() and np.isfinite(means[1]).all() and np.isfinite(means[0, 1, 0])


def test_points_are_the_steps_and_their_mean():
    assert [(p.label, p.leads) for p in points_of([2, 3], 3)] == [
        ("step 2", (1,)), ("step 3", (2,)), ("steps 1 to 3", (0, 1, 2)),
    ]  # fmt: skip
    assert [p.label for p in points_of([1], 1)] == ["step 1"]


def test_root_mean_square_over_leads():
    """Errors of each lead over one size: their root mean square is that of the whole forecast."""
    errors = np.array([[[3.0, 4.0], [np.inf, 1.0]]])
    only_first = np.array([[1, 0]])
    assert mean_errors(errors, only_first, points_of([2], 2, power=2))[0, 0].tolist() == [4.0, 12.5**0.5]
    assert np.isinf(mean_errors(errors, np.ones((1, 2)), points_of([1], 2, power=2))).all()
