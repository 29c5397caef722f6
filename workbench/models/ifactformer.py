"""Implicit factorised transformer (IFactFormer; Yang et al., 2026, doi 10.1007/s11433-024-2666-9)."""

from math import pi
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import InputError
from workbench.models.base import Network
from workbench.models.ifactformer_axes import AxisFeatures, AxisKernel, axis_means
from workbench.models.ifactformer_mixing import Layout, mix
from workbench.models.layers import autocast_type

AXES = "xyz"
CHANNEL_BOX = (4 * pi, 2.0, 4 * pi / 3)
KERNEL_WIDTH = 3
"""Channels of the queries and keys of an axis, in units of the channels of a head."""
FOURIER_SCALE = 8.0


class IFactFormer(Network):
    r"""Implicit factorised transformer: one block of axis-wise attention, iterated as explicit Euler steps.

    .. math:: u_{l+1} = u_l + \tfrac{1}{L}\,F(u_l), \qquad
        F(u) = W_2\,\sigma\Big(\sum_{a,k} W_{ak}\,\nu(K_{ak}(\hat u)\,\hat u V_k^T)\Big), \qquad \hat u = \mathrm{LN}(u)

    with GELU for :math:`\sigma`. The kernel :math:`K_{ak} = q_{ak} k_{ak}^T` of axis a and head k comes from the mean
    of the features over the other axes, with rotary positions and without softmax; it acts along its axis only, so
    that the cost grows linearly with the nodes of each other axis. "parallel" (IFactFormer-m) sums over the axes, each
    acting on the same values; "chained" (IFactFormer-o, and FactFormer, Li et al., 2023, arXiv:2305.17560) applies
    them one after the other. Parameters have the names of the authors' code, so that a published state dict loads as
    it is. Gradients are exact; second derivatives are not available.

    Two versions were published. ``norm: plane`` with ``extra_head: true`` is that of February 2025 (1 181 763
    parameters at the paper's sizes), the defaults are that of December 2025 (1 163 331).

    Args:
        in_channels: Channels of the input: those of all steps of the history, the oldest first.
        out_channels: Channels of the output.
        space: Points along each axis of the training grid, one to three axes.
        dim: Channels of the hidden field; its half must be a multiple of the channels of one step. Good values: 24
            to 96.
        heads: Heads of the attention. Good values: 2 to 5.
        dim_head: Channels of a head, an even number. Good values: 16 to 96.
        depth: Blocks with parameters of their own. Good values: 1.
        iterations: Steps L of each block. Good values: 4 to 10.
        history: Steps that the input holds; the same as ``data.history``.
        attention: "parallel" (IFactFormer-m) or "chained" (IFactFormer-o).
        norm: "channel" normalises each channel over all nodes, "plane" each plane of the first axis over its nodes and
            all channels.
        extra_head: Two more linear maps with a GELU between them after each parallel block.
        coords: "reference" puts the nodes of every axis at equal distances from 0 to the end of ``box``, both ends
            included, on any grid; "true" takes the coordinates of the record.
        box: Length of each axis for ``coords: reference``; null for the channel flow's 4 pi, 2, 4 pi / 3 (the first
            of them for fewer axes).
        gain: Gain of the initial queries and keys. The published 0.02 starts chained attention so close to zero that
            its gradients vanish at first. Good values: 0.02; 0.5 to 1 for "chained".

    Raises:
        InputError: Sizes that do not divide as described, or a field whose axes or nodes are not those expected.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: tuple[int, ...],
        dim: int = 96,
        heads: int = 5,
        dim_head: int = 96,
        depth: int = 1,
        iterations: int = 10,
        history: int = 1,
        attention: Literal["parallel", "chained"] = "parallel",
        norm: Literal["channel", "plane"] = "channel",
        extra_head: bool = False,
        coords: Literal["reference", "true"] = "reference",
        box: tuple[float, ...] | None = None,
        gain: float = 0.02,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        self.box = CHANNEL_BOX[: len(space)] if box is None else tuple(box)
        check_sizes(in_channels, self.space, self.box, dim, dim_head, history)
        if extra_head and attention == "chained":
            raise InputError(
                "extra_head belongs to attention: parallel, found attention: chained. Set extra_head to false."
            )
        self.history, self.coords = history, coords
        self.record_nodes: tuple[Tensor, ...] | None = None
        fields = in_channels // history
        self.to_in = nn.Sequential(
            nn.Conv2d(fields, dim // 2, 1, groups=fields),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, (history, 1), bias=False),
        )
        block = (dim, heads, dim_head, len(space), attention == "chained", norm == "plane", extra_head, gain)
        self.encoder = Encoder(dim, len(space), depth, iterations, block)
        # places without parameters keep the published numbers
        self.simple_to_out = nn.Sequential(
            nn.Identity(), nn.Conv1d(dim, dim // 2, 1, bias=False), nn.GELU(), nn.Conv1d(dim // 2, out_channels, 1)
        )

    def place(self, coordinates: tuple[Float[Tensor, "_"], ...]) -> None:
        """Take the coordinates of the record, for ``coords: true``."""
        self.record_nodes = coordinates

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Lift the channels, iterate the blocks on the field with channels last, project."""
        batch, space = len(x), tuple(x.shape[2:])
        if x.shape[1] != self.in_channels:
            raise InputError(
                f"the input of this IFactFormer holds {self.in_channels} channels, found {x.shape[1]}. Give "
                f"{self.history} steps of {self.in_channels // self.history} channels."
            )
        nodes = self.nodes(space, x.device)
        dtype = product_type(x)
        with torch.autocast(x.device.type, enabled=False):
            matrix, last, bias = map(self.simple_to_out.get_parameter, ("1.weight", "3.weight", "3.bias"))
            x = x.to(last.dtype)
            u = self.encoder(self.lift(x.flatten(2)), space, [n.to(x) for n in nodes], dtype or x.dtype)
            hidden = functional.gelu(u @ matrix[..., 0].T)
            y = torch.baddbmm(bias[:, None], last[..., 0].expand(batch, -1, -1), hidden.mT)
        return y.view(batch, -1, *space)

    def lift(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b n dim"]:
        """Map each input channel by itself, then all of them and all steps together; channels come last."""
        fields = self.in_channels // self.history
        weight, bias, mixing = map(self.to_in.get_parameter, ("0.weight", "0.bias", "2.weight"))
        x = x.unflatten(1, (self.history, fields, 1))
        hidden = functional.gelu(torch.addcmul(bias.view(fields, -1, 1), x, weight.view(fields, -1, 1)))
        # (step, channel) side by side on both sides
        return hidden.flatten(1, 3).mT @ mixing[..., 0].transpose(1, 2).flatten(1).T

    def nodes(self, space: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        """Return the coordinates of the nodes along each axis."""
        if len(space) != len(self.space):
            raise InputError(
                f"this IFactFormer was built for {len(self.space)} space axes {self.space}, found a field on {space}. "
                f"Give fields with {len(self.space)} axes, or build the network for {len(space)}."
            )
        if self.coords == "reference":
            # in single precision whatever the precision of the network, as published
            return tuple(torch.linspace(0, a, n, device=device) for a, n in zip(self.box, space, strict=True))
        if self.record_nodes is None:
            raise InputError(
                "coords: true needs the coordinates of the record and none were given. Build the network in a task, "
                "call place(coordinates), or set coords to reference."
            )
        placed = tuple(len(n) for n in self.record_nodes)
        if placed != space:
            raise InputError(
                f"this IFactFormer knows the coordinates of a grid of {placed} nodes (coords: true), found a field "
                f"on {space}. Interpolate the field to that grid, or call place(coordinates) with those of the field."
            )
        return self.record_nodes


def check_sizes(
    in_channels: int, space: tuple[int, ...], box: tuple[float, ...], dim: int, dim_head: int, history: int
) -> None:
    """Raise InputError where the sizes of a network do not go together."""
    if not 1 <= len(space) <= len(AXES):
        raise InputError(
            f"IFactFormer takes fields with 1 to 3 space axes, found {len(space)}: {space}. Move an axis to the "
            f"channels."
        )
    if len(box) != len(space):
        raise InputError(
            f"box needs one length for each of the {len(space)} space axes {space}, found {len(box)}: {box}."
        )
    if history < 1 or in_channels % history:
        raise InputError(
            f"history must divide the {in_channels} input channels, found {history}. Set history to data.history."
        )
    if dim % 2 or (dim // 2) % (in_channels // history):
        fields = in_channels // history
        raise InputError(
            f"half of dim must be a multiple of the {fields} channels of one step, found dim {dim}. Set dim to a "
            f"multiple of {2 * fields}, for instance {2 * fields * max(1, round(dim / 2 / fields))}."
        )
    if dim_head % 2:
        raise InputError(f"dim_head must be even (rotary positions turn pairs), found {dim_head}. Add 1.")


def product_type(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast asks for, or None without autocast."""
    dtype = autocast_type(x)
    if dtype == torch.float16:
        raise InputError(
            "IFactFormer cannot run in float16: its kernels start at about 1e-5, which float16 does not resolve. "
            "Set trainer.precision to bf16-mixed or 32-true."
        )
    return dtype


class Encoder(nn.Module):
    """``depth`` pairs of a position field, added once, and a block, iterated."""

    def __init__(self, dim: int, axes: int, depth: int, iterations: int, block: tuple) -> None:
        super().__init__()
        self.iterations = iterations
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Sequential(Positions(dim, axes), nn.Linear(dim, dim)), Block(*block)])
            for _ in range(depth)
        )

    def forward(
        self, u: Float[Tensor, "b n dim"], space: tuple[int, ...], nodes: list[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "b n dim"]:
        """Return the field after all iterations of all blocks; large matrix products are in ``dtype``."""
        for pair in self.layers:
            position, block = cast("tuple[nn.Sequential, Block]", pair)
            u = u + position(nodes)
            turns = [kernel.turns(n) for kernel, n in zip(block.kernels, nodes, strict=True)]
            for _ in range(self.iterations):
                u = torch.add(u, block(u, space, turns, dtype), alpha=1 / self.iterations)
        return u


class Positions(nn.Module):
    """Random Fourier features of the coordinates: sine and cosine of fixed random directions (3, dim / 2)."""

    def __init__(self, dim: int, axes: int) -> None:
        super().__init__()
        self._B = nn.Parameter(FOURIER_SCALE * torch.randn(axes, dim // 2), requires_grad=False)

    def forward(self, nodes: list[Float[Tensor, "_"]]) -> Float[Tensor, "n dim"]:
        """Return the features at every node of the grid."""
        phase = (2 * pi * torch.cartesian_prod(*nodes).view(-1, len(nodes))) @ self._B
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class Block(nn.Module):
    """One step's change of the field: attention along the axes, normalised, and a small map of the channels."""

    def __init__(
        self, dim: int, heads: int, dim_head: int, axes: int, chained: bool, plane: bool, extra_head: bool, gain: float
    ) -> None:
        super().__init__()
        self.heads, self.plane = heads, plane
        self.branches = (tuple(range(axes)),) if chained else tuple((axis,) for axis in range(axes))
        self.in_norm = nn.LayerNorm(dim)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_in = nn.Linear(dim, dim, bias=False)
        for name in AXES[:axes]:
            # places without parameters keep the published numbers, here and below
            lead = [] if name == "x" else [nn.Identity()]
            setattr(self, f"to_{name}", nn.Sequential(*lead, AxisFeatures(dim)))
            setattr(self, f"low_rank_kernel_{name}", AxisKernel(dim, heads, KERNEL_WIDTH * dim_head, gain))
        hidden = heads * dim_head * len(self.branches)
        lead = [nn.Identity()] * (1 if plane else 2)
        self.to_out = nn.Sequential(*lead, *two_layers(hidden, dim))
        self.to_out_1 = two_layers(dim, dim) if extra_head else None

    @property
    def kernels(self) -> list[AxisKernel]:
        """The kernels of all axes."""
        return [getattr(self, f"low_rank_kernel_{name}") for name in AXES if hasattr(self, f"low_rank_kernel_{name}")]

    def forward(
        self,
        u: Float[Tensor, "b n dim"],
        space: tuple[int, ...],
        turns: list[tuple[Tensor, Tensor]],
        dtype: torch.dtype,
    ) -> Float[Tensor, "b n dim"]:
        """Return F(u); kernels and statistics are in the precision of u, large matrix products in ``dtype``."""
        u = self.in_norm(u)
        kernels = []
        for name, kernel, mean, turn in zip(AXES, self.kernels, axis_means(u, space), turns, strict=False):
            # the mean goes before the linear maps: the same numbers from a few rows instead of all nodes
            features = getattr(self, f"to_{name}")(self.to_in(mean))
            kernels.append(kernel(features, turn))
        layout = Layout(space, self.heads, self.branches, self.plane, dtype)
        first = self.to_out.get_parameter(f"{len(self.to_out) - 3}.weight")
        z = mix(u, tuple(kernels), self.to_v.weight, first, layout)
        change = self.to_out[-1](functional.gelu(z))
        return change if self.to_out_1 is None else self.to_out_1(change)


def two_layers(inputs: int, outputs: int) -> nn.Sequential:
    """Return two linear maps without bias, with a GELU between them."""
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.GELU(), nn.Linear(outputs, outputs, bias=False))
