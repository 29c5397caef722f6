"""Restart files: the exact state of a run, whole or not there at all.

A file holds named arrays and the settings of the run, each entry with its CRC-32 (a ZIP archive of NumPy arrays). It
is written under another name, synced and renamed, so that a run that is killed leaves the former file.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError


def save_restart(path: str | Path, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """Replace the file at `path` atomically; `settings` (plain values) must be the same when it is loaded."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "wb") as file:
        np.savez(file, **{**arrays, "settings": np.array(json.dumps(settings, sort_keys=True))})  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_restart(path: str | Path, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that `save_restart` wrote, bit for bit.

    Raises:
        InputError: the file is damaged, or is that of a run with other settings.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = json.loads(str(arrays.pop("settings")))
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"restart file {path} is damaged ({error}); delete it, and the trajectory starts from its beginning"
        ) from error
    expected = json.loads(json.dumps(settings))
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            raise InputError(
                f"restart file {path} is of another run: {key} was {found.get(key)!r}, expected {expected.get(key)!r}; "
                "delete it, or choose another folder"
            )
    return arrays
