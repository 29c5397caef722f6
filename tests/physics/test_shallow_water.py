"""Rotating shallow water: exact waves and jets, order of convergence, conservation, what the fluxes add up to."""

import math

import numpy as np
import pytest
import torch

from workbench.errors import InputError
from workbench.simulate.shallow_water import FLUXES, ShallowWaterFluxes, cell_means, fluxes
from workbench.simulate.shallow_water_solver import ShallowWater, Solver

LENGTH = 4.0e6
FLOW = ShallowWater(LENGTH, 100.0)
RECORD = ShallowWaterFluxes(cells=8, factor=4, time_step=1200.0, wavenumbers=(1, 3), steps=2, trajectories=3)


def points(n):
    line = torch.arange(n, dtype=torch.float64) * LENGTH / n
    return torch.meshgrid(line, line, indexing="ij")


def eddies(n, flow=FLOW):
    record = ShallowWaterFluxes(cells=n // 2, factor=2, wavenumbers=(1, 3))
    return Solver(flow, n, 600.0).modes(record.initial(0))


@pytest.mark.parametrize(("kx", "ky"), [(2, 0), (0, 3), (1, 2)])
def test_a_small_inertia_gravity_wave_travels_at_its_dispersion_relation(kx, ky):
    """ω² = f² + g H |k|² (Vallis 2017, equation 3.120)."""
    n, a = 16, 1e-6
    y, x = points(n)
    unit = 2 * math.pi / LENGTH
    k = unit * math.hypot(kx, ky)
    omega = math.sqrt(FLOW.coriolis**2 + (FLOW.wave_speed * k) ** 2)

    def wave(time):
        phase = unit * (kx * x + ky * y) - omega * time
        along = a * omega / (FLOW.depth * k) * torch.cos(phase)
        across = a * FLOW.coriolis / (FLOW.depth * k) * torch.sin(phase)
        ex, ey = kx / math.hypot(kx, ky), ky / math.hypot(kx, ky)
        return torch.stack([along * ex - across * ey, along * ey + across * ex, a * torch.cos(phase)])

    solver = Solver(FLOW, n, 300.0)
    found = solver.fields(solver.advance(solver.modes(wave(0.0)), 100))
    scale = wave(0.0).abs().amax((1, 2), keepdim=True)
    assert float(((found - wave(100 * 300.0)).abs() / scale).max()) < 1e-4


def test_a_balanced_jet_does_not_change():
    """u(y) with f u = −g ∂η/∂y solves the full equations for ever."""
    n, speed, unit = 24, 20.0, 2 * math.pi / LENGTH
    y, _ = points(n)
    eta = FLOW.coriolis * speed / (FLOW.gravity * unit) * torch.cos(unit * y)
    state = torch.stack([speed * torch.sin(unit * y), 0 * y, eta])
    solver = Solver(FLOW, n, 600.0)
    found = solver.fields(solver.advance(solver.modes(state), 144))
    assert float((found - state).abs().max()) < 1e-9


def test_the_error_in_time_falls_with_the_fourth_power_of_the_step():
    ends = []
    for step in (1200.0, 600.0, 300.0, 100.0):
        solver = Solver(FLOW, 24, step)
        ends.append(solver.fields(solver.advance(eddies(24), round(21600 / step))))
    errors = [float((end - ends[-1]).norm()) for end in ends[:-1]]
    orders = np.log2([errors[0] / errors[1], errors[1] / errors[2]])
    assert (orders > 3.7).all() and (orders < 4.5).all()


def test_mass_is_exact_and_energy_kept_without_damping_and_lost_with_it():
    modes = eddies(32)
    solver = Solver(FLOW, 32, 300.0)
    after = solver.advance(modes, 144)
    assert abs(float(after[2, 0, 0].real - modes[2, 0, 0].real)) < 1e-9
    assert solver.energy(after) == pytest.approx(solver.energy(modes), rel=2e-4)
    damped = Solver(ShallowWater(LENGTH, 100.0, damping_time=3600.0), 32, 300.0)
    assert damped.energy(damped.advance(modes, 144)) < solver.energy(after)


def test_a_time_step_beyond_the_waves_is_refused_with_the_limit():
    with pytest.raises(InputError, match="needs at most"):
        Solver(FLOW, 64, 3600.0)
    with pytest.raises(InputError, match="needs another initial state"):
        Solver(FLOW, 32, 600.0).advance(eddies(32) * math.nan, 1)


def test_the_fluxes_of_cells_and_the_means_add_up_to_the_whole():
    fields = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 16, 16)))
    found = fluxes(fields, 4)
    means, covariances = found[:3], found[3:]
    for number, (_, pair) in enumerate(FLUXES.values()):
        a, b = ("uvh".index(name) for name in pair.split())
        whole = (means[a] * means[b] + covariances[number]).mean()
        torch.testing.assert_close(whole, (fields[a] * fields[b]).mean())
    even = cell_means(fields, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert float(fluxes(even, 4)[3:].abs().max()) < 1e-12


def test_a_trajectory_is_the_same_in_any_company_and_the_template_describes_it():
    together, alone = RECORD.simulate([0, 2]), RECORD.simulate([2])
    np.testing.assert_array_equal(together["flux_uh"].isel(trajectory=1), alone["flux_uh"].isel(trajectory=0))
    template = RECORD.template()
    assert {n: (v.dims, v.dtype, v.attrs) for n, v in template.data_vars.items()} == {
        n: (v.dims, v.dtype, v.attrs) for n, v in alone.data_vars.items()
    }
    assert float(together["flux_uu"].min()) > 0 > float(together["flux_uv"].min())
    assert float(together["h"].mean(("y", "x")).std()) < 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"cells": 7}, "cells must be even"), ({"factor": 1}, "factor must be at least 2"),
     ({"save_interval": 1000.0}, "a multiple of 600"), ({"wavenumbers": (3, 90)}, "from 1 to 42")],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ShallowWaterFluxes(**wrong)
