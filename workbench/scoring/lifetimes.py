"""Scores of predicted lives: errors of every part beside baselines, intervals, and policies; free of torch.

What ``scores.nc`` holds: ``score(forecast, metric, part)`` with bootstrap bounds, ``difference`` in the headline metric
from each baseline with its p-value, ``coverage(part)`` and ``width(part)`` of the prediction intervals, errors by
policy, and ``prediction(forecast, cell)`` beside the truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from workbench import __version__
from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeEvaluateConfig
from workbench.metrics.battery import METRICS
from workbench.scoring.lifetimes_verdict import CROSS_VALIDATED, LEFT_OUT, MODEL, POOLED, headline, verdict
from workbench.significance import expanded_level


def score(
    lives: xr.Dataset,
    baselines: Mapping[str, np.ndarray],
    definitions: Mapping[str, str],
    config: LifetimeEvaluateConfig,
) -> xr.Dataset:
    """Score predictions beside baselines.

    Args:
        lives: what ``workbench predict`` wrote of an experiment.
        baselines: name -> predicted life of every cell of `lives`, NaN where it predicts none.
        definitions: name -> what the baseline is.
        config: the section ``evaluate``.

    Raises:
        InputError: a cell has no life, or one that is left out is not there.
    """
    true = lives["cycle_life"].values
    if not np.isfinite(true).all():
        raise InputError("predictions of cells without an end of life cannot be scored: predict without --cells")
    rows = _rows(lives, config.without)
    forecasts = {MODEL: lives["predicted_life"].values, **baselines}
    draws = {part: _draws(len(cells), config.resamples) for part, cells in rows.items()}
    found: dict[str, Any] = _scores(forecasts, true, rows, draws, config)
    found |= _differences(forecasts, true, rows, draws, config) if baselines else {}
    found |= _intervals(lives, rows, config.confidence)
    found |= _policies(lives)
    found["prediction"] = (("forecast", "cell"), np.stack(list(forecasts.values())))
    labels = {"forecast": list(forecasts), "metric": list(METRICS), "part": list(rows)}
    labels |= {"baseline": list(baselines)} if baselines else {}
    kept = ("predicted_life_lower", "predicted_life_upper", "unlike_training", "p_value", "cycle_life")
    found |= {name: ("cell", lives[name].values, lives[name].attrs) for name in kept}
    found["cell_part"] = ("cell", lives["part"].values)
    scores = xr.Dataset(found, {**labels, "cell": lives["cell"].values})
    scores["metric"].attrs["units"] = json.dumps({name: units for name, (_, units) in METRICS.items()})
    scores["metric"].attrs["definition"] = json.dumps({n: str(f.__doc__) for n, (f, _) in METRICS.items()})
    scores.attrs = {
        "title": f"Scores of {lives.attrs.get('workbench_experiment', '')}",
        "history": f"workbench {__version__}: predicted lives against truth and baselines",
        "experiment": lives.attrs.get("workbench_experiment", ""),
        "split": lives.attrs.get("workbench_split", ""),
        "level": float(lives["predicted_life_lower"].attrs["level"]),
        "headline_metric": config.headline,
        "confidence": config.confidence,
        "resamples": config.resamples,
        "baselines": json.dumps({name: definitions[name] for name in baselines}),
        "workbench_version": __version__,
    }
    return scores.assign_attrs(headline=headline(scores), verdict=verdict(scores))


def _rows(lives: xr.Dataset, without: Sequence[str]) -> dict[str, np.ndarray]:
    """Part -> places of its cells: the parts as they are, without some cells, and all that are tested together."""
    part, names = lives["part"].values.astype(str), lives["cell"].values.astype(str)
    unknown = sorted(set(without) - set(names.tolist()))
    if unknown:
        raise InputError(f"evaluate.without names {', '.join(unknown)}, and the predictions have no such cell")
    out = np.isin(names, without)
    rows: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(sorted(part, key=lambda p: (p == CROSS_VALIDATED, p))):
        rows[name] = np.flatnonzero(part == name)
        if out[rows[name]].any():
            rows[name + LEFT_OUT] = np.flatnonzero((part == name) & ~out)
    tested = np.flatnonzero(part != CROSS_VALIDATED)
    if len(set(part[tested].tolist())) > 1:
        rows[POOLED] = tested
    return rows


def _draws(count: int, resamples: int) -> np.ndarray:
    """Bootstrap resamples of cells, ``int[resample, cell]``."""
    return np.random.default_rng(0).integers(count, size=(resamples, count))


def _scores(
    forecasts: Mapping[str, np.ndarray],
    true: np.ndarray,
    rows: Mapping[str, np.ndarray],
    draws: Mapping[str, np.ndarray],
    config: LifetimeEvaluateConfig,
) -> dict[str, Any]:
    """``score`` with bounds on ``(forecast, metric, part)``."""
    shape = (len(forecasts), len(METRICS), len(rows))
    values, low, high = (np.full(shape, np.nan) for _ in range(3))
    for i, predicted in enumerate(forecasts.values()):
        for k, (part, cells) in enumerate(rows.items()):
            p, t = predicted[cells], true[cells]
            if not np.isfinite(p).all():
                continue
            for j, (metric, _) in enumerate(METRICS.values()):
                values[i, j, k] = metric(p, t)
                low[i, j, k], high[i, j, k] = _bounds(metric(p[draws[part]], t[draws[part]]), len(t), config.confidence)
    dims = ("forecast", "metric", "part")
    words = {"score": "score over cells", "score_low": "lower bound of score", "score_high": "upper bound of score"}
    return {n: (dims, a, {"long_name": w}) for (n, w), a in zip(words.items(), (values, low, high), strict=True)}


def _bounds(resampled: np.ndarray, count: int, confidence: float) -> tuple[float, float]:
    """Percentile interval, expanded for few cells as in `workbench.significance`."""
    if count < 4:
        return np.nan, np.nan
    level = expanded_level(0.5 * (1 - confidence), count)
    low, high = np.quantile(resampled, [level, 1 - level])
    return float(low), float(high)


def _differences(
    forecasts: Mapping[str, np.ndarray],
    true: np.ndarray,
    rows: Mapping[str, np.ndarray],
    draws: Mapping[str, np.ndarray],
    config: LifetimeEvaluateConfig,
) -> dict[str, Any]:
    """Headline score of the model minus that of each baseline, and how often resamples of cells turn its sign."""
    metric, baselines = METRICS[config.headline][0], [n for n in forecasts if n != MODEL]
    difference, p_value = (np.full((len(baselines), len(rows)), np.nan) for _ in range(2))
    for k, (part, cells) in enumerate(rows.items()):
        t, drawn = true[cells], draws[part]
        mine = forecasts[MODEL][cells]
        resampled = metric(mine[drawn], t[drawn])
        for i, name in enumerate(baselines):
            theirs = forecasts[name][cells]
            difference[i, k] = metric(mine, t) - metric(theirs, t)
            gap = resampled - metric(theirs[drawn], t[drawn])
            if np.isfinite(gap).all():
                p_value[i, k] = min(1.0, 2 * (1 + min((gap <= 0).sum(), (gap >= 0).sum())) / (1 + len(gap)))
    words = f"{config.headline} of the model minus that of the baseline"
    return {
        "difference": (("baseline", "part"), difference, {"long_name": words}),
        "p_value_of_difference": (
            ("baseline", "part"),
            p_value,
            {"long_name": "two-sided, paired bootstrap over cells"},
        ),
    }


def _intervals(lives: xr.Dataset, rows: Mapping[str, np.ndarray], confidence: float) -> dict[str, Any]:
    """Share of cells whose life lies within the interval (with a Wilson interval), and the intervals' width."""
    low, high, true = (lives[n].values for n in ("predicted_life_lower", "predicted_life_upper", "cycle_life"))
    columns: dict[str, list[float]] = {n: [] for n in ("coverage", "coverage_low", "coverage_high", "ratio", "width")}
    for part, cells in rows.items():
        if part == CROSS_VALIDATED or not len(cells):
            for values in columns.values():
                values.append(np.nan)
            continue
        hits = int(((low <= true) & (true <= high))[cells].sum())
        sure = stats.binomtest(hits, len(cells)).proportion_ci(confidence, method="wilson")
        ratio, width = (high / low)[cells], (high - low)[cells]
        found = (hits / len(cells), sure.low, sure.high, float(np.median(ratio)), float(np.median(width)))
        for values, value in zip(columns.values(), found, strict=True):
            values.append(value)
    words = {
        "coverage": "share of lives within the prediction interval",
        "coverage_low": "lower bound of coverage",
        "coverage_high": "upper bound of coverage",
        "ratio": "median ratio of the upper to the lower bound of the prediction interval",
        "width": "median width of the prediction interval in cycles",
    }
    return {name: ("part", values, {"units": "1", "long_name": words[name]}) for name, values in columns.items()}


def _policies(lives: xr.Dataset) -> dict[str, Any]:
    """Cells, mean signed and absolute percentage error of every policy that is tested, and whether it is new."""
    if "policy" not in lives.coords:
        return {}
    tested = lives.isel(cell=lives["part"].values != CROSS_VALIDATED)
    policy, names = tested["policy"].values.astype(str), np.unique(tested["policy"].values.astype(str))
    error = 100 * (tested["predicted_life"] / tested["cycle_life"] - 1).values
    new = tested["new_policy"].values if "new_policy" in tested else np.zeros(len(policy))
    rows = [
        (n := policy == name, n.sum(), error[n].mean(), np.abs(error[n]).mean(), new[n].max())[1:] for name in names
    ]
    cells, bias, absolute, unseen = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "policy": ("policy", names.astype(object)),
        "policy_cells": ("policy", cells, {"long_name": "cells of the policy that are tested"}),
        "policy_bias": ("policy", bias, {"units": "%", "long_name": "mean error"}),
        "policy_mape": ("policy", absolute, {"units": "%", "long_name": "mean absolute error"}),
        "policy_new": ("policy", unseen.astype(np.int8), {"long_name": "no training cell has the policy"}),
    }
