"""Transient finite elements: nodes that are stepped in time by a recurrent network, and elements beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.data.packing import Normaliser, Packing
from workbench.errors import InputError
from workbench.known import Known
from workbench.models.base import Feedback, Joint, TransientNetwork
from workbench.tasks.forecast import Context, ForecastTask
from workbench.tasks.nelo import NELO, BranchLoss
from workbench.tasks.optimisation import Optimisation
from workbench.tasks.symmetries import Augmentation, Symmetries


class TransientTask(ForecastTask):
    """Forecast a structure from its initial state and its loads: nodal state, and stress and strain of the elements.

    ``data.state`` and ``data.forcing`` (loads at the nodes) and ``data.static`` (supports, material) lie on the nodes,
    ``data.diagnostic`` on the elements, one fewer along each axis. A step takes the load at its end. With
    ``data.history`` over 1 the network first passes through the history, and knows the structure's response from it.
    A forecast carries the memory of the network beside the state, as more channels of it.

    Args:
        network: the network; channels in and out and the grid are supplied from the data.
        target: predict the next state, or its change in units of the change's standard deviation.
        supports: state variable -> static variable that is 1 where it is prescribed: ``{displacement_x: support_x}``.
            No prediction takes its place there.
        prescribed: state variable -> forcing variable with its value at the supports; by default what it was before.
        loads: the load at the ``end`` of each step, or at ``both`` its ends.
        nelo: schedule and loss of the training.
        feedback_gradient: ``exact``; ``published`` multiplies the gradient through fed states by the number of
            steps, as the authors' code does by mistake; ``detach`` has none.
        unroll: ``full`` takes the gradient through all steps of a sample, ``pushforward`` (Brandstetter, Worrall &
            Welling, 2022, arXiv:2202.03376, section 3.2) only through those of a segment, which starts from what the
            network made of the steps before.
        segment: steps of a segment; 0 for all. With ``unroll: full``, only the states between segments are kept
            for the way back, and each segment is computed again: memory for a quarter more time.
        symmetries: of the record's laws: training sees every sample shifted and reflected at random.
        optimisation: optimiser and schedule.

    Raises:
        InputError: roles are missing or lie on other grids.
    """

    def __init__(
        self,
        network: Callable[[int, tuple[int, int], tuple[int, ...]], TransientNetwork],
        target: Literal["state", "increment"] = "state",
        supports: dict[str, str] | None = None,
        prescribed: dict[str, str] | None = None,
        loads: Literal["end", "both"] = "end",
        nelo: NELO | None = None,
        feedback_gradient: Feedback = "exact",
        unroll: Literal["full", "pushforward"] = "full",
        segment: int = 0,
        symmetries: Symmetries | None = None,
        optimisation: Optimisation | None = None,
    ) -> None:
        super().__init__(
            network,  # type: ignore[arg-type]
            residual=target == "increment",
            unroll=unroll,
            symmetries=symmetries,
            optimisation=optimisation,
        )
        if unroll == "pushforward" and segment < 1:
            raise InputError(f"unroll: pushforward needs a segment of at least 1 step, found {segment}")
        self.arguments = {
            "network": network,
            "target": target,
            "supports": supports,
            "prescribed": prescribed,
            "loads": loads,
            "nelo": nelo,
            "feedback_gradient": feedback_gradient,
            "unroll": unroll,
            "segment": segment,
            "symmetries": symmetries,
            "optimisation": optimisation,
        }
        self.supports, self.prescribed = supports or {}, prescribed or {}
        self.loads, self.feedback_gradient, self.segment = loads, feedback_gradient, segment
        self.nelo = nelo or NELO()
        self.branches = BranchLoss(self.nelo)
        self.epochs = 0

    # ------------------------------------------------------------------------------------------ building

    def build(self, packing: Packing) -> TransientTask:
        """Make the network and normalisers for `packing`; returns self.

        Raises:
            InputError: a role is missing or lies on another grid, or supports name what is not there.
        """
        check_roles(packing)
        state, elements = packing.groups["state"], packing.groups["diagnostic"]
        self.packing, self.state_channels = packing, state.channels
        self.normalisers = torch.nn.ModuleDict({role: Normaliser(group) for role, group in packing.groups.items()})
        inputs = state.channels + (2 if self.loads == "both" else 1) * packing.groups["forcing"].channels
        inputs += packing.groups["static"].channels if "static" in packing.groups else 0
        self.network = self.make_network(inputs, (state.channels, elements.channels), packing.space)  # type: ignore[arg-type]
        self.augmentation = Augmentation(self.symmetries, packing) if self.symmetries else None
        self.branches.build(state, elements)
        scale = torch.tensor(state.tendency_std) / torch.tensor(state.std)
        self.register_buffer("tendency_scale", scale, persistent=False)
        self.support_channels = self._channels(self.supports, "supports", "static")
        self.prescribed_channels = self._channels(self.prescribed, "prescribed", "forcing")
        return self

    def _channels(self, names: dict[str, str], what: str, role: str) -> list[tuple[int, int]]:
        """Pairs of a channel of the state and a channel of `role`."""
        groups = self.packing.groups if self.packing else {}
        known = groups[role].names() if role in groups else []
        state = groups["state"].names()
        for name, other in names.items():
            if name not in state or other not in known:
                raise InputError(
                    f"model {what} {{{name}: {other}}}: expected a variable of data.state {state} and one of "
                    f"data.{role} {known}"
                )
        return [(state.index(name), known.index(other)) for name, other in names.items()]

    # ------------------------------------------------------------------------------------------ stepping

    def begin(self, window: Float[Tensor, "b h d *space"], context: Context | None) -> Float[Tensor, "b 1 m *space"]:
        """The last state with the memory of a network that has passed through the history.

        Args:
            window: the last `history` states, normalised.
            context: of the first step.
        """
        last, context = window[:, -1], context or {}
        if window.shape[1] > 1:
            memory = self.network(
                window[:, :-1],
                self.known(context["forcing"][:, :-1]),
                context.get("static"),
                fed=[False] * (window.shape[1] - 1),
                scale=self.scale,
            ).memory
        else:
            network: Any = self.network
            memory = last.new_zeros(len(last), network.memory_channels, *last.shape[2:])
        return torch.cat([last, memory], 1)[:, None]

    def advance_block(
        self, window: Float[Tensor, "b 1 m *space"], known: Known, steps: int
    ) -> tuple[dict[str, Tensor], Float[Tensor, "b 1 m *space"]]:
        """All `steps` in one call of the network, since loads and supports are known beforehand.

        One call a step gives the same and takes six times as long in 2D, three in 3D (``benchmarks/deepfea.py``).
        """
        if "forcing" not in known or self.packing is None:
            raise RuntimeError("a structure is rolled out with its loads")
        forcing, static = known["forcing"], known.get("static")
        last, memory = window[:, -1, : self.state_channels], window[:, -1, self.state_channels :]
        forcing = forcing[:, self.packing.history - 1 :][:, : steps + 1]
        fixed = self.fixed(static)
        held = self.at_supports(last, forcing[:, 1:])
        found = self.network(
            last[:, None] if fixed is None else torch.cat([last[:, None], held[:, :-1]], 1),
            self.known(forcing),
            static,
            fixed=fixed,
            scale=self.scale,
            memory=memory,
        )
        state = found.nodes if fixed is None else torch.where(fixed[:, None], held, found.nodes)
        window = torch.cat([state[:, -1], found.memory], 1)[:, None]
        return {"state": state, "diagnostic": found.elements}, window

    def advance(
        self, window: Float[Tensor, "b 1 m *space"], context: Context | None = None
    ) -> Float[Tensor, "b d *space"]:
        """The next state alone; a rollout, which also needs the memory, takes `advance_block`."""
        fields, _ = self.advance_block(window, context or {}, 1)
        return fields["state"][:, 0]

    @property
    def scale(self) -> Tensor | None:
        """Units of the change that the network predicts, if it does."""
        return self.get_buffer("tendency_scale") if self.residual else None

    def known(self, forcing: Float[Tensor, "b t1 k *space"]) -> Float[Tensor, "b t2 j *space"]:
        """What the network sees of the forcing at the ends of the steps."""
        return torch.cat([forcing[:, :-1], forcing[:, 1:]], 2) if self.loads == "both" else forcing[:, 1:]

    def fixed(self, static: Float[Tensor, "b j *space"] | None) -> Bool[Tensor, "b d *space"] | None:
        """Where each channel of the state is prescribed."""
        if not self.support_channels or static is None:
            return None
        flags: Any = self.normalisers["static"]
        found = [torch.zeros_like(static[:, 0], dtype=torch.bool)] * self.state_channels
        for state, channel in self.support_channels:
            found[state] = static[:, channel] > ((0.5 - flags.mean[channel]) / flags.std[channel])
        return torch.stack(found, 1)

    def at_supports(
        self, last: Float[Tensor, "b d *space"], forcing: Float[Tensor, "b t k *space"]
    ) -> Float[Tensor, "b t d *space"]:
        """The state where it is prescribed at the instants of `forcing`, else the last state."""
        held = last[:, None].expand(-1, forcing.shape[1], *last.shape[1:])
        if not self.prescribed_channels:
            return held
        values = list(held.unbind(2))
        physical = self.normalisers["forcing"].inverse(forcing)  # type: ignore[operator]
        state: Any = self.normalisers["state"]
        for channel, other in self.prescribed_channels:
            values[channel] = (physical[:, :, other] - state.mean[channel]) / state.std[channel]
        return torch.stack(values, 2)

    # ------------------------------------------------------------------------------------------ training

    def sample_losses(self, batch: dict[str, Tensor], training: bool) -> Float[Tensor, "b"]:
        """Loss of the steps after the history, per sample; without `training` no step sees the truth."""
        if self.packing is None:
            raise RuntimeError("build(packing) comes before the first step")
        history = self.packing.history
        z = self.normalised(batch, training)
        states, static = z["state"], z.get("static")
        steps = states.shape[1] - 1
        joint: Joint = "detach" if self.unroll == "pushforward" else "recompute"
        fixed = self.fixed(static)
        found = self.network(
            states[:, :-1],
            self.known(z["forcing"]),
            static,
            fixed=fixed,
            fed=self.draw(steps, history, self.probability() if training else 0.0),
            scale=self.scale,
            feedback=self.feedback_gradient,
            segment=self.segment if training else 0,
            joint=joint,
        )
        nodes, truth = found.nodes[:, history - 1 :], states[:, history:]
        if fixed is not None:
            nodes = torch.where(fixed[:, None], truth, nodes)
        truths = (truth, z["diagnostic"][:, history:])
        return self.branches((nodes, found.elements[:, history - 1 :]), truths, training)

    def draw(self, steps: int, history: int, probability: float) -> list[bool]:
        """Which steps see the prediction of the step before: those past the history, unless they draw the truth."""
        drawn = (torch.rand(steps) >= probability).tolist()
        return [bool(fed) and step >= history for step, fed in enumerate(drawn)]

    def probability(self) -> float:
        """Probability that a step of this epoch's training sees the truth."""
        return self.nelo.probability(self.current_epoch, max(1, self.epochs))

    def on_train_start(self) -> None:
        """Scale the schedule to the epochs of this training, unless a checkpoint has said how many they are.

        Raises:
            InputError: the trainer has no number of epochs.
        """
        super().on_train_start()
        if self.epochs == 0:
            epochs = self.trainer.max_epochs
            if epochs is None or epochs < 1:
                raise InputError(
                    f"trainer.max_epochs is {epochs}: the schedule of NELO is scaled to the number of epochs; set it"
                )
            self.epochs = epochs

    def on_train_epoch_start(self) -> None:
        """Log the probability of the epoch."""
        super().on_train_epoch_start()
        self.log("truth_probability", self.probability())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the schedule is scaled to."""
        checkpoint["nelo"] = {"epochs": self.epochs, "probability": self.probability()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same schedule, however many epochs the trainer has now."""
        self.epochs = int(checkpoint["nelo"]["epochs"])


def check_roles(packing: Packing) -> None:
    """Raise InputError unless state, forcing and static lie on the nodes and diagnostic on the elements."""
    for role, what in (
        ("state", "the displacement of the nodes"),
        ("forcing", "the loads"),
        ("diagnostic", "stress or strain of the elements"),
    ):
        if role not in packing.groups:
            raise InputError(f"TransientTask needs data.{role}: {what}")
    elements = tuple(n - 1 for n in packing.space)
    for role, group in packing.groups.items():
        wanted = elements if role == "diagnostic" else packing.space
        if group.shape != wanted:
            raise InputError(
                f"TransientTask needs {role} variables on {wanted} {'elements' if role == 'diagnostic' else 'nodes'}; "
                f"{list(group.variables)} lie on {group.shape}. Choose variables on that grid (node_youngs_modulus "
                "rather than youngs_modulus)"
            )
    if packing.missing == "mask":
        raise InputError("TransientTask works without missing values: fill holes with 0 and set data.missing to error")
