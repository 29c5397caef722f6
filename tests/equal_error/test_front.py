"""The cost of a given error along a front of known shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.equal_error.front import AT_LEAST, AT_MOST, BETWEEN, equal_cost, on_front

H = np.array([1.0, 0.5, 0.25, 0.125])
COST, ERROR = H**-3, H**2


@given(st.floats(0.126, 0.999), st.permutations(range(4)))
def test_a_power_law_is_found_exactly_in_any_order(h, order):
    found = equal_cost(COST[None, order], ERROR[None, order], np.array([h**2]))
    assert found.bound[0] == BETWEEN
    assert found.cost[0] == pytest.approx(h**-3, rel=1e-9)
    assert H[list(order)][found.solver[0]] <= h


def test_where_the_cheapest_is_better_already_its_cost_is_an_upper_bound():
    found = equal_cost(COST[None], ERROR[None], np.array([3.0]))
    assert (found.cost[0], found.bound[0], found.solver[0]) == (1.0, AT_MOST, 0)


def test_where_none_is_as_good_the_cost_of_the_best_is_a_lower_bound():
    found = equal_cost(COST[None], ERROR[None], np.array([1e-4]))
    assert (found.cost[0], found.bound[0], found.solver[0]) == (512.0, AT_LEAST, 3)


def test_dear_and_bad_candidates_change_nothing():
    cost, error = np.append(COST, [30.0, 700.0, 0.01]), np.append(ERROR, [0.9, 0.5, np.inf])
    target = np.array([0.1])
    assert equal_cost(cost[None], error[None], target).cost == equal_cost(COST[None], ERROR[None], target).cost
    assert on_front(cost, error).tolist() == [True] * 4 + [False] * 3


def test_a_surrogate_that_failed_costs_the_cheapest_solver_at_most():
    found = equal_cost(np.array([[0.5, 1.0]]), np.array([[np.inf, 0.2]]), np.array([np.inf]))
    assert (found.cost[0], found.bound[0], found.solver[0]) == (1.0, AT_MOST, 1)


def test_a_target_on_a_candidate_costs_what_it_costs():
    assert equal_cost(COST[None], ERROR[None], np.array([0.25])).cost[0] == pytest.approx(8.0)


def test_rows_are_independent():
    cost, target = np.stack([COST, 2 * COST]), np.array([0.09, 0.09])
    found = equal_cost(cost, np.stack([ERROR, ERROR]), target).cost
    assert found[1] == pytest.approx(2 * found[0])
