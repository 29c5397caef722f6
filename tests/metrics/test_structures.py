"""Scores of structures against closed forms."""

import numpy as np
import pytest
import scipy.integrate
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.structures import (
    difference,
    energy_error,
    natural_frequency,
    nmae,
    nrmse,
    oscillator,
    peak,
    peak_distance,
    peak_error,
    r2,
    relative_l2,
    skill,
    value_range,
)

EVERY = ["lead_time", "y", "x"]


@pytest.fixture
def truth() -> xr.DataArray:
    """A field that goes from -1 to 3."""
    values = np.random.default_rng(0).uniform(-1, 3, (6, 4, 5))
    values.flat[:2] = -1, 3
    coords = {"lead_time": np.arange(6.0), "y": np.arange(4) / 4, "x": np.arange(5) / 2}
    return xr.DataArray(values, coords, ("lead_time", "y", "x"))


def ones(field: xr.DataArray) -> xr.DataArray:
    return xr.ones_like(field.isel(lead_time=0, drop=True))


def test_a_constant_offset_has_that_error_by_the_range(truth):
    span, weights = value_range(truth, EVERY), ones(truth)
    assert float(span) == 4
    for score in (nmae, nrmse):
        assert float(score(truth - 0.2, truth, span, EVERY, weights)) == pytest.approx(0.05, rel=1e-12)
        np.testing.assert_allclose(score(truth + 0.2, truth, span, ["y", "x"], weights), 0.05, rtol=1e-12)
    half = truth + xr.where(truth["x"] < 1, 0.4, 0.0)  # two columns of five
    assert float(nmae(half, truth, span, EVERY, weights)) == pytest.approx(0.4 * 0.4 / 4, rel=1e-12)
    assert float(nrmse(half, truth, span, EVERY, weights)) == pytest.approx(np.sqrt(0.4) * 0.4 / 4, rel=1e-12)


def test_each_component_is_divided_by_its_own_range(truth):
    both = xr.concat([truth, 100 * truth], dim="component")
    offset = both + xr.DataArray([0.04, 8.0], dims="component")
    span = value_range(both, EVERY)
    assert span.values.tolist() == [4, 400]
    found = nmae(offset, both, span, ["component", *EVERY], ones(truth))
    assert float(found) == pytest.approx((0.01 + 0.02) / 2, rel=1e-12)


def test_a_scaled_field_has_known_relative_error_r2_and_skill(truth):
    weights = ones(truth)
    assert float(relative_l2(1.1 * truth, truth, EVERY, weights)) == pytest.approx(0.1, rel=1e-12)
    mean, spread = float(truth.mean()), float(truth.var())
    assert float(r2(truth + 0.5, truth, EVERY, weights)) == pytest.approx(1 - 0.25 / spread, rel=1e-12)
    assert float(r2(xr.full_like(truth, mean), truth, EVERY, weights)) == pytest.approx(0, abs=1e-12)
    nothing = xr.zeros_like(truth)
    assert float(skill(nothing, nothing, truth, EVERY, weights)) == 0
    assert float(skill(truth / 2, nothing, truth, EVERY, weights)) == pytest.approx(0.75, rel=1e-12)
    # against no motion, skill and relative L2 say the same
    found = 0.7 * truth + 0.1
    expected = 1 - float(relative_l2(found, truth, EVERY, weights)) ** 2
    assert float(skill(found, nothing, truth, EVERY, weights)) == pytest.approx(expected, rel=1e-12)


def test_void_counts_for_nothing_and_what_is_not_finite_for_everything(truth):
    weights = ones(truth).where(truth["x"] < 1, 0.0)
    wrong = (truth + 0.2).where(truth["x"] < 1, np.nan)
    assert float(nmae(wrong, truth, 4.0, EVERY, weights)) == pytest.approx(0.05, rel=1e-12)
    assert np.isnan(float(nmae(wrong, truth, 4.0, EVERY, ones(truth))))
    assert np.isnan(float(relative_l2(wrong, truth, EVERY, ones(truth))))


def test_other_coordinates_are_refused(truth):
    with pytest.raises(InputError, match="'x'"):
        difference(truth.assign_coords(x=truth["x"] + 1), truth)


def test_the_peak_and_its_place_are_found(truth):
    own = peak(truth, ["y", "x"])
    assert float(own["value"]) == 3 and (float(own["y"]), float(own["x"])) == (0.0, 0.5)
    moved = truth.copy()
    moved.loc[{"lead_time": 4, "y": 0.75, "x": 1.5}] = 3.6
    other = peak(moved, ["y", "x"])
    assert float(peak_error(other, own)) == pytest.approx(0.2, rel=1e-12)
    assert float(peak_distance(other, own)) == pytest.approx(np.hypot(0.75, 1.0), rel=1e-12)
    assert float(peak_distance(own, own)) == 0
    flat = peak(xr.zeros_like(truth), ["y", "x"])
    assert float(peak_error(flat, own)) == 1 and np.isnan(float(peak_distance(flat, own)))
    assert np.isnan(float(peak(moved.where(moved < 3.5), ["y", "x"])["value"]))


def test_energy_is_measured_by_the_largest_of_the_truth():
    truth = xr.DataArray([[0.0, 4.0, 2.0], [0.0, 1.0, 0.5]], dims=("trajectory", "lead_time"))
    found = energy_error(2 * truth, truth)
    np.testing.assert_allclose(found, [[0, 1, 0.5], [0, 1, 0.5]])


# --------------------------------------------------------------------------------------------------------- frequency


def test_the_oscillator_is_the_exact_response_to_a_broken_line():
    omega, damping, step = 3.0, 0.4, 0.3
    load = np.array([0.0, 2.0, -1.0, 0.5, 0.5])
    times = step * np.arange(5)

    def flow(t, state):
        return [state[1], np.interp(t, times, load) - damping * state[1] - omega**2 * state[0]]

    exact = scipy.integrate.solve_ivp(
        flow, (0, times[-1]), [0.1, -0.2], t_eval=times, rtol=1e-11, atol=1e-13, max_step=0.02
    )
    found = oscillator(np.array([omega]), 0.1, -0.2, load, damping, step)
    np.testing.assert_allclose(found[0], exact.y[0], atol=1e-9)


def series(frequency: float, damping: float = 0.3, steps: int = 50, seed: int = 0) -> tuple[xr.DataArray, ...]:
    """A single mode that is shaken at random, over two periods."""
    times = np.linspace(0, 2 / frequency, steps + 1)
    load = np.random.default_rng(seed).normal(size=steps + 1)
    q = oscillator(np.array([2 * np.pi * frequency]), 0.01, 0.0, load, damping, times[1])[0]
    coords = {"time": times}
    return (
        xr.DataArray(q, coords, ("time",)),
        xr.DataArray(load, coords, ("time",)),
        xr.DataArray(0.0),
        xr.DataArray(damping),
    )


@pytest.mark.parametrize("guess", [0.8, 1.0, 1.7])
def test_a_single_mode_gives_its_frequency(guess):
    found = natural_frequency(*series(1.3), xr.DataArray(guess))
    assert float(found) == pytest.approx(1.3, rel=1e-4)
    assert found.attrs["units"] == "Hz"


def test_other_modes_and_noise_hardly_move_the_frequency():
    q, load, *rest = series(1.3)
    rng = np.random.default_rng(1)
    other = 0.1 * float(q.std()) * np.sin(2 * np.pi * 7.1 * q["time"])
    noisy = q + other + 0.1 * float(q.std()) * rng.normal(size=q.shape)
    assert float(natural_frequency(noisy, load, *rest, xr.DataArray(1.0))) == pytest.approx(1.3, rel=0.02)


def test_what_does_not_vibrate_has_no_frequency():
    q, load, *rest = series(1.3)
    for other in (0 * q, q + 100, xr.full_like(q, np.nan), -q):
        assert np.isnan(float(natural_frequency(other, load, *rest, xr.DataArray(1.0))))
    assert np.isnan(float(natural_frequency(q, load, *rest, xr.DataArray(0.5))))  # beyond twice the guess
    with pytest.raises(InputError, match="equal distances along 'time'"):
        natural_frequency(q.isel(time=[0, 1, 3, 4]), load.isel(time=[0, 1, 3, 4]), *rest, xr.DataArray(1.0))
