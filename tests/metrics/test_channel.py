import dask
import numpy as np
import pytest
import xarray as xr
from channel_record import channel, wall_nodes

from workbench.errors import InputError
from workbench.metrics.channel import (
    Grid,
    Names,
    correlation,
    divergence,
    fold,
    friction_reynolds_number,
    friction_velocity,
    nearest_nodes,
    one_sided_power,
    q_criterion,
    q_of_gradient,
    same_units,
    velocity_gradient,
)
from workbench.metrics.spectra import power_spectrum


def box(u, v, w, points=(8, 9, 8)):
    """Fields of functions of x, y, z on a channel of period 2 pi."""
    nx, ny, nz = points
    x, z = (2 * np.pi * np.arange(n) / n for n in (nx, nz))
    y = wall_nodes(ny)
    grid = np.meshgrid(x, y, z, indexing="ij")
    one = {"units": "1"}
    values = {name: (("x", "y", "z"), f(*grid) + 0 * grid[0], one) for name, f in zip("uvw", (u, v, w), strict=True)}
    return xr.Dataset(values, {"x": x, "y": y, "z": z})


def profile(f, count=17):
    y = wall_nodes(count)
    return xr.DataArray(f(y), dims="y", coords={"y": y})


# ------------------------------------------------------------------------------------------------------ profiles


def test_friction_velocity_of_poiseuille_flow_is_exact():
    # u = U (1 - (y - 1)^2): du/dy = 2 U at the wall, and the difference of second order knows parabolas
    half = fold(profile(lambda y: 1.5 * y * (2 - y)))
    assert float(friction_velocity(half, 1 / 4200)) == pytest.approx(np.sqrt(3.0 / 4200), rel=1e-12)


def test_the_error_of_the_friction_velocity_falls_with_the_square_of_the_spacing():
    errors = [abs(float(friction_velocity(profile(np.tanh, n), 1.0)) - 1.0) for n in (17, 33, 65)]
    # the spacing at the wall of these nodes falls as the square of their number: 1/16 a doubling for second order
    assert 12 < errors[0] / errors[1] < 20 and 12 < errors[1] / errors[2] < 20


def test_friction_reynolds_number_of_the_published_table():
    assert friction_reynolds_number(0.04157, 1.0, 1 / 4200) == pytest.approx(174.59, abs=0.01)


@pytest.mark.parametrize("count", [8, 9])
def test_folding_takes_the_even_or_the_odd_part(count):
    even, odd = profile(lambda y: np.cos(y - 1), count), profile(lambda y: np.sin(y - 1), count)
    half = (count + 1) // 2
    np.testing.assert_allclose(fold(even + odd, 1), even[:half], atol=1e-15)
    np.testing.assert_allclose(fold(even + odd, -1), odd[:half], atol=1e-15)


def test_nearest_nodes_leave_out_the_wall_and_count_each_once():
    assert nearest_nodes([0.0, 4.0, 8.0, 30.0], [0.1, 5.0, 7.0, 1000.0]) == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------- derivatives


def test_q_of_solid_body_rotation_is_the_square_of_its_rate_and_of_shear_zero():
    rotation = np.zeros((3, 3))
    rotation[0, 1], rotation[1, 0] = -2.0, 2.0
    shear, strain = np.zeros((3, 3)), np.diag([1.0, -1.0, 0.0])
    shear[0, 1] = 5.0
    assert q_of_gradient(rotation) == 4.0
    assert q_of_gradient(shear) == 0.0
    assert q_of_gradient(strain) == -1.0


@pytest.mark.parametrize("points", [(8, 9, 8), (7, 9, 9)])
def test_q_of_cellular_vortices(points):
    flow = box(lambda x, y, z: np.sin(x) * np.cos(z), lambda x, y, z: 0, lambda x, y, z: -np.cos(x) * np.sin(z), points)
    x, z = flow["x"], flow["z"]
    exact = np.sin(x) ** 2 * np.sin(z) ** 2 - np.cos(x) ** 2 * np.cos(z) ** 2
    expected = exact.expand_dims(y=flow["y"]).transpose("x", "y", "z")
    np.testing.assert_allclose(q_criterion(flow), expected, atol=1e-13)


def test_a_solenoidal_field_that_is_quadratic_in_y_has_no_divergence():
    flow = box(
        lambda x, y, z: 2 * np.sin(x) * (y - 1),
        lambda x, y, z: -np.cos(x) * (y - 1) ** 2,
        lambda x, y, z: np.sin(2 * x),
    )
    np.testing.assert_allclose(divergence(flow), 0.0, atol=1e-13)


def test_wall_normal_derivatives_are_of_second_order_on_the_stretched_grid():
    errors = []
    for count in (17, 33, 65):
        flow = box(lambda x, y, z: np.sin(3 * y), lambda x, y, z: 0, lambda x, y, z: 0, (4, count, 4))
        found = velocity_gradient(flow.to_dataarray().values, Grid.of(flow))[0, 1]
        errors.append(np.abs(found - 3 * np.cos(3 * flow["y"].values)[:, None]).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.8).all()


def test_q_is_lazy_and_takes_any_order_of_dimensions():
    record = channel(1, 2)
    expected = q_criterion(record)

    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        lazy = q_criterion(record.chunk(x=3, y=4, time=1))
    np.testing.assert_allclose(lazy, expected, rtol=1e-12)
    turned = q_criterion(record.transpose("z", "y", "x", "time", "trajectory"))
    np.testing.assert_allclose(turned.transpose(*expected.dims), expected, rtol=1e-12)


# -------------------------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize("count", [8, 9])
def test_one_sided_power_is_that_of_power_spectrum_and_adds_up(count):
    values = np.random.default_rng(0).normal(size=(3, count))
    field = xr.DataArray(values, dims=("z", "x"), coords={"x": np.arange(count) * 0.3}, name="u")
    power = one_sided_power(values, 1)
    np.testing.assert_allclose(power, power_spectrum(field, "x"), rtol=1e-12)
    np.testing.assert_allclose(power.sum(1), (values**2).mean(1), rtol=1e-12)


@pytest.mark.parametrize("count", [8, 9])
def test_correlation_is_the_mean_product_of_shifted_fields(count):
    values = np.random.default_rng(0).normal(size=count)
    wavenumbers = 2 * np.pi * np.arange(count // 2 + 1)
    power = one_sided_power(values, 0)
    spectrum = xr.DataArray(power, dims="k", coords={"k": wavenumbers})
    apart = np.arange(count // 2 + 1)
    separation = xr.DataArray(apart / count, dims="r", coords={"r": apart / count})
    direct = [np.mean(values * np.roll(values, -m)) / np.mean(values**2) for m in apart]
    np.testing.assert_allclose(correlation(spectrum, "k", separation), direct, atol=1e-13)


# ---------------------------------------------------------------------------------------------------------- input

RECORD = channel(1, 2)


def with_units(**units):
    record = RECORD.copy()
    for name, unit in units.items():
        record[name] = record[name].assign_attrs(units=unit)
    return record


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Grid.of(RECORD.isel(y=0)), r"expected \('y',\) among its dimensions"),
        (lambda: Grid.of(RECORD.drop_vars("z")), "dimension 'z' of the channel has no coordinate"),
        (lambda: Grid.of(RECORD.isel(x=[0, 1, 3])), "'x' needs at least two uniform, rising nodes"),
        (lambda: Grid.of(RECORD.isel(z=[0])), "'z' needs at least two uniform, rising nodes, found 1"),
        (
            lambda: Grid.of(RECORD.assign_coords(x=("x", np.linspace(0, np.pi, 8), {"period": np.pi}))),
            "'x' has the period 3.14159 and 8 nodes .* leave out the second of the two equal ends",
        ),
        (lambda: Grid.of(RECORD.isel(y=slice(0, 7))), "nodes of 'y' do not mirror each other"),
        (lambda: Grid.of(RECORD.isel(y=slice(None, None, -1))), "'y' needs at least five rising nodes"),
        (lambda: same_units(with_units(v="m s-1"), Names()), "need one unit, found u in '1', v in 'm s-1', w in '1'"),
        (lambda: same_units(with_units(u="", v="", w=""), Names()), "need one unit, found u in ''"),
        (lambda: same_units(RECORD.drop_vars("w"), Names()), "no velocity component 'w', only u, v"),
        (lambda: friction_velocity(profile(np.sin), -1.0), "expected a positive viscosity, found -1.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
