"""Ageing battery cells as the source of a dataset: early charges and discharges of cells whose life is known.

All cells are charged by two-step policies and discharged with 4C, as in the MATR data set, and age by the model of
`workbench.simulate.battery_cell`. The cycles that the record holds are computed one by one; after them each computed
cycle stands for `JUMP`, with the same losses, until every cell gives less than 80 % of its nominal capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.data.battery import CAPACITY_RATIO, CELL, END_OF_LIFE, VOLTAGE, CellSource, battery_record
from workbench.data.charge_policy import FAST_UNTIL, ChargePolicy
from workbench.errors import InputError
from workbench.simulate.battery_cell import LIMITS, NOMINAL, Cells, HalfCycle, charge, discharge, fresh_cells

JUMP = 10
"""Cycles that one computed cycle stands for after the recorded ones."""
NOISE = {"charge_voltage": 5e-4, "charge_current": 2e-3, "charge_temperature": 0.05} | {
    "discharge_capacity": 1e-4,
    "discharge_temperature": 0.05,
}
"""Standard deviation of what is measured, in the units of each variable."""
MINUTES = (9.0, 13.4)
"""To 80 % of charge: the range of the policies."""


@dataclass(frozen=True)
class BatteryAgeing(CellSource):
    """Cells of new policies, two cells each, from the first cycle to the end of life.

    A cell depends on its number and the seed alone, not on how many there are. Cells of every third policy are
    labelled ``test2``, of the others one of two ``train`` and one ``test1``.

    Args:
        count: how many cells.
        cycles: how many of the first ones the record holds, from cycle 1.
        points: of charge curves and of discharge curves.
        most_cycles: cells that live longer are censored.
        seed: of cells, policies and noise.

    Raises:
        InputError: a parameter is out of range.
    """

    count: int = 8
    cycles: int = 40
    points: int = 200
    most_cycles: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "count": (self.count >= 1, "at least 1"),
            "cycles": (self.cycles >= 2, "at least 2"),
            "points": (self.points >= 10, "at least 10"),
            "most_cycles": (self.most_cycles >= self.cycles, f"at least the {self.cycles} cycles recorded"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise InputError(f"{name} is {getattr(self, name)}: expected {rule}")

    @cached_property
    def policies(self) -> list[ChargePolicy]:
        """Of each cell: to 80 % of charge in 9 to 13.4 minutes, the steps at most 8C and between 3C and 6C."""
        return [_policy(self._random(f"policy {k // 2}")) for k in range(self.count)]

    def _random(self, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, *name.encode()])

    @cached_property
    def record(self) -> xr.Dataset:
        """The whole record, in memory."""
        voltages = np.linspace(3.5, LIMITS[0], self.points)
        curves, summaries, life, observed = self._run(voltages)
        for k in range(self.count):
            random = np.random.default_rng(self._random(f"noise {k}"))
            for name, deviation in NOISE.items():
                curves[name][k] += deviation * random.standard_normal(curves[name][k].shape)
        parts = ["test2" if k // 2 % 3 == 2 else ("train", "test1")[k % 2] for k in range(self.count)]
        return battery_record(
            curves,
            {VOLTAGE: voltages, CAPACITY_RATIO: np.linspace(0, 1, self.points)},
            np.arange(1, self.cycles + 1),
            {CELL: [f"s{k}" for k in range(self.count)], "policy": [str(p) for p in self.policies], "split": parts},
            life,
            observed_cycles=observed,
            nominal_capacity=NOMINAL,
            summaries=summaries,
            attrs={"source": f"reduced-order ageing model, workbench {__version__}"},
        )

    def _run(self, voltages: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Curves and summaries of the recorded cycles, lives, and cycles seen."""
        cells = fresh_cells([self._random(f"cell {k}") for k in range(self.count)])
        first, switch, second = np.array([(p.first, p.switch, p.second) for p in self.policies]).T
        curves: list[dict[str, np.ndarray]] = []
        summaries: list[dict[str, np.ndarray]] = []
        life, before, number, leap = np.full(self.count, np.nan), np.full(self.count, np.inf), 0, 1
        while number < self.most_cycles and np.isnan(life).any():
            start = cells.losses
            filled = charge(cells, first, switch, second, until=FAST_UNTIL)
            emptied = discharge(cells)
            number += leap
            capacity = emptied.moved[-1]
            if number <= self.cycles:
                curves.append(_curves(filled, emptied, voltages))
                summaries.append(_summary(filled, emptied, cells))
            _note_life(life, before, capacity, number, leap)
            before, leap = capacity, 1 if number < self.cycles else JUMP
            cells.age(leap - 1, cells.losses - start, np.isnan(life))
        wanting = self.cycles - len(curves)
        for rows in (curves, summaries):
            rows += [{name: np.full_like(v, np.nan) for name, v in rows[-1].items()}] * wanting  # all cells are dead
        by_cycle, summary = (
            {n: np.stack([row[n] for row in rows], 1) for n in rows[0]} for rows in (curves, summaries)
        )
        return by_cycle, summary, life, np.where(np.isnan(life), number, life)


def _policy(seed: np.random.SeedSequence) -> ChargePolicy:
    """Draw until the second step fits the time."""
    random = np.random.default_rng(seed)
    while True:
        first, switch = round(random.uniform(3.6, 8), 1), round(random.uniform(0.1, 0.7), 2)
        left = random.uniform(*MINUTES) / 60 - switch / first
        second = round((FAST_UNTIL - switch) / left, 1) if left > 0 else 0.0
        if 3 <= second <= 6:
            return ChargePolicy(first, switch, second)


def _note_life(life: np.ndarray, before: np.ndarray, capacity: np.ndarray, number: int, leap: int) -> None:
    """The first cycle below 80 % of the nominal capacity, where this is it: linear between two computed cycles."""
    limit = END_OF_LIFE * NOMINAL
    died = np.isnan(life) & (capacity < limit)
    with np.errstate(invalid="ignore"):
        share = np.where(np.isfinite(before), (before - limit) / (before - capacity), 1.0)
    life[died] = np.ceil(number - leap + leap * share)[died]


def _curves(filled: HalfCycle, emptied: HalfCycle, voltages: np.ndarray) -> dict[str, np.ndarray]:
    """Those of one cycle, ``float64[cell, point]``."""
    ratio = np.linspace(0, 1, len(voltages))
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*NOISE, "charge_elapsed")}
    for k in range(filled.moved.shape[1]):
        share = filled.moved[:, k] / filled.moved[-1, k]
        found["charge_voltage"].append(np.interp(ratio, share, filled.voltage[:, k]))
        found["charge_current"].append(np.interp(ratio, share, filled.current[:, k] / NOMINAL))
        found["charge_temperature"].append(np.interp(ratio, share, filled.temperature[:, k]))
        found["charge_elapsed"].append(np.interp(ratio, share, 3600 * filled.hours[:, k]))
        falling = -np.minimum.accumulate(emptied.voltage[:, k])
        found["discharge_capacity"].append(np.interp(-voltages, falling, emptied.moved[:, k]))
        found["discharge_temperature"].append(np.interp(-voltages, falling, emptied.temperature[:, k]))
    return {name: np.stack(values) for name, values in found.items()}


def _summary(filled: HalfCycle, emptied: HalfCycle, cells: Cells) -> dict[str, np.ndarray]:
    temperature = np.concatenate([filled.temperature, emptied.temperature])
    return {
        "capacity": emptied.moved[-1],
        "internal_resistance": cells.resistance_now,
        "charge_time": 3600 * filled.hours[-1],
        "temperature_min": temperature.min(0),
        "temperature_max": temperature.max(0),
    }
