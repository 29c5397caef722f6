"""A network of your own for nodes and elements, in a file of your own."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.models import Prediction, TransientNetwork


class Markov(TransientNetwork):
    """Convolutions from the state, loads and material of a step to the next state and the elements; no memory.

    Displacement and velocity are all that the next state depends on, so in principle none is needed.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the state and of the elements.
        space: Nodes along each axis.
        width: Channels inside.
        layers: Convolutions.
    """

    memory_channels = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: tuple[int, int],
        space: tuple[int, ...],
        width: int = 32,
        layers: int = 3,
    ) -> None:
        super().__init__(in_channels, out_channels, space)
        convolution = nn.Conv2d if len(space) == 2 else nn.Conv3d
        widths = [in_channels, *[width] * layers]
        self.body = nn.ModuleList(convolution(*pair, 5, padding=2) for pair in pairwise(widths))
        self.nodes = convolution(width, out_channels[0], 1)
        self.elements = convolution(width, out_channels[1], 2)  # sees the corners of each element

    def forward(
        self,
        states: Float[Tensor, "b s d *space"],
        forcing: Float[Tensor, "b t k *space"],
        static: Float[Tensor, "b j *space"] | None = None,
        *,
        fixed: Bool[Tensor, "b _ *space"] | None = None,
        fed: Sequence[bool] | None = None,
        scale: Float[Tensor, "d"] | None = None,
        memory: Float[Tensor, "b m *space"] | None = None,
        feedback: str = "exact",
        segment: int = 0,
        joint: str = "keep",
    ) -> Prediction:
        """One step after the other; gradients are exact and go through all of them."""
        if feedback != "exact" or segment:
            raise InputError("Markov knows feedback_gradient: exact and segment: 0 only")
        nodes, elements = [], []
        for t in range(forcing.shape[1]):
            given = states[:, min(t, states.shape[1] - 1)]
            state = nodes[-1] if t and (fed is None or fed[t]) else given
            if fixed is not None:
                state = torch.where(fixed, given, state)
            x = torch.cat([state, forcing[:, t], *([] if static is None else [static])], 1)
            for layer in self.body:
                x = nn.functional.gelu(layer(x))
            found = self.nodes(x)
            nodes.append(found if scale is None else state + scale.view(-1, *[1] * len(self.space)) * found)
            elements.append(self.elements(x))
        return Prediction(torch.stack(nodes, 1), torch.stack(elements, 1), states[:, 0, :0])
