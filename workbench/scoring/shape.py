"""How a forecast keeps its shape: time to decorrelation, variance drift, spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from workbench.metrics.fields import variance_of
from workbench.metrics.stability import time_to_decorrelation
from workbench.scoring.bootstrap import bounds_of, resample
from workbench.scoring.sheet import Sheet, finished, starts_of

DECORRELATED = 0.8
"""Correlation below which a forecast counts as decorrelated; customary in turbulence."""


def decorrelation(sheet: Sheet) -> dict[str, xr.DataArray]:
    """Lead at which the mean correlation of a start falls below `DECORRELATED`, with bounds."""
    metric, names = (
        "correlation_sample_mean",
        ("decorrelation_lead", "decorrelation_lead_low", "decorrelation_lead_high"),
    )
    found: dict[str, dict[str, dict[str, xr.DataArray]]] = {name: {} for name in names}
    for name, rows in sheet.tally.shapes.items():
        for label, sums in rows.items():
            whole = finished([metric], sums.sum(starts_of(sums)), label)
            value = time_to_decorrelation(_led(whole, sheet), DECORRELATED)
            bounds = (value * np.nan, value * np.nan)
            drawn = resample(metric, sums, label, sheet.config)
            if drawn is not None:
                times = time_to_decorrelation(_led(finished([metric], drawn[0], label), sheet), DECORRELATED)
                bounds = bounds_of(times, drawn[1], sheet.config)
            for kind, array in zip(names, (value, *bounds), strict=True):
                found[kind].setdefault(name, {})[label] = _as_lead(array.isel(metric=0, drop=True), sheet)
    words = {
        "long_name": f"lead at which the mean correlation of a start falls below {DECORRELATED}"
    } | sheet.lead_units
    return {kind: sheet.by_row(rows, "forecast").assign_attrs(words) for kind, rows in found.items()}


def _led(array: xr.DataArray, sheet: Sheet) -> xr.DataArray:
    return array.assign_coords(lead_time=sheet.leads)


def _as_lead(value: xr.DataArray, sheet: Sheet) -> xr.DataArray:
    """Leads in the type of ``lead_time``: hours become timedelta64, infinite ones NaT."""
    if not np.issubdtype(sheet.leads.dtype, np.timedelta64):
        return value
    nanoseconds = np.where(np.isfinite(value.values), value.values * 3.6e12, 0.0).round().astype("timedelta64[ns]")
    return value.copy(data=np.where(np.isfinite(value.values), nanoseconds, np.timedelta64("NaT", "ns")))


def variance(sheet: Sheet) -> dict[str, xr.DataArray]:
    """Spatial variance about the spatial mean, averaged over starts: ``(source, variable, lead_time)``."""
    rows: dict[str, dict[str, xr.DataArray]] = {"truth": {}}
    for name, found in sheet.tally.shapes.items():
        for label, sums in found.items():
            p, pp, t, tt = sums.means(["prediction", "prediction_squared", "truth", "truth_squared"])[label]
            rows.setdefault(name, {})[label] = variance_of(p, pp).mean(starts_of(sums), skipna=False)
            rows["truth"][label] = variance_of(t, tt).mean(starts_of(sums), skipna=False)
    words = {"long_name": "spatial variance about the spatial mean, averaged over starts"}
    return {"variance": sheet.by_row(rows, "source").assign_attrs(words)}


def spectra(sheet: Sheet) -> dict[str, xr.DataArray]:
    """``spectrum`` on ``(source, variable, spectrum_lead, wavenumber)``; nothing where none was asked for."""
    rows: dict[str, dict[str, xr.DataArray]] = {}
    wavenumber: dict[str, Any] = {}
    for source, found in sheet.tally.spectra.items():
        for label, leads in found.items():
            at = sheet.leads.isel(lead_time=sorted(leads)).rename(lead_time="spectrum_lead")
            stacked = xr.concat([leads[i] for i in sorted(leads)], "spectrum_lead", combine_attrs="override")
            wavenumber = stacked["wavenumber"].attrs
            rows.setdefault(source, {})[label] = stacked.assign_coords(spectrum_lead=at)
    if not rows:
        return {}
    spectrum = sheet.by_row(rows, "source")
    spectrum["wavenumber"].attrs.update(wavenumber)
    words = {"long_name": "power spectrum, mean over starts; it sums to the mean square of the field"}
    return {"spectrum": spectrum.assign_attrs(words)}
