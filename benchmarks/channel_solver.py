"""Time a step of Workbench's channel solver against a plain NumPy and SciPy formulation of the same scheme, in one run.

`numpy` is what one writes with arrays and nothing else: np.roll for periodic neighbours, one expression a flux, rfft2
in x and z, and the eigenvectors of the wall-normal operator as two matrix products for the pressure. Both are float32,
on one thread, and their velocities after a few steps are compared first. Times are CPU time, interleaved.

    python benchmarks/channel_solver.py [--quick]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.fft
import torch

from workbench.simulate.channel_grid import ChannelGrid
from workbench.simulate.channel_les import dynamic_smagorinsky, wale
from workbench.simulate.channel_poisson import wall_normal_modes
from workbench.simulate.channel_solver import STAGES, ChannelSolver, Velocity

VISCOSITY, BULK = 1 / 4200, 2 / 3
CASES = {
    "mfu": ((32, 64, 32), (math.pi, 0.35 * math.pi), 0.03),
    "box": ((64, 64, 48), (4 * math.pi, 4 * math.pi / 3), 0.04),
}
State = tuple[np.ndarray, np.ndarray, np.ndarray]
Run = Callable[[], None]


class Plain:
    """The scheme of `workbench.simulate.channel_solver` on arrays ``[y, x, z]``; v holds the faces between cells."""

    def __init__(self, grid: ChannelGrid) -> None:
        self.dx, self.dz = (np.float32(d) for d in grid.spacing)
        column = (slice(None), None, None)
        self.height = grid.heights.astype(np.float32)[column]
        self.gap = grid.gaps.astype(np.float32)[column]
        upper, lower = self.height[1:], self.height[:-1]
        self.below, self.above = lower / (lower + upper), upper / (lower + upper)
        values, modes, inverse = wall_normal_modes(grid)
        self.modes, self.inverse = modes.astype(np.float32), inverse.astype(np.float32)
        nx, ny, nz = grid.points
        kx = (2 - 2 * np.cos(2 * np.pi * np.arange(nx) / nx)) / grid.spacing[0] ** 2
        kz = (2 - 2 * np.cos(2 * np.pi * np.arange(nz // 2 + 1) / nz)) / grid.spacing[1] ** 2
        total = values[column] - kx[:, None] - kz
        total[np.unravel_index(np.abs(total).argmin(), total.shape)] = np.inf
        self.solution = (1 / total).astype(np.float32)

    def along_walls(
        self, h: np.ndarray, v: np.ndarray, axis: int, spacing: np.float32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tendency of h (u or w) from its flux along y, and of v from its flux along h; v without the walls."""
        v_edge = (v + np.roll(v, 1, axis)) / 2
        flux = v_edge * (h[1:] + h[:-1]) / 2 - VISCOSITY * (h[1:] - h[:-1]) / self.gap[1:-1]
        wall = VISCOSITY * 2 * np.stack([-h[0], h[-1]]) / self.gap[[0, -1]]
        flux = np.concatenate([wall[:1], flux, wall[1:]])
        carrier = self.below * h[:-1] + self.above * h[1:]
        across = carrier * v_edge - VISCOSITY * (v - np.roll(v, 1, axis)) / spacing
        return (flux[:-1] - flux[1:]) / self.height, (across - np.roll(across, -1, axis)) / spacing

    def tendency(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> State:
        """Advection and viscous stress."""
        flux = ((u + np.roll(u, -1, 1)) / 2) ** 2 - VISCOSITY * (np.roll(u, -1, 1) - u) / self.dx
        n_u = (np.roll(flux, 1, 1) - flux) / self.dx
        flux = ((w + np.roll(w, -1, 2)) / 2) ** 2 - VISCOSITY * (np.roll(w, -1, 2) - w) / self.dz
        n_w = (np.roll(flux, 1, 2) - flux) / self.dz
        advected = (u + np.roll(u, 1, 2)) * (w + np.roll(w, 1, 1)) / 4
        flux = advected - VISCOSITY * (u - np.roll(u, 1, 2)) / self.dz
        n_u += (flux - np.roll(flux, -1, 2)) / self.dz
        flux = advected - VISCOSITY * (w - np.roll(w, 1, 1)) / self.dx
        n_w += (flux - np.roll(flux, -1, 1)) / self.dx
        full = np.pad(v, ((1, 1), (0, 0), (0, 0)))
        flux = ((full[1:] + full[:-1]) / 2) ** 2 - VISCOSITY * (full[1:] - full[:-1]) / self.height
        n_v = (flux[:-1] - flux[1:]) / self.gap[1:-1]
        for n_h, h, axis, spacing in ((n_u, u, 1, self.dx), (n_w, w, 2, self.dz)):
            along, across = self.along_walls(h, v, axis, spacing)
            n_h += along
            n_v += across
        return n_u, n_v, n_w

    def project(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> State:
        """Velocity without divergence, of the given bulk velocity."""
        full = np.pad(v, ((1, 1), (0, 0), (0, 0)))
        source = (np.roll(u, -1, 1) - u) / self.dx + (np.roll(w, -1, 2) - w) / self.dz
        source += (full[1:] - full[:-1]) / self.height
        modes = scipy.fft.rfft2(source)
        shape = modes.shape
        modes = (self.inverse @ modes.reshape(shape[0], -1).view(np.float32)).view(np.complex64).reshape(shape)
        modes *= self.solution
        modes = (self.modes @ modes.reshape(shape[0], -1).view(np.float32)).view(np.complex64).reshape(shape)
        potential = scipy.fft.irfft2(modes, s=u.shape[1:])
        u = u - (potential - np.roll(potential, 1, 1)) / self.dx
        w = w - (potential - np.roll(potential, 1, 2)) / self.dz
        v = v - (potential[1:] - potential[:-1]) / self.gap[1:-1]
        return u + np.float32(BULK - (u * self.height).mean((1, 2)).sum() / 2), v, w

    def step(self, state: State, dt: float) -> State:
        """One step of Wray's Runge–Kutta scheme."""
        before: State | None = None
        for now, earlier in STAGES:
            tendency = self.tendency(*state)
            moved = [f + np.float32(now * dt) * n for f, n in zip(state, tendency, strict=True)]
            if before is not None:
                moved = [f + np.float32(earlier * dt) * n for f, n in zip(moved, before, strict=True)]
            state, before = self.project(*moved), tendency
        return state


def disturbed(grid: ChannelGrid, batch: int) -> Velocity:
    """The laminar profile with noise, not yet solenoidal."""
    nx, ny, nz = grid.points
    rng = np.random.default_rng(0)
    u, v, w = (0.05 * rng.standard_normal((3, 1, ny + 1, nx, nz))).astype(np.float32)
    v[:, [0, -1]] = 0
    laminar = (grid.centres * (2 - grid.centres)).astype(np.float32)[:, None, None]
    fields = (u[:, :-1] + laminar, v, w[:, :-1])
    return Velocity(*(torch.from_numpy(f).repeat(batch, 1, 1, 1) for f in fields))


def ours(solver: ChannelSolver, start: Velocity, dt: float, steps: int) -> Run:
    """Steps of the solver as a function to time."""
    return lambda: solver.advance(start, dt, steps) and None


def plain(solver: Plain, start: State, dt: float, steps: int) -> Run:
    """Steps of the plain formulation as a function to time."""

    def run() -> None:
        state = start
        for _ in range(steps):
            state = solver.step(state, dt)

    return run


def check_agreement(case: str, grid: ChannelGrid, solver: ChannelSolver, start: Velocity, dt: float) -> State:
    """Print how far both are apart after five steps; stop where that is not rounding. Returns the plain start."""
    reference = Plain(grid)
    state: State = (start.u[0].numpy(), start.v[0, 1:-1].numpy(), start.w[0].numpy())
    first = state
    end = solver.advance(start, dt, 5)
    for _ in range(5):
        state = reference.step(state, dt)
    pairs = zip(state, (end.u[0], end.v[0, 1:-1], end.w[0]), strict=True)
    difference = max(float(np.abs(a - b.numpy()).max()) for a, b in pairs)
    print(f"{case:18} velocity of numpy differs by {difference:.1e}")
    if not difference < 2e-5:
        raise SystemExit(f"{case}: numpy and workbench disagree")
    return first


def measure(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """CPU seconds of all in turn, again and again, for at least three rounds and about the given time."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds:
        for name, run in runs.items():
            began = time.process_time()
            run()
            times[name].append(time.process_time() - began)
        rounds += 1
    return times


def main() -> None:
    """Print one row a case and formulation, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="channel solver against a plain NumPy and SciPy formulation")
    parser.add_argument("--quick", action="store_true", help="end within 45 s on two cores")
    seconds = 10.0 if parser.parse_args().quick else 40.0
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    print(f"torch {torch.__version__}, numpy {np.__version__}, 1 thread, float32; median CPU time, interleaved")
    for case, (points, lengths, dt) in CASES.items():
        grid, steps = ChannelGrid(points, lengths), 10
        solvers = {
            name: ChannelSolver(grid, VISCOSITY, bulk_velocity=BULK, closure=closure)
            for name, closure in {"workbench": None, "wale": wale, "dynamic_smagorinsky": dynamic_smagorinsky}.items()
        }
        start = solvers["workbench"].project(disturbed(grid, 1))
        first = check_agreement(case, grid, solvers["workbench"], start, dt)
        runs = {name: ours(solver, start, dt, steps) for name, solver in solvers.items()}
        four = Velocity(*(f.repeat(4, 1, 1, 1) for f in start))
        runs["batch of 4"] = ours(solvers["workbench"], four, dt, steps)
        runs["numpy"] = plain(Plain(grid), first, dt, steps)
        times = measure(runs, seconds)
        print(f"{case:18} {'who':20} {'ms a step, trajectory':>22} {'ratio to workbench':>19}")
        for name, durations in times.items():
            share = 4 if name == "batch of 4" else 1
            ratio = statistics.median(a / b / share for a, b in zip(durations, times["workbench"], strict=True))
            milliseconds = 1e3 * statistics.median(durations) / steps / share
            print(f"{case:18} {name:20} {milliseconds:22.2f} {ratio:19.2f}")
            if name == "numpy":
                ratios[case] = round(ratio, 3)
        batched = zip(times["numpy"], times["batch of 4"], strict=True)
        ratios[f"{case}_batched"] = round(statistics.median(4 * a / b for a, b in batched), 3)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
