"""What of the published Prithvi WxC fits on one GPU, from the size of every tensor of a step.

The network of 2.37 billion parameters runs at its full size on tensors without memory (torch's FakeTensorMode), and
torch's MemTracker adds up what is alive at each moment: nothing is scaled up from a smaller network, and no number of
it is measured on a GPU. First the same bookkeeping of a small network is compared with the resident size of a process
that really makes the step, one with every block kept and one with every block computed again.

A training step has weights, gradients and both moments of AdamW in float32 (16 bytes a parameter, not sharded), blocks
in bfloat16 by autocast, batch 1; activations are the largest sum of all else. In a rollout the gradient goes through
all steps; its last lines also spread the states over 64 GPUs. --quick leaves rollouts out.

    python benchmarks/prithvi_memory.py [--quick] [--free 0.92]
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from workbench.allocator import return_freed_memory
from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_encodings import Places
from workbench.models.prithvi_tokens import tiling_of

PUBLISHED: dict[str, Any] = {"channels": 160, "static": 8, "space": (360, 576), "options": {}}
SMALL: dict[str, Any] = {
    "channels": 40,
    "static": 8,
    "space": (120, 192),
    "options": {"embed_dim": 256, "n_heads": 8, "n_blocks_encoder": 3, "mask_unit_size_px": (12, 16)},
}
GPUS = {"80 GB": 80e9, "141 GB": 141e9}


@dataclass(frozen=True)
class Case:
    """A step: number of forecasts, ratio masked in the first, whether blocks are computed again, whether it trains."""

    name: str
    steps: int = 1
    ratio: float = 0.0
    checkpoint: bool = True
    train: bool = True


CASES = [
    Case("forecast", train=False),
    Case("training step", checkpoint=False),
    Case("checkpointed training step"),
    Case("checkpointed, half masked", ratio=0.5),
    Case("checkpointed rollout of 2", steps=2),
    Case("the same, first half masked", steps=2, ratio=0.5),
]
QUICK = [CASES[0], *CASES[2:4]]
ROLLOUTS = {"dense": (CASES[2], CASES[4]), "half masked": (CASES[3], CASES[5])}


def build(sizes: dict[str, Any], case: Case) -> PrithviWxC:
    """A network; its places are made beforehand, as they look at values."""
    options = dict(sizes["options"])
    pairs = [options.get("n_blocks_encoder", 12), options.get("n_blocks_decoder", 2)]
    if case.checkpoint:
        blocks = [tuple(range(2 * n + 1)) for n in pairs]
        options |= {"checkpoint_encoder": blocks[0], "checkpoint_decoder": blocks[1]}
    return PrithviWxC(sizes["channels"], sizes["static"], sizes["space"], **options)


def places_of(sizes: dict[str, Any]) -> Places:
    """The grid of a network."""
    space, options = sizes["space"], sizes["options"]
    coordinates = (torch.linspace(-90, 89, space[0]), torch.linspace(-180, 179, space[1]))
    tiling = tiling_of(space, (2, 2), options.get("mask_unit_size_px", (30, 32)))
    return Places(coordinates, tiling, "fourier", options.get("embed_dim", 2560)).float()


def prepare(sizes: dict[str, Any], case: Case, places: Places) -> tuple[PrithviWxC, Callable[..., None]]:
    """A network with gradients, and a function that makes the step; its inputs are there already."""
    model = build(sizes, case)
    model.places = places
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    field = (sizes["channels"], *sizes["space"])
    x, climate, target = torch.randn(1, 2, *field), torch.randn(1, *field), torch.randn(1, *field)
    static, hours = torch.randn(1, sizes["static"], *sizes["space"]), torch.full((1,), 6.0)

    def step(before_each: Callable[[], None] = lambda: None) -> None:
        window, loss = x, torch.zeros(())
        for n in range(case.steps):
            before_each()
            with torch.autocast("cpu", torch.bfloat16):
                y = model(window, static, hours, hours, climate, mask_ratio=case.ratio if n == 0 else 0.0)
            loss = loss + (y - target).square().mean()
            window = torch.cat([window[:, 1:], y[:, None]], 1)
        if case.train:
            loss.backward()

    return model, step


def activations(sizes: dict[str, Any], case: Case) -> float:
    """Bytes at the peak of a step beside weights, gradients and moments; nothing is computed."""
    places = places_of(sizes)
    with FakeTensorMode(allow_non_fake_inputs=True), nullcontext() if case.train else torch.no_grad():
        model, step = prepare(sizes, case, places)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            step(tracker.reset_mod_stats)
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    states = ("PARAM", "BUFFER", "GRAD", "OPT")
    return sum(size for kind, size in peak.items() if kind != "Total" and kind.name not in states)


def resident(sizes: dict[str, Any], case: Case) -> float:
    """Bytes that a real step adds to the resident size of this process."""
    return_freed_memory()
    _, step = prepare(sizes, case, places_of(sizes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def check(case: Case) -> float:
    """Print the bookkeeping of a small network beside the truth; return their ratio."""
    expected = activations(SMALL, case)
    command = [sys.executable, __file__, "--resident", case.name]
    truth = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"check: {case.name:30} {expected / 1e6:8.0f} MB tracked, {truth / 1e6:8.0f} MB resident", flush=True)
    return expected / truth


def rows(cases: list[Case], free: float) -> dict[str, float]:
    """Print a row a case; return GB of each."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(PUBLISHED, CASES[0]).parameters())
    found: dict[str, float] = {}
    print(f"{parameters / 1e9:.3f} billion parameters, batch 1; tensors may take {free:.0%} of a GPU; GB of 1e9 bytes")
    print(f"{'case':34} {'states':>8} {'activations':>12} {'sum':>8}  largest batch on {' and '.join(GPUS)}")
    for case in cases:
        states = (16 if case.train else 4) * parameters
        more = activations(PUBLISHED, case)
        batches = "  ".join(f"{max(0, int((free * size - states) / more)):6d}" for size in GPUS.values())
        found[case.name] = (states + more) / 1e9
        print(f"{case.name:34} {states / 1e9:8.1f} {more / 1e9:12.1f} {found[case.name]:8.1f}  {batches}", flush=True)
    return found


def print_rollouts(sums: dict[str, float], free: float) -> None:
    """Print how many steps a rollout may have: each further one takes as much as the second."""
    with torch.device("meta"):
        model = build(PUBLISHED, CASES[0])
        parts = (model, model.decoder.lgl_block.transformers[0])
        parameters, block = (sum(p.numel() for p in part.parameters()) for part in parts)
    for ranks in (1, 64):
        # of two blocks, weights and gradients are gathered at a time
        spared = 0.0 if ranks == 1 else (16 * parameters * (1 - 1 / ranks) - 16 * block) / 1e9
        for first, cases in ROLLOUTS.items():
            one, two = (sums[case.name] for case in cases)
            more = two - one
            steps = [max(0, int((free * size / 1e9 + spared - one) / more) + 1) for size in GPUS.values()]
            print(
                f"rollout on {ranks} GPUs, first step {first}: {one - spared:.1f} GB, {more:.1f} GB a further one, "
                f"up to {' and '.join(map(str, steps))} steps on {' and '.join(GPUS)}"
            )


def main() -> None:
    """Print the checks and the table, then sums in GB and the checks' ratios as JSON."""
    parser = argparse.ArgumentParser(description="What of Prithvi WxC fits on one GPU")
    parser.add_argument("--quick", action="store_true", help="fewer cases: end within 45 s on two cores")
    parser.add_argument("--free", type=float, default=0.92, help="part of a GPU that tensors may take")
    parser.add_argument("--resident", choices=[case.name for case in CASES], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.resident:
        print(resident(SMALL, next(case for case in CASES if case.name == arguments.resident)))
        return
    ratios = {f"check {case.name}": check(case) for case in (CASES[2:3] if arguments.quick else CASES[1:3])}
    sums = rows(QUICK if arguments.quick else CASES, arguments.free)
    if not arguments.quick:
        print_rollouts(sums, arguments.free)
    print(json.dumps({name: round(value, 3) for name, value in (ratios | sums).items()}))


if __name__ == "__main__":
    main()
