"""What a record of channel flow looks like, whoever made it: a solver, or a reader of published fields."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench.simulate.channel_grid import wall_normal_nodes

VELOCITIES = {
    "u": {"units": "1", "long_name": "streamwise velocity (non-dimensional)"},
    "v": {"units": "1", "long_name": "wall-normal velocity (non-dimensional)"},
    "w": {"units": "1", "long_name": "spanwise velocity (non-dimensional)"},
}
FRICTION = {"units": "1", "long_name": "friction velocity, mean of both walls, on the solver's grid (non-dimensional)"}
DIMS = ("trajectory", "time", "x", "y", "z")
CONVENTION = (
    "lengths in half heights, velocities in that of the laminar centre line at the same flow rate (bulk velocity 2/3), "
    "time in half heights over that velocity; non-dimensional"
)


def channel_record(
    variables: Mapping[str, Any],
    trajectories: Sequence[int],
    times: np.ndarray,
    nodes: tuple[int, int, int],
    lengths: tuple[float, float],
    attributes: Mapping[str, str | float],
) -> xr.Dataset:
    """Fields with the coordinates of their nodes.

    Args:
        variables: u, v, w ``[trajectory, time, x, y, z]``; perhaps `friction_velocity` ``[trajectory, time]``.
        trajectories: their numbers.
        times: of the fields.
        nodes: along x, y (both walls included) and z.
        lengths: of the box along x and z.
        attributes: of the whole.
    """
    number = {"units": "1", "long_name": "trajectory number"}
    since = {"units": "1", "long_name": "time since the first field (non-dimensional)", "axis": "T"}
    wall = {"units": "1", "long_name": "position above the lower wall (non-dimensional)", "axis": "Y"}
    coords = {
        "trajectory": xr.Variable("trajectory", np.asarray(trajectories, np.int64), number),
        "time": xr.Variable("time", times, since),
        "x": _periodic("x", nodes[0], lengths[0]),
        "y": xr.Variable("y", wall_normal_nodes(nodes[1]), wall),
        "z": _periodic("z", nodes[2], lengths[1]),
    }
    described = {**VELOCITIES, "friction_velocity": FRICTION}
    fields = {name: (DIMS[: np.ndim(values)], values, described[name]) for name, values in variables.items()}
    return xr.Dataset(fields, coords, {"Conventions": "CF-1.11", **attributes})


def _periodic(name: str, count: int, length: float) -> xr.Variable:
    attributes = {
        "units": "1",
        "long_name": f"position along {name} (non-dimensional)",
        "axis": name.upper(),
        "period": length,
        "comment": "periodic; the right end is left out",
    }
    return xr.Variable(name, np.arange(count) * (length / count), attributes)
