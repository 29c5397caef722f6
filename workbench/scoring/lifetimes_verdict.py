"""What the scores of lives come to: verdict, headline, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from workbench.metrics.battery import METRICS

if TYPE_CHECKING:
    from rich.table import Table

MODEL = "model"
POOLED = "all tests"
LEFT_OUT = "x"
"""Ends the name of a part without the cells that `LifetimeEvaluateConfig.without` names."""

CROSS_VALIDATED = "train"
"""Part of training cells, each predicted by networks that have not seen its policy."""


def judged(scores: xr.Dataset) -> list[str]:
    """The parts that the verdict rests on: each part that is tested, without what is left out."""
    parts = [str(p) for p in scores["part"].values if p not in (POOLED, CROSS_VALIDATED)]
    return [p for p in parts if p + LEFT_OUT not in parts]


def best_baseline(scores: xr.Dataset, part: str) -> str:
    """The baseline with the best headline score."""
    row = scores["score"].sel(metric=scores.attrs["headline_metric"], part=part).drop_sel(forecast=MODEL)
    return str(row["forecast"].values[int(np.nanargmin(row.values))])


def headline(scores: xr.Dataset) -> str:
    """Errors of every part beside the best baseline, and the measured coverage, for people."""
    metric = str(scores.attrs["headline_metric"])
    unit = " %" if METRICS[metric][1] == "%" else " cycles"
    words = []
    for part in judged(scores):
        row = scores["score"].sel(metric=metric, part=part)
        text = f"{part}: {metric} {float(row.sel(forecast=MODEL)):.3g}{unit}"
        if "baseline" in scores:
            best = best_baseline(scores, part)
            text += f" against {float(row.sel(forecast=best)):.3g} of {best.replace('_', ' ')}"
        words.append(text)
    pooled = POOLED if POOLED in scores["part"].values else judged(scores)[0]
    coverage = float(scores["coverage"].sel(part=pooled))
    words.append(f"{100 * scores.attrs['level']:g} % intervals cover {100 * coverage:.1f} % of lives")
    leak = "LEAKY SPLIT, windows of tested cells were trained on: " if scores.attrs["split"] == "leaky_windows" else ""
    return leak + "; ".join(words)


def verdict(scores: xr.Dataset) -> str:
    """Whether the model is better than every baseline on every part that counts; if not, the first reason."""
    if scores.attrs["split"] == "leaky_windows":
        return "cannot be judged: the split leaks"
    if "baseline" not in scores:
        return "not compared with baselines"
    metric = str(scores.attrs["headline_metric"])
    for part in judged(scores):
        row, best = scores["score"].sel(metric=metric, part=part), best_baseline(scores, part)
        mine, theirs = float(row.sel(forecast=MODEL)), float(row.sel(forecast=best))
        if not mine < theirs:
            return f"does not beat its baselines: on {part} {best} has {metric} {theirs:.4g} against {mine:.4g}"
    return "beats its baselines"


def summary(scores: xr.Dataset) -> dict[str, Any]:
    """The scores as plain numbers for ``--json``."""
    table = scores["score"]
    return {
        "headline": scores.attrs["headline"],
        "verdict": scores.attrs["verdict"],
        "score": {
            str(part): {
                str(f): {str(m): float(table.sel(part=part, forecast=f, metric=m)) for m in table["metric"].values}
                for f in table["forecast"].values
            }
            for part in table["part"].values
        },
        "coverage": {str(p): float(scores["coverage"].sel(part=p)) for p in table["part"].values},
        "width": {str(p): float(scores["width"].sel(part=p)) for p in table["part"].values},
    }


def print_table(scores: xr.Dataset) -> None:
    """Print one table a part, then coverage, then the headline."""
    from rich.console import Console

    console = Console()
    for part in map(str, scores["part"].values):
        console.print(_table(scores.sel(part=part), part, str(scores.attrs["headline_metric"])))
    console.print(scores.attrs["headline"], soft_wrap=True, highlight=False, markup=False)


def _table(row: xr.Dataset, part: str, headline: str) -> Table:
    """The scores of one part, those of the headline's metric with their interval."""
    from rich.table import Table

    metrics = [str(m) for m in row["metric"].values]
    title = part + (" (cross-validated)" if part == CROSS_VALIDATED else "")
    if np.isfinite(row["coverage"]):
        title += f": intervals cover {100 * float(row['coverage']):.1f} %, upper over lower {float(row['ratio']):.2f}"
    table = Table(title=title, title_justify="left")
    table.add_column("forecast")
    for metric in metrics:
        table.add_column(f"{metric} (%)" if METRICS[metric][1] == "%" else f"{metric} (cycles)", justify="right")
    for name in map(str, row["forecast"].values):
        one = row.sel(forecast=name)
        if not np.isfinite(one["score"]).any():
            continue
        cells = [f"{value:.1f}" for value in one["score"].values]
        sure = one.sel(metric=headline)
        cells[metrics.index(headline)] += f" ({float(sure['score_low']):.1f} to {float(sure['score_high']):.1f})"
        table.add_row(name.replace("_", " "), *cells)
    return table
