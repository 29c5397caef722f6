"""The LightningDataModule: a record becomes batches for training, validation and test."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import xarray as xr

from workbench.data.climatology_reader import ClimatologyReader
from workbench.data.climatology_store import open_climatology, training_climatology
from workbench.data.config import FIT, DataConfig
from workbench.data.derived import is_derived
from workbench.data.loader import WindowLoader
from workbench.data.order import Shuffle, steps_per_epoch
from workbench.data.packing import Packing
from workbench.data.reader import WindowReader
from workbench.data.spec import segments
from workbench.data.statistics import Statistics, fingerprint, training_statistics
from workbench.data.store import open_data
from workbench.data.windows import Part, Windows, parts, sample_windows


class RecordDataModule(pl.LightningDataModule):
    """Windows of one record, split, normalised and batched.

    Every argument is a field of `workbench.data.config.DataConfig`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # nodes share their file systems
        self.config = DataConfig(*args, **kwargs)
        self.dataset: xr.Dataset | None = None
        self.packing: Packing | None = None
        self.statistics: Statistics | None = None
        self.climatology: xr.Dataset | None = None
        self.parts: dict[str, Part] = {}
        self.reader: WindowReader | None = None
        self.climatology_reader: ClimatologyReader | None = None
        self.loaders: dict[str, WindowLoader] = {}

    def prepare_data(self) -> None:
        """Compute the statistics (and where asked the climatology) of the training split once, on one process."""
        dataset = open_data(self.config)
        train = parts(dataset, self.config)["train"]
        training_statistics(dataset, self.config, train, progress=True)
        if self.config.climatology == FIT:
            training_climatology(dataset, self.config, train)

    def setup(self, stage: str | None = None) -> None:
        """Open the record, lay out the splits and make the packing."""
        if self.packing is not None:
            return
        self.dataset = open_data(self.config)
        self.parts = parts(self.dataset, self.config)
        self.statistics = training_statistics(self.dataset, self.config, self.parts["train"])
        if self.config.climatology is not None:
            self.climatology = open_climatology(self.dataset, self.config, self.parts)
        self.packing = Packing.fit(self.dataset, self.config, self.statistics, self.climatology)

    def windows(self, part: str) -> Windows:
        """The samples of one part."""
        if self.dataset is None:
            raise RuntimeError("call setup() before asking for windows")
        return sample_windows(self.dataset, self.parts[part], self.config)

    def optimiser_steps(self, trainer: pl.Trainer) -> int:
        """Optimiser steps of a whole training.

        Lightning's own estimate sets up the training loader before a checkpoint is restored, and then never gives it
        the place where the checkpoint left it.
        """
        batches = steps_per_epoch(len(self.windows("train")), self.config.batch_size, trainer.world_size)
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * (1.0 if limit is None else limit))
        steps = -(-batches // trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
        return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps

    def loader(self, part: str, shuffle: Shuffle) -> WindowLoader:
        """A loader over one part, sharded over the ranks of the trainer."""
        if self.dataset is None:
            raise RuntimeError("call setup() before asking for a loader")
        trainer, memory = self.trainer, self.config.cache * 2**20
        if self.climatology is not None and self.climatology_reader is None:
            memory //= 2
            self.climatology_reader = ClimatologyReader(
                self.climatology,
                self.config.state,
                self.dataset["time"],
                self.config.history,
                threads=self.config.threads,
                cache_bytes=memory,
            )
        if self.reader is None:  # one for all parts, so that decoded steps are kept in memory once
            self.reader = WindowReader(
                self.dataset,
                self.config.roles(),
                crop=self.config.crop,
                threads=self.config.threads,
                cache_bytes=memory,
            )
        return WindowLoader(
            self.reader,
            self.windows(part),
            batch_size=self.config.batch_size,
            shuffle=shuffle,
            seed=0,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            missing=self.config.missing,
            damaged="stop" if part == "test" else self.config.damaged,
            climatology=self.climatology_reader,
        )

    def train_dataloader(self) -> WindowLoader:
        """Shuffled windows of the training part."""
        self.loaders["train"] = self.loader("train", self.config.shuffle)
        return self.loaders["train"]

    def val_dataloader(self) -> WindowLoader:
        """Windows of the validation part, in order."""
        self.loaders["validation"] = self.loader("validation", "none")
        return self.loaders["validation"]

    def test_dataloader(self) -> WindowLoader:
        """Windows of the test part, in order."""
        return self.loader("test", "none")

    def card(self) -> dict[str, Any]:
        """What the report and the weights file say about the data."""
        if self.dataset is None or self.packing is None or self.statistics is None:
            raise RuntimeError("call setup() before asking for the card")
        spec = self.packing.spec
        source = str(self.dataset.encoding.get("source", self.config.record))
        return {
            "record": self.config.record,
            "title": str(self.dataset.attrs.get("title", "")),
            "licence": str(self.dataset.attrs.get("licence", self.dataset.attrs.get("license", ""))),
            "citation": str(self.dataset.attrs.get("citation", "")),
            "fingerprint": fingerprint(source),
            "variables": [
                {"name": v.name, "units": v.units, "long_name": v.long_name, "dims": list(v.dims)}
                for v in spec.variables
            ],
            "axes": [
                {"name": a.name, "units": a.units, "size": len(a.values), "first": a.values[0], "last": a.values[-1]}
                for a in spec.axes
            ],
            "time_step": spec.time_step,
            "time_units": spec.time_units,
            "sizes": {str(k): int(v) for k, v in self.dataset.sizes.items()},
            "runs": len(segments(self.dataset, "split")) if "time" in self.dataset.dims else 1,
            "splits": {name: part.label(self.dataset) for name, part in self.parts.items()},
            "statistics": {
                name: {"mean": s.mean, "std": s.std, "minimum": s.minimum, "maximum": s.maximum}
                for name, s in self.statistics.variables.items()
                if not is_derived(self.dataset[name])
            },
            "climatology": self._climatology_card(),
            "statistics_period": self.statistics.period,
        }

    def _climatology_card(self) -> dict[str, str]:
        """Where the climatology lies, and what it was fitted on; empty where there is none."""
        if self.climatology is None:
            return {}
        period = str(self.climatology.attrs.get("fit_period", ""))
        return {"record": str(self.climatology.encoding.get("source", "")), "period": period}
