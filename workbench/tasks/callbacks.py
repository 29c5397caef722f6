"""Callbacks that every training runs with."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from torchmetrics import Metric


class RankState(pl.Callback):
    """Keeps in the checkpoint what is different on every rank: random generators, and metrics that are half summed up.

    Each rank starts with its own random numbers, so that noise is not the same on all of them. On another number of
    ranks than before, a rank that is new starts afresh, and rank 0 takes over the sums of all.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []
        self._generators: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather the state of every rank: every rank runs this, rank 0 writes the file."""
        checkpoint["ranks"] = gathered(trainer, {"generators": _generators(), "metrics": _metric_states(module)})

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the states until training begins: setting up draws numbers in between."""
        self._loaded = checkpoint.get("ranks", [])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give each rank numbers of its own, and the sums back."""
        rank, states = trainer.global_rank, self._loaded
        if rank:
            _seed(torch.initial_seed() + rank)
        if rank < len(states):
            self._generators = states[rank]["generators"]
        if len(states) == trainer.world_size:
            _restore_metrics(module, states[rank]["metrics"])
        elif states:
            _restore_metrics(module, _summed([s["metrics"] for s in states], keep=rank == 0))
        self._loaded = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """Put the generators in place (a run resumed inside an epoch has no epoch start)."""
        state, self._generators = self._generators, None
        if state is not None:
            _restore_generators(state)


def gathered(trainer: pl.Trainer, value: Any) -> list[Any]:
    """`value` of every rank, on every rank."""
    found: list[Any] = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(found, value)
    return found


def _generators() -> dict[str, Any]:
    """States of the generators of Python, numpy and torch, as plain types and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()  # of the device of this rank
    return state


def _restore_generators(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def _metrics(module: pl.LightningModule) -> dict[str, Metric]:
    """The metrics whose sums belong to a checkpoint."""
    return {name: m for name, m in module.named_modules() if isinstance(m, Metric) and m.state_dict()}


def _metric_states(module: pl.LightningModule) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: value.detach().cpu().clone() for key, value in metric.state_dict().items()}
        for name, metric in _metrics(module).items()
    }


def _summed(states: list[dict[str, dict[str, torch.Tensor]]], keep: bool) -> dict[str, dict[str, torch.Tensor]]:
    """The sums of all ranks for the one that keeps them, zeros for the others."""
    return {
        name: {key: sum((s[name][key] for s in states[1:]), first) * keep for key, first in metric.items()}
        for name, metric in states[0].items()
    }


def _restore_metrics(module: pl.LightningModule, states: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, metric in _metrics(module).items():
        metric.load_state_dict(states[name])


def resumable(trainer: pl.Trainer) -> bool:
    """Whether a checkpoint at the end of this batch goes on exactly.

    It does not hold the gradients of half an accumulation, and a validation that comes next would be left out.
    """
    loop = trainer.fit_loop.epoch_loop
    due = loop.batch_progress.is_last_batch or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
    return not (due or loop._should_accumulate())


class WholeSteps(pl.Callback):
    """Lets checkpoints that are due by time wait for a batch after which training goes on exactly."""

    def __init__(self) -> None:
        self._waiting: dict[ModelCheckpoint, float | None] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The step that a run resumes from is saved already, and must not be saved again a batch later."""
        for checkpoint in _model_checkpoints(trainer):
            checkpoint._last_global_step_saved = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop their clock until then."""
        for checkpoint in _model_checkpoints(trainer):
            if not resumable(trainer):
                self._waiting.setdefault(checkpoint, checkpoint._last_time_checked)
                checkpoint._last_time_checked = None
            elif checkpoint in self._waiting:
                checkpoint._last_time_checked = self._waiting.pop(checkpoint)


def _model_checkpoints(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]


class ContinueEpoch(pl.Callback):
    """Fits the counters of the trainer to an epoch that goes on with other ranks or another batch size.

    What is left of the epoch then has another number of batches than the trainer would count, and the learning rate
    goes on at the same place, counted in epochs.
    """

    def __init__(self) -> None:
        self.steps: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Optimiser steps per epoch."""
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember how many steps an epoch had when the checkpoint was written."""
        self.steps = state_dict["steps"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Set the counters."""
        before, self.steps = self.steps, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        done = trainer.datamodule.loaders["train"].batches_done  # type: ignore[attr-defined]
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if trainer.fit_loop.restarting and batches.ready != done:
            late = batches.processed - batches.completed
            batches.ready = batches.started = batches.processed = done
            batches.completed = done - late
        if before not in (None, self.steps):
            for config in trainer.lr_scheduler_configs:
                config.scheduler.last_epoch = round(config.scheduler.last_epoch * self.steps / before)


class EpochLines(ProgressBar):
    """What a progress bar shows, in one line an epoch: for logs, where a bar would break into hundreds of lines."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = True

    def enable(self) -> None:
        """Print."""
        self.shown = True

    def disable(self) -> None:
        """Print nothing, as on all ranks but the first."""
        self.shown = False

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the line."""
        if self.shown:
            metrics = ", ".join(f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items())
            last = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            print(f"epoch {trainer.current_epoch + 1}{last}: {metrics}", flush=True)


class Summary(pl.Callback):
    """Says at the end of `fit` what it came to, and which fraction of the time the trainer waited for data.

    The same goes to ``fit.json`` in the run directory: its presence means that the training is complete.
    """

    def __init__(self, run_dir: str) -> None:
        self.path = Path(run_dir) / "fit.json"
        self.began = 0.0
        self.replaced = 0

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the number of samples that were replaced so far, on all ranks."""
        checkpoint["replaced"] = self._replaced(trainer)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.replaced = checkpoint.get("replaced", 0)

    def _replaced(self, trainer: pl.Trainer) -> int:
        loaders = trainer.datamodule.loaders.values()  # type: ignore[attr-defined]
        return self.replaced + sum(gathered(trainer, sum(loader.replaced for loader in loaders)))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print and write the summary."""
        replaced = self._replaced(trainer)
        if not trainer.is_global_zero:
            return
        loader = trainer.datamodule.loaders["train"]  # type: ignore[attr-defined]
        seconds = time.perf_counter() - self.began
        checkpoint = next(c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None))
        best = checkpoint.best_model_score  # type: ignore[attr-defined]
        summary = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": round(seconds, 2),
            "waited_fraction": round(loader.waited / max(seconds, 1e-9), 4),
            "replaced_samples": replaced,
            "best_validation_loss": None if best is None else float(best),
        }
        self.path.write_text(json.dumps(summary, indent=1))
        (self.path.parent / "data_card.json").write_text(json.dumps(trainer.datamodule.card(), indent=1))  # type: ignore[attr-defined]
        outcome = "no validation was due, so that no checkpoint is the best (trainer.max_steps, val_check_interval)"
        if best is not None:
            outcome = f"best validation loss {best:.4g}: {checkpoint.best_model_path}"  # type: ignore[attr-defined]
        print(
            f"trained {summary['epochs']} epochs ({summary['steps']} steps) in {seconds:.0f} s, waiting for data "
            f"{100 * loader.waited / max(seconds, 1e-9):.1f} % of the time; {outcome}"
        )
        if replaced:
            print(f"{replaced} samples touched damaged chunks and were replaced (data.damaged: skip)")
