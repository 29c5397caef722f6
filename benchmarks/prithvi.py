"""Time Prithvi WxC against its usual formulation, and compare the memory of a training step, in one run.

The usual formulation (``tests/helpers/plain_prithvi.py``) types the published description with einops, gathers and
torch's modules, and attends with the same fused kernel as ours. It holds the same weights; outputs and gradients are
compared first. One thread; the two take turns; a ratio is the median over the pairs of turns. Times are CPU seconds,
which another process on the machine disturbs less than it does wall seconds; both are printed. Memory is the peak
resident size of a fresh process that makes one training step without masking, less what it held before that step:
activations, gradients, and what the products need. --quick leaves out the masked and the checkpointed steps.

With ``--device cuda`` the field, its channels and the tokens are those of the published network, in fewer blocks; times
are wall seconds until the GPU is done, and memory is what tensors take. With ``--precision bf16`` both run under
autocast, as with ``trainer.precision: bf16-mixed``.

    python benchmarks/prithvi.py [--quick] [--precision bf16] [--device cuda]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _device import add_device, added_on_gpu, clock, prepare, where
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from plain_prithvi import PlainPrithvi

from workbench.allocator import keep_freed_memory, return_freed_memory
from workbench.models.prithvi import PrithviWxC

STATIC = 8
ROUNDS = {"cpu": (9, 40), "cuda": (3, 10)}
Times = dict[str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True)
class Size:
    """Where networks are, channels and points of a field, sizes that both take, and whether under autocast."""

    device: str
    channels: int
    space: tuple[int, int]
    network: dict[str, Any]
    bf16: bool = False

    def grid(self) -> tuple[Tensor, Tensor]:
        """Latitudes and longitudes in degrees."""
        height, width = self.space
        return torch.linspace(-90, 90 - 180 / height, height), torch.linspace(-180, 180 - 360 / width, width)


SMALL = {"embed_dim": 256, "n_heads": 8, "n_blocks_encoder": 4, "n_blocks_decoder": 2, "mask_unit_size_px": (12, 16)}
FEW_BLOCKS = {
    "embed_dim": 2560, "n_heads": 16, "n_blocks_encoder": 1, "n_blocks_decoder": 1, "mask_unit_size_px": (30, 32)
}  # fmt: skip
SIZES = {
    "cpu": Size("cpu", 40, (60, 96), SMALL | {"patch_size_px": (2, 2)}),
    "cuda": Size("cuda", 160, (360, 576), FEW_BLOCKS | {"patch_size_px": (2, 2)}),
}


class Ours(nn.Module):
    """Our network and what it is fed."""

    def __init__(self, size: Size, ratio: float = 0.0, checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [
            tuple(range(2 * size.network[f"n_blocks_{part}"] + 1)) if checkpointed else ()
            for part in ("encoder", "decoder")
        ]
        self.size = size
        with torch.device(size.device):
            self.network = PrithviWxC(
                size.channels, STATIC, size.space, **size.network, masking_mode="global", mask_ratio_inputs=ratio,
                checkpoint_encoder=blocks[0], checkpoint_decoder=blocks[1],
            )  # fmt: skip
        self.network.place(size.grid())

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast."""
        with torch.autocast(batch["x"].device.type, torch.bfloat16, self.size.bf16):
            return self.network(**batch)


class Plain(nn.Module):
    """The plain network with the same weights, and what it is fed."""

    def __init__(self, size: Size, ratio: float = 0.0) -> None:
        super().__init__()
        self.size = size
        with torch.device(size.device):
            self.network = PlainPrithvi(
                size.channels, STATIC, *size.space, **size.network, decoder_shifting=True, mask_ratio_inputs=ratio
            )
        self.network.load_state_dict(Ours(size).network.state_dict())
        latitudes, longitudes = (degrees.deg2rad() for degrees in size.grid())
        self.places = torch.stack(torch.broadcast_tensors(latitudes[:, None], longitudes))[None].to(size.device)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast; latitude and longitude are the first static channels, as published."""
        static = torch.cat([self.places, batch["static"]], 1)
        with torch.autocast(static.device.type, torch.bfloat16, self.size.bf16):
            return self.network({**batch, "static": static})


def sample(size: Size) -> dict[str, Tensor]:
    """One sample of random fields."""
    torch.manual_seed(1)
    shapes = {"x": (2, size.channels), "static": (STATIC,), "climate": (size.channels,)}
    with torch.device(size.device):
        fields = {name: torch.randn(1, *shape, *size.space) for name, shape in shapes.items()}
        return fields | {"input_time": torch.tensor([6.0]), "lead_time": torch.tensor([12.0])}


def train(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Make the forward and backward pass of a training step; return the output."""
    model.zero_grad()
    y = model(batch)
    (y - batch["climate"]).norm().backward()
    return y.detach()


def infer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Make a forward pass without gradients."""
    with torch.no_grad():
        return model(batch)


def check_agreement(models: dict[str, nn.Module], batch: dict[str, Tensor], tolerance: float) -> None:
    """Print how far the outputs and the gradients differ; stop where that is not rounding."""
    outputs = {name: train(model, batch) - batch["climate"] for name, model in models.items()}
    gradients = {
        name: torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])
        for name, model in models.items()
    }
    for what, found in (("output", outputs), ("gradient", gradients)):
        difference = ((found["workbench"] - found["plain"]).norm() / found["plain"].norm()).item()
        print(f"{what} differs by {difference:.1e} of its norm")
        if difference > tolerance:
            raise SystemExit(f"the two formulations disagree: {what}")


def measure(models: dict[str, nn.Module], batch: dict[str, Tensor], rounds: int) -> Times:
    """Let the networks take turns; return seconds of the clock and of the wall of each turn."""
    work = {"forward": infer, "step": train}
    times: Times = {what: {name: [] for name in models} for what in work}
    turns, device = list(models.items()), batch["x"].device
    for _ in range(rounds):
        turns.reverse()
        for what, run in work.items():
            for name, model in turns:
                own, wall = clock(device), time.perf_counter()
                run(model, batch)
                times[what][name].append((clock(device) - own, time.perf_counter() - wall))
    return times


def print_times(case: str, times: Times) -> dict[str, float]:
    """Print a row for each quantity and network; return the ratios of seconds, plain over ours."""
    ratios = {}
    for what, by_name in times.items():
        for name, pairs in by_name.items():
            cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
            quotients = [other / mine for (other, _), (mine, _) in zip(pairs, by_name["workbench"], strict=True)]
            ratios[f"{what} {name}"] = statistics.median(quotients)
            print(f"{case:16} {what:8} {name:12} {cpu:9.3f} {wall:9.3f} {ratios[f'{what} {name}']:20.2f}", flush=True)
    return ratios


KINDS = {"workbench": Ours, "plain": Plain, "checkpointed": partial(Ours, checkpointed=True)}


def peak_of_a_step(who: str, size: Size) -> float:
    """Return MiB that one training step of a network adds: to a fresh process, or to the tensors on a GPU."""
    if size.device == "cuda":
        model, batch = KINDS[who](size), sample(size)
        return added_on_gpu(lambda: train(model, batch))
    command = [sys.executable, __file__, "--peak", who, *(["--precision", "bf16"] if size.bf16 else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(who: str, size: Size) -> None:
    """Make one training step and print what the peak resident size grew by, in MiB."""
    return_freed_memory()  # so that the resident size is that of what is in use
    model, batch = KINDS[who](size), sample(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(model, batch)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    """Print one row a quantity and network, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="Prithvi WxC against its usual formulation")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and cases: end within 45 s on two cores")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the blocks")
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)
    add_device(parser)
    arguments = parser.parse_args()
    size = replace(SIZES[arguments.device], bf16=arguments.precision == "bf16")
    torch.set_num_threads(1)
    if arguments.peak:
        print_peak(arguments.peak, size)
    else:
        compare(size, prepare(size.device), arguments.quick)


def compare(size: Size, device: torch.device, quick: bool) -> None:
    """Compare results, times and memory."""
    peaks = {who: peak_of_a_step(who, size) for who in list(KINDS)[: 2 if quick else 3]}
    keep_freed_memory()  # as training with Workbench does
    batch = sample(size)
    models = {"workbench": Ours(size), "plain": Plain(size)}
    count = sum(p.numel() for p in models["workbench"].parameters()) / 1e6
    print(f"torch {torch.__version__}, {where(device)}, {'bf16' if size.bf16 else 'fp32'}", end=", ")
    print(f"{size.channels} channels on {size.space}, {count:.1f} M parameters, batch 1")
    check_agreement(models, batch, 0.1 if size.bf16 else 1e-4)
    unit = f"{device.type.upper()} s"
    print(f"{'case':16} {'quantity':8} {'who':12} {unit:>9} {'wall s':>9} {'over workbench':>20}")
    few, many = ROUNDS[device.type]
    ratios = print_times("dense", measure(models, batch, few if quick else many))
    if not quick:
        masked = {"workbench": Ours(size, 0.5), "plain": Plain(size, 0.5)}
        print_times("half masked", measure(masked, batch, many // 2))
        print_times("checkpointed", measure({"workbench": KINDS["checkpointed"](size)}, batch, few))
    for who, peak in peaks.items():
        print(f"peak memory of a dense step: {who:12} {peak:6.0f} MiB {peak / peaks['plain']:6.2f} of plain")
    memory = peaks["workbench"] / peaks["plain"]
    keys = {"forward": ratios["forward plain"], "step": ratios["step plain"], "step_memory": memory}
    print(json.dumps({key: round(value, 3) for key, value in keys.items()}))


if __name__ == "__main__":
    main()
