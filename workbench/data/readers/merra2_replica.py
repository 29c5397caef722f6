"""A small synthetic replica of the MERRA-2 files of Prithvi WxC: their names, layout and order of levels, on any grid.

Values are a zonal mean with a season and a time of day, travelling waves, and noise in the last digits that compresses
about as well as weather does. They follow no physics: the replica is for tests and for timing how files are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.data.readers.merra2_layout import (
    CONSTANT,
    DAYS,
    LEVELS,
    SCALERS,
    SLOTS,
    SURFACE,
    UNITS,
    VARIANCES,
    VERTICAL,
    Kind,
    slot_label,
)

STORED_LEVELS = LEVELS[::-1]
HOURS = np.arange(0, 24, 3)
TYPICAL = {
    "W m-2": (150.0, 90.0),
    "Pa": (9e4, 4e3),
    "K": (280.0, 15.0),
    "m s-1": (0.0, 8.0),
    "kg kg-1": (5e-3, 3e-4),
    "kg m-2": (15.0, 9.0),
    "Pa s-1": (0.0, 0.2),
    "m2 s-2": (3e3, 2e3),
    "m": (5e3, 3e2),
    "1": (0.5, 0.2),
}
"""Mean and standard deviation of a variable, by its units."""
WAVES = 0.4
"""Share of the standard deviation that the climatology does not know."""


def write_replica(
    folder: str | Path,
    *,
    start: str = "2020-01-01",
    days: int = 2,
    grid: tuple[int, int] = (19, 36),
    slots: Sequence[tuple[int, int]] = (),
    one_step_chunks: bool = True,
    seed: int = 0,
) -> Path:
    """Write days, and where `slots` are given a climatology with its scalers, into ``folder/climatology``.

    Args:
        folder: of the days.
        start: the first day.
        days: how many.
        grid: points along latitude, both poles included, and longitude.
        slots: day of the year and hour of each climatology to write.
        one_step_chunks: chunks of one time step, whole fields; else those that HDF5 chooses.
        seed: of the noise.

    Returns:
        `folder`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for day in np.datetime64(start, "D") + np.arange(days):
        for kind, name in DAYS.items():
            dataset = _day(day, kind, grid, random)
            _write(dataset, folder / name.format(str(day).replace("-", "")), one_step_chunks)
    if slots:
        _write_climatology(folder / "climatology", grid, slots)
    return folder


def _day(day: np.datetime64, kind: Kind, grid: tuple[int, int], random: np.random.Generator) -> xr.Dataset:
    hours = (day - day.astype("datetime64[Y]")) / np.timedelta64(1, "h") + HOURS
    minutes = xr.Variable("time", (60 * HOURS).astype("int32"), {"begin_time": 0, "begin_date": _number(day)})
    found = {n: _field(n, kind, grid, hours, random) for n in (SURFACE if kind == "surface" else VERTICAL)}
    constant = CONSTANT if kind == "surface" else ()
    found |= {n: _field(n, kind, grid, hours[:1]).isel(time=0) for n in constant}
    return xr.Dataset(found, {"time": minutes, **_grid(kind, grid)})


def _field(
    name: str, kind: Kind, grid: tuple[int, int], hours: np.ndarray, random: np.random.Generator | None = None
) -> xr.Variable:
    """``float32(time, [lev,] lat, lon)`` at some hours of the year; the climatology where there is no `random`."""
    mean, std = typical(name)
    lat = np.linspace(-np.pi / 2, np.pi / 2, grid[0])[:, None]
    lon = np.linspace(-np.pi, np.pi, grid[1], endpoint=False)
    now = hours[:, None, None]
    season = 0.5 * np.sin(lat) * np.cos(2 * np.pi * now / 8766)
    values = np.cos(2 * lat) + season + 0.3 * np.cos(lat) * np.cos(2 * np.pi * now / 24 + lon)
    if random is not None:
        phase = random.uniform(0, 2 * np.pi)
        values = values + WAVES * np.cos(lat) * np.cos(5 * lon - 2 * np.pi * now / 96 + phase)
    if kind == "vertical":
        values = values[:, None] + 0.1 * np.arange(len(LEVELS))[::-1, None, None]  # grows downwards; surface first
    if random is not None:
        values = np.round((values + 0.05 * random.standard_normal(values.shape, np.float32)) * 128) / 128
    dims = ("time", "lev", "lat", "lon") if kind == "vertical" else ("time", "lat", "lon")
    units, long_name = UNITS[name]
    return xr.Variable(dims, (mean + std * values).astype(np.float32), {"units": units, "long_name": long_name})


def typical(name: str) -> tuple[float, float]:
    """Mean and standard deviation of a variable of the replica."""
    return TYPICAL[UNITS[name][0]]


def _grid(kind: Kind, grid: tuple[int, int]) -> dict[str, Any]:
    coords: dict[str, Any] = {
        "lat": ("lat", np.linspace(-90, 90, grid[0]), {"units": "degrees_north"}),
        "lon": ("lon", -180 + 360 / grid[1] * np.arange(grid[1]), {"units": "degrees_east"}),
    }
    return coords | ({"lev": ("lev", np.array(STORED_LEVELS, float))} if kind == "vertical" else {})


def _number(day: np.datetime64) -> int:
    return int(str(day).replace("-", ""))


def _write(dataset: xr.Dataset, path: Path, one_step_chunks: bool) -> None:
    encoding: dict[str, Any] = {}
    for name, array in dataset.data_vars.items():
        encoding[str(name)] = {"zlib": True, "complevel": 1, "_FillValue": None}
        if one_step_chunks:
            encoding[str(name)]["chunksizes"] = tuple(1 if d == "time" else n for d, n in array.sizes.items())
    dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)


def _write_climatology(folder: Path, grid: tuple[int, int], slots: Sequence[tuple[int, int]]) -> None:
    folder.mkdir(exist_ok=True)
    names: Mapping[Kind, Sequence[str]] = {"surface": SURFACE, "vertical": VERTICAL}
    for kind, variables in names.items():
        for day, hour in slots:
            now = np.array([24.0 * (day - 1) + hour])
            fields = {n: _field(n, kind, grid, now).isel(time=0) for n in variables}
            path = folder / SLOTS[kind].format(slot_label(day, hour))
            _write(xr.Dataset(fields, _grid(kind, grid)), path, one_step_chunks=True)
        _write_scalers(folder, kind, variables)


def _write_scalers(folder: Path, kind: Kind, variables: Sequence[str]) -> None:
    levels = {"lev": ("lev", np.array(STORED_LEVELS, float))} if kind == "vertical" else {}
    offset = 0.1 * np.arange(len(LEVELS))[::-1] if levels else np.zeros(())
    scalers, variances = {}, {}
    for name in (*variables, *(CONSTANT if kind == "surface" else ())):
        mean, std = typical(name)
        scalers[name] = (("statistic", *levels), np.stack([mean + std * offset, np.broadcast_to(std, offset.shape)]))
        if name in variables:
            variances[name] = (tuple(levels), np.broadcast_to((WAVES * std) ** 2 / 2, offset.shape).copy())
    statistic = {"statistic": np.array(["MU", "SIGMA"], dtype=object)}
    xr.Dataset(scalers, {**statistic, **levels}).to_netcdf(folder / SCALERS[kind], engine="netcdf4")
    xr.Dataset(variances, levels).to_netcdf(folder / VARIANCES[kind], engine="netcdf4")
