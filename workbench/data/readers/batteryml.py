"""Cells as BatteryML keeps them, one pickle of plain dictionaries each: the Source of the recipe `batteryml`.

A pickle may run code when it is opened. Here it is read by an unpickler that knows containers, numbers and NumPy
arrays and refuses everything else before it runs.

Source: Zhang et al. 2024, BatteryML (ICLR), https://github.com/microsoft/BatteryML.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.data.battery import CellSource
from workbench.data.cell_samples import CAPACITIES, CellSamples, CycleSamples, Units, life, samples_record
from workbench.data.readers.local import find_file
from workbench.data.readers.matr_batches import severson_split
from workbench.errors import InputError

GET = "BatteryML's preprocess command writes one file a cell, such as MATR_b1c0.pkl"
_KNOWN = {
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "set"),
    ("builtins", "int"),
    ("builtins", "float"),
    ("collections", "OrderedDict"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
} | {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
}


class _Plain(pickle.Unpickler):
    """Knows plain containers and NumPy arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # bytes of arrays in old protocols
            return lambda text, encoding: str(text).encode("latin1")
        if (module, name) not in _KNOWN:
            raise InputError(f"it would run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


@dataclass(frozen=True)
class BatteryML(CellSource):
    """The cells in a folder, or one of them, as a record of early cycles.

    Args:
        path: of the folder or of one ``.pkl`` file; relative paths start at the data root.
        cycles: the last one kept; the first is 2.
        points: of the charge curves; discharges have 1000.
        high: first voltage of the discharge curves, V.
        low: last one.
        current: unit of ``current_in_A``: files of MATR hold C-rates (h-1) there.
        time: unit of ``time_in_s``: files of MATR hold minutes there.
    """

    path: str
    cycles: int = 100
    points: int = 400
    high: float = 3.5
    low: float = 2.0
    current: str = "A"
    time: str = "s"

    @cached_property
    def record(self) -> xr.Dataset:
        """The whole record, in memory."""
        voltages = np.linspace(self.high, self.low, 1000)
        units = Units(self.current, self.time)
        return samples_record(self._cells(units), range(2, self.cycles + 1), voltages, self.points, units)

    def _cells(self, units: Units) -> Iterator[CellSamples]:
        path = find_file(self.path, GET)
        files = sorted(path.glob("*.pkl")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path} holds no .pkl file; {GET}")
        for file in files:
            content = read_plain_pickle(file)
            try:
                yield _cell(content, units)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"{file} is not a cell of BatteryML: expected a dictionary with cell_id, cycle_data and "
                    f"nominal_capacity_in_Ah ({type(error).__name__}: {error})"
                ) from error


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain containers and arrays holds; nothing in it is executed.

    Raises:
        InputError: it holds anything else, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            return _Plain(file).load()
    except InputError as error:
        raise InputError(
            f"{path} is a pickle that holds code, not only numbers ({error}): refused, nothing was executed. Ask for "
            "the dictionary that BatteryData.dump writes"
        ) from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no pickle, or damaged: {error}") from error


def _cell(content: Mapping[str, Any], units: Units) -> CellSamples:
    name, nominal = str(content["cell_id"]), float(content["nominal_capacity_in_Ah"])
    cycles = {int(c["cycle_number"]): c for c in content["cycle_data"]}
    capacity = {k: _largest(c["discharge_capacity_in_Ah"]) * CAPACITIES[units.capacity] for k, c in cycles.items()}
    labels = {"policy": _policy(content.get("charge_protocol"))}
    split = severson_split().get(name.removeprefix("MATR_"), "") if name.startswith("MATR_") else ""
    return CellSamples(
        name,
        {k: _samples(c) for k, c in cycles.items()},
        nominal,
        life(capacity, nominal),
        max(cycles),
        labels | {"split": split},
        {"capacity": capacity},
    )


def _samples(cycle: Mapping[str, Any]) -> CycleSamples:
    names = ("time_in_s", "voltage_in_V", "current_in_A")
    time, voltage, current = (np.asarray(cycle[name], np.float64) for name in names)
    warmth = cycle.get("temperature_in_C")
    temperature = np.full(len(time), np.nan) if warmth is None or not len(warmth) else np.asarray(warmth, np.float64)
    charged, discharged = (np.asarray(cycle[f"{way}_capacity_in_Ah"], np.float64) for way in ("charge", "discharge"))
    return CycleSamples(time, voltage, current, temperature, charged, discharged)


def _largest(values: Any) -> float:
    return float(np.nanmax(values)) if values is not None and len(values) else float("nan")


def _policy(protocol: Sequence[Mapping[str, Any]] | None) -> str:
    """``5C(67%)-4C`` of two steps by C-rate, ``4C`` of one, nothing of others."""
    steps = [step for step in protocol or () if step.get("rate_in_C")]
    if len(steps) == 1:
        return f"{steps[0]['rate_in_C']:g}C"
    if len(steps) > 1 and steps[0].get("end_soc"):
        return f"{steps[0]['rate_in_C']:g}C({100 * steps[0]['end_soc']:g}%)-{steps[1]['rate_in_C']:g}C"
    return ""
