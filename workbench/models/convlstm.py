r"""A stack of convolutional LSTM layers with peepholes that is fed its own predictions, forward and backward by hand.

A layer (Shi et al., 2015, arXiv:1506.04214, equation 3) turns its input x_t, its output h and its cell state c of the
step before into

.. math::
    i &= \sigma(W_i * [x_t, h_{t-1}] + b_i + P_i c_{t-1}), &
    f &= \sigma(W_f * [x_t, h_{t-1}] + b_f + P_f c_{t-1}), &
    g &= \tanh(W_g * [x_t, h_{t-1}] + b_g), \\
    c_t &= f c_{t-1} + i g, &
    o &= \sigma(W_o * [x_t, h_{t-1}] + b_o + P_o c_t), &
    h_t &= o \tanh c_t.

The lowest layer sees the state of the step; the highest gives the next state through a linear map of its channels,
which is the state that the next step sees. So nothing of a step can be computed before the step before has ended, but

* what does not change in time (supports, material) has gone through its part of the lowest convolution once;
* a convolution is a few matrix products (`convlstm_products`), which on these small grids is faster than a
  convolution of torch, leaves out the products with zeros beyond the first and last line, and stays within the caches;
* each output is written once, where the layer above and the next step read it, each gate lies in one piece, and all
  views are made before the first step (`convlstm_layer`): slicing took a third of the time of a forward pass;
* without gradients all steps share the room of one: fresh memory for each cost as much again as all else.

Against the usual formulation with autograd, a forward pass at hidden 16 to 32 takes about 0.57 of the time and a
training step two thirds (``benchmarks/convlstm.py``); at the published widths, 64 to 256, the products are all that
counts and a forward pass takes as long. On a GPU, where starting the kernels takes longer than running them, all steps
are one CUDA graph (`cuda_graphs`): a quarter of the time forward, a sixth for a training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.models.convlstm_layer import Fields, Layer, Return, Sweep, Trace, make_rooms
from workbench.models.cuda_graphs import Graphs


@dataclass(frozen=True)
class Loop:
    """What is fixed while tensors change.

    Attributes:
        tanh: whether the predicted state goes through a hyperbolic tangent.
        feedback: factor of the gradient that flows back through a fed state: 1 is exact.
        products: precision of the factors of all convolutions; everything else has that of the state.
    """

    tanh: bool
    feedback: float
    products: torch.dtype


def recur(
    loop: Loop,
    start: Float[Tensor, "*grid d"],
    truth: Float[Tensor, "t *grid d"] | None,
    forcing: Float[Tensor, "t *grid k"],
    known: Bool[Tensor, "t *grid d"] | None,
    scale: Float[Tensor, "d"] | None,
    head: tuple[Float[Tensor, "m c"], Float[Tensor, "m"]],
    layers: list[Layer],
    graphs: bool,
) -> tuple[Float[Tensor, "t *grid d"], Float[Tensor, "t *grid rest"], list[tuple[Tensor, Tensor]]]:
    """Run a stack of layers over all steps of `forcing`; fields lie as ``[y, b, x, (z,) c]``.

    Gradients reach `start`, `head` and `layers`; none reaches `truth` and `forcing`, and there is no second derivative.

    Args:
        loop: what is fixed.
        start: state that the first step sees.
        truth: states that later steps see where `known`, instead of the prediction of the step before; without them,
            those are the values of `start`.
        forcing: what is given for every step.
        known: where no prediction takes the place of the truth.
        scale: if given, the head predicts the change of the state in these units.
        head: weight and bias of the map from the highest layer to the state and, after it, to what is never fed back.
        layers: from the lowest to the highest.
        graphs: replay the steps as one CUDA graph where they run on a GPU.

    Returns:
        predicted states, what is never fed back, and (output, cell) of each layer after the last step.
    """
    flat = [tensor for one in layers for tensor in (one.weight, one.base, one.peephole, one.output, one.cell)]
    run = replayed if graphs and forcing.is_cuda else march
    predicted, aside, *memory = run(loop, start, truth, forcing, known, scale, *head, *flat)
    return predicted, aside, list(zip(memory[::2], memory[1::2], strict=True))


def march(loop: Loop, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """The arguments of `Recurrence` but its first, which is asked here: inside of a Function gradients are off."""
    found: tuple[Tensor, ...] = Recurrence.apply(torch.is_grad_enabled(), loop, *tensors)
    return found


replayed = Graphs(march)


class Recurrence(torch.autograd.Function):
    """All steps of all layers; see `recur`."""

    @staticmethod
    def forward(
        ctx: Any,
        keep: bool,
        loop: Loop,
        start: Tensor,
        truth: Tensor | None,
        forcing: Tensor,
        known: Tensor | None,
        scale: Tensor | None,
        head: Tensor,
        shift: Tensor,
        *flat: Any,
    ) -> tuple[Tensor, ...]:
        """Go forward through time; for a backward pass keep inputs, gates and cells of every step."""
        layers = [Layer(*flat[i : i + 5]) for i in range(0, len(flat), 5)]
        steps, grid, width = len(forcing), forcing.shape[1:-1], start.shape[-1]
        predicted = forcing.new_empty(steps, *grid, width)
        aside = forcing.new_empty(steps, *grid, len(head) - width)
        raw = torch.empty_like(predicted) if scale is not None else predicted
        outputs = forcing.new_empty(steps if keep else 1, *grid, head.shape[1])
        fields = Fields(layers, make_rooms(layers, steps, keep))
        sweeps = [Sweep(layer, i, fields, steps, keep, loop.products) for i, layer in enumerate(layers)]
        repeat = 1 if keep else steps
        rooms = [(room[..., :width], room[..., width:]) for room in fields.input()] * repeat
        tops = list(zip(outputs, outputs.flatten(1, -2), strict=True)) * repeat
        heads = ((shift[:width], head[:width].T), (shift[width:], head[width:].T))
        now, given = predicted.unbind(), [start] * steps if truth is None else truth.unbind()
        rows = list(zip(raw.flatten(1, -2), aside.flatten(1, -2), strict=True))
        for t, force in enumerate(forcing):
            state, forced = rooms[t]
            forced.copy_(force)
            if t == 0:
                state.copy_(start)
            elif known is None:
                state.copy_(now[t - 1])
            else:
                torch.where(known[t], given[t], now[t - 1], out=state)
            for sweep in sweeps:
                step = sweep.advance(t)
            output, nodes = tops[t]
            torch.mul(step.o, step.tanh, out=output)
            for (bias, matrix), out in zip(heads, rows[t], strict=True):
                torch.addmm(bias, nodes, matrix, out=out)
            if loop.tanh:
                rows[t][0].tanh_()
            if scale is not None:
                torch.addcmul(state, raw[t], scale, out=now[t])
        memory = [tensor for sweep in sweeps for tensor in sweep.memory()]
        ctx.loop, ctx.truthless = loop, truth is None
        if keep:
            traces = [tensor for sweep in sweeps for tensor in sweep.trace]
            ctx.save_for_backward(start, known, scale, head, raw, outputs, fields.rooms, *flat, *traces)
        return predicted, aside, *memory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through time and add up the gradients of all weights."""
        loop: Loop = ctx.loop
        start, known, scale, head, raw, outputs, rooms, *rest = ctx.saved_tensors
        width, count = start.shape[-1], (len(gradients) - 2) // 2
        layers = [Layer(*rest[5 * i : 5 * i + 5]) for i in range(count)]
        traces = [Trace(*rest[5 * count + 3 * i :][:3]) for i in range(count)]
        fields, memory = Fields(layers, rooms), list(zip(gradients[2::2], gradients[3::2], strict=True))
        returns = [Return(layers[i], i, fields, traces[i], memory[i], loop.products) for i in range(count)]
        grad_predicted, grad_aside = gradients[:2]
        grad_heads = torch.cat([grad_predicted, grad_aside], -1)
        grad_start = torch.zeros_like(start)
        fed_back: Tensor | None = None
        for t in reversed(range(len(outputs))):
            grad_state = grad_predicted[t] if fed_back is None else grad_predicted[t] + fed_back
            grad_raw = grad_state if scale is None else grad_state * scale
            if loop.tanh:
                grad_raw = tanh_back(grad_raw, raw[t])
            grad_heads[t, ..., :width] = grad_raw
            grad = (grad_heads[t].view(-1, len(head)) @ head).view_as(outputs[t])
            for back in reversed(returns):
                grad = back.step(t, grad)
            grad_input = grad[..., :width] if scale is None else grad[..., :width] + grad_state
            fed_back = None
            if t == 0:
                grad_start += grad_input
                continue
            if known is not None and ctx.truthless:
                grad_start += grad_input.masked_fill(~known[t], 0.0)
            if loop.feedback:
                fed_back = grad_input if known is None else grad_input.masked_fill(known[t], 0.0)
                fed_back = fed_back * loop.feedback
        rows = grad_heads.view(-1, len(head))
        grad_head = rows.T @ outputs.view(-1, head.shape[1])
        weights = [tensor for back in returns for tensor in back.weights()]
        return None, None, grad_start, None, None, None, None, grad_head, rows.sum(0), *weights


tanh_back = torch.ops.aten.tanh_backward
