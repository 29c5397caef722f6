"""From what a cycler logged to curves: the charge against its share of charge, the discharge against voltage.

Readers of foreign files hand over samples in the files' own units; the units that they claim are checked against
conservation of charge, so that minutes taken for seconds, C-rates for amperes or mAh for Ah are found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from workbench.data.battery import CAPACITY_RATIO, CELL, END_OF_LIFE, VOLTAGE, battery_record
from workbench.errors import InputError

HOURS = {"s": 1 / 3600, "min": 1 / 60, "h": 1.0}
CURRENTS = ("A", "h-1")
CAPACITIES = {"Ah": 1.0, "mAh": 1e-3}
RESTING = 0.005
"""C-rate below which a cell neither charges nor discharges."""
BALANCE = 0.2
"""How far the logarithm of the charge passed over the capacity logged may be from 0: sampling is coarse at times."""
SAMPLES = 5
"""Fewer samples of a charge or discharge are none."""
CHARGE = ("charge_voltage", "charge_current", "charge_temperature", "charge_elapsed")
DISCHARGE = ("discharge_capacity", "discharge_temperature")


@dataclass(frozen=True)
class Units:
    """What the files count in.

    Attributes:
        current: ``A``, or ``h-1`` where it is given by the nominal capacity (C-rate).
        time: ``s``, ``min`` or ``h``.
        capacity: ``Ah`` or ``mAh``.

    Raises:
        InputError: another unit.
    """

    current: str = "A"
    time: str = "s"
    capacity: str = "Ah"

    def __post_init__(self) -> None:
        known = {"current": CURRENTS, "time": tuple(HOURS), "capacity": tuple(CAPACITIES)}
        for name, units in known.items():
            if getattr(self, name) not in units:
                raise InputError(f"{name} is in '{getattr(self, name)}': expected one of {', '.join(units)}")

    def charge(self, nominal: float) -> float:
        """Ah in one unit of current times one unit of time, at a nominal capacity in Ah."""
        return HOURS[self.time] * (nominal if self.current == "h-1" else 1.0)


@dataclass(frozen=True)
class CycleSamples:
    """One cycle as it was logged, ``[sample]`` each, in the files' units; voltage in V, temperature in degC.

    Attributes:
        time: rising.
        voltage: of the cell.
        current: positive where the cell charges.
        temperature: NaN where it was not measured.
        charged: charge taken up in this cycle so far.
        discharged: charge given in this cycle so far.
        discharge: ``[2, point]`` capacity in Ah and temperature on the grid of voltages, where the files hold them.
    """

    time: np.ndarray
    voltage: np.ndarray
    current: np.ndarray
    temperature: np.ndarray
    charged: np.ndarray
    discharged: np.ndarray
    discharge: np.ndarray | None = None


@dataclass(frozen=True)
class CellSamples:
    """One cell.

    Attributes:
        name: of the cell.
        cycles: its cycles by number, from 1: those that the record is to hold, or more.
        nominal_capacity: in Ah.
        cycle_life: NaN where it did not reach its end of life.
        observed_cycles: that it was seen to run.
        labels: ``policy``, ``split``, ``batch``, ``barcode``, as far as they are known.
        summaries: value of each cycle by name and number, in the units of `workbench.data.battery.SUMMARIES`.
    """

    name: str
    cycles: Mapping[int, CycleSamples]
    nominal_capacity: float
    cycle_life: float
    observed_cycles: int
    labels: Mapping[str, str] = field(default_factory=dict)
    summaries: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def samples_record(
    cells: Iterable[CellSamples], numbers: Sequence[int], voltages: np.ndarray, points: int, units: Units
) -> xr.Dataset:
    """Cells as one record.

    Args:
        cells: read one after the other.
        numbers: of the cycles to keep.
        voltages: falling, of the discharges.
        points: of the charges.
        units: of the samples.

    Raises:
        InputError: there is no cell, one has fewer than two of the cycles, or its units cannot be true.
    """
    names, curves, found = [], [], []
    for cell in cells:
        kept = {k: cell.cycles[k] for k in numbers if k in cell.cycles}
        if len(kept) < 2:
            raise InputError(
                f"cell '{cell.name}' has {len(kept)} of the cycles {numbers[0]} to {numbers[-1]}: expected at least two"
            )
        check_units(cell, list(kept.values()), units)
        names.append(cell.name)
        curves.append(_curves(cell, kept, numbers, voltages, points, units))
        found.append(cell)
    if not found:
        raise InputError("no cell is left: expected at least one")
    labels = {key for cell in found for key in cell.labels}
    return battery_record(
        {name: np.stack([c[name] for c in curves]) for name in (*CHARGE, *DISCHARGE) if _measured(name, curves)},
        {VOLTAGE: voltages, CAPACITY_RATIO: np.linspace(0, 1, points)},
        np.asarray(numbers),
        {CELL: names} | {key: [cell.labels.get(key, "") for cell in found] for key in labels},
        np.array([cell.cycle_life for cell in found]),
        observed_cycles=np.array([cell.observed_cycles for cell in found]),
        nominal_capacity=np.array([cell.nominal_capacity for cell in found]),
        summaries={
            name: np.array([[cell.summaries[name].get(k, np.nan) for k in numbers] for cell in found])
            for name in found[0].summaries
        },
    )


def charge_curves(cycle: CycleSamples, points: int, units: Units, nominal: float) -> np.ndarray:
    """Voltage (V), current (C-rate), temperature (degC) and time (s) at even shares of the charge taken up.

    Returns:
        ``float64[4, point]``; NaN where the cycle has no charge.
    """
    charging = np.flatnonzero(_rate(cycle, units, nominal) > RESTING)
    charged = np.asarray(cycle.charged, np.float64)[charging]
    rising = _records(charged)  # rests and steps back of the counter are left out
    if len(rising) < SAMPLES:
        return np.full((4, points), np.nan)
    places = charging[rising]
    share = (charged[rising] - charged[rising[0]]) / (charged[rising[-1]] - charged[rising[0]])
    elapsed = (cycle.time - cycle.time[charging[0]]) * 3600 * HOURS[units.time]
    logged = (cycle.voltage, _rate(cycle, units, nominal), cycle.temperature, elapsed)
    return np.stack([np.interp(np.linspace(0, 1, points), share, values[places]) for values in logged])


def discharge_curves(cycle: CycleSamples, voltages: np.ndarray, units: Units, nominal: float) -> np.ndarray:
    """Capacity (Ah) given and temperature (degC) when the falling voltage reaches each of `voltages`.

    Returns:
        ``float64[2, point]``; NaN where the cycle has no discharge.
    """
    if cycle.discharge is not None:
        return cycle.discharge
    places = np.flatnonzero(_rate(cycle, units, nominal) < -RESTING)
    falling = _records(-np.asarray(cycle.voltage, np.float64)[places])
    if len(falling) < SAMPLES:
        return np.full((2, len(voltages)), np.nan)
    given = (cycle.discharged[places] - cycle.discharged[places[0]]) * CAPACITIES[units.capacity]
    axis = -cycle.voltage[places][falling]
    return np.stack([np.interp(-voltages, axis, v[falling]) for v in (given, cycle.temperature[places])])


def life(capacity: Mapping[int, float], nominal: float) -> float:
    """The first cycle that gives less than 80 % of the nominal capacity, NaN where none does.

    A cycle that is followed by one above does not count: it was interrupted.
    """
    numbers = sorted(k for k, value in capacity.items() if np.isfinite(value))
    below = np.array([capacity[k] < END_OF_LIFE * nominal for k in numbers], bool)
    lasting = below & np.append(below[1:], True)
    return float(numbers[int(np.argmax(lasting))]) if lasting.any() else math.nan


def since_begin(counter: np.ndarray, flowing: np.ndarray) -> np.ndarray:
    """Charge passed since the first sample that flows, whichever way the counter counts."""
    if not flowing.any():
        return np.zeros(len(counter))
    begin = counter[np.argmax(flowing)]
    return np.maximum.accumulate(np.where(flowing, np.abs(counter - begin), 0.0))


def check_units(cell: CellSamples, cycles: Sequence[CycleSamples], units: Units) -> None:
    """Refuse samples whose current does not add up to their capacity, or whose voltage or temperature is absurd.

    Raises:
        InputError: they cannot be in the units; the units in which they would be right are named.
    """
    balances = [_passed(cycle) for cycle in cycles]
    ratios = [passed / charged for passed, charged in balances if charged > 0 and passed > 0]
    if not ratios:
        raise InputError(f"no cycle of cell '{cell.name}' charges: expected positive currents where the cell charges")
    ratio = float(np.median(ratios)) * units.charge(cell.nominal_capacity) / CAPACITIES[units.capacity]
    fits = {
        other: abs(math.log(ratio * _factor(other, units, cell.nominal_capacity)))
        for other in (Units(c, t, q) for c in CURRENTS for t in HOURS for q in CAPACITIES)
    }
    best = min(fits, key=lambda other: (fits[other], other != units))
    if fits[units] > BALANCE or fits[best] < fits[units] - 0.04:
        raise InputError(
            f"cell '{cell.name}': the current of a charge adds up to {ratio:.3g} times its capacity with current in "
            f"{units.current}, time in {units.time} and capacity in {units.capacity} at {cell.nominal_capacity:g} Ah: "
            f"expected once; "
            + (
                f"it does with current={best.current}, time={best.time}, capacity={best.capacity}"
                if fits[best] < BALANCE
                else "no usual units make it so; is the nominal capacity right?"
            )
        )
    apart = [np.mean(c.voltage[c.current > 0]) - np.mean(c.voltage[c.current < 0]) for c in cycles if _both_ways(c)]
    if apart and np.median(apart) < 0:
        raise InputError(
            f"cell '{cell.name}' has {-np.median(apart):.3g} V less where its current is positive than where it is "
            "negative: expected positive currents where the cell charges; change their sign"
        )
    voltage = float(np.median([np.median(cycle.voltage) for cycle in cycles]))
    warmth = float(np.median([np.median(cycle.temperature) for cycle in cycles]))
    if not 0.1 < voltage < 10:
        raise InputError(f"cell '{cell.name}' has a median voltage of {voltage:g}: expected that of one cell in V")
    if warmth > 150:
        raise InputError(f"cell '{cell.name}' has a median temperature of {warmth:g}: expected degC, this looks like K")


def _factor(other: Units, units: Units, nominal: float) -> float:
    """By which the charge passed over the capacity changes if the samples are in other units."""
    return (other.charge(nominal) / units.charge(nominal)) * CAPACITIES[units.capacity] / CAPACITIES[other.capacity]


def _passed(cycle: CycleSamples) -> tuple[float, float]:
    """Time integral of the current while the cell charges and what the counter says, both in the files' units."""
    charging = cycle.current > 0
    both = charging[:-1] & charging[1:]  # the way from charge to rest is not known between two samples
    mean = 0.5 * (cycle.current[:-1] + cycle.current[1:])
    passed, counted = (mean * np.diff(cycle.time))[both], np.diff(cycle.charged)[both]
    return float(passed.sum()), float(counted.sum())


def _both_ways(cycle: CycleSamples) -> bool:
    return bool((cycle.current > 0).any() and (cycle.current < 0).any())


def _rate(cycle: CycleSamples, units: Units, nominal: float) -> np.ndarray:
    """Current as C-rate."""
    return np.asarray(cycle.current, np.float64) / (1.0 if units.current == "h-1" else nominal)


def _records(values: np.ndarray) -> np.ndarray:
    """Places at which `values` exceed all before them."""
    if not len(values):
        return np.zeros(0, int)
    highest = np.maximum.accumulate(values)
    return np.flatnonzero(np.append(True, highest[1:] > highest[:-1]))


def _curves(
    cell: CellSamples,
    kept: Mapping[int, CycleSamples],
    numbers: Sequence[int],
    voltages: np.ndarray,
    points: int,
    units: Units,
) -> dict[str, np.ndarray]:
    """Every curve of a cell, ``float32[cycle, point]``."""
    charge = np.full((len(CHARGE), len(numbers), points), np.nan, np.float32)
    discharge = np.full((len(DISCHARGE), len(numbers), len(voltages)), np.nan, np.float32)
    for place, number in enumerate(numbers):
        if number in kept:
            charge[:, place] = charge_curves(kept[number], points, units, cell.nominal_capacity)
            discharge[:, place] = discharge_curves(kept[number], voltages, units, cell.nominal_capacity)
    return dict(zip(CHARGE, charge, strict=True)) | dict(zip(DISCHARGE, discharge, strict=True))


def _measured(name: str, curves: Sequence[Mapping[str, np.ndarray]]) -> bool:
    """Whether every cell has the curve in some cycle."""
    return all(np.isfinite(c[name]).any() for c in curves)
