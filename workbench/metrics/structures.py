"""Scores of moving structures: errors by range, relative L2, peak of the stress, energy, natural frequency.

Errors take a prediction p and its truth t on the same coordinates, and dimensions to average over; weights (1 where
there is material, 0 in void) and ranges broadcast against them. A prediction that is not finite has the score NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import numpy as np
import scipy.linalg
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import require_same_coordinates

Dims = Sequence[Hashable]

REACH = 2.0
"""A natural frequency is looked for between the guess over this and the guess times this."""
CANDIDATES, ZOOMS = 41, 4
EXPLAINED = 0.5
"""Share of a coordinate's square that an oscillator has to explain for its frequency to mean anything."""


def value_range(truth: xr.DataArray, over: Dims) -> xr.DataArray:
    """Range max t − min t over the dimensions `over`: what errors are divided by."""
    return truth.max(over) - truth.min(over)


def nmae(
    prediction: xr.DataArray, truth: xr.DataArray, span: xr.DataArray | float, over: Dims, weights: xr.DataArray
) -> xr.DataArray:
    """Normalised mean absolute error ⟨|p − t|/R⟩, R the range of the quantity over the test set."""
    return _mean(abs(difference(prediction, truth)) / span, over, weights)


def nrmse(
    prediction: xr.DataArray, truth: xr.DataArray, span: xr.DataArray | float, over: Dims, weights: xr.DataArray
) -> xr.DataArray:
    """Normalised root mean square error √⟨((p − t)/R)²⟩, R the range of the quantity over the test set."""
    return _mean((difference(prediction, truth) / span) ** 2, over, weights) ** 0.5


def relative_l2(prediction: xr.DataArray, truth: xr.DataArray, over: Dims, weights: xr.DataArray) -> xr.DataArray:
    """√(Σ(p − t)²/Σt²)."""
    return (_sum(difference(prediction, truth) ** 2, over, weights) / _sum(truth**2, over, weights)) ** 0.5


def r2(prediction: xr.DataArray, truth: xr.DataArray, over: Dims, weights: xr.DataArray) -> xr.DataArray:
    """Coefficient of determination 1 − Σ(p − t)²/Σ(t − ⟨t⟩)², ⟨t⟩ of each component over everything else."""
    mean = _mean(truth, [d for d in truth.dims if d != "component"], weights)
    return 1 - _sum(difference(prediction, truth) ** 2, over, weights) / _sum((truth - mean) ** 2, over, weights)


def skill(
    prediction: xr.DataArray, reference: xr.DataArray, truth: xr.DataArray, over: Dims, weights: xr.DataArray
) -> xr.DataArray:
    """1 − Σ(p − t)²/Σ(r − t)²: 1 is perfect, 0 as good as the reference r (Murphy 1988, eq. 4)."""
    return 1 - _sum(difference(prediction, truth) ** 2, over, weights) / _sum(
        difference(reference, truth) ** 2, over, weights
    )


def difference(prediction: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """Difference p − t, in float64.

    Raises:
        InputError: their coordinates differ.
    """
    shared = [d for d in truth.dims if d in prediction.dims and d in truth.coords and d in prediction.coords]
    require_same_coordinates(prediction, truth, shared, "the prediction", "the truth")
    return prediction.astype(np.float64) - truth


def _sum(values: xr.DataArray, over: Dims, weights: xr.DataArray) -> xr.DataArray:
    return values.where(weights > 0, 0.0).sum(over, skipna=False)


def _mean(values: xr.DataArray, over: Dims, weights: xr.DataArray) -> xr.DataArray:
    return _sum(values, over, weights) / _sum(xr.ones_like(values), over, weights)


# -------------------------------------------------------------------------------------------------------------- peak


def peak(field: xr.DataArray, space: Sequence[str], time: str = "lead_time") -> xr.Dataset:
    """The largest value over time and space, and where it is.

    Args:
        field: ``(..., time, *space)`` with coordinates along space.
        space: its dimensions.
        time: its dimension of time.

    Returns:
        ``value``, and for each dimension of space the coordinate of the peak under its name. Both are NaN where a value
        is; a field that is the same everywhere has no place of its peak.
    """
    known = field.notnull().all([time, *space])
    somewhere = known & (field.max([time, *space]) > field.min([time, *space]))
    place = field.fillna(-np.inf).argmax([time, *space])
    found = {dim: field[dim][place[dim]].drop_vars(dim).where(somewhere) for dim in space}
    return xr.Dataset({"value": field.isel(place).drop_vars([time, *space], errors="ignore").where(known), **found})


def peak_error(prediction: xr.Dataset, truth: xr.Dataset) -> xr.DataArray:
    """|p/t − 1| of the values of two peaks."""
    return abs(prediction["value"] / truth["value"] - 1)


def peak_distance(prediction: xr.Dataset, truth: xr.Dataset) -> xr.DataArray:
    """Distance between two peaks, in the units of the coordinates."""
    axes = [name for name in truth.data_vars if name != "value"]
    squares = [(prediction[name] - truth[name]) ** 2 for name in axes]
    total: xr.DataArray = sum(squares[1:], start=squares[0])
    return total**0.5


# ------------------------------------------------------------------------------------------------------------ energy


def energy_error(prediction: xr.DataArray, truth: xr.DataArray, time: str = "lead_time") -> xr.DataArray:
    """(E_p − E_t)/max E_t of mechanical energies, the maximum over time of each trajectory: above 0 it is made up."""
    return (prediction - truth) / truth.max(time)


# --------------------------------------------------------------------------------------------------------- frequency


def natural_frequency(
    coordinate: xr.DataArray,
    load: xr.DataArray,
    speed: xr.DataArray,
    damping: xr.DataArray,
    guess: xr.DataArray,
    time: str = "time",
) -> xr.DataArray:
    """Natural frequency f in Hz of the oscillator that follows a modal coordinate best.

        q̈ + α q̇ + (2πf)² q = p(t)

    A trajectory of a few periods under a load that never rests has no line in its spectrum that is narrower than the
    frequency itself. But load and damping are known, and so f is the one unknown: it is found by least squares over
    the whole trajectory, as the response to the load is exact for loads linear between instants.

    Args:
        coordinate: q ``(..., time)``, the start first.
        load: p ``(..., time)``, of unit modal mass.
        speed: q̇ at the start, ``(...)``.
        damping: α ``(...)`` in 1/s.
        guess: f ``(...)`` in Hz.
        time: dimension of time, uniform, in seconds.

    Returns:
        ``(...)``; NaN where it would be outside guess/2 … 2 guess, or where the oscillator leaves over half of q's
        square unexplained, as of a forecast that does not vibrate.

    Raises:
        InputError: time is not uniform.

    Source: Nigam & Jennings 1969, Bull. Seismol. Soc. Am. 59, 909 (exact response).
    """
    steps = np.diff(coordinate[time].values.astype(np.float64))
    if not len(steps) or np.ptp(steps) > 1e-3 * steps.mean():
        raise InputError(f"a natural frequency needs instants at equal distances along '{time}', at least two")
    found = xr.apply_ufunc(
        partial(_fit, float(steps.mean())),
        *(coordinate, load, speed, damping, guess),
        input_core_dims=[[time], [time], [], [], []],
        vectorize=True,
        output_dtypes=[np.float64],
    )
    return found.assign_attrs(long_name="natural frequency", units="Hz")


def _fit(step: float, q: np.ndarray, load: np.ndarray, speed: float, damping: float, guess: float) -> float:
    square = float((q**2).sum())
    if not np.isfinite(square) or square == 0 or not np.isfinite(guess):
        return np.nan
    least, most = guess / REACH, guess * REACH
    misfit = np.array([])
    for zoom in range(ZOOMS):
        candidates = np.geomspace(least, most, CANDIDATES)
        response = oscillator(2 * np.pi * candidates, q[0], speed, load, damping, step)
        misfit = ((response - q) ** 2).sum(1)
        best = int(np.argmin(misfit))
        if zoom == 0 and best in (0, CANDIDATES - 1):
            return np.nan
        least, most = candidates[max(best - 1, 0)], candidates[min(best + 1, CANDIDATES - 1)]
    return float(candidates[best]) if misfit[best] < (1 - EXPLAINED) * square else np.nan


def oscillator(
    omega: np.ndarray, start: float, speed: float, load: np.ndarray, damping: float, step: float
) -> np.ndarray:
    """Response q ``[candidate, time]`` of q̈ + α q̇ + ω² q = p, exact for p linear between instants.

    Args:
        omega: ω ``[candidate]`` in 1/s.
        start: q at the first instant.
        speed: q̇ there.
        load: p ``[time]``.
        damping: α in 1/s.
        step: between instants, in s.
    """
    flow = np.zeros((len(omega), 4, 4))  # of q, q̇, p and dp/dt
    flow[:, 0, 1] = flow[:, 1, 2] = flow[:, 2, 3] = 1
    flow[:, 1, 0], flow[:, 1, 1] = -(omega**2), -damping
    over = scipy.linalg.expm(step * flow)[:, :2]
    state = np.tile([float(start), float(speed)], (len(omega), 1))
    states = [state[:, 0]]
    for now, later in zip(load[:-1], load[1:], strict=True):
        state = (
            np.einsum("mij,mj->mi", over[:, :, :2], state) + over[:, :, 2] * now + over[:, :, 3] * (later - now) / step
        )
        states.append(state[:, 0])
    return np.stack(states, 1)
