"""Structured meshes of quadrilaterals or hexahedra: nodes on a grid, elements that are there or not, supports.

Grids are indexed as the record is, ``[node_y, node_x]`` or ``[node_y, node_x, node_z]``; vectors have the components
x, y(, z). A node's number is its place in the grid in C order, that of a degree of freedom node · dim + component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from skfem import Basis, ElementHex1, ElementQuad1, MeshHex, MeshQuad

from workbench.errors import InputError

AXES = ("y", "x", "z")
"""Of the grid, in order."""
COMPONENTS = ("x", "y", "z")
"""Of a vector, in order."""
ORDER = (1, 0, 2)
"""Grid axis of each component, and component of each grid axis."""


@dataclass(frozen=True)
class Mesh:
    """Nodes of a structured mesh, and which of its elements are material.

    Attributes:
        points: ``float64[*nodes, dim]``, reference coordinates in m.
        solid: ``bool[*elements]``; False leaves an element out (a notch, a hole).

    Raises:
        InputError: an element is inverted or degenerate, there is none, or a coordinate is not finite.
    """

    points: np.ndarray
    solid: np.ndarray

    def __post_init__(self) -> None:
        if self.dim not in (2, 3) or self.points.shape != (*(n + 1 for n in self.solid.shape), self.dim):
            raise InputError(
                f"mesh: expected points [*nodes, 2 or 3] with one node more along each axis than the elements "
                f"{self.solid.shape}; found {self.points.shape}"
            )
        if not self.solid.any():
            raise InputError("mesh: no element is solid; leave some material")
        if not np.isfinite(self.points).all():
            node = _first(~np.isfinite(self.points).all(-1))
            raise InputError(f"mesh: expected finite coordinates; found {self.points[node].tolist()} at node {node}")
        self._refuse_inverted()

    @property
    def dim(self) -> int:
        """2 or 3."""
        return self.solid.ndim

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes along each axis of the grid."""
        return self.points.shape[:-1]

    @property
    def count(self) -> int:
        """Nodes in all."""
        return self.points.size // self.dim

    @cached_property
    def connectivity(self) -> np.ndarray:
        """``int[element, corner]``: node numbers of the solid elements, corners in the order of the reference one."""
        numbers = np.arange(self.count).reshape(self.nodes)
        corners = []
        for place in np.asarray(self._element.doflocs, int):
            ahead = [place[component] for component in ORDER[: self.dim]]
            cut = tuple(slice(a, n - 1 + a) for a, n in zip(ahead, self.nodes, strict=True))
            corners.append(numbers[cut][self.solid])
        return np.stack(corners, 1)

    @property
    def _element(self) -> ElementQuad1 | ElementHex1:
        return ElementQuad1() if self.dim == 2 else ElementHex1()

    def basis(self, quadrature: tuple[np.ndarray, np.ndarray] | None = None) -> Basis:
        """scikit-fem's shape functions on the solid elements, at 2 Gauss points an axis unless said otherwise."""
        order = {"intorder": 3} if quadrature is None else {"quadrature": quadrature}
        return Basis(self._scikit_fem(), self._element, **order)

    def _scikit_fem(self) -> MeshQuad | MeshHex:
        kind = MeshQuad if self.dim == 2 else MeshHex
        return kind(self.points.reshape(-1, self.dim).T.copy(), self.connectivity.T.copy(), validate=False)

    @cached_property
    def attached(self) -> np.ndarray:
        """``bool[*nodes]``: which nodes belong to a solid element."""
        found = np.zeros(self.count, bool)
        found[self.connectivity] = True
        return found.reshape(self.nodes)

    def _refuse_inverted(self) -> None:
        """Compare the Jacobian determinant at every corner with the size of the element."""
        corners = np.asarray(self._element.doflocs, float).T
        mapping, every = self._scikit_fem().mapping(), range(self.dim)
        jacobian = np.array([[mapping.J(i, j, corners) for j in every] for i in every])
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
        reach = self.points.reshape(-1, self.dim)[self.connectivity]
        size = np.prod(np.maximum(np.ptp(reach, 1), 1e-300), 1)
        worst = determinant.min(1)
        if not (worst > 1e-8 * size).all():
            element = int(np.argmin(worst / size))
            place = [int(i) for i in np.argwhere(self.solid)[element]]
            kind = "degenerate" if abs(worst[element]) <= 1e-8 * size[element] else "inverted"
            named = ", ".join(f"elem_{a} {i}" for a, i in zip(AXES, place, strict=False))
            raise InputError(
                f"mesh: element ({named}) is {kind}: its Jacobian determinant falls to {worst[element]:.3g} at a "
                f"corner, expected positive; move its nodes, which lie at {reach[element].tolist()}"
            )


def box(elements: Sequence[int], lengths: Sequence[float], solid: np.ndarray | None = None) -> Mesh:
    """Equal elements that fill a box from the origin.

    Args:
        elements: along x, y(, z).
        lengths: along x, y(, z) in m.
        solid: ``bool[elem_y, elem_x(, elem_z)]``; all by default.
    """
    dim = len(elements)
    shape = tuple(elements[component] for component in ORDER[:dim])
    axes = [np.linspace(0, lengths[c], elements[c] + 1) for c in ORDER[:dim]]
    grid = np.meshgrid(*axes, indexing="ij")
    points = np.stack([grid[ORDER[component]] for component in range(dim)], -1)
    return Mesh(points, np.ones(shape, bool) if solid is None else np.asarray(solid, bool))


def interpolation(elements: Sequence[int], refinement: int) -> list[np.ndarray]:
    """Matrices ``[fine node, node]`` of linear interpolation along each grid axis, in its order."""
    matrices = []
    for component in ORDER[: len(elements)]:
        fine = np.arange(refinement * elements[component] + 1) / refinement
        matrices.append(np.maximum(0, 1 - np.abs(fine[:, None] - np.arange(elements[component] + 1))))
    return matrices


def refine(mesh: Mesh, times: int) -> Mesh:
    """Every element cut into ``times`` along each axis; points lie where the shape functions put them."""
    points = mesh.points
    for axis, matrix in enumerate(interpolation([mesh.solid.shape[a] for a in ORDER[: mesh.dim]], times)):
        points = np.moveaxis(np.tensordot(matrix, points, (1, axis)), 0, axis)
    solid = mesh.solid
    for axis in range(mesh.dim):
        solid = solid.repeat(times, axis)
    return Mesh(points, solid)


def rigid_modes(points: np.ndarray) -> np.ndarray:
    """Translations and infinitesimal rotations of points ``[n, dim]``, as ``[n, dim, mode]``."""
    count, dim = points.shape
    modes = [np.tile(row, (count, 1)) for row in np.eye(dim)]
    centred = points - points.mean(0)
    for first in range(dim):
        for second in range(first + 1, dim):
            turn = np.zeros((count, dim))
            turn[:, first], turn[:, second] = -centred[:, second], centred[:, first]
            modes.append(turn)
    return np.stack(modes, -1)


def require_flags(mesh: Mesh, supported: np.ndarray) -> None:
    """Refuse supports of another mesh.

    Raises:
        InputError: they are not one flag a component of the nodes.
    """
    if supported.shape != mesh.points.shape:
        raise InputError(
            f"supports: expected flags on the nodes {mesh.points.shape}; found {supported.shape}; give one flag a "
            "component of this mesh's nodes"
        )


def require_support(mesh: Mesh, supported: np.ndarray) -> None:
    """Refuse supports that let a body, or a part cut off from the rest of it, move as a rigid one.

    Args:
        mesh: the body.
        supported: ``bool[*nodes, dim]``, which components of which nodes are prescribed.

    Raises:
        InputError: a rigid mode is left, or a support holds a node that no element reaches.
    """
    loose = supported.any(-1) & ~mesh.attached
    if loose.any():
        raise InputError(
            f"supports: {int(loose.sum())} supported nodes belong to no solid element, the first at grid index "
            f"{_first(loose)}; support nodes of the body"
        )
    parts, count = ndimage.label(mesh.solid)
    numbers = parts[mesh.solid]
    points, flags = mesh.points.reshape(-1, mesh.dim), supported.reshape(-1, mesh.dim)
    for part in range(1, count + 1):
        members = np.unique(mesh.connectivity[numbers == part])
        modes = rigid_modes(points[members])
        modes = modes / np.sqrt((modes**2).sum((0, 1)) / len(members))
        left = modes.shape[-1] - np.linalg.matrix_rank(modes[flags[members]], tol=1e-6) if len(members) else 0
        if left:
            where = "the body" if count == 1 else f"part {part} of {count} that do not share a side"
            raise InputError(
                f"supports: they leave {left} rigid mode{'s' if left > 1 else ''} to {where} "
                f"({int(flags[members].sum())} prescribed components there); support more nodes or components"
            )


def require_attached(mesh: Mesh, loads: np.ndarray) -> None:
    """Refuse forces ``[..., *nodes, dim]`` on nodes that no solid element reaches.

    Raises:
        InputError: there is one, or the forces are not on this mesh's nodes.
    """
    if loads.shape[-mesh.dim - 1 :] != mesh.points.shape:
        raise InputError(
            f"loads: expected forces on the nodes {mesh.points.shape}; found {loads.shape[-mesh.dim - 1 :]}; "
            "give one force a node of this mesh"
        )
    loaded = (loads != 0).any(-1).reshape(-1, *mesh.nodes).any(0) & ~mesh.attached
    if loaded.any():
        raise InputError(
            f"loads: {int(loaded.sum())} loaded nodes belong to no solid element, the first at grid index "
            f"{_first(loaded)}; load nodes of the body"
        )


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
