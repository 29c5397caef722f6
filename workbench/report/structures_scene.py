"""A forecast of a structure beside its truth in numbers: where every node is, what colours every face, the loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import xarray as xr

from workbench.data.store import naming_bad_chunks
from workbench.report.case import Case, along
from workbench.report.fields import POSITIVE_MAP, Scale, error_scale
from workbench.report.labels import brief, prefixed, with_units
from workbench.report.structures_body import Body, make_body, to_screen

Box: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom and top of a picture."""
GRID, VECTOR = ("y", "x", "z"), ("x", "y", "z")
STRESS = "von_mises"
SEEN = 0.15
"""Deformation, over the longest side of the body, up to which it is exaggerated."""
ARROW = 0.22
"""Length of the arrow of the largest load, over the longest side of the body."""
FAINT = 0.05
"""Loads below this part of the largest have no arrow."""
OVERSHOOT = 0.15
"""How far beyond the truth, over the longest side, a prediction is still in the picture."""


@dataclass(frozen=True)
class Motion:
    """How a body moves.

    Attributes:
        displacement: ``[lead, node, component]``, in the units of the axes.
        values: what colours the faces, ``[lead, face]``.
        peak: the largest von Mises stress of the body, ``[lead]``; None where there is no stress.
    """

    displacement: np.ndarray
    values: np.ndarray
    peak: np.ndarray | None


@dataclass(frozen=True)
class History:
    """Another forecast of the same motion, in the units of the record.

    Attributes:
        displacement: of the probe, ``[lead, component]``.
        stress: the largest von Mises stress of the body, ``[lead]``; None if it was not forecast.
    """

    displacement: np.ndarray
    stress: np.ndarray | None


@dataclass(frozen=True)
class Scene:
    """All that is drawn.

    Attributes:
        body: at rest.
        truth: as the record has it.
        prediction: the forecast of it.
        factor: by which displacements are exaggerated.
        forces: nodal forces as arrows, ``[lead, node, component]`` in lengths of the picture; None without loads.
        largest_force: what the longest arrow stands for, with units.
        shared: colours of truth and prediction.
        errors: colours of their difference.
        quantity: what the colours show, with units.
        unit: of what the colours show, in those of the record.
        probe: the node that moves most in the truth.
        lead: lead times.
        axis_units: of the coordinates.
    """

    body: Body
    truth: Motion
    prediction: Motion
    factor: float
    forces: np.ndarray | None
    largest_force: str
    shared: Scale
    errors: Scale
    quantity: str
    unit: float
    probe: int
    lead: xr.DataArray
    axis_units: str

    def deformed(self, displacement: np.ndarray) -> np.ndarray:
        """Where nodes are drawn that are displaced by ``[..., node, component]``."""
        return self.body.reference + self.factor * displacement

    @property
    def probe_place(self) -> str:
        """Coordinates of the probe: ``x = 2 m, y = 1 m``."""
        point = self.body.reference[self.probe]
        units = f"\u202f{self.axis_units}" if self.axis_units not in ("", "1") else ""
        return ", ".join(f"{axis} = {brief(value)}{units}" for axis, value in zip(VECTOR, point, strict=False))


def dims_of(forecast: xr.Dataset) -> tuple[str, ...]:
    """The dimensions of the nodes of a structure, ``(node_y, node_x[, node_z])``; empty if it is none.

    A structure has every component of the displacement on its nodes.
    """
    dims = tuple(f"node_{axis}" for axis in GRID if f"node_{axis}" in forecast.dims)
    names = [f"displacement_{axis}" for axis in VECTOR[: len(dims)]]
    whole = len(dims) >= 2 and all(n in forecast and set(dims) <= set(forecast[n].dims) for n in names)
    return dims if whole else ()


def build_scene(case: Case, record: xr.Dataset) -> Scene:
    """The scene of one forecast; colours are the von Mises stress, or where none was forecast the displacement."""
    nodes = dims_of(case.truth)
    elements = tuple(dim.replace("node", "elem") for dim in nodes)
    body = _body(case, record, nodes, elements)
    moves = [_vector(side, "displacement", nodes) for side in (case.truth, case.prediction)]
    stresses: list[np.ndarray | None] = [None, None]
    if STRESS in case.truth and set(elements) <= set(case.truth[STRESS].dims):
        stresses = [_field(side, STRESS, elements) for side in (case.truth, case.prediction)]
        size, units = prefixed(_largest(stresses[0]), case.truth[STRESS].attrs.get("units", "1"))
        quantity = with_units("von Mises stress", units)
    else:
        size, units = prefixed(_largest(moves[0]), case.truth["displacement_x"].attrs.get("units", "1"))
        quantity = with_units("displacement", units)
    truth, prediction = (_motion(body, *pair, size) for pair in zip(moves, stresses, strict=True))
    factor = exaggeration(float(_lengths(truth.displacement[:, body.nodes]).max(initial=0.0)), body.size)
    forces, largest_force = _forces(case, record, nodes, body.size)
    top = float(np.nanmax(truth.values, initial=0.0))
    return Scene(
        body=body,
        truth=truth,
        prediction=prediction,
        factor=factor,
        forces=forces,
        largest_force=largest_force,
        shared=Scale(POSITIVE_MAP, 0.0, top or 1.0),
        errors=error_scale(prediction.values - truth.values),
        quantity=quantity,
        unit=size,
        probe=int(body.nodes[np.argmax(_lengths(truth.displacement[:, body.nodes]).max(0))]),
        lead=case.truth["lead_time"],
        axis_units=str(case.truth["displacement_x"].attrs.get("units", "1")),
    )


def exaggeration(largest: float, size: float) -> float:
    """The largest of 1, 2, 5, 10 … by which displacements up to `largest` stay below `SEEN` of `size`; at least 1."""
    if not 0 < largest < SEEN * size:
        return 1.0
    room = SEEN * size / largest
    decade = 10.0 ** np.floor(np.log10(room))
    return float(max(step for step in (1.0, 2.0, 5.0) if step * decade <= room) * decade)


def _body(case: Case, record: xr.Dataset, nodes: tuple[str, ...], elements: tuple[str, ...]) -> Body:
    """Geometry and supports as far as the record has them, otherwise a full grid at its coordinates."""
    shape = tuple(case.truth.sizes[dim] for dim in nodes)
    axes = VECTOR[: len(nodes)]
    wanted = ["solid", *(f"{what}_{axis}" for what in ("position", "support") for axis in axes)]
    fixed = along(case.prediction, record, [name for name in wanted if name in record])
    if f"position_{axes[0]}" in fixed:
        reference = _vector(fixed, "position", nodes)
    else:
        lines = np.meshgrid(*(case.truth[dim].values for dim in nodes), indexing="ij")
        reference = np.stack([lines[GRID.index(axis)] for axis in axes], -1)
    solid = np.ones([n - 1 for n in shape], bool)
    if "solid" in fixed:
        solid = _field(fixed, "solid", elements) > 0.5
    held = np.zeros((*shape, len(axes)), bool)
    for i, axis in enumerate(axes):
        if f"support_{axis}" in fixed:
            held[..., i] = _field(fixed, f"support_{axis}", nodes) > 0.5
    return make_body(reference.reshape(*shape, len(axes)), solid, held)


def without_void(case: Case, record: xr.Dataset) -> Case:
    """A case whose fields are missing where a structure is void; other cases as they are."""
    dims = dims_of(case.truth)
    names = [name for name in ("solid", "node_solid") if dims and name in record]
    if not names:
        return case
    flags = along(case.prediction, record, names).drop_vars(list(case.truth.coords), errors="ignore")
    masks = {name: flags[name].load() > 0 for name in names}
    sides = []
    for side in (case.truth, case.prediction):
        fields = {n: _masked(field, list(masks.values())) for n, field in side.data_vars.items()}
        hollow = side.assign(fields)
        hollow.encoding["source"] = side.encoding.get("source", "")
        sides.append(hollow)
    return replace(case, truth=sides[0], prediction=sides[1])


def _masked(field: xr.DataArray, masks: Sequence[xr.DataArray]) -> xr.DataArray:
    fitting = [mask for mask in masks if set(mask.dims) <= set(field.dims)]
    return field.where(fitting[0]) if fitting else field


def _field(dataset: xr.Dataset, name: str, space: tuple[str, ...]) -> np.ndarray:
    """A variable in memory, ``[lead, *space]``, or ``[*space]`` without leads."""
    with naming_bad_chunks(dataset):
        return np.asarray(dataset[name].transpose(..., *space).values, dtype=float)


def _vector(dataset: xr.Dataset, name: str, nodes: tuple[str, ...]) -> np.ndarray:
    """Components of a nodal vector, ``[lead, node, component]`` or ``[node, component]``."""
    found = np.stack([_field(dataset, f"{name}_{axis}", nodes) for axis in VECTOR[: len(nodes)]], -1)
    return found.reshape(*found.shape[: found.ndim - len(nodes) - 1], -1, len(nodes))


def _motion(body: Body, displacement: np.ndarray, stress: np.ndarray | None, size: float) -> Motion:
    if stress is None:
        return Motion(displacement, _lengths(displacement)[:, body.faces].mean(-1) / size, None)
    flat = stress.reshape(len(stress), -1) / size
    return Motion(displacement, flat[:, body.elements], flat[:, body.solid].max(1))


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _largest(values: np.ndarray | None) -> float:
    return 0.0 if values is None else float(np.nanmax(np.abs(values), initial=0.0))


def _forces(case: Case, record: xr.Dataset, nodes: tuple[str, ...], size: float) -> tuple[np.ndarray | None, str]:
    """Nodal forces as arrows, and what the longest of them stands for."""
    names = [f"load_{axis}" for axis in VECTOR[: len(nodes)]]
    if not all(name in record for name in names):
        return None, ""
    loads = _vector(along(case.prediction, record, names), "load", nodes)
    largest = float(_lengths(loads).max(initial=0.0))
    if largest == 0:
        return None, ""
    unit, units = prefixed(largest, record[names[0]].attrs.get("units", "1"))
    return ARROW * size / largest * loads, f"{brief(largest / unit)}\u202f{units}"


def arrows(body: Body, places: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the arrows ``[arrow, component]`` of forces that can be seen.

    Where the forces together push on the body they end at their nodes, otherwise they start there.

    Args:
        body: that is loaded.
        places: of the nodes, ``[..., node, component]``.
        forces: as arrows, like `places`.
    """
    shown = _lengths(forces) > FAINT * ARROW * body.size
    pushing = (forces * body.outward).sum((-2, -1), keepdims=True) < 0
    starts = places - pushing * forces
    return starts[shown], (starts + forces)[shown]


def box(scene: Scene, leads: np.ndarray) -> Box:
    """The limits of a picture of some leads.

    They hold the body at rest and in the truth, the arrows, and the prediction unless that is far off.
    """
    body = scene.body
    rest = to_screen(body.reference[body.nodes])
    true, mine = (scene.deformed(m.displacement[leads]) for m in (scene.truth, scene.prediction))
    points = [rest, to_screen(true[:, body.nodes])]
    if scene.forces is not None:
        points += [to_screen(ends) for ends in arrows(body, true, scene.forces[leads])]
    near = np.concatenate([p.reshape(-1, 2) for p in points])
    low, high = np.nanmin(near, axis=0), np.nanmax(near, axis=0)
    reach = OVERSHOOT * body.size
    far = to_screen(mine[:, body.nodes]).reshape(-1, 2)
    far = np.clip(far[np.isfinite(far).all(1)], low - reach, high + reach)
    low, high = np.min([low, *far], axis=0), np.max([high, *far], axis=0)
    (left, bottom), (right, top) = low - 0.05 * body.size, high + 0.05 * body.size
    return float(left), float(right), float(bottom), float(top)
