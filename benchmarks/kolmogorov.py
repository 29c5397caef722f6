"""Time a step of Workbench's Kolmogorov solver against the textbook formulations of the same scheme, in one run.

`textbook` keeps the full complex spectrum, takes five complex transforms a right-hand side (u, v, ∇ω and back)
and computes wavenumbers and exponentials where it needs them. `textbook, tuned` does what a careful reader would do
next: real transforms (still five) and every coefficient computed once. All three are integrating-factor RK4 with the
2/3 rule; their vorticity after a few steps is compared first. One thread, float64.

    python benchmarks/kolmogorov.py [--quick]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.simulate.vorticity import Solver, cutoff, random_vorticity, to_field

CASES = [(64, 1), (64, 8), (64, 32), (128, 1), (128, 8), (256, 1), (256, 4)]  # points a side, trajectories
VISCOSITY, DRAG, AMPLITUDE, FORCED = 2e-3, 0.1, 1.0, 4
Step = Callable[[Tensor], Tensor]


def wavenumbers(n: int, real: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return k_y, k_x, k² (one in place of its zero) and the 2/3 mask."""
    ky = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)[:, None]
    kx = torch.fft.rfftfreq(n, 1 / n, dtype=torch.float64) if real else ky.T
    k2 = kx**2 + ky**2
    k2[0, 0] = 1
    return ky, kx, k2, ((kx.abs() <= cutoff(n)) & (ky.abs() <= cutoff(n))).double()


def linear(n: int, dt: float, real: bool) -> tuple[Tensor, Tensor]:
    """Return the factor and the forcing's share of half a step of the linear part."""
    ky, kx, _, _ = wavenumbers(n, real)
    rate = -VISCOSITY * (kx**2 + ky**2) - DRAG
    force = torch.where((kx == 0) & (ky.abs() == FORCED), -AMPLITUDE * FORCED / 2, 0.0)
    return torch.exp(rate * dt / 2), torch.expm1(rate * dt / 2) / rate * force


def runge_kutta(omega: Tensor, dt: float, advection: Step, half: Step, factor: Tensor) -> Tensor:
    """Return omega after one integrating-factor RK4 step, as it stands in the books."""
    k1 = advection(omega)
    start = half(omega)
    k2 = advection(start + dt / 2 * factor * k1)
    k3 = advection(start + dt / 2 * k2)
    k4 = advection(half(start) + dt * factor * k3)
    return half(start) + dt / 6 * (factor**2 * k1 + 2 * factor * (k2 + k3) + k4)


def textbook(n: int, dt: float) -> Step:
    """Return a step on the full complex spectrum, nothing computed ahead."""

    def advection(omega: Tensor) -> Tensor:
        ky, kx, k2, mask = wavenumbers(n, real=False)
        u = torch.fft.ifft2(1j * ky / k2 * omega).real
        v = torch.fft.ifft2(-1j * kx / k2 * omega).real
        along_x, along_y = torch.fft.ifft2(1j * kx * omega).real, torch.fft.ifft2(1j * ky * omega).real
        return -mask * torch.fft.fft2(u * along_x + v * along_y)

    def step(omega: Tensor) -> Tensor:
        factor, force = linear(n, dt, real=False)
        return runge_kutta(omega, dt, advection, lambda x: factor * x + force * n**2, factor)

    return step


def textbook_tuned(n: int, dt: float) -> Step:
    """Return a step on the half spectrum, every coefficient computed once."""
    ky, kx, k2, mask = wavenumbers(n, real=True)
    derivatives = torch.stack([1j * ky / k2 + 0 * kx, -1j * kx / k2, 1j * kx + 0 * ky, 1j * ky + 0 * kx])
    negative = -mask
    factor, force = linear(n, dt, real=True)

    def advection(omega: Tensor) -> Tensor:
        u, v, along_x, along_y = torch.fft.irfft2(derivatives[:, None] * omega, s=(n, n))
        return negative * torch.fft.rfft2(u * along_x + v * along_y)

    return lambda omega: runge_kutta(omega, dt, advection, lambda x: factor * x + force * n**2, factor)


def repeat(step: Step, count: int) -> Step:
    """Return `count` steps as one function."""

    def steps(omega: Tensor) -> Tensor:
        for _ in range(count):
            omega = step(omega)
        return omega

    return steps


def check_agreement(case: str, fields: dict[str, Tensor]) -> None:
    """Print how far the formulations are apart; stop where that is not rounding."""
    ours = fields["workbench"]
    for name, field in fields.items():
        difference = ((field - ours).norm() / ours.norm()).item()
        if name != "workbench":
            print(f"{case:10} vorticity of {name} differs by {difference:.1e}")
        if difference > 1e-11:
            raise SystemExit(f"{case}: {name} and workbench disagree")


def measure(runs: dict[str, tuple[Step, Tensor]], seconds: float) -> dict[str, list[float]]:
    """Time all in turn, again and again, for at least three rounds and about the given time."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds:
        for name, (steps, omega) in runs.items():
            began = time.perf_counter()
            steps(omega)
            times[name].append(time.perf_counter() - began)
        rounds += 1
    return times


def main() -> None:
    """Print one row a case and formulation, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="Kolmogorov solver against the textbook formulations")
    parser.add_argument("--quick", action="store_true", help="end within 45 s on two cores")
    seconds = 2.5 if parser.parse_args().quick else 15.0
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    print(f"torch {torch.__version__}, 1 thread, float64; median, interleaved")
    print(f"{'case':10} {'who':16} {'ms a step':>10} {'ms a step, trajectory':>22} {'ratio to workbench':>19}")
    for n, count in CASES:
        case, dt, steps = f"{n}x{n} x{count}", 0.3 / n, max(1, 16384 // (n * n))
        omega = torch.stack([random_vorticity(0, k, cutoff(n), rms=4.0, wavenumber=6) for k in range(count)])
        field = to_field(omega, n)
        solver = Solver(n, dt, VISCOSITY, DRAG, AMPLITUDE, FORCED)
        runs: dict[str, tuple[Step, Tensor]] = {
            "workbench": (repeat(solver.step, steps), omega),
            "textbook": (repeat(textbook(n, dt), steps), torch.fft.fft2(field)),
            "textbook, tuned": (repeat(textbook_tuned(n, dt), steps), torch.fft.rfft2(field)),
        }
        ends = {name: run(start) for name, (run, start) in runs.items()}
        fields = {"workbench": to_field(ends["workbench"], n), "textbook": torch.fft.ifft2(ends["textbook"]).real}
        check_agreement(case, {**fields, "textbook, tuned": torch.fft.irfft2(ends["textbook, tuned"], s=(n, n))})
        times = measure(runs, seconds)
        for name, durations in times.items():
            median = 1e3 * statistics.median(durations) / steps
            ratio = statistics.median(other / ours for other, ours in zip(durations, times["workbench"], strict=True))
            print(f"{case:10} {name:16} {median:10.3f} {median / count:22.3f} {ratio:19.2f}")
            if name != "workbench":
                ratios[f"{case}, {name} / workbench"] = round(ratio, 3)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
