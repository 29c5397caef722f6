"""Optimiser and learning-rate schedule, shared by every task."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from workbench.tasks.muon import Muon


@dataclass(frozen=True)
class Optimisation:
    """AdamW or Muon with a warm-up and a schedule over the whole training.

    Args:
        method: ``adamw``, or ``muon``, which moves kernels and matrices along orthogonal directions: on recurrences
            (DeepFEA) it needs a fraction of the epochs. It needs whole matrices, so no sharded weights (FSDP).
        learning_rate: peak learning rate. Good values: 1e-3 for spectral and convolutional networks.
        weight_decay: decoupled weight decay.
        betas: moment decays of Adam.
        schedule: ``cosine`` to zero, ``step`` (times `factor` every `step_epochs`), or ``constant``.
        warmup: fraction of all steps over which the learning rate rises linearly from zero.
        step_epochs: epochs between two drops of the step schedule.
        factor: the drop.
    """

    method: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = 0.03
    step_epochs: int = 5
    factor: float = 0.7

    def scale(self, step: int, total: int, epochs: int) -> float:
        """Learning rate at optimiser step `step` of `total`, as a fraction of the peak."""
        warm = round(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))
        if self.schedule == "step":
            return float(self.factor ** (step * epochs // max(1, total) // self.step_epochs))
        return 1.0

    def configure(self, parameters: Iterable[torch.nn.Parameter], total: int, epochs: int) -> dict[str, Any]:
        """The optimiser and its per-step schedule, in the form that Lightning takes."""
        optimiser = (torch.optim.AdamW if self.method == "adamw" else Muon)(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay, betas=self.betas
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.scale(step, total, epochs))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
