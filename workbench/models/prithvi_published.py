"""The published form of Prithvi WxC's state dict: attention masks of moved windows, which no network ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.models.prithvi_tokens import Tiling

if TYPE_CHECKING:
    from workbench.models.prithvi import PrithviWxC

SHIFTERS = ("decoder_shifter", "decoder.lgl_block.shifter")


def drop_shift_masks(_: Any, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
    """Take the masks out of a state dict that is about to be loaded."""
    for shifter in SHIFTERS:
        for name in ("local_mask", "global_mask"):
            state.pop(f"{prefix}{shifter}.{name}", None)


def published_state(model: PrithviWxC) -> dict[str, Tensor]:
    """The state dict that the authors' code loads strictly: with the masks where the decoder moves its windows."""
    state = dict(model.state_dict())
    if model.decoder.lgl_block.shifted is not None:
        local, across = shift_masks(model.tiling, model.mask_token.device)
        for shifter in SHIFTERS:
            state |= {f"{shifter}.local_mask": local, f"{shifter}.global_mask": across}
    return state


def shift_masks(tiling: Tiling, device: torch.device) -> tuple[Bool[Tensor, "g 1 l l"], Bool[Tensor, "l 1 g g"]]:
    """False between tokens of the first row of windows in the first half of a window, and between these windows."""
    windows, tokens = tiling.shape
    row = torch.arange(windows, device=device) < tiling.windows[1]
    half = torch.arange(tokens, device=device) < tokens // 2
    local = ~(row[:, None, None] & (half[:, None] & half))
    across = ~(half[:, None, None] & (row[:, None] & row))
    return local[:, None], across[:, None]
