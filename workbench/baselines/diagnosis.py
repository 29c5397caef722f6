"""What stands beside a diagnosis: interpolation of the means, regression on what is seen, and a closure by gradients.

Each takes in what the model sees, the area-weighted means over cells where a field is downscaled, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import xarray as xr
from einops import rearrange

from workbench.data.cells import along_axes, axis_means, interpolation
from workbench.data.spec import LEVEL_NAMES, TIME, TRAJECTORY, Axis
from workbench.data.starts import Problem
from workbench.errors import InputError

DIAGNOSES = {
    "nearest": "the mean over a cell at each of its points",
    "bilinear": "linear interpolation of the means along each axis",
    "bicubic": "cubic convolution of the means along each axis (Keys 1981)",
    "regression": "ridge regression at each point on what is seen in the 3 x 3 cells round it, fitted on the training "
    "part",
    "gradient": "covariance within a cell from the gradients of both fields (Clark et al. 1979), times a coefficient "
    "fitted on the training part",
}
"""Those of experiments in which nothing lies ahead (``data.horizon: 0``)."""
COVARIANCE = "covariance_of"
"""Attribute of a flux: the two variables whose covariance within a cell it is."""
RIDGE = 1e-3
"""Penalty over the mean variance of what is seen times the number of samples."""
BLOCK = 64

Predict = Callable[[np.ndarray, np.ndarray], xr.Dataset]
"""``(trajectories int64[n], starts int64[m])`` -> fields ``([trajectory,] init_time, *space)``, lazy."""
Map = Callable[[np.ndarray], np.ndarray]
"""Channels seen ``[..., c, *space]`` -> channels ``[..., d, *space]``."""


def suitable(problem: Problem) -> tuple[str, ...]:
    """The baselines that a diagnosis has."""
    if problem.coarsen > 1:
        return ("climatology", "nearest", "bilinear", "bicubic", "regression")
    known = all(COVARIANCE in problem.record[name].attrs for name in problem.names)
    return ("climatology", "regression", *(("gradient",) if known else ()))


def fit_diagnosis(name: str, problem: Problem) -> tuple[Predict, str]:
    """One of `DIAGNOSES`, fitted on the training part where it has coefficients, and its definition.

    Raises:
        InputError: it does not suit what is diagnosed.
    """
    if problem.first_lead:
        raise InputError(f"the baseline '{name}' is one of diagnoses (data.horizon: 0), and the experiment forecasts")
    if name in ("nearest", "bilinear", "bicubic"):
        if problem.coarsen < 2:
            raise InputError(f"the baseline '{name}' interpolates means over cells: set data.coarsen, or leave it out")
        return _mapped(problem, problem.names, _interpolator(name, problem)), DIAGNOSES[name]
    if name == "regression":
        seen = (*(problem.names if problem.coarsen > 1 else ()), *problem.inputs)
        regression = _Regression(problem)
        regression.fit(_training(problem, seen))
        return _mapped(problem, seen, regression), DIAGNOSES[name]
    pairs = [_factors(problem, flux) for flux in problem.names]
    seen = tuple(dict.fromkeys(n for pair in pairs for n in pair))
    closure = _Gradients(problem, [(seen.index(a), seen.index(b)) for a, b in pairs])
    closure.fit(_training(problem, seen))
    return _mapped(problem, seen, closure), DIAGNOSES[name]


# ---------------------------------------------------------------------------------------------- reading


def _grid(problem: Problem) -> tuple[str, ...]:
    """Dimensions that fields lie on, without levels."""
    return tuple(d for d in problem.space(problem.names[0]) if d not in LEVEL_NAMES)


def _levels(problem: Problem, name: str) -> int:
    return int(np.prod([problem.record.sizes[d] for d in problem.space(name) if d in LEVEL_NAMES]))


def _stacked(arrays: xr.Dataset, names: Sequence[str], grid: Sequence[str]) -> xr.DataArray:
    """Variables and their levels as channels: ``(..., channel, *grid)``."""
    parts = []
    for name in names:
        levels = [d for d in arrays[name].dims if d in LEVEL_NAMES]
        part = arrays[name].rename({levels[0]: "channel"}) if levels else arrays[name].expand_dims("channel")
        parts.append(part.drop_vars("channel", errors="ignore"))
    return xr.concat(parts, "channel", coords="minimal", compat="override").transpose(..., "channel", *grid)


def _training(problem: Problem, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What is seen and what is diagnosed in the training part, ``float64[n, c, *grid]``, block by block."""
    part, grid = problem.parts["train"], _grid(problem)
    for trajectory in part.trajectories:
        for lo, hi in part.runs:
            for first in range(lo, hi, BLOCK):
                chosen = problem.record.isel({TIME: slice(first, min(first + BLOCK, hi))})
                chosen = chosen.isel({TRAJECTORY: int(trajectory)}, missing_dims="ignore")
                pair = [_stacked(chosen, n, grid).transpose(TIME, ...) for n in (names, problem.names)]
                yield tuple(one.values.astype(np.float64) for one in pair)  # type: ignore[misc]


def _mapped(problem: Problem, names: Sequence[str], of: Map) -> Predict:
    """Apply a map to what is seen at the starts."""
    grid = _grid(problem)

    def predict(trajectories: np.ndarray, starts: np.ndarray) -> xr.Dataset:
        chosen = (
            problem.record[list(names)].isel({TIME: starts}).isel({TRAJECTORY: trajectories}, missing_dims="ignore")
        )
        chosen = chosen.drop_vars(TIME, errors="ignore").rename({TIME: "init_time"})
        seen = _stacked(chosen, names, grid)
        seen = seen.chunk({"channel": -1, **dict.fromkeys(grid, -1)})
        dims = ["channel", *grid]
        found = xr.apply_ufunc(
            of,
            seen,
            input_core_dims=[dims],
            output_core_dims=[["diagnosed", *grid]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"output_sizes": {"diagnosed": sum(_levels(problem, n) for n in problem.names)}},
        )
        return _unstacked(problem, found)

    return predict


def _unstacked(problem: Problem, found: xr.DataArray) -> xr.Dataset:
    """Channels ``(..., diagnosed, *grid)`` as variables with their levels."""
    arrays, first = {}, 0
    for name in problem.names:
        levels, count = [d for d in problem.space(name) if d in LEVEL_NAMES], _levels(problem, name)
        part = found.isel(diagnosed=slice(first, first + count))
        arrays[name] = part.rename(diagnosed=levels[0]) if levels else part.isel(diagnosed=0)
        first += count
    return xr.Dataset(arrays)


# ---------------------------------------------------------------------------------------------- maps


def _means(problem: Problem) -> list[np.ndarray]:
    """The maps from points to cells along each axis of the grid."""
    return [axis_means(Axis.of(problem.record, dim), problem.coarsen) for dim in _grid(problem)]


def _interpolator(kind: str, problem: Problem) -> Map:
    means = _means(problem)
    fine = [interpolation(len(one), problem.coarsen, kind) for one in means]  # type: ignore[arg-type]
    whole = [up @ down for up, down in zip(fine, means, strict=True)]
    return lambda seen: along_axes(seen.astype(np.float64), whole)


def _wraps(problem: Problem) -> list[bool]:
    """Whether the record is periodic along each axis of the grid."""
    named = problem.record.attrs.get("periodic", ())
    words = named.replace(",", " ").split() if isinstance(named, str) else [str(n) for n in named]
    return [dim in words for dim in _grid(problem)]


def _padded(fields: np.ndarray, wraps: Sequence[bool]) -> np.ndarray:
    """One more value at both ends of each of the last axes: from the other end, or the outermost again."""
    for axis, wrap in enumerate(wraps, start=fields.ndim - len(wraps)):
        width = [(0, 0)] * fields.ndim
        width[axis] = (1, 1)
        fields = np.pad(fields, width, mode="wrap" if wrap else "edge")
    return fields


class _Regression:
    """Ridge regression of the points of every cell on what is seen in the 3 x 3 cells round it."""

    def __init__(self, problem: Problem) -> None:
        self.axes, self.wraps, factor = len(_grid(problem)), _wraps(problem), problem.coarsen
        self.means = _means(problem) if factor > 1 else []
        cells, points = ([f"{letter}{k}" for k in range(self.axes)] for letter in "cp")
        pairs = " ".join(f"({c} {p})" for c, p in zip(cells, points, strict=True))
        self.fields, self.cells = f"n d {pairs}", f"n {' '.join(cells)} (d {' '.join(points)})"
        self.sizes = dict.fromkeys(points, factor) | {"d": sum(_levels(problem, n) for n in problem.names)}

    def predictors(self, seen: np.ndarray) -> np.ndarray:
        """``[n, c, *points]`` -> ``[n, *cells, p]``, the last of which is 1."""
        cells = along_axes(seen.astype(np.float64), self.means)
        padded, shape = _padded(cells, self.wraps), cells.shape[2:]
        around = [
            padded[(slice(None), slice(None), *(slice(k, k + n) for k, n in zip(shift, shape, strict=True)))]
            for shift in product(range(3), repeat=self.axes)
        ]
        return np.moveaxis(np.concatenate([*around, np.ones_like(cells[:, :1])], 1), 1, -1)

    def fit(self, blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        """Coefficients from the sums of products over all blocks; the constant is not penalised."""
        square = cross = np.zeros(())
        for seen, truth in blocks:
            x, y = self.predictors(seen), rearrange(truth, f"{self.fields} -> {self.cells}", **self.sizes)
            square = square + np.einsum("n...p,n...q->...pq", x, x, optimize=True)
            cross = cross + np.einsum("n...p,n...q->...pq", x, y, optimize=True)
        count, mean = square[..., -1:, -1:], square[..., :-1, -1:] / square[..., -1:, -1:]
        centred = square[..., :-1, :-1] - count * mean * mean.swapaxes(-1, -2)
        slope_of = cross[..., :-1, :] - mean * cross[..., -1:, :]
        penalty = RIDGE * np.diagonal(centred, axis1=-2, axis2=-1).clip(1e-30)  # a share each, since units differ
        slope = np.linalg.solve(centred + penalty[..., None] * np.eye(penalty.shape[-1]), slope_of)
        constant = (cross[..., -1:, :] / count) - mean.swapaxes(-1, -2) @ slope
        self.coefficients = np.concatenate([slope, constant], -2)

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        lead = seen.shape[: -1 - self.axes]
        x = self.predictors(seen.reshape(-1, *seen.shape[-1 - self.axes :]))
        y = np.einsum("n...p,...pq->n...q", x, self.coefficients, optimize=True)
        fields = rearrange(y, f"{self.cells} -> {self.fields}", **self.sizes)
        return fields.reshape(*lead, *fields.shape[1:])


# ---------------------------------------------------------------------------------------------- closure


def _factors(problem: Problem, flux: str) -> tuple[str, str]:
    """The two variables whose covariance a flux is.

    Raises:
        InputError: the record does not say, or they are not seen.
    """
    words = str(problem.record[flux].attrs.get(COVARIANCE, "")).split()
    if len(words) != 2 or not set(words) <= set(problem.inputs):
        raise InputError(
            f"the baseline 'gradient' needs to know of which two of data.forcing {list(problem.inputs)} '{flux}' is "
            f"the covariance within a cell: its attribute '{COVARIANCE}' is '{' '.join(words)}', expected such as 'u v'"
        )
    return words[0], words[1]


class _Gradients:
    r"""Covariances within cells, :math:`c \sum_i \Delta_i^2 / 12\; \partial_i a\, \partial_i b`, central differences.

    Source: Clark, Ferziger & Reynolds (1979), J. Fluid Mech. 91, 1, for means over cells as wide as the grid.
    """

    def __init__(self, problem: Problem, pairs: Sequence[tuple[int, int]]) -> None:
        self.wraps, self.pairs = _wraps(problem), pairs
        self.coefficients = np.ones(len(pairs))

    def terms(self, seen: np.ndarray) -> np.ndarray:
        """The covariances with c = 1, ``[..., d, *space]``."""
        axes = len(self.wraps)
        padded, fields = _padded(seen.astype(np.float64), self.wraps), np.moveaxis(seen, -1 - axes, 0)
        found = np.zeros((len(self.pairs), *fields.shape[1:]))
        for axis in range(-axes, 0):
            slopes = (np.roll(padded, -1, axis) - np.roll(padded, 1, axis)) / 2
            slopes = np.moveaxis(slopes[(..., *[slice(1, -1)] * axes)], -1 - axes, 0)
            found += np.stack([slopes[a] * slopes[b] / 12 for a, b in self.pairs])
        return np.moveaxis(found, 0, -1 - axes)

    def fit(self, blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        """The coefficient of each flux, by least squares through 0."""
        squares = products = np.zeros(len(self.pairs))
        for seen, truth in blocks:
            terms = self.terms(seen)
            over = tuple(k for k in range(terms.ndim) if k != 1)
            squares, products = squares + (terms**2).sum(over), products + (terms * truth).sum(over)
        self.coefficients = products / squares.clip(1e-300)

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        return self.terms(seen) * self.coefficients.reshape(-1, *[1] * len(self.wraps))
