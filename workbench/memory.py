"""Memory of a training step from the size of every tensor in it; nothing is computed, and nothing allocated.

The network runs at its full size on tensors without memory (torch's FakeTensorMode) while the sizes of all that are
alive are added up.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, UnsupportedFakeTensorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.reader import WindowReader
from workbench.data.spec import LEVEL_NAMES
from workbench.data.statistics import ChannelStatistics, Statistics
from workbench.data.store import open_data
from workbench.data.windows import parts, sample_windows
from workbench.errors import InputError
from workbench.models.prithvi_blocks import Alternating, Block
from workbench.strategies import Need
from workbench.tasks.base import Task


def need(task: Task, config: DataConfig, precision: str = "32-true", checkpointed: bool = False) -> Need:
    """What a training step needs.

    Args:
        task: not built yet.
        config: the ``data`` section; of its record only names and sizes are looked at.
        precision: of the trainer; ``bf16-mixed`` runs in bfloat16 where autocast does.
        checkpointed: compute every block again on the way back, in a network that can.

    Raises:
        InputError: the network has no blocks to compute again, or looks at values.
    """
    dataset = open_data(config)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    owner: Any = task
    make = owner.make_network

    def without_memory(*arguments: Any) -> Any:
        with mode:
            return make(*arguments)

    owner.make_network = without_memory
    task.build(empty_packing(dataset, config))
    if checkpointed:
        checkpoint_all(task)
    parameters = [p for p in task.parameters() if p.requires_grad]
    one, two = (_activations(task, _shapes(dataset, config, batch), mode, precision) for batch in (1, 2))
    count = sum(p.numel() for p in parameters)
    size = float(sum(p.numel() * p.element_size() for p in parameters))
    held = sum(t.numel() * t.element_size() for t in (*task.parameters(), *task.buffers()))
    blocks = [sum(p.numel() for p in part.parameters()) for part in task.modules() if isinstance(part, Block)]
    moments = moments_of(task, parameters)
    return Need(count, held, size, moments, max(0.0, 2 * one - two), two - one, max(blocks, default=0))


def moments_of(task: Task, parameters: list[torch.nn.Parameter]) -> float:
    """Bytes of the moments: two of AdamW, one for matrices under Muon."""
    muon = task.optimisation.method == "muon"
    return float(
        sum(p.numel() * p.element_size() * (1 if muon and p.ndim > 1 and len(p) > 1 else 2) for p in parameters)
    )


def checkpoint_all(task: Task) -> None:
    """Compute every block again on the way back.

    Raises:
        InputError: the network has no such blocks.
    """
    stacks = [part for part in task.modules() if isinstance(part, Alternating)]
    if not stacks:
        raise InputError(f"{type(task.network).__name__} has no blocks that can be computed again on the way back")
    for stack in stacks:
        stack.checkpointed = frozenset(range(len(stack.transformers)))


def empty_packing(dataset: xr.Dataset, config: DataConfig) -> Packing:
    """The packing of a record whose values nobody has looked at: every mean 0, every deviation 1."""
    variables = {}
    for name in config.variables():
        levels = next((dataset.sizes[dim] for dim in LEVEL_NAMES if dim in dataset[name].dims), 1)
        one = ChannelStatistics.unscaled()
        variables[name] = replace(one, mean=[0.0] * levels, std=[1.0] * levels, tendency_std=[1.0] * levels)
    packing = Packing.fit(dataset, config, Statistics(variables, "", ""))
    if config.climatology is not None:
        state = packing.groups["state"]
        groups = {**packing.groups, "state": replace(state, anomaly_std=(1.0,) * state.channels)}
        packing = replace(packing, groups=groups)
    return packing


def _shapes(dataset: xr.Dataset, config: DataConfig, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a batch as the loader gives it."""
    windows = sample_windows(dataset, parts(dataset, config)["train"], config)
    reader = WindowReader(dataset, config.roles(), crop=config.crop, threads=0, cache_bytes=0)
    shapes = {role: tuple(reader.buffer_shape(role, windows, batch)) for role in reader.roles}
    if config.climatology is not None:
        state = shapes["state"]
        shapes["climatology"] = (batch, max(1, config.horizon), *state[2:])
    if windows.timings is not None:
        shapes |= {"input_delta": (batch,), "lead_time": (batch,)}
    return shapes


def _activations(task: Task, shapes: Mapping[str, tuple[int, ...]], mode: FakeTensorMode, precision: str) -> float:
    """Bytes at the peak of a step beside weights, gradients and moments."""
    lower = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    task.train()
    with mode:
        for parameter in task.parameters():
            parameter.grad = torch.zeros_like(parameter)
        states = [*task.parameters(), *task.buffers(), *(p.grad for p in task.parameters() if p.grad is not None)]
        try:
            with Alive(states) as alive:
                batch = {role: torch.ones(shape) for role, shape in shapes.items()}
                batch["index"] = torch.zeros(shapes["state"][0], dtype=torch.int64)
                with lower:
                    loss = task.sample_losses(batch, training=True).mean()
                loss.backward()
        except (DataDependentOutputException, UnsupportedFakeTensorException) as error:
            raise InputError(
                f"{type(task).__name__} with {type(task.network).__name__} looks at values while it runs, so that "
                f"its memory cannot be planned: workbench check measures it ({str(error).splitlines()[0]})"
            ) from error
    return alive.peak


class Alive(TorchDispatchMode):
    """Adds up the bytes of all tensors that are made while it is entered and are still alive.

    Args:
        known: tensors that do not count.

    Attributes:
        peak: the most bytes at any moment.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0.0
        self._seen = WeakIdKeyDictionary({tensor.untyped_storage(): 0 for tensor in known})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it returns."""
        found = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, found)
        return found

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            size = storage.nbytes()
            self._seen[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size
