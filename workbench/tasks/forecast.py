"""One step of physical time: the task behind every autoregressive surrogate.

A network sees the last `history` states (and forcing, statics, masks) and gives the next state, or the change to it.
Training minimises the loss of one step, or of several steps rolled out, with the gradient through all of them
(``full``) or through the last one only (``pushforward``, Brandstetter, Worrall & Welling 2022, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.data.config import DataConfig
from workbench.data.grid import mean_one_weights
from workbench.data.packing import ChannelGroup, Normaliser, Packing
from workbench.errors import InputError
from workbench.known import Known
from workbench.models.base import Network
from workbench.tasks.base import Task
from workbench.tasks.constraints import Constraints, Invariants
from workbench.tasks.losses import Loss, RelativeL2
from workbench.tasks.optimisation import Optimisation
from workbench.tasks.symmetries import Augmentation, Symmetries

Context = dict[str, Tensor]
"""What a step needs besides the state: normalised `forcing` [b, history + 1, c, *space] and `static` [b, c, *space]."""


class ForecastTask(Task):
    """Forecast the next state of a record from its last states.

    Args:
        network: the network; channels in and out and the grid are supplied from the data.
        loss: distance that is minimised.
        residual: predict the change in units of its training standard deviation, rather than the state itself.
        unroll: gradient of a multi-step loss (``data.horizon`` over 1): through all steps or the last only.
        noise: standard deviation of Gaussian noise added to the normalised input in training; a little (0.003 to
            0.03) makes long rollouts more stable.
        symmetries: of the record's laws: training sees every sample shifted and reflected at random.
        constraints: what no step changes; imposed on every prediction.
        horizons: how many steps of ``data.horizon`` are trained on from an epoch on, ``{0: 1, 8: 4}``: one step is
            learnt before several; by default all from the start.
        optimisation: optimiser and schedule.
    """

    adds_to_climatology = False
    """Whether a step needs the climatology at its end."""

    def __init__(
        self,
        network: Callable[[int, int, tuple[int, ...]], Network],
        loss: Loss | None = None,
        residual: bool = True,
        unroll: Literal["full", "pushforward"] = "full",
        noise: float = 0.0,
        symmetries: Symmetries | None = None,
        constraints: Constraints | None = None,
        horizons: dict[int, int] | None = None,
        optimisation: Optimisation | None = None,
    ) -> None:
        super().__init__(optimisation)
        self.arguments = {
            "network": network,
            "loss": loss,
            "residual": residual,
            "unroll": unroll,
            "noise": noise,
            "symmetries": symmetries,
            "constraints": constraints,
            "horizons": horizons,
            "optimisation": optimisation,
        }
        self.make_network = network
        self.loss = loss or RelativeL2()
        self.residual = residual
        self.unroll = unroll
        self.noise = noise
        self.symmetries = symmetries
        self.constraints = constraints
        self.horizons = checked_horizons(horizons or {})
        self.augmentation: Augmentation | None = None
        self.invariants: Invariants | None = None

    # ------------------------------------------------------------------------------------------ building

    def assemble(self, data: Any) -> None:
        """Build the network from the data module's packing, once its samples are such as the task can train on."""
        self.check_data(data.config)
        super().assemble(data)

    def check_data(self, config: DataConfig) -> None:
        """Refuse samples that the task cannot train on.

        Raises:
            InputError: samples draw their lead time or input delta.
        """
        drawn = [name for name in ("leads", "input_deltas") if getattr(config, name)]
        if drawn:
            raise InputError(
                f"{type(self).__name__} takes one step of data.stride and does not know what data.{drawn[0]} "
                f"{list(getattr(config, drawn[0]))} draws: train a WeatherTask, or leave data.{drawn[0]} out"
            )

    def build(self, packing: Packing) -> ForecastTask:
        """Make the network and normalisers for `packing`; returns self.

        Raises:
            InputError: there is no state variable, or forcing or diagnostic lie on another grid.
        """
        if "state" not in packing.groups:
            raise InputError("ForecastTask needs data.state: at least one variable that is stepped in time")
        for role, group in packing.groups.items():
            if group.shape != packing.space:
                raise InputError(
                    f"ForecastTask needs every variable on the grid of the state {packing.space}; {role} variables "
                    f"{list(group.variables)} lie on {group.shape}"
                )
        self.packing = packing
        self.state_channels = packing.groups["state"].channels
        self.normalisers = torch.nn.ModuleDict({role: Normaliser(group) for role, group in packing.groups.items()})
        outputs = predicted_group(packing)
        self.network = self.made_network(packing)
        axes = [packing.spec.axis(dim) for dim in outputs.space]
        self.network.place(tuple(torch.tensor(axis.values, dtype=torch.float64) for axis in axes))
        self.augmentation = Augmentation(self.symmetries, packing) if self.symmetries else None
        area = torch.from_numpy(mean_one_weights(packing.spec, outputs.space))
        if self.constraints and packing.missing == "mask":
            raise InputError("model constraints need a record without missing values (data.missing: error)")
        self.invariants = Invariants(self.constraints, packing.groups["state"], area) if self.constraints else None
        self.loss.build(outputs, area)
        scale = torch.tensor(packing.groups["state"].tendency_std) / torch.tensor(packing.groups["state"].std)
        self.register_buffer("tendency_scale", scale.reshape(-1, *[1] * len(packing.space)), persistent=False)
        return self

    def made_network(self, packing: Packing) -> Any:
        """The network for the channels and the grid of `packing`."""
        return self.make_network(self.input_channels(packing), predicted_group(packing).channels, packing.space)

    def input_channels(self, packing: Packing) -> int:
        """Channels that the network sees: states, masks of states, forcing around the step, statics."""
        count = packing.history * self.state_channels * (2 if packing.missing == "mask" else 1)
        if "forcing" in packing.groups:
            count += (packing.history + 1) * packing.groups["forcing"].channels
        if "static" in packing.groups:
            count += packing.groups["static"].channels
        return count

    # ------------------------------------------------------------------------------------------ stepping

    def begin(self, window: Float[Tensor, "b h c *space"], context: Context | None) -> Float[Tensor, "b h c *space"]:
        """What a rollout carries before its first step: the last `history` states."""
        return window

    def advance(
        self, window: Float[Tensor, "b h c *space"], context: Context | None = None
    ) -> Float[Tensor, "b d *space"]:
        """One step of physical time on normalised tensors.

        Args:
            window: the last `history` states; NaN where a value is missing (``missing: mask`` only).
            context: normalised forcing around the step and statics.

        Returns:
            the next state, followed by the diagnostic channels; NaN where the last state was missing.
        """
        last = window[:, -1]
        if self.packing is not None and self.packing.missing == "mask":
            valid = torch.isfinite(window)
            window = torch.where(valid, window, 0.0)
            inputs = [window.flatten(1, 2), valid.to(window.dtype).flatten(1, 2)]
        else:
            inputs = [window.flatten(1, 2)]
        if context:
            inputs += [context["forcing"].flatten(1, 2)] if "forcing" in context else []
            inputs += [context["static"]] if "static" in context else []
        out = self.network(torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0])
        state = out[:, : self.state_channels]
        # Adding to the last state also carries its missing points forward.
        state = last + self.tendency_scale * state if self.residual else torch.where(torch.isnan(last), last, state)
        state = self.invariants(last, state) if self.invariants else state
        return torch.cat([state, out[:, self.state_channels :]], 1) if out.shape[1] > self.state_channels else state

    def advance_block(
        self, window: Float[Tensor, "b h c *space"], known: Known, steps: int
    ) -> tuple[dict[str, Tensor], Float[Tensor, "b h c *space"]]:
        """One step of a rollout, whose forecast of each role has a time axis; see `workbench.rollout.Stepper`."""
        out = self.advance(window, self.context(known, 0))[:, None]
        state, more = out[:, :, : self.state_channels], out[:, :, self.state_channels :]
        fields = {"state": state, "diagnostic": more} if more.shape[2] else {"state": state}
        return fields, torch.cat([window[:, 1:], state], 1)

    def context(self, known: Known, step: int) -> Context:
        """The context of step `step` (0-based) cut out of what is known of all steps."""
        context: Context = {}
        if "forcing" in known:
            history = self.packing.history if self.packing else 1
            context["forcing"] = known["forcing"][:, step : step + history + 1]
        if "static" in known:
            context["static"] = known["static"]
        return context

    def normalised(self, batch: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
        """Every role of a batch, normalised; in training mapped by a symmetry that is drawn for each sample."""
        groups = self.packing.groups if self.packing else {}
        found = {role: self.normalisers[role](batch[role]) for role in groups}
        return self.augmentation(found) if training and self.augmentation else found

    def unrolled(self, batch: dict[str, Tensor], training: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of prediction and truth ``[b, c, *space]``, normalised, for each step whose loss counts."""
        if self.packing is None:
            raise RuntimeError("build(packing) comes before the first step")
        history = self.packing.history
        normalised = self.normalised(batch, training)
        window, truth = normalised["state"][:, :history], normalised["state"][:, history:]
        if training and self.noise:
            window = window + self.noise * torch.randn_like(window)
        if "diagnostic" in normalised:
            truth = torch.cat([truth, normalised["diagnostic"][:, history:]], 2)
        if not truth.shape[1]:
            raise InputError("data.horizon is 0, and a forecast has at least one state ahead: set it to 1 or more")
        steps = self.training_steps(truth.shape[1]) if training else truth.shape[1]
        for step in range(steps):
            only_last = training and self.unroll == "pushforward" and step < steps - 1
            with torch.no_grad() if only_last else nullcontext():
                prediction = self.advance(window, self.context(normalised, step))
            if not only_last:
                yield prediction, truth[:, step]
            if step < steps - 1:
                window = torch.cat([window[:, 1:], prediction[:, None, : self.state_channels]], 1)

    # ------------------------------------------------------------------------------------------ training

    def training_steps(self, horizon: int) -> int:
        """How many of the `horizon` steps of a sample this epoch trains on."""
        reached = [epoch for epoch in self.horizons if epoch <= self.current_epoch]
        return min(horizon, self.horizons[max(reached)]) if reached else horizon

    def sample_losses(self, batch: dict[str, Tensor], training: bool) -> Float[Tensor, "b"]:
        """Mean loss over the steps that count, per sample."""
        losses = [self.loss(prediction, truth) for prediction, truth in self.unrolled(batch, training)]
        return torch.stack(losses).mean(0)


def checked_horizons(horizons: dict[int, int]) -> dict[int, int]:
    """The horizons, with numbers for keys.

    Raises:
        InputError: an epoch is negative or a horizon below 1.
    """
    found = {int(epoch): int(steps) for epoch, steps in horizons.items()}
    if any(epoch < 0 or steps < 1 for epoch, steps in found.items()):
        raise InputError(
            f"model horizons {horizons}: expected epochs from 0 with at least 1 step, such as {{0: 1, 8: 4}}"
        )
    return found


def predicted_group(packing: Packing) -> ChannelGroup:
    """State and diagnostic channels as one group: what a forecast network puts out."""
    state, more = packing.groups["state"], packing.groups.get("diagnostic")
    if more is None:
        return state
    joined = {
        name: getattr(state, name) + getattr(more, name)
        for name in ("variables", "levels", "mean", "std", "tendency_std")
    }
    return ChannelGroup(space=state.space, shape=state.shape, **joined)
