"""Who forecasts: the surrogate, and the record's own solver at other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
import xarray as xr
import yaml
from torch import Tensor

from workbench.data.packing import ChannelGroup, Packing
from workbench.data.recipe import read_recipe
from workbench.data.spec import TIME
from workbench.equal_error.starts import Starts
from workbench.errors import InputError
from workbench.rollout import Fields, rollout
from workbench.simulate.coarsening import Candidate, Coarsenable, Coarsening

SURROGATE = "surrogate"


@dataclass(frozen=True)
class Contestant:
    """One way to forecast.

    Attributes:
        label: names it in tables.
        settings: of a solver; empty for the surrogate.
        reads: variables of the record that it starts from.
        history: states that it starts from.
        prepare: makes the forecaster: from what `workbench.equal_error.starts.Starts.before` gives, in physical units,
            to endless states ``[b, c, *space]`` of the variables that are forecast, from rest to those of all leads.
            What does not depend on the start is done in it.
        batched: several forecasts together may cost less than one by one.
    """

    label: str
    settings: Mapping[str, str | float]
    reads: tuple[str, ...]
    history: int
    prepare: Callable[[], Callable[[Tensor], Iterator[Tensor]]]
    batched: bool = True


def surrogate(task: Any, device: str, starts: Starts) -> Contestant:
    """A trained task, in evaluation mode, that forecasts the variables of `starts`.

    Raises:
        InputError: the model does not forecast them, or needs more than its last states where a solver has no more.
    """
    packing = task.packing
    more = [role for role in packing.groups if role in ("forcing", "static") and not starts.at_rest]
    if more or packing.missing == "mask" or any(max(group.levels) > 1 for group in _made(packing).values()):
        found = ", ".join(more) or ("masks of missing values" if packing.missing == "mask" else "variables with levels")
        raise InputError(
            f"the surrogate works with {found}: it can be compared with a solver where both start from states alone"
        )
    physical = _physical(task, starts.problem.names)
    task = task.to(device).eval()

    def prepare() -> Callable[[Tensor], Iterator[Tensor]]:
        steps, packed = (starts.problem.steps, _packed(packing, starts, device)) if starts.at_rest else (None, {})

        def forecast(start: Tensor) -> Iterator[Tensor]:
            chosen = {role: values[start[:, -1]] for role, values in packed.items()} or {"state": start}
            known = {role: task.normalisers[role](values) for role, values in chosen.items()}
            window = task.begin(known.pop("state"), task.context(known, 0))
            return map(physical, rollout(task, window, known, steps))

        return forecast

    return Contestant(SURROGATE, {}, packing.groups["state"].variables, packing.history, prepare)


def _packed(packing: Packing, starts: Starts, device: str) -> dict[str, Tensor]:
    """What forecasts from rest need: the first state, and loads and whatever else is given at all leads."""
    problem, record = starts.problem, starts.driven
    times = {"state": [0], "forcing": np.arange(problem.steps + 1) * problem.stride, "static": [0]}
    roles = [role for role in times if role in packing.groups]
    return {role: packing.pack(record.isel({TIME: times[role]}), role).to(device) for role in roles}


def _made(packing: Packing) -> dict[str, ChannelGroup]:
    """The roles that are forecast."""
    return {role: packing.groups[role] for role in ("state", "diagnostic") if role in packing.groups}


def _physical(task: Any, names: Sequence[str]) -> Callable[[Fields], Tensor]:
    """From a normalised forecast to the named variables ``[b, c, *space]`` in physical units."""
    groups = _made(task.packing)
    missing = [name for name in names if not any(name in group.variables for group in groups.values())]
    if missing:
        raise InputError(f"the surrogate does not forecast '{missing[0]}', which the experiment names")
    channels: dict[str, slice | list[int]] = {}
    for role, group in groups.items():
        chosen = [group.variables.index(name) for name in names if name in group.variables]
        if chosen:
            channels[role] = slice(None) if chosen == list(range(group.channels)) else chosen

    def physical(fields: Fields) -> Tensor:
        return torch.cat([task.normalisers[role].inverse(fields[role])[:, c] for role, c in channels.items()], 1)

    return physical


def solver_of(record: xr.Dataset) -> Coarsening:
    """The coarser versions of the solver that made a record.

    Raises:
        InputError: the record names no recipe, its source cannot be run again, or it was cropped.
    """
    where = f"the record {record.encoding.get('source', '')}".strip()
    name = record.attrs.get("workbench_recipe")
    if not name:
        raise InputError(
            f"{where} was not made by a solver that can be coarsened: it names no recipe; such records are built by "
            "workbench dataset build, from a source that offers coarsening()"
        )
    arguments = yaml.safe_load(str(record.attrs.get("workbench_arguments", "{}"))) or {}
    recipe = read_recipe(f"{name}/{record.attrs.get('workbench_preset', 'tiny')}", arguments)
    source = recipe.source()
    if not isinstance(source, Coarsenable):
        raise InputError(
            f"{where} was not made by a solver that can be coarsened: its source {recipe.class_path} offers no "
            "coarsening()"
        )
    if record.encoding.get("crop"):
        raise InputError(f"{where} is cropped (data.crop): its solver needs the whole domain; compare without the crop")
    return source.coarsening()


def solvers(
    solver: Coarsening, names: Sequence[str], interval: float, device: str, patterns: Sequence[str] = ()
) -> list[Contestant]:
    """The solver's candidates, the least work first.

    Args:
        solver: what `solver_of` gave.
        names: variables to forecast.
        interval: time between leads.
        device: where to compute.
        patterns: keep candidates whose label one of these matches (``*`` and ``?`` as in file names).

    Raises:
        InputError: no candidate matches.
    """
    everyone = sorted(solver.candidates(interval), key=lambda candidate: candidate.work)
    chosen = [c for c in everyone if not patterns or any(fnmatchcase(c.label, p) for p in patterns)]
    if not chosen:
        raise InputError(
            f"no candidate matches {', '.join(map(repr, patterns))}; they are "
            + "; ".join(candidate.label for candidate in everyone)
        )
    return [_solver(solver, candidate, tuple(names), interval, device) for candidate in chosen]


def solver_of_the_record(solver: Coarsening, names: Sequence[str], interval: float, device: str) -> Contestant | None:
    """The solver at the settings that made the record, where it says so."""
    found = [candidate for candidate in solver.candidates(interval) if candidate.made_the_record]
    return _solver(solver, found[0], tuple(names), interval, device) if found else None


def _solver(solver: Coarsening, candidate: Candidate, names: Sequence[str], interval: float, device: str) -> Contestant:
    def prepare() -> Callable[[Tensor], Iterator[Tensor]]:
        forecaster = solver.forecaster(candidate, names, interval, device)
        return lambda start: forecaster(start[:, -1])

    return Contestant(candidate.label, candidate.settings, tuple(solver.reads), 1, prepare, candidate.batched)
