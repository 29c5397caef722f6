"""Scores against the number of early cycles: the choice of depth, and everything in one Dataset; free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.metrics.battery import METRICS
from workbench.scoring.lifetimes_verdict import CROSS_VALIDATED, MODEL

Errors = Mapping[int, Sequence[Sequence[float]]]
"""Depth -> percentage errors of the cells of each fold."""

KEPT = ("score", "score_low", "score_high", "coverage", "coverage_low", "coverage_high", "ratio", "width")

PUBLISHED = {
    "FPNN": "Published for FPNN (arXiv:2401.16102): MAPE 2.47, 1.29, 1.08 and 0.88 % from 10, 20, 30 and 40 cycles of "
    "charges. They cannot be compared: how cells were split is not said there, cells of one policy differ by more than "
    "that, and where training sees other windows of the tested cells (battery/fpnn_leaky) this network comes to 2.5 %."
}
"""What was published for a network, and why it does not stand in the table."""


def standard_error(folds: Sequence[Sequence[float]]) -> float:
    """Standard error of the mean over folds."""
    means = [np.mean(fold) for fold in folds]
    return float(np.std(means, ddof=1) / np.sqrt(len(means)))


def mean_error(folds: Sequence[Sequence[float]]) -> float:
    """Mean over all cells."""
    return float(np.mean(np.concatenate([np.asarray(fold) for fold in folds])))


def choose(errors: Errors) -> int:
    """The smallest depth whose error is within one standard error of the least.

    Source: Breiman, Friedman, Olshen & Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    best = min(errors, key=lambda depth: mean_error(errors[depth]))
    limit = mean_error(errors[best]) + standard_error(errors[best])
    return min(depth for depth in errors if mean_error(errors[depth]) <= limit)


def combine(scores: Mapping[int, xr.Dataset], errors: Mapping[int, Errors], depth: str, network: str) -> xr.Dataset:
    """Scores, coverage and cross-validated errors along ``cycles``.

    Args:
        scores: number of cycles -> what ``workbench evaluate`` wrote.
        errors: number of cycles -> depth -> errors by fold.
        depth: name of the depth.
        network: class of the network.
    """
    numbers = list(scores)
    together = xr.concat([one[list(KEPT)] for one in scores.values()], "cycles", join="outer")
    depths = list(next(iter(errors.values())))
    table, sure = (
        np.array([[of(errors[n][d]) for n in numbers] for d in depths]) for of in (mean_error, standard_error)
    )
    first = next(iter(scores.values()))
    found = together.assign_coords(
        cycles=("cycles", numbers, {"units": "1", "long_name": "early cycles that are seen"}),
        depth=("depth", depths, {"units": "1", "long_name": depth}),
    ).assign(
        cross_validated=(("depth", "cycles"), table, {"units": "%", "long_name": "mape of folds not seen"}),
        cross_validated_error=(("depth", "cycles"), sure, {"units": "%", "long_name": "its standard error over folds"}),
        chosen_depth=("cycles", [choose(errors[n]) for n in numbers], {"units": "1", "long_name": f"chosen {depth}"}),
    )
    kept = ("experiment", "split", "level", "headline_metric", "confidence", "resamples", "baselines")
    about = {"title": f"Scores of {first.attrs['experiment']} over the number of cycles", "comment": ""}
    found.attrs = {**about, **{k: first.attrs[k] for k in kept}, "workbench_version": __version__}
    return found.assign_attrs(comment=PUBLISHED.get(network, ""))


def plain(sweep: xr.Dataset) -> dict[str, Any]:
    """Headline scores, coverage and choices as plain numbers for ``--json``."""
    chosen = sweep["score"].sel(metric=sweep.attrs["headline_metric"])
    return {
        "metric": sweep.attrs["headline_metric"],
        "cycles": sweep["cycles"].values.tolist(),
        "chosen_depth": sweep["chosen_depth"].values.tolist(),
        "score": {
            str(p): {str(f): chosen.sel(part=p, forecast=f).values.tolist() for f in sweep["forecast"].values}
            for p in sweep["part"].values
        },
        "coverage": {str(p): sweep["coverage"].sel(part=p).values.tolist() for p in sweep["part"].values},
    }


def print_sweep(sweep: xr.Dataset) -> None:
    """Print the headline's metric of every forecast and part, coverage, and the choice of depth."""
    from rich.console import Console
    from rich.table import Table

    console, metric = Console(), str(sweep.attrs["headline_metric"])
    unit, numbers = METRICS[metric][1], [str(n) for n in sweep["cycles"].values]
    for part in map(str, sweep["part"].values):
        one = sweep.sel(part=part)
        table = Table(title=f"{metric} ({'%' if unit == '%' else 'cycles'}) on {part}", title_justify="left")
        for name in ("cycles", *numbers):
            table.add_column(name, justify="right" if name in numbers else "left")
        for name in map(str, sweep["forecast"].values):
            values = one["score"].sel(metric=metric, forecast=name).values
            if np.isfinite(values).any():
                table.add_row(name.replace("_", " "), *(f"{v:.1f}" for v in values))
            if name == MODEL:
                sure = one[["score_low", "score_high"]].sel(metric=metric, forecast=name)
                bounds = zip(sure["score_low"].values, sure["score_high"].values, strict=True)
                table.add_row("  interval", *(f"{a:.1f}-{b:.1f}" for a, b in bounds))
        if part != CROSS_VALIDATED:
            table.add_section()
            table.add_row("coverage (%)", *(f"{100 * v:.1f}" for v in one["coverage"].values))
            table.add_row("upper / lower bound", *(f"{v:.2f}" for v in one["ratio"].values))
        console.print(table)
    label = sweep["depth"].attrs["long_name"]
    table = Table(title=f"cross-validated mape (%) by {label}, training cells alone", title_justify="left")
    for name in (label, *numbers):
        table.add_column(name, justify="right")
    for depth in sweep["depth"].values:
        row = sweep.sel(depth=depth)
        marks = ["*" if chosen == depth else " " for chosen in sweep["chosen_depth"].values]
        table.add_row(str(depth), *(f"{v:.1f}{m}" for v, m in zip(row["cross_validated"].values, marks, strict=True)))
    console.print(table)
    console.print("* chosen: the smallest within one standard error of the best", highlight=False)
    if sweep.attrs["comment"]:
        console.print(sweep.attrs["comment"], soft_wrap=True, highlight=False)
