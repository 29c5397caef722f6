"""Discharge curves of the MATR cells as NumPy archives: the Source of the recipe `matr`.

Two archives are known, by their arrays. ``Qdlin[cell, cycle, 1000]`` of all 124 cells comes with life, policy, split
and barcode. ``Qdlin`` and ``Tdlin[cell, cycle, 500]`` of 37 cells of the second batch come with one array
``series_CELL[cycle, 5]`` a cell for its whole life; that archive does not count Severson's first cycle, so that its
cycle k is cycle k + 1 here (its curves then agree with those of the other archive to 0.7 mAh, else to 2.2 mAh).

Source: Severson et al. 2019, Nat. Energy 4, 383-391, doi 10.1038/s41560-019-0356-8.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from workbench.data.battery import CELL, LABELS, VOLTAGE, CellSource, battery_record
from workbench.data.readers.local import find_file
from workbench.errors import InputError

GET = "the arrays come from github.com/petermattia/revisit-severson-et-al, the measurements from https://data.matr.io/1"
SERIES = ("cycle", "remaining", "QD", "IR", "discharge_time_min")


@dataclass(frozen=True)
class MatrArrays(CellSource):
    """One archive as a record.

    Args:
        path: of the archive; relative paths start at the data root.
        cells: a CSV table with ``cell_id``, ``split``, ``cycle_life``, ``policy`` and ``barcode``, where the archive
            does not hold them.
    """

    path: str
    cells: str = ""

    @cached_property
    def record(self) -> xr.Dataset:
        """The whole record, in memory."""
        path = find_file(self.path, GET)
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a whole NumPy archive without pickles ({error}); {GET}") from error
        missing = [name for name in ("Qdlin", "voltage", "cycle", "cell_id") if name not in arrays]
        if missing:
            raise InputError(f"{path} has no array '{missing[0]}': it has {', '.join(arrays)}; {GET}")
        shape = tuple(len(arrays[name]) for name in ("cell_id", "cycle", "voltage"))
        if arrays["Qdlin"].shape != shape:
            raise InputError(
                f"{path}: Qdlin has shape {arrays['Qdlin'].shape}, cell_id, cycle and voltage give {shape}"
            )
        return self._with_temperature(arrays, path) if "Tdlin" in arrays else self._capacity_alone(arrays, path)

    def _capacity_alone(self, arrays: dict[str, np.ndarray], path: Path) -> xr.Dataset:
        missing = [name for name in ("cycle_life", *LABELS) if name not in arrays and name != "batch"]
        if missing:
            raise InputError(f"{path} has no array '{missing[0]}': it has {', '.join(arrays)}; {GET}")
        names = arrays["cell_id"].tolist()
        labels = {label: arrays[label].tolist() for label in LABELS if label in arrays}
        return battery_record(
            {"discharge_capacity": arrays["Qdlin"]},
            {VOLTAGE: arrays["voltage"]},
            arrays["cycle"],
            {CELL: names, "batch": _batches(names), **labels},
            arrays["cycle_life"],
        )

    def _with_temperature(self, arrays: dict[str, np.ndarray], path: Path) -> xr.Dataset:
        names = [str(name) for name in arrays["cell_id"]]
        cycles = arrays["cycle"] + 1
        table = _table(find_file(self.cells, "name the table of cells with --set cells=FILE"), names)
        series = [arrays[f"series_{name}"] for name in names]
        for name, rows in zip(names, series, strict=True):
            life, listed = rows[0, :2].sum() if len(rows) else np.nan, float(table[name]["cycle_life"])
            if life != listed:
                raise InputError(f"{path}: cell '{name}' lives {life:g} cycles, {self.cells} says {listed:g}")
        summaries = {
            "capacity": np.stack([_at(cycles, rows[:, 0] + 1, rows[:, SERIES.index("QD")]) for rows in series]),
            "internal_resistance": np.stack([_at(cycles, r[:, 0] + 1, r[:, SERIES.index("IR")]) for r in series]),
        }
        labels = {label: [table[name][label] for name in names] for label in LABELS if label != "batch"}
        return battery_record(
            {"discharge_capacity": arrays["Qdlin"], "discharge_temperature": arrays["Tdlin"]},
            {VOLTAGE: arrays["voltage"]},
            cycles,
            {CELL: names, "batch": _batches(names), **labels},
            np.array([float(table[name]["cycle_life"]) for name in names]),
            summaries=summaries,
        )


def _batches(names: Sequence[str]) -> list[str]:
    """``b1`` of ``b1c4``."""
    return [name.partition("c")[0] for name in names]


def _table(path: Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rows of the table of cells by name."""
    with open(path, newline="") as file:
        rows = {row.get("cell_id", ""): row for row in csv.DictReader(file)}
    columns = {"cycle_life", "policy", "split", "barcode"}
    for name in names:
        if name not in rows or not columns <= set(rows[name]):
            raise InputError(f"{path}: expected cell '{name}' with columns cell_id, {', '.join(sorted(columns))}")
    return rows


def _at(cycles: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at the cycles, NaN where there is none."""
    return np.array([values[known == cycle][0] if (known == cycle).any() else np.nan for cycle in cycles], np.float32)
