"""One forecast to look at: the animation and the comparison at its last lead, for fields of any dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.errors import InputError
from workbench.report import pictures
from workbench.report.animation import animate_lines, animate_planes, chosen_frames, frame_labels
from workbench.report.case import Case, pick_case
from workbench.report.fields import normals, space_dims
from workbench.report.gallery import Gallery
from workbench.report.html import Content, Html, Section, absent, element, table
from workbench.report.labels import describe, lead_label, number
from workbench.report.run import Run
from workbench.report.structures_scene import without_void

ROWS = 4
"""Fields in the comparison at most."""


def forecast_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The sections on one forecast; each says what is missing where there is no forecast or no truth.

    A forecast that moves has two, a diagnosis one.
    """
    titles = {"forecast": "A forecast beside the truth", "last-lead": "The last lead"}
    if run.forecast is None:
        reason: list[Content] = ["No forecast yet: run ", element("code", run.command("rollout"))]
        return [absent(anchor, title, *reason) for anchor, title in titles.items()]
    if run.record is None:
        return [
            absent(anchor, title, f"No truth to compare with: {run.record_problem}") for anchor, title in titles.items()
        ]
    try:
        case = without_void(pick_case(run.forecast, run.record, run.experiment.report.start), run.record)
    except InputError as error:
        if str(error).startswith("report."):
            raise
        return [absent(anchor, title, f"No truth to compare with: {error}") for anchor, title in titles.items()]
    variable = chosen_variable(run, case)
    order = [variable, *run.experiment.data.state, *run.experiment.data.diagnostic]
    names = [name for name in dict.fromkeys(order) if name in case.truth]
    if not run.experiment.data.horizon:  # the only lead is 0: nothing moves
        return [Section("forecast", "A diagnosis beside the truth", last_lead(case, names, gallery))]
    moving = Section("forecast", titles["forecast"], moving_picture(run, case, variable, gallery))
    return [moving, Section("last-lead", titles["last-lead"], last_lead(case, names, gallery))]


def chosen_variable(run: Run, case: Case) -> str:
    """The variable of the pictures: the one asked for, else the first state variable that was forecast.

    Raises:
        InputError: the one asked for was not forecast.
    """
    names = [str(n) for n in case.truth.data_vars]
    asked = run.experiment.report.variable
    if asked and asked not in names:
        raise InputError(f"report.variable is '{asked}', the forecast holds {', '.join(names)}: choose one of these")
    state = [name for name in run.experiment.data.state if name in names]
    return asked or (state or names)[0]


def moving_picture(run: Run, case: Case, variable: str, gallery: Gallery) -> Html:
    """The animation of one variable: planes, lines, or a plain curve where there is no space."""
    dims = len(space_dims(case.truth[variable]))
    lead = case.truth["lead_time"]
    index = chosen_frames(len(lead), run.experiment.report.frames) if dims else np.arange(len(lead))
    truth, prediction, where = case.pair(variable, index)
    labels = frame_labels(lead, case.stop.step if case.stop else None)
    words = [describe(truth), case.label, where, f"stopped at step {case.stop.step}" if case.stop else ""]
    if dims >= 2:
        stage = animate_planes(truth, prediction, [labels[i] for i in index])
    elif dims == 1:
        stage = animate_lines(truth, prediction, [labels[i] for i in index])
    else:
        alt = f"{describe(truth)} against lead time: truth and prediction"
        stage = gallery.add(f"series_{variable}", pictures.series(truth, prediction), alt, wide=True)
    return element("div", element("p", ", ".join(w for w in words if w) + ".", class_="lead"), stage)


def last_lead(case: Case, names: Sequence[str], gallery: Gallery) -> Html:
    """Truth, prediction and error at the last lead: the first variable, and others of the same kind."""
    index = last_finite(case)
    lead = case.prediction["lead_time"]
    words = f"Lead {lead_label(lead.values[index], lead.attrs.get('units', '1'))}"
    words += ", the last before the forecast stopped" if index < len(lead) - 1 else ""
    dims = len(space_dims(case.truth[names[0]]))
    if dims == 0:
        return element("div", element("p", f"{words}.", class_="lead"), _table_of_last(case, names, index))
    if dims == 1:
        return _lines_of_last(case, names[0], index, words, gallery)
    return _planes_of_last(case, names, index, words, gallery)


def last_finite(case: Case) -> int:
    """Index of the last lead, or of the last one before the forecast stopped."""
    last = case.prediction.sizes["lead_time"] - 1
    return last if case.stop is None else min(max(case.stop.step - 2, 0), last)


def _planes_of_last(case: Case, names: Sequence[str], index: int, words: str, gallery: Gallery) -> Html:
    rows, left = _rows(case, names, index)
    alt = f"{words}: truth, prediction and error of " + "; ".join(row.label for row in rows)
    picture = gallery.add(f"comparison_{names[0]}", pictures.comparison(rows), alt, wide=True)
    notes = [f"{words}. Truth and prediction share their colour limits, which are those of the truth."]
    if len(normals(case.truth[names[0]])) == 3:
        notes.append("The volume is cut at its three mid-planes.")
    if left:
        notes.append(f"Variables in the forecast that are not shown: {left}.")
    return element("div", element("p", " ".join(notes), class_="lead"), picture)


def _rows(case: Case, names: Sequence[str], index: int) -> tuple[list[pictures.Row], int]:
    """Mid-planes of a volume, or one row for each of the first variables with planes; and how many are left out."""
    note = f"stopped at step {case.stop.step}" if case.stop else "no finite value"
    directions = normals(case.truth[names[0]])
    others = [name for name in names[1:] if len(space_dims(case.truth[name])) >= 2]
    wanted = [(names[0], d) for d in directions] + ([] if len(directions) == 3 else [(n, None) for n in others])
    rows = []
    for name, normal in wanted[:ROWS]:
        truth, prediction, where = case.pair(name, index, normal)
        label = describe(truth) + (f", {where}" if where else "")
        rows.append(pictures.Row(label, truth, prediction, note, case.land))
    return rows, len(others) + 1 - len({name for name, _ in wanted[:ROWS]})


def _lines_of_last(case: Case, variable: str, index: int, words: str, gallery: Gallery) -> Html:
    truth, prediction, _ = case.pair(variable)
    at_last = pictures.lines(truth.isel(lead_time=index), prediction.isel(lead_time=index))
    parts = [gallery.add(f"lines_{variable}", at_last, f"{words}: {variable}, truth and prediction", wide=True)]
    if truth.sizes["lead_time"] > 1:
        alt = f"{variable} over lead time: truth, prediction and error"
        drawn = gallery.add(f"space_time_{variable}", pictures.space_time(truth, prediction), alt, wide=True)
        parts += [element("h3", "All leads"), drawn]
    return element("div", element("p", f"{words}.", class_="lead"), parts)


def _table_of_last(case: Case, names: Sequence[str], index: int) -> Html:
    """Numbers rather than a picture where a field has no space."""
    rows = []
    for name in [name for name in names if not space_dims(case.truth[name])]:
        truth, prediction = (float(field) for field in case.pair(name, index)[:2])
        rows.append([describe(case.truth[name]), number(truth), number(prediction), number(prediction - truth)])
    return table(["", "truth", "prediction", "error"], rows)
