"""Scores of an ensemble: continuous ranked probability score, spread, skill and their ratio.

Notation: x_1 ... x_M members, x their mean, s^2 their variance with M - 1 in the denominator, t truth, <.> the
weighted mean.
"""

from typing import Any

import numpy as np
import xarray as xr

from workbench.metrics.base import Fields, Metric, Statistic
from workbench.metrics.fields import SQUARED_ERROR, WEATHERBENCH2, root_ratio

FORTIN = "Fortin et al. (2014), doi:10.1175/JHM-D-14-0008.1"
ALMOST = 0.95
"""Part of the fair CRPS in the almost fair one."""


def mean_absolute_difference(members: xr.DataArray) -> xr.DataArray:
    """Return sum_ij |x_i - x_j| / M^2 over the ``member`` dimension; lazy on dask.

    With the members sorted, sum_ij |x_i - x_j| = 2 sum_i (2 i - M - 1) x_(i): M log M work and no M x M array.
    """
    return xr.apply_ufunc(
        _mean_absolute_difference,
        members,
        input_core_dims=[["member"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )


def _mean_absolute_difference(members: np.ndarray) -> np.ndarray:
    count = members.shape[-1]
    ranks = 2.0 * np.arange(1, count + 1) - count - 1
    with np.errstate(invalid="ignore"):  # a diverged member gives NaN, which is the answer
        return 2.0 * (np.sort(members, axis=-1) @ ranks) / count**2


def _crps(fields: Fields) -> xr.DataArray:
    members = fields.ensemble()
    distance = abs(members - fields.truth).mean("member", skipna=False)
    return distance - 0.5 * mean_absolute_difference(members)


def _crps_fair(fields: Fields) -> xr.DataArray:
    members = fields.ensemble(at_least=2)
    distance = abs(members - fields.truth).mean("member", skipna=False)
    unbiased = members.sizes["member"] / (members.sizes["member"] - 1)
    return distance - 0.5 * unbiased * mean_absolute_difference(members)


def _variance(fields: Fields) -> xr.DataArray:
    members = fields.ensemble(at_least=2)
    deviation = members - fields.prediction
    return (deviation**2).sum("member", skipna=False) / (members.sizes["member"] - 1)


def _predictive_variance(fields: Fields) -> xr.DataArray:
    members = fields.ensemble(at_least=2).sizes["member"]
    return (members + 1) / members * _variance(fields)


def _unbiased_squared_error(fields: Fields) -> xr.DataArray:
    return fields.error**2 - _variance(fields) / fields.ensemble(at_least=2).sizes["member"]


def _positive(value: Any) -> Any:
    """NaN where an estimate of a square, which may be negative in a small sample, is not positive."""
    return xr.where(value <= 0, np.nan, value)


CRPS_POINT = Statistic("crps_point", _crps)
CRPS_FAIR_POINT = Statistic("crps_fair_point", _crps_fair)
UNBIASED_SQUARED_ERROR = Statistic("unbiased_squared_error", _unbiased_squared_error)
ENSEMBLE_VARIANCE = Statistic("ensemble_variance", _variance)
PREDICTIVE_VARIANCE = Statistic("predictive_variance", _predictive_variance)

CRPS = Metric(
    "crps", (CRPS_POINT,), lambda mean: mean,
    "<mean_i |x_i - t| - sum_ij |x_i - x_j| / (2 M^2)>; one member: the mean absolute error",
    "Hersbach (2000), doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2", optimum=0.0, unit_power=1,
)  # fmt: skip
CRPS_FAIR = Metric(
    "crps_fair", (CRPS_FAIR_POINT,), lambda mean: mean,
    "<mean_i |x_i - t| - sum_ij |x_i - x_j| / (2 M (M - 1))>; its expectation does not depend on M",
    "Ferro (2014), doi:10.1002/qj.2270", optimum=0.0, unit_power=1,
)  # fmt: skip
CRPS_ALMOST_FAIR = Metric(
    "crps_almost_fair", (CRPS_FAIR_POINT, CRPS_POINT), lambda fair, plain: ALMOST * fair + (1 - ALMOST) * plain,
    f"{ALMOST} crps_fair + {1 - ALMOST:.2g} crps", "Lang et al. (2024), AIFS-CRPS, arXiv:2412.15832",
    optimum=0.0, unit_power=1,
)  # fmt: skip
SPREAD = Metric(
    "spread", (ENSEMBLE_VARIANCE,), np.sqrt,
    "sqrt <s^2>", FORTIN, optimum=None, unit_power=1,
)  # fmt: skip
SKILL = Metric(
    "skill", (SQUARED_ERROR,), np.sqrt,
    "sqrt <(x - t)^2>, the RMSE of the ensemble mean", FORTIN, optimum=0.0, unit_power=1,
)  # fmt: skip
SPREAD_SKILL_RATIO = Metric(
    "spread_skill_ratio", (PREDICTIVE_VARIANCE, SQUARED_ERROR), root_ratio,
    "sqrt((M + 1) / M <s^2> / <(x - t)^2>); 1 for members drawn from the truth's own distribution",
    FORTIN, optimum=1.0, unit_power=0,
)  # fmt: skip
SKILL_UNBIASED = Metric(
    "skill_unbiased", (UNBIASED_SQUARED_ERROR,), lambda e2: np.sqrt(_positive(e2)),
    "sqrt <(x - t)^2 - s^2 / M>, the RMSE that the mean of infinitely many such members has",
    WEATHERBENCH2 + ", unbiased ensemble mean", optimum=0.0, unit_power=1,
)  # fmt: skip
SPREAD_SKILL_RATIO_UNBIASED = Metric(
    "spread_skill_ratio_unbiased", (ENSEMBLE_VARIANCE, UNBIASED_SQUARED_ERROR),
    lambda variance, e2: root_ratio(variance, _positive(e2)),
    "sqrt(<s^2> / <(x - t)^2 - s^2 / M>); 1 for members drawn from the truth's own distribution",
    "WeatherBench-X, unbiased spread-skill ratio", optimum=1.0, unit_power=0,
)  # fmt: skip

ENSEMBLE_METRICS = (
    CRPS, CRPS_FAIR, CRPS_ALMOST_FAIR, SPREAD, SKILL, SKILL_UNBIASED, SPREAD_SKILL_RATIO, SPREAD_SKILL_RATIO_UNBIASED,
)  # fmt: skip
