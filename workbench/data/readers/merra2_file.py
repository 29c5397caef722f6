"""What one published MERRA-2 file says of itself: its grid, levels and times, read and checked."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from workbench.data.readers.merra2_layout import LEVELS
from workbench.errors import DamagedChunk, InputError


def open_h5(path: str) -> Any:
    """Open a NetCDF-4 file with the HDF5 library.

    Raises:
        DamagedChunk: it cannot be opened.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DamagedChunk(f"{path} cannot be opened as NetCDF-4 ({error}): fetch it again") from error


def coordinate(file: Any, name: str) -> np.ndarray:
    """A one-dimensional coordinate of a file, ``float64``.

    Raises:
        InputError: the file lacks it.
    """
    if name not in file or file[name].ndim != 1:
        raise InputError(f"{file.filename} has no coordinate '{name}': it has {', '.join(file)}")
    return np.asarray(file[name][()], np.float64)


def text_of(value: Any) -> str:
    """A string that HDF5 stores as bytes or in an array; nothing for None."""
    plain = value[0] if isinstance(value, np.ndarray) and value.size else value
    return plain.decode() if isinstance(plain, bytes) else "" if plain is None else str(plain)


def refuse_other_globe(path: str, lat: np.ndarray, lon: np.ndarray) -> None:
    """Raise unless latitudes run from south to north, and longitudes from -180 degrees east.

    Raises:
        InputError: they do not.
    """
    if not np.all(np.diff(lat) > 0):
        raise InputError(f"{path}: 'lat' runs from {lat[0]:g} to {lat[-1]:g}, expected from south to north")
    if np.all(np.diff(lon) > 0) and lon[0] >= -180 and lon[-1] < 180:
        return
    raise InputError(
        f"{path}: 'lon' runs from {lon[0]:g} to {lon[-1]:g}, expected eastwards from -180 to below 180, as the model "
        "knows the globe; roll every file (ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby('lon'))"
    )


def level_places(path: str, file: Any) -> np.ndarray:
    """Where in a file each of `LEVELS` lies, ``int64[level]``.

    Raises:
        InputError: one of them is missing.
    """
    there = coordinate(file, "lev")
    missing = [level for level in LEVELS if level not in there]
    if missing:
        raise InputError(
            f"{path} lacks the model levels {', '.join(map(str, missing))}: expected {', '.join(map(str, LEVELS))}, "
            f"found {', '.join(f'{v:g}' for v in there)}"
        )
    return np.array([int(np.flatnonzero(there == level)[0]) for level in LEVELS])


def compare_times(path: str, file: Any, expected: np.ndarray) -> None:
    """Raise unless a day's file holds the times `expected`, ``datetime64[step]``.

    Raises:
        InputError: it holds others.
    """
    found = file_times(path, file)
    if not np.array_equal(found, expected):
        raise InputError(
            f"{path} holds {len(found)} times {', '.join(str(t)[:16] for t in found)}; expected {len(expected)}, "
            f"{', '.join(str(t)[:16] for t in expected)}, by its name and the steps of the first file"
        )


def file_times(path: str, file: Any) -> np.ndarray:
    """Times of a day's file, ``datetime64[s]``: minutes after the instant that the attributes of ``time`` say.

    Raises:
        InputError: an attribute is not there, or the day does not begin at midnight.
    """
    minutes, attrs = coordinate(file, "time"), file["time"].attrs
    if "begin_date" not in attrs or int(np.ravel(attrs.get("begin_time", 0))[0]) != 0:
        there = ", ".join(f"{k} {text_of(v)}" for k, v in attrs.items() if k.startswith(("begin", "units")))
        raise InputError(
            f"{path}: expected minutes in 'time' after its attribute begin_date (YYYYMMDD), begin_time 0; found "
            f"{there or 'neither'}"
        )
    date = str(int(np.ravel(attrs["begin_date"])[0]))
    begin = np.datetime64(f"{date[:4]}-{date[4:6]}-{date[6:]}", "s")
    return begin + (60 * minutes).astype("timedelta64[s]")
