"""The plain ratio: what the solver that made the record takes, over what the surrogate takes; free of torch.

It is what papers tend to state. It is not at equal error, since that solver repeats the record: a coarser one may be as
good as the surrogate for a part of its time. ``speedup.nc`` holds it where the solver says which settings made the
record:

    plain_seconds(side, together, clock, round), plain_ratio(together, clock)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from workbench.equal_error.sheet import CLOCKS, number

if TYPE_CHECKING:
    from workbench.equal_error.clock import Timings

TOGETHER = 32
SIDES = ("surrogate", "solver of the record")


def with_plain(sheet: xr.Dataset, timings: Timings, leads: float, solver: str) -> xr.Dataset:
    """The comparison with the plain ratio.

    Args:
        sheet: what `workbench.equal_error.compare.compare` made.
        timings: of the surrogate and of the record's solver, alone and `TOGETHER`.
        leads: that costs are told of.
        solver: label of the record's solver.
    """
    seconds = leads * np.stack([timings.wall, timings.cpu], 2)
    median = np.median(seconds, -1)
    data = {
        "plain_seconds": (("side", "together", "clock", "round"), seconds, sheet["seconds"].attrs),
        "plain_ratio": (
            ("together", "clock"),
            median[1] / median[0],
            {
                "units": "1",
                "long_name": "time of the solver that made the record over the surrogate's, not at equal error",
            },
        ),
    }
    coords = {"side": list(SIDES), "together": [1, TOGETHER], "clock": list(CLOCKS)}
    return sheet.merge(xr.Dataset(data, coords)).assign_attrs(plain_solver=solver)


def plain_words(sheet: xr.Dataset) -> str:
    """One sentence; empty where the ratio was not measured."""
    if "plain_ratio" not in sheet:
        return ""
    alone, together = (number(float(value)) for value in sheet["plain_ratio"].sel(clock="wall"))
    error = float(sheet["surrogate_error"][int(sheet.attrs["lead_points"]) - 1])
    return (
        f"not at equal error: the solver that made the record ({sheet.attrs['plain_solver']}) takes {alone} times as "
        f"long as the surrogate for one forecast and {together} times for {TOGETHER} together; it repeats the record, "
        f"the surrogate has a relative L2 error of {error:.3g}"
    )
