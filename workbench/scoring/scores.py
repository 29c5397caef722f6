"""From sums to ``scores.nc``: every metric with its interval, and the comparison with each baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.experiment import EvaluateConfig
from workbench.metrics import WeightedSums, find_metric
from workbench.metrics.resampling import MIN_BLOCKS
from workbench.scoring.bootstrap import bounds_of, resample
from workbench.scoring.shape import decorrelation, spectra, variance
from workbench.scoring.sheet import Sheet, finished, starts_of
from workbench.significance import compare


def score_dataset(sheet: Sheet) -> xr.Dataset:
    """Every score of every forecast; what each variable is stands in its ``long_name``."""
    dataset = xr.Dataset({**_scores(sheet), **variance(sheet), **spectra(sheet)})
    if sheet.ahead:
        dataset.update(decorrelation(sheet))
    dataset["score_by_start"] = _by_start(sheet)
    dataset["finite_starts"] = _finite_starts(sheet)
    if sheet.baselines:
        dataset.update(_comparisons(sheet))
    dataset["metric"].attrs.update(
        definition=json.dumps({name: find_metric(name).definition for name in sheet.metrics}),
        source=json.dumps({name: find_metric(name).source for name in sheet.metrics}),
    )
    dataset["variable"].attrs["units"] = json.dumps(sheet.units)
    return dataset.assign_coords(lead_time=sheet.leads)


def _scores(sheet: Sheet) -> dict[str, xr.DataArray]:
    """``score``, ``score_low``, ``score_high`` on ``(forecast, metric, variable, lead_time)``."""
    found: dict[str, dict[str, dict[str, xr.DataArray]]] = {"score": {}, "score_low": {}, "score_high": {}}
    for name, rows in sheet.tally.sums.items():
        for label, sums in rows.items():
            metrics = sheet.metrics_of(name, label)
            values = finished(metrics, sums.sum(starts_of(sums)), label)
            bounds = _interval(metrics, sums, label, sheet.config)
            for kind, array in zip(found, (values, *bounds), strict=True):
                complete = array.reindex(metric=list(sheet.metrics))
                found[kind].setdefault(name, {})[label] = complete
    words = {
        "score": "score over all starts",
        "score_low": "lower bound of score",
        "score_high": "upper bound of score",
    }
    order = ("forecast", "metric", "variable", "lead_time")
    return {
        kind: sheet.by_row(rows, "forecast").transpose(*order).assign_attrs(long_name=words[kind])
        for kind, rows in found.items()
    }


def _interval(
    metrics: Sequence[str], sums: WeightedSums, label: str, config: EvaluateConfig
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bounds of every score ``(metric, lead_time)``; NaN for fewer than four starts or a forecast not finite."""
    drawn = resample(config.headline, sums, label, config)
    if drawn is None:
        empty = finished(metrics, sums.sum(starts_of(sums)), label) * np.nan
        return empty, empty
    values = finished(metrics, drawn[0], label)
    return bounds_of(values, drawn[1], config)


def _by_start(sheet: Sheet) -> xr.DataArray:
    """The headline metric of each start by itself."""
    metric = sheet.config.headline
    rows = {
        name: {label: finished([metric], sums, label).isel(metric=0, drop=True) for label, sums in found.items()}
        for name, found in sheet.tally.sums.items()
    }
    return sheet.by_row(rows, "forecast").assign_attrs(long_name=f"{metric} of each start")


def _finite_starts(sheet: Sheet) -> xr.DataArray:
    """Number of starts whose forecast is finite at each lead: a stopped forecast shows here."""
    rows: dict[str, dict[str, xr.DataArray]] = {}
    for name, found in sheet.tally.sums.items():
        for label, sums in found.items():
            finite = xr.apply_ufunc(np.isfinite, sums.sums[label]).all("statistic")
            rows.setdefault(name, {})[label] = finite.sum(starts_of(sums))
    return sheet.by_row(rows, "forecast").assign_attrs(long_name="starts with a finite forecast", units="1")


def _comparisons(sheet: Sheet) -> dict[str, xr.DataArray]:
    """``p_value``, ``beats_to`` with bounds and ``beats_to_lead``, on ``(baseline, variable, ...)``."""
    model = sheet.forecasts[0]
    found: dict[str, dict[str, dict[str, xr.DataArray]]] = {}
    for baseline in sheet.baselines:
        for label in sheet.labels:
            pair = sheet.tally.sums[model][label], sheet.tally.sums[baseline][label]
            for kind, array in _comparison(sheet, pair, label).items():
                found.setdefault(kind, {}).setdefault(baseline, {})[label] = array
    arrays = {kind: sheet.by_row(rows, "baseline") for kind, rows in found.items()}
    metric = sheet.config.headline
    arrays["p_value"].attrs["long_name"] = f"two-sided p-value of no difference in {metric}, paired block bootstrap"
    arrays["beats_to"].attrs.update(long_name=f"steps up to which {model} has the better {metric}", units="1")
    arrays["beats_to_lead"].attrs.update(
        long_name=f"lead up to which {model} has the better {metric}", **sheet.lead_units
    )
    return arrays


def _comparison(sheet: Sheet, pair: tuple[WeightedSums, WeightedSums], label: str) -> dict[str, xr.DataArray]:
    config = sheet.config
    starts = int(np.prod([pair[0].weights.sizes[d] for d in starts_of(pair[0])]))
    if starts >= MIN_BLOCKS:
        one = compare(
            config.headline, *pair, label, resamples=config.resamples, confidence=config.confidence
        ).drop_vars("unit_power", errors="ignore")
        reached, low, high = (one[k] for k in ("horizon", "horizon_lower", "horizon_upper"))
        p_value = one["p_value"]
    else:  # too few starts to resample: the scores alone are compared
        optimum = find_metric(config.headline).optimum or 0.0
        first, second = (
            finished([config.headline], s.sum(starts_of(s)), label).isel(metric=0, drop=True) for s in pair
        )
        better = abs(first - optimum) < abs(second - optimum)
        reached = better.cumprod("lead_time").sum("lead_time")
        low = high = reached * np.nan
        p_value = first * np.nan
    step = sheet.leads.values[0]
    lead = xr.DataArray(np.where(int(reached) > 0, sheet.leads.values[max(int(reached) - 1, 0)], step - step))
    return {
        "p_value": p_value.drop_vars("lead_time", errors="ignore"),
        "beats_to": reached.astype(np.int64),
        "beats_to_low": low.astype(np.float64),
        "beats_to_high": high.astype(np.float64),
        "beats_to_lead": lead,
    }
