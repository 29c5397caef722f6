"""The part and the fold of every cell of an experiment; windows of cells, where the split that leaks is asked for."""

from __future__ import annotations

import numpy as np
import xarray as xr

from workbench.data import cell_splits
from workbench.data.battery import CELL, CYCLE
from workbench.data.cells_config import CellsConfig
from workbench.errors import InputError

TRAIN, CENSORED, UNUSED = "train", "censored", "unused"
NOT_SCORED = (TRAIN, CENSORED, UNUSED)


def labelled(cells: xr.Dataset, config: CellsConfig) -> xr.Dataset:
    """The cells with coordinates ``part`` (``train``, ``test`` ..., ``censored``, ``unused``) and their folds.

    ``fold`` of a training cell is that of its policy, and ``batch_fold``, counted on from there, that of its batch,
    where all have one and they are two or more; -1 elsewhere.

    Raises:
        InputError: lives, labels or policies are missing, a part is empty, or one cell lies in two parts.
    """
    if "cycle_life" not in cells.coords:
        raise InputError(f"{cells.encoding.get('source', 'the record')} has no cycle_life(cell): nothing to learn from")
    known = np.flatnonzero(np.isfinite(cells["cycle_life"].values))
    part = np.full(cells.sizes[CELL], UNUSED, dtype="<U16")
    for name, places in _parts(cells.isel({CELL: known}), config).items():
        part[known[places]] = name
    part[~np.isfinite(cells["cycle_life"].values)] = CENSORED
    cells = cells.assign_coords(part=(CELL, part))
    if not config.leaky:
        _refuse_duplicates(cells)
    train, fold, batch_fold = part == TRAIN, np.full(len(part), -1), np.full(len(part), -1)
    groups = cells[CELL if config.leaky else "policy"].values[train].astype(str)
    fold[train] = _folds(groups, config.folds, config.seed)
    batches = batches_of(cells)[train]
    count = min(config.folds, len(set(batches)))
    if count > 1 and all(batches) and not config.leaky:
        batch_fold[train] = config.folds + _folds(batches, count, config.seed)
    return cells.assign_coords(fold=(CELL, fold), batch_fold=(CELL, batch_fold))


def _folds(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Fold of every cell, ``int[cell]``, whole groups together."""
    fold = np.empty(len(groups), int)
    for number, (_, held_out) in enumerate(cell_splits.policy_folds(groups.tolist(), count, seed)):
        fold[held_out] = number
    return fold


def batch_folds(cells: xr.Dataset) -> int:
    """Folds of whole batches among the training cells; 0 where there are not two batches."""
    return len(set(cells["batch_fold"].values.tolist()) - {-1})


def batches_of(cells: xr.Dataset) -> np.ndarray:
    """Batch of every cell, ``str[cell]``; empty where the record names none."""
    if "batch" not in cells.coords:
        return np.full(cells.sizes[CELL], "")
    return cells["batch"].values.astype(str)


def _parts(cells: xr.Dataset, config: CellsConfig) -> dict[str, np.ndarray]:
    """Part -> places of its cells, among those whose life is known."""
    if config.split == "severson":
        if "split" not in cells.coords:
            raise InputError("data.split is severson, and the record has no split(cell): set it to policy or cell")
        return cell_splits.by_label(cells)
    if config.split == "policy":
        return cell_splits.by_policy(cells["policy"].values.astype(str).tolist(), config.test_fraction, config.seed)
    return cell_splits.by_cell(cells.sizes[CELL], config.test_fraction, config.seed)


def cut_windows(cells: xr.Dataset, config: CellsConfig) -> xr.Dataset:
    """Windows of the cells' cycles as if they were cells, called ``b1c0@12`` after their first cycle.

    Raises:
        InputError: there are fewer cycles than a window has.
    """
    numbers, frames = cells[CYCLE].values, config.frames
    found = []
    for start in range(0, len(numbers) - frames + 1, config.every):
        names = [f"{name}@{numbers[start]}" for name in cells[CELL].values.astype(str)]
        window = cells.isel({CYCLE: slice(start, start + frames)})
        found.append(window.assign_coords({CYCLE: numbers[:frames], CELL: names}))
    if not found:
        raise InputError(f"the record has {len(numbers)} cycles, a window {frames}: set data.cycles lower")
    windows = xr.concat(found, CELL)
    whole = np.all([np.isfinite(v.values).all((1, 2)) for v in windows.values()], axis=0)
    return windows.isel({CELL: whole})


def censored_note(cells: xr.Dataset) -> str:
    """One line on cells whose end of life is not known; empty where there are none."""
    names = cells[CELL].values[cells["part"].values == CENSORED].astype(str)
    if not len(names):
        return ""
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return f"{len(names)} cells without an end of life ({shown}) are kept out of training and scores"


def _refuse_duplicates(cells: xr.Dataset) -> None:
    """Raise where the same cell lies in two parts: by its barcode, or by its curves."""
    part = cells["part"].values
    marks: dict[str, list[str | bytes]] = {"curves": [row.tobytes() for row in next(iter(cells.values())).values]}
    if "barcode" in cells.coords:
        marks["the barcode"] = cells["barcode"].values.astype(str).tolist()
    for what, values in marks.items():
        first: dict[str | bytes, int] = {}
        for i, value in enumerate(values):
            if part[i] in (CENSORED, UNUSED) or not value:
                continue
            j = first.setdefault(value, i)
            if part[i] != part[j]:
                names = cells[CELL].values
                raise InputError(
                    f"cells {names[j]} ({part[j]}) and {names[i]} ({part[i]}) share {what}: one cell must not lie in "
                    "two parts of the split; leave one of them out of the record"
                )
