"""The life of a cell from its first cycles: an ensemble of small networks, and the folds that say how far off it is.

All networks are trained in one run. `members` of them see every training cell; for each fold of the training cells,
whole policies together, `members` more see all but that fold, and so for folds of whole batches, where there are two
or more. What these make of the cells they have not seen is the cross-validated error, and from it follow prediction
intervals (`workbench.conformal`): a checkpoint holds both. Only the scaling is fitted on all training cells, the fold
included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from workbench.data.cell_packing import CellPacking
from workbench.errors import InputError
from workbench.models.base import CellNetwork
from workbench.models.fpnn import average_cycles
from workbench.tasks.base import Task
from workbench.tasks.network_ensemble import NetworkEnsemble
from workbench.tasks.optimisation import Optimisation

ALL = -1
"""The fold that is left out by networks that see every training cell; that of a test cell."""

SEEDS = 1000
"""More than an ensemble has members, so that no two values of ``seed_everything`` have one in common."""

BY_POLICY, BY_BATCH = ("residuals", "folds", "fold"), ("batch_residuals", "batch_folds", "batch_fold")
"""Where policies or batches of cells are left out: residuals and folds in the checkpoint, and folds in a batch."""


class LifetimeTask(Task):
    """Predict the cycle life of cells from curves of their first cycles.

    Args:
        network: the network; number of variables, cycles and points are supplied from the data.
        members: networks of the ensemble; the prediction is their geometric mean.
        noise: standard deviations of Gaussian noise added in training to the scaled curves and to their change.
        depth_penalty: added to the loss of a network for each of its blocks that count, where it learns its depth.
        optimisation: optimiser and schedule.

    Source: Jiang et al. (2024), arXiv:2401.16102, for the two streams.
    """

    packing: CellPacking | None  # type: ignore[assignment]
    network: NetworkEnsemble
    held_out: Tensor

    def __init__(
        self,
        network: Callable[[int, int, int], CellNetwork],
        members: int = 5,
        noise: tuple[float, float] = (0.02, 0.05),
        depth_penalty: float = 0.0,
        optimisation: Optimisation | None = None,
    ) -> None:
        super().__init__(optimisation)
        self.arguments: dict[str, Any] = {
            "network": network,
            "members": members,
            "noise": noise,
            "depth_penalty": depth_penalty,
            "optimisation": optimisation,
        }
        self.make_network, self.members, self.noise, self.depth_penalty = network, members, noise, depth_penalty

    # ------------------------------------------------------------------------------------------ building

    def build(self, packing: CellPacking) -> LifetimeTask:  # type: ignore[override]
        """Make the networks, and room for what is learnt of the training cells; returns self.

        Member `k` starts from the same weights in every fold, and from others with another ``seed_everything``.
        """
        self.packing = packing
        folds = torch.arange(ALL, packing.folds + packing.batch_folds)
        first = SEEDS * (torch.initial_seed() % 2**32)
        seeds = [first + k for k in range(self.members)] * len(folds)
        self.network = NetworkEnsemble(lambda: self.make_network(*packing.shape), seeds)
        self.register_buffer("held_out", folds.repeat_interleave(self.members), persistent=False)
        # In the network, so that every weights file has them.
        for residuals, known, _ in self._kinds():
            self.network.register_buffer(residuals, torch.full((packing.training,), torch.nan, dtype=torch.float64))
            self.network.register_buffer(known, torch.zeros(packing.training, dtype=torch.int64))
        self.network.register_buffer("signatures", torch.zeros(packing.training, signature_size(packing)))
        return self

    def _kinds(self) -> tuple[tuple[str, str, str], ...]:
        """Of each way to leave out cells: its buffers of residuals and folds, and where a batch holds the fold."""
        by_batch = self.packing is not None and self.packing.batch_folds > 0
        return (BY_POLICY, BY_BATCH) if by_batch else (BY_POLICY,)

    # ------------------------------------------------------------------------------------------ training

    def estimates(
        self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"], training: bool = False
    ) -> Float[Tensor, "m b"]:
        """Standardised logarithm of life by every network; in training with noise, another for each network.

        Noise is added to what a network sees, that is, after cycles were averaged where it averages them.
        """
        both = [raw, change]
        if training:
            both = [average_cycles(x, self.network.frames) for x in both]
        both = [x.expand(self.network.count, *x.shape) for x in both]
        if training:
            both = [x + s * torch.randn_like(x) for x, s in zip(both, self.noise, strict=True)]
        found: Tensor = self.network(*both)
        return found

    def sample_losses(self, batch: dict[str, Tensor], training: bool) -> Float[Tensor, "b"]:
        """Loss per sample, averaged over the networks that count.

        In training these are all that do not leave out the sample's fold, weighed so that the mean over the batch is
        the mean over networks of what each would minimise alone. Otherwise they are those that do leave it out; of a
        test cell, those that saw every training cell.
        """
        return self._losses(self.estimates(batch["raw"], batch["change"], training), batch, training)

    def _losses(self, found: Float[Tensor, "m b"], batch: dict[str, Tensor], training: bool) -> Float[Tensor, "b"]:
        losses = functional.smooth_l1_loss(found, batch["target"].expand_as(found), reduction="none")
        if training:
            seen = (~self._left_out(batch)).to(losses.dtype)
            share = seen * (found.shape[1] / seen.sum(1, keepdim=True).clamp_min(1)) / self.network.count
        else:
            unseen = self.held_out[:, None] == batch["fold"].to(torch.int64)
            share = unseen / unseen.sum(0).clamp_min(1)
        return (losses * share).sum(0)

    def _left_out(self, cells: dict[str, Tensor]) -> Bool[Tensor, "m b"]:
        """Which networks leave out which training cells: for their policy, or for their batch."""
        folds = torch.stack([cells[label] for _, _, label in self._kinds()]).to(torch.int64)
        return (self.held_out[:, None] == folds[:, None]).any(0)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """The sum over networks of what each minimises: none takes a smaller step because there are others."""
        loss = super().training_step(batch, batch_index) * self.network.count
        return loss + self.depth_penalty * self.network.depths().sum() if self.depth_penalty else loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient of each network by its own norm."""
        if not gradient_clip_val:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        scale = (gradient_clip_val / (norms + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))

    # ------------------------------------------------------------------------------------------ calibration

    def on_fit_start(self) -> None:
        """Refuse trainings that would end without residuals of their last state, and prepare the networks.

        A training that is resumed prepares them again, to the same values.

        Raises:
            InputError: there are several devices, or no validation comes at the end.
        """
        every, epochs = self.trainer.check_val_every_n_epoch or 1, self.trainer.max_epochs or 1
        if self.trainer.world_size > 1:
            raise InputError("networks on the life of cells are small and train on one device: set trainer.devices: 1")
        if epochs > 0 and epochs % every:
            raise InputError(
                f"trainer.max_epochs is {epochs} and trainer.check_val_every_n_epoch {every}: the last epoch must be "
                "validated, since intervals are made from its residuals; make one a multiple of the other"
            )
        cells: dict[str, Tensor] = self.trainer.datamodule.training_cells()  # type: ignore[attr-defined]
        cells = {name: values.to(self.device) for name, values in cells.items()}
        for number, seen in enumerate(~self._left_out(cells)):
            self.network.prepare(number, *(cells[name][seen] for name in ("raw", "change", "target")))

    def on_validation_epoch_start(self) -> None:
        """Begin to collect what networks make of cells that they have not seen."""
        self._collected: list[dict[str, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Accumulate the cross-validated loss and what intervals and flags are made from."""
        found = self.estimates(batch["raw"], batch["change"])
        self.validation_loss.update(self._losses(found, batch, training=False))
        self.log("validation_loss", self.validation_loss, on_step=False, on_epoch=True, prog_bar=True)
        means, scale = self.fold_means(found), self.packing.log_std if self.packing else 1.0
        kept = {"index": batch["index"], "signatures": signature(batch["raw"], batch["change"])}
        for residuals, folds, label in self._kinds():
            kept[folds] = batch[label].to(torch.int64)
            unseen = means.gather(0, kept[folds][None] - ALL)[0]
            kept[residuals] = scale * (batch["target"] - unseen).double()
        self._collected.append(kept)

    def on_validation_epoch_end(self) -> None:
        """Keep residuals (logarithm of life), folds and signatures of the training cells with the weights."""
        found = {name: torch.cat([part[name] for part in self._collected]) for name in self._collected[0]}
        index = found.pop("index")
        for name, values in found.items():
            self.network.get_buffer(name)[index] = values
        if self.depth_penalty:
            with torch.no_grad():
                self.log("depth", self.network.depths().mean())

    def fold_means(self, estimates: Float[Tensor, "m b"]) -> Float[Tensor, "g b"]:
        """Mean over members: of the networks that see every cell, then of those of each fold in turn."""
        return estimates.unflatten(0, (-1, self.members)).mean(1)

    # ------------------------------------------------------------------------------------------ predicting

    def predict_log_life(self, raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> np.ndarray:
        """Logarithm of life ``float64[network, b]``: of every network, in the order of `held_out`."""
        if self.packing is None:
            raise RuntimeError("build(packing) comes before a prediction")
        with torch.inference_mode():
            found = torch.cat([self.estimates(*pair) for pair in zip(raw.split(16), change.split(16), strict=True)], 1)
        return self.packing.log_life(found.double().cpu().numpy())


SIGNATURE_STEPS, SIGNATURE_POINTS = 2, 10


def signature_size(packing: CellPacking) -> int:
    """Numbers in the signature of a cell."""
    return 2 * len(packing.variables) * SIGNATURE_STEPS * SIGNATURE_POINTS


def signature(raw: Float[Tensor, "b v n p"], change: Float[Tensor, "b v n p"]) -> Float[Tensor, "b k"]:
    """A cell in few numbers: both streams, averaged over halves of the cycles and tenths of the axis."""
    pooled = [functional.adaptive_avg_pool2d(x, (SIGNATURE_STEPS, SIGNATURE_POINTS)).flatten(1) for x in (raw, change)]
    return torch.cat(pooled, 1)
