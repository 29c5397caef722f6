"""Misspelt keys of an experiment, found without importing what would read them.

Constructor signatures are read from source: the check knows every argument of the networks, tasks and the trainer while
torch is still asleep.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from workbench.errors import InputError

LIGHTNING_KEYS = ("seed_everything", "trainer", "model", "ckpt_path", "config")
NETWORK_SUPPLIED = 3
"""The first arguments of a network's constructor (channels in, out, grid) come from the data, not from the file."""


def check_keys(config: dict[str, Any], sections: Mapping[str, type]) -> None:
    """Raise on the first key that nothing reads, naming the nearest one that something does.

    Args:
        config: the merged experiment.
        sections: section name -> the dataclass that reads it; `model` and `trainer` are known here.

    Raises:
        InputError: such a key exists.
    """
    _refuse(config, (*sections, *LIGHTNING_KEYS), "")
    for name, cls in sections.items():
        _check_dataclass(config.get(name) or {}, cls, name)
    trainer = config.get("trainer")
    if isinstance(trainer, dict):
        known = signature("pytorch_lightning.trainer.trainer.Trainer")
        if known:
            _refuse(trainer, known, "trainer")
    _check_class(config.get("model"), "model", 0)


def _refuse(found: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in found:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            path = f"{where}.{key}" if where else str(key)
            hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(sorted(known))
            raise InputError(f"the experiment has an unknown key '{path}': {hint}")


def _check_dataclass(values: Any, cls: type, where: str) -> None:
    if not isinstance(values, dict):
        raise InputError(f"the section '{where}' is {values!r}: expected a mapping")
    _refuse(values, [f.name for f in fields(cls)], where)
    hints = get_type_hints(cls)
    for key, value in values.items():
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_dataclass(value, hints[key], f"{where}.{key}")


def _check_class(section: Any, where: str, supplied: int) -> None:
    """Check the ``init_args`` of a ``class_path`` against the constructor's signature, and so on downwards."""
    if not (isinstance(section, dict) and "class_path" in section):
        return
    known = signature(str(section["class_path"]))
    arguments = section.get("init_args") or {}
    if known:
        _refuse(arguments, known[supplied:], f"{where}.init_args")
    for key, value in arguments.items():
        _check_class(value, f"{where}.init_args.{key}", NETWORK_SUPPLIED if key == "network" else 0)


def signature(class_path: str) -> list[str]:
    """Constructor argument names of a class, read from its source without importing it; empty if unknown.

    A short name such as ``FNO`` is looked up in `workbench.models` and `workbench.tasks`.
    """
    file, name = _source_file(class_path)
    if file is None:
        return []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _constructor(node)
    return []


def _constructor(node: ast.ClassDef) -> list[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            if item.args.kwarg:
                return []
            return [a.arg for a in (*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs)][1:]
    if node.bases:
        return []
    return [i.target.id for i in node.body if isinstance(i, ast.AnnAssign) and isinstance(i.target, ast.Name)]


def _source_file(class_path: str) -> tuple[Path | None, str]:
    module, _, name = class_path.rpartition(".")
    if not module:
        for file in sorted((Path(__file__).parent).glob("models/*.py")) + sorted(
            Path(__file__).parent.glob("tasks/*.py")
        ):
            if f"class {name}(" in file.read_text():
                return file, name
        return None, name
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None, name
    base = Path(next(iter(spec.submodule_search_locations))).joinpath(*inner)
    file = base.with_suffix(".py")
    if file.is_file():
        return file, name
    if top == "workbench" and base.is_dir():
        return _source_file(name)
    return None, name
