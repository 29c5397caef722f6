"""Convolutions on small grids as products of matrices, forward and backward.

A convolution is one product for each row of its kernel: neighbours along the other axes are copied side by side,
neighbours along the first axis are the same rows a line further, so nothing is multiplied by the zeros beyond the
first and last line. Fields lie as ``[y, batch, x, (z,) channel]`` for it.

Factors may be less precise than the fields, such as bfloat16, for which processors and GPUs have matrix units. The
products of a row are then rounded, sums over rows and steps are not.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor


class RowProducts:
    """The convolution of one layer, one step at a time.

    Args:
        weight: ``[outputs, inputs, *kernel]``.
        grid: ``[y, b, x, (z)]``.
        out: ``[nodes, outputs]``, where each step writes.
        dtype: of the factors.
    """

    def __init__(self, weight: Tensor, grid: torch.Size, out: Tensor, dtype: torch.dtype) -> None:
        self.columns, self.rows, (here, *others), _ = _parts(weight.to(dtype), grid)
        self.matrix, self.out = here.matrix, out
        self.others = [(out[one.to], self.rows[one.out_of], one.matrix) for one in others]
        self.rounded = None if dtype == out.dtype else self.rows.new_empty(out.shape)

    def forward(self, near: Tensor, base: Tensor) -> None:
        """Convolve the fields whose `neighbourhoods` are `near` and add `base`."""
        self.columns.copy_(near)
        if self.rounded is None:
            torch.addmm(base, self.rows, self.matrix, out=self.out)
        else:
            torch.add(base, torch.mm(self.rows, self.matrix, out=self.rounded), out=self.out)
        for out, rows, matrix in self.others:
            add_product(out, rows, matrix, self.rounded)


class RowGradients:
    """The gradients of `RowProducts`, one step at a time; those of the weight add up.

    Attributes:
        grad: ``[nodes, outputs]``, where each step finds the gradient of its output.
    """

    def __init__(self, weight: Tensor, grid: torch.Size, dtype: torch.dtype) -> None:
        self.columns, rows, lines, matrices = _parts(weight.to(dtype), grid)
        self.shape, kernel = weight.shape, list(weight.shape[3:])
        self.grad = rows.new_empty(len(rows), len(weight))
        self.grad_input = weight.new_empty(*grid, weight.shape[1])
        self.grad_rows = torch.empty_like(rows)
        self.grad_matrices = torch.zeros_like(matrices, dtype=weight.dtype)
        self.rounded = None if dtype == weight.dtype else torch.empty_like(matrices[0])
        self.folds = folds(self.grad_rows.view(*grid, *kernel, -1), self.grad_input, kernel)
        self.lines = [
            (
                self.grad[one.to],
                self.grad_rows[one.out_of],
                one.matrix.T,
                rows[one.out_of].T,
                self.grad_matrices[one.line],
            )
            for one in lines
        ]

    def step(self, near: Tensor) -> Tensor:
        """The gradient of the inputs of a step (valid until the next)."""
        self.columns.copy_(near)
        for number, (grad, grad_rows, matrix, rows, total) in enumerate(self.lines):
            if number:
                grad_rows.addmm_(grad, matrix)
            else:
                torch.mm(grad, matrix, out=grad_rows)
            add_product(total, rows, grad, self.rounded)
        for number, (source, target) in enumerate(self.folds):
            if number:
                target += source
            else:
                target.copy_(source)
        return self.grad_input

    def weight(self) -> Tensor:
        """What the steps have added up, in the shape of the weight."""
        axes = len(self.shape)
        found = self.grad_matrices.view(*self.shape[2:], self.shape[1], self.shape[0])
        return found.permute(axes - 1, axes - 2, *range(axes - 2))


def add_product(total: Tensor, left: Tensor, right: Tensor, rounded: Tensor | None) -> None:
    """Add a product to `total`; by way of `rounded`, with as many rows or more, where the factors are less precise."""
    if rounded is None:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right, out=rounded[: len(total)])


class Line(NamedTuple):
    """A row of the kernel: its number, its matrix, the rows that it adds to and those that it takes."""

    line: int
    matrix: Tensor
    to: slice
    out_of: slice


def _parts(weight: Tensor, grid: torch.Size) -> tuple[Tensor, Tensor, list[Line], Tensor]:
    """Room for the neighbourhoods, the same as rows, the rows of the kernel from the middle on, and their matrices."""
    count, *others = weight.shape[2:]
    matrices = weight.permute(2, *range(3, weight.ndim), 1, 0).reshape(count, -1, len(weight)).contiguous()
    columns = weight.new_empty(*grid, *others, weight.shape[1])
    middle = count // 2
    lines = [
        Line(middle + offset, matrices[middle + offset], *spans(offset, grid[0], grid[1:].numel()))
        for offset in sorted(range(-middle, middle + 1), key=abs)
        if abs(offset) < grid[0]
    ]
    return columns, columns.view(-1, matrices.shape[1]), lines, matrices


def spans(offset: int, lines: int, nodes: int) -> tuple[slice, slice]:
    """Rows of the `nodes` of each line, and the rows `offset` lines further, where both are among the `lines`."""
    first, last = max(0, -offset), lines - max(0, offset)
    return slice(first * nodes, last * nodes), slice((first + offset) * nodes, (last + offset) * nodes)


def bordered(like: Tensor, rooms: int, grid: torch.Size, channels: int, kernel: torch.Size) -> Tensor:
    """Zeros ``[rooms, y, b, x, (z,) c]`` with the border that the kernel needs along all axes but the first."""
    lines, batch, *space = grid
    wide = [n + k - 1 for n, k in zip(space, kernel[1:], strict=True)]
    return like.new_zeros(rooms, lines, batch, *wide, channels)


def inside(fields: Tensor, grid: torch.Size, kernel: torch.Size) -> Tensor:
    """The fields without their border."""
    place: tuple[Any, ...] = tuple(slice(k // 2, k // 2 + n) for n, k in zip(grid[2:], kernel[1:], strict=True))
    return fields[(..., *place, slice(None))]


def neighbourhoods(fields: Tensor, grid: torch.Size, kernel: torch.Size) -> Tensor:
    """A view of the neighbours of all nodes, ``[rooms, *grid, *kernel, c]``, without the first axis of the kernel."""
    room, *strides, one = fields.stride()
    shape = (len(fields), *grid, *kernel[1:], fields.shape[-1])
    return fields.as_strided(shape, (room, *strides, *strides[2:], one), fields.storage_offset())


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
