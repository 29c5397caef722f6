"""Speed at equal error: what the solver of the record takes to be as good as the surrogate, as a plot and in words."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.equal_error.front import on_front
from workbench.equal_error.plain import SIDES, plain_words
from workbench.equal_error.sheet import KINDS, headline_point, ratio_text, shortcoming, words_of
from workbench.errors import InputError
from workbench.report import style
from workbench.report.figures import decades_of, legend_below, log_ticks, new_axes
from workbench.report.gallery import Gallery
from workbench.report.html import Content, Section, details, element, table
from workbench.report.labels import duration, number, plain
from workbench.report.run import Run
from workbench.report.sections import with_figures

TITLE = "Speed at equal error"


def speed_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The comparison that ``workbench speedup`` wrote; nothing where there is none, since few records have a solver.

    Raises:
        InputError: the file cannot be read.
    """
    path = run.experiment.run_dir / "speedup.nc"
    if not path.exists():
        return []
    try:
        with xr.open_dataset(path, engine="netcdf4", decode_timedelta=True) as opened:
            sheet = opened.load()
        headline = str(sheet.attrs["headline"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}; write it again with: workbench speedup --overwrite") from error
    point = headline_point(sheet) or str(sheet["point"].values[int(sheet.attrs["lead_points"]) - 1])
    drawn = []
    for batch in map(str, sheet["batch"].values):
        alt = f"Error over {words_of(point)} against computing time {KINDS[batch]}: solver and surrogate"
        drawn.append(gallery.add(f"speed_{batch}", cost_error(sheet, point, batch), alt))
    words = element("b", headline[:1].upper() + headline[1:] + ".")
    after = element(
        "div", _ratios(sheet), _plain(sheet), details("Every candidate", _candidates(sheet, point)), _how(sheet)
    )
    return [Section("speed", TITLE, with_figures(words, drawn, after))]


def cost_error(sheet: xr.Dataset, point: str, batch: str) -> Figure:
    """Error against computing time, both logarithmic: candidates, their front, and the surrogate with its intervals.

    Args:
        sheet: what ``speedup.nc`` holds.
        point: where errors are compared.
        batch: ``one`` or ``best``.
    """
    chosen = sheet.sel(point=point, batch=batch, clock="wall")
    cost, error = chosen["seconds"].median("round").values, chosen["error"].values
    known = np.isfinite(cost) & np.isfinite(error)
    cost, error = cost[known], error[known]
    rounds = chosen["surrogate_seconds"].values
    value, low, high = (float(chosen[f"surrogate_error{end}"]) for end in ("", "_low", "_high"))
    with style.context():
        figure, axes = new_axes(f"{words_of(point)}, {KINDS[batch]}")
        front = on_front(cost, error)
        axes.plot(cost[~front], error[~front], "o", color=style.MUTED, markersize=3.5, label="solver")
        order = np.argsort(cost[front])
        look = style.line_style("baseline", 0)
        line = cost[front][order], error[front][order]
        axes.plot(*line, marker="o", markersize=4.5, label="solver, cheapest", **look.keywords())
        if np.isfinite(value):
            spans = _span(np.median(rounds), rounds.min(), rounds.max()), _span(value, low, high)
            axes.errorbar(
                np.median(rounds), value, xerr=spans[0], yerr=spans[1], fmt="s", color=style.MODEL, markersize=6,
                capsize=3, zorder=4, label="surrogate",
            )  # fmt: skip
            axes.axhline(value, color=style.MODEL, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        _log_axes(axes, np.append(cost, rounds), np.append(error, value))
        axes.set_xlabel(plain(f"{sheet['seconds'].attrs['long_name']} (s)"))
        axes.set_ylabel("relative L2 error")
        legend_below(figure, axes)
    return figure


def _span(value: float, low: float, high: float) -> list[list[float]] | None:
    """Lengths of an error bar below and above; none without an interval."""
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]] if np.isfinite([low, high]).all() else None


def _log_axes(axes: Axes, cost: np.ndarray, error: np.ndarray) -> None:
    axes.set_xscale("log")
    log_ticks(axes.xaxis, 0.6 * decades_of(cost))
    if (error[np.isfinite(error)] > 0).all():
        axes.set_yscale("log")
        log_ticks(axes.yaxis, decades_of(error))


def _ratios(sheet: xr.Dataset) -> Content:
    rows: list[list[Content]] = []
    for point in map(str, sheet["point"].values):
        error = number(float(sheet["surrogate_error"].sel(point=point)))
        if bool(sheet["moot"].sel(point=point)):
            rows.append([point, error, shortcoming(sheet, point), "", ""])
            continue
        cells = [ratio_text(sheet, point, batch, "wall") for batch in ("one", "best")]
        rows.append(
            [point, error, *cells, str(sheet["equal_solver"].sel(point=point, batch="one", clock="wall").values)]
        )
    head = ["at the error of", "error", "one forecast", "best batch", "cheapest solver as good"]
    caption = "Time of the solver over that of the surrogate at equal error: above 1 the surrogate is faster."
    return table(head, rows, caption)


def _candidates(sheet: xr.Dataset, point: str) -> Content:
    rows: list[list[Content]] = []
    for label in sheet["solver"].values:
        one = sheet.sel(solver=label, clock="wall")
        note = str(one["note"].values)
        costs = [duration(float(one["seconds"].sel(batch=b).median())) for b in ("one", "best") if not note]
        numbers = [number(float(one["error"].sel(point=point))), *costs] if not note else ["–", "–", "–"]
        rows.append([str(label), *numbers, note])
    return table(["solver", f"error, {point}", "one forecast", "best batch", ""], rows)


def _plain(sheet: xr.Dataset) -> Content:
    """The ratio against the record's own solver, where it was measured, under its own name."""
    if "plain_ratio" not in sheet:
        return ""
    rows: list[list[Content]] = []
    for together in sheet["together"].values:
        cell = sheet.sel(together=together, clock="wall")
        costs = [duration(float(cell["plain_seconds"].sel(side=side).median())) for side in SIDES]
        rows.append(
            [f"{together} forecast{'s together' if together > 1 else ''}", *costs, number(cell["plain_ratio"], 2)]
        )
    words = plain_words(sheet)
    caption = (
        f"Plain ratio against the record's own solver, as papers state it, not at equal error; "
        f"{sheet['seconds'].attrs['long_name']}."
    )
    return element(
        "div", table(["", *SIDES, "ratio"], rows, caption), element("p", words[:1].upper() + words[1:] + ".")
    )


def _how(sheet: xr.Dataset) -> Content:
    about = sheet.attrs
    words = (
        f"{about['starts']} forecasts; both sides timed in turns, {about['rounds']} rounds, on {about['hardware']}, "
        f"{about['threads']} thread{'s' if about['threads'] != 1 else ''}, {about['date']}. "
        f"Errors are the {sheet['error'].attrs['long_name']}; times the {sheet['seconds'].attrs['long_name']}, from "
        "what it starts with in memory to its fields in memory."
    )
    return element("p", words, class_="lead")
