"""Pseudo-spectral solver of the rotating shallow-water equations on a doubly periodic square, f constant.

    ∂u/∂t = (ζ + f) v − ∂B/∂x,   ∂v/∂t = −(ζ + f) u − ∂B/∂y,   ∂h/∂t = −∂(h u)/∂x − ∂(h v)/∂y

with vorticity ζ = ∂v/∂x − ∂u/∂y, B = g η + (u² + v²)/2 and depth h = H + η. Space: Fourier, dealiased by the 2/3 rule.
Time: Runge–Kutta of order 4; after each step modes are damped by exp(−(k/k_max)⁸ Δt/τ). The mean depth is exact.

Source: Vallis 2017, Atmospheric and Oceanic Fluid Dynamics, 2nd ed., sections 3.1 and 4.1 (vector-invariant form).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from workbench.errors import InputError

Modes = Complex[Tensor, "3 ky kx"]
"""Coefficients of u, v and η on the half plane of a real transform."""


@dataclass(frozen=True)
class ShallowWater:
    """Constants of the flow, SI units.

    Args:
        length: side of the square, m.
        depth: mean depth H, m; in the atmosphere the equivalent depth of a vertical mode.
        gravity: g, m s-2.
        coriolis: f, s-1.
        damping_time: τ, s, of the smallest waves that are kept; infinite for no damping.
    """

    length: float
    depth: float
    gravity: float = 9.81
    coriolis: float = 1e-4
    damping_time: float = math.inf

    @property
    def wave_speed(self) -> float:
        """Speed of long gravity waves without rotation, √(g H)."""
        return math.sqrt(self.gravity * self.depth)


class Solver:
    """Advances the modes of one flow.

    Args:
        flow: its constants.
        resolution: points N along each side, even.
        time_step: Δt, s.
        dtype: float64 or float32.

    Raises:
        InputError: the resolution is odd or too small, or the time step exceeds what gravity waves admit.
    """

    def __init__(
        self, flow: ShallowWater, resolution: int, time_step: float, dtype: torch.dtype = torch.float64
    ) -> None:
        if resolution < 8 or resolution % 2:
            raise InputError(f"shallow water: resolution must be even and at least 8, found {resolution}")
        self.flow, self.resolution, self.time_step, self.dtype = flow, resolution, time_step, dtype
        cutoff = (resolution - 1) // 3
        unit = 2 * math.pi / flow.length
        ky, kx = (n * resolution for n in (torch.fft.fftfreq(resolution), torch.fft.rfftfreq(resolution)))
        kept = (ky.abs()[:, None] <= cutoff) & (kx[None] <= cutoff)
        self.mask = kept.to(dtype)
        self.ikx, self.iky = ((1j * unit * k.double()).to(dtype.to_complex()) for k in (kx[None], ky[:, None]))
        self.largest = unit * cutoff
        size = (unit / self.largest) ** 2 * (kx[None].double() ** 2 + ky[:, None].double() ** 2)
        self.decay = torch.exp(-(size**4) * time_step / flow.damping_time).to(dtype) * self.mask
        self.check(0.0, "before the first step")

    def check(self, speed: float, where: str) -> None:
        """RK4 carries oscillations up to Δt ω = 2√2; the fastest waves have ω ≤ f + √2 k_max (c + |u|).

        Raises:
            InputError: the time step exceeds that, or the speed is not finite.
        """
        fastest = self.flow.coriolis + math.sqrt(2) * self.largest * (self.flow.wave_speed + speed)
        if not self.time_step * fastest <= 2 * math.sqrt(2):
            limit = f"at most {2 * math.sqrt(2) / fastest:.4g} s" if math.isfinite(speed) else "another initial state"
            raise InputError(f"shallow water: {where} time_step {self.time_step:g} s at speed {speed:g} needs {limit}")

    def modes(self, fields: Float[Tensor, "3 y x"]) -> Modes:
        """Coefficients of u, v and η, dealiased."""
        return torch.fft.rfft2(fields.to(self.dtype)) * self.mask

    def fields(self, modes: Complex[Tensor, "c ky kx"]) -> Float[Tensor, "c y x"]:
        """The fields on the points."""
        return torch.fft.irfft2(modes, s=(self.resolution, self.resolution))

    def tendency(self, modes: Modes) -> Modes:
        """Time derivative without damping."""
        u, v, eta, zeta = self.fields(torch.cat([modes, (self.ikx * modes[1] - self.iky * modes[0])[None]]))
        q, h = zeta + self.flow.coriolis, eta + self.flow.depth
        energy = self.flow.gravity * eta + (u**2 + v**2) / 2
        qv, qu, b, hu, hv = torch.fft.rfft2(torch.stack([q * v, q * u, energy, h * u, h * v])) * self.mask
        return torch.stack([qv - self.ikx * b, -qu - self.iky * b, -self.ikx * hu - self.iky * hv])

    def step(self, modes: Modes) -> Modes:
        """One step of Runge–Kutta, then the damping."""
        dt = self.time_step
        k1 = self.tendency(modes)
        k2 = self.tendency(modes + dt / 2 * k1)
        k3 = self.tendency(modes + dt / 2 * k2)
        k4 = self.tendency(modes + dt * k3)
        return (modes + dt / 6 * (k1 + 2 * (k2 + k3) + k4)) * self.decay

    def advance(self, modes: Modes, steps: int) -> Modes:
        """The modes after some steps; the speed is checked before the first one.

        Raises:
            InputError: the time step is too long for the speed, or the state is not finite.
        """
        u, v, _ = self.fields(modes)
        self.check(float(torch.sqrt(u**2 + v**2).max()), "in the run")
        for _ in range(steps):
            modes = self.step(modes)
        return modes

    def energy(self, modes: Modes) -> float:
        """Mean of h (u² + v²)/2 + g η²/2, in m³ s⁻²: kinetic and available potential energy over density."""
        u, v, eta = self.fields(modes)
        h = eta + self.flow.depth
        return float((h * (u**2 + v**2) / 2 + self.flow.gravity * eta**2 / 2).mean())
