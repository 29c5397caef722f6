"""Fields of truth, prediction and error as matplotlib figures.

Each function takes labelled arrays and returns a `Figure` that belongs to the caller. Colour limits are those of the
truth and hold for truth and prediction alike; errors have their own symmetric limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from workbench.report import style
from workbench.report.coasts import draw_coasts, name_degrees
from workbench.report.fields import (
    Scale,
    aspect,
    axis_label,
    error_scale,
    height_over_width,
    is_map,
    positions,
    space_dims,
    truth_scale,
)
from workbench.report.figures import legend_below
from workbench.report.labels import describe, lead_axis, plain

WIDTH = 9.6
"""Inches across three panels."""

TITLES = ("truth", "prediction", "error (prediction − truth)")


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a plane of truth and of prediction, and what it shows.

    Attributes:
        label: such as ``vorticity, z = 0.5 (mid-plane)``.
        truth: ``(y, x)``.
        prediction: ``(y, x)``.
        note: printed over a prediction that is not finite.
        land: land fraction of a map, whose coasts are drawn.
    """

    label: str
    truth: xr.DataArray
    prediction: xr.DataArray
    note: str = ""
    land: xr.DataArray | None = None


def colormap(scale: Scale) -> Colormap:
    """The colour map of a scale, with the colour of missing points."""
    return mpl.colormaps[scale.colormap].with_extremes(bad=style.MISSING)


def comparison(rows: Sequence[Row]) -> Figure:
    """Truth, prediction and error of two-dimensional fields side by side, one row a field."""
    heights = [min(height_over_width(row.truth), 1.4) for row in rows]
    panel = WIDTH / 3.5
    with style.context(), mpl.rc_context({"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        size = (WIDTH, sum(panel * h + 1.05 for h in heights))
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.09))
        grid = figure.subplots(len(rows), 3, squeeze=False, height_ratios=heights)
        for axes, row in zip(grid, rows, strict=True):
            _compare(figure, axes, row)
    return figure


def _compare(figure: Figure, axes: Sequence[Axes], row: Row) -> None:
    error = row.prediction - row.truth
    shared, errors = truth_scale(row.truth.values), error_scale(error.values)
    fields = ((row.truth, shared), (row.prediction, shared), (error, errors))
    meshes = [_mesh(a, field, scale) for a, (field, scale) in zip(axes, fields, strict=True)]
    for panel, title in zip(axes, TITLES, strict=True):
        panel.set_title(title)
        panel.set_xlabel(axis_label(row.truth, space_dims(row.truth)[1]))
    axes[0].set_ylabel(axis_label(row.truth, space_dims(row.truth)[0]))
    for panel in axes if is_map(row.truth) else ():
        name_degrees(panel)
        draw_coasts(panel, row.land)
    for panel in axes[1:]:
        panel.tick_params(labelleft=False)
    if not np.isfinite(row.prediction.values).any():
        axes[1].text(0.5, 0.5, plain(row.note), transform=axes[1].transAxes, ha="center", va="center", weight="bold")
    extend = shared.exceeded_by(row.prediction.values)
    bar(figure, meshes[0], axes[:2], 2, plain(row.label), extend)
    bar(figure, meshes[2], axes[2:], 1, "error", errors.exceeded_by(error.values))


def _mesh(axes: Axes, field: xr.DataArray, scale: Scale) -> QuadMesh:
    y, x = space_dims(field)
    mesh = axes.pcolormesh(
        positions(field, x),
        positions(field, y),
        np.ma.masked_invalid(field.values),
        shading="nearest",
        cmap=colormap(scale),
        vmin=scale.low,
        vmax=scale.high,
        rasterized=True,
    )
    axes.set_aspect(aspect(field))
    return mesh


def bar(figure: Figure, colours: ScalarMappable, axes: Sequence[Axes], columns: int, label: str, extend: str) -> None:
    """The colours under one column of panels or, longer, under two."""
    shrink = 0.9 if columns > 1 else 1.0
    drawn = figure.colorbar(
        colours, ax=list(axes), location="bottom", extend=extend, aspect=22 * columns, pad=0.03, shrink=shrink
    )
    drawn.locator = MaxNLocator(nbins=8 if columns > 1 else 5)
    drawn.update_ticks()
    drawn.set_label(label)
    drawn.outline.set_linewidth(0.5)
    drawn.ax.tick_params(width=0.6)


def lines(truth: xr.DataArray, prediction: xr.DataArray, title: str = "") -> Figure:
    """A one-dimensional field: truth and prediction along its axis, the error below.

    Args:
        truth: ``(x)``.
        prediction: ``(x)``.
        title: heading.
    """
    dim = space_dims(truth)[0]
    x = positions(truth, dim)
    with style.context():
        figure = Figure(figsize=(9.0, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        upper.set_title(plain(title))
        upper.plot(x, truth.values, label="truth", **style.line_style("truth", 0).keywords())
        upper.plot(x, prediction.values, label="prediction", **style.line_style("model", 0).keywords())
        lower.axhline(0, color=style.MUTED, linewidth=0.8)
        lower.plot(x, prediction.values - truth.values, color=style.BASELINES[0], linewidth=1.4)
        upper.set_ylabel(describe(truth))
        lower.set_ylabel("error")
        lower.set_xlabel(axis_label(truth, dim))
        legend_below(figure, upper)
    return figure


def space_time(truth: xr.DataArray, prediction: xr.DataArray) -> Figure:
    """A one-dimensional field over lead time (upwards): truth, prediction and error.

    Args:
        truth: ``(lead_time, x)``.
        prediction: ``(lead_time, x)``.
    """
    values, label = lead_axis(truth["lead_time"])
    name, units = label.removesuffix(")").partition(" (")[::2]
    lead = xr.DataArray(values, dims="lead_time", attrs={"long_name": name, "units": units or "1"})
    along = [field.assign_coords(lead_time=lead).rename(lead_time="time_ahead") for field in (truth, prediction)]
    return comparison([Row(describe(truth), along[0], along[1])])


def series(truth: xr.DataArray, prediction: xr.DataArray, title: str = "") -> Figure:
    """A quantity without space: truth and prediction against lead time.

    Args:
        truth: ``(lead_time)``.
        prediction: ``(lead_time)``.
        title: heading.
    """
    lead, label = lead_axis(truth["lead_time"])
    with style.context():
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(plain(title))
        axes.plot(lead, truth.values, label="truth", **style.line_style("truth", 0).keywords())
        axes.plot(lead, prediction.values, label="prediction", **style.line_style("model", 0).keywords())
        axes.set_xlabel(plain(label))
        axes.set_ylabel(describe(truth))
        legend_below(figure, axes)
    return figure
