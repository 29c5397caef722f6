"""``trainer.strategy: fsdp``: every device holds a part of the weights, gradients and moments, block by block."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from workbench.errors import InputError


class ShardedBlocks(ModelParallelStrategy):
    """Fully sharded data parallelism (Zhao et al., 2023, arXiv:2304.11277) over all devices, on GPUs and CPUs.

    The task spreads its network in ``configure_model``, unit by unit. A checkpoint is one whole file, as without
    sharding, and goes on with any number of devices.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

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
