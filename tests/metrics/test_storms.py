"""Storms: vortices whose tracks are known, great circles, and the deepest lows of a real record."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.great_circle import bearing, carried_on, destination, distance
from workbench.metrics.storm_lows import Rules
from workbench.metrics.storms import compare, track

WEATHER = Path(__file__).parents[3] / "shared" / "data" / "weather"
GLOBE = (np.linspace(90, -90, 73), np.arange(144) * 2.5)
SECTOR = (np.linspace(20, 75, 45), np.linspace(-80, 10, 73))


def vortices(paths, grid=SECTOR, hours=6, depth=3000.0, width=500.0, background=None):
    """Sea level pressure and wind of Gaussian lows on given paths.

    Args:
        paths: for each storm lat and lon at each time (NaN: it is not there), ``[time, 2]``.
        grid: latitudes and longitudes.
        hours: between two times.
        depth: Pa, of each storm.
        width: km, standard deviation.
        background: Pa, a function of latitude and longitude in degrees.
    """
    lat, lon = (np.asarray(values)[shape] for values, shape in zip(grid, ((slice(None), None), None), strict=True))
    lon = np.broadcast_to(lon, (1, len(grid[1])))
    times = pd.date_range("2001-01-01", periods=len(paths[0]), freq=f"{hours}h")
    pressure = np.zeros((len(times), len(grid[0]), len(grid[1])))
    pressure += 101300.0 if background is None else background(lat, lon)
    u, v = np.zeros_like(pressure), np.zeros_like(pressure)
    for path in paths:
        for k, (at, where) in enumerate(path):
            if np.isfinite(at):
                far = distance(at, where, lat, lon)
                pressure[k] -= depth * np.exp(-0.5 * (far / width) ** 2)
                spin = np.deg2rad(bearing(at, where, lat, lon))
                blow = 30.0 * far / width * np.exp(0.5 - 0.5 * (far / width) ** 2)
                u[k] += -blow * np.cos(spin)
                v[k] += blow * np.sin(spin)
    coords = {
        "time": times,
        "lat": ("lat", grid[0], {"units": "degrees_north"}),
        "lon": ("lon", grid[1], {"units": "degrees_east"}),
    }
    dims = ("time", "lat", "lon")
    fields = {"slp": (dims, pressure, {"units": "Pa"}), "u10": (dims, u, {"units": "m s-1"})}
    return xr.Dataset(fields | {"v10": (dims, v, {"units": "m s-1"})}, coords)


def great_circle(lat, lon, course, kilometres, times):
    return np.stack(destination(lat, lon, course, kilometres * np.arange(times)), axis=-1)


def farthest(storm, path):
    """Largest distance of a track from a path, km."""
    return float(np.max(distance(storm.lat.values, storm.lon.values, path[:, 0], path[:, 1])))


# ------------------------------------------------------------------------------------------------- great circles


def test_a_degree_of_a_meridian_and_a_quarter_of_the_equator():
    assert distance(10.0, 0.0, 11.0, 0.0) == pytest.approx(6371 * np.pi / 180)
    assert distance(0.0, 170.0, 0.0, -100.0) == pytest.approx(6371 * np.pi / 2)
    assert distance(50.0, 20.0, 50.0, 20.0) == 0
    assert bearing(0.0, 0.0, 0.0, 10.0) == pytest.approx(90) and bearing(10.0, 5.0, -10.0, 5.0) == pytest.approx(180)


def test_going_and_coming_back():
    rng = np.random.default_rng(0)
    lat, lon, course, far = (rng.uniform(*b, 50) for b in ((-80, 80), (-180, 180), (0, 360), (1, 9000)))
    there = destination(lat, lon, course, far)
    np.testing.assert_allclose(distance(lat, lon, *there), far, rtol=1e-9)
    back = destination(*there, bearing(*there, lat, lon), far)
    np.testing.assert_allclose(distance(lat, lon, *back), 0, atol=1e-4)


def test_motion_is_carried_on_along_its_great_circle():
    path = great_circle(40.0, -60.0, 50.0, 400.0, 6)
    found = carried_on(*path[1], *path[0], np.arange(1, 5))
    np.testing.assert_allclose(np.stack(found, -1), path[2:], atol=1e-9)
    np.testing.assert_allclose(carried_on(40.0, -60.0, 40.0, -60.0, 3.0), [40.0, -60.0])


# ------------------------------------------------------------------------------------------------- known tracks


@pytest.mark.parametrize("hours", [6, 24])
def test_a_moving_vortex_is_followed_to_a_small_fraction_of_the_grid(hours):
    path = great_circle(35.0, -65.0, 50.0, 15 * 3.6 * hours, 60 // hours + 1)  # 15 m/s
    tracks = track(vortices([path], hours=hours), wind=("u10", "v10"))
    assert tracks.sizes == {"storm": 1, "point": len(path)}
    assert farthest(tracks.isel(storm=0), path) < 0.06 * 139  # 1.25 degrees are 139 km
    np.testing.assert_allclose(tracks.pressure, 101300 - 3000, atol=15)
    assert 16 < float(tracks.wind.min()) <= float(tracks.wind.max()) < 20.1  # 19.9 at 222 km, 2 degrees


def test_between_grid_points_is_better_than_on_them():
    path = great_circle(35.0, -65.0, 50.0, 324.0, 11)
    tracks = track(vortices([path])).isel(storm=0)
    grid = [SECTOR[axis][np.abs(SECTOR[axis][:, None] - path[:, axis]).argmin(0)] for axis in (0, 1)]
    nearest = distance(*grid, path[:, 0], path[:, 1])
    assert farthest(tracks, path) < 0.15 * nearest.max()


def test_a_storm_crosses_the_end_of_the_longitudes():
    path = great_circle(-45.0, 340.0, 100.0, 400.0, 12)
    tracks = track(vortices([path], GLOBE, width=700.0))
    assert tracks.sizes["storm"] == 1
    assert farthest(tracks.isel(storm=0), path) < 15
    assert np.abs(np.diff(tracks.lon.values[0])).max() < 10  # no jump of 360 degrees


def test_two_storms_that_pass_each_other_stay_themselves():
    east, west = great_circle(40.0, -60.0, 75.0, 350.0, 9), great_circle(58.0, -20.0, 265.0, 250.0, 9)
    tracks = track(vortices([east, west], width=400.0))
    assert tracks.sizes["storm"] == 2
    for number, path in zip(np.argsort(tracks.lat.values[:, 0]), (east, west), strict=True):
        assert farthest(tracks.isel(storm=number), path) < 25


def test_storms_are_born_and_die():
    path = great_circle(45.0, -50.0, 80.0, 300.0, 8)
    path[:2], path[6:] = np.nan, np.nan
    data = vortices([path])
    tracks = track(data)
    assert tracks.sizes == {"storm": 1, "point": 4} and (tracks.time.values[0] == data.time.values[2:6]).all()


def test_a_storm_that_is_not_seen_once():
    path = great_circle(45.0, -50.0, 80.0, 300.0, 8)
    path[4] = np.nan
    assert track(vortices([path])).sizes["storm"] == 2
    tracks = track(vortices([path]), rules=Rules(gap=1))
    assert tracks.sizes == {"storm": 1, "point": 7}


def test_no_storm_is_faster_than_the_rules_allow():
    path = great_circle(40.0, -70.0, 60.0, 1.1 * 30 * 3.6 * 6, 5)
    assert track(vortices([path])).sizes["storm"] == 0
    assert track(vortices([path]), rules=Rules(speed=35.0)).sizes["storm"] == 1


@pytest.mark.parametrize(
    ("depth", "background"),
    [(150.0, None), (400.0, lambda lat, lon: 101300.0 - 60.0 * (lat - 45.0) + 0 * lon)],
    ids=["too shallow", "drowned in a gradient"],
)
def test_without_a_closed_contour_there_is_no_storm(depth, background):
    path = np.tile([45.0, -40.0], (3, 1))
    shallow = vortices([path], depth=depth, background=background, width=300.0)
    assert track(shallow).sizes["storm"] == 0 and track(shallow, rules=Rules(rise=1.0)).sizes["storm"] == 1
    assert track(vortices([path], depth=3000.0, background=background, width=300.0)).sizes["storm"] == 1


def test_a_wide_trough_or_a_low_at_the_edge_has_no_closed_contour():
    trough = vortices([np.full((3, 2), np.nan)], background=lambda lat, lon: 101300 + 30 * (lat - 45) ** 2 + 0 * lon)
    assert track(trough).sizes["storm"] == 0
    assert track(vortices([np.tile([45.0, -79.0], (3, 1))])).sizes["storm"] == 0


def test_hectopascals_and_another_order_of_dimensions_and_latitudes():
    path = great_circle(40.0, -60.0, 75.0, 350.0, 6)
    data = vortices([path])
    turned = data[["slp"]].isel(lat=slice(None, None, -1)).transpose("lon", "time", "lat") / 100.0
    turned = turned.rename(slp="msl")
    turned.msl.attrs["units"] = "hPa"
    one, other = track(data), track(turned)
    for name in ("lat", "lon", "pressure"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9)
    assert np.isnan(other.wind).all()


def test_a_state_that_is_not_finite_has_no_storms():
    data = vortices([great_circle(40.0, -60.0, 75.0, 350.0, 6)])
    data.slp[3:, 5, 5] = np.nan
    assert track(data).sizes == {"storm": 1, "point": 3}
    data.slp[:, 5, 5] = np.nan
    assert track(data).sizes == {"storm": 0, "point": 0}


# ------------------------------------------------------------------------------------------------- comparisons


def test_errors_of_a_forecast_that_is_late_and_weak():
    """100 km behind along the track and 1000 Pa too shallow at every time but the first."""
    truth = great_circle(40.0, -60.0, 70.0, 350.0, 7)
    late = np.concatenate([truth[:1], great_circle(40.0, -60.0, 70.0, 50.0, 140)[5::7][:6]])
    other = great_circle(60.0, -30.0, 90.0, 300.0, 7)
    forecast = vortices([late, other], depth=2000.0)
    errors = compare(track(forecast, wind=("u10", "v10")), track(vortices([truth]), wind=()))
    assert errors.partner.values.tolist() == [0]
    np.testing.assert_allclose(errors.track_error[0, 1:], 100, atol=12)
    np.testing.assert_allclose(errors.along_track_error[0, 1:], -100, atol=12)
    np.testing.assert_allclose(errors.cross_track_error[0, 1:], 0, atol=12)
    np.testing.assert_allclose(errors.pressure_error[0], 1000, atol=15)
    assert errors.track_error.attrs["units"] == "km" and float(errors.track_error[0, 0]) < 12


def test_a_track_to_the_right_of_the_truth():
    truth = great_circle(40.0, -60.0, 90.0, 350.0, 6)
    course = bearing(*truth[1:].T, *truth[:-1].T) + 180.0
    right = np.stack(destination(*truth.T, np.append(90.0, course) + 90.0, 120.0), -1)
    errors = compare(track(vortices([right])), track(vortices([truth])))
    np.testing.assert_allclose(errors.cross_track_error, 120, atol=5)
    np.testing.assert_allclose(errors.along_track_error, 0, atol=5)


def test_a_storm_without_a_partner():
    truth, elsewhere = great_circle(40.0, -60.0, 70.0, 350.0, 6), great_circle(60.0, -20.0, 70.0, 100.0, 6)
    errors = compare(track(vortices([elsewhere])), track(vortices([truth, elsewhere])))
    assert sorted(errors.partner.values.tolist()) == [-1, 0]
    assert np.isnan(errors.track_error).sum() == 6
    none = compare(track(vortices([np.full((6, 2), np.nan)])), track(vortices([truth])))
    assert none.partner.values.tolist() == [-1] and np.isnan(none.track_error).all()


# ------------------------------------------------------------------------------------------------- refusals


def test_what_is_no_pressure_on_a_globe():
    data = vortices([great_circle(40.0, -60.0, 70.0, 350.0, 3)])
    with pytest.raises(InputError, match="no sea level pressure among q, u10, v10: expected .* like slp, msl, mslp"):
        track(data.rename(slp="q"))
    with pytest.raises(InputError, match="asked for slp, u, v10; the dataset has slp, u10, v10"):
        track(data, wind=("u", "v10"))
    with pytest.raises(InputError, match="'slp' is in 'K': expected sea level pressure in one of Pa, hPa"):
        track(data.assign(slp=data.slp.assign_attrs(units="K")))
    with pytest.raises(InputError, match="on latitude and longitude in degrees, .*'slp' lies on time, y, lon"):
        track(data.rename(lat="y").drop_vars("y"))
    with pytest.raises(InputError, match="select one forecast with .isel"):
        track(data.expand_dims(member=2))


# ------------------------------------------------------------------------------------------------- a real record


def test_the_deepest_lows_of_a_real_record():
    """Winter storms of the North Atlantic: the deepest pass near Iceland, move at storms' speed and last for days."""
    if not WEATHER.is_dir():
        pytest.skip(f"the real records are not here: no {WEATHER}")
    with xr.open_dataset(WEATHER / "ncep_slp_natl_daily_2001_2010.nc") as opened:
        data = opened.sel(time=slice("2009-12-01", "2010-03-31")).load()
    data.slp.attrs["units"] = "Pa"
    tracks = track(data)
    lowest = tracks.pressure.min("point")
    deepest = tracks.isel(storm=np.argsort(lowest.values)[:10])
    assert float(lowest.min()) == pytest.approx(float(data.slp.min()), abs=300)
    assert (deepest.pressure.min("point") < 97500).all()
    place = deepest.lat.values[np.arange(10), np.nanargmin(deepest.pressure.values, 1)]
    assert np.median(place) > 45
    assert 20 < tracks.sizes["storm"] < 120
    speed = (
        distance(*(tracks[n].values[:, s] for s in (slice(None, -1), slice(1, None)) for n in ("lat", "lon"))) / 86.4
    )
    assert 4 < np.nanmedian(speed) < 20 and np.nanmax(speed) <= 30
