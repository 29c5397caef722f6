"""Time the training of ensembles of FPNN against one network after the other and against the CNN of BatteryML.

All see 41 cells of random numbers, with the sizes of the real ones; one epoch is timed, optimiser included. CPU seconds
of one thread, medians over the rounds, in which all take turns. Rows:

- plain: FPNN as its specification is typed, with a 3D convolution, every cycle, networks trained one after the other.
- loop: the FPNN of Workbench in place of it; equal weights give equal outputs, which is checked first.
- together: the networks of an ensemble in one call (vmap), the same weights and samples.
- frames: together, with cycles averaged to 8 frames, as the experiments of Workbench do; other maths, less work.
- BatteryML: its CNN for the first 100 cycles (microsoft/BatteryML 2861ae3, models/rul_predictors/cnn.py and the
  configuration for MATR): the difference of capacity over 1000 voltages, two convolutions of 16 channels with
  averaging, Adam, all cells in one batch. It is timed at 100 cycles only, the number of its configuration.

Samples per second count a cell once for every network that learns from it.

With ``--device cuda``, times are wall seconds until the GPU is done.

    python benchmarks/fpnn.py [--quick] [--device cuda]
"""

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from _device import add_device, clock, prepare, where
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from workbench.models import FPNN

CELLS, VARIABLES, POINTS, BATCH, FRAMES = 41, 2, 100, 8, 8
Epoch = Callable[[], None]


class PlainStem(nn.Module):
    """The 3D convolution over (variable, cycle, point) with the weights of FPNN's first layer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        outputs, variables, *size = weight.shape
        self.conv = nn.Conv3d(1, outputs, (variables, *size), stride=(1, 1, 2), padding=(0, 1, 2), bias=False)
        self.conv.weight.data.copy_(weight[:, None])

    def forward(self, video: Tensor) -> Tensor:
        """Convolve and drop the axis of the variables."""
        return self.conv(video[:, None])[:, :, 0]


def plain(network: FPNN) -> FPNN:
    """FPNN with the same weights and a 3D convolution in each stream."""
    other = FPNN(network.variables, network.cycles, network.points)
    other.load_state_dict(network.state_dict())
    for stream in (other.raw, other.change):
        if stream is not None:
            stream.stem[0] = PlainStem(stream.stem[0].weight.data)
    return other


class BatteryMLCNN(nn.Module):
    """Two unpadded convolutions, each with ReLU and averages; one as large as what is left; a linear layer."""

    def __init__(self, channels: int = 16, cycles: int = 100, voltages: int = 1000, size: int = 3) -> None:
        super().__init__()
        step = [nn.ReLU(), nn.AvgPool2d(size)]
        self.features = nn.Sequential(nn.Conv2d(1, channels, size), *step, nn.Conv2d(channels, channels, size), *step)
        left = [((n - size + 1) // size - size + 1) // size for n in (cycles, voltages)]
        self.project, self.out = nn.Conv2d(channels, channels, tuple(left)), nn.Linear(channels, 1)

    def forward(self, difference: Tensor) -> Tensor:
        """Estimate from the difference of capacity, ``[b, cycle, voltage]``."""
        return self.out(self.project(self.features(difference[:, None])).flatten(1).relu())[:, 0]


def one_by_one(networks: list[FPNN], raw: Tensor, change: Tensor, target: Tensor) -> Epoch:
    """An epoch of each network after that of the one before."""
    optimisers = [torch.optim.AdamW(n.parameters(), lr=1e-3) for n in networks]

    def epoch() -> None:
        for network, optimiser in zip(networks, optimisers, strict=True):
            for cells in torch.arange(CELLS, device=raw.device).split(BATCH):
                optimiser.zero_grad()
                functional.smooth_l1_loss(network(raw[cells], change[cells]), target[cells]).backward()
                optimiser.step()

    return epoch


def together(networks: list[FPNN], raw: Tensor, change: Tensor, target: Tensor) -> Epoch:
    """An epoch of all networks at once."""
    weights = {name: w.detach().requires_grad_() for name, w in stack_module_state(networks)[0].items()}  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(weights.values(), lr=1e-3, fused=True)

    def losses(own: dict[str, Tensor], raw: Tensor, change: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(functional_call(networks[0], own, (raw, change)), target)

    # every network draws its own dropout
    of_all = vmap(losses, in_dims=(0, None, None, None), randomness="different")

    def epoch() -> None:
        for cells in torch.arange(CELLS, device=raw.device).split(BATCH):
            optimiser.zero_grad()
            of_all(weights, raw[cells], change[cells], target[cells]).sum().backward()
            optimiser.step()

    return epoch


def batteryml(count: int, target: Tensor) -> Epoch:
    """An epoch of each of so many CNNs of BatteryML: one step."""
    difference = torch.randn(CELLS, 100, 1000)
    networks = [BatteryMLCNN() for _ in range(count)]
    optimisers = [torch.optim.Adam(n.parameters(), lr=1e-3) for n in networks]

    def epoch() -> None:
        for network, optimiser in zip(networks, optimisers, strict=True):
            optimiser.zero_grad()
            functional.mse_loss(network(difference), target).backward()
            optimiser.step()

    return epoch


def check_agreement(cycles: int) -> None:
    """Stop where the 3D formulation is another function."""
    network = FPNN(VARIABLES, cycles - 1, POINTS).eval()
    videos = torch.randn(2, 3, VARIABLES, cycles - 1, POINTS)
    with torch.no_grad():
        difference = (network(*videos) - plain(network).eval()(*videos)).abs().max().item()
    print(f"plain and loop differ by {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("the two formulations disagree")


def cases(cycles: int, members: int) -> dict[str, Epoch]:
    """What is timed for a number of cycles; the first of them is missing, as in the record."""
    raw, change = torch.randn(2, CELLS, VARIABLES, cycles - 1, POINTS)
    target = torch.randn(CELLS)
    networks = [FPNN(VARIABLES, cycles - 1, POINTS) for _ in range(members)]
    framed = [FPNN(VARIABLES, cycles - 1, POINTS, frames=FRAMES) for _ in range(members)]
    found = {
        "plain": one_by_one([plain(n) for n in networks], raw, change, target),
        "loop": one_by_one(networks, raw, change, target),
        "together": together(networks, raw, change, target),
        "frames": together(framed, raw, change, target),
    }
    return found | ({"BatteryML": batteryml(members, target)} if cycles == 100 else {})


def measure(epochs: dict[str, Epoch], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of an epoch of each, in turns; the first turn does not count."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds + 1):
        for name, epoch in epochs.items():
            began = clock(device)
            epoch()
            times[name].append(clock(device) - began)
    return {name: seconds[1:] for name, seconds in times.items()}


def main() -> None:
    """Print samples per second for each number of cycles, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="training of ensembles of FPNN")
    parser.add_argument("--quick", action="store_true", help="4 networks instead of 10, 1 round instead of 5")
    add_device(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare(prepare(arguments.device), *((4, 1) if arguments.quick else (10, 5)))


def compare(device: torch.device, members: int, rounds: int) -> None:
    """Compare results and times of ensembles of so many networks."""
    torch.manual_seed(0)
    check_agreement(20)
    print(
        f"torch {torch.__version__}, {where(device)}, {members} networks, {CELLS} cells, {VARIABLES} x {POINTS} points"
    )
    print(
        f"{'cycles':>6} {'who':10} {f'{device.type.upper()} s an epoch':>14} {'samples/s':>10} {'speed over plain':>16}"
    )
    ratios = {}
    for cycles in (10, 100):
        with device:
            epochs = cases(cycles, members)
        times = measure(epochs, rounds, device)
        for name, seconds in times.items():
            quotients = [p / s for p, s in zip(times["plain"], seconds, strict=True)]
            ratios[f"{name}_{cycles}"] = statistics.median(quotients)
            middle = statistics.median(seconds)
            speed = members * CELLS / middle
            print(f"{cycles:6} {name:10} {middle:14.3f} {speed:10.0f} {ratios[f'{name}_{cycles}']:16.2f}")
        if "BatteryML" in times:
            peer = [p / s for p, s in zip(times["BatteryML"], times["frames"], strict=True)]
            ratios["frames_over_batteryml"] = statistics.median(peer)
    print(json.dumps({key: round(value, 3) for key, value in ratios.items() if not key.startswith("plain")}))


if __name__ == "__main__":
    main()
