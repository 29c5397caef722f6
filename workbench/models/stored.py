"""Weights of networks in files, whoever wrote them: read without executing anything, and compared by name and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import InputError
from workbench.header import look_into
from workbench.models.parts import whole

PREFIX = "network."
"""Of a network's tensors among those of its task, in what Workbench writes."""


def load_published(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill a network with weights from a file: published ones, a checkpoint, or what ``workbench export`` wrote.

    Published are safetensors, or a state dict saved by torch.save. It may lie under ``state_dict`` or ``model_state``,
    beside that of an optimiser, which is not read. A network that was built on the meta device takes the tensors of
    the file as they are, mapped into memory.

    Returns:
        the network.

    Raises:
        InputError: there is no such file, it is damaged or would run code, or it belongs to another network.
    """
    path = Path(path)
    look_into(path)
    fill(network, read_state(path), str(path))
    return network


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a network in a weights file, by name; nothing in the file is executed."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content = whole(path, content, weights_only=True)
        state = next((content[key] for key in ("state_dict", "model_state") if key in content), content)
    of_task = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    return of_task or state


def fill(network: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Load `state` into `network`, strictly, in the form in which the network takes it.

    Raises:
        InputError: names or shapes differ; the first differences are listed.
    """
    own = network.state_dict()
    unlike = [k for k in own if k in state and own[k].shape != state[k].shape]
    missing, foreign = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if not unlike:
        # a network may translate published names as it loads, so what it says counts
        left = network.load_state_dict(state, strict=False, assign=any(v.is_meta for v in own.values()))
        missing, foreign = left.missing_keys, left.unexpected_keys
    if missing or foreign or unlike:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing ({', '.join(missing[:3])} …)")
        if foreign:
            parts.append(f"{len(foreign)} unknown ({', '.join(foreign[:3])} …)")
        parts += [f"'{k}' is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}" for k in unlike[:3]]
        raise InputError(
            f"the weights in {where} belong to another model than {type(network).__name__}: " + "; ".join(parts)
        )
