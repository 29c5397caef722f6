"""Scores of one forecast field against its truth: errors, correlation, anomaly correlation, activity.

Notation: p prediction, t truth, c climatology at the valid time, <.> the weighted mean over the dimensions that the
caller averages. Where a score can be formed of the means over everything or for each start and then averaged, both
are here under different names, because they differ (by several per cent for the RMSE of real records).
"""

from typing import Any

import numpy as np
import xarray as xr

from workbench.metrics.base import Metric, Statistic, sample_mean

WILKS = "Wilks (2019), Statistical Methods in the Atmospheric Sciences, 4th ed., ch. 9"
WEATHERBENCH2 = "Rasp et al. (2024), WeatherBench 2, doi:10.1029/2023MS004019"

ERROR = Statistic("error", lambda f: f.error)
ABSOLUTE_ERROR = Statistic("absolute_error", lambda f: abs(f.error))
SQUARED_ERROR = Statistic("squared_error", lambda f: f.error**2)
PREDICTION = Statistic("prediction", lambda f: f.prediction)
TRUTH = Statistic("truth", lambda f: f.truth)
PREDICTION_SQUARED = Statistic("prediction_squared", lambda f: f.prediction**2)
TRUTH_SQUARED = Statistic("truth_squared", lambda f: f.truth**2)
PRODUCT = Statistic("product", lambda f: f.prediction * f.truth)
PREDICTION_ANOMALY = Statistic("prediction_anomaly", lambda f: f.prediction_anomaly)
TRUTH_ANOMALY = Statistic("truth_anomaly", lambda f: f.truth_anomaly)
PREDICTION_ANOMALY_SQUARED = Statistic("prediction_anomaly_squared", lambda f: f.prediction_anomaly**2)
TRUTH_ANOMALY_SQUARED = Statistic("truth_anomaly_squared", lambda f: f.truth_anomaly**2)
ANOMALY_PRODUCT = Statistic("anomaly_product", lambda f: f.prediction_anomaly * f.truth_anomaly)
TRUTH_MAXIMUM = Statistic("truth_maximum", lambda f: f.truth, reduce="max")
TRUTH_NEGATIVE_MAXIMUM = Statistic("truth_negative_maximum", lambda f: -f.truth, reduce="max")


def variance_of(mean: Any, mean_of_square: Any) -> Any:
    """Return <x^2> - <x>^2, with zero where the difference is within the rounding of its terms.

    Where the variance is below 100 units in the last place of the mean square, the field is constant as far as can
    be told, and a score that divides by its variance is not defined.
    """
    variance = mean_of_square - mean**2
    rounding = 100 * np.finfo(np.float64).eps * mean_of_square
    # Not "variance > rounding": a NaN must stay NaN.
    return xr.where(variance <= rounding, 0.0, variance)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Return numerator / denominator, NaN where the denominator is zero."""
    return numerator / xr.where(denominator == 0, np.nan, denominator)


def _pearson(p: Any, t: Any, pp: Any, tt: Any, pt: Any) -> Any:
    return _ratio(pt - p * t, np.sqrt(variance_of(p, pp)) * np.sqrt(variance_of(t, tt)))


def _cosine(pp: Any, tt: Any, pt: Any) -> Any:
    return _ratio(pt, np.sqrt(pp) * np.sqrt(tt))


def root_ratio(numerator: Any, denominator: Any) -> Any:
    """Return sqrt(numerator / denominator), NaN where the denominator is zero."""
    return np.sqrt(_ratio(numerator, denominator))


MSE = Metric(
    "mse", (SQUARED_ERROR,), lambda e2: e2,
    "<(p - t)^2>", WILKS, optimum=0.0, unit_power=2,
)  # fmt: skip
RMSE = Metric(
    "rmse", (SQUARED_ERROR,), np.sqrt,
    "sqrt <(p - t)^2>", WEATHERBENCH2, optimum=0.0, unit_power=1,
)  # fmt: skip
RMSE_ROOT_FIRST = sample_mean(RMSE, "rmse_root_first", WEATHERBENCH2 + ", RMSESqrtBeforeTimeAvg")
NRMSE_STD = Metric(
    "nrmse_std", (SQUARED_ERROR, TRUTH, TRUTH_SQUARED),
    lambda e2, t, tt: root_ratio(e2, variance_of(t, tt)),
    "sqrt <(p - t)^2> / sqrt <(t - <t>)^2>; 1 is the score of the truth's own mean",
    "Ohana et al. (2024), The Well, arXiv:2412.00568, VRMSE without its small constant", optimum=0.0, unit_power=0,
)  # fmt: skip
NRMSE_RANGE = Metric(
    "nrmse_range", (SQUARED_ERROR, TRUTH_MAXIMUM, TRUTH_NEGATIVE_MAXIMUM),
    lambda e2, high, low: _ratio(np.sqrt(e2), high + low),
    "sqrt <(p - t)^2> / (max t - min t), the range over the same points, unweighted",
    "engineering convention",
    optimum=0.0, unit_power=0,
)  # fmt: skip
MAE = Metric(
    "mae", (ABSOLUTE_ERROR,), lambda e: e,
    "<|p - t|>", WILKS, optimum=0.0, unit_power=1,
)  # fmt: skip
BIAS = Metric(
    "bias", (ERROR,), lambda e: e,
    "<p - t>", WILKS, optimum=0.0, unit_power=1,
)  # fmt: skip
RELATIVE_L2 = sample_mean(
    Metric(
        "relative_l2_of_means", (SQUARED_ERROR, TRUTH_SQUARED), root_ratio,
        "sqrt(<(p - t)^2> / <t^2>)", "", optimum=0.0, unit_power=0,
    ),
    "relative_l2", "Li et al. (2021), Fourier Neural Operator, arXiv:2010.08895, sec. 5",
)  # fmt: skip
CORRELATION = Metric(
    "correlation", (PREDICTION, TRUTH, PREDICTION_SQUARED, TRUTH_SQUARED, PRODUCT), _pearson,
    "<(p - <p>)(t - <t>)> / sqrt(<(p - <p>)^2> <(t - <t>)^2>)",
    WILKS + ", Pearson", optimum=1.0, unit_power=0,
)  # fmt: skip
CORRELATION_SAMPLE_MEAN = sample_mean(CORRELATION, "correlation_sample_mean", WILKS + ", Pearson")
ACC = Metric(
    "acc", (PREDICTION_ANOMALY_SQUARED, TRUTH_ANOMALY_SQUARED, ANOMALY_PRODUCT), _cosine,
    "<(p - c)(t - c)> / sqrt(<(p - c)^2> <(t - c)^2>), uncentred",
    "WeatherBench-X, anomaly correlation of aggregated moments", optimum=1.0, unit_power=0,
)  # fmt: skip
ACC_SAMPLE_MEAN = sample_mean(ACC, "acc_sample_mean", WEATHERBENCH2)
ACC_CENTRED = Metric(
    "acc_centred",
    (PREDICTION_ANOMALY, TRUTH_ANOMALY, PREDICTION_ANOMALY_SQUARED, TRUTH_ANOMALY_SQUARED, ANOMALY_PRODUCT),
    _pearson,
    "Pearson correlation of p - c and t - c",
    WILKS + ", centred anomaly correlation", optimum=1.0, unit_power=0,
)  # fmt: skip
ACC_CENTRED_SAMPLE_MEAN = sample_mean(ACC_CENTRED, "acc_centred_sample_mean", WILKS + ", centred anomaly correlation")
ACTIVITY = Metric(
    "activity", (PREDICTION_ANOMALY_SQUARED,), np.sqrt,
    "sqrt <(p - c)^2>", WEATHERBENCH2, optimum=None, unit_power=1,
)  # fmt: skip
ACTIVITY_RATIO = Metric(
    "activity_ratio", (PREDICTION_ANOMALY_SQUARED, TRUTH_ANOMALY_SQUARED), root_ratio,
    "sqrt(<(p - c)^2> / <(t - c)^2>); below 1 the forecast is smoother than the truth", WEATHERBENCH2,
    optimum=1.0, unit_power=0,
)  # fmt: skip

VECTOR_METRICS = ("mse", "rmse", "rmse_root_first", "relative_l2", "acc", "acc_sample_mean", "activity",
                  "activity_ratio", "skill")  # fmt: skip
"""Those that a vector has as one quantity: they are made of squares and products, which add up over components."""

FIELD_METRICS = (
    MSE, RMSE, RMSE_ROOT_FIRST, NRMSE_STD, NRMSE_RANGE, MAE, BIAS, RELATIVE_L2, CORRELATION, CORRELATION_SAMPLE_MEAN,
    ACC, ACC_SAMPLE_MEAN, ACC_CENTRED, ACC_CENTRED_SAMPLE_MEAN, ACTIVITY, ACTIVITY_RATIO,
)  # fmt: skip
