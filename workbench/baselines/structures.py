"""Forecasts of a structure that need no learning, or little: static solution, few modes, the solver on a coarser mesh.

Each knows the loads, supports and material, as a model does, and of the motion the state at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import xarray as xr

from workbench.baselines.modal import ModalModel, Trajectories, fit_modal
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.starts import Problem
from workbench.errors import InputError
from workbench.simulate.structures import Structures
from workbench.simulate.structures_mesh import COMPONENTS
from workbench.simulate.structures_replay import (
    Conditions,
    Fields,
    Replay,
    State,
    on_record_grid,
    read_conditions,
    source_of,
    vector,
)

COARSER = 2
"""Elements of the record's solver per element of the coarse one, along each axis."""

Compute = Callable[[Sequence[Conditions], Sequence[State]], list[Fields]]
"""Loads and material from each start on, and the state there -> all variables of the record, the start included."""
Predict = Callable[[np.ndarray, np.ndarray], xr.Dataset]
"""``(trajectories, starts)`` -> fields ``(trajectory, init_time, lead_time, *space)`` without coordinates."""


def fit_structures(name: str, problem: Problem) -> tuple[Predict, str]:
    """The baseline called `name` (``quasi_static``, ``modal`` or ``coarse_mesh``), and what it is in words.

    Raises:
        InputError: the record was not made by `workbench.simulate.structures`, or its mesh cannot be halved.
    """
    record = problem.record
    if name == "quasi_static":
        replay = Replay.of(record)
        compute: Compute = lambda cases, starts: [replay.quasi_static(case) for case in cases]  # noqa: E731
        words = "static response to the loads of each instant, K u = f(t) by Hooke's law"
    elif name == "coarse_mesh":
        compute = Replay.of(record, COARSER).march
        words = f"the record's solver on 1/{COARSER} of its elements along each axis, interpolated"
    else:
        model = fit_modes(problem)
        compute, words = partial(modal_fields, model, record), f"linear modal model: {model.definition}"
    return partial(_forecasts, problem, compute), words


def _forecasts(
    problem: Problem,
    compute: Compute,
    trajectories: np.ndarray,
    starts: np.ndarray,
) -> xr.Dataset:
    """Compute every forecast from its start on, and keep the variables and leads that are asked for."""
    record, reach = problem.record, problem.steps * problem.stride
    conditions, states = read_conditions(record, trajectories.tolist()), states_at(record, trajectories, starts)
    pairs = [(k, start) for k in range(len(trajectories)) for start in starts]
    cases = [conditions[k].between(int(start), int(start) + reach) for k, start in pairs]
    fields = compute(cases, states)
    unknown = [name for name in problem.names if name not in fields[0]]
    if unknown:
        raise InputError(
            f"'{unknown[0]}' is forecast, which the baselines of structures (evaluate.baselines) do not know: they "
            f"make {', '.join(fields[0])}"
        )
    shape = (len(trajectories), len(starts), problem.steps)
    return xr.Dataset(
        {
            name: (
                (TRAJECTORY, "init_time", "lead_time", *problem.space(name)),
                np.stack([found[name][problem.stride :: problem.stride] for found in fields])
                .reshape(*shape, *problem.shape(name))
                .astype(np.float32),
            )
            for name in problem.names
        }
    )


def states_at(record: xr.Dataset, trajectories: np.ndarray, starts: np.ndarray) -> list[State]:
    """Displacement and velocity of every trajectory at every start, the starts the faster."""
    axes = COMPONENTS[: int(record.attrs["dimension"])]
    names = [f"{name}_{axis}" for name in ("displacement", "velocity") for axis in axes]
    missing = [name for name in names if name not in record]
    if missing:
        raise InputError(f"the record has no variable '{missing[0]}', which a forecast of its motion starts from")
    chosen = record[names].isel({TRAJECTORY: trajectories, TIME: starts}).compute().assign_attrs(record.attrs)
    u, v = (vector(chosen, name, (TRAJECTORY, TIME)) for name in ("displacement", "velocity"))
    return [(u[k, s], v[k, s]) for k in range(len(trajectories)) for s in range(len(starts))]


# ------------------------------------------------------------------------------------------------------- modal model


def fit_modes(problem: Problem) -> ModalModel:
    """The modal model of the training part; its choices are made on the validation part."""
    train, validation = (_trajectories(problem, name) for name in ("train", "validation"))
    return fit_modal(train, validation)


def _trajectories(problem: Problem, name: str) -> Trajectories:
    """Motions of a part of the record, at the record's own steps, in its longest run."""
    record, part = problem.record, problem.parts[name]
    lo, hi = max(part.runs, key=lambda run: run[1] - run[0])
    states = states_at(record, part.trajectories, np.arange(lo, hi))
    u, v = (np.stack([state[i] for state in states]).reshape(len(part.trajectories), hi - lo, -1) for i in range(2))
    cases = [case.between(lo, hi - 1) for case in read_conditions(record, part.trajectories.tolist())]
    return Trajectories(u, v, _loads(cases, _modulus(source_of(record))), _material(cases))


def _loads(cases: Sequence[Conditions], modulus: float) -> np.ndarray:
    """What drives each case: nodal forces and displacements of the supports, ``[case, time, force]``.

    A modulus brings the displacements to the size of forces, so that both count in the loads' modes.
    """
    forces, moved = (np.stack([getattr(c, name) for c in cases]) for name in ("loads", "prescribed"))
    flat = [part.reshape(*part.shape[:2], -1) for part in (forces, modulus * moved)]
    return np.concatenate(flat, -1)


def _modulus(source: Structures) -> float:
    """In the middle of the record's range."""
    return math.sqrt(math.prod(source.youngs_modulus))


def _material(cases: Sequence[Conditions]) -> np.ndarray:
    """Logarithm of Young's modulus and Poisson's ratio, means over the body: ``[case, property]``."""
    return np.array(
        [[np.log(case.youngs_modulus[case.solid]).mean(), case.poissons_ratio[case.solid].mean()] for case in cases]
    )


def modal_fields(
    model: ModalModel, record: xr.Dataset, cases: Sequence[Conditions], starts: Sequence[State]
) -> list[Fields]:
    """Forecasts of the modal model; its stresses are those of the record's elements and law."""
    source = source_of(record)
    u0, v0 = (np.stack([start[i].ravel() for start in starts]) for i in range(2))
    u, v = model.forecast(u0, v0, _loads(cases, _modulus(source)), _material(cases))
    found = []
    for case, displacement, velocity in zip(cases, u, v, strict=True):
        shape = (-1, *case.loads.shape[1:])
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # what is not finite shows in the scores
            found.append(on_record_grid(source, case, displacement.reshape(shape), velocity.reshape(shape), source.law))
    return found
