"""The LightningDataModule of cells: a record becomes batches of scaled curves with their life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr

from workbench.data.cell_curves import open_cells
from workbench.data.cell_packing import CellPacking
from workbench.data.cell_parts import NOT_SCORED, TRAIN
from workbench.data.cells_config import CellsConfig
from workbench.data.loader import WindowLoader
from workbench.data.order import Shuffle, steps_per_epoch
from workbench.data.reader import WindowReader
from workbench.data.statistics import fingerprint
from workbench.data.windows import Windows


class CellDataModule(pl.LightningDataModule):
    """Cells of one record, split, scaled and batched, all in memory.

    A batch holds ``raw`` and ``change`` ``float32[b, v, n, p]``, ``target`` ``float32[b]`` (standardised logarithm of
    life), ``fold`` and ``batch_fold`` ``float32[b]`` (-1 outside training) and ``index`` ``int64[b]``.

    Every argument is a field of `workbench.data.cells_config.CellsConfig`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.config = CellsConfig(*args, **kwargs)
        self.cells: xr.Dataset | None = None
        self.packing: CellPacking | None = None
        self.loaders: dict[str, WindowLoader] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the cells, split them, and make the packing from those that train."""
        if self.packing is None:
            self.cells = open_cells(self.config)
            self.packing = CellPacking.fit(self.cells, self.config)

    def part(self, train: bool) -> xr.Dataset:
        """The cells that train, or those that are tested."""
        if self.cells is None:
            raise RuntimeError("call setup() before asking for cells")
        part = self.cells["part"].values
        return self.cells.isel(cell=part == TRAIN if train else ~np.isin(part, NOT_SCORED))

    def optimiser_steps(self, trainer: pl.Trainer) -> int:
        """Optimiser steps of a whole training."""
        batches = steps_per_epoch(self.part(train=True).sizes["cell"], self.config.batch_size, trainer.world_size)
        steps = -(-batches // trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
        return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps

    def _arrays(self, train: bool) -> dict[str, np.ndarray]:
        """What batches hold, of all cells that train or are tested."""
        if self.packing is None:
            raise RuntimeError("call setup() before asking for cells")
        cells = self.part(train)
        raw, change = self.packing.pack(cells)
        target = self.packing.standardised(cells["cycle_life"].values)
        arrays = {"raw": raw.numpy(), "change": change.numpy(), "target": target}
        arrays |= {name: cells[name].values for name in ("fold", "batch_fold")}
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    def training_cells(self) -> dict[str, torch.Tensor]:
        """All training cells as one batch."""
        return {name: torch.from_numpy(array) for name, array in self._arrays(train=True).items()}

    def loader(self, train: bool, shuffle: Shuffle) -> WindowLoader:
        """A loader over the cells that train or are tested, which resumes like that of windows."""
        arrays = self._arrays(train)
        number = np.arange(len(arrays["target"]))
        return WindowLoader(
            cast(WindowReader, ResidentReader(arrays)),
            Windows(number, np.zeros_like(number), 1),
            batch_size=self.config.batch_size,
            shuffle=shuffle,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def train_dataloader(self) -> WindowLoader:
        """Training cells in random order."""
        self.loaders["train"] = self.loader(True, "full")
        return self.loaders["train"]

    def val_dataloader(self) -> WindowLoader:
        """Training cells in order: each is judged by the networks that did not see its fold."""
        return self.loader(True, "none")

    def test_dataloader(self) -> WindowLoader:
        """Test cells in order."""
        return self.loader(False, "none")

    def card(self) -> dict[str, Any]:
        """What the report and the weights file say about the data."""
        if self.cells is None or self.packing is None:
            raise RuntimeError("call setup() before asking for the card")
        spec, attrs = self.packing.spec, self.cells.attrs
        train = self.part(train=True)
        counts = Counter(self.cells["part"].values.tolist())
        return {
            "record": self.config.record,
            "title": str(attrs.get("title", "")),
            "licence": str(attrs.get("licence", attrs.get("license", ""))),
            "citation": str(attrs.get("citation", "")),
            "fingerprint": fingerprint(str(self.cells.encoding.get("source", self.config.record))),
            "variables": [
                {"name": v.name, "units": v.units, "long_name": v.long_name, "dims": list(v.dims)}
                for v in spec.variables
            ],
            "axes": [
                {"name": a.name, "units": a.units, "size": len(a.values), "first": a.values[0], "last": a.values[-1]}
                for a in spec.axes
            ],
            "sizes": {str(k): int(v) for k, v in self.cells.sizes.items()},
            "splits": {name: f"{count} cells" for name, count in counts.items()},
            "split": self.config.split,
            "trained_on": train["cell"].values.astype(str).tolist(),
            "policies": sorted(set(train["policy"].values.astype(str).tolist())) if "policy" in train.coords else [],
        }


class ResidentReader:
    """What a `WindowLoader` asks of a reader, over arrays that lie in memory, one row a sample."""

    threads = 0

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.roles = tuple(arrays)

    def buffer_shape(self, role: str, windows: Windows, count: int) -> tuple[int, ...]:
        """Shape of `count` samples."""
        return (count, *self.arrays[role].shape[1:])

    def start(
        self, windows: Windows, indices: np.ndarray, out: Mapping[str, np.ndarray], **_: Any
    ) -> Callable[[], None]:
        """Copy the samples `indices`; there is nothing to wait for."""
        for role, array in self.arrays.items():
            np.take(array, indices, axis=0, out=out[role])
        return lambda: None
