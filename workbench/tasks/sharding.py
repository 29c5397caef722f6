"""``trainer.strategy: fsdp``: every device holds a part of the weights, gradients and moments, block by block."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from workbench.errors import InputError
from workbench.models.parts import PARTS, folder_of, put_together, read_parts, take_apart, write_parts


class ShardedBlocks(ModelParallelStrategy):
    """Fully sharded data parallelism (Zhao et al., 2023, arXiv:2304.11277) over all devices, on GPUs and CPUs.

    The task spreads its network in ``configure_model``, unit by unit. Every rank writes its own part of a checkpoint,
    and nothing is gathered: ``last.ckpt`` names a folder ``last.parts-*`` beside it
    (`workbench.models.parts`). It goes on with any number of devices, sharded or not.
    """

    def setup_environment(self) -> None:
        """Lay all devices along one axis of data."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Refuse a network that is not in parts.

        Raises:
            InputError: the task does not spread its network.
        """
        module = trainer.lightning_module
        if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise InputError(
                f"trainer.strategy is fsdp, but {type(module).__name__} does not spread its network over devices in "
                "parts: use ddp"
            )
        super().setup(trainer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write new parts, then the file that names them: a save that is killed changes nothing."""
        path = Path(self.broadcast(filepath))
        checkpoint[PARTS] = self.broadcast(f"{path.stem}.parts-{secrets.token_hex(4)}")
        write_parts(path.parent / checkpoint[PARTS], take_apart(checkpoint))
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint in parts, of any number of ranks, or a whole one."""
        path = Path(self.broadcast(checkpoint_path))
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if PARTS not in content:
            return super().load_checkpoint(path, weights_only=True)
        model = self.model
        assert model is not None
        state: dict[str, Any] = {
            "state_dict": get_model_state_dict(model),
            "optimizer_states": [get_optimizer_state_dict(model, optimizer) for optimizer in self.optimizers],
        }
        tensors = take_apart(state)
        read_parts(folder_of(path, content), tensors)
        put_together(state, tensors)
        set_model_state_dict(model, state["state_dict"])
        for optimizer, moments, saved in zip(
            self.optimizers, state["optimizer_states"], content.get("optimizer_states", []), strict=False
        ):
            moments["param_groups"] = saved["param_groups"]
            set_optimizer_state_dict(model, optimizer, moments)
        return content
