"""Statistics of a channel from its sums, and their distances from those of the truth.

All functions act on summed `workbench.metrics.channel_sums.ChannelSums.sums` and keep extra dimensions (a batch left
out, a half of the record), so that their sampling error follows by resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.data.weights import trapezoid
from workbench.metrics.channel import correlation, fold, friction_velocity
from workbench.metrics.channel_kernel import COMPONENTS, EDGES, JOINT_EDGES
from workbench.metrics.long_run import relative_l2, wasserstein
from workbench.metrics.spectra import log_spectral_distance

HEIGHTS = (5.0, 15.0, 30.0, 100.0)
"""Distances from the wall, in viscous units, of spectra, correlations and distributions; nearest nodes are taken."""

PARITY = {"u": 1, "v": -1, "w": 1, "q": 1}
"""Of the mean at the other wall."""


def channel_statistics(sums: xr.Dataset, scale: xr.Dataset, viscosity: float) -> xr.Dataset:
    """Return the statistics of the half channel, averaged over both walls.

    Args:
        sums: summed over batches.
        scale: of the bins.
        viscosity: kinematic viscosity.

    Returns:
        ``mean_velocity(y)``; ``rms(component, y)``; ``shear_stress(y)`` = -<u'v'>; one-sided densities
        ``spectrum_x(component, y, wavenumber_x)`` and ``spectrum_z`` with sum E dk = <u'^2>; ``correlation_x(component,
        y, separation_x)``, ``correlation_z``; ``cdf(quantity, y, edge)`` at the fluctuations ``edge_value``;
        ``q_rms(y)``; and the numbers ``bulk_velocity``, ``kinetic_energy``, ``friction_velocity``.
    """
    mean = sums.drop_vars(["count", "joint"], errors="ignore") / sums["count"]
    velocity = _folded_components(mean["velocity"])
    square = fold(mean["product"].sel(pair=[c + c for c in COMPONENTS]).rename(pair="component"))
    variance = (square.assign_coords(component=list(COMPONENTS)) - velocity**2).clip(min=0.0)
    streamwise = velocity.sel(component="u", drop=True)
    cross = fold(mean["product"].sel(pair="uv", drop=True), parity=-1)
    found = xr.Dataset(
        {
            "mean_velocity": streamwise,
            "rms": np.sqrt(variance),
            "shear_stress": streamwise * velocity.sel(component="v", drop=True) - cross,
            "q_rms": np.sqrt(fold(mean["q_square"])),
            "friction_velocity": friction_velocity(streamwise, viscosity),
            **_volume(mean, velocity),
        }
    )
    for axis in ("x", "z"):
        spectrum = _spectrum(mean[f"power_{axis}"], velocity, f"wavenumber_{axis}")
        found[f"spectrum_{axis}"] = spectrum
        found[f"correlation_{axis}"] = _correlation(spectrum, axis, int(sums[f"points_{axis}"]))
    return found.assign(_distributions(mean["histogram"], scale, velocity))


def _folded_components(velocity: xr.DataArray) -> xr.DataArray:
    parts = [fold(velocity.sel(component=c, drop=True), PARITY[c]) for c in COMPONENTS]
    return xr.concat(parts, dim="component").assign_coords(component=list(COMPONENTS))


def _volume(mean: xr.Dataset, velocity: xr.DataArray) -> dict[str, xr.DataArray]:
    weights = trapezoid(mean["y"])
    squares = mean["product"].sel(pair=[c + c for c in COMPONENTS]).sum("pair", skipna=False)
    full = mean["velocity"].sel(component="u", drop=True)
    return {
        "bulk_velocity": (full * weights).sum("y", skipna=False) / weights.sum(),
        "kinetic_energy": 0.5 * (squares * weights).sum("y", skipna=False) / weights.sum(),
    }


def _spectrum(power: xr.DataArray, velocity: xr.DataArray, wavenumber: str) -> xr.DataArray:
    """One-sided density of the fluctuations: the square of the mean leaves wavenumber 0."""
    folded = fold(power)
    width = float(power[wavenumber][1])
    at_zero = (folded[wavenumber] == 0).astype(np.float64)
    return (folded - velocity**2 * at_zero) / width


def _correlation(spectrum: xr.DataArray, axis: str, points: int) -> xr.DataArray:
    wavenumber, dim = f"wavenumber_{axis}", f"separation_{axis}"
    length = 2 * np.pi / float(spectrum[wavenumber][1])
    nodes = length / points * np.arange(points // 2 + 1)
    return correlation(spectrum, wavenumber, xr.DataArray(nodes, dims=dim, coords={dim: nodes}))


def _distributions(histogram: xr.DataArray, scale: xr.Dataset, velocity: xr.DataArray) -> dict[str, xr.DataArray]:
    """Cumulative shares at the edges of the bins, and the edges as fluctuations (for Q as they are)."""
    shares = []
    for quantity, parity in PARITY.items():
        lower = histogram.sel(quantity=quantity, drop=True)
        shares.append(_fold_pair(lower, lower.isel(bin=slice(None, None, parity))))
    cumulative = xr.concat(shares, dim="quantity").assign_coords(quantity=list(PARITY)).cumsum("bin", skipna=False)
    half = scale.isel(y=slice(0, velocity.sizes["y"]))
    mean = velocity.rename(component="quantity").reindex(quantity=list(PARITY), fill_value=0.0)
    return {
        "cdf": cumulative.isel(bin=slice(0, len(EDGES))).rename(bin="edge"),
        "edge_value": half["centre"] - mean + half["width"] * xr.DataArray(EDGES, dims="edge"),
    }


def joint_density(sums: xr.Dataset, scale: xr.Dataset) -> xr.Dataset:
    """Return ``joint_pdf(y, bin_u, bin_v)`` of u and v over both walls, and the fluctuations ``joint_u``, ``joint_v``.

    The sign of v is turned over at the second wall. The density is per unit of both.

    Args:
        sums: summed over batches.
        scale: of the bins.
    """
    mean = sums[["joint", "velocity"]] / sums["count"]
    joint = _fold_pair(mean["joint"], mean["joint"].isel(bin_v=slice(None, None, -1)))
    velocity = _folded_components(mean["velocity"])
    half = scale.isel(y=slice(0, velocity.sizes["y"]))
    middle = 0.5 * (JOINT_EDGES[1:] + JOINT_EDGES[:-1])
    values, area = {}, (JOINT_EDGES[1] - JOINT_EDGES[0]) ** 2
    for name in ("u", "v"):
        bins, one = half.sel(quantity=name, drop=True), velocity.sel(component=name, drop=True)
        values[f"joint_{name}"] = bins["centre"] - one + bins["width"] * xr.DataArray(middle, dims=f"bin_{name}")
        area = area * bins["width"]
    inner = slice(1, len(JOINT_EDGES))
    return xr.Dataset({"joint_pdf": joint.isel(bin_u=inner, bin_v=inner) / area, **values})


def _fold_pair(lower: xr.DataArray, upper: xr.DataArray) -> xr.DataArray:
    """Average of `lower` near the first wall and `upper`, already turned over, near the second."""
    half = slice(0, (lower.sizes["y"] + 1) // 2)
    near = lower.isel(y=half)
    far = upper.isel(y=slice(None, None, -1)).isel(y=half).assign_coords(y=near["y"])
    return 0.5 * (near + far)


def densities(statistics: xr.Dataset) -> xr.Dataset:
    """Return ``pdf(quantity, y, bin)`` and the fluctuation ``pdf_value`` in the middle of each bin."""
    values, shares = statistics["edge_value"], statistics["cdf"]
    lower, upper = (values.isel(edge=part) for part in (slice(0, -1), slice(1, None)))
    share = shares.isel(edge=slice(1, None)) - shares.isel(edge=slice(0, -1))
    found = {"pdf": share / (upper - lower), "pdf_value": 0.5 * (lower + upper)}
    return xr.Dataset(found).rename(edge="bin")


# ----------------------------------------------------------------------------------------------------- distances


@dataclass(frozen=True)
class Distance:
    """How far a statistic is from that of the truth, as one number.

    Attributes:
        label: what is compared.
        definition: the equation in one line; f found, t truth.
        units: of the number.
        of: function of the two statistics and the positions of the heights.
    """

    label: str
    definition: str
    units: str
    of: Callable[[xr.Dataset, xr.Dataset, Sequence[int]], xr.DataArray]


def channel_distances(found: xr.Dataset, truth: xr.Dataset, heights: Sequence[int]) -> xr.Dataset:
    """Return every distance of `DISTANCES`; NaN for one whose statistic is missing.

    Args:
        found: statistics as from `channel_statistics`, on the nodes of the truth (see `on_nodes`).
        truth: the same of the truth.
        heights: positions of the nodes at which spectra, correlations and distributions are compared.
    """
    return xr.Dataset({name: distance.of(found, truth, heights) for name, distance in DISTANCES.items()})


def on_nodes(found: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Bring statistics to the wall-normal nodes, separations and wavenumbers of the truth.

    Between other nodes and separations they are interpolated linearly; beyond the last separation, and at wavenumbers
    that are not shared, they are missing.
    """
    if not _equal(found["y"], truth["y"]):
        # At the wall nothing moves and a correlation is undefined: its neighbour's stands in for the interpolation.
        near = {n: found[n].fillna(found[n].shift(y=-1)) for n in ("correlation_x", "correlation_z")}
        found = found.assign(near).interp(y=truth["y"], kwargs={"fill_value": "extrapolate"})
    for axis in ("x", "z"):
        separation, wavenumber = f"separation_{axis}", f"wavenumber_{axis}"
        if not _equal(found[separation], truth[separation]):
            found = found.interp({separation: truth[separation]})
        step = float(truth[wavenumber][1])
        found = found.reindex({wavenumber: truth[wavenumber]}, method="nearest", tolerance=1e-4 * step)
    return found.assign_coords({dim: truth[dim] for dim in ("y", "separation_x", "separation_z")})


def _equal(found: xr.DataArray, truth: xr.DataArray) -> bool:
    return found.size == truth.size and bool(np.allclose(found, truth, rtol=1e-5, atol=1e-6))


def _relative(name: str) -> Callable[..., xr.DataArray]:
    return lambda found, truth, _: abs(found[name] / truth[name] - 1.0)


def _profile(name: str, component: str | None = None) -> Callable[..., xr.DataArray]:
    def distance(found: xr.Dataset, truth: xr.Dataset, _: Sequence[int]) -> xr.DataArray:
        pair = (found[name], truth[name])
        if component is not None:
            pair = (pair[0].sel(component=component, drop=True), pair[1].sel(component=component, drop=True))
        return relative_l2(*pair, "y")

    return distance


def _spectra(axis: str) -> Callable[..., xr.DataArray]:
    name, dim = f"spectrum_{axis}", f"wavenumber_{axis}"

    def distance(found: xr.Dataset, truth: xr.Dataset, heights: Sequence[int]) -> xr.DataArray:
        mine, theirs = _shared(found[name].isel(y=list(heights)), truth[name].isel(y=list(heights)), dim)
        energies = [0.5 * spectrum.sum("component", skipna=False) for spectrum in (mine, theirs)]
        decibel = log_spectral_distance(energies[0], energies[1], dim=dim)
        mean_square: xr.DataArray = (decibel**2).mean("y", skipna=False)
        return mean_square**0.5

    return distance


def _correlations(axis: str) -> Callable[..., xr.DataArray]:
    name, dim = f"correlation_{axis}", f"separation_{axis}"

    def distance(found: xr.Dataset, truth: xr.Dataset, heights: Sequence[int]) -> xr.DataArray:
        mine, theirs = _shared(found[name].isel(y=list(heights)), truth[name].isel(y=list(heights)), dim)
        return relative_l2(mine, theirs, ["y", "component", dim])

    return distance


def _shared(found: xr.DataArray, truth: xr.DataArray, dim: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Both at the points of `dim` that both have; at all of them, the missing ones included, where none is shared."""
    present = [a.notnull().all([d for d in a.dims if d != dim]).values for a in (found, truth)]
    places = np.flatnonzero(np.logical_and(*present))
    return (found.isel({dim: places}), truth.isel({dim: places})) if len(places) > 1 else (found, truth)


def _pdf(quantity: str) -> Callable[..., xr.DataArray]:
    def distance(found: xr.Dataset, truth: xr.Dataset, heights: Sequence[int]) -> xr.DataArray:
        place = {"y": list(heights), "quantity": list(PARITY).index(quantity)}
        f, t = (s[["cdf", "edge_value"]].isel(place, drop=True) for s in (found, truth))
        spread = truth["rms"].sel(component=quantity, drop=True) if quantity != "q" else truth["q_rms"]
        apart = wasserstein(f["cdf"], f["edge_value"], t["cdf"], t["edge_value"], "edge")
        return (apart / spread.isel(y=list(heights))).mean("y", skipna=False)

    return distance


_L2 = "sqrt(sum_y (f - t)^2) / sqrt(sum_y t^2) over the nodes of the half channel"
_W1 = "Wasserstein distance int |F^-1(p) - T^-1(p)| dp of the fluctuations over the truth's rms, mean over heights"
_LSD = "10 sqrt(mean_k (log10 E_f / E_t)^2) over k > 0 of E = (E_uu + E_vv + E_ww) / 2, rms over heights"
_CORR = "sqrt(sum (R_f - R_t)^2) / sqrt(sum R_t^2) over separations, components and heights"

DISTANCES: dict[str, Distance] = {
    "bulk_velocity": Distance("bulk velocity", "|f / t - 1|", "1", _relative("bulk_velocity")),
    "kinetic_energy": Distance("kinetic energy", "|f / t - 1|", "1", _relative("kinetic_energy")),
    "friction_velocity": Distance("friction velocity", "|f / t - 1|", "1", _relative("friction_velocity")),
    "mean_velocity": Distance("mean velocity", _L2, "1", _profile("mean_velocity")),
    **{f"rms_{c}": Distance(f"rms of {c}", _L2, "1", _profile("rms", c)) for c in COMPONENTS},
    "shear_stress": Distance("Reynolds shear stress", _L2, "1", _profile("shear_stress")),
    "q_rms": Distance("rms of Q", _L2, "1", _profile("q_rms")),
    "spectrum_x": Distance("streamwise spectrum", _LSD, "dB", _spectra("x")),
    "spectrum_z": Distance("spanwise spectrum", _LSD, "dB", _spectra("z")),
    "correlation_x": Distance("streamwise correlation", _CORR, "1", _correlations("x")),
    "correlation_z": Distance("spanwise correlation", _CORR, "1", _correlations("z")),
    **{f"pdf_{q}": Distance(f"PDF of {q if q != 'q' else 'Q'}", _W1, "1", _pdf(q)) for q in PARITY},
}
"""Every statistic that is compared, each as one number."""
