"""Long-run statistics of channel flow: profiles of mean and fluctuation, and their distance to those of the truth.

They are taken over the second half of runs as long as the experiment's rollout, from a few starts, which need no truth
at their times: they are compared with the training split. How far the truth of the split that is forecast is from that
says what sampling alone does; no smaller distance can be told from none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench.data.starts import Problem
from workbench.equal_error.starts import Starts, leads
from workbench.metrics.channel import Names
from workbench.metrics.long_run import relative_l2

COMPONENTS = Names().velocity
STATISTICS = ("mean profile of u", *(f"rms profile of {name}" for name in COMPONENTS))
RUNS = 4
"""Long runs of every contestant: as few as an interval needs."""


@dataclass(frozen=True)
class Profiles:
    """Plane averages along the wall-normal direction.

    Attributes:
        channels: positions of u, v, w among the variables.
        plane: axes of ``[b, c, *space]`` to average over.
        steps: length of the long runs.
        truth: moments ``(2, 3, y)`` of the training split.
        sampling: distances of the truth from it, by its sample alone ``(statistic,)``.
    """

    channels: tuple[int, ...]
    plane: tuple[int, ...]
    steps: int
    truth: np.ndarray
    sampling: np.ndarray

    @classmethod
    def of(cls, starts: Starts, steps: int) -> Profiles | None:
        """The statistics of runs from given starts; None where the record is not the velocity of a channel flow."""
        if not is_channel(starts.problem):
            return None
        names, problem = Names(), starts.problem
        channels = tuple(problem.names.index(name) for name in names.velocity)
        plane = tuple(2 + i for i, dim in enumerate(problem.space(problem.names[0])) if dim != names.space[1])
        known = moments(starts.training_states, channels, plane).mean(0)
        own = [moments(starts.truth(batch).flatten(0, 1), channels, plane) for batch in starts.batches()]
        sampling = distances(np.concatenate(own).mean(0), known)
        return cls(channels, plane, max(steps, problem.steps), known, sampling)

    def of_runs(self, states: Iterator[Tensor], progress: Callable[[], None] = lambda: None) -> np.ndarray:
        """Moments ``(run, 2, 3, y)`` of endless states, over the second half of `steps`; `progress` after each."""
        total, first = torch.zeros(()).numpy(), self.steps // 2
        with torch.inference_mode():
            for step, state in enumerate(leads(states, self.steps)):
                if step >= first:
                    total = total + moments(state, self.channels, self.plane)
                progress()
        return total / (self.steps - first)

    def distances(self, found: np.ndarray) -> np.ndarray:
        """See `distances`."""
        return distances(found, self.truth)


def is_channel(problem: Problem) -> bool:
    """Whether the variables hold the three velocities of a channel record."""
    names = Names()
    velocities = "bulk_velocity" in problem.record.attrs and set(names.velocity) <= set(problem.names)
    return velocities and set(problem.space(problem.names[0])) == set(names.space)


def moments(state: Float[Tensor, "b c *space"], channels: tuple[int, ...], plane: tuple[int, ...]) -> np.ndarray:
    """First and second moments ``(b, 2, 3, y)`` over the planes."""
    velocity = state[:, channels].double()
    return np.stack([part.mean(plane).cpu().numpy() for part in (velocity, velocity**2)], 1)


def distances(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative L2 distance of each of `STATISTICS` ``(..., 4)``, of moments ``(..., 2, 3, y)``; inf where not finite.

    Averages are over everything: they are taken of the moments first, and fluctuations are about their own mean.
    """
    dims = [f"row{i}" for i in range(found.ndim - 3)]
    profiles = xr.DataArray(_profiles(found), dims=(*dims, "statistic", "y"))
    error = relative_l2(profiles, xr.DataArray(_profiles(truth), dims=("statistic", "y")), "y")
    values = error.transpose(*dims, "statistic").values
    return np.where(np.isfinite(values), values, np.inf)


def _profiles(found: np.ndarray) -> np.ndarray:
    mean, square = found[..., 0, :, :], found[..., 1, :, :]
    with np.errstate(invalid="ignore"):  # runs that did not last are infinite
        fluctuation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.concatenate([mean[..., :1, :], fluctuation], axis=-2)
