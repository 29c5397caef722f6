"""Maps: degrees as people write them, coasts of the record's land, pictures that stay within their limits."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from workbench.report.coasts import degrees_east, degrees_north, draw_coasts, land_fraction, name_degrees
from workbench.report.pictures import Row, comparison


def record(lon=None, name="FRLAND"):
    lat, lon = np.linspace(-60, 60, 13), np.linspace(-180, 170, 36) if lon is None else lon
    coords = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    land = ((lat[:, None] > -5) & (lon > 20) & (lon < 100)).astype(float)
    fields = {name: (("time", "lat", "lon"), land[None]), "slp": (("time", "lat", "lon"), land[None] + 1e5)}
    return xr.Dataset(fields, coords)


@pytest.mark.parametrize(
    ("longitude", "words"), [(0, "0°"), (300, "60°W"), (-60, "60°W"), (20.5, "20.5°E"), (180, "180°"), (360, "0°")]
)
def test_longitudes_are_written_alike_from_either_meridian(longitude, words):
    assert degrees_east(longitude) == words


def test_latitudes():
    assert [degrees_north(x) for x in (-30, 0, 7.5)] == ["30°S", "0°", "7.5°N"]


def test_the_coast_of_a_record_that_knows_its_land():
    land = land_fraction(record())
    assert land is not None and land.dims == ("lat", "lon")
    assert land_fraction(record(name="q")) is None and land_fraction(None) is None
    axes = Figure().add_subplot()
    axes.set_xlim(0, 60)
    axes.set_ylim(-20, 20)
    name_degrees(axes)
    draw_coasts(axes, land)
    segments = np.concatenate([path.vertices for c in axes.collections for path in c.get_paths() if len(path.vertices)])
    assert abs(segments[:, 0].min() - 25) < 1e-9 and abs(segments[:, 1].min() + 5) < 1e-9  # midway between points
    assert axes.get_xlim() == (0, 60)
    assert axes.get_ylim() == (-20, 20)


def test_a_map_counted_from_greenwich_has_the_coast_of_one_counted_from_the_date_line():
    axes = Figure().add_subplot()
    axes.set_xlim(370, 400)  # 10 to 40 degrees east
    axes.set_ylim(-20, 20)
    draw_coasts(axes, land_fraction(record()))
    seen = [path.vertices[:, 0] for c in axes.collections for path in c.get_paths() if len(path.vertices)]
    assert any(((x > 370) & (x < 400)).any() for x in seen)


def test_a_comparison_of_maps_has_degrees_on_its_axes():
    data = record()
    field = data.slp.isel(time=0)
    figure = comparison([Row("slp (Pa)", field, field + 1, land=land_fraction(data))])
    figure.canvas.draw()
    panel = figure.axes[0]
    assert "0°" in [label.get_text() for label in panel.get_xticklabels()] and panel.get_xlabel() == ""
    assert len(panel.collections) > 1
