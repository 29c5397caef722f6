"""A training that is told to stop saves itself at the end of the batch, and goes back into the queue where it may."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from workbench.cluster import job
from workbench.cluster.pulse import Pulse, column
from workbench.tasks.callbacks import gathered, resumable


class Preempted(Exception):
    """The training was told to stop and has saved a checkpoint."""


class Preemption(pl.Callback):
    """Catches SIGUSR1 and SIGTERM as a flag; saves ``last.ckpt`` at the end of a batch and ends the training.

    SIGUSR1 says that the time of the job is nearly over: the job is put back into the queue of SLURM. SIGTERM says that
    somebody ends the job: a scheduler that preempts it puts it back itself, and whoever cancels it wants it to end. The
    signal may reach any rank. All stop after the same batch, between two optimiser steps, so that every attempt makes
    at least one. A validation that is under way, or due, comes first.

    Args:
        run_dir: where ``checkpoints/last.ckpt`` and ``attempts.jsonl`` are kept.
        pulse: what tells all ranks of the signal.

    Raises:
        Preempted: the checkpoint is there.
    """

    def __init__(self, run_dir: str, pulse: Pulse) -> None:
        self.run_dir, self.pulse = Path(run_dir), pulse
        self.stop, self.first = 0, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over the signals from Lightning, whose handlers communicate inside of a step; it gives them back."""
        self.first = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR1, signal.SIGTERM):
                signal.signal(number, self._note)
        nodes = sorted(set(gathered(trainer, job.node())))
        if trainer.is_global_zero:
            count = sum(entry["event"] == "started" for entry in job.attempts(self.run_dir)) + 1
            job.note(
                self.run_dir, "started", attempt=count, job=job.job_number(), nodes=nodes, ranks=trainer.world_size,
                step=self.first,
            )  # fmt: skip
            if count > 1:
                print(f"attempt {count}, from step {self.first}, on {', '.join(nodes)}", flush=True)

    def _note(self, number: int, _: Any) -> None:
        self.pulse.signal = number

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Stop if any rank was told to, as soon as a checkpoint goes on exactly."""
        if self.pulse.news is not None and not self.stop:
            self.stop = int(column(self.pulse.news, "signal").max())
        if self.stop and resumable(trainer):
            trainer.save_checkpoint(self.run_dir / "checkpoints" / "last.ckpt")
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop between two epochs, with the checkpoint of the end of the last one and all that was logged there."""
        if self.stop:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        name = signal.Signals(self.stop).name
        text = f"{name}: saved at step {trainer.global_step}, {trainer.global_step - self.first} steps after the start"
        if trainer.is_global_zero:
            job.note(self.run_dir, "stopped", signal=name, step=trainer.global_step)
            if self.stop == signal.SIGUSR1 and job.under_slurm():
                wrong = job.requeue()
                text += f"; scontrol requeue: {wrong or 'back in the queue'}"
            print(text, flush=True)
        self.pulse.settle()
        trainer.strategy.barrier()  # whoever ends first must not end the job before it is in the queue
        raise Preempted(text)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note that the training is complete."""
        if trainer.is_global_zero:
            job.note(self.run_dir, "finished", step=trainer.global_step)
