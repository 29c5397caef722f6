"""Time DeepFEA against its usual formulation with equal weights, in one run.

The usual formulation (``tests/helpers/plain_deepfea.py``) takes one step after the other with torch's modules and
autograd, and does nothing twice or needlessly. Outputs and gradients are compared first. One thread; the two take
turns; a ratio is the median over the pairs of turns. Times are CPU seconds, which another process on the machine
disturbs less than it does wall seconds. "inference" and "step" of the last line are the means of the ratios of the
free-running cases in two dimensions, geometrically.

With ``--precision bf16``, ours runs under autocast, as with ``trainer.precision: bf16-mixed``, and the usual
formulation does not. With ``--device cuda`` times are wall seconds, and ours is timed with and without CUDA graphs.

    python benchmarks/convlstm.py [--quick] [--precision bf16] [--device cuda]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from plain_deepfea import PlainDeepFEA

from workbench.models import convlstm
from workbench.models.deepfea import DeepFEA


@dataclass(frozen=True)
class Case:
    """One size; `free` feeds predictions back, otherwise every step sees the truth."""

    space: tuple[int, ...]
    hidden: tuple[int, ...]
    batch: int
    free: bool
    steps: int = 50

    @property
    def name(self) -> str:
        """The row's label."""
        grid, layers = "x".join(map(str, self.space)), ",".join(map(str, self.hidden))
        return f"{grid} hidden {layers} batch {self.batch} {'free' if self.free else 'taught'}"


QUICK = [
    Case((9, 9), (16, 32), 1, True),
    Case((9, 9), (16, 32), 4, True),
    Case((9, 9), (32, 32), 4, True),
    Case((9, 9), (16, 32), 4, False),
    Case((5, 9, 5), (16, 32), 1, True, 20),
]
CASES = [
    *QUICK,
    Case((9, 9), (32, 32), 1, True),
    Case((9, 9), (32, 32), 1, False),
    Case((9, 9), (16, 32), 16, True),
    Case((5, 9, 5), (16, 32), 4, False, 20),
    Case((9, 9), (64, 128, 256), 2, True, 20),
]


Forward = Callable[[], tuple[Tensor, Tensor]]
Networks = dict[str, tuple[Module, Forward]]


def networks_of(case: Case, device: torch.device, precision: torch.dtype) -> Networks:
    """The networks with the same weights, and their forward passes on the same input."""
    torch.manual_seed(0)
    axes = len(case.space)
    channels = 2 * axes + 1
    x = torch.randn(case.batch, case.steps, channels, *case.space, device=device)
    x[:, :, -1] = -1.0
    x[:, :, -1, ..., -1] = 1.0
    plain = PlainDeepFEA(channels, axes, 2, case.hidden, (3,) * len(case.hidden), case.space).to(device)
    ours = DeepFEA(channels, (axes, 2), case.space, case.hidden, activation="tanh").to(device)
    ours.load_state_dict(plain.state_dict())
    fed = [case.free and t > 0 for t in range(case.steps)]

    def run() -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            found = ours(x[:, :, :axes], x[:, :, axes:-1], x[:, 0, -1:], fixed=x[:, 0, -1:] > 0, fed=fed)
        return found.nodes, found.elements

    def without_graphs() -> tuple[Tensor, Tensor]:
        graphs, convlstm.replayed = convlstm.replayed, convlstm.march
        try:
            return run()
        finally:
            convlstm.replayed = graphs

    found: Networks = {"plain": (plain, lambda: plain(x, [not f for f in fed])), "ours": (ours, run)}
    return found | ({"no graphs": (ours, without_graphs)} if device.type == "cuda" else {})


def train(model: Module, forward: Forward) -> tuple[Tensor, Tensor]:
    """The forward and backward pass of a training step."""
    model.zero_grad()
    nodes, elements = forward()
    ((nodes - 0.1).square().mean() + (elements - 0.2).square().mean()).backward()
    return nodes.detach(), elements.detach()


def infer(model: Module, forward: Forward) -> tuple[Tensor, Tensor]:
    """A forward pass without gradients."""
    with torch.inference_mode():
        return forward()


def check_agreement(networks: Networks, tolerance: float) -> float:
    """Return the largest difference of outputs and gradients over the largest value; stop if it is no rounding."""
    found = {}
    for name, network in networks.items():
        outputs = [*train(*network), *infer(*network)]
        gradients = [p.grad.clone() for _, p in sorted(network[0].named_parameters()) if p.grad is not None]
        found[name] = outputs + gradients
    plain = found.pop("plain")
    difference = max(
        ((a - b).abs().max() / a.abs().max()).item() for one in found.values() for a, b in zip(plain, one, strict=True)
    )
    if difference > tolerance:
        raise SystemExit(f"the formulations disagree by {difference:.1e}")
    return difference


def clock(device: torch.device) -> float:
    """Seconds that have passed: of this process, or of the world once a GPU has done its work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(networks: Networks, seconds: float, device: torch.device) -> dict[str, dict[str, list[float]]]:
    """Let the networks take turns at inference and at a training step; the time of each turn."""
    work = {"inference": infer, "step": train}
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in networks} for what in work}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["step"]["plain"]) < 3:
        for what, run in work.items():
            for name, network in networks.items():
                began = clock(device)
                run(*network)
                times[what][name].append(clock(device) - began)
    return times


def ratio(times: dict[str, list[float]], name: str) -> float:
    """How many times longer the usual formulation takes."""
    return statistics.median(a / b for a, b in zip(times["plain"], times[name], strict=True))


def main() -> None:
    """Print two rows a case, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="DeepFEA against its usual formulation")
    parser.add_argument("--quick", action="store_true", help="fewer cases and turns: 30 s on two cores")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of our convolutions")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    precision, tolerance = (torch.float32, 1e-3) if arguments.precision == "fp32" else (torch.bfloat16, 0.1)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "1 thread, times of CPU"
    print(f"torch {torch.__version__}, {where}; ms, and times of the usual formulation over ours")
    ratios: dict[str, list[float]] = {"inference": [], "step": []}
    for case in QUICK if arguments.quick else CASES:
        networks = networks_of(case, device, precision)
        print(f"{case.name}: differs by {check_agreement(networks, tolerance):.0e}")
        for what, times in measure(networks, 3.5 if arguments.quick else 12, device).items():
            medians = "  ".join(f"{name} {1e3 * statistics.median(found):8.2f}" for name, found in times.items())
            others = "  ".join(f"{name} {ratio(times, name):5.2f}" for name in times if name != "plain")
            print(f"    {what:10} {medians}   ratio: {others}", flush=True)
            if case.free and len(case.space) == 2 and max(case.hidden) <= 32:
                ratios[what].append(ratio(times, "ours"))
    print(json.dumps({what: round(statistics.geometric_mean(found), 3) for what, found in ratios.items()}))


if __name__ == "__main__":
    main()
