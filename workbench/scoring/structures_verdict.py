"""What the scores of a structure come to: a sentence, a table, and plain numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

RANGE_BAR = 0.03
"""NRMSE of every component of displacement and of von Mises stress at most, by the range of each."""
BARS = {"displacement": 0.15, "von_mises": 0.20}
"""Relative L2 error at most, mean over forecasts."""
RIVALS = ("persistence", "quasi_static")
"""Baselines that a useful model is better than, in relative L2 error."""
SPOKEN = {"von_mises": "von Mises stress"}
SHOWN = ("displacement", "von_mises")
SHORT = {"von_mises": "von Mises"}
HEADINGS = {
    "nmae": "NMAE",
    "nrmse": "NRMSE",
    "relative_l2": "relative L2",
    "relative_l2_pooled": "pooled L2",
    "r2": "R2",
    "skill": "skill",
}
MOTION = {
    "peak_error": ("peak stress", "error"),
    "peak_distance": ("", "distance (m)"),
    "energy_drift": ("energy", "drift"),
    "frequency_error": ("frequency", "error"),
}


def verdict(scores: xr.Dataset) -> str:
    """Whether the model is within the bars and better than last state and statics; if not, by what it fails."""
    model = scores["score"].sel(forecast="model")
    failures, facts = [], []
    scored = [str(q) for q in scores["quantity"].values if str(q).startswith("displacement_") or q == "von_mises"]
    worst = max(scored, key=lambda q: _rank(float(model.sel(quantity=q, metric="nrmse"))))
    value = float(model.sel(quantity=worst, metric="nrmse"))
    facts.append(f"NRMSE {_percent(value)} of the range at most ({_name(worst)})")
    if not value < RANGE_BAR:
        failures.append(f"NRMSE of {_name(worst)} is {_percent(value)} of its range (bar {_percent(RANGE_BAR)})")
    for quantity, bar in BARS.items():
        if quantity not in scores["quantity"].values:
            failures.append(f"{_name(quantity)} is not forecast")
            continue
        value = float(model.sel(quantity=quantity, metric="relative_l2"))
        facts.append(f"relative L2 {value:.3g} in {_name(quantity)}")
        if not value <= bar:
            failures.append(f"relative L2 of {_name(quantity)} is {value:.3g} (bar {bar:.2f})")
        for rival in RIVALS:
            failures += _lost(scores, quantity, rival, value)
    missing = [name for name in RIVALS if name not in scores["forecast"].values]
    rivals = [name.replace("_", "-") for name in RIVALS if name not in missing]
    unheard = f"; not compared with {' and '.join(missing)} (evaluate.baselines)" if missing else ""
    if failures:
        return f"does not meet the bars: {'; '.join(failures)}{unheard}"
    better = f", better than {' and '.join(rivals)}" if rivals else ""
    return f"meets the bars: {', '.join(facts)}{better}{unheard}"


def _lost(scores: xr.Dataset, quantity: str, rival: str, value: float) -> list[str]:
    if rival not in scores["forecast"].values:
        return []
    theirs = float(scores["score"].sel(forecast=rival, quantity=quantity, metric="relative_l2"))
    if value < theirs or not np.isfinite(theirs):
        return []
    return [f"{_name(quantity)} is no better than {rival.replace('_', '-')} ({value:.3g} against {theirs:.3g})"]


def _rank(value: float) -> float:
    return value if np.isfinite(value) else np.inf


def _name(quantity: str) -> str:
    return SPOKEN.get(quantity, quantity)


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %" if np.isfinite(value) else "not finite"


def motion_means(scores: xr.Dataset) -> xr.Dataset:
    """Errors of peak, energy and frequency, mean over forecasts: ``(forecast)``.

    A drift is averaged by its size. Frequencies are averaged over the forecasts that have one, whose number is
    ``frequency_forecasts``.
    """
    found = {name: scores[name] for name in MOTION if name in scores}
    means = {
        name: (abs(array) if name == "energy_drift" else array).mean(
            [d for d in array.dims if d != "forecast"], skipna=name == "frequency_error"
        )
        for name, array in found.items()
    }
    if "frequency_error" in found:
        error = found["frequency_error"]
        means["frequency_forecasts"] = error.notnull().sum([d for d in error.dims if d != "forecast"])
    return xr.Dataset(means)


def summary(scores: xr.Dataset) -> dict[str, Any]:
    """Verdict and scores as plain numbers for ``--json``; what is not finite is null."""
    means = motion_means(scores)
    return {
        "verdict": scores.attrs["verdict"],
        "missing": json.loads(scores.attrs["missing"]),
        "score": {
            str(f): {
                str(q): {
                    str(m): _plain(scores["score"].sel(forecast=f, quantity=q, metric=m))
                    for m in scores["metric"].values
                }
                for q in scores["quantity"].values
            }
            for f in scores["forecast"].values
        },
        "motion": {
            str(f): {str(name): _plain(means[name].sel(forecast=f)) for name in means}
            for f in scores["forecast"].values
        },
    }


def _plain(value: xr.DataArray) -> float | None:
    return float(value) if np.isfinite(value) else None


def print_table(scores: xr.Dataset) -> None:
    """Print the scores of every forecast, what could not be computed, and the verdict last."""
    from rich.console import Console
    from rich.table import Table

    names, count = [str(f) for f in scores["forecast"].values], int(scores.attrs["forecasts"])
    table = Table(title=f"{count} forecasts of a structure, all leads", title_justify="left")
    for column in ("of", "score"):
        table.add_column(column, no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for quantity in (q for q in SHOWN if q in scores["quantity"].values):
        for metric, heading in HEADINGS.items():
            row = scores["score"].sel(quantity=quantity, metric=metric)
            label = SHORT.get(quantity, quantity) if metric == next(iter(HEADINGS)) else ""
            table.add_row(label, heading, *(_cell(float(row.sel(forecast=n)), metric) for n in names))
        table.add_section()
    means = motion_means(scores)
    for name, heads in MOTION.items():
        if name in means:
            table.add_row(*heads, *(_motion_cell(means.sel(forecast=n), name, count) for n in names))
    console = Console()
    console.print(table)
    for what, reason in json.loads(scores.attrs["missing"]).items():
        console.print(f"not computed: {what}: {reason}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"The model {scores.attrs['verdict']}", soft_wrap=True, highlight=False, markup=False)


def _cell(value: float, metric: str = "") -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if metric in ("r2", "skill") else f"{value:.2g}"


def _motion_cell(means: xr.Dataset, name: str, forecasts: int) -> str:
    cell = _cell(float(means[name]))
    count = int(means["frequency_forecasts"]) if name == "frequency_error" else forecasts
    return cell if count == forecasts else f"{cell} ({count})"
