import numpy as np
import pandas as pd
import pytest
import xarray as xr


@pytest.fixture
def record() -> xr.Dataset:
    """Two variables, three trajectories, forty days, on a 6 x 8 grid of degrees."""
    rng = np.random.default_rng(0)
    shape = (3, 40, 6, 8)
    dims = ("trajectory", "time", "lat", "lon")
    return xr.Dataset(
        {
            "slp": (dims, rng.normal(1e5, 500, shape).astype("f4"), {"units": "Pa", "long_name": "sea level pressure"}),
            "t2m": (dims, rng.normal(280, 5, shape).astype("f4"), {"units": "K", "long_name": "temperature"}),
        },
        coords={
            "trajectory": np.arange(3),
            "time": pd.date_range("2001-01-01", periods=40),
            "lat": ("lat", np.linspace(70, 30, 6), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(0, 70, 8), {"units": "degrees_east"}),
        },
        attrs={"title": "a small record"},
    )
