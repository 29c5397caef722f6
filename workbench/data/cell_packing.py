"""Cells <-> tensors: scaled curves, their change since a reference cycle, and the logarithm of life; exact inverse.

A `CellPacking` is fitted on training cells alone and travels inside every checkpoint, so that a checkpoint alone turns
curves in physical units into a number of cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench.data.battery import CELL
from workbench.data.cell_curves import spec_of, video
from workbench.data.cell_parts import TRAIN, batch_folds, batches_of
from workbench.data.cells_config import CellsConfig
from workbench.data.spec import RecordSpec
from workbench.errors import InputError

CLIP = 8.0
"""Changes beyond so many standard deviations are cut."""

LEAST_SPREAD = 1e-2
"""Share of a variable's spread below which a node counts as constant: its noise must not be blown up."""

UNLIKE_SIZE = 8.0
"""A curve whose size is off the training cells' by this factor is in other units."""


@dataclass(frozen=True)
class CellPacking:
    """How cells become tensors and back.

    Attributes:
        spec: variables and the nodes of their axes.
        first_cycle, cycles, reference: numbers of the first and last cycle seen, and of the one changes are taken from.
        mean, std: of each variable and node over training cells and cycles.
        change_std: of each variable's change since the reference cycle.
        log_mean, log_std: of the logarithm of life.
        size: largest value of each variable, median over training cells.
        training: number of training cells.
        folds: groups of them by policy.
        batches: names of their batches.
        batch_folds: groups of them by batch; 0 where there are not two batches.
    """

    spec: RecordSpec
    first_cycle: int
    cycles: int
    reference: int
    mean: tuple[tuple[float, ...], ...]
    std: tuple[tuple[float, ...], ...]
    change_std: tuple[float, ...]
    log_mean: float
    log_std: float
    size: tuple[float, ...]
    training: int
    folds: int
    batches: tuple[str, ...] = ()
    batch_folds: int = 0

    @classmethod
    def fit(cls, cells: xr.Dataset, config: CellsConfig) -> CellPacking:
        """Make the packing of an experiment from its training cells.

        Raises:
            InputError: all of them have one life.
        """
        train = cells.isel({CELL: cells["part"].values == TRAIN})
        seen = video(train, config.variables).astype(np.float64)
        std = seen.std((0, 2))
        spread = np.sqrt((std**2).mean(1, keepdims=True))
        change = seen - seen[:, :, around(config.reference_cycle - config.first_cycle)].mean(2, keepdims=True)
        life = np.log(train["cycle_life"].values.astype(np.float64))
        if life.std() == 0:
            raise InputError(f"all {len(life)} training cells have a life of {np.exp(life[0]):g} cycles")
        return cls(
            spec_of(cells, config.variables),
            config.first_cycle,
            config.cycles,
            config.reference_cycle,
            tuple(map(tuple, seen.mean((0, 2)).tolist())),
            tuple(map(tuple, np.where(std > LEAST_SPREAD * spread, std, spread + (spread == 0)).tolist())),
            tuple(float(s) or 1.0 for s in change.std((0, 2, 3))),
            float(life.mean()),
            float(life.std()),
            tuple(np.median(np.abs(seen).max((2, 3)), 0).tolist()),
            len(life),
            config.folds,
            tuple(sorted(set(batches_of(train).tolist()) - {""})),
            batch_folds(train),
        )

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the curves, in tensor order."""
        return tuple(v.name for v in self.spec.variables)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Variables, cycles and points of a video."""
        return len(self.variables), self.cycles - self.first_cycle + 1, len(self.mean[0])

    def check(self, cells: xr.Dataset, where: str) -> None:
        """Compare cells with those that the packing was made for.

        Raises:
            InputError: variables, units, axes or cycles differ, or numbers are of another size.
        """
        self.spec.require(spec_of(cells, self.variables), where)
        seen = np.abs(video(cells, self.variables))
        for name, size, found in zip(self.variables, self.size, np.median(seen.max((2, 3)), 0), strict=True):
            if size and not 1 / UNLIKE_SIZE < found / size < UNLIKE_SIZE:
                raise InputError(
                    f"{name} in {where} reaches {found:.4g} {self.spec.variable(name).units}, that of the training "
                    f"cells {size:.4g}: other cells, or other units (mAh for Ah, A for a C-rate)"
                )

    def of_new_batch(self, cells: xr.Dataset) -> np.ndarray:
        """Which cells are of no batch that trained, ``bool[cell]``: cells without a batch too, if training had some."""
        return ~np.isin(batches_of(cells), self.batches) if self.batches else np.zeros(cells.sizes[CELL], bool)

    def scaled(self, videos: Float[Tensor, "b v n p"]) -> Float[Tensor, "b v n p"]:
        """Curves in units of the standard deviation of each variable and node."""
        mean, std = (self._column(values) for values in (self.mean, self.std))
        return (videos - mean) / std

    def physical(self, raw: Float[Tensor, "b v n p"]) -> Float[Tensor, "b v n p"]:
        """The inverse of `scaled`."""
        mean, std = (self._column(values) for values in (self.mean, self.std))
        return raw * std + mean

    def change(self, raw: Float[Tensor, "b v n p"]) -> Float[Tensor, "b v n p"]:
        """Change of scaled curves since the reference cycle, in units of its standard deviation, cut at ±8.

        The reference is the mean of that cycle and its neighbours, since its noise would be in every difference.
        """
        reference = raw[:, :, around(self.reference - self.first_cycle)].mean(2, keepdim=True)
        ratio = self._column(self.std) / torch.tensor(self.change_std)[:, None, None]
        return ((raw - reference) * ratio).clamp(-CLIP, CLIP)

    @staticmethod
    def _column(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[:, None]

    def pack(self, cells: xr.Dataset) -> tuple[Tensor, Tensor]:
        """Scaled curves and their change, each ``float32[cell, variable, cycle, point]``."""
        raw = self.scaled(torch.from_numpy(video(cells, self.variables)))
        return raw, self.change(raw)

    def standardised(self, life: np.ndarray) -> np.ndarray:
        """Logarithm of life in cycles, mean 0 and standard deviation 1 over training cells, float64."""
        return (np.log(life) - self.log_mean) / self.log_std

    def log_life(self, standardised: np.ndarray) -> np.ndarray:
        """Logarithm of life in cycles from its standardised value, float64."""
        return self.log_mean + self.log_std * np.asarray(standardised, np.float64)

    def life(self, standardised: np.ndarray) -> np.ndarray:
        """Life in cycles, the inverse of `standardised`."""
        return np.exp(self.log_life(standardised))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: the inverse of `from_dict`."""
        return {"kind": "cells", **self.__dict__, "spec": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> CellPacking:
        """Rebuild the packing that `to_dict` wrote."""
        found: dict[str, Any] = {key: value for key, value in plain.items() if key != "kind"}
        found |= {name: tuple(map(tuple, plain[name])) for name in ("mean", "std")}
        found |= {name: tuple(plain.get(name, ())) for name in ("change_std", "size", "batches")}
        return cls(**{**found, "spec": RecordSpec.from_dict(plain["spec"])})


def around(place: int) -> slice:
    """A place along an axis and its neighbours."""
    return slice(max(place - 1, 0), place + 2)
