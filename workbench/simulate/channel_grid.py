"""The grid of the channel: uniform and periodic in x and z, stretched towards both walls in y.

Wall-normal nodes, s = j/(n − 1), 0 ≤ y ≤ 2 (half height 1):

    y(s) = 1 − (2/π) atan(κ tan(π (1/2 − s))),    κ² = 1 + 1/a,    a = (√(1 + π²β²) − 1)/2,    β = 0.259065151

Sources: Laizet & Lamballais 2009, J. Comput. Phys. 228, 5989, §2.4 (the mapping; Xcompact3d uses it); β is that of
Xcompact3d's channel example and of the published filtered fields.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workbench.errors import InputError

BETA = 0.259065151
KAPPA = math.sqrt(1 + 2 / (math.sqrt(1 + (math.pi * BETA) ** 2) - 1))


def wall_normal_nodes(count: int) -> np.ndarray:
    """Nodes y_j ``[count]``, float64, from wall to wall, both included.

    Raises:
        InputError: fewer than three nodes.
    """
    if count < 3:
        raise InputError(f"wall_normal_nodes: expected at least 3 nodes, both walls among them; found {count}")
    s = np.arange(1, count - 1) / (count - 1)
    inner = 1 - 2 / math.pi * np.arctan(KAPPA * np.tan(math.pi * (0.5 - s)))
    return np.concatenate([[0.0], inner, [2.0]])


@dataclass(frozen=True)
class ChannelGrid:
    """Cells of a channel of height 2: pressure at their centres, velocities at the middle of their faces (MAC).

    u lies at (x_i, y_c, z_c), v at (x_c, y_j, z_c), w at (x_c, y_c, z_k): x_i = i Δx and z_k = k Δz are left faces,
    y_j wall-normal nodes, and index c the middle between two of them.

    Args:
        points: cells along x, y and z; the y faces are `wall_normal_nodes(points[1] + 1)`.
        lengths: of the box along x and z.

    Raises:
        InputError: a count or a length is out of range.
    """

    points: tuple[int, int, int]
    lengths: tuple[float, float]

    def __post_init__(self) -> None:
        nx, ny, nz = self.points
        if nx < 1 or ny < 4 or nz < 1:
            raise InputError(f"ChannelGrid: points must be at least (1, 4, 1) along x, y, z; found {self.points}")
        if not all(0 < length < math.inf for length in self.lengths):
            raise InputError(f"ChannelGrid: lengths along x and z must be positive; found {self.lengths}")

    @property
    def spacing(self) -> tuple[float, float]:
        """Δx and Δz."""
        return self.lengths[0] / self.points[0], self.lengths[1] / self.points[2]

    @cached_property
    def faces(self) -> np.ndarray:
        """Faces y_j ``[ny + 1]``, walls included."""
        return wall_normal_nodes(self.points[1] + 1)

    @cached_property
    def centres(self) -> np.ndarray:
        """Cell centres y_c ``[ny]``."""
        return (self.faces[1:] + self.faces[:-1]) / 2

    @cached_property
    def heights(self) -> np.ndarray:
        """Δy of the cells ``[ny]``; their sum is 2."""
        return np.diff(self.faces)

    @cached_property
    def gaps(self) -> np.ndarray:
        """Distance between the centres on both sides of a face ``[ny + 1]``; a cell's height at the walls.

        The wall lies half of that away from the first centre, as if a mirror image of the cell were behind it.
        """
        mirrored = np.concatenate([self.heights[:1], self.heights, self.heights[-1:]])
        return (mirrored[1:] + mirrored[:-1]) / 2
