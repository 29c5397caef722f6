"""Intervals and flags hold what they promise on data whose truth is known."""

import numpy as np
import pytest

from workbench.conformal import cross_conformal, p_values
from workbench.errors import InputError


def trial(rng, n, tests, level):
    """Cross-validated least squares on few noisy points; returns the share of new points inside."""
    folds = np.arange(n) % 5
    x, new = rng.normal(size=(n, 3)), rng.normal(size=(tests, 3))
    beta = rng.normal(size=3)
    y, truth = x @ beta + rng.standard_t(4, n), new @ beta + rng.standard_t(4, tests)
    fitted = [np.linalg.lstsq(x[folds != k], y[folds != k], rcond=None)[0] for k in range(5)]
    residuals = np.array([y[i] - x[i] @ fitted[folds[i]] for i in range(n)])
    low, high = cross_conformal(np.stack([new @ b for b in fitted]), residuals, folds, level)
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.parametrize("level", [0.8, 0.9])
@pytest.mark.parametrize("n", [20, 41])
def test_coverage_is_what_was_asked_for(level, n):
    rng = np.random.default_rng(n)
    shares = [trial(rng, n, 50, level) for _ in range(300)]
    assert level - 0.015 < np.mean(shares) < level + 0.06


def test_equal_networks_give_the_split_conformal_interval():
    rng = np.random.default_rng(0)
    residuals, centre = rng.normal(size=99), rng.normal(size=7)
    low, high = cross_conformal(np.tile(centre, (4, 1)), residuals, np.arange(99) % 4, 0.9)
    size = np.sort(np.abs(residuals))[89]  # the 90th of 99: ceil(0.9 * 100)
    np.testing.assert_allclose([low, high], [centre - size, centre + size])


def test_too_few_cells_give_no_bound_and_a_level_is_a_fraction():
    low, high = cross_conformal(np.zeros((2, 1)), np.ones(5), np.array([0, 1, 0, 1, 0]), 0.9)
    assert low[0] == -np.inf and high[0] == np.inf
    with pytest.raises(InputError, match="expected a fraction such as 0.9"):
        cross_conformal(np.zeros((2, 1)), np.ones(5), np.zeros(5, int), 90)


def test_p_values_are_uniform_at_most_for_usual_cells_and_least_for_strange_ones():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        known, folds = rng.normal(size=(40, 6)), np.arange(40) % 5
        found.append(p_values(rng.normal(size=(5, 6)), known, folds))
    for level in (0.05, 0.1, 0.3):
        assert (np.concatenate(found) <= level).mean() < level + 0.03
    assert p_values(np.full((1, 6), 9.0), known, folds)[0] == pytest.approx(1 / 41)
