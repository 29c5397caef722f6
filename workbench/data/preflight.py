"""A quick look at an experiment's data before torch is imported: wrong input is named within a second or two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xarray as xr

from workbench.data.climatology_store import open_climatology
from workbench.data.config import FIT, DataConfig
from workbench.data.spec import TIME, RecordSpec
from workbench.data.statistics import first_missing
from workbench.data.store import naming_bad_chunks, open_data
from workbench.data.windows import Part, Windows, parts, sample_windows
from workbench.errors import DamagedChunk, InputError


@dataclass(frozen=True)
class Look:
    """What a quick look found: the open record, its spec, parts and windows."""

    dataset: xr.Dataset
    spec: RecordSpec
    parts: Mapping[str, Part]
    windows: Mapping[str, Windows]


def look(config: DataConfig) -> Look:
    """Open the record and lay out its windows; read the first and the last state of the training split.

    Raises:
        InputError: anything that would stop the training later, as far as metadata and two states show it.
    """
    dataset = open_data(config)
    spec = RecordSpec.of(dataset, config.variables(), config.stride)
    found = parts(dataset, config)
    windows = {name: sample_windows(dataset, part, config) for name, part in found.items()}
    if config.climatology not in (None, FIT):
        open_climatology(dataset, config, found)
    _sample(dataset, config, found["train"])
    return Look(dataset, spec, found, windows)


def _sample(dataset: xr.Dataset, config: DataConfig, train: Part) -> None:
    chosen = train.select(dataset)[list(config.variables())]
    if TIME in chosen.dims:
        chosen = chosen.isel({TIME: [0, -1]})
    try:
        with naming_bad_chunks(dataset):
            chosen = chosen.isel(trajectory=[0]).load() if "trajectory" in chosen.dims else chosen.load()
    except DamagedChunk:
        if config.damaged == "stop":
            raise
        return
    for name, array in chosen.data_vars.items():
        if config.missing == "error" and bool(array.isnull().any()):
            raise InputError(
                f"variable '{name}' has missing (NaN) values in the train split, {first_missing(array)}; set "
                "data.missing: mask to train around them"
            )
