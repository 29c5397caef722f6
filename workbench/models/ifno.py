"""Implicit Fourier neural operator (You et al., 2022, arXiv:2203.08205)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.models.base import Network
from workbench.models.layers import GridEnds, SpectralConv, grid_channels, per_axis, pointwise


class IFNO(Network):
    r"""Implicit Fourier neural operator: one Fourier layer iterated as explicit Euler steps.

    .. math:: x_{l+1} = x_l + \tfrac{1}{L}\,\sigma(S x_l + W x_l + b)

    for L steps that share S, W and b, with GELU for :math:`\sigma`, absent in the last step; lift and
    projection as in :class:`~workbench.models.fno.FNO`. The number of parameters does not depend on the
    number of steps.

    Args:
        in_channels: Channels of the input, without grid coordinates.
        out_channels: Channels of the output.
        space: Points along each axis of the training grid.
        modes: Fourier modes kept along each axis, one number for all axes or one for each. Good values: 8 to
            16 in 2D, 4 to 12 in 3D, 16 to 32 in 1D; at most half of the points of an axis.
        width: Channels of the hidden layers. Good values: 32 to 80.
        layers: Steps, L. Good values: 10 to 40.
        projection: Channels of the hidden layer of the output map. Good values: 2 to 6 times ``width``.
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
        layers: int = 10,
        projection: int = 128,
        grid: GridEnds | None = "half-open",
        periodic: bool | tuple[bool, ...] = True,
        padding: float = 0.25,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        self.grid = grid
        self.layers = layers
        modes = per_axis(modes, space, "modes")
        margins = tuple(0.0 if p else padding for p in per_axis(periodic, space, "periodic"))
        self.fc0 = nn.Linear(in_channels + (len(space) if grid else 0), width)
        # lists of one, for the parameter names of published models
        self.sp_convs = nn.ModuleList([SpectralConv(width, width, self.space, modes, margins)])
        self.ws = nn.ModuleList([nn.Conv1d(width, width, 1)])
        self.fc1 = nn.Linear(width, projection)
        self.fc2 = nn.Linear(projection, out_channels)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Lift the channels, apply the shared Fourier layer ``layers`` times, project."""
        batch, space = len(x), x.shape[2:]
        hidden = pointwise(self.fc0, grid_channels(x, self.grid).flatten(2))
        for step in range(1, self.layers + 1):
            convolved = self.sp_convs[0](hidden.view(batch, -1, *space)).flatten(2)
            change = convolved + pointwise(self.ws[0], hidden)
            if step < self.layers:
                change = functional.gelu(change)
            hidden = torch.add(hidden, change, alpha=1 / self.layers)
        hidden = functional.gelu(pointwise(self.fc1, hidden))
        return pointwise(self.fc2, hidden).view(batch, -1, *space)
