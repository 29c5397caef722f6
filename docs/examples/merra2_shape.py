"""An empty record with the variables, levels and grid of MERRA-2 as Prithvi WxC takes it: enough for workbench plan."""

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from workbench.data.readers.merra2_layout import CONSTANT, NOMINAL_PRESSURE, SURFACE, UNITS, VERTICAL

time = pd.date_range("2021-01-01", "2021-03-31 21:00", freq="3h")
lat, lon = np.linspace(-90, 89.5, 360), np.linspace(-180, 179.375, 576)
level = np.array(NOMINAL_PRESSURE, float)


def field(name, *dims):
    shape = [len({"time": time, "level": level, "lat": lat, "lon": lon}[dim]) for dim in dims]
    chunks = [1 if dim == "time" else -1 for dim in dims]
    return dims, da.zeros(shape, dtype="f4", chunks=chunks), {"units": UNITS[name][0], "long_name": UNITS[name][1]}


record = xr.Dataset(
    {name: field(name, "time", "lat", "lon") for name in SURFACE}
    | {name: field(name, "time", "level", "lat", "lon") for name in VERTICAL}
    | {name: field(name, "lat", "lon") for name in CONSTANT},
    {
        "time": time,
        "level": ("level", level, {"units": "hPa"}),
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
    },
)
record.to_zarr("merra2_shape.zarr", compute=False, consolidated=False)
