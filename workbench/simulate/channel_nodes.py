"""Between the staggered cells of the solver and the nodes of a record, where all three components lie together.

In x and z fields are trigonometric polynomials, so that moving them by half a cell is exact, and a top-hat filter of
width W is the factor sin(kW/2)/(kW/2) of every mode. In y they are interpolated by cubics through the four nearest
values, zeros at the walls among them. Every direction is one small matrix.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InputError
from workbench.simulate.channel_grid import ChannelGrid, wall_normal_nodes
from workbench.simulate.channel_solver import Velocity


def along_period(count: int, shift: float, targets: int, width: float = 0.0) -> np.ndarray:
    """Matrix ``[target, point]``: points (i + shift)/count of a period to i/targets, filtered over `width` periods.

    Modes that either grid cannot carry are cut off where the targets are more than the points; where they are fewer,
    the filtered field is sampled, and what the filter leaves beyond the coarse grid's modes is aliased.
    """
    modes = np.arange(-((count - 1) // 2), (count - 1) // 2 + 1)
    point, target = (np.arange(count) + shift) / count, np.arange(targets) / targets
    phase = 2 * math.pi * (target[:, None, None] - point[:, None]) * modes
    matrix = (np.cos(phase) * np.sinc(modes * width)).sum(-1)
    if count % 2 == 0:  # the alternating mode, of which sampled values hold the cosine alone
        matrix += (
            np.cos(math.pi * count * target)[:, None] * np.cos(math.pi * count * point) * np.sinc(count * width / 2)
        )
    return matrix / count


def across(points: np.ndarray, targets: np.ndarray, walls: bool) -> np.ndarray:
    """Matrix ``[target, point]`` of piecewise cubic interpolation; `walls`: zeros at y = 0 and 2 are points too."""
    known = np.concatenate([[0.0], points, [2.0]]) if walls else points
    first = np.clip(np.searchsorted(known, targets) - 2, 0, len(known) - 4)
    matrix = np.zeros((len(targets), len(known)))
    for row, (start, target) in enumerate(zip(first, targets, strict=True)):
        nodes = known[start : start + 4]
        for k in range(4):
            others = np.delete(nodes, k)
            matrix[row, start + k] = np.prod((target - others) / (nodes[k] - others))
    return matrix[:, 1:-1] if walls else matrix


def to_nodes(
    velocity: Velocity, grid: ChannelGrid, points: Sequence[int], width: Sequence[float] = (0.0, 0.0)
) -> Float[Tensor, "batch component x y z"]:
    """Velocity u, v, w at the nodes x = i Lx/nx, y_j (walls included), z = k Lz/nz of a record.

    Args:
        velocity: on the cells of `grid`.
        grid: the cells.
        points: nodes along x, y, z.
        width: of the top-hat filter along x and z; 0: none.

    Raises:
        InputError: more nodes along x or z than cells.
    """
    (nx, _, nz), lengths = grid.points, grid.lengths
    if points[0] > nx or points[2] > nz:
        raise InputError(f"to_nodes: expected at most {nx} x {nz} nodes along x and z; found {tuple(points)}")
    nodes = wall_normal_nodes(points[1])
    rows = {False: across(grid.centres, nodes, walls=True), True: across(grid.faces, nodes, walls=False)}
    fields = []
    for component, field in enumerate(velocity):
        x = along_period(nx, 0.0 if component == 0 else 0.5, points[0], width[0] / lengths[0])
        z = along_period(nz, 0.0 if component == 2 else 0.5, points[2], width[1] / lengths[1])
        fields.append(_apply(field, x, rows[component == 1], z))
    return torch.stack(fields, 1).permute(0, 1, 3, 2, 4)


def from_nodes(nodes: Float[Tensor, "batch component x y z"], grid: ChannelGrid) -> Velocity:
    """Velocity on the cells of `grid` from that at the nodes of a record; `ChannelSolver.project` comes next."""
    _, _, mx, my, mz = nodes.shape
    nx, _, nz = grid.points
    y = wall_normal_nodes(my)
    fields = []
    for component, field in enumerate(nodes.permute(1, 0, 3, 2, 4)):
        x = _from_period(mx, nx, 0.0 if component == 0 else 0.5)
        z = _from_period(mz, nz, 0.0 if component == 2 else 0.5)
        fields.append(_apply(field, x, across(y, grid.faces if component == 1 else grid.centres, walls=False), z))
    return Velocity(*fields)


def _from_period(points: int, count: int, shift: float) -> np.ndarray:
    """Matrix ``[cell, node]`` from nodes i/points to cells (i + shift)/count, modes of the coarser grid."""
    modes = np.arange(-((min(points, count) - 1) // 2), (min(points, count) - 1) // 2 + 1)
    node, cell = np.arange(points) / points, (np.arange(count) + shift) / count
    return np.cos(2 * math.pi * (cell[:, None, None] - node[:, None]) * modes).sum(-1) / points


def _apply(field: Tensor, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Tensor:
    """The three matrices on a field ``[batch, y, x, z]``."""
    mx, my, mz = (torch.as_tensor(m, dtype=field.dtype, device=field.device) for m in (x, y, z))
    field = torch.matmul(torch.matmul(mx, field), mz.T)
    return torch.einsum("jr,brxz->bjxz", my, field)
