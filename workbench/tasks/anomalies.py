"""The loss of Prithvi WxC: squared errors in units of the anomalies from the climatology.

Weights of the rollout tuning are those of Schmude et al. (2024), arXiv:2409.13598, for the channels of MERRA-2. That of
QV is not said there and taken as 1, nor how the weights of the levels are normalised: here their mean is 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.data.packing import ChannelGroup
from workbench.errors import InputError
from workbench.tasks.losses import WeightedMSE

ROLLOUT_WEIGHTS: dict[str, float] = {
    **dict.fromkeys(("H", "OMEGA", "T", "U", "V", "QV", "U10M", "V10M"), 1.0),
    **dict.fromkeys(("CLOUD", "PL", "QI", "QL", "SLP", "T2M"), 0.1),
}
"""Weight per variable in the published rollout tuning."""

OTHER_SURFACE_WEIGHT = 0.01
"""Weight of the variables that `ROLLOUT_WEIGHTS` does not name; all of them are of the surface."""

NOMINAL_PRESSURE = (48.0, 109.0, 150.0, 208.0, 245.0, 288.0, 412.0, 525.0, 600.0, 700.0, 850.0, 925.0, 970.0, 985.0)
"""Of the 14 published model levels, top first, in hPa: the weights of channels on levels rise with it linearly."""


class AnomalyMSE(WeightedMSE):
    r"""Mean squared error in units of the standard deviation of the anomaly from the climatology.

    .. math:: \frac{\sum_c w_c\,\langle a\,(\hat y_c - y_c)^2 \rangle / \sigma_{C,c}^2}{\sum_c w_c}

    with area weights a of mean 1 (the cosine of latitude; the authors' code does not divide it by its mean) and
    :math:`\sigma_C` of the experiment's climatology. Without one, the unit is the standard deviation of the state.

    Args:
        variables: weight per variable name; 1 for those not named.
        published: weights of the published rollout tuning, under those of `variables`.
    """

    def __init__(self, variables: dict[str, float] | None = None, published: bool = False) -> None:
        super().__init__(variables)
        self.published = published

    def build(self, group: ChannelGroup, area: Float[Tensor, "*space"]) -> None:
        """Make the weight of every channel and point, and the unit of every channel.

        Raises:
            InputError: a weighted variable is not predicted, or published weights are asked for other levels.
        """
        super().build(group, area)
        if self.published:
            weights = torch.tensor(self._published(group)).reshape(-1, *[1] * area.ndim)
            self.register_buffer("weight", weights * area, persistent=False)
        unit = torch.tensor(group.std) / torch.tensor(group.anomaly_std or group.std)
        self.register_buffer("unit", unit.reshape(-1, *[1] * area.ndim), persistent=False)

    def _published(self, group: ChannelGroup) -> list[float]:
        mean = sum(NOMINAL_PRESSURE) / len(NOMINAL_PRESSURE)
        levels = {1: [1.0], len(NOMINAL_PRESSURE): [p / mean for p in NOMINAL_PRESSURE]}
        weights: list[float] = []
        for name, count in zip(group.variables, group.levels, strict=True):
            if count not in levels:
                raise InputError(
                    f"published weights are for the {len(NOMINAL_PRESSURE)} levels of the published model; '{name}' "
                    f"has {count}: give weights in loss variables instead"
                )
            chosen = self.variables.get(name, ROLLOUT_WEIGHTS.get(name, OTHER_SURFACE_WEIGHT))
            weights += [chosen * level for level in levels[count]]
        return weights

    def forward(
        self, prediction: Float[Tensor, "b c *space"], truth: Float[Tensor, "b c *space"]
    ) -> Float[Tensor, "b"]:
        """Weighted mean squared error per sample."""
        unit = self.get_buffer("unit")
        return super().forward(prediction * unit, truth * unit)
