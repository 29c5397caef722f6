"""Fields that follow from others at the same instant: fluxes of what a grid does not resolve, or a finer field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.data.grid import mean_one_weights
from workbench.data.packing import ChannelGroup, Normaliser, Packing
from workbench.errors import InputError
from workbench.models.bodies import PrithviCore
from workbench.models.stored import read_state
from workbench.tasks.base import Task
from workbench.tasks.losses import Loss, WeightedMSE
from workbench.tasks.optimisation import Optimisation
from workbench.tasks.symmetries import Augmentation, Symmetries


class DiagnosisTask(Task):
    """Give ``data.diagnostic`` from ``data.forcing`` and ``data.static`` at the same instant (``data.horizon: 0``).

    With ``data.history`` over 1 the network also sees what was before.

    Args:
        network: the network; channels in and out and the grid are supplied from the data.
        loss: distance that is minimised.
        symmetries: of the record's laws: training sees every sample shifted and reflected at random.
        pretrained: weights file of a Prithvi WxC, whose blocks the network's core takes before training: published
            ones, a checkpoint, or what ``workbench export`` wrote.
        frozen: whether the blocks of the core are left as they are.
        optimisation: optimiser and schedule.

    Raises:
        InputError: roles are missing or lie on other grids, or there is no core to fill or freeze.
    """

    first_lead = 0
    role = "diagnostic"
    """Of what is predicted."""

    def __init__(
        self,
        network: Callable[[int, int, tuple[int, ...]], nn.Module],
        loss: Loss | None = None,
        symmetries: Symmetries | None = None,
        pretrained: str | None = None,
        frozen: bool = False,
        optimisation: Optimisation | None = None,
    ) -> None:
        super().__init__(optimisation)
        self.arguments: dict[str, Any] = {
            "network": network,
            "loss": loss,
            "symmetries": symmetries,
            "pretrained": pretrained,
            "frozen": frozen,
            "optimisation": optimisation,
        }
        self.make_network = network
        self.loss = loss or WeightedMSE()
        self.symmetries, self.pretrained, self.frozen = symmetries, pretrained, frozen
        self.augmentation: Augmentation | None = None

    # ------------------------------------------------------------------------------------------ building

    def assemble(self, data: Any) -> None:
        """Build the network and fill its core."""
        super().assemble(data)
        if self.pretrained is not None:
            self.core().take(read_state(Path(self.pretrained)), self.pretrained)

    def build(self, packing: Packing) -> DiagnosisTask:
        """Make the network and normalisers for `packing`; returns self.

        Raises:
            InputError: a role is missing, or one lies on another grid.
        """
        self.check(packing)
        self.packing = packing
        self.normalisers = nn.ModuleDict({role: Normaliser(group) for role, group in packing.groups.items()})
        self.network = self.made(packing)
        outputs = packing.groups[self.role]
        self.augmentation = Augmentation(self.symmetries, packing) if self.symmetries else None
        self.loss.build(outputs, torch.from_numpy(mean_one_weights(packing.spec, outputs.space)))
        if self.frozen:
            for parameter in self.core().blocks().values():
                parameter.requires_grad_(False)
        return self

    def check(self, packing: Packing) -> None:
        """Raise InputError where the roles are not those of a diagnosis."""
        groups = packing.groups
        if "state" in groups or "forcing" not in groups or self.role not in groups:
            raise InputError(
                "DiagnosisTask gives data.diagnostic from data.forcing (and data.static), found "
                f"{', '.join(f'data.{role}' for role in groups)}: nothing is stepped in time"
            )
        if packing.coarsen > 1:
            raise InputError(f"data.coarsen is {packing.coarsen}: downscaling is done by DownscalingTask")
        refuse_other_grids(type(self).__name__, groups, packing)

    def made(self, packing: Packing) -> nn.Module:
        """The network."""
        groups = packing.groups
        inputs = packing.history * groups["forcing"].channels
        inputs += groups["static"].channels if "static" in groups else 0
        network = self.make_network(inputs, groups[self.role].channels, packing.space)
        axes = [packing.spec.axis(dim) for dim in groups[self.role].space]
        network.place(tuple(torch.tensor(axis.values, dtype=torch.float64) for axis in axes))  # type: ignore[operator]
        return network

    def core(self) -> PrithviCore:
        """The core of the network.

        Raises:
            InputError: it has none.
        """
        body = getattr(self.network, "body", None)
        if not isinstance(body, PrithviCore):
            raise InputError(
                f"model pretrained and frozen are about the core of Prithvi WxC, and {type(self.network).__name__} has "
                "none: set its body to PrithviCore"
            )
        return body

    # ------------------------------------------------------------------------------------------ diagnosing

    @property
    def inputs(self) -> tuple[str, ...]:
        """The roles that are seen."""
        groups = self.packing.groups if self.packing else {}
        return tuple(role for role in groups if role != "diagnostic")

    def estimate(self, fields: dict[str, Tensor]) -> Float[Tensor, "b d *space"]:
        """What is predicted, normalised, from the normalised roles that are seen.

        Args:
            fields: role -> ``[b, h, c, *space]``; static ``[b, c, *space]``.
        """
        seen = [fields["forcing"].flatten(1, 2)]
        seen += [fields["static"]] if "static" in fields else []
        found: Tensor = self.network(torch.cat(seen, 1))
        return found

    def diagnose(self, fields: dict[str, Tensor]) -> Float[Tensor, "b d *space"]:
        """What is predicted, in physical units, from the roles that are seen in physical units."""
        normalised = {role: self.normalisers[role](fields[role]) for role in self.inputs}
        found: Tensor = self.normalisers[self.role].inverse(self.estimate(normalised))  # type: ignore[operator]
        return found

    # ------------------------------------------------------------------------------------------ training

    def sample_losses(self, batch: dict[str, Tensor], training: bool) -> Float[Tensor, "b"]:
        """Loss at the last instant of a sample.

        Raises:
            InputError: samples reach past what is seen.
        """
        if self.packing is None:
            raise RuntimeError("build(packing) comes before the first step")
        length = batch[self.role].shape[1]
        if length != self.packing.history:
            raise InputError(
                f"{type(self).__name__} gives fields at the instants that it sees: set data.horizon: 0, found "
                f"{length - self.packing.history}"
            )
        fields = {role: self.normalisers[role](batch[role]) for role in self.packing.groups}
        fields = self.augmentation(fields) if training and self.augmentation else fields
        return self.loss(self.estimate(fields), fields[self.role][:, -1])


def refuse_other_grids(task: str, groups: dict[str, ChannelGroup], packing: Packing) -> None:
    """Raise InputError where a role lies on another grid than the first."""
    for role, group in groups.items():
        if group.shape != packing.space:
            raise InputError(
                f"{task} needs every variable on one grid {packing.space}; {role} variables {list(group.variables)} "
                f"lie on {group.shape}"
            )
    if packing.missing == "mask":
        raise InputError(f"{task} needs a record without missing values (data.missing: error)")
