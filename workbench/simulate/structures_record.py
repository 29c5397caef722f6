"""What a record of a moving structure looks like, whoever made it: a solver, or a reader of published simulations.

One variable a component. Nodal fields lie on ``(node_y, node_x[, node_z])``, element fields on
``(elem_y, elem_x[, elem_z])`` with one point less along each axis; void is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

GRID = ("y", "x", "z")
VECTOR = ("x", "y", "z")
TENSOR = {2: ("xx", "yy", "zz", "xy"), 3: ("xx", "yy", "zz", "xy", "yz", "xz")}
HISTORIES = ("ramp_hold", "half_sine", "harmonic", "step", "random")

_NODAL = {
    "displacement": ("m", "displacement"),
    "velocity": ("m s-1", "velocity"),
    "load": ("N", "nodal force"),
    "support_displacement": ("m", "prescribed displacement of the supports"),
}
_NODAL_STATIC = {
    "support": ("1", "1 where the displacement is prescribed, else 0"),
    "position": ("m", "reference coordinate of the node"),
}
_TENSORS = {"stress": ("Pa", "Cauchy stress"), "strain": ("1", "strain")}
_ELEMENT = {"von_mises": ("Pa", "von Mises stress"), "effective_strain": ("1", "effective strain")}
_MATERIAL = {
    "youngs_modulus": ("Pa", "Young's modulus"),
    "poissons_ratio": ("1", "Poisson's ratio"),
    "density": ("kg m-3", "density"),
}
_SERIES = {
    "kinetic_energy": ("J", "kinetic energy on the solver's mesh"),
    "strain_energy": ("J", "strain energy on the solver's mesh"),
    "external_work": ("J", "work of loads and moved supports since the start"),
}


def dims_of(kind: str, dim: int) -> tuple[str, ...]:
    """Space dims of ``node`` or ``elem`` fields."""
    return tuple(f"{kind}_{axis}" for axis in GRID[:dim])


def variables(dim: int) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Every variable that a record may have: name -> (dims, attributes)."""
    node, elem = dims_of("node", dim), dims_of("elem", dim)
    timed, fixed = ("trajectory", "time"), ("trajectory",)
    found: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}

    def add(name: str, dims: tuple[str, ...], units: str, long_name: str) -> None:
        found[name] = (dims, {"units": units, "long_name": long_name})

    for group, lead in ((_NODAL, timed), (_NODAL_STATIC, fixed)):
        for name, (units, meaning) in group.items():
            for axis in VECTOR[:dim]:
                add(f"{name}_{axis}", (*lead, *node), units, f"{meaning}, {axis} component")
    for name, (units, meaning) in _TENSORS.items():
        for pair in TENSOR[dim]:
            add(f"{name}_{pair}", (*timed, *elem), units, f"{meaning}, {pair} component")
    for name, (units, meaning) in _ELEMENT.items():
        add(name, (*timed, *elem), units, meaning)
    for name, (units, meaning) in _MATERIAL.items():
        add(name, (*fixed, *elem), units, f"{meaning} of the element, 0 in void")
        add(f"node_{name}", (*fixed, *node), units, f"{meaning}, mean over the solid elements round the node")
    add("solid", (*fixed, *elem), "1", "1 where the element is material, 0 where it is void")
    add("node_solid", (*fixed, *node), "1", "solid share of the elements round the node")
    add("node_damping", (*fixed, *node), "s-1", "Rayleigh mass damping of the trajectory")
    for name, (units, meaning) in _SERIES.items():
        add(name, timed, units, meaning)
    add("natural_frequency", fixed, "Hz", "first natural frequency of the unloaded body")
    return found


def structures_record(
    values: Mapping[str, Any],
    trajectories: Sequence[int],
    times: np.ndarray,
    axes: Sequence[np.ndarray],
    attributes: Mapping[str, str | float | int],
    histories: Sequence[int] | None = None,
    length_units: str = "m",
) -> xr.Dataset:
    """Fields with the coordinates of their nodes and elements.

    Args:
        values: variable of `variables` -> array of its dims.
        trajectories: their numbers.
        times: of the fields, in s.
        axes: coordinates of the nodes along y, x(, z).
        attributes: of the whole.
        histories: place in `HISTORIES` of each trajectory's load.
        length_units: of the axes.
    """
    dim = len(axes)
    number = {"units": "1", "long_name": "trajectory number"}
    since = {"units": "s", "long_name": "time since the initial state", "axis": "T"}
    coords = {
        "trajectory": xr.Variable("trajectory", np.asarray(trajectories, np.int64), number),
        "time": xr.Variable("time", np.asarray(times, np.float64), since),
    }
    for axis, nodes in zip(GRID, axes, strict=False):
        for kind, points in (("node", nodes), ("elem", (nodes[1:] + nodes[:-1]) / 2)):
            meaning = "node" if kind == "node" else "element centre"
            named = {"units": length_units, "long_name": f"{axis} of the {meaning}", "axis": axis.upper()}
            coords[f"{kind}_{axis}"] = xr.Variable(f"{kind}_{axis}", np.asarray(points, np.float64), named)
    if histories is not None:
        flags = {
            "units": "1",
            "long_name": "kind of load history",
            "flag_values": list(range(len(HISTORIES))),
            "flag_meanings": " ".join(HISTORIES),
        }
        coords["history"] = xr.Variable("trajectory", np.asarray(histories, np.int64), flags)
    known = variables(dim)
    fields = {name: (known[name][0], array, known[name][1]) for name, array in values.items()}
    return xr.Dataset(fields, coords, {"Conventions": "CF-1.11", "dimension": dim, **attributes})
