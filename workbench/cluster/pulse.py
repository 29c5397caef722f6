"""A few numbers of every rank for all ranks, sent while the next steps run, so that nobody waits for them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

LONGEST = 10
"""Steps between two exchanges at most."""

PERIOD = 0.5
"""Seconds between two exchanges where steps are short."""

FIELDS = ("signal", "batches", "seconds", "waited", "own", "samples", "memory", "stride")


@dataclass
class Counts:
    """What a rank did since its last exchange.

    Attributes:
        signal: number of the signal that asks it to stop; 0 for none.
        batches: training batches.
        seconds: that they took.
        waited: of these, seconds waiting for data.
        own: seconds of its own work, waiting for data and forward passes: under ddp, no other rank has a part in them.
        samples: in these batches.
        memory: peak bytes on the GPU.
        stride: batches to the next exchange but one, as rank 0 has it.
    """

    signal: float = 0.0
    batches: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    own: float = 0.0
    samples: float = 0.0
    memory: float = 0.0
    stride: float = 1.0
    events: list[tuple[Any, Any]] = field(default_factory=list)

    def vector(self) -> Tensor:
        """The numbers, in the order of `FIELDS`."""
        return torch.tensor([getattr(self, name) for name in FIELDS], dtype=torch.float64)


class Pulse(pl.Callback):
    """Measures every batch and exchanges the sums.

    Numbers travel on the CPU, in a group of their own: no device is waited for. What was sent with one exchange is
    read with the next, on every rank in the same batch, so that all can act on it together. Exchanges are a batch
    apart where batches take longer than `PERIOD`, and further where they are shorter: rank 0 says how far.

    Attributes:
        news: ``float64[rank, field]``, what all ranks sent, in the batch in which it is read; None otherwise.
        signal: number of a signal that this rank was sent; whoever catches it sets it.
    """

    def __init__(self) -> None:
        self.news: Tensor | None = None
        self.signal = 0
        self._counts, self._group, self._pending = Counts(), None, None
        self._left = 1
        self._done = self._began = self._loaded = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Make the group, and leave out a broadcast of Lightning's in every step that waits for the device."""
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self._loaded = _loader(trainer).waited
        self._done = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._done = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the validation out."""
        self._done = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Note how long the data took."""
        waited = _loader(trainer).waited
        self._counts.waited += waited - self._loaded
        self._counts.own += waited - self._loaded
        self._loaded = waited
        self._began = time.perf_counter()
        if module.device.type == "cuda":
            self._counts.events.append((_event(), torch.cuda.Event(enable_timing=True)))

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """Note how long the forward pass took."""
        if module.device.type == "cuda":
            self._counts.events[-1][1].record()
        else:
            self._counts.own += time.perf_counter() - self._began

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the batch, and exchange if it is time."""
        counts, now = self._counts, time.perf_counter()
        counts.batches += 1
        counts.seconds += now - self._done
        counts.samples += len(batch["index"])
        self._done, self.news = now, None
        self._left -= 1
        if not self._left:
            self._exchange(trainer, module)

    def _exchange(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        counts, self._counts = self._counts, Counts()
        if module.device.type == "cuda":
            counts.memory = torch.cuda.max_memory_allocated(module.device)
            over = [pair for pair in counts.events if pair[1].query()]
            counts.own += sum(start.elapsed_time(end) for start, end in over) / 1000
            self._counts.events = counts.events[len(over) :]
        counts.signal = self.signal
        counts.stride = min(LONGEST, max(1, int(PERIOD * counts.batches / max(counts.seconds, 1e-9))))
        vector = counts.vector()
        if self._group is None:
            self.news = vector[None]
        else:
            before = self._pending
            found = [torch.empty_like(vector) for _ in range(trainer.world_size)]
            work = torch.distributed.all_gather(found, vector, group=self._group, async_op=True)
            self._pending = (work, found)
            if before is not None:
                before[0].wait()
                self.news = torch.stack(before[1])
        self._left = 1 if self.news is None else int(self.news[0, FIELDS.index("stride")])

    def settle(self) -> None:
        """Wait for what is on its way, on all ranks after the same batch; it is read later as ever."""
        if self._pending is not None:
            self._pending[0].wait()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave nothing on its way."""
        self.settle()


def column(news: Tensor, name: str) -> Tensor:
    """One field of all ranks, ``float64[rank]``."""
    return news[:, FIELDS.index(name)]


def _loader(trainer: pl.Trainer) -> Any:
    return trainer.datamodule.loaders["train"]  # type: ignore[attr-defined]


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
