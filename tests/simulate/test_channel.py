"""The channel source: its fields, its record, its restart files, and what it refuses."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from workbench.errors import InputError
from workbench.simulate import channel, channel_les, channel_solver
from workbench.simulate.channel import ChannelFlow
from workbench.simulate.channel_grid import ChannelGrid, wall_normal_nodes
from workbench.simulate.channel_nodes import from_nodes, to_nodes
from workbench.simulate.channel_restart import load_restart, save_restart
from workbench.simulate.channel_solver import ChannelSolver, Velocity

RECIPE = Path(__file__).parents[2] / "datasets" / "channel_flow" / "recipe.yaml"

FLOW = ChannelFlow(
    nodes=(4, 5, 4), cells=(8, 8, 8), time_step=0.05, save_interval=0.1, steps=3, spin_up=0.2, trajectories=3, seed=3
)


def test_template_is_lazy_and_agrees_with_what_is_simulated():
    template, record = FLOW.template(), FLOW.simulate(range(3))
    assert set(template) == set(record) == {"u", "v", "w", "friction_velocity"}
    for name in template:
        assert isinstance(template[name].data, da.Array)
        assert isinstance(record[name].data, np.ndarray)
        assert template[name].dims == record[name].dims
        assert template[name].shape == record[name].shape
        assert template[name].dtype == record[name].dtype == np.float32
        assert template[name].attrs == record[name].attrs
    assert record.u.dims == ("trajectory", "time", "x", "y", "z")
    assert record.friction_velocity.dims == ("trajectory", "time")
    assert template.attrs == record.attrs
    xr.testing.assert_identical(template.coords.to_dataset(), record.coords.to_dataset())


def test_trajectory_is_the_same_to_the_last_bit_in_any_company():
    together = FLOW.simulate(range(3))
    xr.testing.assert_identical(FLOW.simulate([2, 0]).sel(trajectory=2), together.sel(trajectory=2))
    assert not np.array_equal(together.u[0], together.u[1])
    assert not np.array_equal(together.u[0], replace(FLOW, seed=4).simulate([0]).u[0])


def test_coordinates_and_attributes():
    record = ChannelFlow().template()
    np.testing.assert_allclose(record.x, np.arange(16) * math.pi / 16)
    np.testing.assert_allclose(record.z, np.arange(8) * 0.35 * math.pi / 8)
    np.testing.assert_array_equal(record.y, wall_normal_nodes(17))
    assert record.x.attrs["period"] == math.pi
    assert all(record[name].attrs["units"] == "1" for name in record.coords)
    assert record.attrs["viscosity"] == 1 / 4200
    assert record.attrs["filter_width_x"] == pytest.approx(math.pi / 16)


def test_saved_velocity_sticks_to_the_walls_and_has_the_bulk_velocity():
    fine = replace(FLOW, nodes=(4, 9, 4), cells=(8, 16, 8), time_step=0.025).simulate([1])
    for name in ("u", "v", "w"):
        assert np.abs(fine[name].isel(y=[0, -1])).max() < 1e-7
        assert np.abs(fine[name].isel(y=4)).max() > 1e-3
    profile = fine.u.mean(("time", "x", "z"))[0]
    assert float(np.trapezoid(profile, fine.y)) / 2 == pytest.approx(2 / 3, rel=0.06)


def test_record_says_how_to_compute_it_again():
    record = FLOW.simulate([1])
    recipe = json.loads(record.attrs["simulation"])
    assert recipe["class_path"] == "workbench.simulate.channel.ChannelFlow"
    xr.testing.assert_identical(ChannelFlow(**recipe["init_args"]).simulate([1]), record)


def test_progress_counts_every_save_interval():
    calls = []
    FLOW.simulate([0, 2], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 10) for k in range(1, 11)]


@pytest.mark.parametrize("preset", ["tiny", "mfu180", "box180", "retau180", "retau395", "retau590"])
def test_recipe_declares_what_the_source_makes(preset):
    recipe = yaml.safe_load(RECIPE.read_text())
    flow = ChannelFlow(**{**recipe["source"]["init_args"], **recipe["presets"][preset]})
    template = flow.template()
    assert recipe["variables"] == {str(name): template[name].attrs for name in template}
    assert set(recipe["chunks"]) == set(template.dims)
    laminar = torch.as_tensor(flow.grid.centres * (2 - flow.grid.centres), dtype=torch.float32)
    ny = flow.cells[1]  # one column is enough: the laminar profile must be well within the limit
    grid = ChannelGrid((1, ny, 1), (flow.grid.spacing[0], flow.grid.spacing[1]))
    still = Velocity(laminar[None, :, None, None], torch.zeros(1, ny + 1, 1, 1), torch.zeros(1, ny, 1, 1))
    solver = ChannelSolver(grid, 1 / flow.reynolds_number, bulk_velocity=2 / 3)
    assert solver.admissible_time_step(still) > 1.5 * flow.time_step


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": (3, 5, 4)}, "nodes must be at least (4, 5, 4); found (3, 5, 4)"),
        ({"cells": (8, 10, 8)}, "cells must be multiples of 4 along x, 4 along y and 4 along z"),
        ({"length_x": 0.0}, "length_x must be positive; found 0.0"),
        ({"reynolds_number": float("nan")}, "reynolds_number must be positive; found nan"),
        ({"time_step": -0.1}, "time_step must be positive"),
        ({"save_interval": 0.12}, "save_interval must be a multiple of 0.05; found 0.12"),
        ({"spin_up": 0.25}, "spin_up must be a multiple of 0.1; found 0.25"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"trajectories": 0}, "trajectories must be at least 1"),
        ({"seed": -1}, "seed must be zero or positive"),
        ({"precision": "float16"}, "precision must be float64 or float32; found 'float16'"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        replace(FLOW, **change)


@pytest.mark.parametrize("numbers", [[3], [-1], [1, 1], []])
def test_unknown_trajectories_are_refused(numbers):
    with pytest.raises(InputError, match=re.escape(f"distinct trajectory numbers from 0 to 2; found {numbers}")):
        FLOW.simulate(numbers)


@pytest.mark.parametrize(
    ("points", "lengths", "message"),
    [((4, 3, 4), (1.0, 1.0), "at least (1, 4, 1)"), ((4, 4, 4), (1.0, -1.0), "lengths along x and z must be positive")],
)
def test_grid_refuses(points, lengths, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ChannelGrid(points, lengths)
    with pytest.raises(InputError, match="at least 3 nodes, both walls among them; found 2"):
        wall_normal_nodes(2)


# ---------------------------------------------------------------------------------------------------------------
# The solver's own checks


def laminar(grid: ChannelGrid, speed: float = 1.0) -> Velocity:
    nx, ny, nz = grid.points
    u = torch.as_tensor(speed * grid.centres * (2 - grid.centres), dtype=torch.float32)[None, :, None, None]
    return Velocity(u.repeat(1, 1, nx, nz), torch.zeros(1, ny + 1, nx, nz), torch.zeros(1, ny, nx, nz))


def test_too_large_a_step_stops_with_the_admissible_one():
    """A uniform force accelerates the fluid until Δt max u/Δx reaches √3."""
    grid = ChannelGrid((8, 8, 8), (8.0, 8.0))
    solver = ChannelSolver(grid, 0.0, pressure_gradient=1.0)
    start = laminar(grid, 0.0)
    assert solver.admissible_time_step(start) == math.inf
    with pytest.raises(InputError, match=r"time_step 0\.5 exceeds the admissible 0\.4949 at step 7 \(t = 3\.5 "):
        solver.advance(start, 0.5, 10)
    end = solver.advance(start, 0.5, 7)
    torch.testing.assert_close(end.u, torch.full_like(end.u, 3.5), rtol=1e-6, atol=0)


def test_viscosity_limits_the_step(monkeypatch):
    """Just within the limit noise decays; with a limit that is a third too high it grows without end."""
    grid = ChannelGrid((4, 16, 4), (4.0, 4.0))
    velocity = laminar(grid, 1e-6)
    limit = ChannelSolver(grid, 1.0, pressure_gradient=0.0).admissible_time_step(velocity)
    assert limit < grid.heights.min() ** 2
    noise = velocity._replace(u=torch.randn(velocity.u.shape, generator=torch.Generator().manual_seed(0)) * 1e-3)
    solver = ChannelSolver(grid, 1.0, pressure_gradient=0.0)
    decayed = solver.advance(noise, 0.95 * solver.admissible_time_step(noise), 60)
    assert decayed.u.abs().max() < noise.u.abs().max()
    monkeypatch.setattr(channel_solver, "DIFFUSION_LIMIT", 3.4)
    assert solver.admissible_time_step(velocity) == pytest.approx(1.355 * limit, rel=1e-2)
    with pytest.raises(InputError, match="exceeds the admissible|not finite"):
        solver.advance(noise, 0.95 * solver.admissible_time_step(noise), 400)


def test_velocity_that_is_not_finite_is_refused():
    grid = ChannelGrid((4, 4, 4), (1.0, 1.0))
    velocity = laminar(grid)
    velocity.u[0, 1, 2, 3] = float("nan")
    with pytest.raises(InputError, match=r"the velocity is not finite at step 5 \(t = 0\.05 "):
        ChannelSolver(grid, 0.1, bulk_velocity=1.0).advance(velocity, 0.01, 2, first_step=5)


@pytest.mark.parametrize("method", ["project", "tendency", "admissible_time_step"])
def test_velocity_of_another_grid_or_precision_is_refused(method):
    grid = ChannelGrid((4, 4, 4), (1.0, 1.0))
    solver = ChannelSolver(grid, 0.1, bulk_velocity=1.0)
    other = laminar(ChannelGrid((4, 6, 4), (1.0, 1.0)))
    with pytest.raises(InputError, match=r"expected u as torch.float32 \(1, 4, 4, 4\).*found torch.float32 \(1, 6"):
        getattr(solver, method)(other)
    with pytest.raises(InputError, match="found torch.float64"):
        solver.advance(Velocity(*(f.double() for f in laminar(grid))), 0.01, 1)


@pytest.mark.parametrize("drive", [{}, {"bulk_velocity": 1.0, "pressure_gradient": 1.0}])
def test_exactly_one_drive(drive):
    with pytest.raises(InputError, match="either bulk_velocity or pressure_gradient"):
        ChannelSolver(FLOW.grid, 0.1, **drive)
    with pytest.raises(InputError, match="viscosity must be zero or positive; found -1.0"):
        ChannelSolver(FLOW.grid, -1.0, bulk_velocity=1.0)


def test_batch_takes_the_same_steps_as_each_trajectory_alone():
    flow = ChannelFlow(nodes=(16, 17, 16), cells=(32, 32, 32))
    solver = flow.solver()
    single = [flow.initial(solver, k) for k in range(3)]
    batch = Velocity(*(torch.cat(fields) for fields in zip(*single, strict=True)))
    together = solver.advance(batch, 0.02, 3)
    for k in range(3):
        alone = solver.advance(single[k], 0.02, 3)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[k], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------
# Nodes


def waves(grid: ChannelGrid) -> Velocity:
    """Fields that modes and cubics represent exactly: a polynomial of degree three in y that is zero at the walls."""
    kx, kz = (2 * math.pi / length for length in grid.lengths)

    def field(half_x: float, y: np.ndarray, half_z: float) -> torch.Tensor:
        x = (np.arange(grid.points[0]) + half_x) * grid.spacing[0] * kx
        z = (np.arange(grid.points[2]) + half_z) * grid.spacing[1] * kz
        plane = 1 + np.sin(x[:, None] + z) + np.cos(x)[:, None]
        return torch.as_tensor((y * (2 - y) * (1 + y))[:, None, None] * plane)[None]

    return Velocity(field(0, grid.centres, 0.5), field(0.5, grid.faces, 0.5), field(0.5, grid.centres, 0))


@pytest.mark.parametrize("nodes", [(12, 17, 10), (6, 9, 5), (4, 5, 5)])
def test_nodes_hold_exact_values(nodes):
    grid = ChannelGrid((12, 16, 10), (3.0, 2.0))
    found = to_nodes(waves(grid), grid, nodes)
    x, z = (2 * math.pi * np.arange(n) / n for n in (nodes[0], nodes[2]))
    y = wall_normal_nodes(nodes[1])
    plane = 1 + np.sin(x[:, None] + z) + np.cos(x)[:, None]
    expected = torch.as_tensor(plane[:, None, :] * (y * (2 - y) * (1 + y))[:, None])
    for component in range(3):
        torch.testing.assert_close(found[0, component], expected, rtol=0, atol=1e-12)


def test_top_hat_damps_a_wave_by_its_transfer_function():
    grid = ChannelGrid((16, 16, 8), (2.0, 1.0))
    width = (0.5, 0.25)
    plain, filtered = (to_nodes(waves(grid), grid, (8, 9, 8), w) for w in ((0.0, 0.0), width))
    spectra = [torch.fft.fft2(f[0, 0, :, 4], norm="forward") for f in (plain, filtered)]
    one, other = (np.sinc(w / length) for w, length in zip(width, grid.lengths, strict=True))
    torch.testing.assert_close(spectra[1][0, 0], spectra[0][0, 0], rtol=1e-12, atol=0)
    torch.testing.assert_close(spectra[1][1, 0], spectra[0][1, 0] * one, rtol=1e-12, atol=0)
    torch.testing.assert_close(spectra[1][1, 1], spectra[0][1, 1] * one * other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cells", [(12, 16, 10), (24, 32, 12), (6, 8, 5)])
def test_cells_from_nodes_hold_exact_values(cells):
    start = ChannelGrid((12, 16, 10), (3.0, 2.0))
    grid = ChannelGrid(cells, start.lengths)
    for found, expected in zip(from_nodes(to_nodes(waves(start), start, (12, 17, 10)), grid), waves(grid), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_more_nodes_than_cells_are_refused():
    grid = ChannelGrid((8, 8, 8), (1.0, 1.0))
    with pytest.raises(InputError, match="at most 8 x 8 nodes along x and z; found"):
        to_nodes(laminar(grid), grid, (16, 9, 8))


# ---------------------------------------------------------------------------------------------------------------
# Closures


def disturbed(grid: ChannelGrid) -> Velocity:
    solver = ChannelSolver(grid, 0.01, bulk_velocity=2 / 3, dtype=torch.float64)
    nx, ny, nz = grid.points
    u, v, w = torch.randn(3, 1, ny + 1, nx, nz, dtype=torch.float64)
    v[:, [0, -1]] = 0
    return solver.project(Velocity(u[:, 1:], v, w[:, 1:]))


def test_wale_is_the_published_formula():
    torch.manual_seed(0)
    grid = ChannelGrid((6, 8, 6), (2.0, 1.0))
    velocity = disturbed(grid)
    gradient = torch.stack([torch.stack(row, 1) for row in channel_les.velocity_gradient(velocity, grid)], 1)
    square = torch.einsum("bikyxz,bkjyxz->bijyxz", gradient, gradient)
    trace = torch.einsum("biiyxz->byxz", square)
    traceless = (square + square.transpose(1, 2)) / 2 - torch.eye(3)[..., None, None, None] * trace[:, None, None] / 3
    shear, strain = (t.square().sum((1, 2)) for t in (traceless, (gradient + gradient.transpose(1, 2)) / 2))
    width = channel_les.filter_width(velocity.u, grid)
    expected = (channel_les.WALE_CONSTANT * width) ** 2 * shear**1.5 / (strain**2.5 + shear**1.25)
    torch.testing.assert_close(channel_les.wale(velocity, grid), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("closure", [channel_les.wale, channel_les.dynamic_smagorinsky])
def test_closures_vanish_in_laminar_flow_and_are_positive_in_turbulence(closure):
    grid = ChannelGrid((6, 8, 6), (2.0, 1.0))
    torch.manual_seed(0)
    assert closure(laminar(grid), grid).abs().max() < 1e-7
    assert closure(laminar(grid, 0.0), grid).abs().max() == 0
    eddy = closure(disturbed(grid), grid)
    assert eddy.shape == (1, 8, 6, 6)
    assert eddy.min() >= 0
    assert eddy.max() > 1e-4


def test_dynamic_constant_scales_as_it_must():
    """Twice the velocity, twice the eddy viscosity."""
    torch.manual_seed(1)
    grid = ChannelGrid((8, 8, 8), (2.0, 1.0))
    velocity = disturbed(grid)
    double = Velocity(*(2 * f for f in velocity))
    for closure in (channel_les.wale, channel_les.dynamic_smagorinsky):
        torch.testing.assert_close(closure(double, grid), 2 * closure(velocity, grid), rtol=1e-9, atol=1e-14)


# ---------------------------------------------------------------------------------------------------------------
# Restart files


def test_a_stopped_trajectory_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(channel, "RESTART_INTERVALS", 2)
    flow = replace(FLOW, restart_folder=str(tmp_path / "restarts"))
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(flow, steps=4).simulate([0], progress=stop)
    (file,) = (tmp_path / "restarts").iterdir()
    began = load_restart(file, replace(flow, steps=4)._settings())
    assert int(began["next"]) == 4
    whole = replace(FLOW, steps=4).simulate([0])
    resumed = replace(flow, steps=4).simulate([0], progress=lambda done, total: calls.append(done))
    xr.testing.assert_identical(resumed.drop_attrs(), whole.drop_attrs())
    assert calls == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "restarts").iterdir()), "a finished trajectory needs none"


def test_restart_file_is_exact_and_replaced_as_a_whole(tmp_path):
    file = tmp_path / "deep" / "a.npz"
    arrays = {"u": np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32), "next": np.array(7)}
    save_restart(file, {"u": np.zeros(1)}, {"dt": 0.1})
    save_restart(file, arrays, {"dt": 0.1, "cells": (1, 2)})
    found = load_restart(file, {"dt": 0.1, "cells": (1, 2)})
    assert set(found) == {"u", "next"}
    np.testing.assert_array_equal(found["u"], arrays["u"])
    assert [f.name for f in file.parent.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_restart_file_is_refused(tmp_path, damage):
    file = tmp_path / "a.npz"
    save_restart(file, {"u": np.arange(1000.0)}, {"dt": 0.1})
    content = bytearray(file.read_bytes())
    content[4000] ^= 1
    file.write_bytes({"flip": content, "cut": content[:2000], "empty": b"", "other": b"not a restart file"}[damage])
    with pytest.raises(InputError, match=r"restart file .*a\.npz is damaged .*delete it, and the trajectory starts"):
        load_restart(file, {"dt": 0.1})


def test_restart_file_of_another_run_is_refused(tmp_path):
    save_restart(tmp_path / "a.npz", {"u": np.zeros(3)}, {"dt": 0.1})
    with pytest.raises(InputError, match=r"is of another run: dt was 0\.1, expected 0\.2; delete it"):
        load_restart(tmp_path / "a.npz", {"dt": 0.2})
