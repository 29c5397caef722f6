"""What every network of Workbench is: a plain module from one gridded field to another on the same grid.

A network knows tensors only. The task that owns it supplies the first three constructor arguments from the
data; an experiment file gives the rest, by name, under ``init_args``.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A map from channels on a grid to channels on the same grid.

    A concrete network takes these three arguments first and by position, and gives every further argument a
    default, so that it can be built from the data and an empty configuration.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        space: Points along each axis of the training grid, in the order of the tensor's axes.
    """

    def __init__(self, in_channels: int, out_channels: int, space: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.space = tuple(space)

    def place(self, coordinates: tuple[Float[Tensor, "_"], ...]) -> None:
        """Take the coordinates of the grid's nodes along each axis; a network that asks for none does nothing."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Return the output channels at the nodes of the input, in the units of the packed data."""
