"""Ridge regression on a few averages of a cell's video: the wide part beside a deep one.

With some forty cells a linear model of the change of the discharge curve is hard to beat, and errs where convolutions
do not. Sources: Cheng et al. (2016), Wide & deep learning, arXiv:1606.07792; Severson et al. (2019), Nature Energy 4,
383-391, for the change of the discharge curve; Attia et al. (2021), J. Electrochem. Soc. 168, 060547, for ridge on it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LATEST = 3
POINTS = 20
LARGEST = 6.0
"""Cycles at the end that are averaged; points that are left of a curve; standard deviations that a cell may be off."""
LEVEL = 0.1
"""Weight of the curves beside their change: rests, temperature and age of a whole batch are mostly in the curves."""
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class RidgePart(nn.Module):
    r"""Linear map of the mean curve, and of the change in the latest cycles, fitted in closed form.

    .. math:: \hat y = \bar y + w \cdot z, \qquad w = \arg\min \|y - \bar y - Z w\|^2 + \lambda \|w\|^2

    with z the averages, standardised over the cells of the fit and divided by the root of the points of a curve, so
    that the penalty does not depend on their number. The penalty is that of `PENALTIES` with the least error on cells
    that are left out one by one, and `share` is how much of the standard deviation of y this error leaves explained.
    Where many cells have the same policy, both are too hopeful: a cell's twins are not left out with it.

    All numbers are parameters without gradient: they are kept and stacked like the weights of the network beside, and
    no optimiser changes them.

    Args:
        variables: curves of a cycle.
        points: points of each curve.
    """

    def __init__(self, variables: int, points: int) -> None:
        super().__init__()
        self.kept = min(points, POINTS)
        features = 2 * variables * self.kept
        self.weight, self.bias = fixed(torch.zeros(features)), fixed(torch.zeros(1))
        self.center, self.scale = fixed(torch.zeros(features)), fixed(torch.ones(features))
        self.share = fixed(torch.zeros(1))

    def averages(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> Float[Tensor, "b k"]:
        """The curves averaged over all cycles and their change over the latest, each on fewer points."""
        curves = torch.cat([raw.mean(2), change[:, :, -LATEST:].mean(2)], 1)
        return functional.adaptive_avg_pool1d(curves, self.kept).flatten(1)

    def standardised(self, averages: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Averages as the regression sees them; bounded, so that a cell unlike all others is not extrapolated far."""
        z = ((averages - self.center.detach()) / self.scale.detach()).clamp(-LARGEST, LARGEST) / self.kept**0.5
        level, change = z.chunk(2, 1)
        return torch.cat([LEVEL**0.5 * level, change], 1)

    @torch.no_grad()
    def fit(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"], target: Float[Tensor, "b"]) -> None:
        """Choose the penalty and solve for the weights, in float64, from cells and their standardised log life."""
        averages = self.averages(raw, change)
        self.center.copy_(averages.mean(0))
        # a point that is the same in all cells has no say
        spread = averages.std(0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.inf))
        self.bias.copy_(target.mean())
        z, y = self.standardised(averages).double(), (target - target.mean()).double()
        errors = torch.stack([left_out(z, y, penalty).square().mean() for penalty in PENALTIES])
        self.share.copy_((1 - (errors.min() / y.square().mean()).sqrt()).clamp_min(0))
        self.weight.copy_(z.T @ inverse(z, PENALTIES[int(errors.argmin())]) @ y)

    def forward(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> Float[Tensor, "b"]:
        """Return the estimate of the regression."""
        return self.standardised(self.averages(raw, change)) @ self.weight.detach() + self.bias.detach()

    def join(self, other: Float[Tensor, "b"], own: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Return the mean of the network's estimate and the regression's own, which counts by its share."""
        return other.lerp(own, self.share.detach())


def inverse(z: Float[Tensor, "b k"], penalty: float) -> Float[Tensor, "b b"]:
    """Inverse of the penalised products of samples."""
    return torch.linalg.inv(z @ z.T + penalty * torch.eye(len(z), dtype=z.dtype, device=z.device))


def left_out(z: Float[Tensor, "b k"], y: Float[Tensor, "b"], penalty: float) -> Float[Tensor, "b"]:
    """Error at each sample of the regression on all others, which have a mean of their own.

    Hastie, Tibshirani and Friedman (2009), The elements of statistical learning, eq. 7.64.
    """
    count = len(z)
    z = z - z.mean(0)
    hat = z @ z.T @ inverse(z, penalty) + 1 / count
    return (y - hat @ y) / (1 - hat.diagonal())


def fixed(values: Tensor) -> nn.Parameter:
    """Return a parameter that no gradient changes."""
    return nn.Parameter(values, requires_grad=False)
