"""Noise on the grid of a small channel, and its packing: for what tasks do with batches."""

import tempfile

import numpy as np
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.windows import parts


def record(stretched=True) -> xr.Dataset:
    rng = np.random.default_rng(0)
    y = 1 - np.cos(np.linspace(0, np.pi, 5)) if stretched else np.array([0, 0.1, 0.3, 0.6, 2])
    coords = {"time": np.arange(10.0), "x": np.arange(8.0), "y": y, "z": np.arange(4.0)}
    dims = ("time", "x", "y", "z")
    means = {"u": 3.0, "v": 0.5, "w": -1.0}
    fields = {n: (dims, rng.normal(m, 2, (10, 8, 5, 4)).astype("f4"), {"units": "1"}) for n, m in means.items()}
    fields["wall"] = (dims[1:], rng.normal(0, 1, (8, 5, 4)).astype("f4"), {"units": "1"})
    return xr.Dataset(fields, coords)


def packing_of(dataset: xr.Dataset, **roles) -> Packing:
    config = DataConfig(record="x", **{"state": ("u", "v", "w"), **roles})
    chunked = dataset.chunk()
    with tempfile.TemporaryDirectory() as folder:  # where statistics are kept
        chunked.encoding["source"] = f"{folder}/memory"
        found = fit_statistics(chunked, config.variables(), parts(dataset, config)["train"])
    return Packing.fit(dataset, config, found)
