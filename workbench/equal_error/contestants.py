"""Who forecasts: the surrogate, and the record's own solver at other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import xarray as xr
import yaml
from jaxtyping import Float
from torch import Tensor

from workbench.data.recipe import read_recipe
from workbench.errors import InputError
from workbench.rollout import rollout
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
        prepare: makes the forecaster: from fields ``[b, history, r, *space]`` in physical units to endless states
            ``[b, c, *space]`` of the variables that are forecast. What does not depend on the start is done in it.
    """

    label: str
    settings: Mapping[str, str | float]
    reads: tuple[str, ...]
    history: int
    prepare: Callable[[], Callable[[Tensor], Iterator[Tensor]]]


def surrogate(task: Any, device: str) -> Contestant:
    """A trained task, in evaluation mode.

    Raises:
        InputError: the model needs more than its last states, which a solver does not have either.
    """
    packing = task.packing
    more = [role for role in packing.groups if role in ("forcing", "static")]
    if more or packing.missing == "mask" or max(packing.groups["state"].levels) > 1:
        found = ", ".join(more) or ("masks of missing values" if packing.missing == "mask" else "variables with levels")
        raise InputError(
            f"the surrogate works with {found}: it can be compared with a solver where both start from states alone"
        )
    task = task.to(device).eval()

    def forecast(start: Float[Tensor, "b h c *space"]) -> Iterator[Tensor]:
        for fields in rollout(task, task.begin(task.normalisers["state"](start), None)):
            yield torch.cat([task.normalisers[role].inverse(values) for role, values in fields.items()], 1)

    return Contestant(SURROGATE, {}, packing.groups["state"].variables, packing.history, lambda: forecast)


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


def _solver(solver: Coarsening, candidate: Candidate, names: Sequence[str], interval: float, device: str) -> Contestant:
    def prepare() -> Callable[[Tensor], Iterator[Tensor]]:
        forecaster = solver.forecaster(candidate, names, interval, device)
        return lambda start: forecaster(start[:, -1])

    return Contestant(candidate.label, candidate.settings, tuple(solver.reads), 1, prepare)
