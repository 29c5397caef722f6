"""Tensors of a checkpoint that every rank writes its own part of: safetensors files in a folder beside the checkpoint.

The checkpoint stays a file, which names the folder under `PARTS` and holds everything else. Its tensors are known as
``state_dict.NAME``, and ``optimizer_states.NUMBER.PARAMETER.MOMENT``. No file can make a reader run code.
"""

from __future__ import annotations

import glob
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import InputError

PARTS = "workbench_parts"
"""Key of a checkpoint under which it names the folder."""


def take_apart(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Take all tensors of network and optimisers out of a checkpoint, whose parameters are called by their names."""
    tensors = {f"state_dict.{name}": value for name, value in checkpoint.pop("state_dict").items()}
    for number, optimizer in enumerate(checkpoint.get("optimizer_states", [])):
        for parameter, moments in optimizer.pop("state").items():
            tensors |= {f"optimizer_states.{number}.{parameter}.{name}": value for name, value in moments.items()}
    return tensors


def put_together(checkpoint: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `take_apart`."""
    checkpoint["state_dict"] = {}
    optimizers = checkpoint.get("optimizer_states", [])
    for optimizer in optimizers:
        optimizer["state"] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "state_dict":
            checkpoint["state_dict"][name] = value
        else:
            number, _, name = name.partition(".")
            parameter, _, moment = name.rpartition(".")
            optimizers[int(number)]["state"].setdefault(parameter, {})[moment] = value


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write what this rank holds; all ranks have to call it."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_parts(folder: Path, tensors: Mapping[str, Tensor], alone: bool = False) -> None:
    """Fill tensors, or what this rank holds of them, from files of any number of ranks.

    Args:
        folder: of the files.
        tensors: as they are called in the files.
        alone: whether no other rank reads.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)


def whole(path: Path, checkpoint: dict[str, Any], weights_only: bool = False) -> dict[str, Any]:
    """A checkpoint with all of its tensors, whether or not they lie in parts.

    Args:
        path: where the checkpoint lies.
        checkpoint: what `path` holds.
        weights_only: whether the moments of optimisers are left out.

    Raises:
        InputError: the folder with the parts is missing.
    """
    if PARTS not in checkpoint:
        return checkpoint
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    folder = folder_of(path, checkpoint)
    del checkpoint[PARTS]
    known: dict[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in known.items()
        if name.startswith("state_dict.") or not weights_only
    }
    read_parts(folder, tensors, alone=True)
    put_together(checkpoint, tensors)
    for optimizer in checkpoint.get("optimizer_states", []):
        _number(optimizer)
    return checkpoint


def folder_of(path: Path, checkpoint: Mapping[str, Any]) -> Path:
    """Where the parts of a checkpoint lie.

    Raises:
        InputError: they are not there.
    """
    folder = path.parent / str(checkpoint[PARTS])
    if not folder.is_dir():
        raise InputError(f"{path} has its weights in {folder}, which is not there: copy the folder along with the file")
    return folder


def remove_parts(path: Path, but: str = "") -> None:
    """Remove what earlier checkpoints, or saves that were killed, have left beside one."""
    for folder in path.parent.glob(f"{glob.escape(path.stem)}.parts-*"):
        if folder.name != but:
            shutil.rmtree(folder)


def _number(optimizer: dict[str, Any]) -> None:
    """Call parameters by their numbers, as optimisers do that know no names."""
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    optimizer["state"] = {numbers[name]: moments for name, moments in optimizer["state"].items()}
    for group in optimizer["param_groups"]:
        group["params"] = [numbers[name] for name in group["params"]]
