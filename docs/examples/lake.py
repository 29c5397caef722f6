"""Writes lake.nc: a record such as a user has, here waves on a periodic lake of 40 m by 30 m."""

import numpy as np
import xarray as xr

rng = np.random.default_rng(0)
time = np.arange(400) * 0.5
y, x = np.arange(12) * 2.5, np.arange(16) * 2.5
height = np.zeros((400, 12, 16))
for along_x, along_y, frequency in ((1, 0, 0.11), (2, 1, 0.17), (0, 1, 0.07), (3, 2, 0.23)):
    phase = 2 * np.pi * (along_x * x / 40 + along_y * y[:, None] / 30 - frequency * time[:, None, None])
    height += rng.normal() * np.cos(phase + rng.uniform(0, 2 * np.pi))

record = xr.Dataset(
    {"height": (("time", "y", "x"), height.astype("f4"), {"units": "m", "long_name": "surface height"})},
    coords={
        "time": ("time", time, {"units": "s", "long_name": "time"}),
        "y": ("y", y, {"units": "m", "long_name": "distance north"}),
        "x": ("x", x, {"units": "m", "long_name": "distance east"}),
    },
    attrs={"Conventions": "CF-1.11", "title": "Waves on a lake", "licence": "CC0-1.0"},
)
record.to_netcdf("lake.nc")
