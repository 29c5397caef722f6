"""The device that a benchmark runs on: its clock, the peak of its memory, its name."""

import argparse
import time
from collections.abc import Callable

import torch


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def prepare(name: str) -> torch.device:
    """The device; from now on, convolutions in float32 are not rounded to TF32."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def where(device: torch.device) -> str:
    """Say what is measured on."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def wall(device: torch.device) -> float:
    """Seconds of the world, once a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def clock(device: torch.device) -> float:
    """Seconds of this process; with a GPU, those of the world."""
    return time.process_time() if device.type == "cpu" else wall(device)


def added_on_gpu(work: Callable[[], object]) -> float:
    """MiB by which tensors on the GPU grow at the peak of some work."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
