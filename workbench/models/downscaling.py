"""Fine fields from their means over cells, in stages around a body, such as the core of Prithvi WxC.

Source: Schmude et al. (2024), arXiv:2409.13598, section 4.3, whose stages these are: embeddings of what changes and of
what does not, added; a first rise in resolution by a pixel shuffle (Shi et al., 2016, arXiv:1609.05158); the core and a
convolution, added to what it was given; a second rise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import InputError
from workbench.models.base import DownscalingNetwork
from workbench.models.bodies import PrithviCore
from workbench.models.layers import per_axis
from workbench.models.unet import Conv


class Downscaling(DownscalingNetwork):
    """Stages of convolutions and pixel shuffles around a body.

    Args:
        in_channels: channels of the cells, and of what is known of the points.
        out_channels: channels of the fine field.
        space: cells, and points, along each of two axes.
        width: channels of the features. Good values: 32 to 256.
        upscale: rise in resolution before and after the body; their product is the points of a cell along an axis.
        learned_fields: maps that are learnt, a number a point, and added to what is known; for a region that does not
            change they take the place of orography and coasts. Good values: 0, or 2 to 8.
        local_regression: add a linear map of the 3 x 3 cells round each point, another one for every point; again for a
            region that does not change. `workbench.tasks.DownscalingTask` fits it before training, which then starts
            from it and learns the rest.
        periodic: whether the field is periodic, for both axes or for each.
        body: what stands between the rises: `PrithviCore`, or `ResidualBlocks` for a plain convolutional network.

    Raises:
        InputError: the rises do not make up the points of a cell, or there are more or fewer than two axes.
    """

    linear: Tensor | None

    def __init__(
        self,
        in_channels: tuple[int, int],
        out_channels: int,
        space: tuple[tuple[int, ...], tuple[int, ...]],
        width: int = 64,
        upscale: tuple[int, int] = (2, 2),
        learned_fields: int = 4,
        local_regression: bool = False,
        periodic: bool | tuple[bool, ...] = False,
        body: Callable[[int, tuple[int, ...]], nn.Module] = PrithviCore,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        cells, points = self.space
        first, second = upscale
        if len(cells) != 2 or any(n * first * second != m for n, m in zip(cells, points, strict=True)):
            raise InputError(
                f"Downscaling rises {first} x {second} times from {cells} cells to {points} points: expected two axes "
                "and upscale with the product data.coarsen"
            )
        wraps = per_axis(periodic, cells, "periodic")
        middle = tuple(n * first for n in cells)
        self.factor, self.second = first * second, second
        linear = (out_channels, 9 * in_channels[0] + 1, *points)
        self.register_buffer("linear", torch.zeros(linear) if local_regression else None)
        self.learned = nn.Parameter(torch.zeros(learned_fields, *points))
        known = in_channels[1] + learned_fields
        self.embed = nn.Sequential(Conv(in_channels[0], width, wraps), nn.PReLU(width))
        self.rise = nn.Sequential(Conv(width, width * first**2, wraps), nn.PixelShuffle(first), nn.PReLU(width))
        self.embed_known = Conv(known * second**2, width, wraps) if known else None
        self.body = body(width, middle)
        self.join = Conv(width, width, wraps)
        narrow = max(width // second, 1)
        self.finish = nn.Sequential(
            Conv(width, narrow * second**2, wraps), nn.PixelShuffle(second), nn.PReLU(narrow),
            Conv(narrow, out_channels, wraps),
        )  # fmt: skip
        for stage in (self.embed, self.rise, self.embed_known, self.join, self.finish):
            for module in stage.modules() if stage is not None else ():
                if isinstance(module, nn.Conv2d):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.get_parameter("bias"))
        if local_regression:
            nn.init.zeros_(self.finish[-1].get_parameter("conv.weight"))

    def forward(
        self, means: Float[Tensor, "b c cy cx"], known: Float[Tensor, "b k y x"] | None = None
    ) -> Float[Tensor, "b d y x"]:
        """Return the fine field, or what is to be added to an interpolation of the means."""
        features = self.rise(self.embed(means))
        if self.embed_known is not None:
            maps = self.learned.expand(len(means), -1, -1, -1)
            maps = maps if known is None else torch.cat([known, maps.to(known)], 1)
            features = features + self.embed_known(functional.pixel_unshuffle(maps, self.second))
        found = self.finish(features + self.join(self.body(features)))
        return found if self.linear is None else found + self.regressed(means)

    def regressed(self, means: Float[Tensor, "b c cy cx"]) -> Float[Tensor, "b d y x"]:
        """The linear map of the 3 x 3 cells round each point, and a constant."""
        around = self.around(means).repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        return torch.einsum("bkyx,dkyx->bdyx", around, self.linear)

    def around(self, means: Float[Tensor, "b c cy cx"]) -> Float[Tensor, "b k cy cx"]:
        """Channels of the 3 x 3 cells round each cell, and 1; beyond the edge the outermost cells go on."""
        padded = functional.pad(means, (1, 1, 1, 1), mode="replicate")
        around = functional.unfold(padded, 3).unflatten(2, self.space[0])
        return torch.cat([around, torch.ones_like(around[:, :1])], 1)
