"""Prithvi WxC over several devices: parameters, gradients and optimiser states of every block in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from workbench.models.prithvi_blocks import Block

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.models.prithvi import PrithviWxC


def shard(model: PrithviWxC, mesh: DeviceMesh | None = None, dtype: torch.dtype | None = None) -> PrithviWxC:
    """Spread a network over the devices of a mesh, in place (fully sharded data parallelism, arXiv:2304.11277).

    Each block is one unit: it is gathered before its pass, forward and backward, and freed after it, so that a device
    holds its part of everything and one or two whole blocks. Embedding and output are one unit more. Blocks that are
    checkpointed stay so. Call it after the weights are loaded and before the optimiser is made.

    Args:
        model: the network.
        mesh: one-dimensional mesh of devices; all ranks by default.
        dtype: precision of the blocks, and of what is sent for them; bfloat16 as published. Gradients are added up,
            and embedding, output and optimiser work, in the precision of the parameters.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=model.unembed.weight.dtype if dtype else None)
    for part in model.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    return model
