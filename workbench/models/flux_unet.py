"""Fluxes of unresolved motion from the resolved flow: a U-shaped network with a body at its bottom.

Source: the published fine-tuning of Prithvi WxC for fluxes of gravity waves (Schmude et al., 2024, arXiv:2409.13598,
section 4.4): four blocks of convolutions without pooling, the core, four mirrored blocks that also see what the first
ones made, and a convolution of width 1. In the published code the core's output was multiplied by scalers of 0 and half
of its tokens were masked. Here neither is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.models.base import Network
from workbench.models.bodies import PrithviCore
from workbench.models.layers import per_axis
from workbench.models.unet import Conv


class FluxUNet(Network):
    """Blocks of convolutions down to a body and back, on one grid of two axes.

    Args:
        in_channels: channels of the resolved flow.
        out_channels: channels of the fluxes.
        space: points along each axis.
        width: channels after the first block; every further one has twice as many. Good values: 12 to 160.
        levels: blocks on each side. Good values: 2 to 4.
        periodic: whether the field is periodic, for both axes or for each.
        body: what stands at the bottom: `PrithviCore`, or `ResidualBlocks` for a plain convolutional network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: tuple[int, ...],
        width: int = 16,
        levels: int = 4,
        periodic: bool | tuple[bool, ...] = False,
        body: Callable[[int, tuple[int, ...]], nn.Module] = PrithviCore,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        wraps = per_axis(periodic, space, "periodic")
        widths = [width * 2**level for level in range(levels)]
        self.encoders = nn.ModuleList(
            ConvBlock(before, after, wraps) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.body = body(widths[-1], self.space)
        self.decoders = nn.ModuleList(
            ConvBlock(2 * own, after, wraps) for own, after in zip(widths[::-1], [*widths[-2::-1], width], strict=True)
        )
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Go down through the blocks, through the body, and back up beside what the blocks on the way down made."""
        passed = []
        for encoder in self.encoders:
            x = encoder(x)
            passed.append(x)
        x = self.body(x)
        for decoder, beside in zip(self.decoders, reversed(passed), strict=True):
            x = decoder(torch.cat([x, beside], 1))
        return self.head(x)


class ConvBlock(nn.Sequential):
    """Two convolutions, each with batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, periodic: tuple[bool, ...]) -> None:
        layers: list[nn.Module] = []
        for before in (inputs, outputs):
            layers += [Conv(before, outputs, periodic), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)
