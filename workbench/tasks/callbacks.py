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


class RandomState(pl.Callback):
    """Keeps the state of every random generator in the checkpoint, so that a resumed run draws the same numbers."""

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States of Python, numpy and torch generators, as plain types and tensors."""
        version, internal, gauss = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
        state: dict[str, Any] = {
            "python": [version, list(internal), gauss],
            "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, cached],
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the states until the first batch: setting up draws numbers in between."""
        self._pending = state_dict

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """Put the remembered states in place (a run resumed inside an epoch has no epoch start)."""
        state, self._pending = self._pending, None
        if state is None:
            return
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


class Summary(pl.Callback):
    """Says at the end of `fit` what it came to, and which fraction of the time the trainer waited for data.

    The same goes to ``fit.json`` in the run directory: its presence means that the training is complete.
    """

    def __init__(self, run_dir: str) -> None:
        self.path = Path(run_dir) / "fit.json"
        self.began = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print and write the summary."""
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
            "best_validation_loss": None if best is None else float(best),
        }
        self.path.write_text(json.dumps(summary, indent=1))
        (self.path.parent / "data_card.json").write_text(json.dumps(trainer.datamodule.card(), indent=1))  # type: ignore[attr-defined]
        print(
            f"trained {summary['epochs']} epochs ({summary['steps']} steps) in {seconds:.0f} s, waiting for data "
            f"{100 * loader.waited / max(seconds, 1e-9):.1f} % of the time; best validation loss "
            f"{summary['best_validation_loss']:.4g}: {checkpoint.best_model_path}"  # type: ignore[attr-defined]
        )
