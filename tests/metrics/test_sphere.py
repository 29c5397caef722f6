"""Spectra on the sphere: Parseval, single harmonics, rotation, winds of known streamfunction, grids that do not do."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import roots_legendre, sph_harm_y

from workbench.errors import InputError
from workbench.metrics.sphere import (
    EARTH_RADIUS,
    legendre,
    spherical_kinetic_energy_spectrum,
    spherical_spectrum,
    zonal_energy_spectrum,
)

ROWS = {
    "with poles": np.linspace(90, -90, 25),
    "between poles": np.linspace(-86.25, 86.25, 24),
    "one pole": np.linspace(-90, 90, 25)[:-1],
    "gaussian": np.rad2deg(np.arcsin(roots_legendre(24)[0])),
}


def field(of, rows, longitudes=48, **attrs):
    """A field ``of(colatitude, longitude)`` in radians on rows of latitude."""
    lon = np.arange(longitudes) * 360.0 / longitudes
    values = of(np.deg2rad(90.0 - rows)[:, None], np.deg2rad(lon))
    return xr.DataArray(values, coords={"lat": rows, "lon": lon}, dims=("lat", "lon"), name="f", attrs=attrs)


def random_coefficients(truncation, seed=0):
    """a_lm of a real field ``(l, m)``, m >= 0."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(truncation + 1, truncation + 1)) + 1j * rng.normal(size=(truncation + 1, truncation + 1))
    found[:, 0] = found[:, 0].real
    return np.tril(found)


def synthesis(coefficients, slope=False):
    """The field of the coefficients, or its derivative in colatitude, from scipy's harmonics."""

    def of(theta, phi):
        theta, phi = np.broadcast_arrays(theta, phi)
        total = np.zeros(theta.shape)
        for degree, order in zip(*np.nonzero(coefficients), strict=True):
            harmonic = sph_harm_y(degree, order, theta, phi, diff_n=int(slope))
            value = coefficients[degree, order] * (harmonic[1][..., 0] if slope else harmonic)
            total += (1.0 if order == 0 else 2.0) * value.real
        return total

    return of


def power(coefficients):
    factor = np.where(np.arange(coefficients.shape[1]) == 0, 1.0, 2.0)
    return (factor * abs(coefficients) ** 2).sum(1)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_every_degree_of_a_random_field_up_to_the_truncation_of_its_grid(rows):
    found = spherical_spectrum(field(lambda t, p: 0 * t * p, rows))
    truncation = found.sizes["wavenumber"] - 1
    assert truncation == 23  # latitudes less one, or two where both poles are rows; 48 longitudes allow 23
    coefficients = random_coefficients(truncation)
    found = spherical_spectrum(field(synthesis(coefficients), rows))
    np.testing.assert_allclose(found, power(coefficients), rtol=1e-11)


def test_parseval_with_the_mean_by_gaussian_quadrature():
    x, weights = roots_legendre(40)
    fields = field(synthesis(random_coefficients(18)), np.rad2deg(np.arcsin(x)), 40)
    square = float((weights[:, None] * fields**2).sum() / 2 / 40)
    assert float(spherical_spectrum(fields).sum()) == pytest.approx(4 * np.pi * square, rel=1e-12)


@pytest.mark.parametrize(("degree", "order"), [(0, 0), (1, 0), (5, 5), (11, 4), (12, 1)])
def test_one_harmonic_is_in_its_own_degree_however_the_sphere_is_turned(degree, order):
    def tilted(theta, phi):  # the pole of the harmonic lies at 40 degrees of colatitude
        z = np.cos(theta) * np.cos(0.7) + np.sin(theta) * np.cos(phi) * np.sin(0.7)
        x = np.sin(theta) * np.cos(phi) * np.cos(0.7) - np.cos(theta) * np.sin(0.7)
        y = np.sin(theta) * np.sin(phi)
        return sph_harm_y(degree, order, np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)).real

    found = spherical_spectrum(field(tilted, ROWS["with poles"])).values
    expected = np.zeros(found.size)
    expected[degree] = 1.0 if order == 0 else 0.5
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_legendre_functions_at_a_high_degree_agree_with_scipy():
    x = np.linspace(-0.999, 0.999, 7)
    ours = legendre(x, 250, 360)
    theirs = [abs(sph_harm_y(degree, 250, np.arccos(x), 0.0)) for degree in (250, 300, 360)]
    np.testing.assert_allclose(abs(ours[[0, 50, 110]]), theirs, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_wind_of_streamfunction_and_potential_has_their_energy(rows):
    """u = -psi_phi + chi_lambda / cos(phi), v = psi_lambda / cos(phi) + chi_phi; l (l + 1) |a_l|^2 / 2 each."""
    psi, chi = random_coefficients(10, 1), random_coefficients(10, 2)
    psi[0] = chi[0] = 0
    off = np.where(abs(rows) > 89.99, np.sign(rows) * (90 - 1e-5), rows)  # the wind at a pole is a limit

    def east(c):
        return lambda t, p: synthesis(1j * np.arange(c.shape[1]) * c)(t, p) / np.sin(t)

    u = field(lambda t, p: synthesis(psi, slope=True)(t, p) + east(chi)(t, p), off).assign_coords(lat=rows)
    v = field(lambda t, p: east(psi)(t, p) - synthesis(chi, slope=True)(t, p), off).assign_coords(lat=rows)
    found = spherical_kinetic_energy_spectrum(u, v)
    degree = np.arange(11)
    expected = degree * (degree + 1) * (power(psi) + power(chi)) / (8 * np.pi)
    np.testing.assert_allclose(found[:11], expected, rtol=2e-6)
    assert float(abs(found[11:]).max()) < 1e-6 * float(expected.max())


def test_solid_body_rotation_is_degree_one():
    u = field(lambda t, p: 10.0 * np.sin(t) + 0 * p, ROWS["with poles"], units="m s-1")
    found = spherical_kinetic_energy_spectrum(u, 0 * u)
    assert float(found[1]) == pytest.approx(0.5 * 100 * 2 / 3, rel=1e-13)  # <cos^2 latitude> = 2/3
    assert float(found.sum() - found[1]) < 1e-12
    assert found.attrs["units"] == "(m s-1)2"


@pytest.mark.parametrize("longitudes", [15, 16])
def test_zonal_energy_sums_to_the_integral_along_the_circle(longitudes):
    rows = np.array([-90.0, -30.0, 0.0, 60.0])
    rng = np.random.default_rng(0)
    data = field(lambda t, p: rng.normal(size=np.broadcast_shapes(t.shape, p.shape)), rows, longitudes, units="K")
    found = zonal_energy_spectrum(data)
    circle = 2 * np.pi * EARTH_RADIUS * np.cos(np.deg2rad(data.lat))
    np.testing.assert_allclose(found.sum("wavenumber"), (data**2).mean("lon") * circle, rtol=1e-12)
    assert float(found.wavelength.sel(lat=60, wavenumber=2)) == pytest.approx(np.pi * EARTH_RADIUS / 2)
    assert found.attrs["units"] == "(K)2 m" and found.dims == ("lat", "wavenumber")


def test_the_nyquist_wave_counts_once_in_zonal_energy():
    data = field(lambda t, p: 2.0 * (-1.0) ** np.arange(8) + 0 * t, np.array([0.0, 60.0]), 8)
    found = zonal_energy_spectrum(data).sel(lat=0)
    np.testing.assert_allclose(found / (2 * np.pi * EARTH_RADIUS), [0, 0, 0, 0, 4.0], atol=1e-12)


def test_lazy_and_other_dimensions_and_order():
    data = field(synthesis(random_coefficients(8)), ROWS["gaussian"])
    both = xr.concat([data, 2 * data], "time")
    whole = spherical_spectrum(both)
    lazy = spherical_spectrum(both.transpose("lon", "time", "lat").chunk(time=1, lon=7))
    assert lazy.chunks is not None and lazy.dims == ("time", "wavenumber")
    xr.testing.assert_allclose(lazy.compute(), whole, rtol=1e-12)
    np.testing.assert_allclose(whole[1], 4 * whole[0], rtol=1e-12)


def test_a_part_of_the_globe_is_refused():
    part = field(lambda t, p: np.cos(t) + 0 * p, np.linspace(30, 70, 17))
    with pytest.raises(InputError, match="latitudes from pole to pole, found 'lat' with 17 rows from 30 to 70"):
        spherical_spectrum(part)
    sector = field(lambda t, p: np.cos(t) + 0 * p, ROWS["with poles"]).isel(lon=slice(0, 40))
    for spectrum in (spherical_spectrum, zonal_energy_spectrum):
        with pytest.raises(InputError, match="longitudes once around, found 'lon' with 40 points from 0 to 292.5"):
            spectrum(sector)


def test_a_field_that_is_not_finite_has_no_spectrum():
    data = field(synthesis(random_coefficients(4)), ROWS["gaussian"])
    data[3, 4] = np.nan
    assert np.isnan(spherical_spectrum(data)).all()
