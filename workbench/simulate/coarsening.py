"""Coarser versions of a solver, run from fields of the record that it made: what a surrogate has to be faster than.

A source of a dataset (`workbench.data.recipe.Source`) that can be run again offers ``coarsening()``. What that returns
lists *candidates* (resolutions, time steps, closures) and makes the forecaster of each: from fields on the record's
nodes to fields on the record's nodes, so that solver and surrogate begin with the same information and end with the
same product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import xarray as xr
from jaxtyping import Float
from torch import Tensor

Forecaster = Callable[[Float[Tensor, "b r *space"]], Iterator[Float[Tensor, "b c *space"]]]
"""From the variables that are read to the variables that are made, one interval after the other, without end.

Of a `Driven` solver: from positions of trajectories ``[b]``, and to the end of the forecasts.
"""


@dataclass(frozen=True)
class Candidate:
    """One setting of a solver.

    Attributes:
        label: names it in tables, such as ``32 x 32, dt 0.125``.
        settings: what distinguishes it from the others: resolution, time step, closure.
        work: rough operations per unit of physical time; candidates are tried in this order.
        made_the_record: these are the settings of the record, for the plain ratio; at most one candidate's are.
        batched: several forecasts together may cost less than one by one.
    """

    label: str
    settings: Mapping[str, str | float]
    work: float
    made_the_record: bool = False
    batched: bool = True


class Coarsening(Protocol):
    """A solver that can be run coarser than it was for the record.

    Attributes:
        reads: variables of the record that a start consists of; none for a `Driven` solver.
    """

    reads: tuple[str, ...]

    def candidates(self, interval: float) -> Sequence[Candidate]:
        """The settings to try for forecasts whose leads are `interval` apart, in units of the record's time."""
        ...

    def forecaster(self, candidate: Candidate, names: Sequence[str], interval: float, device: str) -> Forecaster:
        """Prepare a candidate: whatever does not depend on the start is done here.

        Args:
            candidate: one of `candidates`.
            names: variables to make, in order.
            interval: time between two leads.
            device: where to compute, such as ``cpu``.

        Raises:
            InputError: a variable cannot be made, or there is no such device. The forecaster itself raises it where
                the settings are unstable for the flow.
        """
        ...


@runtime_checkable
class Driven(Coarsening, Protocol):
    """A solver of motions that start from rest at the first instant and follow what drives each trajectory.

    Attributes:
        compares: patterns of the variables whose errors are compared unless others are asked for.
    """

    compares: tuple[str, ...]

    def driven_by(self, record: xr.Dataset, leads: int) -> Driven:
        """The same for forecasts of so many leads of the trajectories of `record`; this comes before `forecaster`.

        Raises:
            InputError: the record lacks what the motion follows from.
        """
        ...


@runtime_checkable
class Coarsenable(Protocol):
    """A source whose solver can be run again."""

    def coarsening(self) -> Coarsening:
        """The coarser versions."""
        ...
