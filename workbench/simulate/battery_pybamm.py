"""Ageing cells by PyBaMM as the source of a dataset: a physics-based set of a few cells (the extra ``pybamm``).

The single-particle model with electrolyte of an LG M50 cell (5 Ah, NMC/graphite-SiOx, isothermal) with growing SEI,
irreversible lithium plating and active material lost by stress. Ageing is accelerated, so that lives are tens of
cycles: SEI diffusivity x 100, loss of active material x 300, plating x 0.2.

Source: Sulzer et al. 2021, J. Open Res. Softw. 9, 14 (PyBaMM); O'Kane et al. 2022, Phys. Chem. Chem. Phys. 24, 7909
(parameters and losses).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from workbench.data.battery import END_OF_LIFE, CellSource
from workbench.data.cell_samples import CellSamples, CycleSamples, Units, life, samples_record, since_begin
from workbench.data.charge_policy import FAST_UNTIL, ChargePolicy
from workbench.errors import InputError

NOMINAL = 5.0
"""Ah."""
VOLTAGES = (4.2, 2.5)
BLOCK = 10
"""Cycles that are solved at once; the capacity is looked at between them."""
ACCELERATION = {
    "SEI solvent diffusivity [m2.s-1]": 100.0,
    "Negative electrode LAM constant proportional term [s-1]": 300.0,
    "Positive electrode LAM constant proportional term [s-1]": 300.0,
    "Lithium plating kinetic rate constant [m.s-1]": 0.2,
}
SPREAD = 0.15
"""Standard deviation of the logarithm of each of these rates from cell to cell."""


@dataclass(frozen=True)
class PybammCells(CellSource):
    """Cells of random two-step policies up to 80 % of charge, discharged with 1C, from new to the end of life.

    Args:
        count: how many cells.
        cycles: how many of the first ones the record holds, from cycle 1.
        points: of charge curves and of discharge curves.
        most_cycles: cells that live longer are censored.
        seed: of policies and rates of ageing.

    Raises:
        InputError: a parameter is out of range, or PyBaMM is not installed.
    """

    count: int = 2
    cycles: int = 10
    points: int = 200
    most_cycles: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.cycles < 2 or self.points < 10 or self.most_cycles < self.cycles:
            raise InputError(
                f"count is {self.count}, cycles {self.cycles}, points {self.points}, most_cycles {self.most_cycles}: "
                "expected at least 1, 2, 10, and as many as cycles"
            )

    @cached_property
    def record(self) -> xr.Dataset:
        """The whole record, in memory."""
        record = samples_record(
            self._cells(), range(1, self.cycles + 1), np.linspace(*VOLTAGES, self.points), self.points, Units()
        )
        return record.assign_attrs(source=f"PyBaMM {_pybamm().__version__}, SPMe, OKane2022, accelerated ageing")

    def _cells(self) -> Iterator[CellSamples]:
        for k in range(self.count):
            random = np.random.default_rng([self.seed, k])
            first, switch, second = random.uniform(0.6, 1.6), random.uniform(0.2, 0.5), random.uniform(0.5, 1.0)
            policy = ChargePolicy(round(first, 1), round(switch, 2), round(second, 1))
            rates = {name: factor * np.exp(SPREAD * random.standard_normal()) for name, factor in ACCELERATION.items()}
            cycles = self._life(policy, rates)
            capacity = {number: float(cycle.discharged.max()) for number, cycle in cycles.items()}
            yield CellSamples(
                f"p{k}",
                cycles,
                NOMINAL,
                life(capacity, NOMINAL),
                max(cycles),
                {"policy": str(policy)},
                {"capacity": capacity},
            )

    def _life(self, policy: ChargePolicy, rates: dict[str, float]) -> dict[int, CycleSamples]:
        """Cycles until the end of life, or `most_cycles`."""
        pybamm = _pybamm()
        model = pybamm.lithium_ion.SPMe(
            {
                "SEI": "solvent-diffusion limited",
                "lithium plating": "irreversible",
                "particle mechanics": "swelling only",
                "loss of active material": "stress-driven",
            }
        )
        parameters = pybamm.ParameterValues("OKane2022")
        parameters.update({name: factor * parameters[name] for name, factor in rates.items()})
        experiment = pybamm.Experiment([_steps(policy)] * BLOCK, period="30 seconds")
        found: dict[int, CycleSamples] = {}
        solution = None
        while len(found) < self.most_cycles:
            simulation = pybamm.Simulation(
                model, parameter_values=parameters, experiment=experiment, solver=pybamm.IDAKLUSolver(rtol=1e-5)
            )
            start: dict[str, Any] = {"initial_soc": 0.0}
            if solution is not None:
                start = {"starting_solution": solution.last_state}
            solution = simulation.solve(calc_esoh=False, **start)
            for cycle in [c for c in solution.cycles if c is not None][-BLOCK:]:
                found[len(found) + 1] = _samples(cycle)
            if found[len(found)].discharged.max() < END_OF_LIFE * NOMINAL:
                break
        return found


def _steps(policy: ChargePolicy) -> tuple[str, ...]:
    high, low = VOLTAGES
    seconds = [3600 * policy.switch / policy.first, 3600 * (FAST_UNTIL - policy.switch) / policy.second]
    return (
        f"Charge at {policy.first}C for {seconds[0]:.0f} seconds or until {high} V",
        f"Charge at {policy.second}C for {seconds[1]:.0f} seconds or until {high} V",
        f"Charge at 0.3C until {high} V",
        f"Hold at {high} V until C/20",
        f"Discharge at 1C until {low} V",
    )


def _samples(cycle: Any) -> CycleSamples:
    """What a cycler would have logged of a solved cycle."""
    names = (
        "Time [s]",
        "Voltage [V]",
        "Current [A]",
        "Volume-averaged cell temperature [C]",
        "Discharge capacity [A.h]",
    )
    time, voltage, current, temperature, counter = (np.asarray(cycle[name].entries, np.float64) for name in names)
    charged, discharged = since_begin(counter, current < 0), since_begin(counter, current > 0)
    return CycleSamples(time - time[0], voltage, -current, temperature, charged, discharged)


def _pybamm() -> Any:
    """PyBaMM, without its telemetry.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("PYBAMM_DISABLE_TELEMETRY", "true")
    try:
        import pybamm
    except ImportError as error:
        raise InputError("this dataset needs PyBaMM: pip install 'workbench-surrogates[pybamm]'") from error
    return pybamm
