"""Kolmogorov flow against exact solutions, conservation laws, symmetries and measured orders of convergence."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from workbench.simulate.kolmogorov import KolmogorovFlow
from workbench.simulate.vorticity import (
    Solver,
    cutoff,
    random_vorticity,
    to_field,
    to_modes,
    velocity_modes,
    wavenumbers,
)

FORCED = {"viscosity": 0.02, "drag": 0.1, "forcing_amplitude": 1.0, "forcing_wavenumber": 4}


def smooth(k_max: int, rms: float = 3.0, band: int = 4, seed: int = 0) -> torch.Tensor:
    return random_vorticity(seed, 0, k_max, rms, band)[None]


def grid(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.arange(n, dtype=torch.float64) * (2 * np.pi / n)
    return points[:, None], points


def mean_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over the square of the product of two real fields given by their modes (Parseval)."""
    _, kx = wavenumbers(a.shape[-1] - 1)
    return (torch.where(kx > 0, 2.0, 1.0) * (a.conj() * b).real).sum().item()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def energy(omega: torch.Tensor) -> float:
    return sum(mean_of_product(part, part) for part in velocity_modes(omega)) / 2


def laminar(n: int, viscosity: float, drag: float) -> torch.Tensor:
    y, _ = grid(n)
    profile = -4 * torch.cos(4 * y) / (16 * viscosity + drag)
    return to_modes(profile.expand(n, n)[None], cutoff(n))


def test_taylor_green_decays_exactly():
    n, viscosity, drag, steps, dt = 32, 0.05, 0.1, 20, 0.05
    y, x = grid(n)
    vortices = (torch.cos(3 * x) * torch.cos(3 * y))[None]
    omega = Solver(n, dt, viscosity, drag).advance(to_modes(vortices, cutoff(n)), steps)
    exact = vortices * np.exp(-(18 * viscosity + drag) * steps * dt)
    assert distance(to_field(omega, n), exact) < 1e-13


def test_time_stepping_is_of_fourth_order():
    n, end = 32, 1.0
    start = smooth(cutoff(n))
    reference = Solver(n, end / 640, **FORCED).advance(start, 640)
    counts = np.array([24, 32, 48, 64])
    errors = [distance(Solver(n, end / m, **FORCED).advance(start, int(m)), reference) for m in counts]
    slope = np.polyfit(np.log(1 / counts), np.log(errors), 1)[0]
    assert abs(slope - 4) < 0.1
    assert errors[-1] > 1e-12, "round-off hides the order"


def test_space_converges_spectrally():
    start, dt, steps = smooth(5), 0.005, 80

    def solution(n: int) -> torch.Tensor:
        padded = torch.nn.functional.pad(start, (0, cutoff(n) - 5, cutoff(n) - 5, cutoff(n) - 5))
        return to_field(Solver(n, dt, **FORCED).advance(padded, steps), 16)

    reference = solution(128)
    errors = [distance(solution(n), reference) for n in (16, 32, 64)]
    assert errors[1] < errors[0] / 30
    assert errors[2] < errors[1] / 1000


def test_energy_balance_closes_to_the_truncation_order():
    n = 32
    omega = Solver(n, 0.01, **FORCED).advance(smooth(cutoff(n)), 50)
    y, _ = grid(n)
    force = to_modes(torch.sin(4 * y).expand(n, n)[None], cutoff(n))

    def terms(state: torch.Tensor) -> np.ndarray:
        forcing = mean_of_product(force, velocity_modes(state)[0])
        viscous = -FORCED["viscosity"] * mean_of_product(state, state)
        return np.array([forcing, viscous, -2 * FORCED["drag"] * energy(state)])

    def residual(dt: float) -> float:
        solver = Solver(n, dt, **FORCED)
        middle = solver.advance(omega, 1)
        end = solver.advance(middle, 1)
        simpson = (terms(omega) + 4 * terms(middle) + terms(end)).sum() / 6
        return abs((energy(end) - energy(omega)) / (2 * dt) - simpson)

    assert np.abs(terms(omega)).min() > 0.01, "every term takes part"
    assert residual(0.005) < 1e-8
    assert abs(np.log2(residual(0.02) / residual(0.01)) - 4) < 0.2


def test_advection_conserves_energy_and_enstrophy():
    n = 32
    start = smooth(cutoff(n), band=10)
    solver = Solver(n, 0.005, viscosity=0.0)
    tendency = solver.advection(start) / 0.005
    ky, kx = wavenumbers(cutoff(n))
    stream = start / torch.where(kx**2 + ky**2 > 0, kx**2 + ky**2, np.inf)
    scale = tendency.norm().item() * start.norm().item()
    assert abs(mean_of_product(start, tendency)) < 1e-15 * scale
    assert abs(mean_of_product(stream, tendency)) < 1e-15 * scale
    end = solver.advance(start, 200)
    assert distance(end, start) > 0.5, "the flow has moved on"
    assert energy(end) == pytest.approx(energy(start), rel=1e-10)
    assert mean_of_product(end, end) == pytest.approx(mean_of_product(start, start), rel=1e-9)


@pytest.mark.parametrize(("right", "up"), [(1, 0), (7, 0), (0, 8), (13, 24)])
def test_translation_along_x_and_by_a_forcing_period_commutes_with_the_flow(right, up):
    n = 32  # the forcing period is 32/4 = 8 points
    solver = Solver(n, 0.02, **FORCED)
    field = to_field(smooth(cutoff(n)), n)

    def flow(initial: torch.Tensor) -> torch.Tensor:
        return to_field(solver.advance(to_modes(initial, cutoff(n)), 40), n)

    moved = flow(torch.roll(field, (up, right), (-2, -1)))
    assert distance(moved, torch.roll(flow(field), (up, right), (-2, -1))) < 1e-11


def rotated(field: torch.Tensor) -> torch.Tensor:
    """ω(−x, −y)."""
    return torch.roll(field.flip(-2, -1), (1, 1), (-2, -1))


def shifted_and_reflected(field: torch.Tensor) -> torch.Tensor:
    """−ω(−x, y − π/k_f): half a forcing period up, mirrored in x."""
    return -torch.roll(field.flip(-1), (4, 1), (-2, -1))


@pytest.mark.parametrize("symmetry", [rotated, shifted_and_reflected])
def test_rotation_and_shift_with_reflection_commute_with_the_flow(symmetry):
    n = 32
    solver = Solver(n, 0.02, **FORCED)
    field = to_field(smooth(cutoff(n)), n)

    def flow(initial: torch.Tensor) -> torch.Tensor:
        return to_field(solver.advance(to_modes(initial, cutoff(n)), 40), n)

    assert distance(flow(symmetry(field)), symmetry(flow(field))) < 1e-11
    assert distance(symmetry(field), field) > 0.5


def test_translation_by_half_a_forcing_period_does_not_commute():
    n = 32
    solver = Solver(n, 0.02, **FORCED)
    field = to_field(smooth(cutoff(n)), n)
    ends = [
        to_field(solver.advance(to_modes(initial, cutoff(n)), 40), n) for initial in (torch.roll(field, 4, -2), field)
    ]
    assert distance(ends[0], torch.roll(ends[1], 4, -2)) > 0.1


@pytest.mark.parametrize("n", [9, 10, 12, 15, 16])
def test_advection_is_the_exact_truncated_convolution(n):
    k_max = cutoff(n)
    start = smooth(k_max, band=k_max)
    full = torch.fft.fft2(to_field(start, n)[0], norm="forward")
    modes = list(itertools.product(range(-k_max, k_max + 1), repeat=2))
    convolution = torch.zeros_like(start)
    for (py, px), (qy, qx) in itertools.product(modes, modes):
        if abs(py + qy) <= k_max and 0 <= px + qx <= k_max and (py, px) != (0, 0):
            transfer = (qx * py - qy * px) / (px**2 + py**2)  # u·∇ω with û = i(p_y, −p_x) ω̂/p²
            convolution[0, k_max + py + qy, px + qx] += transfer * full[py, px] * full[qy, qx]
    assert distance(Solver(n, 1.0, viscosity=0.0).advection(start), convolution) < 1e-13


def test_modes_beyond_two_thirds_stay_zero():
    n = 36
    omega = Solver(n, 0.01, **FORCED).advance(smooth(cutoff(n), band=11), 30)
    spectrum = torch.fft.fft2(to_field(omega, n)[0], norm="forward").abs()
    k = torch.fft.fftfreq(n, 1 / n).abs()
    kept = (k[:, None] <= 11) & (k <= 11)
    assert spectrum[~kept].max() < 1e-15
    assert (spectrum[kept] > 1e-10).sum() > 500, "of 23² modes that may be excited"


@pytest.mark.parametrize("n", [32, 64])
def test_state_stays_the_transform_of_a_real_field(n):
    omega = Solver(n, 0.01, **FORCED).advance(smooth(cutoff(n)), 100)
    mean_along_x = omega[0, :, 0]
    assert torch.equal(mean_along_x, mean_along_x.flip(0).conj())
    assert distance(to_modes(to_field(omega, n), cutoff(n)), omega) < 1e-14


@pytest.mark.parametrize(("viscosity", "drag"), [(0.5, 0.0), (0.5, 0.1), (0.0, 0.5)])
def test_laminar_flow_is_a_fixed_point_and_is_reached_from_rest(viscosity, drag):
    n, dt, steps = 24, 0.05, 40
    steady = laminar(n, viscosity, drag)
    solver = Solver(n, dt, viscosity, drag, forcing_amplitude=1.0, forcing_wavenumber=4)
    assert distance(solver.advance(steady, steps), steady) < 1e-13
    grown = 1 - np.exp(-(16 * viscosity + drag) * steps * dt)
    assert distance(solver.advance(torch.zeros_like(steady), steps), grown * steady) < 1e-13


def test_without_viscosity_and_drag_the_forcing_accelerates_a_fluid_at_rest():
    solver = Solver(24, 0.05, viscosity=0.0, forcing_amplitude=1.0, forcing_wavenumber=4)
    start = torch.zeros_like(laminar(24, 1.0, 0.0))
    curl_of_force = laminar(24, 1.0, 0.0) * 16
    assert distance(solver.advance(start, 20), curl_of_force) < 1e-14  # t = 1


def test_laminar_flow_attracts_at_low_reynolds_number():
    n, viscosity, drag = 24, 0.5, 0.1
    solver = Solver(n, 0.05, viscosity, drag, forcing_amplitude=1.0, forcing_wavenumber=4)
    steady = laminar(n, viscosity, drag)
    disturbed = steady + smooth(cutoff(n), rms=1.0)
    assert distance(disturbed, steady) > 0.5
    assert distance(solver.advance(disturbed, 600), steady) < 1e-7


RECIPE = Path(__file__).parents[2] / "datasets" / "kolmogorov_flow" / "recipe.yaml"


def tiny() -> KolmogorovFlow:
    recipe = yaml.safe_load(RECIPE.read_text())
    return KolmogorovFlow(**recipe["source"]["init_args"], **recipe["presets"]["tiny"])


@cache
def tiny_record() -> xr.Dataset:
    return tiny().simulate(range(8))


def correlation(a: xr.DataArray, b: xr.DataArray) -> float:
    return float((a.values * b.values).sum() / np.sqrt((a.values**2).sum() * (b.values**2).sum()))


def test_preset_tiny_is_statistically_steady():
    record = tiny_record()
    for power in (record.u**2 + record.v**2, record.vorticity**2):
        early, late = (power.isel(time=part).mean().item() for part in (slice(0, 16), slice(32, 48)))
        assert late == pytest.approx(early, rel=0.15)


def test_preset_tiny_decorrelates_within_ten_saved_steps_but_not_in_one():
    vorticity = tiny_record().vorticity
    anomaly = vorticity - vorticity.mean(("trajectory", "time"))
    lagged = [correlation(anomaly.isel(time=slice(-lag)), anomaly.isel(time=slice(lag, None))) for lag in (1, 10)]
    assert lagged[0] > 0.85
    assert lagged[1] < 0.4
    assert anomaly.std() > 0.8 * vorticity.std(), "the time mean is a poor forecast"


def test_preset_tiny_is_resolved():
    spectrum = np.abs(np.fft.fft2(tiny_record().vorticity)) ** 2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(48, 1 / 48), np.fft.fftfreq(48, 1 / 48)))
    shells = [spectrum[..., (k > low) & (k <= low + 2)].sum() for low in (3, 19)]
    assert shells[1] < 1e-3 * shells[0]


def test_preset_tiny_is_chaotic():
    flow = tiny()
    solver = Solver(64, flow.time_step, flow.viscosity, flow.drag, 1.0, 4)
    start = solver.advance(smooth(21, rms=flow.initial_rms, band=6), 512)
    near = start + 1e-8 * smooth(21, band=6, seed=1)
    assert distance(solver.advance(near, 512), solver.advance(start, 512)) > 10 * distance(near, start)
