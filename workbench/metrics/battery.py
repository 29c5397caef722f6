"""Errors of predicted cycle lives, as the field states them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]

WITHIN = 0.15


def mape(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean absolute percentage error (%), over the last axis."""
    return 100 * (np.abs(predicted - true) / true).mean(-1)


def rmse(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Root-mean-square error (cycles), over the last axis."""
    return np.sqrt(((predicted - true) ** 2).mean(-1))


def mae(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean absolute error (cycles), over the last axis."""
    return np.abs(predicted - true).mean(-1)


def within_15(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Share of cells (%) whose error is at most 15 % of their life: the "15 %-accuracy" of BatteryLife (KDD 2025)."""
    return 100 * (np.abs(predicted - true) <= WITHIN * true).mean(-1)


METRICS: dict[str, tuple[Score, str]] = {
    "mape": (mape, "%"),
    "rmse": (rmse, "1"),
    "mae": (mae, "1"),
    "within_15": (within_15, "%"),
}
"""Metric -> its function of (predicted, true) and its units; all but ``within_15`` are better when smaller."""
