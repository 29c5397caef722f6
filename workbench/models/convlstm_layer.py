"""One convolutional LSTM layer on its way forward and back through time; its equations are in `convlstm`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.models.convlstm_products import RowGradients, RowProducts, bordered, inside, neighbourhoods


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


class Fields:
    """Views of what the layers read and write: the input and the outputs of all layers beside each other.

    So each output is written once, for the layer above and for the next step. A layer is a room ahead of the one
    below: room r holds the input of step r, the output of the lowest layer of step r - 1, of the next layer of step
    r - 2, and so on. Where nothing is kept for a way back, all steps share one room.

    Args:
        layers: from the lowest to the highest, with kernels of one size.
        rooms: ``[rooms, y, b, x, (z,) channels]`` with a border of zeros, as `make_rooms` makes them.
    """

    def __init__(self, layers: list[Layer], rooms: Tensor) -> None:
        self.grid, self.kernel, self.rooms = layers[0].output.shape[:-1], layers[0].weight.shape[2:], rooms
        self.ends = _ends(layers)

    def input(self) -> tuple[Tensor, ...]:
        """For each step the place of the input."""
        return inside(self.rooms[..., : self.ends[0]], self.grid, self.kernel).unbind()

    def near(self, number: int) -> tuple[Tensor, ...]:
        """For each step what the kernel of a layer sees at all nodes."""
        read = self._of(number)[..., self.ends[number - 1] if number else 0 : self.ends[number + 1]]
        return neighbourhoods(read, self.grid, self.kernel).unbind()

    def output(self, number: int) -> tuple[Tensor, ...]:
        """For each step the place of a layer's output of the step before, and that of its last output."""
        part = self._of(number)[..., self.ends[number] : self.ends[number + 1]]
        return inside(part, self.grid, self.kernel).unbind()

    def _of(self, number: int) -> Tensor:
        """The rooms from the first step of a layer on; there are more than steps."""
        return self.rooms[number:] if len(self.rooms) > 1 else self.rooms


def make_rooms(layers: list[Layer], steps: int, keep: bool) -> Tensor:
    """Zeros for all steps of `Fields`."""
    one = layers[0]
    count = steps + len(layers) if keep else 1
    return bordered(one.output, count, one.output.shape[:-1], _ends(layers)[-1], one.weight.shape[2:])


def _ends(layers: list[Layer]) -> list[int]:
    """Where the channels of the input and of the output of each layer end."""
    widths = [layer.output.shape[-1] for layer in layers]
    return list(accumulate(widths, initial=layers[0].weight.shape[1] - widths[0]))


class Trace(NamedTuple):
    """What a layer keeps of its steps; where nothing is kept for a way back, all steps share the room of one.

    Attributes:
        gates: i, f, g, o in one piece each, ``[t, 4, *grid, c]``.
        cells: c, that before the first step included, ``[t + 1, *grid, c]``.
        tanhs: tanh c, ``[t, *grid, c]``.
    """

    gates: Tensor
    cells: Tensor
    tanhs: Tensor


class Step(NamedTuple):
    """Views of what a layer reads and writes in one step; `both` are i and f together."""

    near: Tensor
    both: Tensor
    i: Tensor
    f: Tensor
    change: Tensor
    o: Tensor
    before: Tensor
    cell: Tensor
    tanh: Tensor
    output: Tensor


class Sweep:
    """One layer on its way forward; all views are made before the first step."""

    def __init__(
        self, layer: Layer, number: int, fields: Fields, steps: int, keep: bool, products: torch.dtype
    ) -> None:
        grid, width, rooms = fields.grid, layer.output.shape[-1], steps if keep else 1
        new = layer.output.new_empty
        self.trace = Trace(new(rooms, 4, *grid, width), new(rooms + keep, *grid, width), new(rooms, *grid, width))
        gates, (first, *cells), tanhs = self.trace
        outputs = fields.output(number)
        outputs[0].copy_(layer.output)
        first.copy_(layer.cell)
        product = new(grid.numel(), 4 * width)
        self.raw = product.view(*grid, 4, width).unbind(-2)
        self.products = RowProducts(layer.weight, grid, product, products)
        self.base = layer.base if layer.base.ndim == 1 else layer.base.flatten(0, -2)
        self.peephole = None if layer.peephole is None else layer.peephole.unbind()
        after = cells or [first]
        reads = (fields.near(number), gates[:, :2], *gates.unbind(1), [first, *cells], after, tanhs, outputs[keep:])
        self.steps = [Step(*views) for views in zip(*reads, strict=False)] * (1 if keep else steps)

    def advance(self, t: int) -> Step:
        """One step: the product, the gates, the cell, the output."""
        step = near, both, i, f, change, o, before, cell, tanh, output = self.steps[t]
        raw, peephole = self.raw, self.peephole
        self.products.forward(near, self.base)
        if peephole is None:
            i.copy_(raw[0])
            f.copy_(raw[1])
        else:
            torch.addcmul(raw[0], before, peephole[0], out=i)
            torch.addcmul(raw[1], before, peephole[1], out=f)
        both.sigmoid_()
        change.copy_(raw[2]).tanh_()
        torch.mul(f, before, out=cell).addcmul_(i, change)
        if peephole is None:
            o.copy_(raw[3])
        else:
            torch.addcmul(raw[3], cell, peephole[2], out=o)
        torch.mul(o.sigmoid_(), torch.tanh(cell, out=tanh), out=output)
        return step

    def memory(self) -> tuple[Tensor, Tensor]:
        """Copies of the output and cell of the last step."""
        last = self.steps[-1]
        return last.output.clone(memory_format=torch.contiguous_format), last.cell.clone()


class Return:
    """One layer on its way back.

    Attributes:
        grad_output, grad_cell: what a step has to add to the gradients of its output and cell.
    """

    def __init__(
        self,
        layer: Layer,
        number: int,
        fields: Fields,
        trace: Trace,
        grads: tuple[Tensor, Tensor],
        products: torch.dtype,
    ) -> None:
        self.layer, self.width, self.near = layer, layer.output.shape[-1], fields.near(number)
        gates, cells, tanhs = trace
        self.steps = list(zip(gates[:, :2], *gates.unbind(1), cells[:-1], cells[1:], tanhs, strict=True))
        self.grad_output, self.grad_cell = grads
        self.peephole = None if layer.peephole is None else layer.peephole.unbind()
        self.gradients = RowGradients(layer.weight, fields.grid, products)
        self.grad_gates = self.gradients.grad.view(*fields.grid, 4, self.width)
        self.parts = gates.new_empty(gates.shape[1:])
        self.together = self.parts.movedim(0, -2)
        self.grad_base = torch.zeros_like(self.grad_gates)
        self.grad_peephole = gates.new_zeros(3, *cells.shape[1:])

    def step(self, t: int, grad: Tensor) -> Tensor:
        """Take the gradient of the output of a step to the gradient of the layer's input."""
        both, i, f, change, o, before, cell, tanh = self.steps[t]
        grad_i, grad_f, grad_change, grad_o = self.parts.unbind()
        grad = grad + self.grad_output
        sigmoid_back(torch.mul(grad, tanh, out=grad_o), o, grad_input=grad_o)
        grad_cell = grad.mul_(o)
        tanh_back(grad_cell, tanh, grad_input=grad_cell)
        grad_cell += self.grad_cell
        if self.peephole is not None:
            grad_cell.addcmul_(grad_o, self.peephole[2])
        torch.mul(grad_cell, change, out=grad_i)
        torch.mul(grad_cell, before, out=grad_f)
        sigmoid_back(self.parts[:2], both, grad_input=self.parts[:2])
        tanh_back(torch.mul(grad_cell, i, out=grad_change), change, grad_input=grad_change)
        self.grad_cell = grad_cell.mul_(f)
        if self.peephole is not None:
            self.grad_cell.addcmul_(grad_i, self.peephole[0]).addcmul_(grad_f, self.peephole[1])
            self.grad_peephole[:2].addcmul_(self.parts[:2], before)
            self.grad_peephole[2].addcmul_(grad_o, cell)
        self.grad_gates.copy_(self.together)
        self.grad_base += self.grad_gates
        grad_input = self.gradients.step(self.near[t])
        self.grad_output = grad_input[..., -self.width :]
        return grad_input[..., : -self.width]

    def weights(self) -> list[Tensor | None]:
        """Gradients of the tensors of the `Layer`, in their order."""
        peephole = self.layer.peephole
        return [
            self.gradients.weight(),
            self.grad_base.flatten(-2).sum_to_size(self.layer.base.shape),
            None if peephole is None else self.grad_peephole.sum_to_size(peephole.shape),
            self.grad_output,
            self.grad_cell,
        ]


sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
tanh_back = torch.ops.aten.tanh_backward.grad_input
