"""Records of battery cells: their layout, corrupted cycles found and repaired, and cells counted twice refused.

A record holds curves ``(cell, cycle, voltage)`` of discharges and ``(cell, cycle, capacity_ratio)`` of charges, each
variable with its own units, the life of each cell, and what was done to it. Readers and the simulator hand their
arrays to `battery_record`, so that all records are checked and repaired by the same rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import xarray as xr

from workbench.errors import InputError

CELL, CYCLE, VOLTAGE, CAPACITY_RATIO = "cell", "cycle", "voltage", "capacity_ratio"
SPLITS = ("train", "test1", "test2", "")

GRIDS = {
    VOLTAGE: {"units": "V", "long_name": "voltage of the discharging cell"},
    CAPACITY_RATIO: {"units": "1", "long_name": "charge taken up since the charge began, by that of the whole charge"},
}
CURVES = {
    "discharge_capacity": (VOLTAGE, "Ah", "charge given since the discharge began"),
    "discharge_temperature": (VOLTAGE, "degC", "temperature of the discharging cell"),
    "charge_voltage": (CAPACITY_RATIO, "V", "voltage of the charging cell"),
    "charge_current": (CAPACITY_RATIO, "h-1", "charge current by nominal capacity (C-rate)"),
    "charge_temperature": (CAPACITY_RATIO, "degC", "temperature of the charging cell"),
    "charge_elapsed": (CAPACITY_RATIO, "s", "time since the charge began"),
}
SUMMARIES = {
    "capacity": ("Ah", "discharge capacity"),
    "internal_resistance": ("ohm", "internal resistance"),
    "charge_time": ("s", "duration of the charge"),
    "temperature_mean": ("degC", "mean temperature"),
    "temperature_min": ("degC", "lowest temperature"),
    "temperature_max": ("degC", "highest temperature"),
}
LABELS = ("policy", "split", "batch", "barcode")
FLAGS = {
    "units": "1",
    "long_name": "whether the curves of the cycle were corrupted or missing",
    "flag_values": np.array([0, 1], np.int8),
    "flag_meanings": "good repaired_by_interpolation",
}
CORRUPTED = 0.15 / 1.1
"""Of the nominal capacity: how far a discharge may be at some voltage from the median over the cell's cycles."""
END_OF_LIFE = 0.8
"""Of the nominal capacity: the first cycle below it is the cycle life."""


class CellSource(ABC):
    """A source of a dataset whose cells are read or computed all at once (see `workbench.data.recipe.Source`)."""

    trajectories: ClassVar[int] = 1

    @property
    @abstractmethod
    def record(self) -> xr.Dataset:
        """The whole record, in memory; kept.

        Raises:
            InputError: a file is not there or not what it should be, or numbers cannot be what they claim.
        """

    def template(self) -> xr.Dataset:
        """The record, lazy."""
        return self.record.chunk({CELL: -1})

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """All of it, in memory."""
        return self.record


def battery_record(
    curves: Mapping[str, np.ndarray],
    grids: Mapping[str, np.ndarray],
    cycles: np.ndarray,
    cells: Mapping[str, Sequence[str]],
    cycle_life: np.ndarray,
    *,
    observed_cycles: np.ndarray | None = None,
    nominal_capacity: float | np.ndarray = 1.1,
    summaries: Mapping[str, np.ndarray] | None = None,
    attrs: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Check, repair and label arrays as one record.

    Args:
        curves: ``[cell, cycle, point]`` of any of `CURVES`, in their units; NaN where a cycle was not recorded.
        grids: the axis of points, ``voltage`` (falling) and ``capacity_ratio`` (0 to 1), as far as `curves` need them.
        cycles: numbers of the cycles, from 1, rising.
        cells: ``cell`` names each cell; ``policy``, ``split`` (one of `SPLITS`), ``batch`` and ``barcode`` may follow.
        cycle_life: ``[cell]``, NaN where a cell did not reach its end of life (censored).
        observed_cycles: ``[cell]`` that the cell was seen to run; by default its life.
        nominal_capacity: in Ah, of all cells or ``[cell]``.
        summaries: ``[cell, cycle]`` of any of `SUMMARIES`, in their units.
        attrs: global attributes.

    Raises:
        InputError: a cell is there twice, a split is unknown, or capacities cannot be in Ah.
    """
    names = [str(name) for name in cells[CELL]]
    nominal = np.broadcast_to(np.asarray(nominal_capacity, np.float64), len(names))
    refuse_repeated(names)
    _check_splits(names, cells.get("split", ()))
    life = np.asarray(cycle_life, np.float64)
    observed = life if observed_cycles is None else np.asarray(observed_cycles, np.float64)
    _check_capacity(curves.get("discharge_capacity"), nominal, names)
    recorded = cycles[None] <= np.where(np.isfinite(observed), observed, np.inf)[:, None]
    bad = corrupted_cycles(curves, nominal) & recorded
    for name, row in zip(names, bad, strict=True):
        if row.all():
            raise InputError(f"cell '{name}' has no cycle that is whole: expected at least one; leave the cell out")
    dataset = xr.Dataset(attrs=dict(attrs or {}))
    for name, values in curves.items():
        grid, units, long_name = CURVES[name]
        whole = repaired(np.asarray(values, np.float32), bad, cycles)
        dataset[name] = (CELL, CYCLE, grid), whole, {"units": units, "long_name": long_name}
    for name, summary in (summaries or {}).items():
        units, long_name = SUMMARIES[name]
        dataset[name] = (CELL, CYCLE), np.asarray(summary, np.float32), {"units": units, "long_name": long_name}
    dataset["cycle_life"] = CELL, life, {"units": "1", "long_name": "cycles to the end of life; NaN: not reached"}
    dataset["observed_cycles"] = CELL, observed, {"units": "1", "long_name": "cycles that the cell was seen to run"}
    dataset["nominal_capacity"] = CELL, nominal.copy(), {"units": "Ah", "long_name": "nominal capacity"}
    dataset["corrupted"] = (CELL, CYCLE), bad.astype(np.int8), FLAGS
    dataset = dataset.assign_coords(
        {CELL: (CELL, names, {"long_name": "name of the cell"})}
        | {CYCLE: (CYCLE, np.asarray(cycles, np.int64), {"units": "1", "long_name": "number of the cycle, from 1"})}
        | {grid: (grid, np.asarray(values, np.float64), GRIDS[grid]) for grid, values in grids.items()}
        | {label: (CELL, [str(v) for v in cells.get(label, [""] * len(names))]) for label in LABELS}
    )
    refuse_copies(dataset)
    return dataset.assign_attrs(report(dataset), end_of_life=f"capacity below {END_OF_LIFE:.0%} of the nominal one")


def corrupted_cycles(curves: Mapping[str, np.ndarray], nominal_capacity: np.ndarray) -> np.ndarray:
    """Which cycles cannot be true: a curve is not finite, or the discharge is far from the others of its cell.

        max over V of |Q(V) - median over cycles of Q(V)| > 0.15 Ah at a nominal capacity of 1.1 Ah

    For records of early cycles: the median must not have aged away from the first of them.

    Args:
        curves: ``[cell, cycle, point]``; the rule applies to ``discharge_capacity``.
        nominal_capacity: ``[cell]``, in Ah.

    Returns:
        ``bool[cell, cycle]``.
    """
    bad = np.zeros(next(iter(curves.values())).shape[:2], bool)
    for values in curves.values():
        bad |= ~np.isfinite(values).all(2)
    if "discharge_capacity" in curves:
        for k, capacity in enumerate(curves["discharge_capacity"]):
            if bad[k].all():
                continue
            apart = np.abs(capacity - np.median(capacity[~bad[k]], axis=0)).max(1)
            bad[k] |= apart > CORRUPTED * nominal_capacity[k]
    return bad


def repaired(values: np.ndarray, bad: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    """Curves with the bad cycles replaced: linear between the good cycles around them, constant before the first.

    Args:
        values: ``float32[cell, cycle, point]``, left as they are.
        bad: ``bool[cell, cycle]``.
        cycles: numbers of the cycles.
    """
    values = values.copy()
    for k in np.flatnonzero(bad.any(1)):
        good = np.flatnonzero(~bad[k] & np.isfinite(values[k]).all(1))
        for c in np.flatnonzero(bad[k]):
            place = int(np.clip(np.searchsorted(good, c), 1, max(1, len(good) - 1)))
            left, right = good[place - 1], good[min(place, len(good) - 1)]
            share = np.clip((cycles[c] - cycles[left]) / max(1, cycles[right] - cycles[left]), 0, 1)
            values[k, c] = (1 - share) * values[k, left] + share * values[k, right]
    return values


def incremental_capacity(record: xr.Dataset) -> xr.DataArray:
    """dQ/dV of the discharges, ``(cell, cycle, voltage)`` in Ah V-1, by central differences; lazy where they are."""
    found = record["discharge_capacity"].differentiate(VOLTAGE).astype(np.float32)
    return found.rename("incremental_capacity").assign_attrs(units="Ah V-1", long_name="incremental capacity dQ/dV")


def report(record: xr.Dataset) -> dict[str, str]:
    """What was repaired and which cells never reached their end of life, in words for the attributes of the record."""
    bad = record["corrupted"].values != 0
    repairs = [
        f"{name} cycle {' '.join(map(str, record[CYCLE].values[row]))}"
        for name, row in zip(record[CELL].values, bad, strict=True)
        if row.any()
    ]
    censored = record[CELL].values[np.isnan(record["cycle_life"].values)]
    return {
        "repaired_cycles": f"{bad.sum()}" + (f": {', '.join(repairs)}" if repairs else ""),
        "censored_cells": f"{len(censored)}" + (f": {', '.join(map(str, censored))}" if len(censored) else ""),
    }


def refuse_repeated(names: Sequence[str]) -> None:
    """Refuse a name that stands for two cells.

    Raises:
        InputError: one does.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"cell '{repeated[0]}' is there {names.count(repeated[0])} times: expected each cell once")


def refuse_copies(record: xr.Dataset) -> None:
    """Refuse two cells with the same measurements: one in training and its copy in a test would look like skill.

    Raises:
        InputError: two cells agree to the last bit in a whole variable.
    """
    name = next((name for name in CURVES if name in record), None)
    if name is None:
        return
    seen: dict[bytes, str] = {}
    for cell, values in zip(record[CELL].values, record[name].values, strict=True):
        other = seen.setdefault(values.tobytes(), str(cell))
        if other != cell:
            raise InputError(f"cells '{other}' and '{cell}' hold the same {name}: expected different cells; drop one")


def _check_splits(names: Sequence[str], splits: Sequence[str]) -> None:
    for name, split in zip(names, splits, strict=False):
        if split not in SPLITS:
            raise InputError(f"cell '{name}' is in split '{split}': expected {', '.join(map(repr, SPLITS))}")


def _check_capacity(capacity: np.ndarray | None, nominal: np.ndarray, names: Sequence[str]) -> None:
    """Refuse capacities that cannot be in Ah: a fresh cell gives about its nominal capacity."""
    if capacity is None:
        return
    for name, discharges, size in zip(names, capacity, nominal, strict=True):
        whole = discharges[np.isfinite(discharges).all(1)]
        ratio = float(np.median(whole.max(1))) / size if len(whole) else 0.0
        if ratio > 50:
            raise InputError(
                f"cell '{name}' gives {ratio * size:,.0f} at a nominal capacity of {size:g} Ah: expected Ah, this "
                "looks like mAh; divide capacities by 1000"
            )
        if 0 < ratio < 0.02:
            raise InputError(
                f"cell '{name}' gives {ratio * size:.2g} Ah at a nominal capacity of {size:g} Ah: expected about as "
                "much; is nominal_capacity in mAh, or the capacity in another unit?"
            )
