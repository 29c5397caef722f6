"""Self-describing weights: one file that predicts alone.

`export` writes one safetensors file whose metadata hold names, units, coordinates, grid, step, normaliser,
configuration, data fingerprint and scores. `load` takes it, or a training checkpoint, and gives back the task ready
to predict. Weights are data: nothing in a file is executed, and only classes of Workbench, or classes that the caller
names, are built.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from workbench import __version__
from workbench.data.cell_packing import CellPacking
from workbench.data.packing import Packing
from workbench.errors import InputError
from workbench.header import FORMAT, read_card
from workbench.models.stored import fill, read_state
from workbench.models.stored import load_published as load_published


def describe(value: Any) -> Any:
    """Plain description of a task, network factory, loss or setting, which `rebuild` turns back into the object.

    Objects must keep their constructor arguments as attributes of the same name; a network factory is a class or a
    `functools.partial` of one.

    Raises:
        TypeError: the value cannot be described.
    """
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, functools.partial):
        candidates = [c for c in (value.func, *value.args) if inspect.isclass(c)]
        if candidates:
            return _described(candidates[0], value.keywords)
    if inspect.isclass(value):
        return _described(value, {})
    if dataclasses.is_dataclass(value):
        return {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    names = list(inspect.signature(type(value)).parameters)
    attributes = getattr(value, "arguments", None) or {n: getattr(value, n) for n in names if hasattr(value, n)}
    if set(names) <= set(attributes):
        return _described(type(value), {n: attributes[n] for n in names})
    raise TypeError(f"cannot describe {value!r}: its constructor arguments {names} are not kept as attributes")


def _described(cls: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Class path and arguments, defaults written out: a later change of a default must not change old weights."""
    parameters = inspect.signature(cls).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    arguments = {**defaults, **arguments}
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {name: describe(value) for name, value in arguments.items()},
    }


def card_of(task: Any, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything that a file must say so that its weights can be used: the card."""
    if task.packing is None:
        raise RuntimeError("build(packing) comes before a card")
    return {
        "format": FORMAT,
        "workbench": __version__,
        "task": describe(task),
        "packing": task.packing.to_dict(),
        "first_lead": task.first_lead,
        "parameters": sum(p.numel() for p in task.network.parameters()),
        **(extra or {}),
    }


def rebuild(description: dict[str, Any], trusted: Sequence[str] = (), where: str = "the weights") -> Any:
    """Make the task that `describe` described.

    Args:
        description: ``{"class_path": …, "init_args": …}``.
        trusted: class paths outside Workbench that may be built, besides Workbench's own.
        where: what holds the description, for error messages.

    Raises:
        InputError: the description names a class that is not trusted, or does not fit this version.
    """
    from jsonargparse import ArgumentParser

    for path in _class_paths(description):
        if not path.startswith("workbench.") and path not in trusted:
            raise InputError(
                f"{where} name the class {path}, which is not part of Workbench; load them through an experiment "
                "file that names it (-c FILE), which says that you trust it"
            )
    import workbench.models
    import workbench.tasks  # noqa: F401  short class names resolve among what is imported

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "task")
    try:
        return parser.instantiate_classes(parser.parse_object({"task": description})).task
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"{where} describe a model that cannot be built: {text[:600]}") from error


def _class_paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [str(value["class_path"])] if "class_path" in value else []
        return own + [p for v in value.values() for p in _class_paths(v)]
    return [p for v in value for p in _class_paths(v)] if isinstance(value, list) else []


def load(path: str | Path, trusted: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """The task in a checkpoint or safetensors file, built, filled and in evaluation mode, and the file's card.

    Raises:
        InputError: the file is missing, foreign, damaged, or its weights do not fit the model that it describes.
    """
    path = Path(path)
    card = read_card(path)
    kind = CellPacking if card["packing"].get("kind") == "cells" else Packing
    task = rebuild(card["task"], trusted).build(kind.from_dict(card["packing"]))
    fill(task.network, read_state(path), str(path))
    return task.eval(), card


def export(task: Any, path: str | Path, card: dict[str, Any], overwrite: bool = False) -> Path:
    """Write network weights and card to one safetensors file, atomically.

    Raises:
        InputError: the file exists and `overwrite` is not set.
    """
    from safetensors.torch import save_file

    from workbench.data.store import refuse_existing

    path = Path(path)
    refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    tensors = {f"network.{k}": v.detach().contiguous().cpu() for k, v in task.network.state_dict().items()}
    save_file(tensors, temporary, metadata={"workbench": json.dumps(card), "format": "pt"})
    os.replace(temporary, path)
    return path
