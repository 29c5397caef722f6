"""Fourier neural operator (Li et al., 2021, arXiv:2010.08895) in any number of space dimensions."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.models.base import Network
from workbench.models.layers import GridEnds, SpectralConv, grid_channels, per_axis, pointwise


class FNO(Network):
    r"""Fourier neural operator: global convolutions by a few Fourier modes, local maps by the channels.

    .. math:: x_0 = P x, \quad x_{l+1} = \sigma(S_l x_l + W_l x_l + b_l), \quad y = Q_2\,\sigma(Q_1 x_L)

    with GELU for :math:`\sigma`, absent after the last layer. Parameters have the names of the authors' code
    and its successors, so that a published state dict loads as it is (for the spectral weights see
    :class:`~workbench.models.layers.SpectralConv`). A trained network runs on any grid that holds its modes.

    Args:
        in_channels: Channels of the input, without grid coordinates.
        out_channels: Channels of the output.
        space: Points along each axis of the training grid.
        modes: Fourier modes kept along each axis, one number for all axes or one for each. Good values: 8 to
            16 in 2D, 4 to 12 in 3D, 16 to 32 in 1D; at most half of the points of an axis.
        width: Channels of the hidden layers. Good values: 20 to 64.
        layers: Fourier layers. Good values: 4; more for fields with fine structure.
        projection: Channels of the hidden layer of the output map. Good values: 2 to 4 times ``width``.
        grid: Node coordinates as further input channels: "half-open" counts the left end of each axis as 0
            and leaves out the right end (a periodic axis), "closed" runs from 0 to 1 with both ends, null adds
            none and makes the network exactly translation equivariant on periodic axes.
        periodic: Whether the field is periodic, for all axes or for each.
        padding: Zeros added after the end of an axis that is not periodic, as a fraction of its length. Good
            values: 0.125 to 0.5.

    Raises:
        InputError: An axis has too few points for its modes, or an option has the wrong number of entries.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: tuple[int, ...],
        modes: int | tuple[int, ...] = 12,
        width: int = 32,
        layers: int = 4,
        projection: int = 128,
        grid: GridEnds | None = "half-open",
        periodic: bool | tuple[bool, ...] = True,
        padding: float = 0.25,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        self.grid = grid
        modes = per_axis(modes, space, "modes")
        margins = tuple(0.0 if p else padding for p in per_axis(periodic, space, "periodic"))
        self.fc0 = nn.Linear(in_channels + (len(space) if grid else 0), width)
        self.sp_convs = nn.ModuleList(SpectralConv(width, width, self.space, modes, margins) for _ in range(layers))
        self.ws = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.fc1 = nn.Linear(width, projection)
        self.fc2 = nn.Linear(projection, out_channels)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Lift the channels, apply the Fourier layers, project."""
        batch, space = len(x), x.shape[2:]
        hidden = pointwise(self.fc0, grid_channels(x, self.grid).flatten(2))
        for layer, (spectral, local) in enumerate(zip(self.sp_convs, self.ws, strict=True), start=1):
            convolved = spectral(hidden.view(batch, -1, *space)).flatten(2)
            hidden = convolved + pointwise(local, hidden)
            if layer < len(self.sp_convs):
                hidden = functional.gelu(hidden)
        hidden = functional.gelu(pointwise(self.fc1, hidden))
        return pointwise(self.fc2, hidden).view(batch, -1, *space)
