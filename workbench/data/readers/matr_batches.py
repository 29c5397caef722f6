"""The three batches of the MATR data set as MATLAB v7.3 files: the Source of the recipe `matr_batches`.

A file is HDF5 with a group ``batch`` of references ``[cell, 1]``: ``policy_readable``, ``barcode``, ``cycle_life``,
``summary`` (one number a cycle) and ``cycles`` (samples of each cycle, and the discharge on a grid of voltages). Time
is in minutes and current is a C-rate. Cells that continue in the next batch are put together; cells that were not
finished or are noisy are left out, which leaves the 124 of the paper.

Source: Severson et al. 2019, Nat. Energy 4, 383-391, doi 10.1038/s41560-019-0356-8, and the loading scripts
published with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from workbench.data.battery import CellSource
from workbench.data.cell_samples import CellSamples, CycleSamples, Units, samples_record
from workbench.data.readers.local import find_file
from workbench.errors import InputError

GET = "the three batches 2017-05-12, 2017-06-30 and 2018-04-12 are at https://data.matr.io/1"
BATCHES = {"20170512": ("b1", 46), "20170630": ("b2", 48), "20180412": ("b3", 46)}
"""Date in the name of the file: name of the batch and number of its cells."""
CONTINUED = {"b1c0": ("b2c7", 662), "b1c1": ("b2c8", 981), "b1c2": ("b2c9", 1060), "b1c3": ("b2c15", 208)} | {
    "b1c4": ("b2c16", 482)
}
"""Cell: under which name it went on, for how many cycles."""
UNFINISHED = ("b1c8", "b1c10", "b1c12", "b1c13", "b1c22")
"""Never reached 80 %."""
NOISY = ("b3c2", "b3c23", "b3c32", "b3c37", "b3c42", "b3c43")
NOMINAL = 1.1
VOLTAGES = np.linspace(3.5, 2.0, 1000)
"""Of Qdlin and Tdlin: 3.5 to 2.0 V agrees with the samples to 1 mAh, 3.6 to 2.0 V would be off by 50."""
SUMMARIES = {
    "capacity": ("QDischarge", 1.0),
    "internal_resistance": ("IR", 1.0),
    "charge_time": ("chargetime", 60.0),
    "temperature_mean": ("Tavg", 1.0),
    "temperature_min": ("Tmin", 1.0),
    "temperature_max": ("Tmax", 1.0),
}
"""Name in the record: name in the file and what makes its unit that of the record."""


def severson_split() -> dict[str, str]:
    """Which of the 124 cells trains and which tests, by name, in the order of the batches."""
    names = [f"{batch}c{k}" for batch, count in BATCHES.values() for k in range(count)]
    names = [name for name in names if name not in left_out()]
    first = len(names) - 40
    split = ["train" if k % 2 and k < first - 1 else "test1" for k in range(first)] + ["test2"] * 40
    return dict(zip(names, split, strict=True))


def left_out() -> set[str]:
    """Cells that are none of the 124: unfinished, noisy, or the continuation of another one."""
    return {*UNFINISHED, *NOISY, *(name for name, _ in CONTINUED.values())}


@dataclass(frozen=True)
class MatrBatches(CellSource):
    """The batches in a folder, or one of them, as a record of early cycles.

    Args:
        path: of the folder or of one ``.mat`` file whose name holds the date of the batch; relative paths start at the
            data root.
        cycles: the last one kept; the first is 2, because cycle 1 is often a stub.
        points: of the charge curves.
        current: unit of the current in the files.
        time: unit of the time in the files.
    """

    path: str
    cycles: int = 100
    points: int = 400
    current: str = "h-1"
    time: str = "min"

    @cached_property
    def record(self) -> xr.Dataset:
        """The whole record, in memory."""
        numbers = range(2, self.cycles + 1)
        return samples_record(self._cells(), numbers, VOLTAGES, self.points, Units(self.current, self.time))

    def _cells(self) -> Iterator[CellSamples]:
        for file, batch in self._files():
            try:
                with h5py.File(file) as opened:
                    yield from _read_batch(opened, batch, self.cycles)
            except (OSError, KeyError, AttributeError, IndexError, TypeError) as error:
                raise InputError(f"{file} is not a whole batch of MATR in MATLAB v7.3 ({error}); {GET}") from error

    def _files(self) -> list[tuple[Path, str]]:
        path = find_file(self.path, GET)
        files = sorted(path.glob("*.mat")) if path.is_dir() else [path]
        dated = [(file, re.sub(r"\D", "", file.stem)[:8]) for file in files]
        known = [(file, BATCHES[date][0]) for file, date in dated if date in BATCHES]
        if not known:
            raise InputError(f"{path}: expected .mat files named after {', '.join(BATCHES)}, found none; {GET}")
        return sorted(known, key=lambda pair: pair[1])


def _read_batch(file: h5py.File, batch: str, last: int) -> Iterator[CellSamples]:
    """The cells of a file that are among the 124, one after the other."""
    group, split = file["batch"], severson_split()
    for k in range(len(group["summary"])):
        name = f"{batch}c{k}"
        if name not in split:
            continue
        summary = file[group["summary"][k, 0]]
        numbers = np.arange(1, np.size(summary["QDischarge"]) + 1)
        extra = CONTINUED.get(name, ("", 0))[1]
        yield CellSamples(
            name,
            _cycles(file, file[group["cycles"][k, 0]], last),
            NOMINAL,
            float(np.ravel(file[group["cycle_life"][k, 0]])[0]) + extra,
            len(numbers) + extra,
            {
                "policy": _text(file, group["policy_readable"][k, 0]).removesuffix("-newstructure"),
                "barcode": _text(file, group["barcode"][k, 0]) if "barcode" in group else "",
                "batch": batch,
                "split": split[name],
            },
            {
                ours: dict(zip(numbers.tolist(), (factor * np.ravel(summary[theirs])).tolist(), strict=True))
                for ours, (theirs, factor) in SUMMARIES.items()
            },
        )


def _cycles(file: h5py.File, group: h5py.Group, last: int) -> dict[int, CycleSamples]:
    """Cycles 2 to `last`; the first entry of the file is cycle 1."""
    references = {name: group[name][:, 0] for name in ("t", "V", "I", "T", "Qc", "Qd", "Qdlin", "Tdlin")}
    found = {}
    for k in range(1, min(last, len(references["t"]))):
        logged = {name: np.asarray(np.ravel(file[of[k]]), np.float64) for name, of in references.items()}
        grid = np.full((2, len(VOLTAGES)), np.nan)  # a stub: found and repaired like any other bad cycle
        if len(logged["Qdlin"]) == len(VOLTAGES):
            grid = np.stack([logged["Qdlin"], logged["Tdlin"]])
        time, voltage, current, warmth, charged, given = (logged[n] for n in ("t", "V", "I", "T", "Qc", "Qd"))
        found[k + 1] = CycleSamples(time, voltage, current, warmth, charged, given, grid)
    return found


def _text(file: h5py.File, reference: Any) -> str:
    """A MATLAB string: UTF-16 code units."""
    return "".join(chr(int(unit)) for unit in np.ravel(file[reference])).strip()
