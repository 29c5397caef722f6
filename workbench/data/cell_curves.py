"""Cells and their curves: read, checked, resampled, split; free of torch.

A record of cells is laid out ``(cell, cycle, voltage)`` or ``(cell, cycle, capacity_ratio)``, with ``cycle_life``,
``policy``, ``split`` and ``barcode`` along ``cell``. What an experiment sees of it is small, and held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.data.battery import CELL, CYCLE, incremental_capacity
from workbench.data.cell_parts import cut_windows, labelled
from workbench.data.cells_config import CellsConfig
from workbench.data.spec import RecordSpec
from workbench.data.store import naming_bad_chunks, open_record
from workbench.errors import InputError

INCREMENTAL, CAPACITY = "incremental_capacity", "discharge_capacity"
KNOWN = ("cycle_life", "policy", "split", "barcode", "batch", "observed_cycles")
"""What is kept of every cell, where the record has it."""

EXPECTED = {
    CAPACITY: ("Ah", 1e-3, 400.0, "capacities in mAh are divided by 1000"),
    "charge_voltage": ("V", 0.0, 10.0, "voltages in mV are divided by 1000"),
    "charge_current": ("h-1", -60.0, 60.0, "a C-rate (h-1) is the current in A divided by the nominal capacity in Ah"),
    "charge_temperature": ("degC", -60.0, 150.0, "temperatures in K are lowered by 273.15"),
    "discharge_temperature": ("degC", -60.0, 150.0, "temperatures in K are lowered by 273.15"),
}
"""Units of the curves, the range that their median over cells of the largest value lies in, and how to get there."""

BLOCK = 16
"""Cells that are read at once."""


def open_cells(config: CellsConfig) -> xr.Dataset:
    """The cells of an experiment, in memory, split and grouped.

    Returns:
        every variable of the experiment ``float32 (cell, cycle, axis)``, means over `points` intervals; along ``cell``
        the coordinates ``part`` (``train``, ``test`` ..., ``censored`` without an end of life, ``unused``) and ``fold``
        and ``batch_fold`` (groups of a training cell, else -1) besides what the record says. Of ``leaky_windows``,
        cells are windows.

    Raises:
        InputError: a curve, its units or cycles are not as they should be, or the split cannot be made.
    """
    source = open_record(config.record)
    last = None if config.leaky else config.cycles
    cells = read_curves(source, config.variables, config.points, config.first_cycle, last)
    if config.leaky:
        cells = cut_windows(cells, config)
    else:
        refuse_too_few(cells, config.variables, config.cycles)
    return labelled(cells, config)


def read_curves(source: xr.Dataset, variables: Sequence[str], points: int, first: int, last: int | None) -> xr.Dataset:
    """Curves of cycles `first` to `last` (the record's last by default), on `points` nodes, in memory.

    Raises:
        InputError: a dimension, variable or cycle is missing, or units or sizes of the numbers are not those expected.
    """
    where = str(source.encoding.get("source", "the record"))
    _refuse_other_layout(source, variables, where)
    last = int(source[CYCLE].max()) if last is None else last
    chosen = _cycles(source, first, last, where)
    stored = list(dict.fromkeys(CAPACITY if name == INCREMENTAL else name for name in variables))
    blocks = []
    with naming_bad_chunks(source):
        for start in range(0, chosen.sizes[CELL], BLOCK):
            part = chosen[stored].isel({CELL: slice(start, start + BLOCK)}).load()
            blocks.append(xr.Dataset({name: resample(part[name], points) for name in stored}))
        known = [name for name in KNOWN if name in chosen.variables]
        about = {name: (CELL, np.asarray(chosen[name].values), chosen[name].attrs) for name in known}
    curves = xr.concat(blocks, CELL)
    for name in stored:
        _refuse_other_size(curves[name], where)
    if INCREMENTAL in variables:
        curves[INCREMENTAL] = incremental_capacity(curves)
    found = curves[list(variables)].assign_coords(about)
    found.encoding["source"] = where
    return found.assign_attrs(source.attrs)


def resample(curves: xr.DataArray, points: int) -> xr.DataArray:
    """Mean of each curve ``(cell, cycle, axis)``, linear between its nodes, over `points` equal intervals of its axis.

    The new nodes are the middles of the intervals.
    """
    dim = str(curves.dims[-1])
    axis = curves[dim].values.astype(np.float64)
    edges = np.linspace(axis[0], axis[-1], points + 1)
    sign = 1.0 if axis[-1] > axis[0] else -1.0
    left = np.clip(np.searchsorted(sign * axis, sign * edges, side="right") - 1, 0, len(axis) - 2)
    values, step = curves.values.astype(np.float64), np.diff(axis)
    areas = np.cumsum(0.5 * step * (values[..., 1:] + values[..., :-1]), axis=-1)
    areas = np.concatenate([np.zeros_like(values[..., :1]), areas], axis=-1)
    beyond = edges - axis[left]
    slope = (values[..., left + 1] - values[..., left]) / step[left]
    integral = areas[..., left] + beyond * (values[..., left] + 0.5 * beyond * slope)
    means = np.diff(integral, axis=-1) / np.diff(edges)
    middles = 0.5 * (edges[1:] + edges[:-1])
    coords = {d: curves[d] for d in curves.dims[:-1]} | {dim: (dim, middles, curves[dim].attrs)}
    return xr.DataArray(means.astype(np.float32), coords, curves.dims, curves.name, curves.attrs)


def video(cells: xr.Dataset, variables: Sequence[str]) -> np.ndarray:
    """The curves of all variables together, ``float32[cell, variable, cycle, point]``."""
    return np.stack([cells[name].values for name in variables], 1)


def spec_of(cells: xr.Dataset, variables: Sequence[str]) -> RecordSpec:
    """Variables, units and axes of the curves of one cycle."""
    return RecordSpec.of(cells.isel({CELL: 0, CYCLE: 0}, drop=True), [n for n in variables if n in cells])


# ---------------------------------------------------------------------------------------------- refusals


def _refuse_other_layout(source: xr.Dataset, variables: Sequence[str], where: str) -> None:
    missing = [dim for dim in (CELL, CYCLE) if dim not in source.dims or dim not in source.coords]
    if missing:
        raise InputError(
            f"{where} has no coordinate {' and '.join(missing)}: expected a record of cells, laid out (cell, cycle, "
            "voltage) or (cell, cycle, capacity_ratio); workbench dataset list shows what makes one"
        )
    ids, counts = np.unique(source[CELL].values.astype(str), return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{where} holds the cell {ids[counts > 1][0]} {counts.max()} times: keep each cell once")
    for name in variables:
        stored = CAPACITY if name == INCREMENTAL else name
        curves = [str(v) for v in source.data_vars if source[v].dims[:2] == (CELL, CYCLE) and source[v].ndim == 3]
        if stored not in curves:
            raise InputError(f"data.variables names '{name}', {where} has the curves {', '.join(curves) or 'none'}")
        units, _, _, repair = EXPECTED.get(stored, ("", 0, 0, ""))
        found = source[stored].attrs.get("units")
        if found is None or (units and found != units):
            raise InputError(f"{stored} is in '{found or ''}' in {where}, expected '{units or 'units'}': {repair}")


def _refuse_other_size(curves: xr.DataArray, where: str) -> None:
    """Raise where numbers are far from what their units allow: most often units that were mixed up."""
    units, low, high, repair = EXPECTED.get(str(curves.name), ("", -np.inf, np.inf, ""))
    with np.errstate(invalid="ignore"):
        largest = curves.max(curves.dims[1:]).values
    typical = float(np.median(largest[np.isfinite(largest)])) if np.isfinite(largest).any() else 0.0
    if not low <= typical <= high:
        raise InputError(
            f"{curves.name} in {where} reaches {typical:.4g} {units}, expected {low:g} to {high:g}: {repair}"
        )


def _cycles(source: xr.Dataset, first: int, last: int, where: str) -> xr.Dataset:
    numbers = source[CYCLE].values.astype(int)
    wanted = np.arange(first, last + 1)
    missing = np.setdiff1d(wanted, numbers)
    if len(missing):
        raise InputError(
            f"{where} holds cycles {numbers.min()} to {numbers.max()}, and cycles {first} to {last} are asked for "
            f"({len(missing)} are missing, the first {missing[0]}): too few cycles; set data.cycles to at most "
            f"{numbers.max() if missing[0] > numbers.max() else missing[0] - 1}"
        )
    return source.sel({CYCLE: wanted})


def refuse_too_few(cells: xr.Dataset, variables: Sequence[str], last: int) -> None:
    """Raise where a cell lacks part of its curves, or ended within the cycles that are seen.

    Raises:
        InputError: there are such cells.
    """
    whole = np.isfinite(video(cells, variables)).all((1, 2, 3))
    ended = cells["cycle_life"].values <= last if "cycle_life" in cells.coords else np.zeros(len(whole), bool)
    if not whole.all() or ended.any():
        short = cells[CELL].values[~whole | ended].astype(str)
        raise InputError(
            f"too few cycles: {len(short)} of {len(whole)} cells lack curves of the cycles up to {last}, or end within "
            f"them ({', '.join(short[:5])}{' ...' if len(short) > 5 else ''}); set data.cycles lower, or leave them out"
        )
