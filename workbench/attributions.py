"""Which cycles, points and variables a predicted life rests on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.tasks.lifetime import LifetimeTask

STEPS, BASELINES = 8, 4


def attributions(
    task: LifetimeTask, raw: Float[Tensor, "b v n p"], baselines: Float[Tensor, "k v n p"], steps: int = STEPS
) -> Float[Tensor, "b v n p"]:
    """Integrated gradients of the logarithm of predicted life, through both streams, averaged over baselines.

    Each path leads straight from the curves of a baseline, another cell, to those of the cell. Over a cell they add up
    to its logarithm of life minus the mean of those of the baselines, up to the midpoint rule's error. From one cell
    that never changes, they would not: networks that normalise what they see jump there.

    Args:
        task: trained, in evaluation mode.
        raw: scaled curves.
        baselines: scaled curves of the cells that paths start from.
        steps: of the midpoint rule.

    Source: Sundararajan, Taly & Yan (2017), arXiv:1703.01365, equations 1 and 3; Erion et al. (2021), Nature Machine
    Intelligence 3, 620, equation 2, for the mean over baselines.
    """
    shares = ((torch.arange(steps, device=raw.device) + 0.5) / steps)[:, None, None, None, None]
    return torch.stack([_of_cell(task, cell, baselines, shares) for cell in raw])


def _of_cell(task: LifetimeTask, cell: Tensor, baselines: Tensor, shares: Tensor) -> Tensor:
    paths = (baselines + shares * (cell - baselines)).flatten(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(log_life(task, paths).sum(), paths)
    return ((cell - baselines) * gradient.unflatten(0, (len(shares), -1)).mean(0)).mean(0)


def log_life(task: LifetimeTask, raw: Float[Tensor, "b v n p"]) -> Float[Tensor, "b"]:
    """Logarithm of the life that the ensemble predicts, but for a constant; differentiable."""
    if task.packing is None:
        raise RuntimeError("build(packing) comes before a prediction")
    both = [x.expand(task.members, *x.shape) for x in (raw, task.packing.change(raw))]
    found: Tensor = task.network(*both).mean(0)
    return task.packing.log_std * found
