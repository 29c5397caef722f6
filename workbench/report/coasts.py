"""Maps on plain axes of longitude and latitude: degrees on the axes, and coast lines where they are known.

Coast lines are the half-land contour of the record's land fraction, where it has one. Else they are those of Natural
Earth, if cartopy is installed and its file is on this machine; nothing is downloaded for a report.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, MaxNLocator

from workbench.data.grid import is_latitude, is_longitude
from workbench.data.spec import Axis
from workbench.report import style

LAND = ("FRLAND", "frland", "lsm", "land_sea_mask", "land_area_fraction", "land_binary_mask")
"""Usual names and standard names of the land fraction."""
STEPS = (1, 1.5, 2, 3, 5, 6, 10)
"""Degrees between two ticks, times a power of ten."""


def name_degrees(axes: Axes) -> None:
    """Label a map's axes as people do: 60°W for 300 and for -60, 30°S for -30."""
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: degrees_east(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: degrees_north(value)))
    axes.set_xlabel("")
    axes.set_ylabel("")


def degrees_east(longitude: float) -> str:
    """``60°W``, whether counted to 360 or from -180."""
    turned = (longitude + 180.0) % 360.0 - 180.0
    side = "" if turned in (0.0, -180.0) else "E" if turned > 0 else "W"
    return f"{abs(turned):g}°{side}"


def degrees_north(latitude: float) -> str:
    """``30°S``; the equator has no side."""
    side = "" if latitude == 0 else "N" if latitude > 0 else "S"
    return f"{abs(latitude):g}°{side}"


def draw_coasts(axes: Axes, land: xr.DataArray | None = None) -> None:
    """Draw the coasts within the limits of a map, which stay as they are; nothing where no coast is known.

    Args:
        axes: of longitude and latitude.
        land: from `land_fraction`.
    """
    limits = axes.get_xlim(), axes.get_ylim()
    if land is not None:
        lat, lon = (land[d].values for d in land.dims)
        for shift in (-360.0, 0.0, 360.0):
            if lon.min() + shift <= limits[0][1] and lon.max() + shift >= limits[0][0]:
                axes.contour(lon + shift, lat, land.values, [0.5], colors=style.MUTED, linewidths=0.7, zorder=2)
    else:
        lines = [line + [shift, 0.0] for line in _natural_earth() for shift in (-360.0, 0.0, 360.0)]
        if lines:
            axes.add_collection(LineCollection(lines, colors=style.MUTED, linewidths=0.7, zorder=2), autolim=False)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def land_fraction(record: xr.Dataset | None) -> xr.DataArray | None:
    """The land fraction of a record ``(latitude, longitude)`` at its first time; None where it has none."""
    for name, array in ({} if record is None else record.data_vars).items():
        if str(name) in LAND or array.attrs.get("standard_name") in LAND:
            first = array.isel({d: 0 for d in array.dims if d in ("time", "trajectory")})
            axes = [Axis.of(array.to_dataset(name="land"), str(d)) for d in first.dims]
            lat = [axis.name for axis in axes if is_latitude(axis)]
            lon = [axis.name for axis in axes if is_longitude(axis)]
            if len(axes) == 2 and lat and lon and min(first.shape) > 1:
                return first.transpose(lat[0], lon[0]).sortby([lat[0], lon[0]]).load()
    return None


def _natural_earth() -> Iterator[np.ndarray]:
    """Coast lines ``[point, 2]`` of the coarsest Natural Earth set, as far as they are on this machine."""
    if find_spec("cartopy") is None:
        return
    import cartopy
    from cartopy.io.shapereader import Reader

    for key in ("pre_existing_data_dir", "data_dir", "repo_data_dir"):
        folder = str(cartopy.config.get(key) or "")
        path = Path(folder) / "shapefiles" / "natural_earth" / "physical" / "ne_110m_coastline.shp"
        if folder and path.exists():
            for geometry in Reader(path).geometries():
                for part in getattr(geometry, "geoms", [geometry]):
                    yield np.asarray(part.coords)[:, :2]
            return
