"""From a motion on the solver's mesh to what the record's coarser grid holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.simulate.structures_elements import (
    Elements,
    Kinematics,
    Material,
    effective_strain,
    linear_stress,
    small_strain,
    von_mises,
)
from workbench.simulate.structures_mesh import COMPONENTS, Mesh
from workbench.simulate.structures_motion import Motion
from workbench.simulate.structures_neohookean import cauchy_stress
from workbench.simulate.structures_record import TENSOR


def along_axes(matrices: Sequence[np.ndarray], field: np.ndarray, first: int = 0) -> np.ndarray:
    """Apply one matrix to each of the axes of a field, beginning with axis `first`."""
    for axis, matrix in enumerate(matrices, first):
        field = np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis)
    return field


def at_nodes(field: np.ndarray, mesh: Mesh, refinement: int) -> np.ndarray:
    """The record's nodes of a field ``[..., node, dim]`` of a solver's mesh, ``[..., *nodes, dim]``."""
    grid = field.reshape(*field.shape[:-2], *mesh.nodes, field.shape[-1])
    pick: tuple[Any, ...] = (..., *[slice(None, None, refinement)] * mesh.dim, slice(None))
    return grid[pick]


def in_elements(values: np.ndarray, mesh: Mesh, refinement: int, lead: int = 0) -> np.ndarray:
    """Mean over the solver's elements in each of the record's, 0 in void.

    Args:
        values: ``[*lead, element, ...]``, of the solid elements.
        mesh: of the solver.
        refinement: its elements per element of the record, along each axis.
        lead: axes before that of the elements.

    Returns:
        ``[*lead, *elements, ...]``.
    """
    before, after = values.shape[:lead], values.shape[lead + 1 :]
    full = np.zeros((*before, *mesh.solid.shape, *after))
    where: tuple[Any, ...] = (*[slice(None)] * lead, mesh.solid)
    full[where] = values
    split = [part for n in mesh.solid.shape for part in (n // refinement, refinement)]
    return full.reshape(*before, *split, *after).mean(tuple(lead + 1 + 2 * axis for axis in range(mesh.dim)))


def round_nodes(values: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Mean over the solid elements round each node, 0 where there is none: ``[*elements]`` to ``[*nodes]``."""
    total, number = _sum_round(np.where(solid, values, 0)), _sum_round(solid.astype(float))
    return np.divide(total, number, out=np.zeros_like(total), where=number > 0)


def solid_share(solid: np.ndarray) -> np.ndarray:
    """Solid share of the elements of the grid round each node, ``[*nodes]``."""
    return _sum_round(solid.astype(float)) / _sum_round(np.ones(solid.shape))


def _sum_round(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, 1)
    for axis in range(values.ndim):
        cut = [slice(None)] * values.ndim
        cut[axis] = slice(1, None)
        padded = padded[tuple(cut)] + np.delete(padded, -1, axis)
    return padded


def components(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """``[..., dim]`` as one variable a component."""
    return {f"{name}_{axis}": values[..., c] for c, axis in enumerate(COMPONENTS[: values.shape[-1]])}


def tensor_components(name: str, values: np.ndarray, dim: int) -> dict[str, np.ndarray]:
    """``[..., 3, 3]`` as one variable a component that the record holds."""
    places = {pair: [COMPONENTS.index(axis) for axis in pair] for pair in TENSOR[dim]}
    return {f"{name}_{pair}": values[..., row, column] for pair, (row, column) in places.items()}


def moving_fields(
    motion: Motion, elements: Elements, material: Material, law: str, kinematics: Kinematics, refinement: int
) -> dict[str, np.ndarray]:
    """Everything of the record that follows from a motion: variable -> ``[time, ...]``."""
    mesh = elements.mesh
    gradient = elements.displacement_gradient(motion.displacement)
    if law == "linear":
        stress, strain = linear_stress(small_strain(gradient), material, kinematics)
    else:
        stress, strain = cauchy_stress(gradient, material)
    stress, strain = (in_elements(tensor, mesh, refinement, lead=1) for tensor in (stress, strain))
    return {
        **components("displacement", at_nodes(motion.displacement, mesh, refinement)),
        **components("velocity", at_nodes(motion.velocity, mesh, refinement)),
        **tensor_components("stress", stress, mesh.dim),
        **tensor_components("strain", strain, mesh.dim),
        "von_mises": von_mises(stress),
        "effective_strain": effective_strain(strain),
        "kinetic_energy": motion.kinetic,
        "strain_energy": motion.strain,
        "external_work": motion.work,
    }
