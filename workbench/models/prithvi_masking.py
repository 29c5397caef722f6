"""Which tokens the encoder of Prithvi WxC sees, and in which order."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError

Masking = Literal["local", "global"]
"""Tokens of every window are masked, or whole windows."""


class Order(NamedTuple):
    """What is masked, and what is kept in the order in which the encoder sees it.

    Attributes:
        masked: windows ``[b, n]`` (global masking), or tokens of each window ``[b, g, n]`` (local).
        kept: all others.
    """

    masked: Int[Tensor, "b *g n"]
    kept: Int[Tensor, "b *g k"]

    def take(self, tokens: Float[Tensor, "g b l e"]) -> Float[Tensor, "h b k e"]:
        """The kept tokens."""
        rows = self._rows(tokens.shape)
        flat = tokens.flatten(0, rows.ndim - 1)
        return flat.index_select(0, rows.flatten()).view(*rows.shape, *flat.shape[1:])

    def put(self, encoded: Float[Tensor, "h b k e"], slots: Float[Tensor, "g b l e"]) -> Float[Tensor, "g b l e"]:
        """The kept tokens at their places among the slots, whose own values there do not count."""
        rows = self._rows(slots.shape)
        flat = slots.flatten(0, rows.ndim - 1).index_copy(0, rows.flatten(), encoded.flatten(0, rows.ndim - 1))
        return flat.view_as(slots)

    def check(self, batch: int, shape: tuple[int, int]) -> None:
        """Raise InputError unless this is an order of ``batch`` samples of ``shape`` windows and tokens in each."""
        found = (*self.kept.shape[:-1], self.kept.shape[-1] + self.masked.shape[-1])
        if found not in ((batch, *shape), (batch, shape[0])):
            raise InputError(
                f"an order needs the {shape[0]} windows of each of {batch} samples, or the {shape[1]} tokens of each "
                f"window; found {found}"
            )

    def _rows(self, shape: torch.Size) -> Int[Tensor, "_ b *k"]:
        """Where the kept ones are along the axes up to the one that they are indices of, flattened."""
        windows, batch, length, _ = shape
        device = self.kept.device
        if self.kept.ndim == 2:
            return self.kept.T * batch + torch.arange(batch, device=device)
        first = torch.arange(windows * batch, device=device).view(windows, batch, 1) * length
        return first + self.kept.transpose(0, 1)


def draw_order(masking: Masking, batch: int, shape: tuple[int, int], ratio: float, device: torch.device) -> Order:
    """A random order of the windows of each sample, or of the tokens of each window, the first of which are masked.

    Numbers are drawn on the CPU whatever the device, as in the published code: a seed gives the same order there.

    Args:
        masking: what is masked.
        batch: samples.
        shape: windows, and tokens in each.
        ratio: fraction that is masked, rounded down to a whole number; below 1.
        device: of the order.

    Raises:
        InputError: the ratio is out of range.
    """
    if not 0 <= ratio < 1:
        raise InputError(f"a mask ratio must be at least 0 and below 1, found {ratio}")
    order = torch.rand(batch, *(shape if masking == "local" else shape[:1])).argsort(-1).to(device)
    count = int(ratio * order.shape[-1])
    return Order(order[..., :count], order[..., count:])


def order_of(mask: Bool[Tensor, "b *g n"]) -> Order:
    """The order that masks the given windows ``[b, g]`` or tokens of windows ``[b, g, l]``; all others stay in order.

    Raises:
        InputError: samples, or windows, have different numbers of masked entries, or nothing is left.
    """
    counts = mask.sum(-1)
    count = int(counts.flatten()[0])
    if bool((counts != count).any()) or count == mask.shape[-1]:
        raise InputError(
            f"a mask needs the same number of masked entries, fewer than {mask.shape[-1]}, in every row; found "
            f"{int(counts.min())} to {int(counts.max())} in rows of {mask.shape[-1]}"
        )
    order = (~mask).argsort(dim=-1, stable=True)
    return Order(order[..., :count], order[..., count:])
