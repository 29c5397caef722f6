"""Names, levels and units of the MERRA-2 files that Prithvi WxC was published with.

Source: Schmude et al. (2024), arXiv:2409.13598, tables 1 to 3, and the names of the published files.
"""

from __future__ import annotations

import re
from typing import Literal

LEVELS = (34, 39, 41, 43, 44, 45, 48, 51, 53, 56, 63, 68, 71, 72)
"""Model levels from the top down, the order of the channels; the files hold them from the surface up."""
NOMINAL_PRESSURE = (48, 109, 150, 208, 245, 288, 412, 525, 600, 700, 850, 925, 970, 985)
"""hPa, of each of `LEVELS`."""

SURFACE = (
    *("EFLUX", "GWETROOT", "HFLUX", "LAI", "LWGAB", "LWGEM", "LWTUP", "PS", "QV2M", "SLP", "SWGNT", "SWTNT", "T2M"),
    *("TQI", "TQL", "TQV", "TS", "U10M", "V10M", "Z0M"),
)
"""Surface variables of the published model, in channel order."""
VERTICAL = ("CLOUD", "H", "OMEGA", "PL", "QI", "QL", "QV", "T", "U", "V")
"""Variables on `LEVELS`, in channel order, after `SURFACE`."""
CONSTANT = ("FRACI", "FRLAND", "FROCEAN", "PHIS")
"""Fields without time in each day's surface file, in channel order. Sea ice differs from month to month."""

FILL = {"GWETROOT": 1.0, "LAI": 0.0}
"""What stands over the sea, where these have no value."""

UNITS = {
    "EFLUX": ("W m-2", "total latent energy flux"),
    "GWETROOT": ("1", "root zone soil wetness"),
    "HFLUX": ("W m-2", "sensible heat flux from turbulence"),
    "LAI": ("1", "leaf area index"),
    "LWGAB": ("W m-2", "surface absorbed longwave radiation"),
    "LWGEM": ("W m-2", "longwave flux emitted from surface"),
    "LWTUP": ("W m-2", "upwelling longwave flux at top of atmosphere"),
    "PRECTOT": ("kg m-2 s-1", "total precipitation"),
    "PS": ("Pa", "surface pressure"),
    "QV2M": ("kg kg-1", "specific humidity at 2 m"),
    "SLP": ("Pa", "sea level pressure"),
    "SWGNT": ("W m-2", "surface net downward shortwave flux"),
    "SWTNT": ("W m-2", "net downward shortwave flux at top of atmosphere"),
    "T2M": ("K", "air temperature at 2 m"),
    "TQI": ("kg m-2", "total precipitable ice water"),
    "TQL": ("kg m-2", "total precipitable liquid water"),
    "TQV": ("kg m-2", "total precipitable water vapour"),
    "TS": ("K", "surface skin temperature"),
    "U10M": ("m s-1", "eastward wind at 10 m"),
    "V10M": ("m s-1", "northward wind at 10 m"),
    "Z0M": ("m", "surface roughness"),
    "CLOUD": ("1", "cloud fraction"),
    "H": ("m", "mid-layer height"),
    "OMEGA": ("Pa s-1", "vertical pressure velocity"),
    "PL": ("Pa", "mid-layer pressure"),
    "QI": ("kg kg-1", "mass fraction of cloud ice water"),
    "QL": ("kg kg-1", "mass fraction of cloud liquid water"),
    "QV": ("kg kg-1", "specific humidity"),
    "T": ("K", "air temperature"),
    "U": ("m s-1", "eastward wind"),
    "V": ("m s-1", "northward wind"),
    "FRACI": ("1", "ice-covered fraction of tile"),
    "FRLAND": ("1", "fraction of land"),
    "FROCEAN": ("1", "fraction of ocean"),
    "PHIS": ("m2 s-2", "surface geopotential height"),
}
"""Units and long name of a variable whose file does not say them."""

Kind = Literal["surface", "vertical"]

DAYS: dict[Kind, str] = {"surface": "MERRA2_sfc_{}.nc", "vertical": "MERRA_pres_{}.nc"}
"""Names of the files of one day; ``{}`` is YYYYMMDD. (The second lacks a 2.)"""
SLOTS: dict[Kind, str] = {"surface": "climate_surface_{}.nc", "vertical": "climate_vertical_{}.nc"}
"""Names of the files of the climatology at one day of the year and hour; ``{}`` is doyDDD_hourHH."""
SIGMA_RANGE = (1e-4, 1e4)
VARIANCE_RANGE = (1e-7, 1e7)
"""Limits of the published standard deviations and variances of anomalies."""

SCALERS: dict[Kind, str] = {"surface": "musigma_surface.nc", "vertical": "musigma_vertical.nc"}
VARIANCES: dict[Kind, str] = {"surface": "anomaly_variance_surface.nc", "vertical": "anomaly_variance_vertical.nc"}


def slot_label(day: int, hour: int) -> str:
    """What stands for ``{}`` in `SLOTS`."""
    return f"doy{day:03}_hour{hour:02}"


DAY = re.compile(r"(\d{8})")
SLOT = re.compile(r"doy(\d{3})_hour(\d{2})")
