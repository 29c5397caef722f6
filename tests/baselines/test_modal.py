"""The linear modal model against systems that it can hold exactly."""

import numpy as np
import pytest

from workbench.baselines.modal import Trajectories, fit_modal, polynomial
from workbench.errors import InputError


def shaken(count: int, seed: int, stiffness=lambda m: 1.0, steps: int = 30) -> Trajectories:
    """Two oscillators seen at six places, stepped exactly under loads at two of them."""
    rng = np.random.default_rng(seed)
    shapes = np.linalg.qr(np.random.default_rng(9).normal(size=(6, 2)))[0]
    material = rng.uniform(-1, 1, (count, 1))
    loads = rng.normal(size=(count, steps, 2)).cumsum(1)
    u, v = np.zeros((2, count, steps, 6))
    for k in range(count):
        z, w = rng.normal(size=2), rng.normal(size=2)
        for t in range(steps):
            u[k, t], v[k, t] = shapes @ z, shapes @ w
            if t + 1 < steps:
                push = 0.5 * (loads[k, t] + loads[k, t + 1])
                w = 0.95 * w - np.array([0.1, 0.3]) * stiffness(material[k, 0]) * z + 0.1 * push
                z = z + 0.5 * w
    return Trajectories(u, v, loads, material)


def error(model, check):
    u, v = model.forecast(check.displacement[:, 0], check.velocity[:, 0], check.loads, check.material)
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in ((u, check.displacement), (v, check.velocity))]


def test_it_is_exact_on_a_linear_system_whose_modes_it_holds():
    model = fit_modal(shaken(12, 0), shaken(4, 1))
    assert model.basis.shape == (6, 2)
    assert max(error(model, shaken(5, 2))) < 1e-6


def test_it_is_exact_where_the_step_is_a_polynomial_of_the_material():
    def stiffness(m):
        return 1 + 0.4 * m + 0.2 * m**2

    parts = [shaken(count, seed, stiffness) for count, seed in ((20, 0), (6, 1), (5, 2))]
    model = fit_modal(*parts[:2])
    assert model.degree >= 2 and max(error(model, parts[2])) < 1e-6
    alone = fit_modal(*(Trajectories(p.displacement, p.velocity, p.loads, 0 * p.material) for p in parts[:2]))
    assert alone.degree == 0 and min(error(alone, parts[2])) > 0.1


def test_a_model_that_would_grow_is_the_last_choice():
    model = fit_modal(shaken(3, 0), shaken(3, 1))
    u, _ = model.forecast(np.ones((1, 6)), np.ones((1, 6)), np.zeros((1, 400, 2)), np.zeros((1, 1)))
    assert np.abs(u[0, -1]).max() < np.abs(u[0, 0]).max()


def test_too_short_a_training_part_is_refused():
    with pytest.raises(InputError, match="more unknowns than the 1 training trajectories have steps"):
        fit_modal(shaken(1, 0, steps=5), shaken(1, 1))


def test_polynomials_hold_every_product():
    terms = polynomial(np.array([[2.0, 3.0]]), 2)
    assert terms.tolist() == [[1, 2, 3, 4, 6, 9]]


@pytest.mark.parametrize("name", ["displacement", "loads"])
def test_nothing_that_moves_gives_no_motion(name):
    still = shaken(4, 0)
    still = Trajectories(**{**vars(still), name: 0 * getattr(still, name)})
    model = fit_modal(still, still)
    u, _ = model.forecast(np.zeros((1, 6)), np.zeros((1, 6)), np.zeros((1, 5, 2)), np.zeros((1, 1)))
    assert np.abs(u).max() == 0
