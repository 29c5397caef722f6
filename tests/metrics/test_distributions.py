"""The Hellinger distance: closed forms."""

import numpy as np
import pytest

from workbench.metrics.distributions import hellinger_distance


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_two_normal_distributions_are_as_far_as_the_closed_form_says(shift):
    """H² = 1 − exp(−δ²/8) for unit variances and means δ apart."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=200_000), rng.normal(shift, 1, 200_000)
    assert hellinger_distance(other, one, 200) == pytest.approx(np.sqrt(1 - np.exp(-(shift**2) / 8)), abs=0.03)


def test_equal_values_are_at_0_disjoint_ones_near_1_and_units_do_not_matter():
    values = np.random.default_rng(0).standard_t(2, (50, 40))
    assert hellinger_distance(values[::-1], values) == pytest.approx(0, abs=1e-7)
    assert hellinger_distance(values + 1e6, values) == pytest.approx(np.sqrt(1 - np.sqrt(1 / 50)))
    other = values + np.random.default_rng(1).normal(size=values.shape)
    assert hellinger_distance(1e-3 * other, 1e-3 * values) == pytest.approx(hellinger_distance(other, values))
