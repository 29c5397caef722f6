"""Parseval, single waves, shells, slopes, invariances of the spectra."""

import dask
import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.spectra import (
    band_ratio,
    kinetic_energy_spectrum,
    log_spectral_distance,
    power_spectrum,
)


def periodic(values, length=2 * np.pi, names="zyx", **attrs):
    """Return a field on a periodic grid of equal side ``length`` in every direction."""
    dims = tuple(names[-values.ndim :])
    coords = {dim: (dim, np.arange(n) * length / n, {"units": "m"}) for dim, n in zip(dims, values.shape, strict=True)}
    return xr.DataArray(values, dims=dims, coords=coords, name="u", attrs={"units": "m s-1", **attrs})


@pytest.mark.parametrize(
    "shape", [(15,), (16,), (2,), (8, 9), (9, 8), (7, 7), (12, 12), (6, 5, 4), (5, 6, 7), (4, 4, 4)]
)
def test_parseval(shape):
    field = periodic(3.0 + np.random.default_rng(0).normal(size=shape))
    spectrum = power_spectrum(field, field.dims)
    assert float(spectrum.sum()) == pytest.approx(float((field**2).mean()), rel=1e-13)
    assert float(spectrum[0]) == pytest.approx(float(field.mean()) ** 2, rel=1e-12)


@pytest.mark.parametrize("over", ["x", ("y",), ("y", "x"), ("z", "x")])
def test_parseval_holds_point_by_point_over_a_subset_of_directions(over):
    field = periodic(np.random.default_rng(1).normal(size=(5, 6, 8)))
    spectrum = power_spectrum(field, over)
    mean = (field**2).mean(over)
    xr.testing.assert_allclose(spectrum.sum("wavenumber"), mean, rtol=1e-13)
    assert spectrum.dims == (*mean.dims, "wavenumber")


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("wave", [1, 3, 7])
def test_a_single_wave_has_half_its_squared_amplitude_in_its_own_bin(size, wave):
    x = np.arange(size) * 2 * np.pi / size
    spectrum = power_spectrum(periodic(5.0 * np.cos(wave * x + 0.4)), "x")
    expected = np.zeros(size // 2 + 1)
    expected[wave] = 12.5
    np.testing.assert_allclose(spectrum, expected, atol=1e-13)
    assert float(spectrum.wavenumber[wave]) == pytest.approx(wave)


def test_the_nyquist_wave_is_counted_once():
    spectrum = power_spectrum(periodic(2.0 * (-1.0) ** np.arange(8)), "x")
    np.testing.assert_allclose(spectrum, [0, 0, 0, 0, 4.0], atol=1e-14)


def test_a_diagonal_wave_lands_in_its_shell():
    n = 16
    z, y, x = np.meshgrid(*[np.arange(n) * 2 * np.pi / n] * 3, indexing="ij")
    spectrum = power_spectrum(periodic(np.sin(2 * x + 2 * y + z)), ("z", "y", "x"))  # |k| = 3
    assert int(spectrum.argmax("wavenumber")) == 3
    assert float(spectrum[3]) == pytest.approx(0.5)


def test_shells_of_a_long_box_have_the_width_of_the_largest_fundamental():
    field = periodic(np.random.default_rng(0).normal(size=(8, 32))).assign_coords(x=np.arange(32) * np.pi / 4)
    field.x.attrs["units"] = "m"
    spectrum = power_spectrum(field, ("y", "x"))  # L_y = 2 pi, L_x = 8 pi
    assert spectrum.attrs["shell_width"] == pytest.approx(1.0)
    assert spectrum.attrs["largest_complete"] == pytest.approx(4.0)
    assert float(spectrum.sum()) == pytest.approx(float((field**2).mean()), rel=1e-13)


@pytest.mark.parametrize(("ndim", "size"), [(1, 1024), (2, 256), (3, 64)])
def test_the_slope_of_a_synthetic_field_is_recovered(ndim, size):
    """Random phases with E(k) ~ k^-5/3: each mode has E(k) over the measure of its sphere, k^(ndim - 1)."""
    rng = np.random.default_rng(0)
    k = np.sqrt(sum(m**2 for m in np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * ndim, indexing="ij")))
    k.flat[0] = 1.0
    white = np.fft.fftn(rng.normal(size=(size,) * ndim))
    white /= np.abs(white)
    field = periodic(np.fft.ifftn(white * np.sqrt(k ** (-5 / 3 - (ndim - 1)))).real)
    spectrum = power_spectrum(field, field.dims)
    fit = spectrum.isel(wavenumber=slice(4, int(spectrum.attrs["largest_complete"])))
    slope = np.polyfit(np.log(fit.wavenumber), np.log(fit), 1)[0]
    assert slope == pytest.approx(-5 / 3, abs=0.05)


def test_translation_and_reflection_leave_the_spectrum_unchanged():
    field = periodic(np.random.default_rng(0).normal(size=(12, 10)))
    spectrum = power_spectrum(field, ("y", "x"))
    moved = power_spectrum(field.roll(y=5, x=3), ("y", "x"))
    mirrored = power_spectrum(field.isel(y=slice(None, None, -1)), ("y", "x"))
    np.testing.assert_allclose(moved, spectrum, rtol=1e-10)
    np.testing.assert_allclose(mirrored, spectrum, rtol=1e-10)
    np.testing.assert_allclose(power_spectrum(field, ("x", "y")), spectrum, rtol=1e-10)


def test_labels():
    field = periodic(np.ones((4, 8)), length=0.5, long_name="streamwise velocity").expand_dims(lead_time=[1.0, 2.0])
    spectrum = power_spectrum(field, ("y", "x"))
    assert spectrum.dims == ("lead_time", "wavenumber")
    assert spectrum.attrs["units"] == "(m s-1)2"
    assert spectrum.attrs["long_name"] == "power spectrum of streamwise velocity"
    assert spectrum.wavenumber.attrs["units"] == "(m)-1"
    np.testing.assert_allclose(spectrum.wavenumber[:2], [0, 4 * np.pi])


def test_a_daily_record_has_wavenumbers_per_second():
    days = np.datetime64("2001-01-01", "ns") + np.arange(8) * np.timedelta64(1, "D")
    series = xr.DataArray(np.cos(np.arange(8) * np.pi / 2), dims="time", coords={"time": days}, name="t")
    spectrum = power_spectrum(series, "time")
    assert float(spectrum.wavenumber[int(spectrum.argmax("wavenumber"))]) == pytest.approx(2 * np.pi / (4 * 86400))
    assert spectrum.wavenumber.attrs["units"] == "s-1"
    assert "units" not in spectrum.attrs


def test_single_precision_fields_are_transformed_in_double():
    field = periodic(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    expected = float((field.astype(np.float64) ** 2).mean())
    assert float(power_spectrum(field, ("y", "x")).sum()) == pytest.approx(expected, rel=1e-13)


def test_spectra_are_lazy_and_independent_of_chunks():
    field = periodic(np.random.default_rng(0).normal(size=(6, 8, 8)))

    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        lazy = power_spectrum(field.chunk(z=2, y=4, x=3), ("y", "x"))
        energy = kinetic_energy_spectrum([field.chunk(z=2), field.chunk(z=3)], ("y", "x"))
        distance = log_spectral_distance(lazy, energy)
        ratio = band_ratio(lazy, energy, [1, 3])
    expected = power_spectrum(field, ("y", "x"))
    np.testing.assert_allclose(lazy, expected, rtol=1e-13)
    np.testing.assert_allclose(energy, expected, rtol=1e-13)
    np.testing.assert_allclose(distance, 0.0, atol=1e-12)
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-12)


def test_a_diverged_field_shows_in_its_spectrum():
    field = periodic(np.ones((2, 4, 4)))
    field[0, 1, 1] = np.nan
    field[1, 1, 1] = 1e300
    spectrum = power_spectrum(field, ("y", "x"))
    assert not np.isfinite(spectrum.sum("wavenumber", skipna=False)).any()


def test_kinetic_energy_spectrum_adds_up_to_the_kinetic_energy():
    rng = np.random.default_rng(0)
    velocity = [periodic(rng.normal(size=(8, 9))) for _ in range(3)]
    spectrum = kinetic_energy_spectrum(velocity, ("y", "x"))
    energy = 0.5 * sum(float((u**2).mean()) for u in velocity)
    assert float(spectrum.sum()) == pytest.approx(energy, rel=1e-13)
    assert spectrum.attrs["long_name"] == "kinetic energy spectrum"


def test_a_window_keeps_the_variance_of_a_homogeneous_field_in_expectation():
    field = periodic(2.0 + np.random.default_rng(0).normal(size=(400, 24, 24)))
    spectrum = power_spectrum(field, ("y", "x"), window="hann").mean("z")
    assert float(spectrum.sum()) == pytest.approx(5.0, rel=0.01)


def test_a_window_removes_the_leakage_of_a_wave_that_does_not_fit():
    x = np.arange(256) * 2 * np.pi / 256
    field = periodic(np.sin(10.5 * x))
    far = slice(60, None)
    plain, windowed = (power_spectrum(field, "x", window=w).sel(wavenumber=far).sum() for w in (None, "hann"))
    assert float(windowed) < 1e-4 * float(plain)


def test_log_spectral_distance_of_a_constant_factor():
    truth = power_spectrum(periodic(np.random.default_rng(0).normal(size=(5, 16))), "x")
    np.testing.assert_allclose(log_spectral_distance(100 * truth, truth), 20.0, rtol=1e-13)
    np.testing.assert_allclose(log_spectral_distance(truth / 10, truth), 10.0, rtol=1e-13)
    with_mean = truth.copy()
    with_mean[:, 0] *= 1e6  # the mean is no part of the distance
    np.testing.assert_allclose(log_spectral_distance(with_mean, truth), 0.0, atol=1e-13)
    assert np.isinf(log_spectral_distance(truth.where(truth.wavenumber < 5, 0.0), truth)).all()


def test_band_ratio_hand_worked():
    wavenumber = {"wavenumber": [0.0, 1.0, 2.0, 3.0, 4.0]}
    truth = xr.DataArray([9.0, 4.0, 2.0, 1.0, 1.0], dims="wavenumber", coords=wavenumber)
    prediction = xr.DataArray([9.0, 4.0, 1.0, 1.0, 0.0], dims="wavenumber", coords=wavenumber)
    ratio = band_ratio(prediction, truth, [1, 3, np.inf])
    np.testing.assert_allclose(ratio, [5 / 6, 1 / 2])
    np.testing.assert_array_equal(ratio.lower, [1, 3])
    np.testing.assert_array_equal(ratio.upper, [3, np.inf])


STRETCHED = periodic(np.ones((4, 8))).assign_coords(y=[0.0, 1.0, 3.0, 6.0])
UNEQUAL = periodic(np.ones((4, 8))).assign_coords(x=("x", np.arange(8.0), {"units": "s"}))
SPECTRUM = power_spectrum(periodic(np.ones(8)), "x")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_spectrum(STRETCHED, ("y", "x")), "uniform grid .* along 'y', found spacing from 1 to 3"),
        (lambda: power_spectrum(STRETCHED.isel(y=[0]), "y"), "undefined: a single point"),
        (
            lambda: power_spectrum(STRETCHED, "z"),
            r"field 'u': expected \('z',\) among its dimensions, found \('y', 'x'\)",
        ),
        (lambda: power_spectrum(STRETCHED, ()), "one to three different directions"),
        (lambda: power_spectrum(STRETCHED, ("x", "x")), "one to three different directions"),
        (lambda: power_spectrum(UNEQUAL, ("y", "x")), r"different units, \['m', 's'\]"),
        (lambda: kinetic_energy_spectrum([], "x"), "at least one velocity component"),
        (lambda: kinetic_energy_spectrum([STRETCHED, STRETCHED[:2]], "x"), "coordinate 'y' differs"),
        (lambda: log_spectral_distance(SPECTRUM, SPECTRUM[:3]), "coordinate 'wavenumber' differs"),
        (lambda: log_spectral_distance(SPECTRUM.rename(wavenumber="k"), SPECTRUM), r"expected \('wavenumber',\) among"),
        (lambda: band_ratio(SPECTRUM, SPECTRUM, [1.2, 1.8]), "no wavenumber lies in the band 1.2 <= k < 1.8"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
