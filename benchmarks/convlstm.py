"""Time DeepFEA against its usual formulation with equal weights, in one run.

The usual formulation (``tests/helpers/plain_deepfea.py``) takes one step after the other with torch's modules and
autograd, and does nothing twice or needlessly. Outputs and gradients are compared first. One thread; the two take
turns; a ratio is the median over the pairs of turns. Times are CPU seconds, which another process on the machine
disturbs less than it does wall seconds. "inference" and "step" of the last line are the means of the ratios of the
free-running cases in two dimensions, geometrically.

    python benchmarks/convlstm.py [--quick]
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from plain_deepfea import PlainDeepFEA

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


def pair(case: Case) -> dict[str, tuple[torch.nn.Module, Forward]]:
    """Both networks with the same weights, and their forward passes on the same input."""
    torch.manual_seed(0)
    axes = len(case.space)
    channels = 2 * axes + 1
    x = torch.randn(case.batch, case.steps, channels, *case.space)
    x[:, :, -1] = -1.0
    x[:, :, -1, ..., -1] = 1.0
    plain = PlainDeepFEA(channels, axes, 2, case.hidden, (3,) * len(case.hidden), case.space)
    ours = DeepFEA(channels, (axes, 2), case.space, case.hidden, activation="tanh")
    ours.load_state_dict(plain.state_dict())
    fed = [case.free and t > 0 for t in range(case.steps)]

    def run() -> tuple[Tensor, Tensor]:
        found = ours(x[:, :, :axes], x[:, :, axes:-1], x[:, 0, -1:], fixed=x[:, 0, -1:] > 0, fed=fed)
        return found.nodes, found.elements

    return {"plain": (plain, lambda: plain(x, [not f for f in fed])), "workbench": (ours, run)}


def train(model: torch.nn.Module, forward: Forward) -> tuple[Tensor, Tensor]:
    """The forward and backward pass of a training step."""
    model.zero_grad()
    nodes, elements = forward()
    ((nodes - 0.1).square().mean() + (elements - 0.2).square().mean()).backward()
    return nodes.detach(), elements.detach()


def infer(model: torch.nn.Module, forward: Forward) -> tuple[Tensor, Tensor]:
    """A forward pass without gradients."""
    with torch.inference_mode():
        return forward()


def check_agreement(networks: dict[str, tuple[torch.nn.Module, Forward]]) -> float:
    """Return the largest difference of outputs and gradients over the largest value; stop if it is no rounding."""
    found = {name: [*train(*network), *infer(*network)] for name, network in networks.items()}
    for name, (model, _) in networks.items():
        found[name] += [p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None]
    pairs = zip(found["plain"], found["workbench"], strict=True)
    difference = max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)
    if difference > 1e-3:
        raise SystemExit(f"the two formulations disagree by {difference:.1e}")
    return difference


def measure(networks: dict[str, tuple[torch.nn.Module, Forward]], seconds: float) -> dict[str, tuple[float, ...]]:
    """Let the networks take turns; the median time of each and the median ratio, for inference and a step."""
    work = {"inference": infer, "step": train}
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in networks} for what in work}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["step"]["plain"]) < 3:
        for what, run in work.items():
            for name, network in networks.items():
                began = time.process_time()
                run(*network)
                times[what][name].append(time.process_time() - began)
    rows = {}
    for what, by_name in times.items():
        plain, ours = by_name["plain"], by_name["workbench"]
        ratio = statistics.median(a / b for a, b in zip(plain, ours, strict=True))
        rows[what] = (statistics.median(plain), statistics.median(ours), ratio)
    return rows


def main() -> None:
    """Print one row a case, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="DeepFEA against its usual formulation")
    parser.add_argument("--quick", action="store_true", help="fewer cases and turns: 30 s on two cores")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, times in ms of CPU")
    print(f"{'case':42} {'differs':>8} {'plain':>8} {'ours':>8} {'inference':>10} {'plain':>8} {'ours':>8} {'step':>6}")
    ratios: dict[str, list[float]] = {"inference": [], "step": []}
    for case in QUICK if arguments.quick else CASES:
        networks = pair(case)
        difference = check_agreement(networks)
        rows = measure(networks, 3.5 if arguments.quick else 12)
        (a, b, infer_ratio), (c, d, step_ratio) = rows["inference"], rows["step"]
        print(
            f"{case.name:42} {difference:8.0e} {1e3 * a:8.1f} {1e3 * b:8.1f} {infer_ratio:10.2f} "
            f"{1e3 * c:8.1f} {1e3 * d:8.1f} {step_ratio:6.2f}",
            flush=True,
        )
        if case.free and len(case.space) == 2 and max(case.hidden) <= 32:
            for what, ratio in zip(ratios, (infer_ratio, step_ratio), strict=True):
                ratios[what].append(ratio)
    print(json.dumps({what: round(statistics.geometric_mean(found), 3) for what, found in ratios.items()}))


if __name__ == "__main__":
    main()
