"""Sections on the scores of a moving structure, from what ``structures.nc`` holds."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from workbench.data.spec import TRAJECTORY
from workbench.report import style
from workbench.report.figures import legend_below, new_axes
from workbench.report.gallery import Gallery
from workbench.report.html import Html, Section, absent, definitions, details, element, table
from workbench.report.labels import lead_axis, number, plain, spoken, with_units
from workbench.report.run import Run, read_long_run
from workbench.report.sections import with_figures

SHOWN = ("displacement", "von_mises")
"""Quantities whose scores are not folded."""
HIGHER_IS_BETTER = ("r2", "skill")
SPOKEN = {"von_mises": "von Mises stress", "nmae": "NMAE", "nrmse": "NRMSE", "r2": "R²"}
MOTION = ("peak_error", "peak_distance", "energy_drift", "frequency_error")
RUNS = (TRAJECTORY, "init_time")


def long_run_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The section on ``structures.nc``; where it is missing, how to make it."""
    title = "Scores of the structure"
    if not run.experiment.long_run.exists():
        return [absent("structure", title, "Not evaluated yet: run ", element("code", run.command("evaluate")))]
    scores = read_scores(run)
    known = [str(q) for q in scores["quantity"].values]
    shown = [q for q in SHOWN if q in known] or known
    parts = [element("p", element("b", f"The model {scores.attrs['verdict']}."))]
    parts += [element("div", element("h3", name_of(q)), quantity_table(scores, q)) for q in shown]
    folded = [details(name_of(q), quantity_table(scores, q)) for q in known if q not in shown]
    meanings = json.loads(scores["metric"].attrs["definition"])
    listed = [(name_of(metric), meaning) for metric, meaning in meanings.items()]
    folded.append(details("What the scores are", definitions(listed, class_="facts")))
    reasons = [
        element("p", f"Not computed: {what}: {why}") for what, why in json.loads(scores.attrs["missing"]).items()
    ]
    drawn = [
        gallery.add(f"nrmse_{q}", by_lead(scores, q), f"NRMSE of {name_of(q)} against lead time, for every forecast")
        for q in shown
    ]
    if "energy" in scores:
        drawn.append(gallery.add("energy", energy(scores, run.experiment.report.start), "Energy against lead time"))
    body = element("div", parts, motion_table(scores), reasons, with_figures("", drawn), folded)
    return [Section("structure", title, body)]


def read_scores(run: Run) -> xr.Dataset:
    """What ``structures.nc`` holds.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    return read_long_run(run, lambda s: "quantity" in s.dims and "score" in s, "scores of a structure")


def quantity_table(scores: xr.Dataset, quantity: str) -> Html:
    """Every metric of one quantity, a row for each forecast, the best in bold."""
    found = scores["score"].sel(quantity=quantity)
    metrics = [str(m) for m in found["metric"].values]
    signs = [-1.0 if m in HIGHER_IS_BETTER else 1.0 for m in metrics]
    return _table(found.transpose("forecast", "metric").values, signs, _names(scores), [name_of(m) for m in metrics])


def motion_table(scores: xr.Dataset) -> Html | None:
    """Errors of the peak stress, of energy and of the natural frequency, mean size over forecasts that have one."""
    names = [name for name in MOTION if name in scores]
    if not names:
        return None
    columns = [abs(scores[n]).mean([d for d in scores[n].dims if d in RUNS]).values for n in names]
    heads = [with_units(spoken(n), scores[n].attrs.get("units", "1")) for n in names]
    notes = definitions([(spoken(n), scores[n].attrs["long_name"]) for n in names], class_="facts")
    title = element("h3", "Peaks and motion")
    ranked = _table(np.stack(columns, 1), [1.0] * len(names), _names(scores), heads)
    return element("div", title, ranked, details("What these are", notes))


def name_of(name: str) -> str:
    """A quantity or a metric in words."""
    return SPOKEN.get(name, spoken(name).replace("l2", "L2"))


def _names(scores: xr.Dataset) -> list[str]:
    return [str(name) for name in scores["forecast"].values]


def _table(values: np.ndarray, signs: Sequence[float], rows: Sequence[str], heads: Sequence[str]) -> Html:
    ranked = np.where(np.isfinite(values), values * np.array(signs), np.inf)
    best = (ranked == ranked.min(0)) & np.isfinite(ranked)
    body = [
        [spoken(name), *(element("td", number(v), class_="best" if b else None) for v, b in zip(*pair, strict=True))]
        for name, *pair in zip(rows, values, best, strict=True)
    ]
    return table(["", *heads], body, class_="scores")


def by_lead(scores: xr.Dataset, quantity: str) -> Figure:
    """NRMSE of one quantity against lead time, for every forecast."""
    lead, label = lead_axis(scores["lead_time"])
    with style.context():
        figure, axes = new_axes(f"NRMSE of {name_of(quantity)}")
        for k, name in enumerate(_names(scores)):
            row = scores["score_by_lead"].sel(forecast=name, quantity=quantity, metric="nrmse")
            axes.plot(lead, row.values, label=plain(spoken(name)), **style.line_style(name, k - 1).keywords())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(plain(label))
        axes.set_ylabel("NRMSE")
        legend_below(figure, axes)
    return figure


def energy(scores: xr.Dataset, start: int) -> Figure:
    """Kinetic and strain energy of one forecast against lead time: truth, model and baselines.

    Args:
        scores: what ``structures.nc`` holds.
        start: number of the forecast, counted over trajectories (slow) and initial times (fast).
    """
    found, one = scores["energy"], of_start(scores["energy"], start)
    lead, label = lead_axis(scores["lead_time"])
    with style.context():
        figure, axes = new_axes("energy of the body")
        for k, name in enumerate(map(str, found["source"].values)):
            axes.plot(lead, one[k], label=plain(spoken(name)), **style.line_style(name, k - 2).keywords())
        bound = 3 * float(np.nanmax(one[0], initial=0.0))
        axes.set_ylim(0, min(axes.get_ylim()[1], bound or np.inf))
        axes.set_xlabel(plain(label))
        axes.set_ylabel(plain(with_units("energy", found.attrs.get("units", "J"))))
        legend_below(figure, axes)
    return figure


def of_start(values: xr.DataArray, start: int) -> np.ndarray:
    """``[source, lead]`` of one forecast, counted over trajectories (slow) and initial times (fast)."""
    ordered = values.transpose("source", *RUNS, "lead_time").values
    return ordered.reshape(len(ordered), -1, ordered.shape[-1])[:, start]
