"""The body of a structures record as something to draw: faces of elements, outline, supports, and how to look at it.

Nodes lie on a grid ``(y, x[, z])`` and are numbered in its order; elements fill its cells, and some are void. In 2D
every solid element is a face, seen from +z. In 3D the faces are those between solid and void, each with its corners
anticlockwise from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

COMPONENT = (1, 0, 2)
"""Component (x, y, z) along each axis (y, x, z) of the grid."""
AZIMUTH, ELEVATION = np.deg2rad(32.0), np.deg2rad(24.0)
"""Where a 3D body is looked at from: from +z turned towards +x, and then raised towards +y."""


@dataclass(frozen=True)
class Body:
    """A body at rest.

    Attributes:
        reference: coordinates of the nodes, ``[node, component]``.
        faces: their corners, ``[face, 4]``.
        elements: the element of each face, ``[face]``.
        solid: all elements that are material.
        outline: the edges at which the surface turns, ``[edge, 2]``; in 2D the whole boundary.
        held: components that are prescribed, ``[node, component]``.
        outward: mean direction out of the body at each node, out of its supported side where there is one; zero inside.
    """

    reference: np.ndarray
    faces: np.ndarray
    elements: np.ndarray
    solid: np.ndarray
    outline: np.ndarray
    held: np.ndarray
    outward: np.ndarray

    @property
    def dim(self) -> int:
        """2 or 3."""
        return int(self.reference.shape[1])

    @property
    def nodes(self) -> np.ndarray:
        """The nodes that belong to a face."""
        return np.unique(self.faces)

    @property
    def size(self) -> float:
        """The longest side."""
        return float(np.ptp(self.reference[self.nodes], axis=0).max())


def make_body(reference: np.ndarray, solid: np.ndarray, held: np.ndarray) -> Body:
    """A body from its grid.

    Args:
        reference: ``[*nodes, component]``.
        solid: whether each element is material, ``[*elements]``.
        held: ``[*nodes, component]``.
    """
    dim = solid.ndim
    facets, owners, sides = (np.concatenate(part) for part in zip(*_facets(solid), strict=True))
    flat = held.reshape(-1, dim)
    normals = np.zeros((len(sides), dim))
    normals[np.arange(len(sides)), np.take(COMPONENT, sides // 2)] = 2 * (sides % 2) - 1
    material = np.flatnonzero(solid)
    if dim == 2:
        elements = material
        faces = _corners(elements, solid.shape, [(0, 0), (0, 1), (1, 1), (1, 0)])
        outline = facets
    else:
        faces, elements, outline = facets, owners, _creases(facets, sides)
    outward = _outward(facets, normals, flat)
    return Body(reference.reshape(-1, dim), faces, elements, material, outline, flat, outward)


def _facets(solid: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Corners, element and side (twice the axis, plus 1 for the far one) of what lies between solid and void."""
    padded = np.pad(solid, 1)
    inside = tuple(slice(1, -1) for _ in solid.shape)
    for axis, far in product(range(solid.ndim), (0, 1)):
        beyond = np.roll(padded, 1 - 2 * far, axis)[inside]
        owners = np.flatnonzero(solid & ~beyond)
        yield (
            _corners(owners, solid.shape, _ring(axis, far, solid.ndim)),
            owners,
            np.full(len(owners), 2 * axis + far),
        )


def _ring(axis: int, far: int, dim: int) -> list[tuple[int, ...]]:
    """Offsets of the corners of one side of an element: along an edge, or anticlockwise from outside."""
    others = [a for a in range(dim) if a != axis]
    turns = [(0,), (1,)] if dim == 2 else [(0, 0), (1, 0), (1, 1), (0, 1)]
    ring = []
    for turn in turns:
        corner = [far] * dim
        for a, step in zip(others, turn, strict=True):
            corner[a] = step
        ring.append(tuple(corner))
    # e_x × e_z = −e_y, e_y × e_z = e_x, e_y × e_x = −e_z
    return ring if (axis + far) % 2 == 0 else ring[::-1]


def _corners(elements: np.ndarray, shape: tuple[int, ...], offsets: list[tuple[int, ...]]) -> np.ndarray:
    """Numbers of the nodes at `offsets` from the first node of each of `elements`."""
    place = np.stack(np.unravel_index(elements, shape), -1)
    nodes = tuple(n + 1 for n in shape)
    ring = [np.ravel_multi_index(tuple((place + np.array(offset)).T), nodes) for offset in offsets]
    return np.stack(ring, -1)


def _creases(facets: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Edges between facets of different sides."""
    edges = np.sort(np.stack([facets, np.roll(facets, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    of_side = np.unique(np.column_stack([edges, np.repeat(sides, 4)]), axis=0)
    found, count = np.unique(of_side[:, :2], axis=0, return_counts=True)
    return found[count > 1]


def _outward(facets: np.ndarray, normals: np.ndarray, held: np.ndarray) -> np.ndarray:
    total = np.zeros((2, len(held), held.shape[1]))
    supported = held[facets].any(2).all(1)
    for corner in facets.T:
        np.add.at(total[0], corner[supported], normals[supported])
        np.add.at(total[1], corner, normals)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    unit = total / np.where(length > 0, length, 1)
    return np.where(length[0] > 0, unit[0], unit[1])


# ---------------------------------------------------------------------------------------------------- looking at it


def to_screen(points: np.ndarray) -> np.ndarray:
    """``[..., component]`` in 2D or 3D -> ``[..., 2]``, to the right and upwards, without perspective."""
    return points if points.shape[-1] == 2 else points @ _axes()[:2].T


def depth(points: np.ndarray) -> np.ndarray:
    """How near to the eye 3D points are; in 2D all are alike."""
    return np.zeros(points.shape[:-1]) if points.shape[-1] == 2 else points @ _axes()[2]


def _axes() -> np.ndarray:
    """Right, up and towards the eye, in components of space."""
    sin, cos = np.sin([AZIMUTH, ELEVATION]), np.cos([AZIMUTH, ELEVATION])
    eye = np.array([sin[0] * cos[1], sin[1], cos[0] * cos[1]])
    right = np.array([cos[0], 0.0, -sin[0]])
    return np.stack([right, np.cross(eye, right), eye])


def visible(corners: np.ndarray) -> np.ndarray:
    """Which faces ``[face, 4, component]`` are seen, the farthest first, so that near ones are painted over them.

    In 3D a face is seen if its corners go round anticlockwise on the screen. Faces that are not finite are not seen.
    """
    finite = np.isfinite(corners).all((1, 2))
    if corners.shape[-1] == 2:
        return np.flatnonzero(finite)
    screen = to_screen(corners)
    one, other = screen[:, 2] - screen[:, 0], screen[:, 3] - screen[:, 1]
    facing = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0] > 0
    seen = np.flatnonzero(finite & facing)
    return seen[np.argsort(depth(corners[seen].mean(1)), kind="stable")]


def edges_in_front(body: Body, places: np.ndarray) -> np.ndarray:
    """The outline without the edges that the body hides.

    Args:
        body: the body.
        places: of its nodes, ``[node, component]``.
    """
    if body.dim == 2:
        return body.outline
    front = body.faces[visible(places[body.faces])]
    return body.outline[np.isin(body.outline, front).all(1)]
