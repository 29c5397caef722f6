"""DeepFEA: a recurrent surrogate of transient finite elements (Triantafyllou et al., 2025, Expert Syst. Appl. 269)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from workbench.errors import InputError
from workbench.models.base import Feedback, Joint, Prediction, TransientNetwork
from workbench.models.convlstm import Loop, recur
from workbench.models.convlstm_layer import Layer

UNUSED = ("bias_ci", "bias_cf", "bias_co")
"""Parameters of the published two-dimensional cells that their forward pass never reads."""


class DeepFEA(TransientNetwork):
    r"""A stack of convolutional LSTM layers with peepholes that branches into a node and an element head.

    On the grid of the nodes the network sees the state x_t of a step (coordinates or displacement) and what is known
    beforehand (loads at the end of the step, supports, material), and puts out

    .. math:: x_{t+1} = \phi(A h_t + a), \qquad s_{t+1} = \phi(B * h_t + b)

    with the output h of the highest layer, a linear map A of its channels for the nodes and a convolution B over the
    corners of each element (doi 10.1016/j.eswa.2024.126343, arXiv:2412.04121). The predicted state is the next step's
    input where it is not fixed, so the initial state and what is known are enough for a whole history. Elements
    are not fed back. Parameters have the names of the authors' code, so that a published state dict loads as it is.
    Gradients are exact unless ``feedback`` says otherwise; second derivatives are not available.

    Args:
        in_channels: Channels of the input: state, then what is known.
        out_channels: Channels of the state and of the elements.
        space: Nodes along each axis, two or three.
        hidden: Channels of the layers. Good values: 16 to 64 each; (64, 128, 256) as published.
        kernel: Points along each axis of all kernels, odd.
        peephole: "full", one weight for each channel and node, as published, ties the network to its grid; "channel"
            has one for each channel; "none".
        activation: Of both heads: "tanh", as published, for values in [-1, 1]; "identity" for standardised values.

    Raises:
        InputError: Sizes that do not go together, or tensors that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: tuple[int, int],
        space: tuple[int, ...],
        hidden: tuple[int, ...] = (64, 128, 256),
        kernel: int = 3,
        peephole: Literal["full", "channel", "none"] = "full",
        activation: Literal["tanh", "identity"] = "identity",
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        self.hidden, self.peephole, self.activation = tuple(hidden), peephole, activation
        if len(space) not in (2, 3) or min(space) < 2:
            raise InputError(f"DeepFEA takes grids with 2 or 3 axes of at least 2 nodes, found {self.space}")
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"the kernel of DeepFEA must be odd, so that the grid stays the same; found {kernel}")
        if not hidden or min(hidden) < 1:
            raise InputError(f"hidden needs one number of channels for each layer, found {self.hidden}")
        if not 0 < self.out_channels[0] <= in_channels or self.out_channels[1] < 1:
            raise InputError(
                f"DeepFEA needs at least one channel of the state and one of the elements, and a state among its "
                f"{in_channels} inputs; found {self.out_channels}"
            )
        self.convlstm = Stack(in_channels, self.out_channels, self.space, self.hidden, kernel, peephole)

    @property
    def memory_channels(self) -> int:
        """Channels of the memory: output and cell of every layer."""
        return 2 * sum(self.hidden)

    def forward(
        self,
        states: Float[Tensor, "b s d *space"],
        forcing: Float[Tensor, "b t k *space"],
        static: Float[Tensor, "b j *space"] | None = None,
        *,
        fixed: Bool[Tensor, "b _ *space"] | None = None,
        fed: Sequence[bool] | None = None,
        scale: Float[Tensor, "d"] | None = None,
        memory: Float[Tensor, "b m *space"] | None = None,
        feedback: Feedback = "exact",
        segment: int = 0,
        joint: Joint = "keep",
    ) -> Prediction:
        """See `TransientNetwork`; the gradient is exact unless `feedback` says otherwise."""
        fed, device = self.checked(states, forcing, static, fed), states.device.type
        dtype = self.convlstm.node_head.weight.dtype
        products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
        with torch.autocast(device, enabled=False):
            rows, known = to_rows(states.to(dtype)), to_rows(forcing.to(dtype))
            truth = rows if len(rows) == len(fed) > 1 else None
            mask = None if fixed is None else to_rows(fixed.expand_as(states[:, 0])[:, None])[0]
            seen = _seen(mask, fed, rows)
            layers = self.layers(static, memory, rows.shape[1:-1])
            factor = {"exact": 1.0, "published": float(len(fed)), "detach": 0.0}[feedback]
            length = segment or len(fed)
            one, loop = length >= len(fed), Loop(self.activation == "tanh", factor, products)
            found: list[tuple[Tensor, Tensor]] = []
            state = rows[0]
            for first in range(0, len(fed), length):
                steps = slice(first, first + length)
                part = None if truth is None else truth[steps]
                if found:
                    before = found[-1][0][-1]
                    state = _joined(before, fed[first], part, mask, rows[0], factor, joint)
                if part is None and mask is not None and not one:
                    part = rows[:1].expand(len(fed[steps]), *rows.shape[1:])
                there = None if seen is None else seen[steps]
                arguments = (loop, state, part, known[steps], there, scale, self.convlstm.head(), layers, one)
                predicted, corners, after = _run(arguments, joint == "recompute" and not one)
                found.append((predicted, corners))
                layers = [_continued(*pair, joint) for pair in zip(layers, after, strict=True)]
            nodes, corners = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True))
            elements = self.elements(corners)
        kept = torch.cat([tensor for layer in layers for tensor in (layer.output, layer.cell)], -1)
        return Prediction(from_rows(nodes), elements, from_rows(kept[None])[:, 0])

    def checked(self, states: Tensor, forcing: Tensor, static: Tensor | None, fed: Sequence[bool] | None) -> list[bool]:
        """Which steps are fed; raises InputError where tensors do not fit."""
        state, steps, space = self.out_channels[0], forcing.shape[1], tuple(states.shape[3:])
        known = forcing.shape[2] + (0 if static is None else static.shape[1])
        if (states.shape[2], known) != (state, self.in_channels - state):
            raise InputError(
                f"this DeepFEA takes {state} channels of the state and {self.in_channels - state} that are known, "
                f"found {states.shape[2]} and {known}"
            )
        if len(space) != len(self.space) or (self.peephole == "full" and space != self.space):
            raise InputError(
                f"this DeepFEA was built for {self.space} nodes, found {space}. Full peepholes belong to nodes; set "
                "peephole to channel or none to train on one mesh and predict on another with as many axes."
            )
        fed = [t > 0 for t in range(steps)] if fed is None else list(fed)
        if len(fed) != steps or states.shape[1] not in (1, steps):
            raise InputError(
                f"the forcing has {steps} steps, but there are {states.shape[1]} states (expected 1 or {steps}) and "
                f"{len(fed)} choices of fed"
            )
        if states.shape[1] == 1 and not all(fed[1:]):
            raise InputError("a step that is not fed needs its state, and only that of the first step is there")
        return fed

    def layers(self, static: Tensor | None, memory: Tensor | None, grid: torch.Size) -> list[Layer]:
        """The layers with their memory; what does not change in time has gone through the lowest convolution."""
        widths = [width for width in self.hidden for _ in range(2)]
        if memory is None:
            parts: Sequence[Tensor] = [self.convlstm.node_head.weight.new_zeros(*grid, width) for width in widths]
        else:
            parts = to_rows(memory[:, None].to(self.convlstm.node_head.weight))[0].split(widths, -1)
        found = []
        for number, cell in enumerate(self.convlstm.cells):
            weight, base = cell.conv.weight, cast(Tensor, cell.conv.bias)
            if number == 0 and static is not None:
                first = self.in_channels - static.shape[1]
                lowest = functional.conv2d if len(self.space) == 2 else functional.conv3d
                through = lowest(
                    static.to(weight), weight[:, first : self.in_channels], base, padding=cell.conv.padding
                )
                base = to_rows(through[:, None])[0]
                weight = torch.cat([weight[:, :first], weight[:, self.in_channels :]], 1)
            peepholes = cell.peepholes()
            found.append(Layer(weight, base, peepholes, *parts[2 * number : 2 * number + 2]))
        return found

    def elements(self, corners: Float[Tensor, "t y b *others"]) -> Tensor:
        """Add up what the corners of each element give, for all steps at once: it is never fed back."""
        axes = len(self.space)
        parts = corners.unflatten(-1, (2**axes, -1)).unbind(-2)
        grid = (corners.shape[1], *corners.shape[3:-1])
        pieces = []
        for part, corner in zip(parts, product((0, 1), repeat=axes), strict=True):
            line, *others = (slice(first, first + n - 1) for first, n in zip(corner, grid, strict=True))
            pieces.append(part[(slice(None), line, slice(None), *others)])
        found = from_rows(sum(pieces[1:], pieces[0]))
        return found.tanh() if self.activation == "tanh" else found


def to_rows(fields: Shaped[Tensor, "b t c *space"]) -> Shaped[Tensor, "t y b *others"]:
    """The fields as the recurrence takes them: ``[t, y, b, x, (z,) c]``, in one piece."""
    return fields.movedim((1, 3, 0), (0, 1, 2)).movedim(3, -1).contiguous()


def from_rows(rows: Float[Tensor, "t y b *others"]) -> Float[Tensor, "b t c *space"]:
    """The inverse of `to_rows`, as a view."""
    return rows.movedim(-1, 3).movedim((0, 1, 2), (1, 3, 0))


def _seen(fixed: Tensor | None, fed: list[bool], states: Tensor) -> Tensor | None:
    """Where each step sees the truth, ``[t, *grid, d]``: everywhere if it is not fed, else where the state is fixed."""
    if all(fed[1:]):
        return None if fixed is None else fixed.expand(len(fed), *fixed.shape)
    taught = ~torch.tensor(fed, device=states.device).view(-1, *[1] * (states.ndim - 1))
    return taught.expand(len(fed), *states.shape[1:]) if fixed is None else taught | fixed


def _run(arguments: tuple[Any, ...], recompute: bool) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    if recompute and torch.is_grad_enabled():
        found: Any = checkpoint(recur, *arguments, use_reentrant=False, preserve_rng_state=False)
        return found
    return recur(*arguments)


def _continued(layer: Layer, memory: tuple[Tensor, Tensor], joint: Joint) -> Layer:
    output, cell = (tensor.detach() for tensor in memory) if joint == "detach" else memory
    return Layer(layer.weight, layer.base, layer.peephole, output, cell)


def _joined(
    predicted: Tensor,
    fed: bool,
    truth: Tensor | None,
    fixed: Tensor | None,
    start: Tensor,
    factor: float,
    joint: Joint,
) -> Tensor:
    """What the first step of a segment sees; the same as `recur` does inside of one."""
    if not fed and truth is not None:
        return truth[0]
    if joint == "detach" or factor == 0:
        predicted = predicted.detach()
    elif factor != 1 and predicted.requires_grad:
        predicted.register_hook(lambda gradient: factor * gradient)
    return predicted if fixed is None else torch.where(fixed, start if truth is None else truth[0], predicted)


class Stack(nn.Module):
    """The parameters: cells and heads under their published names."""

    def __init__(
        self,
        in_channels: int,
        out_channels: tuple[int, ...],
        space: tuple[int, ...],
        hidden: tuple[int, ...],
        kernel: int,
        peephole: str,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(space) == 2 else nn.Conv3d
        inputs = [in_channels, *hidden[:-1]]
        self.cell_list = nn.ModuleList(
            Cell(below, width, kernel, space, peephole) for below, width in zip(inputs, hidden, strict=True)
        )
        self.dim = len(space)
        setattr(self, f"conv{self.dim}d", convolution(hidden[-1], out_channels[0], 1))
        setattr(self, f"conv{self.dim}d_2", convolution(hidden[-1], out_channels[1], 2))

    @property
    def cells(self) -> list[Cell]:
        """The cells, from the lowest to the highest."""
        return [cell for cell in self.cell_list if isinstance(cell, Cell)]

    @property
    def node_head(self) -> nn.Conv2d | nn.Conv3d:
        """The map from the highest layer to the state of the nodes."""
        return getattr(self, f"conv{self.dim}d")

    @property
    def element_head(self) -> nn.Conv2d | nn.Conv3d:
        """The map from the corners of an element to its quantities."""
        return getattr(self, f"conv{self.dim}d_2")

    def head(self) -> tuple[Tensor, Tensor]:
        """Matrix and bias of the node head and, below it, of what a node gives to its elements, corner by corner."""
        nodes, elements = self.node_head, self.element_head
        corners = elements.weight.movedim((0, 1), (-2, -1)).flatten(0, -2)
        bias = cast(Tensor, elements.bias)
        once = functional.pad(bias, (0, len(corners) - len(bias)))
        return torch.cat([nodes.weight.flatten(1), corners]), torch.cat([cast(Tensor, nodes.bias), once])


class Cell(nn.Module):
    """The parameters of one layer."""

    def __init__(self, below: int, width: int, kernel: int, space: tuple[int, ...], peephole: str) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(space) == 2 else nn.Conv3d
        self.conv = convolution(below + width, 4 * width, kernel, padding=kernel // 2)
        grid = {"full": space, "channel": (1,) * len(space), "none": None}[peephole]
        for name in ("W_ci", "W_cf", "W_co"):
            # the published initial deviation (Kaiming's for a gain of 3/4)
            value = None if grid is None else nn.Parameter(torch.randn(width, *grid) * 0.75 / prod(space) ** 0.5)
            self.register_parameter(name, value)
        self.register_load_state_dict_pre_hook(_forget_unused)

    def peepholes(self) -> Tensor | None:
        """The weights of the gates i, f and o, ``[3, y, 1, x, (z,) c]``."""
        weights = [self._parameters[name] for name in ("W_ci", "W_cf", "W_co")]
        present = [weight.movedim(0, -1).unsqueeze(1) for weight in weights if weight is not None]
        return torch.stack(present) if present else None


def _forget_unused(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in UNUSED:
        state.pop(prefix + name, None)
