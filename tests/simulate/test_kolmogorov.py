"""The Kolmogorov source: its fields, its record, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.simulate.kolmogorov import KolmogorovFlow
from workbench.simulate.vorticity import (
    Solver,
    random_vorticity,
    to_field,
    to_modes,
    velocity_modes,
    wavenumbers,
)

RECIPE = Path(__file__).parents[2] / "datasets" / "kolmogorov_flow" / "recipe.yaml"

# 22² is no multiple of a vector register: rounding that depended on a field's place in the batch would show.
FLOW = KolmogorovFlow(
    resolution=16,
    solver_resolution=22,
    time_step=0.0125,
    save_interval=0.05,
    steps=3,
    spin_up=0.1,
    trajectories=5,
    seed=3,
    initial_wavenumber=4,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 20), st.integers(0, 4), st.integers(0, 2**31))
def test_modes_and_field_are_exact_inverses(k_max, spare, seed):
    modes = random_vorticity(seed, 0, k_max, rms=2.0, wavenumber=k_max)
    field = to_field(modes, 2 * k_max + 1 + spare)
    assert torch.allclose(to_modes(field, k_max), modes, rtol=0, atol=1e-14)
    assert field.square().mean().sqrt().item() == pytest.approx(2.0, rel=1e-12)


def test_field_on_a_coarse_grid_is_the_sharply_cut_off_field():
    modes = random_vorticity(0, 0, 20, rms=1.0, wavenumber=20)
    coarse = to_modes(to_field(modes, 16), 7)
    assert torch.allclose(coarse, modes[13:28, :8], rtol=0, atol=1e-15)


def test_velocity_is_solenoidal_and_its_curl_is_the_vorticity():
    omega = random_vorticity(1, 0, 9, rms=1.0, wavenumber=9)
    u, v = velocity_modes(omega)
    ky, kx = wavenumbers(9)
    assert torch.allclose(1j * kx * v - 1j * ky * u, omega, rtol=0, atol=1e-15)
    assert (kx * u + ky * v).abs().max() < 1e-15


def test_velocity_of_a_known_stream_function():
    y = torch.arange(24, dtype=torch.float64) * (2 * np.pi / 24)
    vorticity = -3 * torch.cos(3 * y)[:, None].expand(24, 24)  # u = sin 3y
    u, v = (to_field(part, 24) for part in velocity_modes(to_modes(vorticity, 7)))
    assert torch.allclose(u, torch.sin(3 * y)[:, None].expand(24, 24), atol=1e-14)
    assert v.abs().max() < 1e-14


def test_initial_condition_depends_on_seed_and_number_alone():
    fine, coarse = (random_vorticity(7, 4, k_max, 3.0, 5) for k_max in (21, 10))
    assert torch.equal(fine[11:32, :11], coarse)
    assert fine.count_nonzero() == coarse.count_nonzero()
    assert not torch.equal(coarse, random_vorticity(7, 5, 10, 3.0, 5))
    assert not torch.equal(coarse, random_vorticity(8, 4, 10, 3.0, 5))


def test_initial_condition_fills_its_band_evenly():
    ky, kx = wavenumbers(8)
    k2 = kx**2 + ky**2
    power = sum(random_vorticity(0, k, 8, 1.0, 6).abs() ** 2 for k in range(400)) / 400
    assert power[k2 > 36].max() == 0
    assert power[8, 0] == 0
    inside = power[(k2 <= 36) & (k2 > 0)]
    assert inside.max() < 1.4 * inside.mean()
    assert inside.min() > 0.7 * inside.mean()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_trajectory_is_the_same_to_the_last_bit_in_any_batch(precision):
    flow = replace(FLOW, precision=precision, spin_up=0.5)
    together = flow.simulate(range(5))
    for company in ([3], [4, 3], [0, 3, 1]):
        xr.testing.assert_identical(flow.simulate(company).sel(trajectory=3), together.sel(trajectory=3))


def test_single_and_double_precision_agree_over_a_short_time():
    double, single = (replace(FLOW, precision=p).simulate([0, 1]) for p in ("float64", "float32"))
    for name in double:
        difference = np.abs(double[name] - single[name]).max() / np.abs(double[name]).max()
        assert 0 < difference < 2e-6


def test_template_is_lazy_and_agrees_with_what_is_simulated():
    template, record = FLOW.template(), FLOW.simulate(range(5))
    assert set(template) == set(record) == {"vorticity", "u", "v"}
    for name in template:
        assert isinstance(template[name].data, da.Array)
        assert isinstance(record[name].data, np.ndarray)
        assert template[name].dims == record[name].dims == ("trajectory", "time", "y", "x")
        assert template[name].shape == record[name].shape
        assert template[name].dtype == record[name].dtype == np.float32
        assert template[name].attrs == record[name].attrs
        assert {"units", "long_name"} <= set(template[name].attrs)
    assert template.attrs == record.attrs
    xr.testing.assert_identical(template.coords.to_dataset(), record.coords.to_dataset())
    part = FLOW.simulate([4, 1])
    xr.testing.assert_identical(part.coords.to_dataset(), template.isel(trajectory=[4, 1]).coords.to_dataset())


def test_coordinates():
    record = KolmogorovFlow(resolution=48, solver_resolution=64).template()
    for name in ("x", "y"):
        assert record[name].values[0] == 0
        assert record[name].values[-1] == pytest.approx(2 * np.pi * 47 / 48)
    assert record.time.values[:3].tolist() == [0.0, 0.25, 0.5]
    assert record.trajectory.dtype == np.int64
    assert all(record[name].attrs["units"] == "1" for name in record.coords)
    assert record.attrs["Conventions"] == "CF-1.11"
    assert record.attrs["reynolds_number"] == pytest.approx(100.0)


def test_saved_velocity_and_vorticity_belong_together():
    record = FLOW.simulate([2])
    u, v, vorticity = (torch.from_numpy(record[name].values).double() for name in ("u", "v", "vorticity"))
    ky, kx = wavenumbers(7)
    curl = 1j * kx * to_modes(v, 7) - 1j * ky * to_modes(u, 7)
    assert torch.allclose(curl, to_modes(vorticity, 7), rtol=0, atol=2e-6)


def test_record_says_how_to_compute_it_again():
    record = FLOW.simulate([1])
    recipe = json.loads(record.attrs["simulation"])
    assert recipe["class_path"] == "workbench.simulate.kolmogorov.KolmogorovFlow"
    xr.testing.assert_identical(KolmogorovFlow(**recipe["init_args"]).simulate([1]), record)


def test_spin_up_is_discarded_time():
    late = FLOW.simulate([0])
    whole = replace(FLOW, spin_up=0.0, steps=5).simulate([0])
    np.testing.assert_array_equal(late.vorticity, whole.vorticity.isel(time=slice(2, None)))


def test_progress_counts_every_save_interval():
    calls = []
    FLOW.simulate([0], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 5) for k in range(1, 6)]


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_recipe_declares_what_the_source_makes(preset):
    recipe = yaml.safe_load(RECIPE.read_text())
    assert recipe["source"]["class_path"] == "workbench.simulate.kolmogorov.KolmogorovFlow"
    flow = KolmogorovFlow(**recipe["source"]["init_args"], **recipe["presets"][preset])
    template = flow.template()
    assert recipe["variables"] == {str(name): template[name].attrs for name in template}
    assert set(recipe["chunks"]) == set(template.dims)
    assert flow.reynolds_number == pytest.approx({"tiny": 100, "small": 500, "paper": 1000}[preset])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 15}, "resolution must be even, at least 8; found 15"),
        ({"resolution": 32}, "solver_resolution must be even, at least the saved resolution 32; found 22"),
        ({"viscosity": 0.0}, "viscosity must be positive; found 0.0"),
        ({"viscosity": float("nan")}, "viscosity must be positive; found nan"),
        ({"drag": -0.1}, "drag must be zero or positive; found -0.1"),
        ({"forcing_amplitude": 0.0}, "forcing_amplitude must be positive"),
        ({"forcing_wavenumber": 8}, "forcing_wavenumber must be 1 to 7, the modes that 22 points keep"),
        ({"time_step": -0.1}, "time_step must be positive; found -0.1"),
        ({"save_interval": 0.06}, "save_interval must be a multiple of time_step 0.0125; found 0.06"),
        ({"save_interval": 0.0}, "save_interval must be a multiple of time_step"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"spin_up": 0.12}, "spin_up must be zero or a multiple of save_interval 0.05; found 0.12"),
        ({"trajectories": 0}, "trajectories must be at least 1"),
        ({"seed": -1}, "seed must be zero or positive"),
        ({"initial_rms": 0.0}, "initial_rms must be positive"),
        ({"initial_wavenumber": 9}, "initial_wavenumber must be 1 to 7; found 9"),
        ({"precision": "float16"}, "precision must be float64 or float32; found 'float16'"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        replace(FLOW, **change)


@pytest.mark.parametrize("numbers", [[5], [-1], [1, 1], []])
def test_unknown_trajectories_are_refused(numbers):
    expected = f"distinct trajectory numbers from 0 to 4; found {numbers}"
    with pytest.raises(InputError, match=re.escape(expected)):
        FLOW.simulate(numbers)


def test_too_large_a_step_is_named_with_the_admissible_one():
    """A fluid at rest is accelerated, u = 3.5 t sin(4y), until 0.1 > 2/(10 max|u|) = 0.0952 at t = 0.6."""
    solver = Solver(32, 0.1, viscosity=0.0, forcing_amplitude=3.5, forcing_wavenumber=4)
    rest = torch.zeros(2, 21, 11, dtype=torch.complex128)
    with pytest.raises(InputError, match=r"time_step 0\.1 exceeds the admissible 0\.09524 at step 6 \(t = 0\.6 "):
        solver.advance(rest, 10)
    assert torch.isfinite(torch.view_as_real(solver.advance(rest, 6))).all()


@pytest.mark.parametrize(("fraction", "fits"), [(0.98, True), (1.02, False)])
def test_admissible_step_does_not_depend_on_where_the_fastest_point_is(fraction, fits):
    points = torch.arange(32, dtype=torch.float64) * (2 * np.pi / 32)
    for shift in (0, 1, 2, 5):
        gusts = torch.roll(torch.cos(4 * points)[:, None] * torch.ones(32), shift, -2)  # max |u| = 1/4
        solver = Solver(32, fraction * 2 / (10 / 4), viscosity=0.0)
        if fits:
            solver.advance(to_modes(gusts[None], 10), 1)
        else:
            with pytest.raises(InputError, match=r"exceeds the admissible 0\.8 at step 0"):
                solver.advance(to_modes(gusts[None], 10), 1)


def test_flow_refuses_too_large_a_step():
    with pytest.raises(InputError, match=r"exceeds the admissible 0\.\d+ at step 0 .*set time_step below that"):
        replace(FLOW, time_step=0.5, save_interval=0.5, spin_up=0.0, initial_rms=30.0).simulate([0])


def test_flow_counts_steps_from_the_initial_condition():
    """From almost rest, u = 200 t sin(4y) passes 2/(7 · 0.0125) = 22.9 at t = 0.11: four steps an interval."""
    flow = replace(FLOW, forcing_amplitude=200.0, initial_rms=1e-3)
    with pytest.raises(InputError, match=r"at step 10 \(t = 0\.125 "):
        flow.simulate([0])


def test_solver_refuses_forcing_beyond_its_modes():
    with pytest.raises(InputError, match="forcing_wavenumber must be 1 to 3, the modes that 12 points keep.*found 4"):
        Solver(12, 0.01, viscosity=0.01, forcing_amplitude=1.0, forcing_wavenumber=4)


@pytest.mark.parametrize("modes", [(1, 11, 6), (11, 6), (1, 15, 8)])
def test_solver_refuses_modes_of_another_shape_or_precision(modes):
    dtype = torch.complex64 if modes == (1, 15, 8) else torch.complex128
    expected = f"expected torch.complex128 modes of shape (batch, 15, 8) for 24 points; found {dtype} {modes}"
    with pytest.raises(InputError, match=re.escape(expected)):
        Solver(24, 0.01, viscosity=0.01).advance(torch.zeros(modes, dtype=dtype), 1)


def test_state_that_is_not_finite_is_refused():
    solver = Solver(16, 0.01, viscosity=0.01)
    omega = random_vorticity(0, 0, 5, 1.0, 4)[None].repeat(3, 1, 1)
    omega[1, 2, 2] = float("nan")
    with pytest.raises(InputError, match=r"not finite at step 7 \(t = 0\.07 "):
        solver.advance(omega, 2, first_step=7)
