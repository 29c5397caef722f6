"""Cuts, aspects and colour limits of fields."""

import numpy as np
import pytest
import xarray as xr

from workbench.report.fields import (
    Scale,
    aspect,
    axis_label,
    cut,
    error_scale,
    height_over_width,
    normals,
    positions,
    space_dims,
    truth_scale,
)


def field(units: dict[str, str] | None = None, **sizes: int) -> xr.DataArray:
    coords = {
        d: (d, np.linspace(0, n - 1, n), {"units": (units or {}).get(d, "m")})
        for d, n in sizes.items()
        if d not in ("lead_time", "member")
    }
    return xr.DataArray(
        np.arange(np.prod(list(sizes.values())), dtype=float).reshape(*sizes.values()), coords, list(sizes)
    )


def test_a_volume_is_cut_at_its_middle():
    volume = field(lead_time=2, z=5, y=3, x=4)
    plane, where = cut(volume)
    assert space_dims(plane) == ("y", "x") and where == "z = 2\u202fm (mid-plane)"
    np.testing.assert_array_equal(plane.values, volume.values[:, 2])
    plane, where = cut(volume, "x")
    assert space_dims(plane) == ("z", "y") and where.startswith("x = 2")
    np.testing.assert_array_equal(plane.values, volume.values[..., 2])
    assert normals(volume) == ("z", "y", "x")


def test_a_block_is_seen_from_the_side_and_every_plane_of_it_upright():
    block = field(node_y=3, node_x=5, node_z=4)
    plane, where = cut(block)
    assert space_dims(plane) == ("node_y", "node_x") and where == "z = 2\u202fm (mid-plane)"
    assert space_dims(cut(block, "node_y")[0]) == ("node_z", "node_x")
    assert axis_label(block, "node_z") == "z (m)"


def test_levels_are_cut_first_and_at_the_first():
    stack = field({"level": "hPa"}, level=3, z=5, y=3, x=4)
    plane, where = cut(stack)
    assert where == "level = 0\u202fhPa, z = 2\u202fm (mid-plane)"
    np.testing.assert_array_equal(plane.values, stack.values[0, 2])
    assert normals(stack) == ("z", "y", "x") and normals(field(level=3, y=3, x=4)) == (None,)


def test_a_plane_stored_the_other_way_round_is_turned():
    turned, where = cut(field(lead_time=2, lon=4, lat=3))
    assert turned.dims == ("lead_time", "lat", "lon") and where == ""
    assert cut(field(y=3, x=4))[0].dims == ("y", "x")


def test_a_dimension_without_coordinate_is_counted():
    volume = field(z=5, y=3, x=4).drop_vars("z")
    assert cut(volume)[1] == "z index 2 (mid-plane)"
    assert axis_label(volume, "z") == "z (index)" and axis_label(volume, "y") == "y (m)"


def test_labels_along_an_axis_are_counted():
    station = xr.DataArray(np.zeros(3), {"station": ["a", "b", "c"]}, ["station"])
    np.testing.assert_array_equal(positions(station, "station"), [0, 1, 2])


@pytest.mark.parametrize("units", [{"lat": "degrees_north", "lon": "degrees_east"}, {"lat": "1", "lon": "1"}])
def test_longitude_shrinks_with_latitude(units):
    globe = field(units, lat=61, lon=10)
    assert aspect(globe) == pytest.approx(1 / np.cos(np.deg2rad(30)))
    assert height_over_width(globe) == pytest.approx(min(61 / 10 / np.cos(np.deg2rad(30)), 4.0))


def test_axes_of_one_unit_are_drawn_to_scale_unless_too_long():
    assert aspect(field(y=4, x=8)) == 1.0 and height_over_width(field(y=4, x=8)) == 0.5
    assert aspect(field(y=2, x=40)) == "auto" and height_over_width(field(y=2, x=40)) == 0.6
    assert aspect(field({"y": "Pa"}, y=4, x=8)) == "auto"
    assert height_over_width(field(y=1, x=1)) == 1.0


def test_limits_of_signed_positive_and_constant_fields():
    assert truth_scale(np.array([-2.0, 5.0, np.nan])) == Scale("RdBu_r", -5, 5)
    assert truth_scale(np.array([-0.1, 5.0])) == Scale("viridis", -0.1, 5)
    assert truth_scale(np.array([3.0, 3.0])) == Scale("viridis", 2.5, 3.5)
    assert truth_scale(np.array([np.nan])) == Scale("viridis", 0, 1)
    assert error_scale(np.array([-1.0, 0.5])).low == pytest.approx(-1, abs=0.01)
    assert error_scale(np.zeros(3)) == Scale("PuOr_r", -1, 1) == error_scale(np.array([np.inf]))


def test_limits_know_what_exceeds_them():
    scale = Scale("viridis", 0, 1)
    cases = {"neither": [0.5, np.nan], "min": [-1], "max": [2, np.inf], "both": [-1, 2]}
    for expected, values in cases.items():
        assert scale.exceeded_by(np.array(values, dtype=float)) == expected
