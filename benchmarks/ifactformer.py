"""Time IFactFormer against its usual formulation, and compare the memory of a training step, in one run.

The usual formulation (``tests/helpers/plain_ifactformer.py``) types the published equations with einops, einsum and
torch's modules. It holds the same weights, and its outputs and gradients are compared first. One thread; the two take
turns; a ratio is the median over the pairs of turns. Times are CPU seconds, which another process on the machine
disturbs less than it does wall seconds; both are printed. Memory is the peak resident size of a fresh process that
makes one training step, less what it held before that step. With --keep all processes keep freed memory, as training
with Workbench does; the usual formulation, whose temporaries are large, gains more from that.

With ``--device cuda``, times are wall seconds until the GPU is done, of all 10 iterations, and memory is what tensors
take.

    python benchmarks/ifactformer.py [--quick] [--keep] [--device cuda]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _device import add_device, added_on_gpu, clock, prepare, where
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from plain_ifactformer import PlainIFactFormer

from workbench.allocator import keep_freed_memory
from workbench.models import FNO, IFNO, IFactFormer, Network

SPACE = (32, 33, 16)
DIM, HEADS, DIM_HEAD = 96, 5, 96
Times = dict[str, dict[str, list[tuple[float, float]]]]


def ours(iterations: int, **options: str) -> IFactFormer:
    """Return our network at the paper's sizes; gain 1 so that a difference in the attention would show."""
    torch.manual_seed(0)
    return IFactFormer(3, 3, SPACE, DIM, HEADS, DIM_HEAD, iterations=iterations, gain=1.0, **options)


class ChannelsFirst(nn.Module):
    """The plain network between the axes that ours takes."""

    def __init__(self, iterations: int, **options: str) -> None:
        super().__init__()
        chained = options.get("attention") == "chained"
        self.plain = PlainIFactFormer(3, 3, 1, DIM, HEADS, DIM_HEAD, 1, iterations, chained)
        self.plain.load_state_dict(ours(iterations, **options).state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels last and back."""
        return self.plain(x.movedim(1, -1)[:, None]).movedim(-1, 1)


def network_of(who: str, iterations: int, **options: str) -> nn.Module:
    """Return ours or the plain one."""
    return (ours if who == "workbench" else ChannelsFirst)(iterations, **options)


def train(model: nn.Module, x: Tensor) -> Tensor:
    """Make the forward and backward pass of a training step; return the output."""
    model.zero_grad()
    y = model(x)
    (y - x).norm().backward()
    return y.detach()


def infer(model: nn.Module, x: Tensor) -> Tensor:
    """Make a forward pass without gradients."""
    with torch.no_grad():
        return model(x)


def check_agreement(models: dict[str, nn.Module], x: Tensor) -> None:
    """Print how far the outputs and the gradients differ; stop where that is not rounding."""
    outputs = {name: train(model, x) for name, model in models.items()}
    gradients = {}
    for name, model in models.items():
        named = sorted((key.removeprefix("plain."), p.grad) for key, p in model.named_parameters() if p.requires_grad)
        gradients[name] = torch.cat([gradient.flatten() for _, gradient in named])
    for what, found in (("output", outputs), ("gradient", gradients)):
        difference = ((found["workbench"] - found["plain"]).norm() / found["plain"].norm()).item()
        print(f"{what} differs by {difference:.1e} of its norm")
        if difference > 1e-3:
            raise SystemExit(f"the two formulations disagree: {what}")


def measure(models: dict[str, nn.Module], x: Tensor, rounds: int) -> Times:
    """Let the networks take turns; return seconds of the clock and of the wall of each turn."""
    work: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {"forward": infer, "step": train}
    times: Times = {what: {name: [] for name in models} for what in work}
    for _ in range(rounds):
        for what, run in work.items():
            for name, model in models.items():
                own, wall = clock(x.device), time.perf_counter()
                run(model, x)
                times[what][name].append((clock(x.device) - own, time.perf_counter() - wall))
    return times


def peak_of_a_step(who: str, iterations: int, keep: bool, device: torch.device) -> float:
    """Return MiB that one training step of a network adds to a fresh process, or to the tensors on a GPU."""
    if device.type == "cuda":
        model, x = network_of(who, iterations).to(device), torch.randn(1, 3, *SPACE, device=device)
        return added_on_gpu(lambda: train(model, x))
    command = [sys.executable, __file__, "--peak", who, "--iterations", str(iterations), *(["--keep"] if keep else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(who: str, iterations: int) -> None:
    """Make one training step and print what the peak resident size grew by, in MiB."""
    model, x = network_of(who, iterations), torch.randn(1, 3, *SPACE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(model, x)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def arithmetic(iterations: int) -> float:
    """Return GFLOP of one forward pass of ours, two for each multiplication with addition."""
    nodes, hidden = SPACE[0] * SPACE[1] * SPACE[2], HEADS * DIM_HEAD
    values, kernels, head = DIM * hidden, sum(SPACE) * hidden, 3 * hidden * DIM + DIM * DIM
    return 2e-9 * nodes * iterations * (values + kernels + head)


def ceiling(device: torch.device) -> float:
    """Return GFLOP/s of a matrix product of the shape that takes most of the time."""
    nodes = SPACE[0] * SPACE[1] * SPACE[2]
    with device:
        left, right, out = torch.randn(nodes, DIM_HEAD), torch.randn(DIM_HEAD, DIM), torch.empty(nodes, DIM)
    durations = []
    for _ in range(20):
        began = clock(device)
        torch.mm(left, right, out=out)
        durations.append(clock(device) - began)
    return 2e-9 * nodes * DIM_HEAD * DIM / min(durations)


def print_times(case: str, times: Times) -> dict[str, float]:
    """Print a row for each quantity and network; return the ratios of seconds, plain over ours."""
    ratios = {}
    for what, by_name in times.items():
        for name, pairs in by_name.items():
            cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
            quotients = [other / mine for (other, _), (mine, _) in zip(pairs, by_name["workbench"], strict=True)]
            ratios[f"{what} {name}"] = statistics.median(quotients)
            print(f"{case:22} {what:8} {name:22} {cpu:9.3f} {wall:9.3f} {ratios[f'{what} {name}']:20.2f}")
    return ratios


def peers() -> dict[str, Network]:
    """Return Fourier operators of usual sizes, for comparison of cost."""
    walls = (True, False, True)
    return {
        "FNO 12x12x8, 32": FNO(3, 3, SPACE, modes=(12, 12, 8), width=32, periodic=walls),
        "FNO 12x12x8, 64": FNO(3, 3, SPACE, modes=(12, 12, 8), width=64, periodic=walls),
        "IFNO 12x12x8, 64, 10": IFNO(3, 3, SPACE, modes=(12, 12, 8), width=64, layers=10, periodic=walls),
    }


def main() -> None:
    """Print one row a quantity and network, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="IFactFormer against its usual formulation")
    parser.add_argument("--quick", action="store_true", help="4 iterations instead of 10: 45 s on two cores")
    parser.add_argument("--keep", action="store_true", help="keep freed memory in the process, as in training")
    parser.add_argument("--peak", choices=("workbench", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--iterations", type=int, help=argparse.SUPPRESS)
    add_device(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.keep:
        keep_freed_memory()
    device = prepare(arguments.device)
    iterations = arguments.iterations or (4 if arguments.quick and device.type == "cpu" else 10)
    if arguments.peak:
        print_peak(arguments.peak, iterations)
    else:
        compare(device, iterations, arguments.quick, arguments.keep)


def compare(device: torch.device, iterations: int, quick: bool, keep: bool) -> None:
    """Compare results, times and memory."""
    x = torch.randn(1, 3, *SPACE, device=device)
    print(
        f"torch {torch.__version__}, {where(device)}, {SPACE}, dim {DIM}, {HEADS} heads of {DIM_HEAD}, "
        f"{iterations} iterations"
    )
    peak = {who: peak_of_a_step(who, iterations, keep, device) for who in ("workbench", "plain")}
    models = {who: network_of(who, iterations).to(device) for who in ("workbench", "plain")}
    check_agreement(models, x)
    unit = f"{device.type.upper()} s"
    print(f"{'case':22} {'quantity':8} {'who':22} {unit:>9} {'wall s':>9} {'over workbench':>20}")
    times = measure(models, x, rounds=2 if quick else 5)
    ratios = print_times("IFactFormer-m", times)
    if not quick:
        chained = {who: network_of(who, iterations, attention="chained").to(device) for who in models}
        measure(chained, x, rounds=1)
        print_times("IFactFormer-o", measure(chained, x, rounds=3))
    others = {"workbench": models["workbench"], **{name: model.to(device) for name, model in peers().items()}}
    print_times("IFactFormer-m and FNOs", measure(others, x, rounds=1 if quick else 3))
    memory = peak["workbench"] / peak["plain"]
    print(f"peak memory of a step: workbench {peak['workbench']:.0f} MiB, plain {peak['plain']:.0f} MiB, {memory:.3f}")
    best, work = min(cpu for cpu, _ in times["forward"]["workbench"]), arithmetic(iterations)
    reached = work / best
    print(f"forward: {work:.1f} GFLOP at {reached:.0f} GFLOP/s; matrix products reach {ceiling(device):.0f} GFLOP/s")
    keys = {"forward": ratios["forward plain"], "step": ratios["step plain"], "step_memory": memory}
    print(json.dumps({key: round(value, 3) for key, value in keys.items()}))


if __name__ == "__main__":
    main()
