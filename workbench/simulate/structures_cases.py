"""What varies from trajectory to trajectory: material, geometry, load, its history, motion of the supports.

Everything is drawn on the record's own grid, and meshes of the solver inherit it, so that the record holds all that
its motion follows from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.simulate.structures_mesh import COMPONENTS, ORDER
from workbench.simulate.structures_record import HISTORIES

Cutout = Literal["none", "notch", "hole"]
Layout = Literal["uniform", "layers", "inclusion"]
SUPPORT_MOTION = (0.002, 0.01)
"""Peak displacement of moving supports, as a share of the body's length."""


@dataclass(frozen=True)
class Case:
    """One draw.

    Attributes:
        history: place in `HISTORIES`.
        course: load over its peak at the saved instants, ``[time]``; begins at 0, its largest magnitude is 1.
        direction: of the load, a unit vector.
        centre, width: of the Gaussian patch, in shares of the sides of the loaded face.
        static_peak: largest displacement under the peak load held for ever, over the body's length.
        youngs_modulus, poissons_ratio: of the elements, ``[*elements]``.
        solid: ``bool[*elements]``.
        support_course: displacement of the supports over the body's length ``[time, dim]``.
    """

    history: int
    course: np.ndarray
    direction: np.ndarray
    centre: np.ndarray
    width: np.ndarray
    static_peak: float
    youngs_modulus: np.ndarray
    poissons_ratio: np.ndarray
    solid: np.ndarray
    support_course: np.ndarray


@dataclass(frozen=True)
class Ranges:
    """What is drawn from: intervals as (least, most), and shares of trajectories.

    Attributes:
        elements: of the record along x, y(, z).
        instants: saved ones.
        youngs_modulus: log-uniform, in Pa.
        poissons_ratio: uniform.
        static_peak: uniform.
        histories: names out of `HISTORIES`.
        cutouts, layouts: kinds to choose from.
        moving_supports: share of trajectories whose supports move.
        loaded: component of the normal of the loaded face.
    """

    elements: tuple[int, ...]
    instants: int
    youngs_modulus: tuple[float, float]
    poissons_ratio: tuple[float, float]
    static_peak: tuple[float, float]
    histories: tuple[str, ...]
    cutouts: tuple[str, ...]
    layouts: tuple[str, ...]
    moving_supports: float
    loaded: int

    def history_of(self, seed: int, number: int) -> int:
        """Place in `HISTORIES` of a trajectory's load; the first thing that is drawn."""
        return _choose(np.random.default_rng([seed, number]), self.histories)

    def draw(self, seed: int, number: int) -> Case:
        """The case of one trajectory, from (seed, number) alone."""
        rng = np.random.default_rng([seed, number])
        history = _choose(rng, self.histories)
        dim = len(self.elements)
        direction = rng.standard_normal(dim)
        shape = tuple(self.elements[component] for component in ORDER[:dim])
        solid = cutout(rng, self.cutouts[rng.integers(len(self.cutouts))], shape, self.loaded)
        stiffness = layout(rng, self.layouts[rng.integers(len(self.layouts))], shape)
        least, most = np.log(self.youngs_modulus)
        return Case(
            history=history,
            course=course(rng, HISTORIES[history], self.instants),
            direction=direction / np.linalg.norm(direction),
            centre=rng.uniform(size=dim - 1),
            width=rng.uniform(0.15, 0.6, dim - 1),
            static_peak=rng.uniform(*self.static_peak),
            youngs_modulus=stiffness * math.exp(rng.uniform(least, most)),
            poissons_ratio=np.full(shape, rng.uniform(*self.poissons_ratio)),
            solid=solid,
            support_course=_support_course(rng, self.moving_supports, self.instants, dim),
        )


def _choose(rng: np.random.Generator, names: Sequence[str]) -> int:
    return HISTORIES.index(names[int(rng.integers(len(names)))])


def course(rng: np.random.Generator, kind: str, instants: int) -> np.ndarray:
    """A load history at the saved instants: begins at 0, largest magnitude 1."""
    t = np.linspace(0, 1, instants)
    if kind == "ramp_hold":
        values = np.minimum(t / rng.uniform(0.1, 0.6), 1)
    elif kind == "half_sine":
        length = rng.uniform(0.2, 0.8)
        values = np.where(t < length, np.sin(np.pi * t / length), 0)
    elif kind == "harmonic":
        values = np.sin(2 * np.pi * rng.uniform(0.5, 4) * t)
    elif kind == "step":
        values = np.clip((t - rng.uniform(0, 0.3)) / 0.04, 0, 1)
    else:
        values = np.interp(t, np.linspace(0, 1, 7), np.concatenate([[0.0], rng.uniform(-1, 1, 6)]))
    return values / np.abs(values).max()


def _support_course(rng: np.random.Generator, share: float, instants: int, dim: int) -> np.ndarray:
    """A smooth motion of all supports together that begins at rest; mostly none."""
    moves = rng.uniform() < share
    direction = rng.standard_normal(dim)
    peak, cycles = rng.uniform(*SUPPORT_MOTION), rng.uniform(0.5, 2)
    t = np.linspace(0, 1, instants)[:, None]
    return moves * peak * np.sin(np.pi * cycles * t) ** 2 * direction / np.linalg.norm(direction)


def cutout(rng: np.random.Generator, kind: str, shape: tuple[int, ...], loaded: int) -> np.ndarray:
    """Which elements ``[elem_y, elem_x(, elem_z)]`` are left; a cutout goes through the whole thickness.

    A notch opens downwards, or along x downwards or upwards where the load is not on top.
    """
    rows, columns = shape[:2]
    solid = np.ones(shape, bool)
    wide, high = (max(1, round(n * rng.uniform(0.1, 0.25))) for n in (columns, rows))
    left = int(rng.integers(columns // 4, max(columns // 4 + 1, 3 * columns // 4 - wide + 1)))
    upwards = bool(rng.integers(2)) and COMPONENTS[loaded] != "y"
    bottom = int(rng.integers(1, max(2, rows - high)))
    if kind == "notch":
        solid[slice(rows - high, rows) if upwards else slice(0, high), left : left + wide] = False
    elif kind == "hole":
        solid[bottom : bottom + high, left : left + wide] = False
    return solid


def layout(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Young's modulus of each element over the stiffest one's: one material, two layers, or a soft inclusion."""
    soft = rng.uniform(0.25, 0.9)
    rows, columns = shape[:2]
    first = [int(rng.integers(n // 4, n // 2 + 1)) for n in (rows, columns)]
    values = np.ones(shape)
    if kind == "layers":
        values[: rows // 2] = soft
    elif kind == "inclusion":
        values[first[0] : first[0] + max(1, rows // 3), first[1] : first[1] + max(1, columns // 3)] = soft
    return values
