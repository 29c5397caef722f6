"""Keeps watch over the ranks of a training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from workbench.cluster import job
from workbench.cluster.preemption import Preempted
from workbench.cluster.watch import Hub, Spoke, Watch
from workbench.tasks.callbacks import gathered


class LostRanks(pl.Callback):
    """Keeps the watch of `workbench.cluster.watch` over all ranks of a training.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self.watch: Watch | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Connect all ranks."""
        if stage != "fit" or trainer.world_size == 1:
            return
        nodes, rank = gathered(trainer, job.node()), trainer.global_rank
        hub = Hub(nodes, lambda verdict: self.lost(verdict, first=True)) if rank == 0 else None
        port, token = gathered(trainer, hub and (hub.port, hub.token))[0]
        address = trainer.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
        self.watch = hub or Spoke(rank, (address, port), token, nodes, lambda v: self.lost(v, first=rank == 1))
        self.watch.start()

    def lost(self, verdict: str, first: bool) -> None:
        """Say who is lost, and how to go on.

        A node that has failed brings the job back into the queue of SLURM, before the others end and the job with them:
        SLURM itself would notice only after minutes. Not where no batch had begun: that may happen again and again.
        """
        print(
            f"workbench fit: {verdict}; this training cannot go on without it. Continue from the last checkpoint with: "
            "workbench fit --resume",
            file=sys.stderr,
        )
        if first and self.run_dir.exists():
            job.note(self.run_dir, "lost", reason=verdict)
        if first and self.watch and self.watch.silent and self.watch.at and job.under_slurm():
            print(f"scontrol requeue: {job.requeue() or 'back in the queue'}", flush=True)

    def _step(self) -> None:
        if self.watch:
            self.watch.at += 1

    def on_train_batch_start(self, *_: Any) -> None:
        """Note progress."""
        self._step()

    def on_before_backward(self, *_: Any) -> None:
        """Note progress."""
        self._step()

    def on_train_batch_end(self, *_: Any) -> None:
        """Note progress."""
        self._step()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Note progress."""
        self._step()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Say goodbye, with the reason if it is an error."""
        if self.watch:
            text = " ".join(str(exception).split())
            reason = "" if isinstance(exception, Preempted) else f"{type(exception).__name__}: {text}"[:300]
            self.watch.leave(reason)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Say goodbye."""
        if self.watch:
            self.watch.leave()
