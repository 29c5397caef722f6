"""A network of your own, in a file of your own."""

from jaxtyping import Float
from torch import Tensor, nn

from workbench.models import Network


class DilatedResNet(Network):
    """Residual convolutions of growing and shrinking dilation on a periodic plane.

    Source: Stachenfeld et al. 2022, Learned coarse models for efficient turbulence simulation, arXiv:2112.15275
    (one block).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        space: Points along y and x.
        width: Channels inside.
        dilations: Dilation of each convolution, in grid points.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: tuple[int, ...],
        width: int = 32,
        dilations: tuple[int, ...] = (1, 2, 4, 2, 1),
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        self.lift = periodic(in_channels, width, 1)
        self.blocks = nn.ModuleList([periodic(width, width, d) for d in dilations])
        self.project = periodic(width, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """The output channels at the points of the input."""
        x = self.lift(x)
        for block in self.blocks:
            x = x + block(nn.functional.gelu(x))
        return self.project(x)


def periodic(inputs: int, outputs: int, dilation: int) -> nn.Conv2d:
    """A 3 x 3 convolution that wraps around both axes."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, padding_mode="circular")
