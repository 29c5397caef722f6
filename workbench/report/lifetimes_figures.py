"""Figures of predicted lives: parity, intervals, policies, attributions, and scores against the number of cycles.

Each function takes what ``scores.nc``, ``predictions.nc`` or ``sweep.nc`` holds and returns a `Figure`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from workbench.metrics.battery import METRICS, WITHIN
from workbench.report import style
from workbench.report.figures import legend_below, new_axes
from workbench.report.labels import plain, spoken, with_units
from workbench.scoring.lifetimes_verdict import CROSS_VALIDATED

MARKS = ("o", "s", "^", "D")
SHOWN_BASELINES = 5


def parity(scores: xr.Dataset) -> Figure:
    """Predicted against true life of every cell with its prediction interval, and the band of ±15 %."""
    true, predicted = scores["cycle_life"].values, scores["prediction"].sel(forecast="model").values
    part = scores["cell_part"].values.astype(str)
    low, high = scores["predicted_life_lower"].values, scores["predicted_life_upper"].values
    with style.context():
        figure, axes = new_axes("predicted against true life", (5.4, 4.8))
        ends = np.array([min(true.min(), predicted.min()) / 1.15, max(true.max(), predicted.max()) * 1.15])
        axes.fill_between(ends, (1 - WITHIN) * ends, (1 + WITHIN) * ends, color=style.LINE, alpha=0.6, linewidth=0)
        axes.plot(ends, ends, color=style.MUTED, linewidth=0.9)
        colors = (style.MODEL, *style.BASELINES)
        for order, name in enumerate(p for p in dict.fromkeys(part) if p != CROSS_VALIDATED):
            rows = part == name
            reach = np.abs(np.stack([low[rows], high[rows]]) - predicted[rows])
            color, mark = colors[order % len(colors)], MARKS[order % len(MARKS)]
            axes.errorbar(true[rows], predicted[rows], reach, fmt="none", elinewidth=0.5, alpha=0.35, ecolor=color)
            axes.plot(true[rows], predicted[rows], mark, markersize=4, label=name, color=color, zorder=3)
        rows = part == CROSS_VALIDATED
        if rows.any():
            label = "train, cross-validated"
            axes.plot(true[rows], predicted[rows], "x", markersize=4, color=style.MUTED, zorder=2, label=label)
        for axis in (axes.set_xscale, axes.set_yscale):
            axis("log")
        _cycle_ticks(axes, ends)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel("true life (cycles)")
        axes.set_ylabel("predicted life (cycles)")
        legend_below(figure, axes)
    return figure


def _cycle_ticks(axes: Axes, ends: np.ndarray) -> None:
    """Labels in cycles on logarithmic axes."""
    nice = np.array([50, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10000])
    shown = nice[(nice > ends[0]) & (nice < ends[1])]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(shown.tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def intervals(scores: xr.Dataset) -> Figure:
    """Interval and truth of every tested cell, relative to its prediction, in the order of predicted life."""
    tested = scores.isel(cell=scores["cell_part"].values.astype(str) != CROSS_VALIDATED)
    predicted = tested["prediction"].sel(forecast="model").values
    order = np.argsort(predicted)
    true, low, high = (
        (tested[name].values / predicted)[order]
        for name in ("cycle_life", "predicted_life_lower", "predicted_life_upper")
    )
    unlike = tested["unlike_training"].values[order] == 1
    place, inside = np.arange(len(order)), (low <= true) & (true <= high)
    with style.context():
        figure, axes = new_axes("truth and interval, relative to the prediction", (7.2, 3.2))
        axes.vlines(place, low, high, color=style.LINE, linewidth=3, label="prediction interval")
        axes.axhline(1, color=style.MUTED, linewidth=0.8)
        for rows, color, mark, label in (
            (inside & ~unlike, style.MODEL, "o", "true life, inside"),
            (~inside & ~unlike, style.BASELINES[0], "s", "true life, outside"),
            (unlike, style.BASELINES[2], "D", "cell unlike the training's"),
        ):
            if rows.any():
                axes.plot(place[rows], true[rows], mark, color=color, markersize=4, label=label, zorder=3)
        axes.set_yscale("log")
        ratios = np.array([0.25, 0.5, 0.7, 1, 1.4, 2, 4])
        axes.yaxis.set_major_locator(FixedLocator(ratios.tolist()))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("tested cells, by predicted life")
        axes.set_ylabel("life / predicted life")
        legend_below(figure, axes)
    return figure


def policies(scores: xr.Dataset) -> Figure:
    """Mean signed error of every tested policy and its mean absolute error, new policies marked."""
    order = np.argsort(scores["policy_bias"].values)
    bias, size, new = (scores[n].values[order] for n in ("policy_bias", "policy_mape", "policy_new"))
    place = np.arange(len(order))
    with style.context():
        figure, axes = new_axes("error by charging policy", (7.2, 3.2))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axhspan(-100 * WITHIN, 100 * WITHIN, color=style.LINE, alpha=0.6, linewidth=0)
        axes.axhline(0, color=style.MUTED, linewidth=0.8)
        for rows, color, mark, label in (
            (new == 0, style.MODEL, "o", "mean error, policy of training cells"),
            (new == 1, style.BASELINES[0], "s", "mean error, new policy"),
        ):
            if rows.any():
                axes.plot(place[rows], bias[rows], mark, color=color, markersize=4, label=label)
        axes.vlines(place, -size, size, color=style.MUTED, linewidth=0.6, label="± mean absolute error")
        axes.set_yscale("symlog", linthresh=50)  # one cell that is predicted wholly wrong must not flatten the others
        axes.yaxis.set_major_locator(FixedLocator([-400, -100, -50, -25, 0, 25, 50, 100, 400]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("policies, by mean error")
        axes.set_ylabel("error (%)")
        legend_below(figure, axes)
    return figure


def attribution(array: xr.DataArray, peak: float) -> Figure:
    """What predictions rest on: a map over cycles and the axis of a curve, with its sums along both.

    Args:
        array: mean absolute attribution ``(cycle, axis)``.
        peak: upper end of the colours, the same for all variables.
    """
    cycle, axis = (array[d] for d in array.dims)
    sums = array.sum(str(cycle.name)), array.sum(str(axis.name))
    name = str(array.name).removeprefix("attribution_")
    with style.context():
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=[4, 1], height_ratios=[1, 3])
        middle = figure.add_subplot(grid[1, 0])
        mesh = middle.pcolormesh(
            axis, cycle, array, cmap=style.POSITIVE_MAP, vmin=0, vmax=peak, shading="nearest", rasterized=True
        )
        middle.grid(visible=False)
        middle.set_xlabel(plain(with_units(axis.name, axis.attrs.get("units", "1"))))
        middle.set_ylabel("cycle")
        middle.yaxis.set_major_locator(MaxNLocator(integer=True))
        top, side = figure.add_subplot(grid[0, 0], sharex=middle), figure.add_subplot(grid[1, 1], sharey=middle)
        top.plot(axis, sums[0], color=style.MODEL)
        side.plot(sums[1], cycle, color=style.MODEL)
        for axes in (top, side):
            axes.tick_params(labelbottom=axes is side, labelleft=axes is top)
        top.set_title(plain(spoken(name)))
        top.set_ylim(bottom=0)
        side.set_xlim(left=0)
        figure.colorbar(mesh, ax=[middle, side], location="bottom", aspect=50, pad=0.02).set_label(
            "mean absolute share of log life"
        )
    return figure


# ---------------------------------------------------------------------------------------------- over cycles


def over_cycles(sweep: xr.Dataset, part: str, metric: str) -> Figure:
    """A score against the number of cycles that are seen: the model with its interval, and the baselines."""
    chosen = sweep.sel(part=part, metric=metric)
    number = sweep["cycles"].values
    with style.context():
        figure, axes = new_axes(f"{metric} on {part}", (4.8, 3.4))
        best = chosen["score"].drop_sel(forecast="model").median("cycles", skipna=True)
        shown = ["model", *(str(n) for n in best.sortby(best)["forecast"].values[:SHOWN_BASELINES])]
        for order, name in enumerate(shown, start=-1):
            look = style.line_style(name, order)
            values = chosen["score"].sel(forecast=name).values
            axes.plot(number, values, "o", markersize=3, color=look.color, zorder=look.zorder)
            axes.plot(number, values, label=plain(spoken(name)), **look.keywords())
            if name == "model":
                low, high = (chosen[b].sel(forecast=name).values for b in ("score_low", "score_high"))
                axes.fill_between(number, low, high, color=look.color, alpha=0.2, linewidth=0)
        axes.set_ylim(0, 2.5 * float(chosen["score"].sel(forecast="model").max()))
        axes.set_xlabel("cycles that are seen")
        axes.set_ylabel(f"{metric} (%)" if METRICS[metric][1] == "%" else f"{metric} (cycles)")
        legend_below(figure, axes)
    return figure


def depth_map(sweep: xr.Dataset) -> Figure:
    """Cross-validated error of every depth at every number of cycles; the chosen depth is framed."""
    values = sweep["cross_validated"].transpose("depth", "cycles").values
    depths, numbers = sweep["depth"].values, sweep["cycles"].values
    with style.context():
        figure, axes = new_axes("cross-validated MAPE (%), training cells alone", (5.4, 0.9 + 0.45 * len(depths)))
        axes.pcolormesh(
            np.arange(len(numbers)), np.arange(len(depths)), values, cmap=style.POSITIVE_MAP, shading="nearest"
        )
        axes.grid(visible=False)
        light = np.nanmean(values)
        for j in range(len(numbers)):
            for i in range(len(depths)):
                ink = "#ffffff" if values[i, j] < light else "#000000"
                chosen = depths[i] == sweep["chosen_depth"].values[j]
                text = f"[{values[i, j]:.1f}]" if chosen else f"{values[i, j]:.1f}"
                weight = "bold" if chosen else "normal"
                axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=8, fontweight=weight)
        axes.set_xticks(np.arange(len(numbers)), [str(n) for n in numbers])
        axes.set_yticks(np.arange(len(depths)), [str(d) for d in depths])
        axes.set_xlabel("cycles that are seen")
        axes.set_ylabel(spoken(sweep["depth"].attrs.get("long_name", "depth")))
    return figure


def coverage_over_cycles(sweep: xr.Dataset, parts: Sequence[str]) -> Figure:
    """Measured coverage of the prediction intervals against the number of cycles, with its own uncertainty."""
    with style.context():
        figure, axes = new_axes("coverage of the prediction intervals", (4.8, 3.4))
        axes.axhline(100 * float(sweep.attrs["level"]), color=style.INK, linewidth=1, label="wanted")
        for order, part in enumerate(parts):
            one, look = sweep.sel(part=part), style.line_style("baseline", order)
            color = style.MODEL if not order else look.color
            keywords = {**look.keywords(), "color": color}
            axes.plot(sweep["cycles"], 100 * one["coverage"], label=part, **keywords)
            if not order:
                low, high = (100 * one[name].values for name in ("coverage_low", "coverage_high"))
                axes.fill_between(sweep["cycles"].values, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_ylim(50, 101)
        axes.set_xlabel("cycles that are seen")
        axes.set_ylabel("coverage (%)")
        legend_below(figure, axes)
    return figure
