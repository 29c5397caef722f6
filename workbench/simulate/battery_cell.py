"""A reduced-order LFP/graphite cell that ages: one charge and discharge of many cells at once, in steps of charge.

Lithium (Ah) is in the graphite, in the LFP, or lost; what the current carries goes from one electrode to the other.
Each electrode has one stoichiometry and a surface that follows the current with a first-order lag; the cell has one
temperature. Within a cycle, four losses go on:

- SEI: growth that its own thickness slows down, faster where the graphite is at a low potential and where it is warm;
- plating: a softplus of the potential of the graphite against lithium, which fast charge drives below zero;
- active graphite lost by fast charge;
- resistance, which grows with the lithium lost.

They feed each other: less graphite and more resistance lower the potential of the graphite, and plating sets in.

Source: Safari & Delacourt 2011, J. Electrochem. Soc. 158, A562 (ageing of LFP/graphite cells); Srinivasan &
Newman 2004, J. Electrochem. Soc. 151, A1517 (shrinking core of LFP); Yang et al. 2017,
J. Power Sources 360, 28 (plating and the knee); Bernardi et al. 1985, J. Electrochem. Soc. 132, 5 (heat). Parameters
are chosen for lives as in Severson et al. 2019, not fitted to a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NOMINAL = 1.1
"""Ah."""
LIMITS = (2.0, 3.6)
"""V: end of the discharge, and what the charge does not exceed."""
CUT_OFF = 0.02 * NOMINAL
"""A: the charge ends when the current at the upper limit has fallen to it."""
DISCHARGE = 4.0 * NOMINAL
AMBIENT = 30.0
"""degC."""
STEP, SMALLEST, SHARE = 0.02 * NOMINAL, 3e-4 * NOMINAL, 0.2
"""Ah moved in a step: at most this share of what has been moved or of what an electrode can still give or take."""
THERMAL_VOLTAGE = 0.0261
"""RT/F at the ambient temperature, V."""
LAG = 0.05
"""Hours in which a surface follows the current."""
GRADIENT = 0.016
"""Hours: stoichiometry of a surface beyond the mean one, over the C-rate of its electrode."""
COOLING = 0.1
"""Hours in which the cell takes the temperature around it."""
HEAT_CAPACITY = 0.0125
"""Wh/K."""
ACTIVATION = 0.045
"""Growth of the rates of SEI and of loss of graphite with temperature, 1/K (about 34 kJ/mol)."""
RESISTANCE_GROWTH = 5.0
"""Growth of the resistance over the share of nominal capacity that is lost as lithium."""
CORE_SHRINKAGE = 1.5
"""Growth of the resistance while the nominal capacity is moved: lithium has further to go in the LFP."""
FILM = 0.3
"""Of the ohmic resistance: what lies between the graphite and where its potential drives losses."""
SEI_POTENTIAL, PLATING_POTENTIAL = 0.15, 0.012
"""V: over which the rates fall by e."""
SEI_THICKNESS = 0.02
"""Ah in the SEI that halve its growth."""
LOSS_POWER = 2.5
"""Of the charge rate, in the loss of graphite."""

_GRID = np.linspace(-0.1, 1.1, 4801)


def graphite_potential(stoichiometry: np.ndarray) -> np.ndarray:
    """Open-circuit potential of graphite against lithium, V: high when empty, two plateaus."""
    x = stoichiometry
    stages = -0.018 * np.tanh((x - 0.22) / 0.04) - 0.022 * np.tanh((x - 0.54) / 0.03)
    return 0.125 + 0.9 * np.exp(-x / 0.018) + 0.09 * np.exp(-x / 0.1) + stages - 0.1 * np.exp((x - 1) / 0.02)


def lfp_potential(stoichiometry: np.ndarray) -> np.ndarray:
    """Open-circuit potential of LFP against lithium, V: flat, high when empty and low when full."""
    y = stoichiometry
    return 3.425 - 0.012 * (y - 0.5) + 0.4 * np.exp(-y / 0.01) - 1.2 * np.exp((y - 1) / 0.012)


_GRAPHITE, _LFP = graphite_potential(_GRID), lfp_potential(_GRID)


@dataclass
class Cells:
    """State of many cells, ``float64[cell]`` each; only what ageing and cycling change lies here.

    Attributes:
        graphite, lfp: capacity of the electrodes, Ah.
        in_graphite, in_lfp: lithium in each, Ah.
        sei, plated: lithium lost, Ah.
        temperature: degC.
        lag: stoichiometry of the surface of the graphite beyond the mean one.
        resistance: fresh, ohm.
        exchange: exchange current of the fresh graphite, A.
        sei_rate, plating_rate, loss_rate: of the losses: Ah/h, A, 1/h at 1C.
    """

    graphite: np.ndarray
    lfp: np.ndarray
    in_graphite: np.ndarray
    in_lfp: np.ndarray
    sei: np.ndarray
    plated: np.ndarray
    temperature: np.ndarray
    lag: np.ndarray
    resistance: np.ndarray
    exchange: np.ndarray
    sei_rate: np.ndarray
    plating_rate: np.ndarray
    loss_rate: np.ndarray

    @property
    def lithium(self) -> np.ndarray:
        """All of it, lost or not: a constant."""
        return self.in_graphite + self.in_lfp + self.sei + self.plated

    @property
    def resistance_now(self) -> np.ndarray:
        """Ohmic resistance as the cell has aged, ohm."""
        return self.resistance * (1 + RESISTANCE_GROWTH * (self.sei + self.plated) / NOMINAL)

    @property
    def losses(self) -> np.ndarray:
        """Lithium in the SEI, plated lithium, graphite that is left: what a cycle changes, ``[3, cell]``."""
        return np.stack([self.sei, self.plated, self.graphite])

    def age(self, cycles: int, change: np.ndarray, alive: np.ndarray) -> None:
        """Repeat the `change` of the losses in one cycle so many times, in the cells that are `alive`.

        Lithium is lost from the graphite, and as much moves there from the LFP as keeps a discharged cell discharged.
        """
        sei, plated, graphite = np.where(alive, cycles * change, 0.0)
        self.sei, self.plated, self.graphite = self.sei + sei, self.plated + plated, self.graphite + graphite
        self.in_lfp = self.in_lfp - sei - plated


@dataclass(frozen=True)
class HalfCycle:
    """A charge or a discharge of all cells, ``[step, cell]``; a cell that has ended repeats its last sample.

    Attributes:
        moved: charge since it began, Ah.
        voltage: V.
        current: A, positive in both directions.
        temperature: degC.
        hours: since it began.
    """

    moved: np.ndarray
    voltage: np.ndarray
    current: np.ndarray
    temperature: np.ndarray
    hours: np.ndarray


def fresh_cells(seeds: list[np.random.SeedSequence]) -> Cells:
    """New discharged cells, one a seed, with a lognormal spread of capacities, resistance and rates of ageing."""
    spread = (0.004, 0.004, 0.004, 0.03, 0.04, 0.15, 0.25, 0.20)
    typical = (1.32, 1.26, 1.145, 0.012, 3.2, 2.6e-4, 2.8e-2, 3.2e-5)
    drawn = np.array([typical * np.exp(spread * np.random.default_rng(s).standard_normal(8)) for s in seeds]).T
    graphite, lfp, lithium, resistance, exchange, sei, plating, loss = drawn
    zero = np.zeros(len(seeds))
    start = 0.02 * lithium
    return Cells(
        graphite, lfp, start, lithium - start, zero.copy(), zero.copy(), zero + AMBIENT, zero.copy(), resistance,
        exchange, sei, plating, loss,
    )  # fmt: skip


def charge(cells: Cells, first: np.ndarray, switch: np.ndarray, second: np.ndarray, until: float) -> HalfCycle:
    """Charge in two steps of constant current, then with 1C, at the upper limit of voltage with less.

    Args:
        cells: changed by it.
        first: C-rate of the first step.
        switch: of the nominal capacity, where the second step begins.
        second: its C-rate.
        until: of the nominal capacity, where 1C begins.
    """

    def wanted(moved: np.ndarray) -> np.ndarray:
        share = moved / NOMINAL
        return NOMINAL * np.where(share < switch, first, np.where(share < until, second, 1.0))

    return _half_cycle(cells, wanted, 1.0)


def discharge(cells: Cells) -> HalfCycle:
    """Discharge with 4C to the lower limit of voltage."""
    current = np.full(len(cells.graphite), DISCHARGE)
    return _half_cycle(cells, lambda moved: current, -1.0)


def _half_cycle(cells: Cells, wanted: Callable[[np.ndarray], np.ndarray], sign: float) -> HalfCycle:
    """March all cells until the last one ends; `wanted` is the current in A by the charge moved, `sign` its way."""
    count = len(cells.graphite)
    moved, hours = np.zeros(count), np.zeros(count)
    active = np.ones(count, bool)
    rows: list[np.ndarray] = []
    ohmic, exchange = _kinetics(cells)
    while active.any():
        current = wanted(moved)
        resistance = ohmic * (1 + CORE_SHRINKAGE * moved / NOMINAL)
        equilibrium, graphite = _open_circuit(cells)
        voltage = equilibrium + sign * _overpotential(current, resistance, exchange)
        if sign > 0 and (above := voltage > LIMITS[1]).any():
            held = _current_at(LIMITS[1] - equilibrium, current, resistance, exchange)
            current, voltage = np.where(above, held, current), np.minimum(voltage, LIMITS[1])
        ended = current < CUT_OFF if sign > 0 else voltage < LIMITS[0]
        sample = np.stack([moved, voltage, current, cells.temperature, hours])
        if rows:
            before = rows[-1]
            if (ending := active & ended).any():
                sample = _until_the_end(before, sample, ended, sign)
                excess = np.where(ending, sign * (moved - sample[0]), 0.0)
                cells.in_graphite, cells.in_lfp = cells.in_graphite - excess, cells.in_lfp + excess
            sample = np.where(active, sample, before)
        rows.append(sample)
        active = active & ~ended
        amount = np.where(active, _step(cells, moved, sign), 0.0)
        duration = amount / current
        _advance(cells, sign * amount, sign * current, duration, voltage - equilibrium, graphite, ohmic, exchange)
        moved, hours = moved + amount, hours + duration
    return HalfCycle(*np.stack(rows, 1))


def _step(cells: Cells, moved: np.ndarray, sign: float) -> np.ndarray:
    """Ah of the next step: small where the potentials are steep, at both ends of each electrode."""
    if sign > 0:
        room = np.minimum(cells.in_lfp, cells.graphite - cells.in_graphite)
    else:
        room = np.minimum(cells.in_graphite, cells.lfp - cells.in_lfp)
    return np.clip(SHARE * np.minimum(room, moved), SMALLEST, STEP)


def _until_the_end(before: np.ndarray, sample: np.ndarray, ended: np.ndarray, sign: float) -> np.ndarray:
    """A sample, in cells that have ended the one at the limit itself, between it and the one before."""
    row, limit = (2, CUT_OFF) if sign > 0 else (1, LIMITS[0])
    way = np.where(ended, before[row] - sample[row], 1.0)
    share = np.where(ended, np.clip((before[row] - limit) / np.maximum(way, 1e-9), 0, 1), 1.0)
    return before + share * (sample - before)


def _kinetics(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Ohmic resistance and exchange current of the graphite, as the cell has aged."""
    return cells.resistance_now, cells.exchange * cells.graphite / (1.2 * NOMINAL)


def _open_circuit(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Equilibrium voltage at the surfaces, and the part of it that is the graphite's potential."""
    graphite = np.interp(cells.in_graphite / cells.graphite + cells.lag, _GRID, _GRAPHITE)
    return np.interp(cells.in_lfp / cells.lfp, _GRID, _LFP) - graphite, graphite


def _charge_transfer(current: np.ndarray, exchange: np.ndarray) -> np.ndarray:
    """Butler-Volmer overpotential of the graphite with equal transfer coefficients, V."""
    return 2 * THERMAL_VOLTAGE * np.arcsinh(current / (2 * exchange))


def _overpotential(current: np.ndarray, resistance: np.ndarray, exchange: np.ndarray) -> np.ndarray:
    return current * resistance + _charge_transfer(current, exchange)


def _current_at(drop: np.ndarray, start: np.ndarray, resistance: np.ndarray, exchange: np.ndarray) -> np.ndarray:
    """The current whose overpotential is `drop`, by three steps of Newton; not below a hundredth of the cut-off."""
    current = start
    for _ in range(3):
        slope = resistance + 2 * THERMAL_VOLTAGE / np.sqrt(current**2 + 4 * exchange**2)
        current = current - (_overpotential(current, resistance, exchange) - drop) / slope
    return np.maximum(current, CUT_OFF / 100)


def _advance(
    cells: Cells,
    amount: np.ndarray,
    current: np.ndarray,
    hours: np.ndarray,
    overpotential: np.ndarray,
    graphite: np.ndarray,
    resistance: np.ndarray,
    exchange: np.ndarray,
) -> None:
    """Move charge (Ah, positive into the graphite) with a current (A) and let the losses of that time go on."""
    warm = np.exp(ACTIVATION * (cells.temperature - AMBIENT))
    potential = graphite - _charge_transfer(current, exchange) - FILM * resistance * current
    sei = cells.sei_rate * warm * np.exp(-potential / SEI_POTENTIAL) / (1 + cells.sei / SEI_THICKNESS) * hours
    plated = cells.plating_rate * np.logaddexp(0, -potential / PLATING_POTENTIAL) * hours
    charging = current > 0
    rate = np.where(charging, current / cells.graphite, 0.0)
    plated = np.where(charging, plated, 0.0)
    cells.graphite = cells.graphite * (1 - cells.loss_rate * warm * rate**LOSS_POWER * hours)
    cells.sei, cells.plated = cells.sei + sei, cells.plated + plated
    cells.in_graphite = cells.in_graphite + amount - sei - plated
    cells.in_lfp = cells.in_lfp - amount
    kept = np.exp(-hours / LAG)
    cells.lag = kept * cells.lag + (1 - kept) * GRADIENT * current / cells.graphite
    kept, heat = np.exp(-hours / COOLING), np.abs(current * overpotential) * COOLING / HEAT_CAPACITY
    cells.temperature = kept * cells.temperature + (1 - kept) * (AMBIENT + heat)
