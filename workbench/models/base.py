"""What every network of Workbench is: a plain module from one gridded field to another on the same grid.

A network knows tensors only. The task that owns it supplies the first three constructor arguments from the
data; an experiment file gives the rest, by name, under ``init_args``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

Feedback = Literal["exact", "published", "detach"]
Joint = Literal["keep", "recompute", "detach"]


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


class DownscalingNetwork(nn.Module, ABC):
    """A map from means over cells, and what is known of the points in them, to a field on the points.

    A concrete network takes these three arguments first and by position, with defaults for all others.

    Args:
        in_channels: channels of the cells, and of what is known of the points (0 where nothing is).
        out_channels: channels of the fine field.
        space: cells along each axis, and points along each axis.
    """

    def __init__(
        self, in_channels: tuple[int, int], out_channels: int, space: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> None:
        super().__init__()
        self.in_channels = (in_channels[0], in_channels[1])
        self.out_channels = out_channels
        self.space = (tuple(space[0]), tuple(space[1]))

    @abstractmethod
    def forward(
        self, means: Float[Tensor, "b c *cells"], known: Float[Tensor, "b k *points"] | None = None
    ) -> Float[Tensor, "b d *points"]:
        """Return the output channels on the points, in the units of the packed data."""


class CellNetwork(nn.Module, ABC):
    """A map from the curves of a battery cell in its first cycles to its life.

    A concrete network takes these three arguments first and by position, with defaults for all others.

    Args:
        variables: curves of a cycle.
        cycles: cycles that are seen.
        points: points of each curve.
    """

    def __init__(self, variables: int, cycles: int, points: int) -> None:
        super().__init__()
        self.variables = variables
        self.cycles = cycles
        self.points = points

    def prepare(
        self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"], target: Float[Tensor, "b"]
    ) -> None:
        """Take from all cells of the training what is not learnt by gradients; by default nothing.

        It is called once, before the first step, with the scaled videos and the standardised logarithm of life.
        """

    @abstractmethod
    def forward(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> Float[Tensor, "b"]:
        """Return the standardised logarithm of life from the scaled curves and their change since an early cycle."""


class Prediction(NamedTuple):
    """What a network of nodes and elements gives for a sequence of steps.

    Attributes:
        nodes: states of the nodes at the end of each step, ``[b, t, d, *space]``.
        elements: quantities of the elements at the same times, ``[b, t, e, *elements]``, one fewer along each axis.
        memory: what the network needs besides the last state to go on, ``[b, m, *space]``; m may be 0.
    """

    nodes: Tensor
    elements: Tensor
    memory: Tensor


class TransientNetwork(nn.Module, ABC):
    """A map from the states of nodes and what is known of each step to the next states, and to the elements beside.

    A concrete network takes the arguments of `Network` first and by position, with defaults for all others.

    Args:
        in_channels: Channels of the input: state, then what is known of a step, then what does not change.
        out_channels: Channels of the state and of the elements.
        space: Nodes along each axis.
    """

    def __init__(self, in_channels: int, out_channels: tuple[int, int], space: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = (out_channels[0], out_channels[1])
        self.space = tuple(space)

    @property
    @abstractmethod
    def memory_channels(self) -> int:
        """Channels of the memory."""

    @abstractmethod
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
        feedback: Feedback = "exact",
        segment: int = 0,
        joint: Joint = "keep",
    ) -> Prediction:
        """Predict the states at the end of each step and the elements with them.

        Args:
            states: State at the beginning of the first step, or of every step.
            forcing: What is known of every step, such as loads.
            static: What does not change in time, such as supports and material.
            fixed: Where the state is known (supports), for all channels or each: there every step sees `states`, or
                the first state where there is only one.
            fed: For each step whether it sees the prediction of the step before rather than `states`; all but the
                first by default.
            scale: If given, the network predicts the change of the state in these units.
            memory: Memory to go on from; zero by default.
            feedback: Gradient through the fed state: "exact", "detach" (none), or "published", that of the authors'
                code of DeepFEA, which multiplies it by the number of steps by mistake.
            segment: Steps of a segment; 0 takes all steps at once.
            joint: What happens between segments: "recompute" keeps the state and memory there and nothing else, and
                computes each segment again on the way back; "detach" cuts the gradient; "keep" does nothing.
        """
