"""Pseudo-spectral solver of the forced vorticity equation on the doubly periodic square [0, 2π)².

    ∂ω/∂t + u·∇ω = ν ∇²ω − μ ω + curl f,    f = A sin(k_f y) x̂,    curl f = −A k_f cos(k_f y)

Space: Fourier, dealiased by the 2/3 rule: the modes |k_x|, |k_y| ≤ K = ⌊(N − 1)/3⌋ are the whole state.
Time: integrating-factor Runge–Kutta of order 4. Viscosity, drag and forcing are integrated exactly, so the
laminar flow is a fixed point of the step and only advection limits the time step.

A right-hand side takes two complex transforms: with w = u + iv, both products that advection needs are in
w² = u² − v² + 2i uv, since u·∇ω = ∂x∂y (v² − u²) + (∂x² − ∂y²)(uv). Compared with four real transforms this took
a tenth (256², one trajectory) to four tenths (64², 32 trajectories) off the time of a right-hand side.

Sources: Basdevant 1983, J. Comput. Phys. 50, 209 (advection in four real transforms); Lawson 1967, SIAM J.
Numer. Anal. 4, 372 (integrating factor).
"""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from workbench.errors import InputError

Modes = Complex[Tensor, "*batch ky kx"]
Batch = Complex[Tensor, "batch ky kx"]
Grid = Complex[Tensor, "batch y x"]


def cutoff(resolution: int) -> int:
    """Largest wavenumber K kept by the 2/3 rule on N points: 3K < N, so that no product aliases onto it."""
    return (resolution - 1) // 3


def wavenumbers(k_max: int) -> tuple[Float[Tensor, "ky 1"], Float[Tensor, "kx"]]:
    """Wavenumbers (k_y, k_x) of the stored half plane: k_y = −K … K down the rows, k_x = 0 … K along them."""
    k = torch.arange(-k_max, k_max + 1, dtype=torch.float64)
    return k[:, None], k[k_max:]


def to_modes(field: Float[Tensor, "*batch y x"], k_max: int) -> Modes:
    """Coefficients of a real field, f = Σ f̂(k) exp(ik·x), for |k_x|, |k_y| ≤ K < N/2: (…, 2K + 1, K + 1)."""
    half = torch.fft.rfft2(field, norm="forward")[..., : k_max + 1]
    return torch.cat([half[..., -k_max:, :], half[..., : k_max + 1, :]], dim=-2)


def to_field(modes: Modes, resolution: int) -> Float[Tensor, "*batch y x"]:
    """The real field on N × N points; modes that N points cannot carry (2|k| ≥ N) are cut off sharply."""
    stored = modes.shape[-1] - 1
    kept = min(stored, (resolution - 1) // 2)
    half = modes.new_zeros(*modes.shape[:-2], resolution, resolution // 2 + 1)
    half[..., : kept + 1, : kept + 1] = modes[..., stored : stored + kept + 1, : kept + 1]
    half[..., -kept:, : kept + 1] = modes[..., stored - kept : stored, : kept + 1]
    return torch.fft.irfft2(half, s=(resolution, resolution), norm="forward")


def velocity_modes(omega: Modes) -> tuple[Modes, Modes]:
    """Velocity of a vorticity: û = i k_y ω̂/k², v̂ = −i k_x ω̂/k² (∇·u = 0, ∂x v − ∂y u = ω, zero mean)."""
    ky, kx = wavenumbers(omega.shape[-1] - 1)
    k2 = kx**2 + ky**2
    stream = omega / torch.where(k2 > 0, k2, math.inf).to(omega.dtype)
    return stream * (1j * ky).to(omega.dtype), stream * (-1j * kx).to(omega.dtype)


def random_vorticity(seed: int, trajectory: int, k_max: int, rms: float, wavenumber: int) -> Modes:
    """A Gaussian random vorticity with equal variance in every mode 0 < |k| ≤ `wavenumber`, scaled to `rms`.

    Drawn from (seed, trajectory) alone: the same field in any batch and at any resolution.

    Returns:
        complex128 coefficients (2K + 1, K + 1).
    """
    ky, kx = wavenumbers(wavenumber)
    shape = (2, 2 * wavenumber + 1, wavenumber + 1)
    real, imag = torch.from_numpy(np.random.default_rng([seed, trajectory]).standard_normal(shape))
    modes = torch.complex(real, imag)
    modes[:wavenumber, 0] = modes[wavenumber + 1 :, 0].flip(0).conj()  # real field: f̂(−k) = conj f̂(k)
    modes *= (kx**2 + ky**2 > 0) & (kx**2 + ky**2 <= wavenumber**2)
    weight = torch.where(kx > 0, 2.0, 1.0)  # a mode with k_x > 0 stands for its conjugate too
    modes *= rms / (weight * modes.abs() ** 2).sum().sqrt()
    pad = k_max - wavenumber
    return torch.nn.functional.pad(modes, (0, pad, pad, pad))


class Solver:
    """Advances vorticity modes (batch, 2K + 1, K + 1), every trajectory of the batch by the same time step.

    A trajectory is the same to the last bit in any batch. Vectorised and scalar code round the product of two
    complex numbers differently, so here such a product is taken one trajectory at a time, and the others have
    a real or an imaginary factor.

    Args:
        resolution: points N along each side of the solver's grid.
        time_step: Δt.
        viscosity: ν ≥ 0.
        drag: μ ≥ 0.
        forcing_amplitude: A.
        forcing_wavenumber: k_f, 1 … K.
        dtype: float64 or float32.

    Raises:
        InputError: if the forcing is beyond the modes that are kept.
    """

    def __init__(
        self,
        resolution: int,
        time_step: float,
        viscosity: float,
        drag: float = 0.0,
        forcing_amplitude: float = 0.0,
        forcing_wavenumber: int = 4,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.resolution, self.time_step, self.k_max = resolution, time_step, cutoff(resolution)
        if forcing_amplitude != 0 and not 1 <= forcing_wavenumber <= self.k_max:
            raise InputError(
                f"Solver: forcing_wavenumber must be 1 to {self.k_max}, the modes that {resolution} points keep after "
                f"dealiasing; found {forcing_wavenumber}"
            )
        self.dtype = dtype.to_complex()
        ky, kx = wavenumbers(self.k_max)
        k2 = kx**2 + ky**2
        inverse = 1 / torch.where(k2 > 0, k2, math.inf)
        self._iv, self._u = self._constant(kx * inverse), self._constant(1j * ky * inverse)
        # −Δt u·∇ω = a (Q + R) + b (Q − R), where Q(k) and R(k) = conj Q(−k) are modes of w²
        self._a = self._constant(-time_step * kx * ky / 2)
        self._b = self._constant(1j * time_step * (ky**2 - kx**2) / 4)
        rate = -(viscosity * k2 + drag) * time_step / 2
        self._decay = self._constant(rate.exp())
        row = self.k_max - forcing_wavenumber
        self._forced = slice(row, self.k_max + forcing_wavenumber + 1, 2 * forcing_wavenumber)  # k_y = ±k_f
        z = float(rate[row, 0])
        mean_decay = math.expm1(z) / z if z else 1.0
        self._kick = -forcing_amplitude * forcing_wavenumber / 2 * mean_decay * time_step / 2

    def _constant(self, values: Tensor) -> Tensor:
        return values.to(self.dtype)

    def advance(self, omega: Modes, steps: int, first_step: int = 0) -> Batch:
        """Vorticity after `steps` time steps; `first_step` only numbers the steps in error messages.

        Raises:
            InputError: if Δt exceeds the admissible one at some step, if the state is not finite, or if the modes are
                of another resolution or precision.
        """
        shape = tuple(self._decay.shape)
        if omega.ndim != 3 or omega.shape[1:] != shape or omega.dtype != self.dtype:
            raise InputError(
                f"Solver.advance: expected {self.dtype} modes of shape (batch, {shape[0]}, {shape[1]}) for "
                f"{self.resolution} points; found {omega.dtype} {tuple(omega.shape)}; to_modes(field, {self.k_max}) "
                "makes them"
            )
        for step in range(first_step, first_step + steps):
            omega = self.step(omega, step)
        return omega

    def step(self, omega: Batch, number: int = 0) -> Batch:
        """One step of integrating-factor RK4, the constant forcing being part of the factor."""
        velocity = self._velocity(omega)
        self._check(velocity, number)
        k1 = self._advection(velocity).mul_(self._decay)
        start = self._linear_half_step(omega.clone())
        end = start.add(k1, alpha=1 / 6)
        k2 = self.advection(start.add(k1, alpha=1 / 2))
        end.add_(k2, alpha=1 / 3)
        k3 = self.advection(start.add(k2, alpha=1 / 2))
        end.add_(k3, alpha=1 / 3)
        k4 = self.advection(self._linear_half_step(start.add_(k3)))
        return self._linear_half_step(end).add_(k4, alpha=1 / 6)

    def advection(self, omega: Batch) -> Batch:
        """Dealiased −Δt u·∇ω of a vorticity."""
        return self._advection(self._velocity(omega))

    def _linear_half_step(self, omega: Batch) -> Batch:
        """Exact solution of ∂ω/∂t = ν ∇²ω − μ ω + curl f after Δt/2, in place."""
        omega.mul_(self._decay)
        omega[..., self._forced, 0] += self._kick
        return omega

    def _velocity(self, omega: Batch) -> Grid:
        """(u + iv) exp(iK(x + y)) on the grid.

        The phase moves modes −K … K to the indices 0 … 2K, one block instead of four corners, and those of the
        square to K … 3K: its other modes wrap round onto indices below K only, because 3K < N.
        """
        n, k = self.resolution, self.k_max
        plane = omega.new_zeros(len(omega), n, n)
        u, iv = omega * self._u, omega * self._iv
        torch.add(u, iv, out=plane[:, : 2 * k + 1, k : 2 * k + 1])
        plane[:, : 2 * k + 1, :k] = u.sub_(iv)[..., 1:].flip(-2, -1).conj_physical_()
        return torch.fft.ifft2(plane, norm="forward")

    def _advection(self, velocity: Grid) -> Batch:
        k = self.k_max
        for field in velocity:
            field.mul_(field)
        square = torch.fft.fft2(velocity, norm="forward")[:, k : 3 * k + 1, k : 3 * k + 1]
        mirrored = square[..., : k + 1].flip(-2, -1).conj_physical_()
        square = square[..., k:]
        difference = (square - mirrored).mul_(self._b)
        return mirrored.add_(square).mul_(self._a).add_(difference)

    def _check(self, velocity: Grid, step: int) -> None:
        """Courant limit: RK4 carries Δt |k·u| up to 2√2, and |k·u| ≤ √2 K |w|, so that Δt ≤ 2 / (K max |w|)."""
        parts = torch.view_as_real(velocity)
        largest = max(parts.amax().item(), -parts.amin().item())  # ≥ |w|/√2: 35 µs at 256², max |w| takes 500
        if self.time_step * self.k_max * math.sqrt(2) * largest <= 2:
            return
        speed = velocity.abs().max().item()
        where = f"at step {step} (t = {step * self.time_step:.6g} from the initial condition)"
        if not math.isfinite(speed):
            raise InputError(f"the vorticity is not finite {where}; check the initial condition")
        admissible = 2 / (self.k_max * speed)
        if self.time_step > admissible:
            raise InputError(
                f"time_step {self.time_step:.6g} exceeds the admissible {admissible:.4g} {where}: the flow reached "
                f"speed {speed:.4g} on modes up to {self.k_max}; set time_step below that, with a margin"
            )
