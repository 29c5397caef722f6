"""CyclePatch with perceptrons: every cycle becomes one token, and the tokens of all cycles one estimate of life.

Source: Tan et al. (2025), BatteryLife, arXiv:2502.18807, section 4 (CPMLP: a linear map of a cycle's curves, then
residual perceptrons within the cycle, then residual perceptrons over all cycles). There the input is voltage, current
and capacity in up to 100 cycles; here any curves of a cycle, with their change since an early cycle beside them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.models.base import CellNetwork
from workbench.models.fpnn import average_cycles


class CyclePatch(CellNetwork):
    """Perceptrons within each cycle, then over the cycles.

    Args:
        variables: curves of a cycle.
        cycles: cycles of the video.
        points: points of each curve.
        width: length of a token. Good values: 16 to 64.
        within: residual perceptrons that each token passes through. Good values: 1 to 3.
        across: residual perceptrons that all tokens together pass through. Good values: 1 to 3.
        frames: average consecutive cycles to this many first, where there are more; 0 takes every cycle. Good values:
            0, or 4 to 16.
        dropout: share of the values set to zero in each perceptron in training. Good values: 0 to 0.3.
    """

    def __init__(
        self,
        variables: int,
        cycles: int,
        points: int,
        width: int = 32,
        within: int = 2,
        across: int = 1,
        frames: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(variables, cycles, points)
        self.frames = frames
        tokens = min(cycles, frames) if frames else cycles
        self.embed = nn.Linear(2 * variables * points, width)
        self.within = nn.Sequential(*(Perceptron(width, dropout) for _ in range(within)))
        self.join = nn.Linear(tokens * width, width)
        self.across = nn.Sequential(*(Perceptron(width, dropout) for _ in range(across)))
        self.head = nn.Linear(width, 1)

    def forward(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> Float[Tensor, "b"]:
        """Make a token of each cycle, refine it, join all."""
        video = average_cycles(torch.cat([raw, change], 1), self.frames)
        tokens = self.within(self.embed(video.transpose(1, 2).flatten(2)))
        return self.head(self.across(functional.relu(self.join(tokens.flatten(1)))))[:, 0]


class Perceptron(nn.Module):
    """Two linear maps with a ReLU between, added to the input and normalised."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Return the normalised sum of the input and what the layers make of it."""
        return self.norm(x + self.layers(x))
