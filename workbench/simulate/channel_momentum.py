"""Momentum of the channel on staggered cells: advection and viscous stress, second order and energy-conserving.

    N_i = −∂_j (u_i u_j) + ∂_j [(ν + ν_t) (∂_j u_i + ∂_i u_j)]

Velocities are transported with equal weights and mass fluxes averaged with the cells' heights, so that advection
neither makes nor destroys kinetic energy on the stretched grid (Verstappen & Veldman 2003, J. Comput. Phys. 187, 343;
on uniform cells this is the scheme of Harlow & Welch 1965, Phys. Fluids 8, 2182).

Fields lie in flat buffers with one image of the cells around each plane and one row beyond each wall. A neighbour is
then the same buffer read from another offset: no copy, no special case at the border, and loops of full length.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.simulate.channel_grid import ChannelGrid

CACHED = 60_000
"""Elements of a field worked on together on the CPU: blocks took a quarter off the time of N at 64 × 64 × 48."""


@dataclass(frozen=True)
class Layout:
    """Flat buffers ``[..., size]`` for rows 0 … ny + 1 of planes (nx + 2) × (nz + 2); cells are rows 1 … ny.

    u, w and pressure of a cell and the velocity v at its *upper* face share a row; left faces share the cell's place.
    """

    points: tuple[int, int, int]

    @property
    def along_x(self) -> int:
        """Offset of the neighbour in x; the one in z is at offset 1."""
        return self.points[2] + 2

    @property
    def along_y(self) -> int:
        """Offset of the neighbour in y: elements in a plane."""
        return (self.points[0] + 2) * (self.points[2] + 2)

    @property
    def front(self) -> int:
        """Elements before the first row, so that its first element has a neighbour too."""
        return self.along_x + 1

    @property
    def size(self) -> int:
        """Elements in a buffer."""
        return (self.points[1] + 2) * self.along_y + 2 * self.front

    def rows(self, buffer: Tensor, first: int, last: int, offset: int = 0) -> Tensor:
        """Flat view of the rows `first` … `last`, moved by `offset`."""
        start = self.front + first * self.along_y + offset
        return buffer[..., start : start + (last - first + 1) * self.along_y]

    def box(self, buffer: Tensor, first: int, last: int) -> Tensor:
        """The same rows as ``[..., row, nx + 2, nz + 2]``."""
        rows = self.rows(buffer, first, last)
        return rows.view(*rows.shape[:-1], last - first + 1, self.points[0] + 2, self.points[2] + 2)

    def per_row(self, values: np.ndarray, like: Tensor) -> Tensor:
        """One coefficient a row, to multiply with `by_row` of a view: ``[row, 1]``."""
        return torch.as_tensor(values[:, None], dtype=like.dtype, device=like.device)

    def by_row(self, view: Tensor) -> Tensor:
        """A flat view of whole rows as ``[..., row, plane]``."""
        return view.view(*view.shape[:-1], -1, self.along_y)


class Views:
    """`Layout.rows`, each view cut once: made anew they took a tenth of the time of a step at 32 × 64 × 32."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._views: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, buffer: Tensor, first: int, last: int, offset: int = 0) -> Tensor:
        """The rows `first` … `last` of a buffer that lives on, moved by `offset`."""
        key = (id(buffer), first, last, offset)
        found = self._views.get(key)
        if found is None:  # the buffer is kept too, so that its id stays its own
            found = self._views[key] = (self._layout.rows(buffer, first, last, offset), buffer)
        return found[0]


def fill_periodic(layout: Layout, fields: Tensor) -> None:
    """Copy the periodic images of `fields` ``[..., size]`` into the border of every plane."""
    planes = layout.box(fields, 0, layout.points[1] + 1)
    planes[..., 0].copy_(planes[..., -2])
    planes[..., -1].copy_(planes[..., 1])
    planes[..., 0, :].copy_(planes[..., -2, :])
    planes[..., -1, :].copy_(planes[..., 1, :])


def mirror_at_walls(layout: Layout, fields: Tensor) -> None:
    """Fill the rows beyond the walls so that the mean with their neighbour, the value at the wall, is zero."""
    ny = layout.points[1]
    torch.neg(layout.rows(fields, 1, 1), out=layout.rows(fields, 0, 0))
    torch.neg(layout.rows(fields, ny, ny), out=layout.rows(fields, ny + 1, ny + 1))


class Momentum:
    """Tendency N of the velocities in `state`, whose images and mirrored rows must be filled.

    Rows are taken in blocks whose fields stay in a core's cache (on the CPU).

    Args:
        grid: cells.
        viscosity: ν ≥ 0.
        state: velocities u, w, v ``[3, batch, size]`` (v last: the walls mirror the other two).
    """

    def __init__(self, grid: ChannelGrid, viscosity: float, state: Tensor) -> None:
        layout, ny = Layout(grid.points), grid.points[1]
        self.layout, self.ny = layout, ny
        self.dx, self.dz = grid.spacing
        self.viscosity = viscosity
        self._reference = viscosity or 1.0
        self.units = tuple(2 * self._reference / d**2 for d in (self.dx, self.dz, 1.0))
        self.u, self.w, self.v = state
        self._blocks = self._cut_blocks(state)
        tallest = max(last - first + 1 for first, last in self._blocks)
        size = (tallest + 2) * layout.along_y + 2 * layout.front
        self._scratch = [state.new_zeros(state.shape[1], size) for _ in range(5)]
        self._total: dict[str, Tensor] = {}
        mirrored = np.concatenate([grid.heights[:1], grid.heights, grid.heights[-1:]])
        self._skew = layout.per_row(np.diff(mirrored) / (mirrored[1:] + mirrored[:-1]), state)  # faces 0 … ny
        self._per_gap = layout.per_row(1 / grid.gaps, state)
        self._per_height = layout.per_row(np.concatenate([[0], 1 / grid.heights]), state)  # rows 0 … ny
        self._rows = Views(layout)
        if viscosity == 0:
            self.set_eddy_viscosity(torch.zeros_like(self.u))

    def _cut_blocks(self, state: Tensor) -> list[tuple[int, int]]:
        """First and last rows of the blocks."""
        ny, row = self.ny, state.shape[1] * self.layout.along_y
        count = 1 if state.is_cuda else max(1, min(ny // 4, round(ny * row / CACHED)))
        edges = np.linspace(0, ny, count + 1).round().astype(int).tolist()
        return [(first + 1, last) for first, last in zip(edges[:-1], edges[1:], strict=True)]

    def set_eddy_viscosity(self, eddy: Tensor) -> None:
        """Take ν_t at cell centres ``[batch, size]``, images and mirrored rows filled; it is averaged to the edges."""
        x, y, ny = self.layout.along_x, self.layout.along_y, self.ny
        for place, one, other in (("centre", 0, 0), ("plane", -x, -1), ("x", -x, y), ("z", -1, y)):
            if place not in self._total:
                self._total[place] = torch.empty_like(eddy)
            total = self._total[place].fill_(self.viscosity / self._reference)
            for offset in (0, one, other, one + other):
                part = self.layout.rows(eddy, 0, ny, offset)
                self.layout.rows(total, 0, ny).add_(part, alpha=0.25 / self._reference)

    def tendency(self, out: tuple[Tensor, ...]) -> None:
        """Write N of u, w, v, each over its entry of `units`, into `out` (``[batch, size]``); of v not at the walls.

        Stresses τ_ij − u_i u_j carry the factors that leave velocity differences bare, and velocities at their places
        are sums of two, not means. What makes up for it stays in `units`, which saves a fifth of the passes.
        """
        n_u, n_w, n_v = out
        for rows in self._blocks:
            self._normal(rows, n_u, self.u, self.layout.along_x, self.dx)
            self._normal(rows, n_w, self.w, 1, self.dz)
            self._shear_in_planes(rows, n_u, n_w)
            self._normal_to_walls(rows, n_v)
            self._shear_at_faces(rows, n_u, self.u, n_v, "x", self.layout.along_x, self.dx)
            self._shear_at_faces(rows, n_w, self.w, n_v, "z", 1, self.dz)

    def _add_viscosity(self, gradient: Tensor, place: str, first: int, last: int) -> None:
        """Multiply with (ν + ν_t) over the reference, if that is not one."""
        if self._total:
            gradient.mul_(self._rows(self._total[place], first, last))

    def _normal(self, block: tuple[int, int], tendency: Tensor, velocity: Tensor, offset: int, spacing: float) -> None:
        """Stress of u along x or of w along z, at cell centres: the first that is written into `tendency`."""
        rows, (first, last) = self._rows, block
        count = last - first + 1
        here, ahead = rows(velocity, first, last), rows(velocity, first, last, offset)
        carried, stress = rows(self._scratch[0], 1, count), rows(self._scratch[1], 1, count)
        torch.add(here, ahead, out=carried)
        torch.sub(ahead, here, out=stress)
        self._add_viscosity(stress, "centre", first, last)
        stress.addcmul_(carried, carried, value=-spacing / (8 * self._reference))
        torch.sub(stress, rows(self._scratch[1], 1, count, -offset), out=rows(tendency, first, last))

    def _shear_in_planes(self, block: tuple[int, int], n_u: Tensor, n_w: Tensor) -> None:
        """Stress of u along z, which is that of w along x, at the edges parallel to y."""
        rows, (first, last), x, ratio = self._rows, block, self.layout.along_x, self.dz / self.dx
        count = last - first + 1
        u, u_before = rows(self.u, first, last), rows(self.u, first, last, -1)
        w, w_before = rows(self.w, first, last), rows(self.w, first, last, -x)
        one, other, stress = (rows(s, 1, count) for s in self._scratch[:3])
        torch.add(u, u_before, out=one)
        torch.add(w, w_before, out=other)
        torch.sub(u, u_before, out=stress)
        stress.add_(w, alpha=ratio).sub_(w_before, alpha=ratio)
        self._add_viscosity(stress, "plane", first, last)
        stress.addcmul_(one, other, value=-self.dz / (4 * self._reference))
        for tendency, offset, factor in ((n_u, 1, 1 / ratio**2 / 2), (n_w, x, ratio / 2)):
            ahead = rows(self._scratch[2], 1, count, offset)
            rows(tendency, first, last).add_(ahead, alpha=factor).sub_(stress, alpha=factor)

    def _normal_to_walls(self, block: tuple[int, int], n_v: Tensor) -> None:
        """Stress of v along y, at cell centres: the first that is written into `n_v`."""
        rows, by_row, first = self._rows, self.layout.by_row, block[0]
        last = min(block[1], self.ny - 1)  # faces; stresses are needed in one row more
        count = last - first + 2
        upper, lower = rows(self.v, first, last + 1), rows(self.v, first - 1, last)
        carried, stress = rows(self._scratch[0], 1, count), rows(self._scratch[1], 1, count)
        torch.add(upper, lower, out=carried)
        torch.sub(upper, lower, out=stress)
        by_row(stress).mul_(self._per_height[first : last + 2])
        self._add_viscosity(stress, "centre", first, last + 1)
        stress.addcmul_(carried, carried, value=-1 / (8 * self._reference))
        tendency = rows(n_v, first, last)
        torch.sub(rows(self._scratch[1], 2, count), rows(self._scratch[1], 1, count - 1), out=tendency)
        by_row(tendency).mul_(self._per_gap[first : last + 1])

    def _shear_at_faces(
        self, block: tuple[int, int], n_h: Tensor, h: Tensor, n_v: Tensor, place: str, offset: int, spacing: float
    ) -> None:
        """Stress of h (u or w) along y and of v along h, at the edges in the y faces, walls included."""
        rows, by_row, (first, last) = self._rows, self.layout.by_row, block
        count, factor = last - first + 1, -spacing / (4 * self._reference)
        below, above = rows(h, first - 1, last), rows(h, first, last + 1)
        v, v_before = rows(self.v, first - 1, last), rows(self.v, first - 1, last, -offset)
        stress, gradient, carrier, carried, along = (rows(s, 0, count) for s in self._scratch)
        torch.add(v, v_before, out=carrier)
        torch.add(above, below, out=carried)
        torch.sub(above, below, out=gradient)
        torch.sub(v, v_before, out=stress)
        by_row(stress).addcmul_(by_row(gradient), self._per_gap[first - 1 : last + 1], value=spacing)
        self._add_viscosity(stress, place, first - 1, last)
        torch.addcmul(stress, carrier, carried, value=factor, out=along)
        by_row(carried).addcmul_(by_row(gradient), self._skew[first - 1 : last + 1])  # weighted: a mass flux
        stress.addcmul_(carrier, carried, value=factor)
        difference = rows(self._scratch[1], 1, count)
        torch.sub(rows(self._scratch[4], 1, count), rows(self._scratch[4], 0, count - 1), out=difference)
        by_row(rows(n_h, first, last)).addcmul_(
            by_row(difference), self._per_height[first : last + 1], value=spacing / 2
        )
        inner = count if last < self.ny else count - 1  # v at the wall stays
        tendency, factor = rows(n_v, first, first + inner - 1), 0.5 / spacing**2
        tendency.add_(rows(self._scratch[0], 1, inner, offset), alpha=factor)
        tendency.sub_(rows(self._scratch[0], 1, inner), alpha=factor)
