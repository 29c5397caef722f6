"""Mean spectra of a pass over forecasts: planar, along circles of latitude, or of the whole sphere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import xarray as xr

from workbench.data.grid import is_latitude, is_longitude
from workbench.data.spec import TRAJECTORY, Axis
from workbench.data.starts import Problem
from workbench.errors import InputError
from workbench.metrics.spectra import power_spectrum
from workbench.metrics.sphere import covers_sphere, is_circle, spherical_spectrum
from workbench.scoring.truth import Entry

Block = dict[str, slice]
Spectrum = Callable[[xr.DataArray, Sequence[str]], xr.DataArray]


def spectrum_dims(record: xr.Dataset, asked: Sequence[str]) -> tuple[str, ...]:
    """Dimensions of the spectra: those asked for, else those that the record calls periodic.

    Raises:
        InputError: one of them is not in the record.
    """
    named = record.attrs.get("periodic", ())
    dims = tuple(asked) or tuple(named.replace(",", " ").split() if isinstance(named, str) else map(str, named))
    missing = [d for d in dims if d not in record.dims]
    if missing:
        raise InputError(
            f"spectra are asked for along {', '.join(missing)} (evaluate.spectra, or the record's attribute "
            f"'periodic'), the record has {', '.join(map(str, record.dims))}"
        )
    return dims


def spectrum_of(record: xr.Dataset, dims: Sequence[str]) -> Spectrum:
    """How spectra along `dims` of a record are taken; each sums to the mean square of the field.

    Latitude and longitude of the whole globe: by the degree of spherical harmonics. Longitudes once around: by the
    number of waves around the circle. Otherwise by angular wavenumber, with a Hann window unless the record calls the
    dimensions periodic.
    """
    axes = [Axis.of(record, dim) for dim in dims]
    latitude = next((axis.name for axis in axes if is_latitude(axis)), "")
    longitude = next((axis.name for axis in axes if is_longitude(axis)), "")
    if {latitude, longitude} == set(dims) and covers_sphere(record[latitude], record[longitude]):
        return partial(_spherical, latitude=latitude, longitude=longitude)
    if list(dims) == [longitude] and is_circle(record[longitude]):
        return _zonal
    periodic = set(spectrum_dims(record, ())) >= set(dims)
    return partial(power_spectrum, window=None if periodic else "hann")


def _spherical(field: xr.DataArray, dims: Sequence[str], *, latitude: str, longitude: str) -> xr.DataArray:
    with xr.set_options(keep_attrs=True):
        return spherical_spectrum(field, latitude=latitude, longitude=longitude) / (4.0 * np.pi)


def _zonal(field: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    spectrum = power_spectrum(field, dims)
    count = np.arange(spectrum.sizes["wavenumber"])
    return spectrum.assign_coords(wavenumber=("wavenumber", count, {"long_name": "zonal wavenumber", "units": "1"}))


class SpectraPile:
    """Mean spectra over the starts seen so far, by source and entry.

    Args:
        problem: what was forecast.
        dims: dimensions along which spectra are taken; none: no spectra.
        leads: positions of the leads with spectra.
    """

    def __init__(self, problem: Problem, dims: Sequence[str], leads: Sequence[int]) -> None:
        self.dims, self.leads = dims, leads
        self.spectrum = spectrum_of(problem.record, dims)
        self.totals: dict[str, dict[str, dict[int, xr.DataArray]]] = {}
        self.counts: dict[str, dict[str, dict[int, int]]] = {}

    def add(self, source: str, row: Entry, fields: xr.Dataset, block: Block, weights: xr.DataArray | None) -> None:
        """Count the fields of one block at the leads that spectra are taken of; a vector has none."""
        dims = [] if row.is_vector else [d for d in self.dims if d in fields[row.label].dims]
        for lead in self.leads if dims else ():
            if not block["lead_time"].start <= lead < block["lead_time"].stop:
                continue
            field = fields[row.label].isel(lead_time=lead - block["lead_time"].start, drop=True)
            spectrum = self.spectrum(field, dims)
            starts = [d for d in (TRAJECTORY, "init_time") if d in spectrum.dims]
            space = [d for d in spectrum.dims if d not in (*starts, "wavenumber")]
            if weights is not None and space and set(weights.dims) <= set(space):
                spectrum = spectrum.weighted(weights).mean(space, skipna=False, keep_attrs=True)
            else:
                spectrum = spectrum.mean(space, skipna=False, keep_attrs=True)
            totals = self.totals.setdefault(source, {}).setdefault(row.label, {})
            counts = self.counts.setdefault(source, {}).setdefault(row.label, {})
            with xr.set_options(keep_attrs=True):
                total = spectrum.sum(starts, skipna=False)
                totals[lead] = totals[lead] + total if lead in totals else total
            counts[lead] = counts.get(lead, 0) + int(np.prod([spectrum.sizes[d] for d in starts]))

    def means(self) -> dict[str, dict[str, dict[int, xr.DataArray]]]:
        """Source -> entry -> position of the lead -> mean spectrum ``(wavenumber)``."""
        with xr.set_options(keep_attrs=True):
            return {
                source: {
                    label: {lead: total / self.counts[source][label][lead] for lead, total in leads.items()}
                    for label, leads in rows.items()
                }
                for source, rows in self.totals.items()
            }
