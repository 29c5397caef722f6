"""Muon: momentum whose matrices are made orthogonal, beside AdamW for everything that is no matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration, which drives all singular values to between 0.7 and 1.2."""
SCALE = 0.2
"""Mean size of a step of AdamW in learning rates."""
EPS = 1e-8


class Muon(torch.optim.Optimizer):
    r"""Muon (Jordan et al., 2024) for kernels and matrices, AdamW for vectors.

    A step moves a weight, as a matrix of its outputs by all else, by the orthogonal matrix that is nearest to its
    momentum, times :math:`0.2\sqrt{\max(m, n)}` (Liu et al., 2025, arXiv:2502.16982): steps as large as those of
    AdamW at the same learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
    ) -> None:
        """Take the learning rate and decay of all weights, AdamW's betas and Muon's momentum."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all weights that have a gradient; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    matrix = weight.ndim > 1 and len(weight) > 1
                    move = (_matrix if matrix else _vector)(weight.grad, self.state[weight], group)
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move, alpha=group["lr"])
        return loss


def _matrix(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(grad)
    momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
    ahead = grad.lerp(momentum, group["momentum"]).flatten(1)
    return orthogonal(ahead).mul_(SCALE * max(ahead.shape) ** 0.5).view_as(grad)


def _vector(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state.update(step=0, first=torch.zeros_like(grad), second=torch.zeros_like(grad))
    state["step"] += 1
    one, two = group["betas"]
    first, second = state["first"].lerp_(grad, 1 - one), state["second"].lerp_(grad.square(), 1 - two)
    size = (second / (1 - two ** state["step"])).sqrt_().add_(EPS)
    return first / (1 - one ** state["step"]) / size


def orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns, by an iteration of products alone."""
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-12)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
