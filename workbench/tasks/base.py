"""What every task has: training, validation and test by one loss per sample, an optimiser, and a packing."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanMetric

from workbench.data.packing import Packing
from workbench.tasks.optimisation import Optimisation


class Task(pl.LightningModule):
    """A network with what trains it; it is built once the data module, or a weights file, has said what the data are.

    Args:
        optimisation: optimiser and schedule.

    Attributes:
        arguments: of the constructor, from which `workbench.weights` describes the task.
        first_lead: strides from the latest state seen to the first prediction: 1 for forecasts, 0 for diagnoses.
        adds_to_climatology: whether a step needs the climatology at its end.
    """

    network: Any
    arguments: dict[str, Any]
    first_lead = 1
    adds_to_climatology = False

    def __init__(self, optimisation: Optimisation | None = None) -> None:
        super().__init__()
        self.optimisation = optimisation or Optimisation()
        self.packing: Packing | None = None
        self.validation_loss = MeanMetric()
        self.test_loss = MeanMetric()
        self.train_loss = MeanMetric()
        self.train_loss.persistent(True)  # so that a run resumed inside an epoch logs the mean of the whole epoch

    def configure_model(self) -> None:
        """Make the model, before Lightning trains it: on the CPU, so that every device starts from the same weights."""
        if self.packing is None:
            with torch.device("cpu"):
                self.assemble(self.trainer.datamodule)  # type: ignore[attr-defined]

    def assemble(self, data: Any) -> None:
        """Build the network from the data module's packing."""
        self.build(data.packing)

    @abstractmethod
    def build(self, packing: Packing) -> Task:
        """Make the network and normalisers for `packing`; returns self."""

    @abstractmethod
    def sample_losses(self, batch: dict[str, Tensor], training: bool) -> Float[Tensor, "b"]:
        """Loss per sample of a batch in physical units."""

    def on_train_start(self) -> None:
        """Move the mean that a checkpoint brought, and Lightning leaves where it was read, to where it goes on."""
        self.train_loss.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Forget the mean of the epoch before, which a checkpoint at its end still holds."""
        self.train_loss.reset()

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Mean loss of the batch; the log averages over samples, not over batches."""
        losses = self.sample_losses(batch, training=True)
        self.train_loss.update(losses.detach())
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("loss", losses.detach().mean(), prog_bar=True, logger=False)
        return losses.mean()

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Accumulate the validation loss."""
        self.validation_loss.update(self.sample_losses(batch, training=False))
        self.log("validation_loss", self.validation_loss, on_step=False, on_epoch=True, prog_bar=True)

    def test_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Accumulate the test loss."""
        self.test_loss.update(self.sample_losses(batch, training=False))
        self.log("test_loss", self.test_loss, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule of `optimisation` over the whole training."""
        total = self.trainer.datamodule.optimiser_steps(self.trainer)  # type: ignore[attr-defined]
        return self.optimisation.configure(self.parameters(), total, self.trainer.max_epochs or 1)
