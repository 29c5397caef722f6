"""Stable equitable error in probability space (SEEPS): precipitation as dry, light or heavy, by the local climate.

With the climatological probability p1 of dry weather and light rain twice as frequent as heavy, the error of a
forecast class (row) against an observed class (column) is

          dry                       light        heavy
    dry   0                         1/(1 - p1)   4/(1 - p1)
    light 1/p1                      0            3/(1 - p1)       times 1/2:
    heavy 1/p1 + 3/(2 + p1)         3/(2 + p1)   0

0 is a perfect forecast, 1 the expectation of a random or constant one. Amounts up to and including the dry threshold
are dry, above it up to and including the heavy threshold light, and heavy beyond. Places and months with p1 below 0.1
or above 0.85 do not count, the bounds themselves do. (`scores` has the same edges; WeatherBench 2 has neither amounts
equal to a threshold in a class nor p1 equal to a bound in the score.)

Source: Rodwell et al. (2010), doi:10.1002/qj.656, eq. 15.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import as_names, require_dims, require_same_coordinates

DRY_THRESHOLD = 0.2
"""Of daily amounts in millimetres; WeatherBench 2 takes 0.25."""
COUNTED = (0.1, 0.85)
"""Range of p1 that counts."""


def precipitation_climate(amount: xr.DataArray, dry_threshold: float = DRY_THRESHOLD) -> xr.Dataset:
    """Return the probability of dry weather and the threshold of heavy precipitation in each calendar month.

    Args:
        amount: accumulated precipitation ``(time, ...)`` of the training period, in the units of the threshold; missing
            values are left out.
        dry_threshold: amounts up to this are dry.

    Returns:
        ``dry_probability (..., month)``, p1, and ``heavy_threshold (..., month)``, the bound of the upper third
        of wet amounts (NaN where it never rained), for `seeps`.

    Raises:
        InputError: there is no dated time.
    """
    require_dims(amount, ("time",), f"precipitation '{amount.name}'")
    if not np.issubdtype(amount["time"].dtype, np.datetime64):
        raise InputError(f"a climate of months needs dates, found a time of type {amount['time'].dtype}")
    months = amount["time"].dt.month.values
    named = np.unique(months)
    pair = xr.apply_ufunc(
        _climate,
        amount.chunk(time=-1) if amount.chunks is not None else amount,
        input_core_dims=[["time"]],
        output_core_dims=[["month"], ["month"]],
        kwargs={"months": months, "named": named, "dry_threshold": dry_threshold},
        dask="parallelized",
        output_dtypes=[np.float64, np.float64],
        dask_gufunc_kwargs={"output_sizes": {"month": named.size}},
    )
    found = xr.Dataset(dict(zip(("dry_probability", "heavy_threshold"), pair, strict=True)), {"month": named})
    found["dry_probability"].attrs = {"long_name": "probability of dry weather", "units": "1"}
    found["heavy_threshold"].attrs = {"long_name": "least heavy amount", "units": amount.attrs.get("units", "1")}
    return found


def _climate(
    amount: np.ndarray, *, months: np.ndarray, named: np.ndarray, dry_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """p1 and the upper third of wet amounts of each month, ``[..., month]``, of amounts ``[..., time]``."""
    dry, heavy = (np.full((*amount.shape[:-1], named.size), np.nan) for _ in range(2))
    for i, month in enumerate(named):
        chosen = amount[..., months == month].astype(np.float64)
        known = np.isfinite(chosen).sum(-1)
        wet = np.sort(np.where(chosen > dry_threshold, chosen, np.nan), axis=-1)  # NaN last
        count = np.isfinite(wet).sum(-1)
        place = np.maximum(count - 1, 0) * 2.0 / 3.0
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        below, above = (np.take_along_axis(wet, k[..., None], -1)[..., 0] for k in (low, high))
        heavy[..., i] = below + (place - low) * (above - below)
        dry[..., i] = np.divide(known - count, known, out=np.full(known.shape, np.nan), where=known > 0)
    return dry, heavy


def seeps(
    prediction: xr.DataArray,
    truth: xr.DataArray,
    climate: xr.Dataset,
    *,
    over: str | Sequence[str] = (),
    weights: xr.DataArray | None = None,
    dry_threshold: float = DRY_THRESHOLD,
) -> xr.DataArray:
    """Return the SEEPS error, averaged over dimensions or point by point; lazy on dask.

    Args:
        prediction: accumulated precipitation, on any dimensions.
        truth: the same on the same points, in the same units.
        climate: `precipitation_climate` at the valid times, for example ``climate.sel(month=valid_time.dt.month)``.
        over: dimensions to average over; none: the error of each point, NaN where it does not count.
        weights: on any of the dimensions; default 1.
        dry_threshold: as in the climate.

    Raises:
        InputError: prediction and truth lie on different points, or the climate has other dimensions.
    """
    require_same_coordinates(prediction, truth, prediction.dims, "prediction", "truth")
    extra = [d for d in climate["dry_probability"].dims if d not in truth.dims]
    if extra:
        raise InputError(
            f"the climate of precipitation has dimensions {tuple(map(str, climate['dry_probability'].dims))}, beyond "
            f"the truth {extra}: select the months first, climate.sel(month=valid_time.dt.month)"
        )
    over = as_names(over)
    require_dims(truth, over, f"precipitation '{truth.name}'")
    p1, heavy = climate["dry_probability"].reset_coords(drop=True), climate["heavy_threshold"].reset_coords(drop=True)
    counted = (p1 >= COUNTED[0]) & (p1 <= COUNTED[1])
    error = xr.apply_ufunc(
        _error,
        prediction.reset_coords(drop=True),
        truth.reset_coords(drop=True),
        p1.where(counted, 0.5),  # any probability that does not divide by zero
        heavy.where(counted, np.inf),
        kwargs={"dry_threshold": dry_threshold},
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    if over:
        share = counted.astype(np.float64) * (1.0 if weights is None else weights)
        share = share.broadcast_like(error)
        error = (error.where(counted, 0.0) * share).sum(over, skipna=False) / share.sum(over).where(
            lambda total: total > 0
        )
    else:
        error = error.where(counted)
    return error.rename("seeps").assign_attrs(long_name="SEEPS", units="1")


def _error(
    prediction: np.ndarray, truth: np.ndarray, p1: np.ndarray, heavy: np.ndarray, *, dry_threshold: float
) -> np.ndarray:
    forecast, observed = (
        np.where(amount <= dry_threshold, 0, np.where(amount <= heavy, 1, 2)) for amount in (prediction, truth)
    )
    zero = np.zeros(np.broadcast_shapes(p1.shape, forecast.shape))
    table = (
        (zero, 1 / (1 - p1), 4 / (1 - p1)),
        (1 / p1, zero, 3 / (1 - p1)),
        (1 / p1 + 3 / (2 + p1), 3 / (2 + p1), zero),
    )
    pairs = [(i, j) for i in range(3) for j in range(3)]
    found = np.select([(forecast == i) & (observed == j) for i, j in pairs], [0.5 * table[i][j] for i, j in pairs])
    return np.where(np.isnan(prediction) | np.isnan(truth), np.nan, found)
