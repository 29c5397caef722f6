"""FPNN: the life of a cell from the video of its first cycles, in two streams of convolutions.

Source: Jiang et al. (2024), arXiv:2401.16102, of which the abstract and the figure of the architecture are followed:
two equal streams, one for the curves and one for their change since an early cycle; in each a 3D convolution over
(variable, cycle, point), initial 2D layers, a chain of InceptionBlocks with a bypass, a fully connected layer; then a
common head. Sizes of kernels, widths, normalisation, pooling and dropout are not in these sources and are choices.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import InputError
from workbench.models.base import CellNetwork
from workbench.models.reference_cells import ReferenceCells
from workbench.models.ridge_part import RidgePart

GROUPS = 4
POOLED = (2, 6)
"""Cycles and points that are left before the fully connected layer, whatever went in."""

Streams = Literal["both", "raw", "change"]
Normalisation = Literal["group", "batch"]


class FPNN(CellNetwork):
    """Two streams of convolutions over (variable, cycle, point), each through a chain of InceptionBlocks.

    Args:
        variables: curves of a cycle, such as voltage, current and temperature.
        cycles: cycles of the video.
        points: points of each curve.
        width: channels of the first convolution, a multiple of 8; twice as many later. Good values: 8 to 32.
        blocks: InceptionBlocks in a stream, the number called NOI in the paper. Good values: 0 to 4.
        learned_depth: mix each block's output with its input by a gate that is learnt, from 0 (skipped) to 1; `depth`
            says how many count.
        streams: use the curves ("raw"), their change ("change") or both.
        stream_dropout: share of the samples for which the features of the curves are set to zero in training, so that
            the change has to do without them. Good values: 0 to 0.5.
        frames: average consecutive cycles to this many before anything else, where there are more: less noise, and a
            fraction of the work; 0 takes every cycle. Good values: 0, or 4 to 16.
        ridge: average with a ridge regression on means of the video, whose weight grows with how well it does on cells
            that it is not fitted to. `prepare` fits it; the convolutions are trained as if it were not there.
        references: compare a cell with so many cells of known life, and learn from the difference of their videos how
            much longer it lives; 0 estimates life itself. Good values: 0, or 10 to 30.
        dropout: share of features set to zero in the head. Good values: 0 to 0.3.
        normalisation: "group" does not depend on the other samples of a batch; "batch" is faster.

    Raises:
        InputError: a width that is no multiple of 8, or negative sizes.
    """

    def __init__(
        self,
        variables: int,
        cycles: int,
        points: int,
        width: int = 16,
        blocks: int = 1,
        learned_depth: bool = False,
        streams: Streams = "both",
        stream_dropout: float = 0.0,
        frames: int = 0,
        ridge: bool = False,
        references: int = 0,
        dropout: float = 0.2,
        normalisation: Normalisation = "group",
    ) -> None:
        super().__init__(variables, cycles, points)
        check_sizes(width, blocks=blocks, frames=frames, references=references)
        self.ridge = RidgePart(variables, points) if ridge else None
        kept = min(cycles, frames) if frames else cycles
        self.references = ReferenceCells(references, (variables, kept, points)) if references else None
        self.frames = frames
        self.stream_dropout = stream_dropout
        shape = (variables, width, blocks)
        self.raw = None if streams == "change" else Stream(*shape, learned_depth, normalisation)
        self.change = None if streams == "raw" else Stream(*shape, learned_depth, normalisation)
        features = 2 * width * (2 if streams == "both" else 1)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, 1),
        )

    def prepare(
        self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"], target: Float[Tensor, "b"]
    ) -> None:
        """Fit the ridge regression to all cells of the training, and choose the references among them.

        Raises:
            InputError: there are fewer cells than references.
        """
        if self.ridge is not None:
            self.ridge.fit(raw, change, target)
        if self.references is not None:
            self.references.take(average_cycles(raw, self.frames), average_cycles(change, self.frames), target)

    def forward(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> Float[Tensor, "b"]:
        """Return the estimate of the convolutions; out of training, averaged with the ridge regression."""
        found = self.compare(average_cycles(raw, self.frames), average_cycles(change, self.frames))
        if self.ridge is None or self.training:
            # residuals of a ridge regression on its own cells would be too small a thing to learn from
            return found
        return self.ridge.join(found, self.ridge(raw, change))

    def compare(self, raw: Float[Tensor, "b v f p"], change: Float[Tensor, "b v f p"]) -> Float[Tensor, "b"]:
        """The estimate of the convolutions, by way of the references where there are any."""
        if self.references is None:
            return self.convolve(raw, change)
        more_raw, more_change, known = self.references.pairs(raw, change)
        longer = self.convolve(more_raw.flatten(0, 1), more_change.flatten(0, 1))
        return (longer.unflatten(0, more_raw.shape[:2]) + known).mean(1)

    def convolve(self, raw: Float[Tensor, "b v f p"], change: Float[Tensor, "b v f p"]) -> Float[Tensor, "b"]:
        """Join what both streams make of their video."""
        features = []
        if self.raw is not None:
            found = self.raw(raw)
            if self.training and self.stream_dropout:
                found = found * (torch.rand_like(found[:, :1]) >= self.stream_dropout)
            features.append(found)
        if self.change is not None:
            features.append(self.change(change))
        return self.head(torch.cat(features, 1))[:, 0]

    def depth(self) -> Float[Tensor, ""]:
        """Blocks that count, a mean over streams: the sum of the gates, or the number of blocks without gates."""
        streams = [stream for stream in (self.raw, self.change) if stream is not None]
        return torch.stack([stream.depth() for stream in streams]).mean()


class Stream(nn.Module):
    """A video to features: 3D convolution, initial layers, InceptionBlocks beside a bypass, fully connected layer.

    The 3D kernel is as deep as there are variables, so that it is a 2D convolution with the variables as channels,
    which is what runs.
    """

    def __init__(self, variables: int, width: int, blocks: int, gated: bool, normalisation: Normalisation) -> None:
        super().__init__()
        wide = 2 * width
        self.stem = Unit(variables, width, (3, 5), normalisation, stride=(1, 2))
        self.initial = nn.Sequential(Unit(width, wide, (3, 3), normalisation, stride=(2, 2)), nn.AvgPool2d((1, 2)))
        self.blocks = nn.ModuleList(InceptionBlock(wide, normalisation) for _ in range(blocks))
        # as many open as closed
        self.gates = nn.Parameter(torch.zeros(blocks)) if gated and blocks else None
        self.bypass = nn.Sequential(nn.Conv2d(wide, wide, 1, bias=False), norm(wide, normalisation)) if blocks else None
        self.connected = nn.Linear(wide * POOLED[0] * POOLED[1], wide)

    def forward(self, video: Float[Tensor, "b v n p"]) -> Float[Tensor, "b c"]:
        """Return the features of a video with any number of cycles and points."""
        hidden = self.initial(self.stem(video))
        if self.bypass is not None:
            hidden = functional.relu(self.chain(hidden) + self.bypass(hidden))
        pooled = functional.adaptive_avg_pool2d(hidden, POOLED)
        return functional.relu(self.connected(pooled.flatten(1)))

    def chain(self, hidden: Float[Tensor, "b c n p"]) -> Float[Tensor, "b c n p"]:
        """One block after the other."""
        for number, block in enumerate(self.blocks):
            found = block(hidden)
            hidden = found if self.gates is None else hidden.lerp(found, self.gates[number].sigmoid())
        return hidden

    def depth(self) -> Float[Tensor, ""]:
        """Sum of the gates, or the number of blocks."""
        return torch.tensor(float(len(self.blocks))) if self.gates is None else self.gates.sigmoid().sum()


class InceptionBlock(nn.Module):
    """Four branches side by side: kernels of 1, 3 and 5, and a maximum over 3; each a quarter of the channels.

    Szegedy et al. (2015), Going deeper with convolutions, figure 2b.
    """

    def __init__(self, channels: int, normalisation: Normalisation) -> None:
        super().__init__()
        branch = channels // 4

        def unit(inputs: int, size: int) -> Unit:
            return Unit(inputs, branch, (size, size), normalisation)

        self.one = unit(channels, 1)
        self.three = nn.Sequential(unit(channels, 1), unit(branch, 3))
        self.five = nn.Sequential(unit(channels, 1), unit(branch, 5))
        self.largest = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(channels, 1))

    def forward(self, x: Float[Tensor, "b c n p"]) -> Float[Tensor, "b c n p"]:
        """Join the branches along the channels."""
        return torch.cat([branch(x) for branch in (self.one, self.three, self.five, self.largest)], 1)


class Unit(nn.Sequential):
    """Convolution, normalisation, ReLU; zeros beyond the ends."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        normalisation: Normalisation,
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        padding = (size[0] // 2, size[1] // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride, padding, bias=False), norm(outputs, normalisation), nn.ReLU()
        )


def norm(channels: int, normalisation: Normalisation) -> nn.Module:
    """Return the normalisation of so many channels."""
    return nn.BatchNorm2d(channels) if normalisation == "batch" else nn.GroupNorm(GROUPS, channels)


def average_cycles(video: Float[Tensor, "b v n p"], frames: int) -> Float[Tensor, "b v f p"]:
    """Average consecutive cycles to at most so many frames of equal length; 0 keeps every cycle."""
    if not 0 < frames < video.shape[2]:
        return video
    return functional.adaptive_avg_pool2d(video, (frames, video.shape[3]))


def check_sizes(width: int, **counts: int) -> None:
    """Raise InputError where FPNN cannot have these sizes."""
    if width < 8 or width % 8:
        raise InputError(f"FPNN needs a width that is a multiple of 8 (four branches of whole groups), found {width}")
    for name, value in counts.items():
        if value < 0:
            raise InputError(f"{name} of FPNN must be 0 or more, found {value}")
