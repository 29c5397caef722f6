"""The linear maps of a transformer block, which keep no more for the way back than what came in.

What the normalisation or the GELU before a linear map puts out is needed again for the gradient of the weights, and is
computed again there: 6 of the 16 values a token and channel that a block keeps otherwise, for 3 % more time at 256
channels and less at more. Under autocast weights are cast where they are used and not kept in lower precision, which
would take half of their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional


def linear_of_norm(
    norm: nn.LayerNorm, linear: nn.Linear, z: Float[Tensor, "... e"], dtype: torch.dtype
) -> Float[Tensor, "... d"]:
    """Normalise over the channels and apply a linear map in ``dtype``, that of autocast where it is on."""
    return cast("Tensor", _LinearOfNorm.apply(z, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias, dtype))


def linear_of(
    linear: nn.Linear, h: Float[Tensor, "... d"], residual: Float[Tensor, "... e"] | None = None, gelu: bool = False
) -> Float[Tensor, "... e"]:
    """Apply a linear map in the precision of ``h``, to its exact GELU if asked, and add it to a residual."""
    return cast("Tensor", _Linear.apply(h, linear.weight, linear.bias, residual, gelu))


class _LinearOfNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        gain: Tensor,
        offset: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(z, gain.shape, gain, offset, eps)
        ctx.save_for_backward(z, mean, rstd, gain, offset, weight, bias)
        ctx.eps = eps
        return _linear(normed.to(dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, mean, rstd, gain, offset, weight, bias = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        normed = torch.native_layer_norm(z, gain.shape, gain, offset, ctx.eps)[0] if wanted[4] else None
        by_normed, by_weight, by_bias = _gradients(grad, normed, weight, bias, (any(wanted[:3]), *wanted[4:6]))
        by_norm: tuple[Tensor | None, ...] = (None, None, None)
        if by_normed is not None:
            by_norm = torch.ops.aten.native_layer_norm_backward(
                by_normed.to(z.dtype), z, gain.shape, mean, rstd, gain, offset, list(wanted[:3])
            )
        return *by_norm, None, by_weight, by_bias, None


class _Linear(Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: bool
    ) -> Tensor:
        ctx.save_for_backward(h, weight, bias)
        ctx.gelu = gelu
        inputs = functional.gelu(h) if gelu else h
        if residual is None or residual.dtype != h.dtype:
            found = _linear(inputs, weight, bias)
            return found if residual is None else residual + found
        # one pass over the residual instead of three: 1 to 2 % of a forward pass
        found = residual.clone() if bias is None else residual + bias
        found.view(-1, len(weight)).addmm_(inputs.flatten(0, -2), weight.to(h.dtype).T)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, bias = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        inputs = functional.gelu(h) if ctx.gelu else h
        by_inputs, by_weight, by_bias = _gradients(grad.to(h.dtype), inputs, weight, bias, wanted[:3])
        if ctx.gelu and by_inputs is not None:
            # into the buffer that is no longer needed
            by_inputs = torch.ops.aten.gelu_backward.grad_input(by_inputs, h, grad_input=inputs)
        return by_inputs, by_weight, by_bias, grad if wanted[3] else None, None


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dtype = inputs.dtype
    return functional.linear(inputs, weight.to(dtype), None if bias is None else bias.to(dtype))


def _gradients(
    grad: Tensor, inputs: Tensor | None, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a linear map by its inputs, weight and bias, those that are wanted."""
    rows = grad.flatten(0, -2)
    by_inputs = (rows @ weight.to(rows.dtype)).view(*grad.shape[:-1], -1) if wanted[0] else None
    by_weight = by_bias = None
    if wanted[1] and inputs is not None:
        by_weight = (rows.T @ inputs.flatten(0, -2).to(rows.dtype)).to(weight.dtype)
    if wanted[2] and bias is not None:
        by_bias = rows.sum(0, dtype=bias.dtype)
    return by_inputs, by_weight, by_bias
