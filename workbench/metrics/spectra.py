"""Power spectra of real fields on uniform grids, in one, two or three directions, and distances between them.

The discrete transform of a real field f on N = prod N_i points, F_k = sum_x f_x exp(-i k.x), gives the power of one
mode as |F_k|^2 / N^2. The spectrum S(n) is the power in the shell (n - 1/2) dk <= |k| < (n + 1/2) dk. Every mode is
in exactly one shell, so Parseval's identity holds to rounding:

    sum_n S(n) = <f^2>.

In one direction a shell is one wavenumber, k = 0 and (N even) the Nyquist wavenumber counted once, the others twice
(k and -k). In several directions the last shells lie in the corners of the wavenumber box beyond the Nyquist
wavenumber of a side and are incomplete: ``largest_complete`` in the attributes is where a slope may still be read.
The shell width dk is the largest fundamental wavenumber 2 pi / L_i of the directions. S is power per shell; divided
by ``shell_width`` it is a density.

A periodic grid holds one of its two equal ends: L = N dx.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.fft
import scipy.sparse
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import as_names, require_dims, require_same_coordinates


def power_spectrum(
    field: xr.DataArray, over: str | Sequence[str], *, window: Literal["hann"] | None = None
) -> xr.DataArray:
    """Return the spectrum S of ``field`` over one, two or three directions; lazy on dask.

    Args:
        field: Real field ``(..., *over)`` on a grid uniform along ``over``.
        over: Directions to transform; the other dimensions are kept.
        window: None for a periodic field. ``"hann"`` for one that is not: the mean is taken out (and counted at
            wavenumber 0), the rest tapered to zero at the ends by a Hann window in each direction and divided by the
            window's mean square, so that a homogeneous field keeps its variance in expectation
            (Harris 1978, doi:10.1109/PROC.1978.10837).

    Returns:
        ``(..., wavenumber)`` in the square of the field's units; ``wavenumber`` is angular, 2 pi / wavelength.

    Raises:
        InputError: A direction is missing or not uniform.
    """
    dims = as_names(over)
    require_dims(field, dims, f"field '{field.name}'")
    if not 1 <= len(set(dims)) == len(dims) <= 3:
        raise InputError(f"expected one to three different directions to transform, found {dims}")
    sizes = [field.sizes[dim] for dim in dims]
    spacings = [_spacing(field[dim]) for dim in dims]
    shells, width, complete = _shells(sizes, spacings)
    taper = None if window is None else _hann(sizes)
    in_one_chunk = field.chunk(dict.fromkeys(dims, -1)) if field.chunks is not None else field
    spectrum = xr.apply_ufunc(
        _shell_power,
        in_one_chunk,
        input_core_dims=[dims],
        output_core_dims=[["wavenumber"]],
        kwargs={"shells": shells, "taper": taper, "ndim": len(dims)},
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": shells.shape[1]}},
    )
    wavenumber = xr.DataArray(
        width * np.arange(shells.shape[1]),
        dims=("wavenumber",),
        attrs={"long_name": "angular wavenumber", "units": _inverse_units([field[dim] for dim in dims])},
    )
    attrs = {"long_name": f"power spectrum of {field.attrs.get('long_name', field.name)}"}
    if "units" in field.attrs:
        attrs["units"] = f"({field.attrs['units']})2"
    return spectrum.assign_coords(wavenumber=wavenumber).assign_attrs(
        attrs, shell_width=width, largest_complete=complete
    )


def kinetic_energy_spectrum(
    velocity: Sequence[xr.DataArray], over: str | Sequence[str], *, window: Literal["hann"] | None = None
) -> xr.DataArray:
    """Return E = (S_u + S_v [+ S_w]) / 2, so that ``sum E = <|u|^2> / 2``; arguments as in `power_spectrum`.

    Args:
        velocity: The velocity components, with equal coordinates.
        over: Directions to transform.
        window: None for a periodic field.
    """
    if not velocity:
        raise InputError("a kinetic energy spectrum needs at least one velocity component, found none")
    for component in velocity[1:]:
        dims = [dim for dim in velocity[0].dims if dim in component.dims]
        require_same_coordinates(velocity[0], component, dims, str(velocity[0].name), str(component.name))
    spectra = [power_spectrum(component, over, window=window) for component in velocity]
    energy = 0.5 * sum(spectra[1:], start=spectra[0])
    return energy.assign_attrs(spectra[0].attrs, long_name="kinetic energy spectrum")


def log_spectral_distance(prediction: xr.DataArray, truth: xr.DataArray, *, dim: str = "wavenumber") -> xr.DataArray:
    """Return 10 sqrt(mean_k (log10 S_p / S_t)^2) in decibel over all k > 0 of two spectra.

    A distance over part of the range is that of ``spectrum.sel(wavenumber=slice(low, high))``: leave out
    wavenumbers where the truth has no power, as beyond a dealiasing cut-off.

    Source: Gray & Markel (1976), doi:10.1109/TASSP.1976.1162849.
    """
    _require_like(prediction, truth, dim)
    positive = prediction[dim] > 0
    ratio = (prediction / truth).isel({dim: np.flatnonzero(positive.values)})
    decibel = xr.apply_ufunc(_log10, ratio, dask="parallelized", output_dtypes=[np.float64])
    distance = 10.0 * np.sqrt((decibel**2).mean(dim, skipna=False))
    return distance.assign_attrs(long_name="log spectral distance", units="dB")


def band_ratio(
    prediction: xr.DataArray, truth: xr.DataArray, edges: Sequence[float], *, dim: str = "wavenumber"
) -> xr.DataArray:
    """Return sum S_p / sum S_t in each band ``edges[i] <= k < edges[i + 1]``: 1 where the power is right.

    Args:
        prediction: A spectrum.
        truth: A spectrum with the same wavenumbers.
        edges: Rising band edges in units of the wavenumber; the last may be infinite.
        dim: Name of the wavenumber dimension.

    Returns:
        ``(..., band)`` with coordinates ``lower`` and ``upper``.

    Raises:
        InputError: A band holds no wavenumber.
    """
    _require_like(prediction, truth, dim)
    wavenumber = prediction[dim].values
    bands = list(zip(edges[:-1], edges[1:], strict=True))
    members = [np.flatnonzero((wavenumber >= low) & (wavenumber < high)) for low, high in bands]
    for (low, high), member in zip(bands, members, strict=True):
        if member.size == 0:
            raise InputError(
                f"no wavenumber lies in the band {low} <= k < {high}: the spectrum has {wavenumber.size} from "
                f"{wavenumber[0]} to {wavenumber[-1]}; choose rising edges within them"
            )
    sums = [
        xr.concat([spectrum.isel({dim: m}).sum(dim, skipna=False) for m in members], dim="band")
        for spectrum in (prediction, truth)
    ]
    lower, upper = (("band", np.asarray(edge, dtype=np.float64)) for edge in (edges[:-1], edges[1:]))
    ratio = (sums[0] / sums[1]).assign_coords(lower=lower, upper=upper)
    return ratio.assign_attrs(long_name="ratio of power in the band", units="1")


def _log10(ratio: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # no power at all is infinitely far
        return np.log10(ratio)


def _shell_power(
    values: np.ndarray, *, shells: scipy.sparse.csr_array, taper: np.ndarray | None, ndim: int
) -> np.ndarray:
    """Return ``(..., shell)`` for fields ``(..., *points)``."""
    axes = tuple(range(-ndim, 0))
    values = values.astype(np.float64, copy=False)
    mean = np.zeros(values.shape[:-ndim])
    if taper is not None:
        mean = values.mean(axis=axes)
        values = (values - np.expand_dims(mean, axes)) * taper
    transform = scipy.fft.rfftn(values, axes=axes)
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged field has no finite spectrum, and shows it
        power = transform.real**2 + transform.imag**2
    binned = power.reshape(-1, shells.shape[0]) @ shells
    spectrum = np.asarray(binned).reshape(*values.shape[:-ndim], shells.shape[1])
    spectrum[..., 0] += mean**2
    return spectrum


def _shells(sizes: Sequence[int], spacings: Sequence[float]) -> tuple[scipy.sparse.csr_array, float, float]:
    """Return the matrix (half-space modes, shells) of multiplicity / N^2, the shell width, the last full shell.

    A real transform stores half of the last direction; each stored mode stands for itself and its conjugate, except
    those on the planes k = 0 and, for an even size, Nyquist, which hold their own conjugates.
    """
    fundamental = [2.0 * np.pi / (n * dx) for n, dx in zip(sizes, spacings, strict=True)]
    width = max(fundamental)
    modes = [np.fft.fftfreq(n, 1.0 / n) for n in sizes[:-1]] + [np.fft.rfftfreq(sizes[-1], 1.0 / sizes[-1])]
    # In units of dk the integers of a direction stay exact, and so do the shells of a cube.
    scaled = [m * (f / width) for m, f in zip(modes, fundamental, strict=True)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*scaled, indexing="ij", sparse=True)))
    shell = np.floor(radius + 0.5).astype(np.int64).ravel()
    multiplicity = np.full(modes[-1].size, 2.0)
    multiplicity[0] = 1.0
    if sizes[-1] % 2 == 0:
        multiplicity[-1] = 1.0
    value = np.broadcast_to(multiplicity, radius.shape).ravel() / float(np.prod(sizes)) ** 2
    shape = (shell.size, int(shell.max()) + 1)
    matrix = scipy.sparse.csr_array((value, (np.arange(shell.size), shell)), shape=shape)
    nyquist = min(f * (n // 2) for n, f in zip(sizes, fundamental, strict=True))
    return matrix, width, width * float(np.floor(nyquist / width + 1e-9))


def _hann(sizes: Sequence[int]) -> np.ndarray:
    """Return the product window, with mean square 1."""
    axes = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in sizes]
    taper = np.ones(())
    for axis in axes:
        taper = taper[..., None] * (axis / np.sqrt(np.mean(axis**2)))
    return taper


def _spacing(coordinate: xr.DataArray) -> float:
    """Return the grid spacing (seconds for dates), or raise if it varies by more than 0.1 %, float32 rounding."""
    values = coordinate.values
    if np.issubdtype(values.dtype, np.datetime64) or np.issubdtype(values.dtype, np.timedelta64):
        values = (values - values[0]) / np.timedelta64(1, "s")
    steps = np.diff(values.astype(np.float64))
    if steps.size == 0 or not np.all(np.abs(steps - steps.mean()) < 1e-3 * np.abs(steps.mean())):
        span = f"from {steps.min():g} to {steps.max():g}" if steps.size else "undefined: a single point"
        raise InputError(
            f"a spectrum needs a uniform grid of at least two points along '{coordinate.name}', found spacing {span}: "
            f"transform along uniform directions only, or interpolate first, "
            f"for example field.interp({coordinate.name}=...)"
        )
    return float(abs(steps.mean()))


def _inverse_units(coordinates: Sequence[xr.DataArray]) -> str:
    units = {str(c.attrs.get("units", "1")) for c in coordinates}
    if len(units) > 1:
        raise InputError(
            f"the directions of a spectrum are in different units, {sorted(units)}: convert the coordinates to one"
        )
    unit = units.pop()
    dated = np.issubdtype(coordinates[0].dtype, np.datetime64) or np.issubdtype(coordinates[0].dtype, np.timedelta64)
    return "s-1" if dated else "1" if unit == "1" else f"({unit})-1"


def _require_like(prediction: xr.DataArray, truth: xr.DataArray, dim: str) -> None:
    for spectrum, name in ((prediction, "the predicted spectrum"), (truth, "the true spectrum")):
        require_dims(spectrum, (dim,), name)
    dims = [d for d in prediction.dims if d in truth.dims]
    require_same_coordinates(prediction, truth, dims, "the predicted spectrum", "the true spectrum")
