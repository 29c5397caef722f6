"""How fast a training is, and where its time goes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler
from torch import Tensor

from workbench.cluster.pulse import Pulse, column

FIRST, PROFILED = 5, 1000
"""The batch whose communication is looked at first, and batches from one look to the next."""

BAR = ("samples/s", "waiting", "comm", "GB")
"""What `Throughput` shows in the progress bar."""


class Throughput(pl.Callback):
    """Samples per second, time waiting for data, share of communication and memory of the GPU, as the training runs.

    They stand in the progress bar and in ``throughput.csv`` of the run directory, and go to every logger that the
    experiment names. ``metrics.csv`` holds what a second run would have again to the bit, so they are not in it.

    Args:
        run_dir: folder of the run.
        pulse: what the ranks have to say.
    """

    COLUMNS = ("step", "ranks", "samples_per_second", "step_seconds", "waiting", "communication", "gpu_memory_gb")

    def __init__(self, run_dir: str, pulse: Pulse) -> None:
        self.path, self.pulse = Path(run_dir) / "throughput.csv", pulse
        self.communication = Communication()
        self._sum: Tensor | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look at the communication of a batch now and then."""
        self.communication.before(trainer, self.pulse)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Write a row after every `log_every_n_steps` batches."""
        self.communication.after(self.pulse)
        news = self.pulse.news
        if news is None:
            return
        self._sum = news if self._sum is None else self._sum + news
        total = self._sum
        if column(total, "batches")[0] < trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._sum = None
        row = self.row(trainer.global_step, total, column(news, "memory").max().item())
        bar = {"samples/s": row["samples_per_second"], "waiting": row["waiting"]}
        if row["communication"] is not None:
            bar["comm"] = row["communication"]
        if row["gpu_memory_gb"]:
            bar["GB"] = row["gpu_memory_gb"]
        for name, value in bar.items():
            module.log(name, value, prog_bar=True, logger=False)
        if trainer.is_global_zero:
            self.write(row)
            for logger in trainer.loggers[1:]:
                logger.log_metrics({k: v for k, v in row.items() if v is not None}, trainer.global_step)

    def row(self, step: int, total: Tensor, memory: float) -> dict[str, Any]:
        """What is told of some batches, given the sums of all ranks."""
        seconds = column(total, "seconds").mean().item()
        return {
            "step": step,
            "ranks": len(total),
            "samples_per_second": float(f"{column(total, 'samples').sum().item() / seconds:.4g}"),
            "step_seconds": float(f"{seconds / column(total, 'batches')[0].item():.4g}"),
            "waiting": round(column(total, "waited").mean().item() / seconds, 4),
            "communication": self.communication.share,
            "gpu_memory_gb": round(memory / 1e9, 3),
        }

    def write(self, row: dict[str, Any]) -> None:
        """Append a row to the file."""
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)


class Communication:
    """Share of a batch in which a collective was under way, whether or not the device computed meanwhile.

    One batch in `PROFILED` runs under torch's profiler, under ddp and fsdp alike, on GPU and CPU. The time includes
    that for which a rank waits for the others.

    Attributes:
        share: of the last such batch; None before it, and on one rank.
    """

    def __init__(self) -> None:
        self.share: float | None = None
        self._batches = 0
        self._profile: torch.profiler.profile | None = None

    def before(self, trainer: pl.Trainer, pulse: Pulse) -> None:
        """Begin, if it is time; a profiler of the experiment comes first."""
        self._batches += 1
        profiler = trainer.profiler  # type: ignore[attr-defined]
        if self._batches % PROFILED == FIRST and trainer.world_size > 1 and isinstance(profiler, PassThroughProfiler):
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            pulse.settle()  # the profiler must see the begin and the end of everything
            self._profile = torch.profiler.profile(activities=kinds)
            self._profile.start()

    def after(self, pulse: Pulse) -> None:
        """End, and add up."""
        if self._profile is None:
            return
        pulse.settle()
        self._profile.stop()
        spans = [(e.time_range.start, e.time_range.end, e.name) for e in self._profile.events()]
        self._profile = None
        length = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
        busy = covered([(start, end) for start, end, name in spans if name.startswith(("gloo:", "ncclDevKernel"))])
        self.share = round(busy / length, 4)


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
