"""A record in files that the user has, as the source of a dataset: checked, with units that the files do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import xarray as xr

from workbench.data.store import open_record
from workbench.errors import InputError
from workbench.resources import data_root


def find_file(path: str, get: str) -> Path:
    """The file or folder that the user has: itself, or below the data root.

    Args:
        path: as the recipe or the user says it.
        get: where it comes from, for the message that it is not there.

    Raises:
        InputError: it is not there.
    """
    found = Path(path) if Path(path).exists() else data_root() / path
    if not found.exists():
        raise InputError(f"no file at {found}: {get}; name your copy with --set path=FILE")
    return found


@dataclass(frozen=True)
class LocalFile:
    """One NetCDF file or Zarr store without trajectories.

    Args:
        path: of the file; relative paths start at the data root.
        get: where the file comes from, for the message that it is not there.
        variables: those that are kept, with the units of those whose file does not say them (empty: the file's own).
    """

    path: str
    get: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    trajectories: ClassVar[int] = 1

    def template(self) -> xr.Dataset:
        """The variables that are kept, lazy.

        Raises:
            InputError: the file is not there, lacks a variable, or says other units.
        """
        path = find_file(self.path, self.get)
        record = open_record(str(path))
        missing = [name for name in self.variables if name not in record.data_vars]
        if missing:
            raise InputError(f"{path} has no variable '{missing[0]}': it has {', '.join(map(str, record.data_vars))}")
        record = record[list(self.variables)].drop_encoding()
        for name, units in self.variables.items():
            found = record[name].attrs.setdefault("units", units)
            if units not in ("", found):
                raise InputError(f"{path}: '{name}' is in '{found}', expected '{units}'")
        return record

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """All of it, in memory."""
        return self.template().load()
