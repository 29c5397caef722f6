"""U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with pre-activation residual blocks."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import InputError
from workbench.models.base import Network
from workbench.models.layers import per_axis

GROUPS = 8
CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class UNet(Network):
    r"""U-Net for fields in one to three dimensions, periodic along any choice of axes, on any grid size.

    ``depth`` times the grid is halved and the channels doubled; on the way back each level joins the features
    of the same size. A size that :math:`2^{depth}` does not divide is continued to the next multiple
    (periodically, or by the last value) and the result cropped. On periodic axes with sizes that it does
    divide, a shift of the input by a multiple of :math:`2^{depth}` nodes shifts the output exactly.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        space: Points along each axis of the training grid; other sizes may follow.
        width: Channels at the finest level, a multiple of 8. Good values: 16 to 64.
        depth: Halvings of the grid. Good values: 2 to 4; the coarsest grid should keep 4 points an axis.
        blocks: Residual blocks a level, on the way down and on the way up. Good values: 1 or 2.
        periodic: Whether the field is periodic, for all axes or for each; other axes are padded with zeros
            inside each convolution.

    Raises:
        InputError: A grid with more than three axes, a width that is no multiple of 8, or an option with the
            wrong number of entries.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: tuple[int, ...],
        width: int = 32,
        depth: int = 3,
        blocks: int = 1,
        periodic: bool | tuple[bool, ...] = True,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        if len(space) > len(CONVOLUTIONS):
            raise InputError(
                f"UNet takes fields with 1 to 3 space axes, found {len(space)}: {tuple(space)}. Use FNO, or "
                f"move an axis to the channels."
            )
        if width % GROUPS:
            raise InputError(
                f"UNet needs a width that is a multiple of {GROUPS} (the groups of its normalisation), found "
                f"{width}. Set width to {max(GROUPS, width - width % GROUPS)}."
            )
        self.depth = depth
        self.periodic = per_axis(periodic, space, "periodic")
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = Conv(in_channels, width, self.periodic)
        self.encoders = nn.ModuleList(self._level(w, w, blocks) for w in widths[:-1])
        self.downs = nn.ModuleList(
            Conv(fine, coarse, self.periodic, stride=2) for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.bottom = self._level(widths[-1], widths[-1], blocks)
        self.ups = nn.ModuleList(
            Conv(coarse, fine, self.periodic) for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.decoders = nn.ModuleList(self._level(2 * w, w, blocks) for w in widths[:-1])
        self.norm = nn.GroupNorm(GROUPS, width)
        self.head = Conv(width, out_channels, self.periodic)

    def _level(self, inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        later = [ResidualBlock(outputs, outputs, self.periodic) for _ in range(blocks - 1)]
        return nn.Sequential(ResidualBlock(inputs, outputs, self.periodic), *later)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Go down and up the levels at the next size that halves ``depth`` times; crop to the input's."""
        space = x.shape[2:]
        hidden = self.stem(extend(x, 2**self.depth, self.periodic))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            hidden = encoder(hidden)
            skips.append(hidden)
            hidden = down(hidden)
        hidden = self.bottom(hidden)
        for skip, up, decoder in reversed(list(zip(skips, self.ups, self.decoders, strict=True))):
            hidden = up(functional.interpolate(hidden, scale_factor=2.0, mode="nearest"))
            hidden = decoder(torch.cat([hidden, skip], dim=1))
        y = self.head(functional.silu(self.norm(hidden)))
        return y[(..., *(slice(n) for n in space))]


class ResidualBlock(nn.Module):
    """Two convolutions, each after normalisation and SiLU, added to the input."""

    def __init__(self, inputs: int, outputs: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs)
        self.conv1 = Conv(inputs, outputs, periodic)
        self.norm2 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = Conv(outputs, outputs, periodic)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else CONVOLUTIONS[len(periodic) - 1](inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Return the input, its channels mapped where their number changes, plus the two convolutions."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return self.shortcut(x) + hidden


class Conv(nn.Module):
    """Convolution of width 3 that wraps around periodic axes and sees zeros beyond the ends of the others."""

    def __init__(self, inputs: int, outputs: int, periodic: tuple[bool, ...], stride: int = 1) -> None:
        super().__init__()
        # torch names the axes of a padding from the last to the first, two ends each
        self.wrap = [end for p in reversed(periodic) for end in (int(p), int(p))]
        zeros = tuple(int(not p) for p in periodic)
        self.conv = CONVOLUTIONS[len(periodic) - 1](inputs, outputs, 3, stride=stride, padding=zeros)

    def forward(self, x: Float[Tensor, "b c *fine"]) -> Float[Tensor, "b d *coarse"]:
        """Wrap the periodic axes by one node at each end, then convolve."""
        if any(self.wrap):
            x = functional.pad(x, self.wrap, mode="circular")
        return self.conv(x)


def extend(x: Float[Tensor, "b c *space"], multiple: int, periodic: tuple[bool, ...]) -> Float[Tensor, "b c *longer"]:
    """Continue every axis to a multiple of ``multiple``: periodically, or by its last value."""
    for axis, wraps in enumerate(periodic, start=2):
        size = x.shape[axis]
        if size % multiple:
            nodes = torch.arange(-(-size // multiple) * multiple, device=x.device)
            x = x.index_select(axis, nodes % size if wraps else nodes.clamp(max=size - 1))
    return x
