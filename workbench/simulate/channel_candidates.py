"""Channel flow run coarser, from the velocity on the record's nodes: direct and large-eddy simulation on many grids.

A filtered record holds every mode of its nodes, the smaller ones damped by the known factor sin(kW/2)/(kW/2). The start
is divided by it and the forecast multiplied with it, so that every candidate begins with all that the record knows
and is compared with what the record holds. In x and z both ways are exact for the modes of the coarser grid; in y
they are cubic interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.simulate.channel_grid import ChannelGrid, wall_normal_nodes
from workbench.simulate.channel_les import dynamic_smagorinsky, wale
from workbench.simulate.channel_nodes import across, along_period
from workbench.simulate.channel_solver import ChannelSolver, Closure, Velocity
from workbench.simulate.coarsening import Candidate, Forecaster

if TYPE_CHECKING:
    from workbench.simulate.channel import ChannelFlow

CLOSURES: dict[str, tuple[Closure | None, float]] = {
    "DNS": (None, 1.0),
    "WALE": (wale, 1.5),
    "dynamic Smagorinsky": (dynamic_smagorinsky, 2.0),
}
"""Closures by name, with their rough work relative to none."""
COURANT = 0.8
"""Part of the admissible time step; the rest is left to the flow, which speeds up between two leads.

Half of that made no error of `mfu180` smaller (10 leads, every grid and closure): the error is that of the grid.
"""
LADDER = (-1.0, 0.0, 0.5, 1.0)
"""Grids: -1 half the record's nodes, 0 the record's, 1 that of the solver that made it, geometrically between."""
SMALLEST = (8, 16, 4)


@dataclass(frozen=True)
class ChannelCoarsening:
    """The flow of a record on coarser grids, with and without closure.

    Attributes:
        nodes: of the record along x, y, z.
        cells: of the solver that made it.
        lengths: of the box along x and z.
        viscosity: ν.
        bulk_velocity: held constant.
        widths: of the record's top-hat filter along x and z; 0: none.
    """

    nodes: tuple[int, int, int]
    cells: tuple[int, int, int]
    lengths: tuple[float, float]
    viscosity: float
    bulk_velocity: float = 2 / 3
    widths: tuple[float, float] = (0.0, 0.0)
    reads: ClassVar[tuple[str, ...]] = ("u", "v", "w")

    @classmethod
    def of(cls, flow: ChannelFlow) -> ChannelCoarsening:
        """The coarser versions of a recipe's flow."""
        lengths = (flow.length_x, flow.length_z)
        return cls(flow.nodes, flow.cells, lengths, 1 / flow.reynolds_number, flow.bulk_velocity, flow.filter_width)

    def candidates(self, interval: float) -> list[Candidate]:
        """Every grid of `LADDER` without closure, those coarser than the record's solver also with each closure."""
        grids = {self._grid(rung) for rung in LADDER} | {self.cells}
        found = [
            self._candidate(points, closure)
            for points in grids
            for closure in CLOSURES
            if closure == "DNS" or points != self.cells
        ]
        return sorted(found, key=lambda candidate: (candidate.work, candidate.label))

    def _grid(self, rung: float) -> tuple[int, int, int]:
        """Multiples of four cells, near nodes times (cells/nodes)^rung; half the nodes on the lowest rung."""
        own = (self.nodes[0], self.nodes[1] - 1, self.nodes[2])
        sizes = [n / 2 if rung < 0 else n * (c / n) ** rung for n, c in zip(own, self.cells, strict=True)]
        bounds = zip(sizes, SMALLEST, self.cells, strict=True)
        nx, ny, nz = (min(most, max(least, 4 * round(size / 4))) for size, least, most in bounds)
        return nx, ny, nz

    def _candidate(self, points: tuple[int, int, int], closure: str) -> Candidate:
        nx, ny, nz = points
        label = f"{nx} x {ny} x {nz} {closure}"
        settings: dict[str, str | float] = {f"points_{axis}": n for axis, n in zip("xyz", points, strict=True)}
        settings |= {"closure": closure, "courant": COURANT}
        work = nx * ny * nz * CLOSURES[closure][1] * (nx / self.lengths[0] + nz / self.lengths[1] / 4)
        return Candidate(label, settings, work)

    def forecaster(self, candidate: Candidate, names: Sequence[str], interval: float, device: str) -> Forecaster:
        """See `workbench.simulate.coarsening.Coarsening`; steps are equal between two leads, as long as is admissible.

        Raises:
            InputError: another variable than u, v and w is asked for.
        """
        other = [name for name in names if name not in self.reads]
        if other:
            raise InputError(f"ChannelFlow forecasts u, v and w; found {', '.join(other)}")
        nx, ny, nz = (int(candidate.settings[f"points_{axis}"]) for axis in "xyz")
        grid = ChannelGrid((nx, ny, nz), self.lengths)
        closure = CLOSURES[str(candidate.settings["closure"])][0]
        solver = ChannelSolver(
            grid, self.viscosity, bulk_velocity=self.bulk_velocity, closure=closure, device=torch.device(device)
        )
        enter, leave = self._way_in(grid, device), self._way_out(grid, device)
        chosen = [self.reads.index(name) for name in names]

        def forecast(start: Tensor) -> Iterator[Tensor]:
            velocity, done = solver.project(enter(start)), 0
            while True:
                steps = math.ceil(interval / (COURANT * solver.admissible_time_step(velocity)))
                velocity = solver.advance(velocity, interval / steps, steps, first_step=done)
                done += steps
                yield leave(velocity)[:, chosen]

        return forecast

    def _way_in(self, grid: ChannelGrid, device: str) -> Callable[[Tensor], Velocity]:
        """From nodes ``[b, 3, x, y, z]`` to cells, unfiltered."""
        y = wall_normal_nodes(self.nodes[1])
        maps = []
        for component in range(3):
            x, z = (self._enter_period(grid, axis, 0.0 if component == 2 * axis else 0.5) for axis in (0, 1))
            rows = across(y, grid.faces if component == 1 else grid.centres, walls=False)
            maps.append(_on(device, x, rows, z))

        def enter(nodes: Tensor) -> Velocity:
            return Velocity(*(_apply(nodes[:, c].transpose(1, 2), *maps[c]) for c in range(3)))

        return enter

    def _enter_period(self, grid: ChannelGrid, axis: int, shift: float) -> np.ndarray:
        """Matrix ``[cell, node]``: the modes that both carry, each divided by the filter's factor."""
        nodes, cells = self.nodes[2 * axis], grid.points[2 * axis]
        largest = (min(nodes, cells) - 1) // 2
        modes = np.arange(-largest, largest + 1)
        node, cell = np.arange(nodes) / nodes, (np.arange(cells) + shift) / cells
        waves = np.cos(2 * math.pi * (cell[:, None, None] - node[:, None]) * modes)
        return (waves / np.sinc(modes * self.widths[axis] / self.lengths[axis])).sum(-1) / nodes

    def _way_out(self, grid: ChannelGrid, device: str) -> Callable[[Velocity], Tensor]:
        """From cells to nodes ``[b, 3, x, y, z]``, filtered as the record is."""
        y = wall_normal_nodes(self.nodes[1])
        maps = []
        for component in range(3):
            x, z = (
                along_period(
                    grid.points[2 * axis],
                    0.0 if component == 2 * axis else 0.5,
                    self.nodes[2 * axis],
                    self.widths[axis] / self.lengths[axis],
                )
                for axis in (0, 1)
            )
            faces = component == 1
            maps.append(_on(device, x, across(grid.faces if faces else grid.centres, y, walls=not faces), z))

        def leave(velocity: Velocity) -> Tensor:
            return torch.stack([_apply(field, *maps[c]).transpose(1, 2) for c, field in enumerate(velocity)], 1)

        return leave


def _on(device: str, *matrices: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.as_tensor(matrix, dtype=torch.float32, device=device) for matrix in matrices)


def _apply(field: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The three matrices on a field ``[batch, y, x, z]``."""
    along = torch.matmul(torch.matmul(x, field), z.T)
    return torch.einsum("jr,brxz->bjxz", y, along)
