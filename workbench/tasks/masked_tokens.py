"""Ensembles by masked tokens: at each step the network sees another part of the state."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_masking import Order, draw_order


def mask_tokens(network: torch.nn.Module, ratio: float, seed: int) -> None:
    """Make every later call of a network mask tokens at random, by the kind of masking that it is set to.

    The draw depends on `seed` and on the state alone, so that it does not matter which forecasts are advanced
    together, and a resumed rollout goes on to the bit.

    Args:
        network: `PrithviWxC`, in evaluation mode.
        ratio: fraction of the tokens that is masked.
        seed: of the draws; members of an ensemble have different ones.

    Raises:
        InputError: the network has no tokens to mask.
    """
    if not isinstance(network, PrithviWxC):
        raise InputError(
            f"rollout.mask_ratio masks tokens of a PrithviWxC, the model's network is {type(network).__name__}: make "
            "members with rollout.perturbation, or of several weights"
        )

    def masked(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return arguments, {**keywords, "mask_ratio": None, "order": _order(module, arguments[0], ratio, seed)}

    network.register_forward_pre_hook(masked, with_kwargs=True)


def _order(network: PrithviWxC, states: Tensor, ratio: float, seed: int) -> Order:
    """What is masked of each sample of ``states[b, t, c, *space]``."""
    rows = []
    for sample in states:
        drawn = zlib.crc32(sample[-1, 0].float().cpu().numpy().tobytes(), seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(drawn)
            rows.append(draw_order(network.masking, 1, network.tiling.shape, ratio, states.device))
    return Order(*(torch.cat(part) for part in zip(*rows, strict=True)))
