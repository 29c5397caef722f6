"""The small part of an IFactFormer block: a kernel for each axis, from means of the features over the other axes."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

ROTARY_SCALE = 64.0
ROTARY_BASE = 10000.0


def axis_means(u: Float[Tensor, "b n dim"], space: tuple[int, ...]) -> list[Float[Tensor, "b _ dim"]]:
    """Return, for each axis, the mean over all other axes."""
    axes = len(space)
    field = u.unflatten(1, space)
    # sums over the last axis first: a small field serves all axes but the last
    partial = field.sum(axes, keepdim=True) if axes > 1 else field
    means = []
    for axis in range(axes):
        source = field if axis == axes - 1 else partial
        others = [1 + a for a in range(axes) if a != axis]
        total = source.sum(others) if others else source
        means.append(total * (space[axis] / prod(space)))
    return means


class AxisFeatures(nn.Module):
    """Features of the nodes of one axis from means over the others: linear, then norm, gated GELU and linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_in = nn.Linear(dim, dim, bias=False)
        self.out_ffn = Normalised(dim)

    def forward(self, means: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
        """Return the features."""
        return self.out_ffn(self.to_in(means))


class Normalised(nn.Module):
    """A gated map after a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = Gated(dim)

    def forward(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
        """Normalise and map."""
        return self.fn(self.norm(x))


class Gated(nn.Module):
    """Linear to twice the channels, one half through a GELU times the other, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 2 * dim), nn.Identity(), nn.Identity(), nn.Linear(dim, dim))

    def forward(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
        """Map the channels."""
        value, gate = self.net[0](x).chunk(2, dim=-1)
        return self.net[3](functional.gelu(value) * gate)


class Frequencies(nn.Module):
    """Angular frequencies of the rotary positions, part of the state dict but not trained."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1 / ROTARY_BASE ** (torch.arange(0, width, 2) / width))


class AxisKernel(nn.Module):
    """Products of rotated queries and keys of the nodes of one axis, a matrix for each head."""

    def __init__(self, dim: int, heads: int, width: int, gain: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * width, bias=False)
        self.to_k = nn.Linear(dim, heads * width, bias=False)
        nn.init.xavier_uniform_(self.to_q.weight, gain)
        nn.init.xavier_uniform_(self.to_k.weight, gain)
        self.pos_emb = Frequencies(width)

    def turns(self, nodes: Float[Tensor, "n"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """Return cosine and sine of the angles by which the features of each node are turned."""
        angle = torch.outer(ROTARY_SCALE * nodes, self.pos_emb.inv_freq)
        return angle.cos(), angle.sin()

    def forward(self, features: Float[Tensor, "b n dim"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "b h n n"]:
        """Return the kernel of each sample and head."""
        weight = torch.cat([self.to_q.weight, self.to_k.weight])
        both = (features @ weight.T).unflatten(-1, (2, self.heads, 2, -1))
        first, second = both.unbind(-2)
        cos, sin = (t[:, None, None] for t in turn)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        q, k = turned.permute(2, 0, 3, 1, 4)
        return q @ k.mT
