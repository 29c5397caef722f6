r"""The costly part of an IFactFormer block, forward and backward by hand: values, axis kernels, norm, first linear map.

For a field u (b, N, C) on N nodes, h heads of c channels and a kernel :math:`K_{ak}` for each axis a and head k,

.. math:: z = \sum_{a,k} W_{ak}\,\nu(K_{ak}\,(u V_k^T))

with K acting along its own axis only and :math:`\nu` a normalisation without parameters. The usual formulation holds
all :math:`K_{ak} u V_k^T` side by side, normalises and multiplies once; it spends more time on moving those bytes than
on arithmetic. Here no more than one of them exists at a time on a CPU:

* the values of one head are contiguous, so that every kernel is applied by plain matrix products on a view;
* the normalisation is folded into the next matrix: :math:`W(F - m)/\sigma = (W/\sigma)(F - m)`, or, where it acts on
  rows, applied to the sum at the end;
* the backward pass computes the values again and keeps none of them: u, the kernels and the statistics suffice. The
  two sums that the gradient of a normalisation needs fall out of the gradient of W and out of z.

With the paper's sizes and one CPU thread a forward pass takes a third of the time of the usual formulation, a training
step less than half, in a seventh of the memory (``benchmarks/ifactformer.py``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-5
CPU_PART = 2**21
"""Values of a field that are computed at once on a CPU: one head at the paper's sizes, which its caches then hold."""
DEVICE_PART = 2**28
"""The same on another device, where few and large operations count: everything, up to 1 GiB a buffer."""


@dataclass(frozen=True)
class Layout:
    """How a block mixes: what is fixed while tensors change.

    Attributes:
        space: Points along each axis.
        heads: Number of heads.
        branches: Axes whose kernels are applied one after the other, for each term of the sum: ``((0,), (1,), (2,))``
            in parallel, ``((0, 1, 2),)`` chained.
        plane: Normalise each plane of the first axis over its nodes and all channels, rather than each channel over
            all nodes.
        dtype: Type of the large matrix products; sums over them and statistics are kept in that of u.
    """

    space: tuple[int, ...]
    heads: int
    branches: tuple[tuple[int, ...], ...]
    plane: bool
    dtype: torch.dtype


def mix(
    u: Float[Tensor, "b n i"],
    kernels: tuple[Float[Tensor, "b h _ _"], ...],
    to_values: Float[Tensor, "hc i"],
    to_out: Float[Tensor, "o hac"],
    layout: Layout,
) -> Float[Tensor, "b n o"]:
    """Return z of the module's equation, without a second derivative.

    Args:
        u: Field on the flattened grid, contiguous.
        kernels: One square matrix for each axis, sample and head.
        to_values: V, head by head.
        to_out: W; columns by head, then branch, then channel.
        layout: What is fixed.
    """
    return Mixing.apply(u, to_values, to_out, layout, *kernels)


class Mixing(torch.autograd.Function):
    """The sum of all heads and branches, with a backward that recomputes their values."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, to_values: Tensor, to_out: Tensor, layout: Layout, *kernels: Tensor) -> Tensor:
        """Accumulate the output part by part; keep the statistics, and for the norm of planes the output too."""
        with torch.autocast(u.device.type, enabled=False):
            z = u.new_zeros(*u.shape[:2], len(to_out))
            work = Work(u, to_values, to_out, layout, kernels)
            norm = (PlaneNorm if layout.plane else ChannelNorm)(work)
            for part in work.parts():
                values = work.values(part)
                for branch in range(len(layout.branches)):
                    field, weight = norm.collect(work.spread(part, branch, values)[-1], part, branch)
                    for one, matrix in zip(field, weight.to(layout.dtype).mT, strict=True):
                        accumulate(z[part.samples], one, matrix)
            z = norm.finish(z)
        ctx.layout = layout
        ctx.save_for_backward(u, to_values, to_out, z, norm.mean, norm.rstd, *kernels)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go through the same parts again, each with its own contribution to every gradient."""
        u, to_values, to_out, z, mean, rstd, *kernels = ctx.saved_tensors
        layout: Layout = ctx.layout
        with torch.autocast(u.device.type, enabled=False):
            work = Work(u, to_values, to_out, layout, tuple(kernels))
            norm = (PlaneNorm if layout.plane else ChannelNorm)(work, mean, rstd)
            grad_z = norm.start(gradients[0].contiguous(), z)
            grad_u, grad_values, grad_out = torch.zeros_like(u), torch.zeros_like(to_values), torch.zeros_like(to_out)
            grad_kernels = [torch.zeros_like(kernel) for kernel in work.kernels]
            grad_weight = grad_out.view(len(to_out), layout.heads, len(layout.branches), -1)
            for part in work.parts():
                values = work.values(part)
                grad_v = work.room("gradient", values.shape, values.dtype).zero_()
                for branch, axes in enumerate(layout.branches):
                    *fields, last = work.spread(part, branch, values)
                    weight_part, grad_field = norm.backward(last, grad_z[part.samples], part, branch)
                    grad_weight[:, part.heads, branch] += weight_part.sum(1).transpose(0, 1)
                    for step, axis in reversed(list(enumerate(axes))):
                        grad_kernels[axis][part.index] += pair(grad_field, fields[step], layout.space, axis)
                        transposed = work.kernels[axis][part.index].mT
                        # the gradient of the values adds up over the branches
                        target = work.room(f"gradient {step}", values.shape, values.dtype) if step else grad_v
                        grad_field = along(transposed, grad_field, layout.space, axis, target, add=step == 0)
                work.values_backward(part, grad_v, grad_u, grad_values)
        return (grad_u, grad_values, grad_out, None, *(g.transpose(0, 1) for g in grad_kernels))


@dataclass(frozen=True)
class Part:
    """The heads and samples that are computed at once."""

    heads: slice
    samples: slice

    @property
    def index(self) -> tuple[slice, slice]:
        """Where the part lies in tensors (head, sample, ...)."""
        return self.heads, self.samples


class Work:
    """The tensors of one call and the steps that forward and backward share; axes are (head, sample, node, channel)."""

    def __init__(
        self, u: Tensor, to_values: Tensor, to_out: Tensor, layout: Layout, kernels: tuple[Tensor, ...]
    ) -> None:
        self.layout = layout
        self.u = u.to(layout.dtype)
        self.to_values = to_values.to(layout.dtype).view(layout.heads, -1, to_values.shape[1])
        self.weight = to_out.view(len(to_out), layout.heads, len(layout.branches), -1).permute(1, 2, 0, 3)
        self.kernels = [kernel.transpose(0, 1).to(layout.dtype) for kernel in kernels]
        self.rooms: dict[str, Tensor] = {}

    def parts(self) -> Iterator[Part]:
        """As many samples and heads at once as suit the device."""
        batch, nodes, _ = self.u.shape
        limit = CPU_PART if self.u.device.type == "cpu" else DEVICE_PART
        size = nodes * self.to_values.shape[1]
        samples = min(batch, max(1, limit // size))
        heads = min(self.layout.heads, max(1, limit // (size * samples)))
        for sample in range(0, batch, samples):
            for head in range(0, self.layout.heads, heads):
                yield Part(slice(head, head + heads), slice(sample, sample + samples))

    def room(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a buffer that lasts for the call; fresh memory for each part took a fifth more time."""
        room = self.rooms.get(name)
        if room is None or (room.shape, room.dtype) != (shape, dtype):
            room = self.rooms[name] = self.u.new_empty(shape, dtype=dtype)
        return room

    def values(self, part: Part) -> Float[Tensor, "h b n c"]:
        """Return u V^T of the part's heads."""
        u = self.u[part.samples]
        matrices = self.to_values[part.heads]
        shape = torch.Size([len(matrices), *u.shape[:2], matrices.shape[1]])
        values = self.room("values", shape, u.dtype)
        for one, matrix in zip(values, matrices, strict=True):
            torch.mm(u.flatten(0, 1), matrix.T, out=one.flatten(0, 1))
        return values

    def spread(self, part: Part, branch: int, values: Tensor) -> list[Tensor]:
        """Return the values and what they become with each kernel of the branch."""
        fields = [values]
        for step, axis in enumerate(self.layout.branches[branch]):
            room = self.room(f"field {step}", values.shape, values.dtype)
            fields.append(along(self.kernels[axis][part.index], fields[-1], self.layout.space, axis, room))
        return fields

    def values_backward(self, part: Part, grad: Tensor, grad_u: Tensor, grad_matrices: Tensor) -> None:
        """Add the gradients of u and V that come with the gradient of the part's values."""
        u = self.u[part.samples].flatten(0, 1)
        rows = grad_u[part.samples].flatten(0, 1)
        blocks = grad_matrices.view(self.layout.heads, -1, u.shape[1])[part.heads]
        for one, matrix, block in zip(grad.flatten(1, 2), self.to_values[part.heads], blocks, strict=True):
            accumulate(rows[None], one[None], matrix[None])
            block += one.T @ u


class ChannelNorm:
    """Each channel has mean 0 and variance 1 over the nodes of a sample; folded into the columns of W."""

    def __init__(self, work: Work, mean: Tensor | None = None, rstd: Tensor | None = None) -> None:
        self.work = work
        heads, branches, _, channels = work.weight.shape
        shape = (heads, branches, len(work.u), 1, channels)
        self.mean = work.weight.new_empty(shape) if mean is None else mean
        self.rstd = work.weight.new_empty(shape) if rstd is None else rstd

    def collect(self, field: Tensor, part: Part, branch: int) -> tuple[Tensor, Tensor]:
        """Take the statistics of a field; return it without its mean, and its columns of W over its deviation."""
        at = (part.heads, branch, part.samples)
        centred = field.to(self.mean.dtype)
        self.mean[at] = column_means(centred)
        centred = centred.sub_(self.mean[at])
        squares = torch.mul(centred, centred, out=self.work.room("squares", centred.shape, centred.dtype))
        self.rstd[at] = (column_means(squares) + EPS).rsqrt()
        return centred.to(field.dtype), self.work.weight[part.heads, branch, None] * self.rstd[at]

    def finish(self, z: Tensor) -> Tensor:
        """Nothing is left to do."""
        return z

    def start(self, grad_z: Tensor, z: Tensor) -> Tensor:
        """Take the sum over the nodes that every field needs."""
        self.total = grad_z.sum(1)
        return grad_z.to(self.work.layout.dtype)

    def backward(self, field: Tensor, grad_z: Tensor, part: Part, branch: int) -> tuple[Tensor, Tensor]:
        """Return the gradients of the field's columns of W (head, sample, out, c) and of the field."""
        at = (part.heads, branch, part.samples)
        mean, rstd = self.mean[at], self.rstd[at]
        weight, nodes = self.work.weight[part.heads, branch, None], field.shape[2]
        centred = field.to(mean.dtype).sub_(mean)
        grad_weight = (grad_z.mT @ centred.to(field.dtype)).to(mean.dtype) * rstd
        # means over the nodes of the normalised field's gradient, alone and times the normalised field
        shift = (self.total[part.samples, None] @ weight) / nodes
        slope = (weight * grad_weight).sum(-2, keepdim=True) / nodes
        grad = torch.addcmul(-shift * rstd, centred, -slope * rstd.square(), out=centred)
        product = (weight * rstd).to(field.dtype)
        for one, matrix in zip(grad, product, strict=True):
            accumulate(one, grad_z, matrix)
        return grad_weight, grad.to(field.dtype)


class PlaneNorm:
    """Each plane of the first axis has mean 0 and variance 1 over its nodes and all channels; applied to W's sum."""

    def __init__(self, work: Work, mean: Tensor | None = None, rstd: Tensor | None = None) -> None:
        self.work = work
        self.planes = work.layout.space[0]
        heads, branches, _, channels = work.weight.shape
        self.size = prod(work.layout.space[1:]) * heads * branches * channels
        self.sums = work.weight.new_zeros(2, len(work.u), self.planes)
        self.column = work.weight.sum((0, 1, 3))
        empty = work.weight.new_empty(len(work.u), self.planes)
        self.mean, self.rstd = (empty if mean is None else mean), (empty if rstd is None else rstd)

    def by_plane(self, field: Tensor) -> Tensor:
        """View (..., node, channel) as (..., plane, node in the plane and channel)."""
        return field.view(*field.shape[:-2], self.planes, -1)

    def collect(self, field: Tensor, part: Part, branch: int) -> tuple[Tensor, Tensor]:
        """Add a field's sums; return it and its columns of W as they are."""
        rows = self.by_plane(field).to(self.sums.dtype)
        self.sums[0, part.samples] += rows.sum((0, -1))
        self.sums[1, part.samples] += torch.linalg.vector_norm(rows, dim=-1).square().sum(0)
        return field, self.work.weight[part.heads, branch, None]

    def finish(self, z: Tensor) -> Tensor:
        """Normalise the sum over all fields as if each had been normalised before."""
        self.mean = self.sums[0] / self.size
        variance = (self.sums[1] / self.size - self.mean.square()).clamp(min=0)
        self.rstd = (variance + EPS).rsqrt()
        z = z.view(len(z), self.planes, -1, z.shape[-1])
        shift = self.mean[..., None, None] * self.column
        return z.sub_(shift).mul_(self.rstd[..., None, None]).flatten(1, 2)

    def start(self, grad_z: Tensor, z: Tensor) -> Tensor:
        """Take the two sums that every field needs; return the gradient of the sum before the norm's scale."""
        rows, rstd = self.by_plane(grad_z), self.rstd
        shift = (grad_z.view(len(z), self.planes, -1, z.shape[-1]).sum(2) @ self.column) / self.size
        slope = (rows * self.by_plane(z)).sum(-1) / self.size
        self.factor = -slope * rstd.square()
        self.offset = -shift * rstd - self.mean * self.factor
        grad_z = (rows * rstd[..., None]).view_as(grad_z)
        self.total = (grad_z.view(len(z), self.planes, -1, z.shape[-1]).sum(2) * self.mean[..., None]).sum(1)
        return grad_z.to(self.work.layout.dtype)

    def backward(self, field: Tensor, grad_z: Tensor, part: Part, branch: int) -> tuple[Tensor, Tensor]:
        """Return the gradients of the field's columns of W (head, sample, out, c) and of the field."""
        wide = self.sums.dtype
        grad_weight = (grad_z.mT @ field).to(wide) - self.total[part.samples, :, None]
        rows = self.by_plane(field).to(wide)
        factor, offset = self.factor[part.samples, :, None], self.offset[part.samples, :, None]
        grad = torch.addcmul(offset, rows, factor, out=rows).view(field.shape)
        product = self.work.weight[part.heads, branch, None].to(field.dtype)
        for one, matrix in zip(grad, product, strict=True):
            accumulate(one, grad_z, matrix)
        return grad_weight, grad.to(field.dtype)


def along(
    kernel: Float[Tensor, "h b i j"],
    field: Float[Tensor, "h b n c"],
    space: tuple[int, ...],
    axis: int,
    out: Float[Tensor, "h b n c"],
    add: bool = False,
) -> Float[Tensor, "h b n c"]:
    """Apply the matrix of each head and sample along one axis of the grid; write to ``out``, or add to it."""
    lines, size = prod(space[:axis]), space[axis]
    lead = field.shape[:2]
    kernels = kernel[:, :, None].expand(*lead, lines, size, size).reshape(-1, size, size)
    lines_of = (len(kernels), size, -1)
    out.view(lines_of).baddbmm_(kernels, field.view(lines_of), beta=int(add))
    return out


def pair(
    left: Float[Tensor, "h b n c"], right: Float[Tensor, "h b n c"], space: tuple[int, ...], axis: int
) -> Float[Tensor, "h b i j"]:
    """Return the products of all pairs of nodes of an axis, summed over the other axes and the channels."""
    lines, size = prod(space[:axis]), space[axis]
    batch = prod(left.shape[:2]) * lines
    products = torch.bmm(left.view(batch, size, -1), right.view(batch, size, -1).mT)
    return products.view(*left.shape[:2], lines, size, size).sum(2)


def column_means(field: Float[Tensor, "h b n c"]) -> Float[Tensor, "h b 1 c"]:
    """Return the mean of each channel over the nodes."""
    heads, batch, nodes, _ = field.shape
    ones = field.new_full((1, 1, 1), 1 / nodes).expand(heads * batch, 1, nodes)
    return torch.bmm(ones, field.flatten(0, 1)).unflatten(0, (heads, batch))


def accumulate(out: Float[Tensor, "b n o"], left: Float[Tensor, "b n i"], right: Float[Tensor, "... i o"]) -> None:
    """Add left times right to ``out`` in place; ``out`` may be wider than the factors."""
    right = right.expand(len(out), -1, -1)
    if out.dtype == left.dtype:
        out.baddbmm_(left, right)
    else:
        out += torch.bmm(left, right)
