"""Kolmogorov flow run coarser, from the vorticity on the record's nodes.

The start is cut off sharply at the modes that the coarse grid keeps, and the forecast is evaluated on the record's
nodes by its Fourier series: neither costs accuracy beyond the modes that are missing. Candidates compute in float32,
the precision of the record, whatever the record was computed in: it is the cheaper one, and rounding stays far below
every other error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.simulate.coarsening import Candidate, Forecaster
from workbench.simulate.vorticity import Solver, cutoff, to_field, to_modes, velocity_modes

if TYPE_CHECKING:
    from workbench.simulate.kolmogorov import KolmogorovFlow

FRACTIONS = (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""Resolutions, in parts of that of the record's solver: sizes whose transforms are fast."""
SMALLEST = 12
STEPS = tuple(base * 2**k for k in range(10) for base in (2, 3)) + (1,)
"""Steps an interval: so close to each other that one of them comes near the stability limit."""


@dataclass(frozen=True)
class KolmogorovCoarsening:
    """The flow of a record on coarser grids with longer time steps."""

    flow: KolmogorovFlow
    reads: ClassVar[tuple[str, ...]] = ("vorticity",)

    @property
    def finest(self) -> int:
        """Points along each side of the grid that made the record."""
        return self.flow.solver_resolution or self.flow.resolution

    def candidates(self, interval: float) -> list[Candidate]:
        """Grids from an eighth of the record's solver up to its own; steps from a whole interval down.

        The shortest step has half the Courant number of the record's solver, or its step if that is longer.
        """
        pairs = set()
        for n in {2 * round(self.finest * part / 2) for part in FRACTIONS}:
            if n >= SMALLEST and cutoff(n) >= self.flow.forcing_wavenumber:
                most = max(1, round(interval / self.flow.time_step * min(1.0, 2 * n / self.finest)))
                pairs |= {(n, steps) for steps in (*STEPS, most) if steps <= most}
        found = [_candidate(n, steps, interval) for n, steps in pairs]
        return sorted(found, key=lambda candidate: (candidate.work, candidate.label))

    def forecaster(self, candidate: Candidate, names: Sequence[str], interval: float, device: str) -> Forecaster:
        """See `workbench.simulate.coarsening.Coarsening`.

        Raises:
            InputError: another variable than vorticity, u and v is asked for, or another device than the CPU.
        """
        other = [name for name in names if name not in ("vorticity", "u", "v")]
        if other or device != "cpu":
            raise InputError(
                "KolmogorovFlow forecasts vorticity, u and v, on the CPU; found "
                + (", ".join(other) or f"device {device}")
            )
        flow, n = self.flow, int(candidate.settings["resolution"])
        steps = int(candidate.settings["steps_per_lead"])
        solver = Solver(
            n,
            interval / steps,
            viscosity=flow.viscosity,
            drag=flow.drag,
            forcing_amplitude=flow.forcing_amplitude,
            forcing_wavenumber=flow.forcing_wavenumber,
            dtype=torch.float32,
        )
        kept = min(solver.k_max, (flow.resolution - 1) // 2)
        pad = solver.k_max - kept

        def forecast(start: Tensor) -> Iterator[Tensor]:
            omega = torch.nn.functional.pad(to_modes(start[:, 0], kept), (0, pad, pad, pad))
            done = 0
            while True:
                omega = solver.advance(omega, steps, first_step=done)
                done += steps
                yield to_field(_modes(omega, names), flow.resolution)

        return forecast


def _candidate(n: int, steps: int, interval: float) -> Candidate:
    settings = {"resolution": n, "time_step": interval / steps, "steps_per_lead": steps}
    return Candidate(f"{n} x {n}, dt {interval / steps:.4g}", settings, n * n * steps / interval)


def _modes(omega: Tensor, names: Sequence[str]) -> Tensor:
    """Modes of the named variables ``[b, c, ky, kx]``."""
    if list(names) == ["vorticity"]:
        return omega[:, None]
    u, v = velocity_modes(omega)
    return torch.stack([{"vorticity": omega, "u": u, "v": v}[name] for name in names], 1)
