"""The section on the scores of fluxes and downscaled fields, from what ``diagnosis.nc`` holds."""

from __future__ import annotations

import json

import numpy as np

from workbench.report.gallery import Gallery
from workbench.report.html import Content, Section, absent, definitions, details, element, table
from workbench.report.labels import number, spoken, with_units
from workbench.report.run import Run, read_long_run
from workbench.scoring.diagnosis import HIGHER_IS_BETTER


def long_run_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The section on ``diagnosis.nc``; where it is missing, how to make it."""
    title = "Maps, series and distributions"
    if not run.experiment.long_run.exists():
        return [absent("diagnosis", title, "Not evaluated yet: run ", element("code", run.command("evaluate")))]
    scores = read_long_run(run, lambda s: "score" in s and "instants" in s.attrs, "scores of a diagnosis")
    units = json.loads(scores["variable"].attrs["units"])
    metrics = [str(m) for m in scores["metric"].values]
    parts: list[Content] = [element("p", element("b", scores.attrs["verdict"]))]
    for variable in map(str, scores["variable"].values):
        values = scores["score"].sel(variable=variable).transpose("forecast", "metric").values
        best = [_best(column, metric) for column, metric in zip(values.T, metrics, strict=True)]
        rows: list[list[Content]] = [
            [
                spoken(str(name)),
                *(element("td", number(x), class_="best" if k == i else None) for x, k in zip(row, best, strict=True)),
            ]
            for i, (name, row) in enumerate(zip(scores["forecast"].values, values, strict=True))
        ]
        parts += [element("h3", with_units(variable, units[variable])), table(["", *map(spoken, metrics)], rows)]
    meanings = json.loads(scores["metric"].attrs["definition"])
    listed = definitions([(spoken(m), meanings[m]) for m in metrics], class_="facts")
    parts.append(details("What the scores are", listed))
    return [Section("diagnosis", title, element("div", parts))]


def _best(column: np.ndarray, metric: str) -> int:
    """The forecast that is best."""
    if metric == "fine_power":
        column = np.abs(column - 1)
    return int(np.nanargmax(column) if metric in HIGHER_IS_BETTER else np.nanargmin(column))
