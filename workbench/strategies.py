"""What one GPU holds under each way of training on several, and which way to take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

BUCKET = 4.0
"""Bytes a parameter of ddp's second copy of the gradients, in which they are sent."""

GATHERED = 2
"""Blocks that are whole at a time where weights are spread: the one that runs and the one that comes next."""


@dataclass(frozen=True)
class Need:
    """Bytes of a training step on one device that holds everything.

    Attributes:
        parameters: number of trained parameters.
        weights: of them and of buffers.
        gradients: one a parameter.
        optimiser: moments.
        fixed: activations that do not grow with the batch.
        sample: activations of each sample of a batch.
        block: parameters of the largest block that is gathered where weights are spread; 0 for a network without.
    """

    parameters: int
    weights: float
    gradients: float
    optimiser: float
    fixed: float
    sample: float
    block: int


@dataclass(frozen=True)
class Strategy:
    """One way to train.

    Attributes:
        name: ``single``, ``ddp`` or ``fsdp`` (fully sharded: Zhao et al., 2023, arXiv:2304.11277).
        checkpointed: whether blocks are computed again on the way back.
        states: bytes of weights, gradients and moments on one GPU, and what the strategy holds beside them.
        fixed: bytes of activations that do not grow with the batch.
        sample: bytes of activations a sample.
    """

    name: Literal["single", "ddp", "fsdp"]
    checkpointed: bool
    states: float
    fixed: float
    sample: float

    @property
    def label(self) -> str:
        """For tables."""
        return self.name + (", checkpointed" if self.checkpointed else "")

    def total(self, batch: int) -> float:
        """Bytes on one GPU with `batch` samples on each."""
        return self.states + self.fixed + self.sample * batch

    def largest(self, memory: float) -> int:
        """Samples that fit."""
        return max(0, int((memory - self.states - self.fixed) // self.sample))


def strategies(plain: Need, checkpointed: Need | None, gpus: int) -> Iterator[Strategy]:
    """All ways, those that compute and send least first.

    Args:
        plain: of a step that keeps everything.
        checkpointed: of a step that computes blocks again, for a network that can.
        gpus: over which weights may be spread.
    """
    names: list[Literal["single", "ddp", "fsdp"]] = ["single"] if gpus == 1 else ["ddp", "fsdp"]
    for name in names if plain.block else names[:1]:
        for need in [plain] if checkpointed is None else [plain, checkpointed]:
            states = on_one_gpu(need, name, gpus)
            yield Strategy(name, need is not plain, states, need.fixed, need.sample)


def on_one_gpu(need: Need, name: str, gpus: int) -> float:
    """Bytes of the states on each GPU."""
    states = need.weights + need.gradients + need.optimiser
    if name == "single":
        return states
    if name == "ddp":
        return states + BUCKET * need.parameters
    # of what is gathered, weights and gradients are whole
    return states / gpus + GATHERED * need.block * (need.weights + need.gradients) / need.parameters


@dataclass(frozen=True)
class Choice:
    """The strategy to take, samples on each GPU, and batches whose gradients are added up."""

    strategy: Strategy
    batch: int
    accumulate: int

    def words(self) -> str:
        """For the command line."""
        words = [] if self.strategy.name == "single" else [f"--trainer.strategy={self.strategy.name}"]
        words.append(f"--data.batch_size={self.batch}")
        if self.accumulate > 1:
            words.append(f"--trainer.accumulate_grad_batches={self.accumulate}")
        return " ".join(words)


def choose(found: list[Strategy], memory: float, batch: int) -> Choice | None:
    """The first strategy that holds the batch; else the one that holds most of it, its gradients accumulated.

    Args:
        found: in the order of preference.
        memory: bytes of one GPU that tensors may take.
        batch: samples on each GPU that the experiment asks for.

    Returns:
        None if not even one sample fits anywhere.
    """
    for strategy in found:
        if strategy.largest(memory) >= batch:
            return Choice(strategy, batch, 1)
    best = max(found, key=lambda strategy: strategy.largest(memory))
    fits = best.largest(memory)
    return Choice(best, fits, -(-batch // fits)) if fits else None
