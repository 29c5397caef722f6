"""The forecasts that all contestants make: the same starts, the same truth, and what no model needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench.data.spec import TIME, TRAJECTORY, time_step
from workbench.data.starts import Problem, choose_starts
from workbench.errors import InputError

BATCH, BATCH_BYTES = 16, 2**27
SAMPLED_STATES = 256
"""States of the training split whose mean and statistics stand for the flow's."""


@dataclass(frozen=True)
class Starts:
    """Which forecasts are made, and their truth.

    Attributes:
        problem: the record, what is forecast, and how far.
        trajectories: positions along trajectory.
        times: record time indices of the starts.
        at_rest: contestants know what drives each trajectory, and start from rest at its first instant.
    """

    problem: Problem
    trajectories: np.ndarray
    times: np.ndarray
    at_rest: bool = False

    @classmethod
    def choose(cls, problem: Problem, split: str, wanted: int, at_rest: bool = False) -> Starts:
        """About `wanted` forecasts, spread evenly over the trajectories and times of a split; one each from rest.

        Raises:
            InputError: no forecast fits into the split, the variables do not share a grid, or forecasts from rest
                cannot start at the first instant.
        """
        grids = {problem.space(name) for name in problem.names}
        if len(grids) > 1:
            raise InputError(f"variables on one grid can be compared with a solver; found {sorted(grids)}")
        part = problem.parts[split]
        each = 1 if at_rest else max(1, -(-wanted // len(part.trajectories)))
        found = choose_starts(part, problem.history, problem.stride, problem.steps, each)
        # More trajectories than forecasts: some of them, evenly.
        chosen = np.unique(np.linspace(0, len(found[0]) - 1, min(wanted, len(found[0]))).round().astype(np.int64))
        if at_rest and found[1][0] > 0:
            raise InputError(
                f"forecasts from rest start at the first instant of a trajectory; those of the {split} split cannot "
                f"start before instant {found[1][0]}: split by trajectory, with data.history 1"
            )
        return cls(problem, found[0][chosen], found[1], at_rest)

    def __len__(self) -> int:
        return len(self.trajectories) * len(self.times)

    @property
    def groups(self) -> tuple[int, int]:
        """Trajectories, and starts in each; forecasts are numbered trajectory by trajectory."""
        return len(self.trajectories), len(self.times)

    @property
    def interval(self) -> float:
        """Time between two leads, in the units of the record's time."""
        return time_step(self.problem.record)[0] * self.problem.stride

    @property
    def costs(self) -> tuple[float, str]:
        """How many leads the costs are told of, and what these are: a unit of time, from rest the whole forecast."""
        return (self.problem.steps, "forecast") if self.at_rest else (1 / self.interval, "forecast and unit of time")

    @property
    def driven(self) -> xr.Dataset:
        """The record of the forecasts' trajectories."""
        return self.problem.record.isel({TRAJECTORY: self.trajectories})

    def batches(self) -> list[range]:
        """The forecasts in groups whose truth fits into memory."""
        record, names = self.problem.record, self.problem.names
        size = 4 * len(names) * self.problem.steps * int(np.prod(self.problem.shape(names[0]), dtype=np.int64))
        each = max(1, min(BATCH, BATCH_BYTES // size)) if record.sizes[TIME] else 1
        return [range(i, min(i + each, len(self))) for i in range(0, len(self), each)]

    def before(self, names: Sequence[str], batch: Sequence[int], history: int = 1) -> Float[Tensor, "b h r *space"]:
        """The last `history` states of given variables at the starts; from rest, positions in `driven` ``[b, 1]``."""
        if self.at_rest:
            return torch.tensor(list(batch))[:, None]
        back = np.arange(1 - history, 1) * self.problem.stride
        return self._fields(names, batch, back)

    def truth(self, batch: Sequence[int]) -> Float[Tensor, "b t c *space"]:
        """What happened at every lead."""
        ahead = np.arange(1, self.problem.steps + 1) * self.problem.stride
        return self._fields(self.problem.names, batch, ahead)

    def _fields(self, names: Sequence[str], batch: Sequence[int], offsets: np.ndarray) -> Tensor:
        where = [divmod(number, len(self.times)) for number in batch]
        picked = []
        for trajectory, time in where:
            states = self.problem.record[list(names)].isel({TIME: self.times[time] + offsets})
            if TRAJECTORY in states.dims:
                states = states.isel({TRAJECTORY: self.trajectories[trajectory]})
            picked.append(states)
        together = xr.concat(picked, "start", coords="minimal", compat="override", join="override")
        arrays = [together[name].transpose("start", TIME, *self.problem.space(name)).values for name in names]
        return torch.from_numpy(np.stack(arrays, 2).astype(np.float32, copy=False))

    @cached_property
    def training_states(self) -> Float[Tensor, "n c *space"]:
        """States of the training split, evenly over its trajectories and times."""
        part, names = self.problem.parts["train"], self.problem.names
        times = np.concatenate([np.arange(lo, hi) for lo, hi in part.runs])
        runs = part.trajectories[_evenly(len(part.trajectories), 16)]
        times = times[_evenly(len(times), max(1, SAMPLED_STATES // len(runs)))]
        states = self.problem.record[list(names)].isel({TIME: times})
        if TRAJECTORY in states.dims:
            states = states.isel({TRAJECTORY: runs}).stack(state=(TRAJECTORY, TIME), create_index=False)
        else:
            states = states.rename({TIME: "state"})
        arrays = [states[name].transpose("state", *self.problem.space(name)).values for name in names]
        return torch.from_numpy(np.stack(arrays, 1).astype(np.float32, copy=False))

    def size(self, truth: Float[Tensor, "b t c *space"]) -> np.ndarray:
        """What errors are divided by ``(start, lead)``: the norm of the truth; from rest, its rms over the leads.

        At first a body at rest has hardly moved: relative to that, any error is large and says nothing.
        """
        norm: np.ndarray = truth.flatten(2).double().norm(dim=2).numpy()
        return np.broadcast_to(np.sqrt((norm**2).mean(1, keepdims=True)), norm.shape) if self.at_rest else norm

    def without_a_model(self) -> dict[str, np.ndarray]:
        """Errors ``(start, lead)`` of what costs nothing: the start itself, and the mean of the training split."""
        mean = self.training_states.mean(0)
        found: dict[str, list[np.ndarray]] = {"persistence": [], "training mean": []}
        for batch in self.batches():
            truth = self.truth(batch)
            start, size = self._fields(self.problem.names, batch, np.zeros(1, np.int64)), self.size(truth)
            found["persistence"].append(relative_l2(start, truth, size))
            found["training mean"].append(relative_l2(mean[None, None], truth, size))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def _evenly(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))


def leads(states: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """The first `count` of endless states."""
    return (next(states) for _ in range(count))


def relative_l2(found: Float[Tensor, "..."], truth: Float[Tensor, "..."], size: np.ndarray) -> np.ndarray:
    """``||found − truth||₂ / size`` of each start and lead, over variables and points; inf where not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (found - truth).flatten(2).double().norm(dim=2).numpy() / size
    return np.where(np.isfinite(error), error, np.inf)
