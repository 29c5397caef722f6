"""Losses of forecasts: one number per sample, so that averages over uneven batches and ranks are right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.data.packing import ChannelGroup, Normaliser
from workbench.errors import InputError


class Loss(nn.Module, ABC):
    """Distance of a prediction from the truth, both normalised, one number per sample."""

    @abstractmethod
    def build(self, group: ChannelGroup, area: Float[Tensor, "*space"]) -> None:
        """Learn channels, normaliser and area weights (mean 1) of what will be compared."""

    @abstractmethod
    def forward(
        self, prediction: Float[Tensor, "b c *space"], truth: Float[Tensor, "b c *space"]
    ) -> Float[Tensor, "b"]:
        """Distance per sample; points where the truth is NaN do not count."""


class RelativeL2(Loss):
    """Relative error ``||prediction - truth||_2 / ||truth||_2`` over all points and channels of a sample.

    Args:
        units: ``physical`` (as in the operator-learning literature, e.g. Li et al. 2021, section 5) or
            ``normalised``, which weighs channels of unlike units evenly.
    """

    def __init__(self, units: Literal["physical", "normalised"] = "physical") -> None:
        super().__init__()
        self.units = units

    def build(self, group: ChannelGroup, area: Float[Tensor, "*space"]) -> None:
        """Keep the normaliser: physical norms need it."""
        self.normaliser = Normaliser(group)

    def forward(
        self, prediction: Float[Tensor, "b c *space"], truth: Float[Tensor, "b c *space"]
    ) -> Float[Tensor, "b"]:
        """Relative L2 error per sample."""
        if self.units == "physical":
            prediction, truth = self.normaliser.inverse(prediction), self.normaliser.inverse(truth)
        valid = torch.isfinite(truth)
        truth = torch.where(valid, truth, 0.0)
        difference = torch.where(valid, prediction - truth, 0.0)
        # The floor keeps a sample that is zero everywhere from dividing by zero.
        return difference.flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1).clamp_min(1e-12)


class WeightedMSE(Loss):
    """Mean squared error of normalised values, weighted by area and by variable.

    ``sum_c w_c mean_area((prediction - truth)^2) / sum_c w_c``.

    Args:
        variables: weight per variable name; 1 for those not named.
        area: weigh points by their area (cosine of latitude, quadrature weight on stretched grids).
    """

    def __init__(self, variables: dict[str, float] | None = None, area: bool = True) -> None:
        super().__init__()
        self.variables = variables or {}
        self.area = area

    def build(self, group: ChannelGroup, area: Float[Tensor, "*space"]) -> None:
        """Make the weight of every channel and point.

        Raises:
            InputError: a weighted variable is not predicted.
        """
        for name in self.variables:
            if name not in group.variables:
                raise InputError(f"loss weight for '{name}', but the predicted variables are {list(group.variables)}")
        per_channel = [
            self.variables.get(n, 1.0) for n, k in zip(group.variables, group.levels, strict=True) for _ in range(k)
        ]
        channel = torch.tensor(per_channel).reshape(-1, *[1] * area.ndim)
        weight = channel * (area if self.area else torch.ones_like(area))
        self.register_buffer("weight", weight, persistent=False)

    def forward(
        self, prediction: Float[Tensor, "b c *space"], truth: Float[Tensor, "b c *space"]
    ) -> Float[Tensor, "b"]:
        """Weighted mean squared error per sample."""
        valid = torch.isfinite(truth)
        weight = self.get_buffer("weight") * valid
        squares = torch.where(valid, prediction - truth, 0.0).square() * weight
        return squares.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-12)
