"""Curves: scores, spectra, variance and training as matplotlib figures.

Each function takes labelled data and returns a `Figure` that belongs to the caller; nothing is shown, closed or
registered with pyplot. In a notebook: ``error_growth(xr.open_dataset("scores.nc"), "rmse", "vorticity")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from workbench.report import style
from workbench.report.labels import brief, lead_axis, lead_label, plain, power_of_ten, spoken, squared, with_units

SIZE = (4.5, 3.1)
"""Inches; small enough that the letters stay legible on a telephone."""

LOG_RANGE = 300.0
"""An error that grows by more than this factor is drawn on a logarithmic axis."""


def new_axes(title: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """A figure with one set of axes and its title; call it inside `style.context`."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(plain(title))
    return figure, axes


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend under the axes, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        columns = len(names) if sum(len(name) + 7 for name in names) < 62 else 3
        figure.legend(handles, names, loc="outside lower left", ncols=columns, columnspacing=1.4)


def log_ticks(axis: Axis, decades: float) -> None:
    """Labels ``0.1``, ``1``, ``10³`` without mathematical typesetting: 0.2 s a figure in place of 0.6 s.

    Args:
        axis: a logarithmic axis.
        decades: what it spans; below 1.5, twos and fives are labelled too.
    """
    axis.set_major_locator(LogLocator(numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_locator(LogLocator(subs=(2.0, 5.0), numticks=9))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: brief(value)) if decades < 1.5 else NullFormatter())


def decades_of(values: np.ndarray) -> float:
    """Orders of magnitude between the least and the largest of positive `values`."""
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.log10(positive.max() / positive.min())) if positive.size else 0.0


def error_growth(
    scores: xr.Dataset, metric: str, variable: str, units: str = "1", stopped: Sequence[int] = ()
) -> Figure:
    """A score against lead time, for the model and every baseline, with its bootstrap band.

    Args:
        scores: Dataset with ``score``, ``score_low`` and ``score_high`` on ``(forecast, metric, variable, lead_time)``.
        metric: name of the metric.
        variable: name of the variable.
        units: units of the score.
        stopped: steps (from 1) at which a forecast stopped because it was not finite; marked by crosses.
    """
    chosen = scores.sel(metric=metric, variable=variable)
    lead, label = lead_axis(scores["lead_time"])
    with style.context():
        figure, axes = new_axes(f"{metric} of {variable}")
        for order, name in enumerate(map(str, scores["forecast"].values), start=-1):
            look = style.line_style(name if order >= 0 else "model", order)
            values = chosen["score"].sel(forecast=name).values
            axes.plot(lead, values, label=plain(spoken(name)), **look.keywords(), **_marker(lead))
            if "score_low" in chosen and "score_high" in chosen:
                low, high = (chosen[bound].sel(forecast=name).values for bound in ("score_low", "score_high"))
                axes.fill_between(
                    lead,
                    low,
                    high,
                    color=look.color,
                    alpha=0.2 if order < 0 else 0.08,
                    linewidth=0,
                    zorder=look.zorder - 1,
                )
        _score_axis(axes, chosen["score"].values)
        _mark_stops(axes, lead, stopped)
        axes.set_xlabel(plain(label))
        axes.set_ylabel(plain(with_units(metric, units)))
        legend_below(figure, axes)
    return figure


def _marker(lead: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.2} if len(lead) <= 12 else {}


def _score_axis(axes: Axes, values: np.ndarray) -> None:
    """Logarithmic where a positive score spans decades, else from zero; a zero line for signed scores."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=style.MUTED)
    elif (finite < 0).any():
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
    elif finite.min() > 0 and finite.max() / finite.min() > LOG_RANGE:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, decades_of(finite))
    elif finite.min() < 0.5 * finite.max():
        axes.set_ylim(bottom=0)


def _mark_stops(axes: Axes, lead: np.ndarray, stopped: Sequence[int]) -> None:
    steps = sorted({step for step in stopped if 1 <= step <= len(lead)})
    if steps:
        axes.plot(
            lead[np.array(steps) - 1],
            np.zeros(len(steps)),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            color=style.INK,
            markersize=6,
            clip_on=False,
            zorder=5,
            label="a forecast stopped",
        )


def spectrum(spectrum: xr.DataArray, lead: Any, variable: str, units: str = "1") -> Figure:
    """Spectra of truth, model and baselines at one lead time, both axes logarithmic.

    Args:
        spectrum: ``(source, variable, spectrum_lead, wavenumber...)``; the mean (wavenumber 0) is not drawn.
        lead: one value of ``spectrum_lead``.
        variable: name of the variable.
        units: units of the variable.
    """
    chosen = spectrum.sel(variable=variable, spectrum_lead=lead)
    dim = wavenumber_dim(spectrum)
    wavenumber = spectrum[dim].values.astype(float)
    lead_units = spectrum["spectrum_lead"].attrs.get("units", "1")
    with style.context():
        figure, axes = new_axes(f"{variable}, lead {lead_label(lead, lead_units)}")
        baselines = 0
        for name in map(str, spectrum["source"].values):
            values, look = chosen.sel(source=name).values, style.line_style(name, baselines)
            baselines += name not in ("truth", "model")
            drawn = (wavenumber > 0) & (values > 0) & np.isfinite(values)
            if drawn.any():
                axes.plot(wavenumber[drawn], values[drawn], label=plain(spoken(name)), **look.keywords())
        axes.set_xscale("log")
        axes.set_yscale("log")
        log_ticks(axes.xaxis, decades_of(wavenumber))
        log_ticks(axes.yaxis, decades_of(chosen.sel(source="truth").values))
        _limit_decades(axes, chosen.sel(source="truth").values)
        axes.set_xlabel(plain(with_units(dim.replace("_", " "), spectrum[dim].attrs.get("units", "1"))))
        axes.set_ylabel(plain(with_units("variance", spectrum.attrs.get("units") or squared(units))))
        legend_below(figure, axes)
    return figure


def wavenumber_dim(spectrum: xr.DataArray) -> str:
    """The dimension of `spectrum` that counts waves."""
    return next(str(d) for d in spectrum.dims if str(d).startswith("wavenumber"))


def _limit_decades(axes: Axes, truth: np.ndarray) -> None:
    """Keep rounding noise from squeezing the picture: at most 10 decades below the largest value of the truth."""
    finite = truth[np.isfinite(truth) & (truth > 0)]
    if finite.size and axes.get_ylim()[0] < finite.max() * 1e-10:
        axes.set_ylim(bottom=finite.max() * 1e-10)


def drift(variance: xr.DataArray, variable: str, units: str = "1") -> Figure:
    """Spatial variance against lead time, of truth, model and baselines.

    Args:
        variance: ``(source, variable, lead_time)``.
        variable: name of the variable.
        units: units of the variable.
    """
    lead, label = lead_axis(variance["lead_time"])
    with style.context():
        figure, axes = new_axes(f"variance of {variable}")
        baselines = 0
        for name in map(str, variance["source"].values):
            values = variance.sel(source=name, variable=variable).values
            look = style.line_style(name, baselines)
            baselines += name not in ("truth", "model")
            axes.plot(lead, values, label=plain(spoken(name)), **look.keywords(), **_marker(lead))
        _variance_axis(axes, variance.sel(variable=variable))
        axes.set_xlabel(plain(label))
        axes.set_ylabel(plain(with_units("spatial variance", squared(units))))
        legend_below(figure, axes)
    return figure


def _variance_axis(axes: Axes, variance: xr.DataArray) -> None:
    """From zero; logarithmic where the model's variance runs away from that of the truth."""
    largest, truth = (float(variance.sel(source=name).max()) for name in ("model", "truth"))
    if truth > 0 and largest > LOG_RANGE * truth:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, decades_of(variance.values))
    else:
        axes.set_ylim(bottom=0)


def training_loss(log: pd.DataFrame) -> Figure:
    """Training and validation loss against the epoch, with the best validation epoch marked.

    Args:
        log: columns ``epoch`` and, where logged, ``train_loss`` and ``validation_loss``.
    """
    with style.context():
        figure, axes = new_axes("loss")
        for column, order in (("train_loss", 0), ("validation_loss", -1)):
            epoch, values = logged(log, column)
            if len(values):
                look = style.line_style("model" if order < 0 else "baseline", order)
                name = column.removesuffix("_loss").replace("train", "training")
                axes.plot(epoch, values, label=name, **look.keywords(), **_marker(epoch))
        epoch, values = logged(log, "validation_loss")
        if np.isfinite(values).any():
            best = int(np.nanargmin(values))
            note = f"best: epoch {epoch[best]:g}"
            axes.plot(epoch[best], values[best], "o", color=style.INK, markersize=5, zorder=4, label=note)
        _loss_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        legend_below(figure, axes)
    return figure


def learning_rate(log: pd.DataFrame) -> Figure:
    """Learning rate against the step.

    Args:
        log: columns ``step`` and ``learning_rate``.
    """
    with style.context():
        figure, axes = new_axes("learning rate")
        step, values = logged(log, "learning_rate", against="step")
        axes.plot(step, values, **style.line_style("model", 0).keywords())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("learning rate")
    return figure


def logged(log: pd.DataFrame, column: str, against: str = "epoch") -> tuple[np.ndarray, np.ndarray]:
    """The rows in which `column` was logged: the last of each epoch (or step), and its value."""
    if column not in log or against not in log:
        return np.empty(0), np.empty(0)
    rows = log[[against, column]].dropna().groupby(against)[column].last()
    return rows.index.to_numpy(dtype=float), rows.to_numpy(dtype=float)


def _loss_axis(axes: Axes) -> None:
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()] or [np.empty(0)])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0 and drawn.max() / drawn.min() > 3:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, decades_of(drawn))
