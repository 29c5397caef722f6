"""What no step of a record changes: means over the volume, and values at walls. Imposed on every step of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.data.packing import ChannelGroup
from workbench.errors import InputError


@dataclass(frozen=True)
class Constraints:
    """Invariants of the steps of a record, kept exactly in training and in rollouts.

    A model that is a little wrong about them in every step drifts away in a thousand. For a channel flow at constant
    flow rate: ``means: [u]``, ``walls: [y]``.

    Args:
        means: state variables whose mean over the grid, weighted by area or volume, no step changes.
        walls: dimensions at both ends of which no state variable changes.
    """

    means: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()


class Invariants(nn.Module):
    """Moves a predicted state to the nearest one that obeys the constraints.

    With area weights a of mean 1 and m = 0 at the walls, 1 elsewhere: x' = x_0 at the walls, and for conserved
    variables x' = x + m ⟨x_0 − x⟩ / ⟨m⟩ elsewhere, ⟨·⟩ the weighted mean.

    Args:
        constraints: what is kept.
        group: channels of the state.
        area: weights of mean 1.

    Raises:
        InputError: a variable or dimension is unknown.
    """

    def __init__(self, constraints: Constraints, group: ChannelGroup, area: Float[Tensor, "*space"]) -> None:
        super().__init__()
        for what, asked, known in (
            ("means", constraints.means, group.variables),
            ("walls", constraints.walls, group.space),
        ):
            for name in asked:
                if name not in known:
                    raise InputError(f"constraints.{what} names '{name}': expected one of {sorted(known)}")
        inside = torch.ones(group.shape)
        for dim in constraints.walls:
            ends = inside.movedim(group.space.index(dim), 0)
            ends[0] = ends[-1] = 0.0
        pairs = zip(group.variables, group.levels, strict=True)
        kept = torch.tensor([name in constraints.means for name, count in pairs for _ in range(count)])
        self.register_buffer("inside", inside, persistent=False)
        self.register_buffer("weight", area / area.sum(), persistent=False)
        self.register_buffer(
            "push", kept.reshape(-1, *[1] * area.ndim) * inside / (inside * area).mean(), persistent=False
        )

    def forward(self, last: Float[Tensor, "b c *space"], state: Float[Tensor, "b c *space"]) -> Tensor:
        """The state that follows `last`, both normalised."""
        state = torch.lerp(last, state, self.get_buffer("inside"))
        axes = tuple(range(2, state.ndim))
        lost = ((last - state) * self.get_buffer("weight")).sum(axes, keepdim=True)
        return torch.addcmul(state, lost, self.get_buffer("push"))
