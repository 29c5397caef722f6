"""Which cells train and which test: by the labels of the record, by cell or by policy.

A part is the places of its cells along ``cell``. Folds for choices made on training cells are grouped by policy, so
that no choice is made on twins of the cells that it was fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.errors import InputError


def by_label(record: xr.Dataset) -> dict[str, np.ndarray]:
    """The parts that the record itself names in ``split``: of MATR, ``train``, ``test1`` and ``test2``.

    Raises:
        InputError: no cell is labelled ``train``, or none anything else.
    """
    labels = record["split"].values
    parts = {str(label): np.flatnonzero(labels == label) for label in ("train", "test1", "test2")}
    parts = {name: cells for name, cells in parts.items() if len(cells)}
    if len(parts) < 2 or "train" not in parts:
        raise InputError(
            f"the record labels its {len(labels)} cells {', '.join(map(repr, sorted(set(labels.tolist()))))}: expected "
            "'train' and 'test1' or 'test2'; split by cell or by policy instead"
        )
    return parts


def by_cell(cells: int, test_share: float, seed: int) -> dict[str, np.ndarray]:
    """Parts ``train`` and ``test`` of cells drawn at random.

    Raises:
        InputError: a part would be empty.
    """
    order = np.random.default_rng(seed).permutation(cells)
    count = round(test_share * cells)
    if not 0 < count < cells:
        raise InputError(f"a share of {test_share:g} of {cells} cells leaves a part empty: expected 0 to 1 between")
    return {"train": np.sort(order[count:]), "test": np.sort(order[:count])}


def by_policy(policies: Sequence[str], test_share: float, seed: int) -> dict[str, np.ndarray]:
    """Parts ``train`` and ``test`` without a policy in common, as near to the share as whole policies allow.

    Raises:
        InputError: a cell has no policy, or all have one.
    """
    names = _known(policies)
    if len(names) < 2:
        raise InputError(f"all cells were charged by '{names[0]}': expected two policies or more; split by cell")
    wanted, test = test_share * len(policies), np.zeros(len(policies), bool)
    for name in np.random.default_rng(seed).permutation(names):
        members = np.asarray(policies) == name
        if abs(test.sum() + members.sum() - wanted) < abs(test.sum() - wanted):
            test |= members
    if not test.any() or test.all():
        raise InputError(f"a share of {test_share:g} of {len(names)} policies leaves a part empty")
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}


def policy_folds(policies: Sequence[str], folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds (fitted, held out) for choices among training cells: places in `policies`, no policy on both sides.

    Raises:
        InputError: there are fewer policies than folds.
    """
    from sklearn.model_selection import GroupKFold

    names = _known(policies)
    if len(names) < folds:
        raise InputError(f"{folds} folds of {len(names)} policies: expected at least one policy a fold; take fewer")
    split = GroupKFold(folds, shuffle=True, random_state=seed).split(policies, groups=np.asarray(policies))
    return [(np.asarray(fitted), np.asarray(held)) for fitted, held in split]


def _known(policies: Sequence[str]) -> list[str]:
    unknown = sum(not policy for policy in policies)
    if unknown:
        raise InputError(f"{unknown} of {len(policies)} cells have no policy: expected one each; split by cell instead")
    return sorted(set(map(str, policies)))
