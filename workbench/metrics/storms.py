"""Storm tracks: lows of sea level pressure followed in time, and how far one set of tracks is from another.

    tracks = track(forecast)                 # from (time, lat, lon)
    errors = compare(tracks, track(analysis))
    errors.track_error                       # km, of each storm and time of the analysis

How lows are found and linked is said in `workbench.metrics.storm_lows.Rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import linear_sum_assignment

from workbench.data.grid import is_latitude, is_longitude
from workbench.data.spec import TIME, Axis
from workbench.data.store import naming_bad_chunks
from workbench.errors import InputError
from workbench.metrics.great_circle import bearing, carried_on, distance
from workbench.metrics.sphere import EARTH_RADIUS, is_circle
from workbench.metrics.storm_lows import Grid, Lows, Rules, find_lows

PRESSURES = ("slp", "msl", "mslp", "psl", "prmsl", "air_pressure_at_mean_sea_level", "air_pressure_at_sea_level")
"""Usual names and standard names of sea level pressure, in lower case."""
PASCALS = {"Pa": 1.0, "hPa": 100.0, "mb": 100.0, "mbar": 100.0, "millibar": 100.0, "millibars": 100.0}
BLOCK_BYTES = 64 * 2**20
SEPARATION = 500.0
"""Kilometres within which two tracks must begin their time in common to be of one storm."""


def track(
    dataset: xr.Dataset, *, pressure: str = "", wind: Sequence[str] = (), rules: Rules | None = None
) -> xr.Dataset:
    """Return the storms of a record or of one forecast.

    Args:
        dataset: ``(time, latitude, longitude)`` with dates as times.
        pressure: name of the sea level pressure, in Pa or hPa; by default found by its usual names.
        wind: names of the two components of the wind near the surface, m/s; none: storms have no wind.
        rules: by default those of extratropical cyclones.

    Returns:
        ``(storm, point)``: ``time`` (NaT after a storm's last point), ``lat``, ``lon`` (degrees, continuous along a
        track), ``pressure`` (Pa, at the place between grid points) and ``wind`` (m/s, largest near the storm).

    Raises:
        InputError: a variable is missing or in other units, or has other dimensions.
    """
    rules = rules or Rules()
    reader = LowsReader.of(dataset, pressure, wind, rules)
    extra = [str(d) for d in dataset[reader.pressure].dims if d not in (TIME, *reader.space)]
    if extra or TIME not in dataset[reader.pressure].dims:
        raise InputError(
            f"storms are tracked in '{reader.pressure}' along {TIME}, {' and '.join(reader.space)}, found "
            f"{tuple(map(str, dataset[reader.pressure].dims))}: select one forecast with .isel(), and name its valid "
            f"times {TIME}"
        )
    times = dataset[TIME].values
    found = [lows[0] for lows in reader.lows(dataset, TIME)]
    return as_dataset(link(found, times, rules), found, times)


@dataclass(frozen=True)
class LowsReader:
    """Reads the lows of one time after another.

    Attributes:
        pressure: name of the sea level pressure.
        wind: names of the components of the wind, or none.
        space: names of latitude and longitude.
        grid: of all fields.
        rules: what counts.
        factor: from the units of the pressure to Pa.
    """

    pressure: str
    wind: tuple[str, ...]
    space: tuple[str, str]
    grid: Grid
    rules: Rules
    factor: float

    @classmethod
    def of(cls, dataset: xr.Dataset, pressure: str, wind: Sequence[str], rules: Rules) -> LowsReader:
        """The reader of a dataset.

        Raises:
            InputError: a variable is missing, in unknown units, or not on latitude and longitude.
        """
        pressure = pressure or _pressure_of(dataset)
        missing = [name for name in (pressure, *wind) if name not in dataset]
        if missing or len(wind) not in (0, 2):
            raise InputError(
                f"storms need sea level pressure and none or two components of the wind, asked for "
                f"{', '.join((pressure, *wind))}; the dataset has {', '.join(map(str, dataset.data_vars))}"
            )
        units = str(dataset[pressure].attrs.get("units", ""))
        if units not in PASCALS:
            raise InputError(
                f"'{pressure}' is in '{units}': expected sea level pressure in one of {', '.join(PASCALS)}"
            )
        axes = [Axis.of(dataset, str(d)) for d in dataset[pressure].dims if d != TIME]
        lat = next((axis.name for axis in axes if is_latitude(axis)), "")
        lon = next((axis.name for axis in axes if is_longitude(axis)), "")
        if not lat or not lon or min(dataset.sizes[lat], dataset.sizes[lon]) < 3:
            raise InputError(
                f"storms are tracked on latitude and longitude in degrees, at least 3 of each; '{pressure}' lies on "
                f"{', '.join(map(str, dataset[pressure].dims))}"
            )
        grid = Grid(
            dataset[lat].values.astype(np.float64), dataset[lon].values.astype(np.float64), is_circle(dataset[lon])
        )
        return cls(pressure, tuple(wind), (lat, lon), grid, rules, PASCALS[units])

    def lows(self, states: xr.Dataset, along: str) -> Iterator[list[Lows]]:
        """The lows of all states of a dataset, read in blocks.

        Args:
            states: ``(along, ..., latitude, longitude)``.
            along: dimension that is read block by block.

        Yields:
            for each step along it the lows in the order of the other dimensions.
        """
        chosen = states[[self.pressure, *self.wind]].transpose(along, ..., *self.space)
        block = max(BLOCK_BYTES // max(chosen.isel({along: 0}).nbytes, 1), 1)
        for start in range(0, chosen.sizes[along], block):
            part = chosen.isel({along: slice(start, start + block)})
            with naming_bad_chunks(states):
                pressure, *wind = (np.asarray(part[name].values) for name in (self.pressure, *self.wind))
            for k, fields in enumerate(pressure):
                flat = fields.reshape(-1, *fields.shape[-2:])
                speeds = np.hypot(wind[0][k], wind[1][k]).reshape(flat.shape) if wind else [None] * len(flat)
                yield [
                    find_lows(self.factor * field, self.grid, self.rules, speed)
                    for field, speed in zip(flat, speeds, strict=True)
                ]


def _pressure_of(dataset: xr.Dataset) -> str:
    names = [
        str(name)
        for name, array in dataset.data_vars.items()
        if str(name).lower() in PRESSURES or str(array.attrs.get("standard_name", "")).lower() in PRESSURES
    ]
    if not names:
        raise InputError(
            f"no sea level pressure among {', '.join(map(str, dataset.data_vars))}: expected a variable or standard "
            f"name like {', '.join(PRESSURES[:3])}; storms cannot be tracked without one"
        )
    return names[0]


def link(lows: Sequence[Lows], times: np.ndarray, rules: Rules) -> list[list[tuple[int, int]]]:
    """Tracks as lists of (position of the time, number of the low), in the order in which they begin.

    Each storm is expected where its motion so far leads (a new one where it is). Lows are given to storms so that as
    many as possible go on, by the smallest sum of distances from where they are expected.
    """
    seconds = (times - times[0]) / np.timedelta64(1, "s")
    tracks: list[list[tuple[int, int]]] = []
    for k, here in enumerate(lows):
        alive = [t for t in tracks if k - t[-1][0] <= rules.gap + 1]
        costs = np.array([_cost(t, lows, here, seconds, k, rules) for t in alive]).reshape(len(alive), len(here))
        allowed = np.isfinite(costs)
        forbidden = 1.0 + 2.0 * costs[allowed].sum() if allowed.any() else 1.0
        taken = set()
        for row, column in zip(*linear_sum_assignment(np.where(allowed, costs, forbidden)), strict=True):
            if allowed[row, column]:
                alive[row].append((k, int(column)))
                taken.add(int(column))
        tracks += [[(k, number)] for number in range(len(here)) if number not in taken]
    return [t for t in tracks if len(t) >= rules.points]


def _cost(
    track_: list[tuple[int, int]], lows: Sequence[Lows], here: Lows, seconds: np.ndarray, k: int, rules: Rules
) -> np.ndarray:
    """Kilometres from where a storm is expected to each low, infinite where it cannot have gone."""
    (last, number), elapsed = track_[-1], seconds[k] - seconds[track_[-1][0]]
    lat, lon = lows[last].lat[number], lows[last].lon[number]
    possible = distance(lat, lon, here.lat, here.lon) <= 1e-3 * rules.speed * elapsed
    if len(track_) == 1:
        return np.where(possible, distance(lat, lon, here.lat, here.lon), np.inf)
    before, number = track_[-2]
    times = elapsed / (seconds[last] - seconds[before])
    expected = carried_on(lat, lon, lows[before].lat[number], lows[before].lon[number], times)
    apart = distance(*expected, here.lat, here.lon)
    return np.where(possible & (apart <= 1e-3 * rules.turn * elapsed), apart, np.inf)


def as_dataset(tracks: Sequence[Sequence[tuple[int, int]]], lows: Sequence[Lows], times: np.ndarray) -> xr.Dataset:
    """Tracks as `track` returns them."""
    longest = max((len(t) for t in tracks), default=0)
    shape = (len(tracks), longest)
    when = np.full(shape, np.datetime64("NaT", "ns"))
    names = ("lat", "lon", "pressure", "wind")
    values = {name: np.full(shape, np.nan) for name in names}
    for row, points in enumerate(tracks):
        for column, (k, number) in enumerate(points):
            when[row, column] = times[k]
            for name in names:
                values[name][row, column] = getattr(lows[k], name)[number]
        known = np.isfinite(values["lon"][row])
        values["lon"][row, known] = np.unwrap(values["lon"][row, known], period=360.0)
    said = {
        "lat": ("latitude of the centre", "degrees_north"),
        "lon": ("longitude of the centre", "degrees_east"),
        "pressure": ("sea level pressure of the centre", "Pa"),
        "wind": ("largest wind speed near the centre", "m s-1"),
    }
    fields = {n: (("storm", "point"), v, {"long_name": said[n][0], "units": said[n][1]}) for n, v in values.items()}
    coords = {"storm": np.arange(shape[0]), "time": (("storm", "point"), when, {"long_name": "time"})}
    return xr.Dataset(fields, coords, {"featureType": "trajectory"})


def compare(tracks: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Return the errors of tracks at every storm and time of the truth; NaN where a storm has no partner.

    The partner of a storm is, among the tracks that begin their time in common with it less than 500 km away, the one
    that stays closest on average; no track is the partner of two storms.

    Args:
        tracks: from `track`.
        truth: from `track`.

    Returns:
        ``(storm, point)`` of the truth: ``track_error`` (km along a great circle), its parts ``along_track_error``
        (positive: too fast) and ``cross_track_error`` (positive: to the right) by the truth's motion to that point,
        ``pressure_error`` (Pa) and ``wind_error`` (m/s), forecast less truth; and ``partner (storm)``, -1 for none.
    """
    pairs = _table(tracks).merge(_table(truth), on="time", suffixes=("", "_true")).sort_values("time")
    far = distance(pairs.lat_true, pairs.lon_true, pairs.lat, pairs.lon)
    partner = _partners(pairs.assign(far=far), tracks.sizes["storm"], truth.sizes["storm"])
    known = (partner[pairs.storm_true] == pairs.storm).to_numpy()
    pairs, far = pairs[known], far[known].to_numpy()
    place = pairs.storm_true.to_numpy(), pairs.point_true.to_numpy()
    off = np.deg2rad(bearing(pairs.lat_true, pairs.lon_true, pairs.lat, pairs.lon) - _course(truth)[place])
    angle, radius = far * 1e3 / EARTH_RADIUS, EARTH_RADIUS / 1e3
    errors = {
        "track_error": (far, "km"),
        "along_track_error": (radius * np.arctan2(np.sin(angle) * np.cos(off), np.cos(angle)), "km"),
        "cross_track_error": (radius * np.arcsin(np.sin(angle) * np.sin(off)), "km"),
        "pressure_error": (pairs.pressure - pairs.pressure_true, "Pa"),
        "wind_error": (pairs.wind - pairs.wind_true, "m s-1"),
    }
    fields = {}
    for name, (values, units) in errors.items():
        spread = np.full(truth["lat"].shape, np.nan)
        spread[place] = values
        fields[name] = (("storm", "point"), spread, {"long_name": name.replace("_", " "), "units": units})
    return xr.Dataset(
        fields | {"partner": ("storm", partner)}, {"storm": truth["storm"], "time": truth["time"].variable}
    )


def _table(tracks: xr.Dataset) -> pd.DataFrame:
    """One row a point, with the numbers of storm and point."""
    storm, point = np.nonzero(np.isfinite(tracks["lat"].values))
    columns = {name: tracks[name].values[storm, point] for name in ("time", "lat", "lon", "pressure", "wind")}
    return pd.DataFrame({"storm": storm, "point": point, **columns})


def _partners(pairs: pd.DataFrame, tracks: int, storms: int) -> np.ndarray:
    """Number of the track that is the partner of each storm of the truth, or -1."""
    together = pairs.groupby(["storm", "storm_true"])["far"].agg(["first", "mean"]).reset_index()
    together = together[together["first"] <= SEPARATION]
    never = 1.0 + together["mean"].sum()
    costs = np.full((tracks, storms), never)
    costs[together.storm, together.storm_true] = together["mean"]
    partner = np.full(storms, -1)
    for row, column in zip(*linear_sum_assignment(costs), strict=True):
        if costs[row, column] < never:
            partner[column] = row
    return partner


def _course(tracks: xr.Dataset) -> np.ndarray:
    """Direction of motion to each point from the one before, at the first point to the next."""
    lat, lon = tracks["lat"].values, tracks["lon"].values
    course = np.full(lat.shape, np.nan)
    if lat.shape[1] > 1:
        course[:, 1:] = bearing(lat[:, 1:], lon[:, 1:], lat[:, :-1], lon[:, :-1]) + 180.0
        course[:, 0] = bearing(lat[:, 0], lon[:, 0], lat[:, 1], lon[:, 1])
    return course
