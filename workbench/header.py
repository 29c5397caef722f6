"""What a weights file says of itself, read without torch and without running anything that the file contains.

Two formats carry the same *card* (a JSON object): a Lightning checkpoint under the key ``workbench``, and a safetensors
file in its metadata. A checkpoint is a zip with a pickle inside; the pickle is walked with an unpickler that knows the
few names a tensor file needs and refuses every other, so a foreign pickle is never executed.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

from workbench.errors import InputError

FORMAT = 1
_CONTAINERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("collections", "defaultdict"): defaultdict,
    ("collections", "deque"): deque,
    ("builtins", "dict"): dict,
    ("builtins", "set"): set,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): lambda text, encoding: str(text).encode(encoding),
}
_TENSOR_MODULES = ("torch", "torch._utils", "torch.storage", "torch.nn.parameter", "torch._tensor")


class _Tensor:
    """Stands in for a tensor, storage, dtype or size while a checkpoint is being looked at."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        """Accept and forget."""


class _Looking(pickle.Unpickler):
    """Unpickles plain containers, stands in for tensors, refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if module in _TENSOR_MODULES and (name.startswith("_rebuild") or name[:1].isupper() or module == "torch"):
            return _Tensor
        raise InputError(f"it would run {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return _Tensor()


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of a checkpoint or safetensors file.

    Raises:
        InputError: there is no such file, it is no weights file of ours, or it is a pickle that would run code.
    """
    content = look_into(path)
    text = content.get("workbench") if isinstance(content, dict) else None
    if text is None:
        raise InputError(
            f"{path} carries no Workbench card: it was not written by workbench fit or workbench export, so its "
            "variables, units and grid are unknown"
        )
    card: dict[str, Any] = json.loads(str(text))
    if card.get("format") != FORMAT:
        raise InputError(f"{path} has card format {card.get('format')}, this version reads {FORMAT}")
    return card


def refuse_other_model(card: dict[str, Any], model: dict[str, Any], where: str | Path) -> None:
    """Compare the model in a card with the `model` section of an experiment, as far as the section goes.

    Raises:
        InputError: the class of the network or an argument differ.
    """
    wanted = (model.get("init_args") or {}).get("network") or {}
    found = card["task"]["init_args"]["network"]
    name, other = (str(n.get("class_path", "")).rpartition(".")[2] for n in (wanted, found))
    asked, given = wanted.get("init_args") or {}, found.get("init_args") or {}
    unlike = {k: v for k, v in asked.items() if given.get(k, v) != v}
    if name != other or unlike:
        theirs = ", ".join(f"{k}={given.get(k)}" for k in unlike)
        mine = ", ".join(f"{k}={v}" for k, v in unlike.items())
        raise InputError(f"{where} holds another model: {other}({theirs}), the experiment asks for {name}({mine})")


def look_into(path: str | Path) -> Any:
    """What a weights file holds besides its tensors: the metadata of safetensors, or the content of a checkpoint.

    Raises:
        InputError: there is no such file, it is damaged, or it is a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file at {path}: expected a checkpoint (*.ckpt) or *.safetensors")
    return _metadata(path) if path.suffix == ".safetensors" else _content(path)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < path.stat().st_size else None
    except (struct.error, ValueError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path} is not a safetensors file, or is truncated")
    found: dict[str, Any] = header.get("__metadata__", {})
    return found


def _content(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is not a checkpoint that can be read safely (a truncated file, or a bare pickle, which could run "
            "code when opened): refused. Convert it where it came from to safetensors or to a state dict saved by "
            "torch.save"
        )
    with zipfile.ZipFile(path) as archive:
        inner = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if not inner:
            raise InputError(f"{path} is a zip file without data.pkl: expected a checkpoint written by torch.save")
        content = archive.read(inner[0])
    try:
        return _Looking(io.BytesIO(content)).load()
    except InputError as error:
        raise InputError(
            f"{path} is a pickle that holds code, not only weights ({error}): refused, nothing was executed. Ask for "
            "a safetensors file or a plain state dict"
        ) from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
