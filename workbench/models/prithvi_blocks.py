"""The transformer of Prithvi WxC: blocks that attend within windows and across them in turn.

What a block keeps for the way back is its input, queries, keys, values and what the attention made of them, the field
after the attention, and the input of the GELU: 10 values a token and channel where the usual formulation keeps 16 and
more. What normalisation and GELU put out is computed again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from workbench.models.layers import autocast_type
from workbench.models.prithvi_products import linear_of, linear_of_norm
from workbench.models.prithvi_tokens import Tiling

Across = Literal["tokens", "windows"]
"""What attends to each other: tokens of one window, or tokens at one place of all windows."""


class Attention(nn.Module):
    """Multi-head attention without biases; queries, keys and values of a head lie side by side."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv_layer = nn.Linear(dim, 3 * dim, bias=False)
        self.w_layer = nn.Linear(dim, dim, bias=False)

    def forward(self, qkv: Float[Tensor, "g b l q"], across: Across) -> Float[Tensor, "g b l e"]:
        """What `w_layer` takes, given what `qkv_layer` puts out; sequences are views, whichever way they run."""
        heads = qkv.unflatten(-1, (self.heads, -1))
        # parted before the axes are swapped, so that the gradients are joined in the layout that the product needs
        q, k, v = (sequences(part, across) for part in heads.chunk(3, dim=-1))
        found = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        found = found.transpose(1, 2)
        found = found if across == "tokens" else found.transpose(0, 1)
        return found.reshape(*qkv.shape[:-1], -1)


def sequences(part: Float[Tensor, "g b l h d"], across: Across) -> Float[Tensor, "n h s d"]:
    """The sequences of tokens that attend to each other, one after the other; a view."""
    found = part.flatten(0, 1) if across == "tokens" else part.flatten(1, 2).transpose(0, 1)
    return found.transpose(1, 2)


class MLP(nn.Module):
    """The layers of linear, GELU, linear, each with dropout, under their published numbers."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )


class Block(nn.Module):
    r"""One pre-norm transformer block.

    .. math:: z \leftarrow z + D\,A(\mathrm{LN}(z)), \qquad z \leftarrow z + D\,M(\mathrm{LN}(z))

    with attention A, an MLP M and D that leaves out the branch for a sample with probability ``drop_path`` in training
    (stochastic depth, Huang et al., 2016, arXiv:1603.09382) and divides by 1 - ``drop_path`` otherwise.
    """

    def __init__(self, dim: int, heads: int, multiplier: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads, dropout))
        self.ff = nn.Sequential(nn.LayerNorm(dim), MLP(dim, multiplier * dim, dropout))
        self.drop_path, self.dropout = drop_path, dropout

    @property
    def random(self) -> bool:
        """Whether two passes over the same input differ."""
        return self.training and (self.dropout > 0 or self.drop_path > 0)

    def forward(self, z: Float[Tensor, "g b l e"], across: Across) -> Float[Tensor, "g b l e"]:
        """Return the tokens after the block."""
        dtype = autocast_type(z) or z.dtype
        norm, attention = cast("tuple[nn.LayerNorm, Attention]", tuple(self.attention))
        heads = attention(linear_of_norm(norm, attention.qkv_layer, z, dtype), across)
        z = self.plus(z, attention.w_layer, heads)
        norm, net = cast("nn.LayerNorm", self.ff[0]), cast("MLP", self.ff[1]).net
        hidden = linear_of_norm(norm, cast("nn.Linear", net[0]), z, dtype)
        if self.training and self.dropout > 0:
            return z + self.dropped(net[1:](hidden))
        return self.plus(z, cast("nn.Linear", net[3]), hidden, gelu=True)

    def plus(
        self, z: Float[Tensor, "g b l e"], linear: nn.Linear, h: Float[Tensor, "g b l d"], gelu: bool = False
    ) -> Float[Tensor, "g b l e"]:
        """Add the last linear map of a branch to the tokens."""
        if self.training and self.drop_path > 0:
            return z + self.dropped(linear_of(linear, h, gelu=gelu))
        return linear_of(linear, h, z, gelu)

    def dropped(self, branch: Float[Tensor, "g b l e"]) -> Float[Tensor, "g b l e"]:
        """The branch, left out for some samples."""
        keep = 1 - self.drop_path
        return branch * (torch.rand(branch.shape[1], 1, 1, device=branch.device) < keep).to(branch) / keep


class Alternating(nn.Module):
    """Blocks that attend to tokens of a window and across windows in turn, the former first and last.

    Args:
        pairs: pairs of blocks; one more follows them.
        block: arguments of each block.
        checkpointed: blocks of which only the input is kept for the way back.
        shifted: if given, the tokens of this tiling are moved by half a window after the first block across windows,
            back after the next, and so on. Nothing is masked, so that windows then reach across the pole and the date
            line, as published.
    """

    def __init__(
        self, pairs: int, block: tuple[Any, ...], checkpointed: Collection[int], shifted: Tiling | None
    ) -> None:
        super().__init__()
        self.transformers = nn.ModuleList(Block(*block) for _ in range(2 * pairs + 1))
        self.checkpointed, self.shifted = frozenset(checkpointed), shifted

    def forward(self, z: Float[Tensor, "g b l e"]) -> Float[Tensor, "g b l e"]:
        """Return the tokens after all blocks; after an odd number of moves they stay moved, as published."""
        sign = 1
        for number, block in enumerate(self.transformers):
            across = "windows" if number % 2 else "tokens"
            if number in self.checkpointed and torch.is_grad_enabled():
                random = cast("Block", block).random
                z = checkpoint(block, z, across, use_reentrant=False, preserve_rng_state=random)
            else:
                z = block(z, across)
            if self.shifted and number % 2:
                z, sign = self.shifted.rolled(z, sign), -sign
        return z


class Stack(nn.Module):
    """Encoder or decoder, under the names of the published parameters."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        self.lgl_block = Alternating(*arguments)

    def forward(self, z: Float[Tensor, "g b l e"]) -> Float[Tensor, "g b l e"]:
        """Return the tokens after all blocks."""
        return self.lgl_block(z)
