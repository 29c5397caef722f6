"""What Prithvi WxC refuses, before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from torch import Tensor

from workbench.errors import InputError

CALENDAR = 4
"""Channels of the time of the latest input: cosine and sine of the day of the year, then of the hour of the day."""


def check_sizes(history: int, static_channels: int, embed_dim: int, n_heads: int) -> None:
    """Raise InputError where the sizes of a network do not go together."""
    if history < 1 or static_channels < CALENDAR:
        raise InputError(
            f"Prithvi WxC needs a history of at least 1 and static channels with the {CALENDAR} of the calendar, found "
            f"history {history} and {static_channels} static channels"
        )
    if n_heads < 1 or embed_dim < 4 or embed_dim % 4 or embed_dim % n_heads:
        raise InputError(f"embed_dim must be a multiple of 4 and of n_heads ({n_heads}), found {embed_dim}")


def check_stack(name: str, pairs: int, checkpointed: Collection[int], moved: bool) -> None:
    """Raise InputError where there are no such blocks; warn where the output stays moved."""
    outside = sorted(set(checkpointed) - set(range(2 * pairs + 1)))
    if pairs < 0 or outside:
        raise InputError(
            f"checkpoint_{name} counts {2 * pairs + 1} blocks ({pairs} pairs and one) from 0, found {outside}"
        )
    if moved and pairs % 2:
        warnings.warn(
            f"with {name}_shifting and an odd number of pairs ({pairs}) the output stays moved by half a window, as in "
            "the published code; take an even number",
            stacklevel=3,
        )


def check_field(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise InputError where a tensor is missing or of another shape."""
    if tensor is None or tuple(tensor.shape) != shape:
        found = "none" if tensor is None else tuple(tensor.shape)
        raise InputError(f"this Prithvi WxC needs {name} of shape {shape}, found {found}")
