"""Time Prithvi WxC against its usual formulation, and compare the memory of a training step, in one run.

The usual formulation (``tests/helpers/plain_prithvi.py``) types the published description with einops, gathers and
torch's modules, and attends with the same fused kernel as ours. It holds the same weights; outputs and gradients are
compared first. One thread; the two take turns; a ratio is the median over the pairs of turns. Times are CPU seconds,
which another process on the machine disturbs less than it does wall seconds; both are printed. Memory is the peak
resident size of a fresh process that makes one training step without masking, less what it held before that step:
activations, gradients, and what the products need. --quick leaves out the masked and the checkpointed steps.

    python benchmarks/prithvi.py [--quick]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from plain_prithvi import PlainPrithvi

from workbench.allocator import keep_freed_memory, return_freed_memory
from workbench.models.prithvi import PrithviWxC

SPACE, CHANNELS, STATIC = (60, 96), 40, 8
SIZES = {"embed_dim": 256, "n_heads": 8, "n_blocks_encoder": 4, "n_blocks_decoder": 2}
UNIT = {"mask_unit_size_px": (12, 16), "patch_size_px": (2, 2)}
LATITUDES, LONGITUDES = torch.linspace(-90, 87, SPACE[0]), torch.linspace(-180, 176.25, SPACE[1])
Times = dict[str, dict[str, list[tuple[float, float]]]]


class Ours(nn.Module):
    """Our network and what it is fed."""

    def __init__(self, ratio: float = 0.0, checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [
            tuple(range(2 * SIZES[f"n_blocks_{part}"] + 1)) if checkpointed else () for part in ("encoder", "decoder")
        ]
        self.network = PrithviWxC(
            CHANNELS, STATIC, SPACE, **SIZES, **UNIT, masking_mode="global", mask_ratio_inputs=ratio,
            checkpoint_encoder=blocks[0], checkpoint_decoder=blocks[1],
        )  # fmt: skip
        self.network.place((LATITUDES, LONGITUDES))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast."""
        return self.network(**batch)


class Plain(nn.Module):
    """The plain network with the same weights, and what it is fed."""

    def __init__(self, ratio: float = 0.0) -> None:
        super().__init__()
        self.network = PlainPrithvi(
            CHANNELS, STATIC, *SPACE, **SIZES, **UNIT, decoder_shifting=True, mask_ratio_inputs=ratio
        )
        self.network.load_state_dict(Ours().network.state_dict())

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast; latitude and longitude are the first static channels, as published."""
        places = torch.broadcast_tensors(LATITUDES.deg2rad()[:, None], LONGITUDES.deg2rad())
        static = torch.cat([torch.stack(places)[None], batch["static"]], 1)
        return self.network({**batch, "static": static})


def sample() -> dict[str, Tensor]:
    """One sample of random fields."""
    torch.manual_seed(1)
    shapes = {"x": (2, CHANNELS), "static": (STATIC,), "climate": (CHANNELS,)}
    fields = {name: torch.randn(1, *shape, *SPACE) for name, shape in shapes.items()}
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


def check_agreement(models: dict[str, nn.Module], batch: dict[str, Tensor]) -> None:
    """Print how far the outputs and the gradients differ; stop where that is not rounding."""
    outputs = {name: train(model, batch) - batch["climate"] for name, model in models.items()}
    gradients = {
        name: torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])
        for name, model in models.items()
    }
    for what, found in (("output", outputs), ("gradient", gradients)):
        difference = ((found["workbench"] - found["plain"]).norm() / found["plain"].norm()).item()
        print(f"{what} differs by {difference:.1e} of its norm")
        if difference > 1e-4:
            raise SystemExit(f"the two formulations disagree: {what}")


def measure(models: dict[str, nn.Module], batch: dict[str, Tensor], rounds: int) -> Times:
    """Let the networks take turns; return CPU and wall seconds of each turn."""
    work = {"forward": infer, "step": train}
    times: Times = {what: {name: [] for name in models} for what in work}
    turns = list(models.items())
    for _ in range(rounds):
        turns.reverse()
        for what, run in work.items():
            for name, model in turns:
                cpu, wall = time.process_time(), time.perf_counter()
                run(model, batch)
                times[what][name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return times


def print_times(case: str, times: Times) -> dict[str, float]:
    """Print a row for each quantity and network; return the ratios of CPU seconds, plain over ours."""
    ratios = {}
    for what, by_name in times.items():
        for name, pairs in by_name.items():
            cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
            quotients = [other / mine for (other, _), (mine, _) in zip(pairs, by_name["workbench"], strict=True)]
            ratios[f"{what} {name}"] = statistics.median(quotients)
            print(f"{case:16} {what:8} {name:12} {cpu:9.3f} {wall:9.3f} {ratios[f'{what} {name}']:20.2f}", flush=True)
    return ratios


KINDS = {"workbench": Ours, "plain": Plain, "checkpointed": lambda: Ours(checkpointed=True)}


def peak_of_a_step(who: str) -> float:
    """Return MiB that one training step of a network adds to a fresh process."""
    command = [sys.executable, __file__, "--peak", who]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(who: str) -> None:
    """Make one training step and print what the peak resident size grew by, in MiB."""
    return_freed_memory()  # so that the resident size is that of what is in use
    model, batch = KINDS[who](), sample()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(model, batch)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    """Print one row a quantity and network, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="Prithvi WxC against its usual formulation")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and cases: end within 45 s on two cores")
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print_peak(arguments.peak)
        return
    kinds = ["workbench", "plain", *([] if arguments.quick else ["checkpointed"])]
    peaks = {who: peak_of_a_step(who) for who in kinds}
    keep_freed_memory()  # as training with Workbench does
    batch = sample()
    models: dict[str, nn.Module] = {"workbench": Ours(), "plain": Plain()}
    size = sum(p.numel() for p in models["workbench"].parameters()) / 1e6
    print(f"torch {torch.__version__}, 1 thread, {CHANNELS} channels on {SPACE}, {size:.1f} M parameters, batch 1")
    check_agreement(models, batch)
    print(f"{'case':16} {'quantity':8} {'who':12} {'CPU s':>9} {'wall s':>9} {'CPU over workbench':>20}")
    ratios = print_times("dense", measure(models, batch, rounds=9 if arguments.quick else 40))
    if not arguments.quick:
        masked: dict[str, nn.Module] = {"workbench": Ours(0.5), "plain": Plain(0.5)}
        print_times("half masked", measure(masked, batch, rounds=20))
        print_times("checkpointed", measure({"workbench": KINDS["checkpointed"]()}, batch, rounds=5))
    for who, peak in peaks.items():
        print(f"peak memory of a dense step: {who:12} {peak:6.0f} MiB {peak / peaks['plain']:6.2f} of plain")
    memory = peaks["workbench"] / peaks["plain"]
    keys = {"forward": ratios["forward plain"], "step": ratios["step plain"], "step_memory": memory}
    print(json.dumps({key: round(value, 3) for key, value in keys.items()}))


if __name__ == "__main__":
    main()
