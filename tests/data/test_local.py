"""A recipe of a file that the user has: its copy is checked and built, and the message says where to get one."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from workbench.data.readers.local import LocalFile
from workbench.data.recipe import build, read_recipe
from workbench.data.store import open_record
from workbench.errors import InputError


def copy(folder, **attrs):
    dims, coords = ("time", "lat", "lon"), {"time": pd.date_range("2001-01-01", periods=40), "lat": [30.0, 32.5]}
    values = np.random.default_rng(0).normal(1e5, 800, (40, 2, 3)).astype("f4")
    record = xr.Dataset({"slp": (dims, values, attrs), "other": (dims, values)}, {**coords, "lon": [0.0, 2.5, 5.0]})
    path = folder / "slp.nc"
    record.to_netcdf(path, encoding={"slp": {"zlib": True, "chunksizes": (7, 2, 3)}})
    return path, record


def test_a_copy_becomes_a_record_with_units(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    path, expected = copy(tmp_path)
    found = open_record(str(build(read_recipe("ncep_slp/natl", {"path": str(path)}))))
    assert list(found.data_vars) == ["slp"] and found.slp.attrs["units"] == "Pa"
    assert "Kalnay" in found.attrs["citation"]
    np.testing.assert_array_equal(found.slp, expected.slp)


def test_what_is_no_copy_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"no file at .*ncep_slp_natl.*psl.noaa.gov.*; name your copy with --set path"):
        build(read_recipe("ncep_slp/natl"))
    path, _ = copy(tmp_path, units="hPa")
    with pytest.raises(InputError, match="'slp' is in 'hPa', expected 'Pa'"):
        build(read_recipe("ncep_slp/natl", {"path": str(path)}))
    with pytest.raises(InputError, match="has no variable 'msl': it has slp, other"):
        LocalFile(str(path), variables={"msl": "Pa"}).template()
