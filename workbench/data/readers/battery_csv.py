"""Cells that somebody cycled, as one long table of samples: the Source of the recipe `battery_csv`.

The table has the columns ``cell, cycle, time, V, I, T, Q``, one row a sample: voltage in V, current positive where the
cell charges, temperature in degC, and the counter of charge Q, which may begin anew with each charge and discharge or
go on. A second table may say more of each cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.data.battery import CellSource
from workbench.data.cell_samples import CAPACITIES, CellSamples, CycleSamples, Units, life, samples_record, since_begin
from workbench.data.readers.local import find_file
from workbench.errors import InputError

COLUMNS = ("cell", "cycle", "time", "V", "I", "T", "Q")
ABOUT = ("cell", "policy", "split", "batch", "barcode", "cycle_life")
GET = "a table with the columns " + ", ".join(COLUMNS)


@dataclass(frozen=True)
class BatteryCsv(CellSource):
    """Early cycles of the cells of a table as a record.

    The end of life is the first cycle that gives less than 80 % of the nominal capacity; a cell without one is
    censored, unless the table of cells knows its ``cycle_life``.

    Args:
        path: of the table (``.csv``, ``.csv.gz``); relative paths start at the data root.
        nominal_capacity: of the cells, in Ah; it must be said.
        cells: a table with the column ``cell`` and any of ``policy, split, batch, barcode, cycle_life``.
        first: number of the first cycle kept.
        cycles: number of the last one.
        points: of the charge curves; discharges have 1000.
        high: first voltage of the discharge curves, V.
        low: last one.
        current: ``A``, or ``h-1`` for C-rates.
        time: ``s``, ``min`` or ``h``.
        capacity: unit of Q, ``Ah`` or ``mAh``.
    """

    path: str
    nominal_capacity: float = 0.0
    cells: str = ""
    first: int = 2
    cycles: int = 100
    points: int = 400
    high: float = 3.5
    low: float = 2.0
    current: str = "A"
    time: str = "s"
    capacity: str = "Ah"

    @cached_property
    def record(self) -> xr.Dataset:
        """The whole record, in memory."""
        if self.nominal_capacity <= 0:
            raise InputError("the nominal capacity of the cells is not known: say it, --set nominal_capacity=AH")
        units = Units(self.current, self.time, self.capacity)
        numbers, voltages = range(self.first, self.cycles + 1), np.linspace(self.high, self.low, 1000)
        return samples_record(self._cells(units), numbers, voltages, self.points, units)

    def _cells(self, units: Units) -> Iterator[CellSamples]:
        path = find_file(self.path, GET)
        samples = _read(path, COLUMNS, {"cell": str})
        _check(samples, path)
        about = _about(self.cells, samples["cell"].unique().tolist())
        for name, rows in samples.groupby("cell", sort=False):
            cycles = {int(k): _cycle(part) for k, part in rows.groupby("cycle")}
            capacity = {k: float(c.discharged.max()) * CAPACITIES[units.capacity] for k, c in cycles.items()}
            known = about.get(str(name), {})
            stated = known.get("cycle_life", "")
            yield CellSamples(
                str(name),
                cycles,
                self.nominal_capacity,
                float(stated) if stated else life(capacity, self.nominal_capacity),
                max(cycles),
                {key: known.get(key, "") for key in ("policy", "split", "batch", "barcode")},
                {"capacity": capacity},
            )


def _read(path: Path, columns: Sequence[str], types: Any) -> pd.DataFrame:
    """A table with the columns.

    Raises:
        InputError: it is no table, or a column is not there.
    """
    try:
        table = pd.read_csv(path, dtype=types, skipinitialspace=True)
    except (ValueError, OSError, EOFError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a table of comma-separated values: {error}") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(
            f"{path} has no column '{missing[0]}': expected {', '.join(columns)}; found {', '.join(map(str, table))}"
        )
    return table


def _check(samples: pd.DataFrame, path: Path) -> None:
    """Refuse rows without numbers, or times that do not rise within a cycle."""
    numbers = samples[list(COLUMNS[1:])]
    for column in numbers:
        if not pd.api.types.is_numeric_dtype(numbers[column]):
            raise InputError(f"{path}: column '{column}' holds text: expected numbers")
    gaps = numbers.drop(columns="T").isna().any(axis=1) | samples["cell"].isna()
    if gaps.any():
        raise InputError(f"{path}: row {int(np.argmax(gaps)) + 2} lacks a value: expected all but T in every row")
    groups = samples.groupby(["cell", "cycle"], sort=False)["time"]
    back = groups.diff() < 0
    if back.any():
        row = int(np.argmax(back))
        cell, cycle = samples["cell"].iloc[row], samples["cycle"].iloc[row]
        raise InputError(
            f"{path}: time steps back in row {row + 2} (cell '{cell}', cycle {cycle}): expected rising times within a "
            "cycle; is the cell there twice?"
        )


def _about(path: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the table of cells says of each; nothing without one."""
    if not path:
        return {}
    file = find_file(path, "name the table of cells with --set cells=FILE")
    table = _read(file, ("cell",), str).fillna("")
    odd = [column for column in table if column not in ABOUT]
    if odd:
        raise InputError(f"{file} has a column '{odd[0]}': expected any of {', '.join(ABOUT)}")
    twice = table["cell"][table["cell"].duplicated()].tolist()
    if twice:
        raise InputError(f"{file} lists cell '{twice[0]}' more than once: expected each cell in one row and one split")
    rows = {row["cell"]: {str(k): str(v) for k, v in row.items()} for row in table.to_dict("records")}
    absent = [name for name in names if name not in rows]
    if absent:
        raise InputError(f"{file} does not list cell '{absent[0]}': expected a row for each cell")
    return rows


def _cycle(rows: pd.DataFrame) -> CycleSamples:
    time, voltage, current, warmth, counter = (rows[c].to_numpy(np.float64) for c in ("time", "V", "I", "T", "Q"))
    charged, discharged = (since_begin(counter, way) for way in (current > 0, current < 0))
    return CycleSamples(time, voltage, current, warmth, charged, discharged)
