"""Section on the storms of a rollout, from what ``storms.nc`` holds: errors by lead, and tracks on a map."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.report import style
from workbench.report.coasts import draw_coasts, land_fraction, name_degrees
from workbench.report.figures import legend_below, new_axes
from workbench.report.gallery import Gallery
from workbench.report.html import Content, Html, Section, absent, element, table
from workbench.report.labels import lead_axis, lead_label, moment, plain, spoken
from workbench.report.run import Run, read_long_run
from workbench.report.sections import with_figures
from workbench.scoring.storms_verdict import ROWS
from workbench.scoring.verdict import shown_leads

DRAWN = 12
"""Storms on the map at most, those of the start with the deepest one."""


def long_run_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The section on ``storms.nc``; where it is missing, how to make it."""
    title = "Storms"
    if not run.experiment.long_run.exists():
        return [absent("storms", title, "Not tracked yet: run ", element("code", run.command("evaluate")))]
    scores = read_long_run(run, lambda found: "track_error" in found, "storms")
    note = "Means are over the storms that truth, model and motion all have at that lead."
    parts = [element("p", element("b", f"The model {scores.attrs['verdict']}."))]
    for sample in map(str, scores["sample"].values):
        parts.append(element("div", element("h3", f"Storms: {sample}"), means_table(scores.sel(sample=sample))))
    drawn = [
        gallery.add("storms_track_error", by_lead(scores, "mean_track_error"), "Mean track error against lead time"),
        gallery.add(
            "storms_pressure_error",
            by_lead(scores, "mean_absolute_pressure_error"),
            "Mean absolute error of central pressure against lead time",
        ),
        gallery.add(
            "storms_tracks",
            tracks(scores, land_fraction(run.record)),
            "Storm tracks of truth and model on a map",
            wide=True,
        ),
    ]
    return [Section("storms", title, element("div", parts, with_figures(note, drawn)))]


def means_table(scores: xr.Dataset) -> Html:
    """Means of one sample at a few leads."""
    leads = [k + 1 for k in shown_leads(scores.sizes["lead_time"] - 1)]
    units = scores["lead_time"].attrs.get("units", "1")
    head = ["", "", *(lead_label(scores["lead_time"].values[k], units) for k in leads)]
    rows: list[list[Content]] = []
    for name, (words, factor) in ROWS.items():
        if scores[name].notnull().any():
            for k, forecast in enumerate(map(str, scores["forecast"].values)):
                values = factor * scores[name].sel(forecast=forecast).values[leads]
                rows.append([words if k == 0 else "", spoken(forecast), *(f"{v:.3g}" for v in values)])
    rows.append(["storms", "", *(str(int(v)) for v in scores["storms"].values[leads])])
    rows.append(["still there in the model", "", *(f"{100 * v:.0f} %" for v in scores["followed"].values[leads])])
    return table(head, rows)


def by_lead(scores: xr.Dataset, name: str) -> Figure:
    """A mean error against lead time, of model and motion, for all storms."""
    words, factor = ROWS[name]
    lead, label = lead_axis(scores["lead_time"])
    with style.context():
        figure, axes = new_axes(words.partition(" (")[0])
        for order, forecast in enumerate(map(str, scores["forecast"].values), start=-1):
            look = style.line_style(forecast if order >= 0 else "model", order)
            values = factor * scores[name].sel(sample="all", forecast=forecast).values
            axes.plot(lead, values, label=plain(spoken(forecast)), marker="o", markersize=3.2, **look.keywords())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(plain(label))
        axes.set_ylabel(plain(words))
        legend_below(figure, axes)
    return figure


def tracks(scores: xr.Dataset, land: xr.DataArray | None = None) -> Figure:
    """Tracks of one start on a map: the start with the deepest storm; a dot where each storm begins.

    Args:
        scores: what ``storms.nc`` holds.
        land: land fraction, whose coasts are drawn.
    """
    there = scores["lat"].sel(source="truth").notnull()  # the motion goes on without an end
    scores = scores.assign({name: scores[name].where(there) for name in ("lat", "lon")})
    deepest = int(scores["pressure"].sel(source="truth").isel(lead_time=0).argmin("storm"))
    start = scores["init_time"].values[deepest]
    chosen = scores.isel(storm=np.flatnonzero(scores["init_time"].values == start)[:DRAWN])
    with style.context():
        figure = Figure(figsize=(9.6, 5.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(plain(f"storms from {moment(start)} on"))
        baselines = 0
        for source in map(str, chosen["source"].values):
            look = style.line_style(source, baselines)
            baselines += source not in ("truth", "model")
            for k in range(chosen.sizes["storm"]):
                one = chosen.sel(source=source).isel(storm=k)
                label = plain(spoken(source)) if k == 0 else None
                axes.plot(one["lon"], one["lat"], label=label, marker="o", markersize=2.4, **look.keywords())
        begin = chosen.sel(source="truth").isel(lead_time=0)
        axes.plot(begin["lon"], begin["lat"], "o", color=style.INK, markersize=6, zorder=4)
        _on_a_map(axes, land)
        legend_below(figure, axes)
    return figure


def _on_a_map(axes: Axes, land: xr.DataArray | None) -> None:
    """Round limits, degrees and coasts."""
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(west - 5, east + 5)
    axes.set_ylim(max(south - 5, -90), min(north + 5, 90))
    axes.set_aspect(1 / max(np.cos(np.deg2rad(np.mean(axes.get_ylim()))), 0.2))
    name_degrees(axes)
    draw_coasts(axes, land)
