"""The sentence on top of a report, and the table under it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from workbench.metrics import find_metric
from workbench.scoring.sheet import ENSEMBLE_PRINTED

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_VARIABLES = 3


def headline(scores: xr.Dataset, metric: str, starts: int, confidence: float) -> str:
    """Up to which step the first forecast beats each baseline, for people.

    ``slp: beats persistence to step 5 of 5 and climatology to step 4 ± 1 of 5 (rmse, paired block bootstrap over
    30 starts, 95 %)``; the number after ± is half the width of the interval, rounded up.
    """
    labels = [str(v) for v in scores["variable"].values]
    sentences = [f"{label}: {_horizons(scores.sel(variable=label))}" for label in labels[:SHOWN_VARIABLES]]
    if len(labels) > SHOWN_VARIABLES:
        sentences.append(f"{len(labels) - SHOWN_VARIABLES} more variables in the table")
    certain = bool(np.isfinite(scores["beats_to_low"].values).all())
    how = f"paired block bootstrap over {starts} starts, {100 * confidence:g} %"
    if not certain:
        how = f"{starts} start{'s' if starts != 1 else ''}: too few for an interval"
    return f"{'; '.join(sentences)} ({metric}, {how})"


def _horizons(row: xr.Dataset) -> str:
    """``beats a and b to step 5 of 5, c to step 3 ± 1 of 5, does not beat d``."""
    steps = row.sizes["lead_time"]
    reaches: dict[str, list[str]] = {}
    for baseline in map(str, row["baseline"].values):
        one = row.sel(baseline=baseline)
        reached = int(one["beats_to"])
        width = float(one["beats_to_high"] - one["beats_to_low"])
        margin = f" ± {int(np.ceil(width / 2))}" if width > 0 else ""
        reach = f" to step {reached}{margin} of {steps}" if reached else ""
        reaches.setdefault(reach, []).append(baseline.replace("_", " "))
    lost = reaches.pop("", [])
    won = [_listed(names, "and") + reach for reach, names in reaches.items()]
    words = [f"beats {_listed(won, 'and')}"] if won else []
    words += [f"does not beat {_listed(lost, 'or')}"] if lost else []
    return ", ".join(words)


def _listed(words: list[str], joint: str) -> str:
    return f" {joint} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def verdict(scores: xr.Dataset, metric: str) -> str:
    """Whether the first forecast is better than every baseline at the first step, beyond chance; if not, the reason.

    Beyond chance: the interval of the number of steps to which it is better does not reach 0.
    """
    for label in map(str, scores["variable"].values):
        for baseline in map(str, scores["baseline"].values):
            reason = _reason(scores.sel(variable=label, baseline=baseline), baseline, metric)
            if reason:
                return f"does not beat its baselines: {label} {reason}"
    return "beats its baselines"


def _reason(row: xr.Dataset, baseline: str, metric: str) -> str:
    first = row["score"].isel(lead_time=0).sel(metric=metric)
    mine, theirs = float(first[0]), float(first.sel(forecast=baseline))
    numbers = f"at the first step ({metric} {mine:.4g} against {theirs:.4g})"
    if not np.isfinite(mine):
        return f"has no finite {metric} at the first step"
    if int(row["beats_to"]) == 0:
        return f"is no better than {baseline} {numbers}"
    if float(row["beats_to_low"]) < 1:
        return f"is better than {baseline} {numbers}, but not beyond chance"
    return ""


def bar_to_clear(scores: xr.Dataset, metric: str) -> str:
    """Which baseline is best at the first and the last step, and how good: what a model has to beat."""
    words = []
    for label in [str(v) for v in scores["variable"].values][:SHOWN_VARIABLES]:
        row = scores["score"].sel(variable=label, metric=metric)
        ends = []
        for step in dict.fromkeys((0, row.sizes["lead_time"] - 1)):
            at = row.isel(lead_time=step)
            best = int(abs(at - float(scores.attrs["optimum"])).argmin("forecast"))
            ends.append(f"{at['forecast'].values[best]} at step {step + 1} ({metric} {float(at[best]):.4g})")
        words.append(f"{label}: a model has to beat {_listed(ends, 'and')}")
    return "; ".join(words)


def summary(scores: xr.Dataset) -> dict[str, Any]:
    """Headline, verdict and headline metric as plain numbers for ``--json``; a score that is not finite is null."""
    metric = str(scores.attrs["headline_metric"])
    chosen = scores["score"].sel(metric=metric)
    units = scores["lead_time"].attrs.get("units", "1")
    plain: dict[str, Any] = {
        "headline": scores.attrs["headline"],
        "verdict": scores.attrs.get("verdict"),
        "metric": metric,
        "starts": int(scores.attrs["starts"]),
        "lead_time": [lead_text(value, units) for value in scores["lead_time"].values],
        "score": {
            label: {
                str(name): [
                    v if np.isfinite(v) else None for v in chosen.sel(variable=label, forecast=name).values.tolist()
                ]
                for name in scores["forecast"].values
            }
            for label in map(str, scores["variable"].values)
        },
    }
    if "beats_to" in scores:
        plain["beats_to"] = {
            label: {str(b): int(scores["beats_to"].sel(variable=label, baseline=b)) for b in scores["baseline"].values}
            for label in map(str, scores["variable"].values)
        }
    return plain


# ------------------------------------------------------------------------------------------------------- table


def shown_leads(count: int) -> list[int]:
    """Positions of the first lead and of those at a quarter, half and the whole of `count` leads."""
    return sorted({0, max(round(count / 4) - 1, 0), max(round(count / 2) - 1, 0), count - 1})


def print_table(scores: xr.Dataset, printed: Sequence[str] = ()) -> None:
    """Print scores of every forecast at a few leads, and the headline last.

    Args:
        scores: what ``scores.nc`` holds.
        printed: metrics besides the headline's; those of an ensemble are printed where there is one.
    """
    from rich.console import Console

    own = ENSEMBLE_PRINTED if int(scores.attrs["members"]) > 1 else ()
    known = [m for m in (*printed, *own) if m in scores["metric"].values]
    console = Console()
    for metric in dict.fromkeys((str(scores.attrs["headline_metric"]), *known)):
        console.print(_table(scores, metric))
    console.print(f"{scores.attrs['headline']}", soft_wrap=True, highlight=False, markup=False)


def _table(scores: xr.Dataset, metric: str) -> Table:
    """One metric of every forecast that has it, at a few leads."""
    from rich.table import Table

    units, power = json.loads(scores["variable"].attrs["units"]), find_metric(metric).unit_power
    leads = shown_leads(scores.sizes["lead_time"])
    chosen = scores["score"].sel(metric=metric).isel(lead_time=leads)
    table = Table(title=f"{metric} over {scores.attrs['starts']} starts", title_justify="left")
    table.add_column("variable")
    table.add_column("forecast")
    for value in chosen["lead_time"].values:
        table.add_column(lead_text(value, scores["lead_time"].attrs.get("units", "1")), justify="right")
    for label in map(str, scores["variable"].values):
        unit = ("1", units.get(label, "1"), f"({units.get(label, '1')})2")[power]
        row = chosen.sel(variable=label)
        names = [str(n) for n in row["forecast"].values if row.sel(forecast=n).notnull().any()]
        for k, name in enumerate(names or [str(row["forecast"].values[0])]):
            cells = [f"{v:.4g}" for v in row.sel(forecast=name).values]
            table.add_row(f"{label} ({unit})" if k == 0 else "", name, *cells)
        table.add_section()
    return table


def lead_text(value: np.generic, units: str) -> str:
    """A lead time: hours up to two days, then days; numbers with their units."""
    if isinstance(value, np.timedelta64):
        hours = float(value / np.timedelta64(1, "h"))
        return f"{hours:g} h" if hours < 48 else f"{hours / 24:g} d"
    return f"{float(value):.4g}" + ("" if units == "1" else f" {units}")
