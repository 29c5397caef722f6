"""The flow between two walls: folding, wall units, derivatives, Q-criterion and spectra of a velocity record.

A channel is periodic and uniform in the streamwise and spanwise directions (each grid leaves out its second, equal end)
and runs from wall to wall in the wall-normal one, on nodes that may be stretched but mirror each other about the
centre. Averages <.> are over streamwise and spanwise direction, time and runs; u' = u - <u>(y).

What is summed over a long run is in `workbench.metrics.channel_sums`, what follows from the sums in
`workbench.metrics.channel_statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import require_dims

PERIOD_TOLERANCE = 1e-3
MIRROR_TOLERANCE = 1e-4
"""Relative to the height; float32 coordinates need it."""


@dataclass(frozen=True)
class Names:
    """What a record calls its directions and velocity components, in the order streamwise, wall-normal, spanwise."""

    space: tuple[str, str, str] = ("x", "y", "z")
    velocity: tuple[str, str, str] = ("u", "v", "w")
    time: str = "time"


@dataclass(frozen=True)
class Grid:
    """The nodes of a channel, checked.

    Attributes:
        x: streamwise nodes, uniform.
        y: wall-normal nodes, from wall to wall.
        z: spanwise nodes, uniform.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def of(cls, dataset: xr.Dataset | xr.DataArray, names: Names | None = None) -> Grid:
        """Read the grid off a record.

        Raises:
            InputError: a direction or its coordinate is missing, a periodic one is not uniform or holds both of its
                ends, or the wall-normal nodes do not rise and mirror each other.
        """
        names = names or Names()
        require_dims(dataset, names.space, "a channel record")
        bare = [dim for dim in names.space if dim not in dataset.coords]
        if bare:
            raise InputError(f"dimension '{bare[0]}' of the channel has no coordinate: add it with .assign_coords()")
        x, y, z = (dataset[dim] for dim in names.space)
        grid = cls(_periodic(x), np.asarray(y.values, dtype=np.float64), _periodic(z))
        _refuse_lopsided(grid.y, names.space[1])
        return grid

    @property
    def lengths(self) -> tuple[float, float]:
        """Streamwise and spanwise period."""
        return _length(self.x), _length(self.z)

    @property
    def half_height(self) -> float:
        """Half the distance of the walls."""
        return float(self.y[-1] - self.y[0]) / 2


def _length(nodes: np.ndarray) -> float:
    return float(nodes[-1] - nodes[0]) * len(nodes) / (len(nodes) - 1)


def _periodic(coordinate: xr.DataArray) -> np.ndarray:
    """Nodes of a periodic direction; uniform, of at least two, and without the second end where a period is given."""
    nodes = np.asarray(coordinate.values, dtype=np.float64)
    steps = np.diff(nodes)
    if len(steps) == 0 or steps.min() <= 0 or np.ptp(steps) > 1e-3 * steps.mean():
        raise InputError(
            f"the periodic direction '{coordinate.name}' needs at least two uniform, rising nodes, found {len(nodes)} "
            f"from {nodes[0]:g} to {nodes[-1]:g}: interpolate it to a uniform grid"
        )
    period = coordinate.attrs.get("period")
    if period is not None and abs(float(period) - _length(nodes)) > PERIOD_TOLERANCE * _length(nodes):
        raise InputError(
            f"'{coordinate.name}' has the period {float(period):g} and {len(nodes)} nodes of spacing {steps[0]:g}, "
            f"which span {_length(nodes):g}: leave out the second of the two equal ends, or correct the attribute"
        )
    return nodes


def _refuse_lopsided(nodes: np.ndarray, dim: str) -> None:
    if len(nodes) < 5 or not (np.diff(nodes) > 0).all():
        raise InputError(
            f"the wall-normal direction '{dim}' needs at least five rising nodes: sort with .sortby('{dim}')"
        )
    off = np.abs(nodes + nodes[::-1] - (nodes[0] + nodes[-1])).max()
    if off > MIRROR_TOLERANCE * np.ptp(nodes):
        raise InputError(
            f"the nodes of '{dim}' do not mirror each other about the centre (off by {off:.2g}): statistics are "
            "averaged over both walls; interpolate to a symmetric grid"
        )


def same_units(dataset: xr.Dataset, names: Names) -> str:
    """The one unit of the three velocity components.

    Raises:
        InputError: a component is missing, has no units, or has other units than the first.
    """
    for name in names.velocity:
        if name not in dataset.data_vars:
            raise InputError(
                f"the record has no velocity component '{name}', only {', '.join(map(str, dataset.data_vars))}"
            )
    units = [str(dataset[name].attrs.get("units", "")) for name in names.velocity]
    if "" in units or len(set(units)) > 1:
        found = ", ".join(f"{n} in '{u}'" for n, u in zip(names.velocity, units, strict=True))
        raise InputError(f"the velocity components need one unit, found {found}: convert them to one")
    return units[0]


# ------------------------------------------------------------------------------------------------------ profiles


def fold(profile: xr.DataArray, parity: int = 1, dim: str = "y") -> xr.DataArray:
    """Return (f(y) + parity f(2h - y)) / 2 on the half of the nodes next to the first wall, centre included.

    Args:
        profile: ``(..., dim)`` on nodes that mirror each other.
        parity: 1 for what is equal at both walls (<u>, rms, spectra), -1 for what changes sign (<v>, <u'v'>).
        dim: wall-normal dimension.
    """
    half = slice(0, (profile.sizes[dim] + 1) // 2)
    lower = profile.isel({dim: half})
    upper = profile.isel({dim: slice(None, None, -1)}).isel({dim: half}).assign_coords({dim: lower[dim]})
    return 0.5 * (lower + parity * upper)


def friction_velocity(mean_velocity: xr.DataArray, viscosity: float, dim: str = "y") -> xr.DataArray:
    """Return u_tau = sqrt(nu |d<u>/dy|) at the wall, by the one-sided difference of second order on three nodes.

    On a coarse grid, whose first node lies at y+ of 4 or more, this is a few per cent below the true value.

    Args:
        mean_velocity: ``(..., dim)``, the wall first: a half channel, as from `fold`.
        viscosity: kinematic viscosity nu.
        dim: wall-normal dimension.
    """
    if not viscosity > 0:
        raise InputError(f"expected a positive viscosity, found {viscosity}")
    require_dims(mean_velocity, (dim,), "the mean velocity")
    near = np.asarray(mean_velocity[dim].values[:3], dtype=np.float64)
    a, b = near[1] - near[0], near[2] - near[0]
    wall, first, second = (mean_velocity.isel({dim: i}, drop=True) for i in range(3))
    gradient = (b**2 * (first - wall) - a**2 * (second - wall)) / (a * b * (b - a))
    return np.sqrt(viscosity * abs(gradient)).rename("friction_velocity")


def friction_reynolds_number(friction: float, half_height: float, viscosity: float) -> float:
    """Return Re_tau = u_tau h / nu."""
    return friction * half_height / viscosity


# --------------------------------------------------------------------------------------------------- derivatives


def velocity_gradient(velocity: np.ndarray, grid: Grid) -> np.ndarray:
    """Return A_ij = du_i / dx_j.

    Exact for the resolved waves in the periodic directions (derivative of the trigonometric interpolant, without its
    Nyquist wave); second order on the stretched wall-normal nodes, one-sided at the walls.

    Args:
        velocity: ``[3, ..., x, y, z]``.
        grid: the nodes.

    Returns:
        ``float64[3, 3, ..., x, y, z]``, component first, direction second.
    """
    along = [
        _periodic_derivative(velocity, -3, grid.lengths[0]),
        np.gradient(velocity, grid.y, axis=-2, edge_order=2),
        _periodic_derivative(velocity, -1, grid.lengths[1]),
    ]
    return np.stack(along, axis=1)


def _periodic_derivative(values: np.ndarray, axis: int, length: float) -> np.ndarray:
    points = values.shape[axis]
    waves = 2j * np.pi / length * np.arange(points // 2 + 1)
    if points % 2 == 0:
        waves[-1] = 0.0
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.fft.irfft(np.fft.rfft(values, axis=axis) * waves.reshape(shape), points, axis=axis)


def q_of_gradient(gradient: np.ndarray) -> np.ndarray:
    """Return Q = -A_ij A_ji / 2 of a gradient ``[3, 3, ...]``."""
    return -0.5 * np.einsum("ij...,ji...->...", gradient, gradient)


def divergence_of_gradient(gradient: np.ndarray) -> np.ndarray:
    """Return A_ii of a gradient ``[3, 3, ...]``."""
    return np.einsum("ii...->...", gradient)


def q_criterion(velocity: xr.Dataset, names: Names | None = None) -> xr.DataArray:
    """Return Q = -1/2 du_i/dx_j du_j/dx_i; lazy on dask. Positive where rotation outweighs strain.

    For a solenoidal field Q = (∣Omega∣^2 - ∣S∣^2) / 2, with S and Omega the symmetric and antisymmetric part of the
    gradient. Derivatives as in `velocity_gradient`.

    Args:
        velocity: the three components ``(..., x, y, z)``, any order of dimensions.
        names: of components and directions; by default u, v, w and x, y, z.

    Source: Hunt, Wray & Moin (1988), CTR-S88, p. 193.
    """
    names = names or Names()
    return _of_gradient(velocity, names, q_of_gradient).rename("q_criterion").assign_attrs(long_name="Q-criterion")


def divergence(velocity: xr.Dataset, names: Names | None = None) -> xr.DataArray:
    """Return du_i/dx_i, arguments and derivatives as in `q_criterion`; lazy on dask.

    A solver is solenoidal on its own staggered grid; at these nodes its truncation error remains, so compare with the
    divergence of the truth rather than with zero.
    """
    names = names or Names()
    return _of_gradient(velocity, names, divergence_of_gradient).rename("divergence")


def _of_gradient(velocity: xr.Dataset, names: Names, of: Callable[[np.ndarray], np.ndarray]) -> xr.DataArray:
    grid = Grid.of(velocity, names)
    same_units(velocity, names)
    components = [velocity[name].chunk(dict.fromkeys(names.space, -1)) if velocity[name].chunks else velocity[name]
                  for name in names.velocity]  # fmt: skip

    def kernel(*fields: np.ndarray) -> np.ndarray:
        return of(velocity_gradient(np.stack(fields).astype(np.float64), grid))

    dims = list(names.space)
    return xr.apply_ufunc(
        kernel, *components, input_core_dims=[dims] * 3, output_core_dims=[dims], dask="parallelized",
        output_dtypes=[np.float64],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- spectra


def one_sided_power(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the power |F_k|^2 / N^2 of each wave, k and -k together, along one periodic axis.

    The sum over the waves is the mean square of the values (Parseval), and power / dk is the one-sided density E(k).
    """
    points = values.shape[axis]
    transformed = np.fft.rfft(values, axis=axis)
    power = (transformed.real**2 + transformed.imag**2) / points**2
    both = np.full(power.shape[axis], 2.0)
    both[0] = 1.0
    if points % 2 == 0:
        both[-1] = 1.0
    shape = [1] * values.ndim
    shape[axis] = -1
    return power * both.reshape(shape)


def correlation(spectrum: xr.DataArray, wavenumber: str, separation: xr.DataArray) -> xr.DataArray:
    """Return the two-point correlation R(r) = sum_k E(k) cos(k r) / sum_k E(k) of a one-sided spectrum.

    It is the Wiener-Khinchin relation on the grid: at separations of whole cells R equals
    <u'(x) u'(x + r)> / <u'^2> to rounding.

    Args:
        spectrum: ``(..., wavenumber)`` of the fluctuations.
        wavenumber: its dimension.
        separation: r, a one-dimensional array with a dimension of its own.
    """
    waves = np.cos(spectrum[wavenumber] * separation)
    total = spectrum.sum(wavenumber, skipna=False)
    return (xr.dot(spectrum, waves, dim=wavenumber) / total.where(total > 0)).rename("correlation")


def nearest_nodes(y_plus: Sequence[float] | np.ndarray, heights: Sequence[float]) -> list[int]:
    """Positions of the nodes nearest to each height, walls left out, each once and rising."""
    nodes = np.asarray(y_plus, dtype=np.float64)
    inside = np.flatnonzero(nodes > 0)
    return sorted({int(inside[np.argmin(np.abs(nodes[inside] - height))]) for height in heights})
