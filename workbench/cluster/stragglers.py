"""Names a rank that holds up the others."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from workbench.cluster import job
from workbench.cluster.pulse import Pulse, column
from workbench.tasks.callbacks import gathered

WINDOW = 10
"""Steps over which ranks are compared, at least."""

SHARE = 0.2
"""Part of a step that a rank may take longer than the others before it is named."""


class Stragglers(pl.Callback):
    """Names a rank whose own work takes longer than that of the others by a fifth of a step, with its node.

    Own work is waiting for data and the forward pass. It is compared over `WINDOW` steps with the median of the other
    ranks; so a rank is named at most 3 `WINDOW` steps after it has become slow: the rest of a window, a whole one, and
    the time until the numbers are there. It is named again if it was well in between. With weights in parts (fsdp) a
    forward pass waits for other ranks, so that only waiting for data shows.
    """

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self.slow: set[int] = set()
        self.nodes: list[str] = []
        self._sum: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Ask every rank for its node."""
        self.nodes = gathered(trainer, job.node())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Compare, if there is enough to compare."""
        news = self.pulse.news
        if news is None or trainer.world_size == 1:
            return
        self._sum = news if self._sum is None else self._sum + news
        if column(self._sum, "batches")[0] < WINDOW:
            return
        total, self._sum = self._sum, None
        slow = behind(column(total, "own"), column(total, "seconds"))
        if trainer.is_global_zero:
            for rank in sorted(slow.keys() - self.slow):
                batches = column(total, "batches")[0]
                own, others = (1000 * x / batches for x in (column(total, "own")[rank], slow[rank]))
                print(
                    f"rank {rank} on node {self.nodes[rank]} holds up the others: it takes {own:.3g} ms a step for "
                    f"data and forward pass, the others {others:.3g} ms (step {trainer.global_step})",
                    file=sys.stderr,
                    flush=True,
                )
        self.slow = set(slow)


def behind(own: Tensor, seconds: Tensor) -> dict[int, float]:
    """Ranks whose own work exceeds the median of the others' by over `SHARE` of a step, and that median.

    Args:
        own: seconds of own work, a value a rank.
        seconds: seconds altogether.
    """
    found = {}
    for rank in range(len(own)):
        others = torch.cat([own[:rank], own[rank + 1 :]]).median().item()
        if own[rank].item() - others > SHARE * seconds.mean().item():
            found[rank] = others
    return found
