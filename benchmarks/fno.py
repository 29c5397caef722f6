"""Time Workbench's FNO, and one of its spectral layers, against the textbook formulation of the same, in one run.

The textbook network transforms with rfftn, multiplies each corner of the spectrum by an einsum into a full-size buffer
of zeros and transforms back with irfftn. It holds the same weights, and its outputs and gradients are compared first.
Where the package neuraloperator is installed, its FNO of the same modes, width and depth is timed too. Times are wall
seconds, with ``--device cuda`` until the GPU is done.

    python benchmarks/fno.py [--quick] [--device cuda]
"""

import argparse
import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from _device import add_device, prepare, wall, where
from torch import Tensor, nn
from torch.nn import functional

from workbench.models import FNO
from workbench.models.layers import SpectralConv

# name: (batch, grid, modes, width)
CASES = {
    "64x64": (16, (64, 64), 12, 32),
    "128x128": (8, (128, 128), 16, 32),
    "32x32x32": (2, (32, 32, 32), 8, 24),
}
CHANNELS = 2


class TextbookSpectralConv(nn.Module):
    """The corners of the spectrum, one complex parameter each, as in the first published code."""

    def __init__(self, layer: SpectralConv) -> None:
        super().__init__()
        self.modes = layer.modes
        weight = torch.view_as_complex(layer.weight.detach()).movedim((-2, -1), (0, 1))
        self.signs = list(product((False, True), repeat=len(self.modes) - 1))
        self.corners = nn.ParameterList(weight[self.region(s, storage=True)].contiguous() for s in self.signs)

    def region(self, signs: tuple[bool, ...], storage: bool = False) -> tuple[slice, ...]:
        """Return the slices of a corner: in the spectrum, or in our storage of both signs side by side."""
        negative = [slice(m, 2 * m) if storage else slice(-m, None) for m in self.modes[:-1]]
        halves = [n if s else slice(0, m) for s, n, m in zip(signs, negative, self.modes[:-1], strict=True)]
        return (slice(None), slice(None), *halves, slice(0, self.modes[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """FFT, corners into a buffer of zeros, inverse FFT."""
        axes = tuple(range(2, x.ndim))
        spectrum = torch.fft.rfftn(x, dim=axes)
        out = torch.zeros(len(x), self.corners[0].shape[1], *spectrum.shape[2:]).to(spectrum)
        for signs, corner in zip(self.signs, self.corners, strict=True):
            region = self.region(signs)
            out[region] = torch.einsum("bi...,io...->bo...", spectrum[region], corner)
        return torch.fft.irfftn(out, s=x.shape[2:], dim=axes)


class TextbookFNO(nn.Module):
    """The same network with textbook spectral layers and convolutions of width 1 for all pointwise maps."""

    def __init__(self, model: FNO) -> None:
        super().__init__()
        self.spectral = nn.ModuleList(TextbookSpectralConv(layer) for layer in model.sp_convs)
        self.local = nn.ModuleList(convolution(layer) for layer in model.ws)
        self.lift, self.hidden, self.head = (convolution(layer) for layer in (model.fc0, model.fc1, model.fc2))

    def forward(self, x: Tensor) -> Tensor:
        """Add the grid, lift, Fourier layers, project."""
        batch, space = len(x), x.shape[2:]
        nodes = torch.meshgrid(*(torch.arange(n, device=x.device) / n for n in space), indexing="ij")
        x = torch.cat([x, torch.stack(nodes).expand(batch, *[-1] * (len(space) + 1))], dim=1)
        x = self.lift(x.flatten(2)).view(batch, -1, *space)
        for index, (spectral, local) in enumerate(zip(self.spectral, self.local, strict=True)):
            x = spectral(x) + local(x.flatten(2)).view_as(x)
            x = functional.gelu(x) if index < len(self.spectral) - 1 else x
        return self.head(functional.gelu(self.hidden(x.flatten(2)))).view(batch, -1, *space)


def convolution(layer: nn.Module) -> nn.Conv1d:
    """Return a copy of a linear layer as a convolution of width 1."""
    weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
    copy = nn.Conv1d(weight.shape[1], weight.shape[0], 1)
    copy.load_state_dict({"weight": weight.view(*weight.shape[:2], 1), "bias": bias})
    return copy


def networks(space: tuple[int, ...], modes: int, width: int) -> dict[str, nn.Module]:
    """Return ours, the textbook's with our weights and, where it is installed, the peer's."""
    ours = FNO(CHANNELS, CHANNELS, space, modes=modes, width=width)
    models: dict[str, nn.Module] = {"workbench": ours, "textbook": TextbookFNO(ours)}
    if importlib.util.find_spec("neuralop"):
        from neuralop.models import FNO as Peer

        models["neuraloperator"] = Peer((2 * modes,) * len(space), CHANNELS, CHANNELS, hidden_channels=width)
    return models


def check_agreement(case: str, models: dict[str, nn.Module], x: Tensor) -> None:
    """Print how far output and input gradient of both formulations are from ours in float64; stop where ours are."""
    truth, *found = (
        both(model, x.to(next(model.parameters()).real.dtype))
        for model in (copy.deepcopy(models["workbench"]).double(), models["workbench"], models["textbook"])
    )
    for what, exact, ours, theirs in zip(("output", "gradient"), truth, *found, strict=True):
        errors = [((one - exact).abs().max() / exact.abs().max()).item() for one in (ours, theirs)]
        print(f"{case:18} {what:14} error workbench {errors[0]:.1e}, textbook {errors[1]:.1e} of its largest value")
        if errors[0] > 1e-4:
            raise SystemExit(f"float32 is not float64: {what} of {case}")
        if errors[1] > 1e-4:
            print(f"{'':33} the textbook's complex products are wrong here, and timed all the same")


def both(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and input gradient."""
    leaf = x.detach().clone().requires_grad_()
    y = model(leaf)
    y.square().sum().backward()
    return y.detach(), leaf.grad


def steps(model: nn.Module, x: Tensor) -> dict[str, Callable[[], None]]:
    """Return the two things that are timed: a forward without gradients and a step of training."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def train() -> None:
        optimiser.zero_grad()
        functional.mse_loss(model(x), x.detach()).backward()
        optimiser.step()

    return {"forward": forward, "training step": train}


def measure(models: dict[str, nn.Module], x: Tensor, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Time all networks in turn, again and again, for at least three rounds and about the given time."""
    work = {name: steps(model, x) for name, model in models.items()}
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in work} for what in work["workbench"]}
    start, rounds = time.perf_counter(), -1
    while rounds < 3 or time.perf_counter() - start < seconds:
        for what, by_name in times.items():
            for name, durations in by_name.items():
                began = wall(x.device)
                work[name][what]()
                if rounds >= 0:  # the first round warms up
                    durations.append(wall(x.device) - began)
        rounds += 1
    return times


def main() -> None:
    """Print one row a case and quantity, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="FNO against the textbook formulation")
    parser.add_argument("--quick", action="store_true", help="end within 45 s on two cores")
    add_device(parser)
    arguments = parser.parse_args()
    compare(prepare(arguments.device), 1.5 if arguments.quick else 15.0)


def compare(device: torch.device, seconds: float) -> None:
    """Compare results and times, about so many seconds a row."""
    torch.manual_seed(0)
    ratios: dict[str, float] = {}
    print(f"torch {torch.__version__}, {where(device)}; median milliseconds, interleaved")
    print(f"{'case':18} {'quantity':14} {'who':15} {'median':>9} {'ratio to workbench':>19}")
    for grid, (batch, space, modes, width) in CASES.items():
        models = {name: model.to(device) for name, model in networks(space, modes, width).items()}
        layers = {"workbench": models["workbench"].sp_convs[0], "textbook": models["textbook"].spectral[0]}
        for part, group, channels in (("network", models, CHANNELS), ("layer", layers, width)):
            case = f"{grid} {part}"
            # inside a network the gradient goes on to the layer's input
            x = torch.randn(batch, channels, *space, device=device, requires_grad=part == "layer")
            check_agreement(case, group, x)
            for what, times in measure(group, x, seconds).items():
                for name, durations in times.items():
                    pairs = zip(durations, times["workbench"], strict=True)
                    ratio = statistics.median(other / ours for other, ours in pairs)
                    print(f"{case:18} {what:14} {name:15} {1e3 * statistics.median(durations):9.2f} {ratio:19.2f}")
                    if name != "workbench":
                        ratios[f"{case}, {what}, {name} / workbench"] = round(ratio, 3)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
