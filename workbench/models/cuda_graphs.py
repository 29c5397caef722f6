"""Functions of tensors as CUDA graphs: one launch each way where kernels take longer to start than to run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Outputs = tuple[Tensor, ...]


class Graphs:
    """Replay a function of tensors on a GPU, with gradients; a graph is captured for each new shape of its arguments.

    Args:
        function: takes a key, which is fixed while tensors change, and tensors or None; returns tensors. It must do
            the same kernels for the same key and shapes.
        limit: graphs that are kept, each with the memory of one call; the oldest goes first.
    """

    def __init__(self, function: Callable[..., Outputs], limit: int = 8) -> None:
        self.function, self.limit = function, limit
        self.captured: dict[Hashable, Capture] = {}

    def __call__(self, key: Hashable, *tensors: Tensor | None) -> Outputs:
        """The function's results; without a graph while a call before with the same shapes waits for its gradients."""
        grad = torch.is_grad_enabled()
        shapes = tuple(
            None if one is None else (one.shape, one.dtype, one.device, grad and one.requires_grad) for one in tensors
        )
        signature = (key, torch.is_inference_mode_enabled(), shapes)
        if signature not in self.captured:
            while len(self.captured) >= self.limit:
                del self.captured[next(iter(self.captured))]
            self.captured[signature] = Capture(self.function, key, tensors)
        capture = self.captured[signature]
        if capture.waits():
            return self.function(key, *tensors)
        found: Outputs = Replay.apply(capture, *tensors)
        return found


class Capture:
    """The graphs of one key and shape, and the memory that they read and write."""

    def __init__(self, function: Callable[..., Outputs], key: Hashable, tensors: tuple[Tensor | None, ...]) -> None:
        grad = torch.is_grad_enabled()
        self.inputs = [
            None
            if one is None
            else torch.clone(one.detach(), memory_format=torch.contiguous_format).requires_grad_(
                grad and one.requires_grad
            )
            for one in tensors
        ]
        self.wanted = [one for one in self.inputs if one is not None and one.requires_grad]
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        self.owner: weakref.ref[Any] | None = None
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # libraries set themselves up in their first calls
            for _ in range(2):
                found = function(key, *self.inputs)
                if self.wanted:
                    torch.autograd.grad(found, self.wanted, [torch.zeros_like(one) for one in found], allow_unused=True)
                del found
        here.wait_stream(aside)
        with torch.cuda.graph(self.forward):
            self.outputs = function(key, *self.inputs)
        if self.wanted:
            self.given = [torch.zeros_like(one) for one in self.outputs]
            with torch.cuda.graph(self.backward, pool=self.forward.pool()):
                self.gradients = torch.autograd.grad(self.outputs, self.wanted, self.given, allow_unused=True)

    def waits(self) -> bool:
        """Whether a call's intermediate results are still needed for its gradients."""
        return self.owner is not None and self.owner() is not None


class Replay(torch.autograd.Function):
    """One call of a `Capture`."""

    @staticmethod
    def forward(ctx: Any, capture: Capture, *tensors: Tensor | None) -> Outputs:
        """Copy the arguments in, replay, copy the results out."""
        for one, place in zip(tensors, capture.inputs, strict=True):
            if place is not None and one is not None:
                place.detach().copy_(one)
        capture.forward.replay()
        ctx.capture = capture
        capture.owner = weakref.ref(ctx) if capture.wanted else None
        return tuple(one.detach().clone() for one in capture.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The same for the gradients."""
        capture: Capture = ctx.capture
        if not capture.waits():
            raise RuntimeError("the gradients of a CUDA graph were asked for twice, expected once")
        for place, one in zip(capture.given, gradients, strict=True):
            if one is None:
                place.zero_()
            else:
                place.copy_(one)
        capture.backward.replay()
        capture.owner = None
        found = iter(capture.gradients)
        parts = [next(found) if one is not None and one.requires_grad else None for one in capture.inputs]
        return None, *(None if one is None else one.clone() for one in parts)
