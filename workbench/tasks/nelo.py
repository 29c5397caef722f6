"""NELO, the training of DeepFEA: how often a step sees the truth, and what two branches of a network lose together."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.data.packing import ChannelGroup, Normaliser
from workbench.errors import InputError

FLOOR = 1e-2
"""Least size of a trajectory in relative losses, in standard deviations of the training set."""


@dataclass(frozen=True)
class NELO:
    r"""Node-element loss optimisation (Triantafyllou et al., 2025, doi 10.1016/j.eswa.2024.126343).

    A step of a training sequence sees the truth with a probability that falls in stairs, else the prediction of the
    step before (scheduled sampling; Bengio et al., 2015, arXiv:1506.03099). After k intervals it is
    :math:`\gamma^k`, and 0 once it is below the least. Node and element branch are trained together on

    .. math:: L = w_n L_{node} + w_e L_{element}.

    Args:
        schedule: ``stairs`` as published; ``teacher`` (every step sees the truth) and ``free`` (none) for comparison.
        decay: gamma.
        interval: length of an interval as a part of all epochs: 40 of 1000 as published.
        least: probability below which no step sees the truth any more.
        node_weight: weight of the nodes.
        element_weight: weight of the elements.
        balance: ``fixed`` weights, or ``uncertainty``: weights that are learned as well (Kendall et al., 2018,
            arXiv:1705.07115, equation 7).
        error: ``squared``, the mean squared error of normalised values, as published; ``relative``, that over the
            mean square of the trajectory, which counts small loads as much as large ones; ``relative_channels``, the
            same for each channel by itself, which counts components that hardly move as much as the others.
    """

    schedule: Literal["stairs", "teacher", "free"] = "stairs"
    decay: float = 0.7
    interval: float = 0.04
    least: float = 0.01
    node_weight: float = 1.0
    element_weight: float = 1.0
    balance: Literal["fixed", "uncertainty"] = "fixed"
    error: Literal["squared", "relative", "relative_channels"] = "squared"

    def __post_init__(self) -> None:
        """Refuse a schedule that does not fall."""
        if not 0 < self.decay < 1 or self.interval <= 0:
            raise InputError(
                f"nelo.decay is {self.decay} and nelo.interval {self.interval}: expected a decay between 0 and 1 and "
                "an interval over 0"
            )

    def probability(self, epoch: int, epochs: int) -> float:
        """Probability that a step sees the truth in `epoch` (from 0) of a training of `epochs`."""
        if self.schedule != "stairs":
            return 1.0 if self.schedule == "teacher" else 0.0
        # The published loop lowers it after the epochs 40, 80 ... (from 0), so 41 epochs see the truth. The small
        # number keeps 13 * 40 / 40 from becoming 12.
        passed = floor(max(0, epoch - 1) / (self.interval * epochs) + 1e-9)
        found = self.decay**passed
        return found if found >= self.least else 0.0


class BranchLoss(nn.Module):
    """Loss of the node and the element branch, one number per sample."""

    def __init__(self, nelo: NELO) -> None:
        super().__init__()
        self.nelo = nelo
        self.log_variances = nn.Parameter(torch.zeros(2)) if nelo.balance == "uncertainty" else None

    def build(self, nodes: ChannelGroup, elements: ChannelGroup) -> None:
        """Take the normalisers: relative errors need them."""
        self.normalisers = nn.ModuleList([Normaliser(nodes), Normaliser(elements)])

    def branch(self, number: int, prediction: Tensor, truth: Tensor) -> Float[Tensor, "b"]:
        """Error of one branch ``[b, t, c, *space]``."""
        squares = (prediction - truth).square()
        if self.nelo.error == "squared":
            return squares.flatten(1).mean(1)
        normaliser = cast(Normaliser, self.normalisers[number])
        size = truth + normaliser.mean / normaliser.std
        over = [d for d in range(1, truth.ndim) if d != 2 or self.nelo.error == "relative"]
        shares = squares.mean(over, keepdim=True) / size.square().mean(over, keepdim=True).clamp_min(FLOOR**2)
        return shares.flatten(1).mean(1)

    def forward(
        self, predictions: tuple[Tensor, Tensor], truths: tuple[Tensor, Tensor], training: bool
    ) -> Float[Tensor, "b"]:
        """Weighted sum over the branches; learned weights count in training only."""
        branches = zip(predictions, truths, strict=True)
        nodes, elements = (self.branch(number, *pair) for number, pair in enumerate(branches))
        nodes, elements = self.nelo.node_weight * nodes, self.nelo.element_weight * elements
        if self.log_variances is None or not training:
            return nodes + elements
        weights = torch.exp(-self.log_variances)
        return weights[0] * nodes + weights[1] * elements + self.log_variances.sum()
