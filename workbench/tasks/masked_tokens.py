"""Ensembles by masked tokens: in its first step, or in each, the network sees another part of the state."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_masking import Order, draw_order


def mask_tokens(task: Any, ratio: float, seed: int, steps: Literal["first", "all"] = "first") -> None:
    """Make the network of a task mask tokens at random in rollouts, by the kind of masking that it is set to.

    The draw depends on `seed` and on the state alone, so that it does not matter which forecasts are advanced
    together, and a resumed rollout goes on to the bit.

    Args:
        task: with a `PrithviWxC`, in evaluation mode.
        ratio: fraction of the tokens that is masked.
        seed: of the draws; members of an ensemble have different ones.
        steps: mask in the first step of each forecast, which `task.begin` begins, or in all of them.

    Raises:
        InputError: the network has no tokens to mask.
    """
    network = task.network
    if not isinstance(network, PrithviWxC):
        raise InputError(
            f"rollout.mask_ratio masks tokens of a PrithviWxC, the model's network is {type(network).__name__}: make "
            "members with rollout.perturbation, or of several weights"
        )
    begin, due = task.begin, steps == "all"

    def begun(*arguments: Any) -> Any:
        nonlocal due
        due = True
        return begin(*arguments)

    def masked(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        nonlocal due
        if not due:
            return None
        due = steps == "all"
        return arguments, {**keywords, "mask_ratio": None, "order": _order(module, arguments[0], ratio, seed)}

    task.begin = begun
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
