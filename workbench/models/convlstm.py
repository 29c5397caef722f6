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
* a convolution is one matrix product for each row of its kernel: neighbours along the other axes are copied side by
  side, neighbours along the first axis are the same rows a line further. That is why fields lie as
  ``[y, batch, x, (z,) channel]`` here. On these small grids that is faster than a convolution of torch, leaves out the
  products with zeros beyond the first and last line, and stays within the caches;
* each layer writes its output where the layer above and the next step read it, each gate lies in one piece, and all
  views are made before the first step: slicing took a third of the time of a forward pass.

Against the usual formulation with autograd, a forward pass takes about three quarters of the time and a training step
two thirds (``benchmarks/convlstm.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Layer:
    """Tensors of one layer; fields lie as ``[y, b, x, (z,) c]``.

    Attributes:
        weight: ``[4 c, inputs + c, *kernel]``, gates in the order i, f, g, o; of the lowest layer without the columns
            of what does not change in time.
        base: ``[4 c]``, the bias, or ``[*grid, 4 c]``, bias and contribution of what does not change in time.
        peephole: ``[3, y, 1, x, (z,) c]`` or broadcast to it, for the gates i, f, o; None without peepholes.
        output, cell: h and c of the step before, ``[*grid, c]``.
    """

    weight: Tensor
    base: Tensor
    peephole: Tensor | None
    output: Tensor
    cell: Tensor


@dataclass(frozen=True)
class Loop:
    """What is fixed while tensors change.

    Attributes:
        fed: for each step whether it sees the prediction of the step before; else it sees the truth. The first step
            sees the start anyhow.
        tanh: whether the predicted state goes through a hyperbolic tangent.
        feedback: factor of the gradient that flows back through a fed state: 1 is exact.
    """

    fed: tuple[bool, ...]
    tanh: bool
    feedback: float


def recur(
    loop: Loop,
    start: Float[Tensor, "*grid d"],
    truth: Float[Tensor, "t *grid d"] | None,
    forcing: Float[Tensor, "t *grid k"],
    fixed: Bool[Tensor, "*grid d"] | None,
    scale: Float[Tensor, "d"] | None,
    head: tuple[Float[Tensor, "d c"], Float[Tensor, "d"]],
    layers: list[Layer],
) -> tuple[Float[Tensor, "t *grid d"], Float[Tensor, "t *grid c"], list[tuple[Tensor, Tensor]]]:
    """Run a stack of layers over all steps of `forcing`; fields lie as ``[y, b, x, (z,) c]``.

    Gradients reach `start`, `head` and `layers`; none reaches `truth` and `forcing`, and there is no second derivative.

    Args:
        loop: what is fixed.
        start: state that the first step sees.
        truth: states that steps see which are not fed; where `fixed`, every step sees them. Without them, every step
            sees the values of `start` where `fixed`.
        forcing: what is known of every step.
        fixed: where a fed state is known, so that no prediction takes its place.
        scale: if given, the head predicts the change of the state in these units.
        head: weight and bias of the map from the highest layer to the state.
        layers: from the lowest to the highest.

    Returns:
        predicted states, outputs of the highest layer, and (output, cell) of each layer after the last step.
    """
    flat = [tensor for one in layers for tensor in (one.weight, one.base, one.peephole, one.output, one.cell)]
    predicted, outputs, *memory = Recurrence.apply(loop, start, truth, forcing, fixed, scale, *head, *flat)
    return predicted, outputs, list(zip(memory[::2], memory[1::2], strict=True))


class Recurrence(torch.autograd.Function):
    """All steps of all layers; see `recur`."""

    @staticmethod
    def forward(
        ctx: Any,
        loop: Loop,
        start: Tensor,
        truth: Tensor | None,
        forcing: Tensor,
        fixed: Tensor | None,
        scale: Tensor | None,
        head: Tensor,
        shift: Tensor,
        *flat: Any,
    ) -> tuple[Tensor, ...]:
        """Go forward through time; for a backward pass keep inputs, gates and cells of every step."""
        layers = [Layer(*flat[i : i + 5]) for i in range(0, len(flat), 5)]
        keep = any(ctx.needs_input_grad)
        steps, grid, width = len(forcing), forcing.shape[1:-1], start.shape[-1]
        sweeps = [_Sweep(layer, steps, keep) for layer in layers]
        outputs = forcing.new_empty(steps, *grid, head.shape[1])
        predicted = forcing.new_empty(steps, *grid, width)
        raw = torch.empty_like(predicted) if scale is not None else predicted
        above = [*(sweep.below for sweep in sweeps[1:]), outputs.unbind()]
        rooms = [(room[..., :width], room[..., width:]) for room in sweeps[0].below]
        state = start
        for t, (now, top, rows) in enumerate(zip(predicted, outputs.flatten(1, -2), raw.flatten(1, -2), strict=True)):
            if t:
                state = _next_input(loop.fed[t], predicted[t - 1], None if truth is None else truth[t], fixed, start)
            rooms[t][0].copy_(state)
            rooms[t][1].copy_(forcing[t])
            for sweep, room in zip(sweeps, above, strict=True):
                sweep.advance(t, room[t])
            torch.addmm(shift, top, head.T, out=rows)
            if loop.tanh:
                rows.tanh_()
            if scale is not None:
                torch.addcmul(state, rows.view_as(now), scale, out=now)
        memory = [tensor for sweep in sweeps for tensor in sweep.memory()]
        ctx.loop, ctx.truthless = loop, truth is None
        if keep:
            kept = [tensor for sweep in sweeps for tensor in (sweep.inputs, sweep.cells, sweep.tanhs, sweep.gates)]
            ctx.save_for_backward(start, fixed, scale, head, raw, outputs, *flat, *kept)
        return predicted, outputs, *memory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through time and add up the gradients of all weights."""
        loop: Loop = ctx.loop
        start, fixed, scale, head, raw, outputs, *rest = ctx.saved_tensors
        width, count = start.shape[-1], (len(gradients) - 2) // 2
        returns = [
            _Return(Layer(*rest[5 * i : 5 * i + 5]), *rest[5 * count + 4 * i :][:4], *gradients[2 + 2 * i :][:2])
            for i in range(count)
        ]
        grad_predicted, grad_outputs = (gradient.contiguous() for gradient in gradients[:2])
        grad_rows = torch.empty_like(raw)
        grad_start = torch.zeros_like(start)
        fed_back: Tensor | None = None
        for t in reversed(range(len(outputs))):
            grad_state = grad_predicted[t] if fed_back is None else grad_predicted[t] + fed_back
            rows = grad_rows[t]
            torch.mul(grad_state, 1.0 if scale is None else scale, out=rows)
            if loop.tanh:
                tanh_back(rows, raw[t], grad_input=rows)
            grad = torch.addmm(grad_outputs[t].flatten(0, -2), rows.view(-1, width), head).view_as(outputs[t])
            for back in reversed(returns):
                grad = back.step(t, grad)
            grad_input = grad[..., :width] if scale is None else grad[..., :width] + grad_state
            fed_back = None
            if t == 0:
                grad_start += grad_input
            elif loop.fed[t]:
                if fixed is not None and ctx.truthless:
                    grad_start += grad_input.masked_fill(~fixed, 0.0)
                if loop.feedback:
                    fed_back = grad_input if fixed is None else grad_input.masked_fill(fixed, 0.0)
                    fed_back = fed_back * loop.feedback
        rows = grad_rows.view(-1, width)
        grad_head = rows.T @ outputs.view(-1, head.shape[1])
        weights = [tensor for back in returns for tensor in back.weights()]
        return None, grad_start, None, None, None, None, grad_head, rows.sum(0), *weights


def _next_input(fed: bool, predicted: Tensor, truth: Tensor | None, fixed: Tensor | None, start: Tensor) -> Tensor:
    """What a step after the first sees of the state."""
    if not fed:
        if truth is None:
            raise RuntimeError("a step that is not fed needs the truth")
        return truth
    return predicted if fixed is None else torch.where(fixed, start if truth is None else truth, predicted)


class _Sweep:
    """One layer on its way forward through time.

    Where nothing is kept, all steps share the room of one.

    Attributes:
        inputs: of each step the layer's input and, beside it, its output of the step before, with a border of zeros.
        cells, tanhs: c and tanh c of each step.
        gates: i, f, g, o of each step, ``[t, 4, *grid, c]``.
        below: for each step where the input has to be written.
    """

    def __init__(self, layer: Layer, steps: int, keep: bool) -> None:
        width, grid, rooms = layer.output.shape[-1], layer.output.shape[:-1], steps if keep else 1
        new = layer.output.new_empty
        self.inputs = bordered(rooms, layer)
        self.cells, self.tanhs = new(rooms, *grid, width), new(rooms, *grid, width)
        self.gates = new(rooms, 4, *grid, width)
        self.rows = RowProducts(layer, self.inputs)
        self.product = new(grid.numel(), 4 * width)
        self.raw = self.product.view(*grid, 4, width).unbind(-2)
        self.base = layer.base if layer.base.ndim == 1 else layer.base.flatten(0, -2)
        interior = inside(self.inputs, layer)
        self.below, self.own = (_each(part, steps) for part in (interior[..., :-width], interior[..., -width:]))
        self.pairs = _each(self.gates[:, :2], steps)
        self.single = [_each(self.gates[:, gate], steps) for gate in range(4)]
        self.room = list(zip(_each(self.cells, steps), _each(self.tanhs, steps), strict=True))
        self.peephole = None if layer.peephole is None else layer.peephole.unbind()
        self.own[0].copy_(layer.output)
        self.output, self.cell = layer.output, layer.cell

    def advance(self, t: int, output: Tensor) -> None:
        """One step: the product, the gates, the cell, then the output where the layer above reads it."""
        self.rows.forward(t, self.base, self.product)
        i, f, change, last = (room[t] for room in self.single)
        before, (cell, tanh) = self.cell, self.room[t]
        self.open(0, before, i)
        self.open(1, before, f)
        self.pairs[t].sigmoid_()
        change.copy_(self.raw[2]).tanh_()
        torch.mul(f, before, out=cell).addcmul_(i, change)
        self.open(2, cell, last)
        torch.mul(last.sigmoid_(), torch.tanh(cell, out=tanh), out=output)
        if t + 1 < len(self.own):
            self.own[t + 1].copy_(output)
        self.output, self.cell = output, cell

    def open(self, gate: int, cell: Tensor, out: Tensor) -> None:
        """Bring a gate (i, f, o) in one piece, with its peephole."""
        raw = self.raw[gate if gate < 2 else 3]
        if self.peephole is None:
            out.copy_(raw)
        else:
            torch.addcmul(raw, cell, self.peephole[gate], out=out)

    def memory(self) -> tuple[Tensor, Tensor]:
        """Copies of the output and cell of the last step."""
        return self.output.clone(memory_format=torch.contiguous_format), self.cell.clone()


class _Return:
    """One layer on its way back through time.

    Attributes:
        grad_output, grad_cell: what a step has to add to the gradients of its output and cell.
    """

    def __init__(
        self,
        layer: Layer,
        inputs: Tensor,
        cells: Tensor,
        tanhs: Tensor,
        gates: Tensor,
        grad_output: Tensor,
        grad_cell: Tensor,
    ) -> None:
        self.layer, self.width = layer, cells.shape[-1]
        self.cells, self.tanhs = cells.unbind(), tanhs.unbind()
        self.before = (layer.cell, *self.cells[:-1])
        self.pairs, (self.changes, self.lasts) = gates[:, :2].unbind(), (gates[:, gate].unbind() for gate in (2, 3))
        self.grad_output, self.grad_cell = grad_output, grad_cell
        self.peephole = None if layer.peephole is None else layer.peephole.unbind()
        self.grad_peephole = cells.new_zeros(3, *cells.shape[1:])
        self.rows = RowProducts(layer, inputs)
        self.grad_gates = cells.new_empty(*cells.shape[1:-1], 4, self.width)
        self.grad_base = torch.zeros_like(self.grad_gates)
        self.parts = cells.new_empty(4, *cells.shape[1:])

    def step(self, t: int, grad: Tensor) -> Tensor:
        """Take the gradient of the output of a step to the gradient of the layer's input."""
        pair, change, last, tanh, before = self.pairs[t], self.changes[t], self.lasts[t], self.tanhs[t], self.before[t]
        grad_i, grad_f, grad_change, grad_last = self.parts
        grad = grad + self.grad_output
        sigmoid_back(torch.mul(grad, tanh, out=grad_last), last, grad_input=grad_last)
        grad_cell = grad.mul_(last)
        tanh_back(grad_cell, tanh, grad_input=grad_cell)
        grad_cell += self.grad_cell
        if self.peephole is not None:
            grad_cell.addcmul_(grad_last, self.peephole[2])
        torch.mul(grad_cell, change, out=grad_i)
        torch.mul(grad_cell, before, out=grad_f)
        sigmoid_back(self.parts[:2], pair, grad_input=self.parts[:2])
        tanh_back(torch.mul(grad_cell, pair[0], out=grad_change), change, grad_input=grad_change)
        self.grad_cell = grad_cell.mul_(pair[1])
        if self.peephole is not None:
            self.grad_cell.addcmul_(grad_i, self.peephole[0]).addcmul_(grad_f, self.peephole[1])
            self.grad_peephole[:2].addcmul_(self.parts[:2], before)
            self.grad_peephole[2].addcmul_(grad_last, self.cells[t])
        self.grad_gates.copy_(self.parts.movedim(0, -2))
        self.grad_base += self.grad_gates
        grad_input = self.rows.backward(t, self.grad_gates)
        self.grad_output = grad_input[..., -self.width :]
        return grad_input[..., : -self.width]

    def weights(self) -> list[Tensor | None]:
        """Gradients of the tensors of the `Layer`, in their order."""
        peephole = self.layer.peephole
        return [
            self.rows.weight_gradient(),
            self.grad_base.flatten(-2).sum_to_size(self.layer.base.shape),
            None if peephole is None else self.grad_peephole.sum_to_size(peephole.shape),
            self.grad_output,
            self.grad_cell,
        ]


class RowProducts:
    """Convolutions of all steps as products of matrices, one for each row of the kernel along the first axis.

    Args:
        layer: whose weight and grid.
        inputs: ``[rooms, y, b, x, (z,) c]`` with a border of zeros along all axes but the first.
    """

    def __init__(self, layer: Layer, inputs: Tensor) -> None:
        self.weight, grid = layer.weight, layer.output.shape[:-1]
        lines, *others = self.weight.shape[2:]
        order = (2, *range(3, self.weight.ndim), 1, 0)
        matrices = self.weight.permute(order).reshape(lines, -1, len(self.weight)).contiguous()
        self.middle = lines // 2
        self.others = [
            (matrices[self.middle + offset], self.middle + offset, *spans(offset, grid[0], grid[1:].numel()))
            for offset in range(-self.middle, self.middle + 1)
            if 0 < abs(offset) < grid[0]
        ]
        self.matrix, self.grad_matrices = matrices[self.middle], torch.zeros_like(matrices)
        self.views = neighbourhoods(inputs, grid, others).unbind()
        self.columns = inputs.new_empty(self.views[0].shape)
        self.rows = self.columns.view(-1, len(self.matrix))
        self.grad_input = inputs.new_empty(*grid, inputs.shape[-1])
        self.grad_rows = torch.empty_like(self.rows)
        self.folds = folds(self.grad_rows.view(*grid, *others, -1), self.grad_input, others)

    def forward(self, t: int, base: Tensor, out: Tensor) -> None:
        """The convolution of the inputs of a step, plus `base`, as rows of nodes."""
        self.columns.copy_(self.views[t if len(self.views) > 1 else 0])
        torch.addmm(base, self.rows, self.matrix, out=out)
        for matrix, _, here, there in self.others:
            out[here].addmm_(self.rows[there], matrix)

    def backward(self, t: int, grad: Tensor) -> Tensor:
        """The gradient of the inputs of a step (valid until the next); adds up that of the weight."""
        grad = grad.view(len(self.rows), -1)
        self.columns.copy_(self.views[t])
        torch.mm(grad, self.matrix.T, out=self.grad_rows)
        self.grad_matrices[self.middle].addmm_(self.rows.T, grad)
        for matrix, line, here, there in self.others:
            self.grad_rows[there].addmm_(grad[here], matrix.T)
            self.grad_matrices[line].addmm_(self.rows[there].T, grad[here])
        for number, (source, target) in enumerate(self.folds):
            if number:
                target += source
            else:
                target.copy_(source)
        return self.grad_input

    def weight_gradient(self) -> Tensor:
        """What `backward` has added up, in the shape of the weight."""
        axes = self.weight.ndim
        found = self.grad_matrices.view(*self.weight.shape[2:], self.weight.shape[1], len(self.weight))
        return found.permute(axes - 1, axes - 2, *range(axes - 2))


def spans(offset: int, lines: int, nodes: int) -> tuple[slice, slice]:
    """Rows of the `nodes` of each line, and the rows `offset` lines further, where both are among the `lines`."""
    first, last = max(0, -offset), lines - max(0, offset)
    return slice(first * nodes, last * nodes), slice((first + offset) * nodes, (last + offset) * nodes)


def bordered(rooms: int, layer: Layer) -> Tensor:
    """Zeros ``[rooms, y, b, x, (z,) inputs]`` with the border that the kernel needs along all axes but the first."""
    lines, batch, *space = layer.output.shape[:-1]
    wide = [n + k - 1 for n, k in zip(space, layer.weight.shape[3:], strict=True)]
    return layer.output.new_zeros(rooms, lines, batch, *wide, layer.weight.shape[1])


def inside(fields: Tensor, layer: Layer) -> Tensor:
    """The fields without their border."""
    sizes = zip(layer.output.shape[2:-1], layer.weight.shape[3:], strict=True)
    place: tuple[Any, ...] = (..., *(slice(k // 2, k // 2 + n) for n, k in sizes), slice(None))
    return fields[place]


def neighbourhoods(fields: Tensor, grid: torch.Size, kernel: list[int]) -> Tensor:
    """A view of the neighbours of all nodes, ``[rooms, *grid, *kernel, c]``, with the last two axes in one."""
    *before, last = kernel
    shape = (len(fields), *grid, *before, last * fields.shape[-1])
    near = fields.stride()[3 : 3 + len(before)]
    return fields.as_strided(shape, (*fields.stride()[:-1], *near, 1))


def folds(columns: Tensor, target: Tensor, kernel: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of what `neighbourhoods` copied and where it came from, the node itself first."""
    found: list[tuple[Tensor, Tensor]] = []
    whole: tuple[Any, ...] = (slice(None), slice(None))
    for place in sorted(
        product(*map(range, kernel)), key=lambda p: [i != k // 2 for i, k in zip(p, kernel, strict=True)]
    ):
        pairs = [spans(k // 2 - i, n, 1) for i, k, n in zip(place, kernel, target.shape[2:-1], strict=True)]
        to, out_of = [here for here, _ in pairs], [there for _, there in pairs]
        found.append((columns[(*whole, *out_of, *place)], target[(*whole, *to)]))
    return found


def _each(rooms: Tensor, steps: int) -> tuple[Tensor, ...]:
    """The room of each step."""
    views = rooms.unbind()
    return views if len(views) == steps else views * steps


sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
tanh_back = torch.ops.aten.tanh_backward.grad_input
