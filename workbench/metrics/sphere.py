"""Spectra on the sphere: along circles of latitude, and by the degree l of spherical harmonics.

With orthonormal harmonics, f = sum a_lm Y_lm, the spectrum S(l) = sum_m |a_lm|^2 holds Parseval's identity

    sum_l S(l) = 4 pi <f^2>,

<.> the mean over the sphere, for every field without degrees beyond the truncation of its grid (triangular: orders
and degrees up to one number). The wave along each circle of latitude comes from a Fourier transform. It is then taken
to Gaussian latitudes by the interpolation that is exact for these fields, cosines of colatitude for even orders and
sines for odd ones, so that any set of latitudes from pole to pole will do, and integrated against Legendre functions
there (Swarztrauber & Spotz (2000), doi:10.1006/jcph.2000.6432, compare such transforms).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.special
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import require_dims, require_same_coordinates
from workbench.metrics.spectra import power_spectrum

EARTH_RADIUS = 6.371e6
"""Mean radius of the Earth in metres."""
LEBESGUE_LIMIT = 100.0
"""Largest amplification of rounding in the step to Gaussian latitudes; below 10 for latitudes from pole to pole."""
POLE = 1e-6
"""Degrees within which a latitude is the pole."""


def is_circle(longitude: xr.DataArray) -> bool:
    """Whether evenly spaced longitudes in degrees go once around: n of them, 360 / n degrees apart."""
    steps = np.diff(longitude.values.astype(np.float64))
    return steps.size > 0 and bool(np.allclose(np.abs(steps), 360.0 / (steps.size + 1), rtol=1e-3))


def covers_sphere(latitude: xr.DataArray, longitude: xr.DataArray) -> bool:
    """Whether a grid in degrees covers the sphere, so that it has a spherical spectrum."""
    return is_circle(longitude) and _reaches_poles(latitude.values.astype(np.float64), longitude.size)


def zonal_energy_spectrum(
    field: xr.DataArray, *, latitude: str = "lat", longitude: str = "lon", radius: float = EARTH_RADIUS
) -> xr.DataArray:
    """Return ``S_k = (1 or 2) C |F_k|^2`` of each circle of latitude: sum_k S_k is the integral of f^2 along it.

    F_k = rfft(f) / n, C = 2 pi R cos(latitude). Wavenumbers 0 and, for even n, n/2 count once, the others twice.

    Args:
        field: ``(..., latitude, longitude)`` in any order, longitudes once around.
        latitude: name of the latitude in degrees.
        longitude: name of the longitude in degrees.
        radius: R in metres.

    Returns:
        ``(..., latitude, wavenumber)`` in the square of the field's units times metres; ``wavenumber`` counts waves
        around the circle, the coordinate ``wavelength (latitude, wavenumber)`` is C / k in metres.

    Raises:
        InputError: longitudes do not go once around.

    Source: Rasp et al. (2024), WeatherBench 2, doi:10.1029/2023MS004019, whose code doubles wavenumber n/2, too.
    """
    require_dims(field, (latitude, longitude), f"field '{field.name}'")
    _require_circle(field[longitude])
    around = 2.0 * np.pi * radius * np.cos(np.deg2rad(field[latitude].values))
    circumference = xr.DataArray(around, {latitude: field[latitude]}, (latitude,))
    spectrum = power_spectrum(field, longitude)
    count = np.arange(spectrum.sizes["wavenumber"])
    with np.errstate(divide="ignore"):
        wavelength = around[:, None] / count
    return (spectrum * circumference).assign_coords(
        wavenumber=("wavenumber", count, {"long_name": "zonal wavenumber", "units": "1"}),
        wavelength=((latitude, "wavenumber"), wavelength, {"long_name": "wavelength", "units": "m"}),
    ).assign_attrs(_attrs(field, "zonal energy spectrum", "({units})2 m"))  # fmt: skip


def spherical_spectrum(field: xr.DataArray, *, latitude: str = "lat", longitude: str = "lon") -> xr.DataArray:
    """Return ``S(l) = sum_m |a_lm|^2`` with sum_l S(l) = 4 pi <f^2>; lazy on dask.

    Args:
        field: Real field ``(..., latitude, longitude)`` in any order, on the whole sphere.
        latitude: name of the latitude in degrees, from pole to pole: evenly spaced with, without or between poles, or
            Gaussian.
        longitude: name of the longitude in degrees, once around.

    Returns:
        ``(..., wavenumber)`` in the square of the field's units; ``wavenumber`` is the degree l up to the truncation
        of the grid.

    Raises:
        InputError: the grid does not cover the sphere.
    """
    plan = _plan(field, latitude, longitude)
    spectrum = _apply(lambda values: _scalar_power(values, plan), [field], plan, latitude, longitude)
    return spectrum.assign_attrs(_attrs(field, "spherical spectrum", "({units})2"))


def spherical_kinetic_energy_spectrum(
    eastward: xr.DataArray, northward: xr.DataArray, *, latitude: str = "lat", longitude: str = "lon"
) -> xr.DataArray:
    """Return ``S(l) = R^2 (|zeta_l|^2 + |D_l|^2) / (2 l (l + 1)) / 4 pi``; sum_l S(l) = <u^2 + v^2> / 2.

    Vorticity zeta and divergence D are taken of the wind by parts, so nothing is differenced and R drops out.

    Args:
        eastward: u ``(..., latitude, longitude)``.
        northward: v on the same points.
        latitude: as in `spherical_spectrum`.
        longitude: as in `spherical_spectrum`.

    Raises:
        InputError: the components lie on different points, or not on the whole sphere.

    Source: Lambert (1984), doi:10.1080/07055900.1984.9649193.
    """
    require_same_coordinates(eastward, northward, eastward.dims, str(eastward.name), str(northward.name))
    plan = _plan(eastward, latitude, longitude)
    wind = [eastward, northward]
    spectrum = _apply(lambda u, v: _kinetic_energy(u, v, plan), wind, plan, latitude, longitude)
    return spectrum.assign_attrs(_attrs(eastward, "kinetic energy spectrum", "({units})2"), long_name="kinetic energy")


# ------------------------------------------------------------------------------------------------------- transform


class _Plan:
    """What a transform from given latitudes needs: truncation, Gaussian latitudes, and the way to them.

    Attributes:
        truncation: largest degree and order.
        x: sines of the Gaussian latitudes.
        weights: of Gaussian quadrature, ``sum = 2``.
        even: takes values at the given latitudes to Gaussian ones where they are a polynomial in x.
        odd: the same where they are cos(latitude) times a polynomial.
    """

    def __init__(self, latitudes: np.ndarray, longitudes: int) -> None:
        theta = np.pi / 2 - np.deg2rad(latitudes)
        inside = np.flatnonzero(np.abs(latitudes) < 90.0 - POLE)
        self.truncation = min(theta.size - 1, inside.size, (longitudes - 1) // 2)
        self.x, self.weights = scipy.special.roots_legendre(theta.size)
        gauss = np.arccos(self.x)
        k = np.arange(theta.size)
        self.even = _through(np.cos(np.outer(theta, k)), np.cos(np.outer(gauss, k)))
        k = np.arange(1, inside.size + 1)
        self.odd = np.zeros_like(self.even)
        self.odd[:, inside] = _through(np.sin(np.outer(theta[inside], k)), np.sin(np.outer(gauss, k)))

    def orders(self, values: np.ndarray, vector: bool = False) -> np.ndarray:
        """Fourier coefficients ``[..., latitude, m]`` at Gaussian latitudes, times 2 pi and the weights.

        A component of a vector has the parity of the other kind of order.
        """
        waves = scipy.fft.rfft(values.astype(np.float64, copy=False), axis=-1)[..., : self.truncation + 1]
        waves = waves * (2.0 * np.pi / values.shape[-1])
        found = np.empty((*waves.shape[:-2], len(self.x), waves.shape[-1]), waves.dtype)
        for parity, matrix in enumerate((self.odd, self.even) if vector else (self.even, self.odd)):
            found[..., parity::2] = matrix @ waves[..., parity::2]
        return found * self.weights[:, None]


def _through(at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The matrix that evaluates basis functions ``to[j, k]`` of the interpolation through ``at[i, k]``."""
    try:
        return np.asarray(np.linalg.solve(at.T, to.T).T)
    except np.linalg.LinAlgError:
        return np.full((len(to), len(at)), np.inf)


@lru_cache(maxsize=4)
def _cached_plan(latitudes: tuple[float, ...], longitudes: int) -> _Plan:
    return _Plan(np.array(latitudes), longitudes)


def _plan(field: xr.DataArray, latitude: str, longitude: str) -> _Plan:
    """The transform of the grid of `field`.

    Raises:
        InputError: it does not cover the sphere.
    """
    require_dims(field, (latitude, longitude), f"field '{field.name}'")
    _require_circle(field[longitude])
    values = field[latitude].values.astype(np.float64)
    if _reaches_poles(values, field.sizes[longitude]):
        return _cached_plan(tuple(values.tolist()), field.sizes[longitude])
    raise InputError(
        f"a spherical spectrum needs latitudes from pole to pole, found '{latitude}' with {values.size} rows from "
        f"{values.min():g} to {values.max():g}: take the whole globe, or a spectrum along '{longitude}' alone"
    )


def _reaches_poles(latitudes: np.ndarray, longitudes: int) -> bool:
    """Whether rounding is not amplified on the way to Gaussian latitudes, as it would be from a part of the sphere."""
    if latitudes.size < 3 or np.abs(latitudes).max() > 90.0 + POLE or np.ptp(latitudes) < 90.0:
        return False
    plan = _cached_plan(tuple(latitudes.tolist()), longitudes)
    return max(np.abs(matrix).sum(axis=1).max() for matrix in (plan.even, plan.odd)) <= LEBESGUE_LIMIT


def _require_circle(longitude: xr.DataArray) -> None:
    if not is_circle(longitude):
        raise InputError(
            f"a spectrum on the sphere needs longitudes once around, found '{longitude.name}' with {longitude.size} "
            f"points from {float(longitude.min()):g} to {float(longitude.max()):g}: expected even steps of "
            f"{360 / max(longitude.size, 1):g} degrees; for a part of a circle use power_spectrum(..., window='hann')"
        )


def legendre(x: np.ndarray, m: int, truncation: int, *, divided: bool = False) -> np.ndarray:
    """Return orthonormal associated Legendre functions P_lm(x), l = m .. truncation, ``float64[l - m, x]``.

    Normalised so that P_lm exp(i m lambda) has the mean square 1 / (4 pi); without the sign (-1)^m. Three-term
    recursion in l, good to degrees of about 1900 (Holmes & Featherstone (2002), doi:10.1007/s00190-002-0216-2, eq. 11).

    Args:
        x: sines of latitudes.
        m: the order.
        truncation: largest degree.
        divided: return P_lm / cos(latitude), for m of at least 1; finite at the poles.
    """
    cosine = np.sqrt(1.0 - x**2)
    factors = np.arange(1, m + 1)
    start = np.sqrt(np.prod((2.0 * factors + 1.0) / (2.0 * factors)) / (4.0 * np.pi))
    found = np.zeros((truncation - m + 1, x.size))
    found[0] = start * cosine ** (m - divided)
    for row, degree in enumerate(range(m + 1, truncation + 1), start=1):
        a = np.sqrt((4.0 * degree**2 - 1.0) / (degree**2 - m**2))
        found[row] = a * x * found[row - 1]
        if row > 1:
            b = np.sqrt(((degree - 1.0) ** 2 - m**2) / (4.0 * (degree - 1.0) ** 2 - 1.0))
            found[row] -= a * b * found[row - 2]
    return found


def _scalar_power(values: np.ndarray, plan: _Plan) -> np.ndarray:
    """``S[..., l]`` of fields ``[..., latitude, longitude]``."""
    orders = plan.orders(values)
    power = np.zeros((*values.shape[:-2], plan.truncation + 1))
    for m in range(plan.truncation + 1):
        coefficients = orders[..., m] @ legendre(plan.x, m, plan.truncation).T
        power[..., m:] += (1.0 if m == 0 else 2.0) * _square(coefficients)
    return power


def _kinetic_energy(eastward: np.ndarray, northward: np.ndarray, plan: _Plan) -> np.ndarray:
    """Kinetic energy ``[..., l]`` of winds ``[..., latitude, longitude]``.

    With colatitude theta: R zeta_lm = int (v i m P / sin(theta) - u dP / dtheta) exp(-i m lambda) dOmega and
    R D_lm = int (u i m P / sin(theta) + v dP / dtheta) exp(-i m lambda) dOmega.
    """
    u, v = plan.orders(eastward, vector=True), plan.orders(northward, vector=True)
    energy = np.zeros((*eastward.shape[:-2], plan.truncation + 1))
    degrees = np.arange(plan.truncation + 1)
    for m in range(plan.truncation + 1):
        turned, slope = _gradient(plan.x, m, plan.truncation)
        vorticity = 1j * (v[..., m] @ turned.T) - u[..., m] @ slope.T
        divergence = 1j * (u[..., m] @ turned.T) + v[..., m] @ slope.T
        energy[..., m:] += (1.0 if m == 0 else 2.0) * (_square(vorticity) + _square(divergence))
    return energy / (8.0 * np.pi * np.maximum(degrees * (degrees + 1.0), 1.0))


def _gradient(x: np.ndarray, m: int, truncation: int) -> tuple[np.ndarray, np.ndarray]:
    """Return m P_lm / sin(theta) and dP_lm / dtheta, each ``[l - m, x]``."""
    degrees = np.arange(m, truncation + 1, dtype=np.float64)[:, None]
    if m == 0:
        slope = np.zeros((truncation + 1, x.size))
        if truncation > 0:
            slope[1:] = -np.sqrt(degrees[1:] * (degrees[1:] + 1.0)) * legendre(x, 1, truncation)
        return np.zeros_like(slope), slope
    divided = legendre(x, m, truncation, divided=True)
    slope = degrees * x * divided
    below = np.sqrt((2.0 * degrees[1:] + 1.0) / (2.0 * degrees[1:] - 1.0) * (degrees[1:] ** 2 - m**2))
    slope[1:] -= below * divided[:-1]
    return m * divided, slope


def _square(coefficients: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged field has no finite spectrum, and shows it
        return np.asarray(coefficients.real**2 + coefficients.imag**2)


def _apply(
    of: Callable[..., np.ndarray], fields: list[xr.DataArray], plan: _Plan, latitude: str, longitude: str
) -> xr.DataArray:
    """``(..., wavenumber)`` of fields in one chunk along latitude and longitude."""
    whole = {latitude: -1, longitude: -1}
    spectrum = xr.apply_ufunc(
        of,
        *(f.chunk(whole) if f.chunks is not None else f for f in fields),
        input_core_dims=[[latitude, longitude]] * len(fields),
        output_core_dims=[["wavenumber"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": plan.truncation + 1}},
    )
    degree = ("wavenumber", np.arange(plan.truncation + 1), {"long_name": "total wavenumber", "units": "1"})
    found: xr.DataArray = spectrum.assign_coords(wavenumber=degree)
    return found


def _attrs(field: xr.DataArray, what: str, units: str) -> dict[str, str]:
    words = {"long_name": f"{what} of {field.attrs.get('long_name', field.name)}"}
    return words | ({"units": units.format(units=field.attrs["units"])} if "units" in field.attrs else {})
