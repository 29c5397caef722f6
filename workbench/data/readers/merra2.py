"""The published MERRA-2 files of Prithvi WxC as records: a folder of days, and a folder of climatology.

Days are pairs ``MERRA2_sfc_YYYYMMDD.nc`` and ``MERRA_pres_YYYYMMDD.nc``. The climatology is pairs
``climate_surface_doyDDD_hourHH.nc`` and ``climate_vertical_doyDDD_hourHH.nc``, one for each day of the year and hour;
beside them lie the scalers ``musigma_*.nc`` and the variances of the anomalies ``anomaly_variance_*.nc``.

Levels come from the top down (34 .. 72), the order of the model's channels; they are found by their numbers, whichever
way up a file has them. The fields without time in each day's file (land, sea ice) become variables with time, since
they differ from file to file.

Source: Schmude et al. (2024), arXiv:2409.13598.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from workbench.data.readers.file_pairs import Crop, FilePairs, ManyFiles, StackedFiles
from workbench.data.readers.merra2_file import file_times, level_places, open_h5, text_of
from workbench.data.readers.merra2_layout import (
    DAY,
    DAYS,
    LEVELS,
    NOMINAL_PRESSURE,
    SCALERS,
    SIGMA_RANGE,
    SLOT,
    SLOTS,
    VARIANCE_RANGE,
    VARIANCES,
    Kind,
    slot_label,
)
from workbench.data.sources import Source
from workbench.data.spec import ANOMALY_VARIANCE, TIME
from workbench.errors import InputError

PUBLISHED_PERIOD = ("1980-01-01T00:00:00", "2019-12-31T21:00:00")
"""What the published climatology was fitted on (Schmude et al. 2024)."""
PUBLISHED_STATES = 1220
"""States behind each of its means: 61 days of 20 years."""

Labels = dict[str, np.ndarray]

_OPENED: dict[str, tuple[FilePairs, Labels]] = {}
"""Of each folder as it was opened last: its files, and the labels of the axes over which they run."""


def is_folder(path: str) -> bool:
    """Whether `path` is a folder of days or of climatology."""
    return _names_in(path) is not None


def open_folder(path: str) -> xr.Dataset:
    """A folder as a lazy Dataset, not on dask.

    Returns:
        variables ``(time, [lev,] lat, lon)`` of a folder of days; ``(dayofyear, hour, [lev,] lat, lon)`` of a
        climatology, and ``NAME_anomaly_variance ([lev])`` where the files of variances are there.

    Raises:
        InputError: a file has no partner, or is not what it should be.
    """
    pairs, labels = _OPENED[path] = _days(path) if _names_in(path) is DAYS else _slots(path)
    lead = tuple(len(values) for values in labels.values())
    variables = {}
    for name, field in pairs.fields.items():
        dims = (*labels, *field.dims)
        inner = field.chunks[-len(field.dims) :] or tuple(pairs.sizes[d] for d in field.dims)
        first = field.chunks[0] if field.timed and field.chunks else 1
        stored = dict(zip(dims, (*[1] * (len(lead) - 1), first, *inner), strict=True))
        lazy = LazilyIndexedArray(StackedFiles(pairs, name, lead))
        variables[name] = xr.Variable(dims, lazy, field.attrs, {"preferred_chunks": stored})
    dataset = xr.Dataset(variables, {**_coordinates(labels), **_grid(pairs)})
    return dataset if TIME in labels else _complete_climatology(dataset, pairs, path)


def folder_source(array: xr.DataArray, path: str, crop: Crop) -> Source:
    """Reads one variable of `open_folder`, cropped, straight from the chunks of its files.

    Of a climatology, the day of the year counts as trajectory and the hour as time.
    """
    pairs, labels = _OPENED[path]
    numbers = (0, crop.get(TIME, (0, 0))[0]) if TIME in labels else (len(labels["hour"]), 0)
    return ManyFiles(pairs, str(array.name), {d: c for d, c in crop.items() if d in pairs.sizes}, numbers)


def published_scalers(path: str) -> xr.Dataset:
    """Means and standard deviations that the published model normalises its inputs with.

    Args:
        path: folder of ``musigma_surface.nc`` and ``musigma_vertical.nc``.

    Returns:
        variables ``(statistic, [lev])``, statistic ``mean`` and ``std``; standard deviations lie within `SIGMA_RANGE`.

    Raises:
        InputError: a file, a level or a statistic is missing.
    """
    found = {}
    for file, name, table in _tables(path, SCALERS):
        rows = [text_of(row).lower() for row in file["statistic"][()]] if "statistic" in file else []
        if not {"mu", "sigma"} <= set(rows):
            raise InputError(f"{file.filename} has the statistics {rows}: expected mu and sigma among them")
        mean, std = table[rows.index("mu")], np.clip(table[rows.index("sigma")], *SIGMA_RANGE)
        found[name] = xr.DataArray(np.stack([mean, std]), dims=("statistic", *mean.dims))
    return xr.Dataset(found, {"statistic": ["mean", "std"]})


# ---------------------------------------------------------------------------------------------- names of files


def _names_in(path: str) -> Mapping[Kind, str] | None:
    """The names that files in a folder have; None where it is neither of days nor of climatology."""
    folder = Path(path)
    for names in (DAYS, SLOTS):
        if folder.is_dir() and next(folder.glob(names["surface"].format("*")), None) is not None:
            return names
    return None


def _days(path: str) -> tuple[FilePairs, Labels]:
    found = _paired(path, DAYS, DAY)
    midnight = np.array([np.datetime64(f"{d[0][:4]}-{d[0][4:6]}-{d[0][6:]}", "s") for d in found])
    first = next(iter(found.values()))["surface"]
    with open_h5(first) as file:
        steps = file_times(first, file) - midnight[0]
    if not len(steps) or (steps < np.timedelta64(0, "s")).any() or (steps >= np.timedelta64(1, "D")).any():
        raise InputError(f"{first} holds {len(steps)} times, of which some are not of the day in its name")
    times = midnight[:, None] + steps
    return FilePairs(list(found.values()), [True] * len(found), times), {TIME: times.ravel().astype("datetime64[ns]")}


def _slots(path: str) -> tuple[FilePairs, Labels]:
    found = {(int(day), int(hour)) for day, hour in _paired(path, SLOTS, SLOT)}
    days, hours = (np.unique([slot[axis] for slot in found]) for axis in (0, 1))
    slots = [(day, hour) for day in days.tolist() for hour in hours.tolist()]
    pairs = [{kind: str(Path(path) / name.format(slot_label(*slot))) for kind, name in SLOTS.items()} for slot in slots]
    return FilePairs(pairs, [slot in found for slot in slots], None), {"dayofyear": days, "hour": hours.astype(float)}


def _paired(path: str, names: Mapping[Kind, str], label: re.Pattern[str]) -> dict[tuple[str, ...], dict[Kind, str]]:
    """The pairs of files in a folder, by what their names have in the middle, in order."""
    found: dict[tuple[str, ...], dict[Kind, str]] = {}
    for kind, name in names.items():
        pattern = re.compile(re.escape(name).replace(r"\{\}", label.pattern))
        for entry in Path(path).iterdir():
            if match := pattern.fullmatch(entry.name):
                found.setdefault(match.groups(), {})[kind] = str(entry)
    if not found:
        raise InputError(f"{path} has no files named {' or '.join(names.values())} with a date or slot for {{}}")
    for pair in found.values():
        if len(pair) < len(names):
            (kind, file), *_ = pair.items()
            head, other = names[kind].partition("{}")[0], next(k for k in names if k != kind)
            partner = names[other].partition("{}")[0] + Path(file).name.removeprefix(head)
            raise InputError(f"{file} has no partner {partner} beside it: fetch that, or take this one away")
    return dict(sorted(found.items()))


# ---------------------------------------------------------------------------------------------- coordinates


def _coordinates(labels: Labels) -> dict[str, Any]:
    words = {
        TIME: {"standard_name": "time"},
        "dayofyear": {"long_name": "day of the year", "units": "1"},
        "hour": {"long_name": "time of day", "units": "h"},
    }
    return {dim: (dim, values, words[dim]) for dim, values in labels.items()}


def _grid(pairs: FilePairs) -> dict[str, Any]:
    pressure = {"long_name": "nominal pressure", "units": "hPa"}
    return {
        "lev": ("lev", np.array(LEVELS, float), {"long_name": "model level, from the top down", "units": "1"}),
        "lat": ("lat", pairs.lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", pairs.lon, {"standard_name": "longitude", "units": "degrees_east"}),
        "nominal_pressure": ("lev", np.array(NOMINAL_PRESSURE, float), pressure),
    }


# ---------------------------------------------------------------------------------------------- climatology


def _complete_climatology(dataset: xr.Dataset, pairs: FilePairs, path: str) -> xr.Dataset:
    """Add which states the climatology comes from, and the variances of the anomalies."""
    if (Path(path) / VARIANCES["surface"]).exists():
        for _, name, variance in _tables(path, VARIANCES):
            if name in dataset:
                attrs = {
                    "long_name": f"variance of the anomaly of {name}",
                    "units": f"({dataset[name].attrs.get('units', '1')})2",
                }
                dataset[name + ANOMALY_VARIANCE] = variance.clip(*VARIANCE_RANGE).assign_attrs(attrs)
    states = np.where(pairs.present, PUBLISHED_STATES, 0).reshape(dataset.sizes["dayofyear"], -1)
    first, last = PUBLISHED_PERIOD
    return dataset.assign_coords(states=(("dayofyear", "hour"), states)).assign_attrs(
        definition="climatology published with Prithvi WxC",
        fit_period=f"{first} .. {last}",
        fit_first=first,
        fit_last=last,
        fit_trajectories=[0],
    )


def _tables(path: str, names: Mapping[Kind, str]) -> Iterator[tuple[Any, str, xr.DataArray]]:
    """File, name and values of every table in a pair of files; the last axis of those of the vertical file is lev."""
    for kind, name in names.items():
        file_path = str(Path(path) / name)
        with open_h5(file_path) as file:
            levels = level_places(file_path, file) if kind == "vertical" else None
            for key in file:
                if file[key].dtype.kind != "f" or key == "lev":
                    continue
                values = file[key][()].astype(np.float64)
                dims = ["statistic"] * (values.ndim - (levels is not None))
                if levels is not None:
                    values, dims = values[..., levels], [*dims, "lev"]
                yield file, key, xr.DataArray(values, dims=dims)
