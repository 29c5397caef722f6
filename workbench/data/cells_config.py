"""What an experiment on the life of cells says about its data: its `data:` section, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workbench.errors import InputError

LEAKY = "leaky_windows"


@dataclass(frozen=True)
class CellsConfig:
    """Which record, which curves of which cycles are seen, and how cells are split.

    Args:
        record: a recipe (``battery_ageing/tiny``), a Zarr store, a NetCDF file or an address, laid out ``(cell, cycle,
            voltage)`` and ``(cell, cycle, capacity_ratio)``.
        variables: curves that the network sees; ``incremental_capacity`` (dQ/dV) follows from ``discharge_capacity``.
        points: nodes that every curve is resampled to, evenly spaced over its axis.
        first_cycle: number of the first cycle that is seen; 2 by default, since the first is often cut short.
        cycles: number of the last cycle that is seen.
        reference: number of the cycle that the second stream takes differences from, averaged with its neighbours; by
            default cycle 10, or half of `cycles` where that is less.
        split: ``severson`` (the record's own labels ``train``, ``test1``, ``test2``), ``cell`` (cells at random),
            ``policy`` (whole charging policies at random), or ``leaky_windows``, which cuts every cell into windows and
            deals these out at random: its scores say nothing of new cells, and stand only for comparison.
        test_fraction: share of the cells, policies or windows that are tested where the split is drawn.
        every: cycles between the first cycles of two windows of ``leaky_windows``.
        folds: groups that training cells are cut into, whole policies each, for cross-validation and intervals.
        seed: of the split that is drawn.
        batch_size: cells per batch.
    """

    record: str
    variables: tuple[str, ...] = ("discharge_capacity", "incremental_capacity")
    points: int = 100
    first_cycle: int = 2
    cycles: int = 20
    reference: int | None = None
    split: Literal["severson", "cell", "policy", "leaky_windows"] = "severson"
    test_fraction: float = 0.3
    every: int = 5
    folds: int = 5
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to learn from."""
        least = {"points": 8, "first_cycle": 1, "every": 1, "folds": 2, "batch_size": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InputError(f"data.{name} is {getattr(self, name)}: expected at least {minimum}")
        if not self.variables or len(set(self.variables)) < len(self.variables):
            raise InputError(f"data.variables is {list(self.variables)}: expected at least one curve, each once")
        if self.frames < 3:
            raise InputError(
                f"data.cycles is {self.cycles} with data.first_cycle {self.first_cycle}: {max(self.frames, 0)} cycles "
                "are too few to see a cell change; take at least 3"
            )
        if not 0 < self.test_fraction < 1:
            raise InputError(f"data.test_fraction is {self.test_fraction}: expected a share between 0 and 1")
        if not self.first_cycle <= self.reference_cycle <= self.cycles:
            raise InputError(
                f"data.reference is cycle {self.reference_cycle}, and cycles {self.first_cycle} to {self.cycles} are "
                "seen: name one of them"
            )

    @property
    def frames(self) -> int:
        """Cycles that are seen."""
        return self.cycles - self.first_cycle + 1

    @property
    def reference_cycle(self) -> int:
        """Number of the cycle that differences are taken from."""
        if self.reference is not None:
            return self.reference
        return max(min(10, self.cycles // 2), self.first_cycle)

    @property
    def leaky(self) -> bool:
        """Whether windows of one cell may lie in training and test."""
        return self.split == LEAKY
