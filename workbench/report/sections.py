"""What was measured: key figures, scores, error growth, spectra, drift and training, one function a section.

Every function takes the run (and the gallery that figures go to) and returns a `Section`; where its data are missing
the section says which command makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from workbench.report import figures
from workbench.report.case import Stop
from workbench.report.fields import space_dims
from workbench.report.gallery import Gallery
from workbench.report.html import Content, Html, Section, absent, definitions, details, element
from workbench.report.labels import count, lead_label, number, spoken
from workbench.report.run import Run
from workbench.report.structures_scene import dims_of as structure_dims
from workbench.report.tables import horizon_table, score_table, significance_table, units_of_score

SHOWN_VARIABLES = 4
"""Variables with figures of their own; the tables hold all of them."""


# ---------------------------------------------------------------------------------------------- scores


def variable_units(scores: xr.Dataset) -> dict[str, str]:
    """Units of every variable of the scores, ``1`` where none are given."""
    known = _object(scores["variable"].attrs.get("units"))
    return {str(name): known.get(str(name), "1") for name in scores["variable"].values}


def headline_metric(scores: xr.Dataset) -> str:
    """The metric of the headline; the first one where the scores do not say."""
    return str(scores.attrs.get("headline_metric", scores["metric"].values[0]))


def scores_section(run: Run) -> Section:
    """The score table of the headline metric; the other metrics folded under it."""
    if run.scores is None:
        return absent("scores", "Scores", "Not scored yet: run ", element("code", run.command("evaluate")))
    scores, units = run.scores, variable_units(run.scores)
    first = headline_metric(scores)
    bold = "Bold is the best forecast at that lead"
    bold += "; the small numbers are its interval." if _bounded(scores, first) else "."
    parts: list[Content] = [
        element("p", element("b", first), ": ", definition(scores, first), " ", bold, class_="lead"),
        score_table(scores, first, units),
    ]
    if "beats_to" in scores:
        parts += [element("h3", "How far the model is ahead"), horizon_table(scores)]
    if "p_value" in scores:
        parts.append(details("How sure the comparison is", significance_table(scores)))
    for metric in [str(m) for m in scores["metric"].values if str(m) != first]:
        words = element("p", definition(scores, metric), class_="lead")
        parts.append(details(metric, words, score_table(scores, metric, units)))
    baselines = _object(scores.attrs.get("baselines"))
    if baselines:
        listed = definitions([(spoken(name), text) for name, text in baselines.items()], class_="facts")
        parts.append(details("What the baselines are", listed))
    return Section("scores", "Scores", element("div", parts))


def _bounded(scores: xr.Dataset, metric: str) -> bool:
    """Whether there is an interval for any score of a metric."""
    return "score_low" in scores and bool(np.isfinite(scores["score_low"].sel(metric=metric).values).any())


def _object(text: object) -> dict[str, str]:
    """A JSON object of an attribute; empty where there is none."""
    return {str(k): str(v) for k, v in json.loads(str(text)).items()} if text else {}


def definition(scores: xr.Dataset, metric: str) -> str:
    """Definition and source of a metric, as the scores give them."""
    attrs = scores["metric"].attrs
    words = _object(attrs.get("definition")).get(metric, "")
    source = _object(attrs.get("source")).get(metric, "")
    return words + (f" ({source})" if source else "") + ("." if words or source else "")


def growth_section(run: Run, gallery: Gallery, stopped: Sequence[Stop]) -> Section:
    """Error against lead time for the headline metric and the correlations."""
    title = "Error growth"
    if run.scores is None:
        return absent("growth", title, "No scores yet: run ", element("code", run.command("evaluate")))
    scores, units = run.scores, variable_units(run.scores)
    names = [str(m) for m in scores["metric"].values]
    chosen = dict.fromkeys([headline_metric(scores), *(m for m in ("correlation", "acc") if m in names)])
    variables = [str(v) for v in scores["variable"].values]
    drawn = []
    for variable in variables[:SHOWN_VARIABLES]:
        for metric in chosen:
            figure = figures.error_growth(
                scores, metric, variable, units_of_score(metric, units[variable]), [s.step for s in stopped]
            )
            words = growth_words(scores, metric, variable)
            drawn.append(gallery.add(f"error_growth_{metric}_{variable}", figure, words))
    confidence = float(scores.attrs.get("confidence", run.experiment.evaluate.confidence))
    note = f"Bands are {100 * confidence:g} % bootstrap intervals over starts."
    if not _bounded(scores, headline_metric(scores)):
        note = "Without bands: too few starts to resample."
    return Section("growth", title, with_figures(note, drawn, more(variables)))


def with_figures(words: Content, drawn: Sequence[Html], after: Content = None) -> Html:
    """A line of text over a grid of figures."""
    return element(
        "div", element("p", words, class_="lead") if words else None, element("div", drawn, class_="grid"), after
    )


def growth_words(scores: xr.Dataset, metric: str, variable: str) -> str:
    """What an error curve shows, in words."""
    values = scores["score"].sel(metric=metric, variable=variable)
    ends = [f"{spoken(name)} from {number(row[0])} to {number(row[-1])}" for name, row in _rows(values)]
    return f"{metric} of {variable} against lead time: " + "; ".join(ends)


def _rows(values: xr.DataArray) -> list[tuple[str, np.ndarray]]:
    return [(str(name), values.sel(forecast=name).values) for name in values["forecast"].values]


def more(variables: Sequence[str]) -> Html | None:
    """A line on variables that have no figures."""
    rest = len(variables) - SHOWN_VARIABLES
    if rest <= 0:
        return None
    file = element("code", "scores.nc")
    return element("p", f"{rest} more variables: in the tables above and in ", file, ".", class_="lead")


# ---------------------------------------------------------------------------------------------- spectra and drift


def spectra_section(run: Run, gallery: Gallery) -> Section:
    """Spectra of truth, model and baselines at a few leads."""
    title = "Spectra"
    names = [] if run.scores is None else [str(n) for n in run.scores.data_vars if str(n).startswith("spectrum")]
    if run.scores is None or not names:
        return _no_spectra(run, title)
    units = variable_units(run.scores)
    drawn = []
    for name in names:
        spectrum = run.scores[name]
        for variable in _finite_variables(spectrum)[:SHOWN_VARIABLES]:
            for lead in spectrum["spectrum_lead"].values:
                figure = figures.spectrum(spectrum, lead, variable, units.get(variable, "1"))
                label = lead_label(lead, spectrum["spectrum_lead"].attrs.get("units", "1"))
                alt = f"Spectra of {variable} at lead {label}: {', '.join(map(str, spectrum['source'].values))}"
                drawn.append(gallery.add(f"{name}_{variable}_{label}", figure, alt))
    note = "Where the prediction falls below the truth at large wavenumbers, it is smoother than the truth."
    return Section("spectra", title, with_figures(note, drawn))


def _no_spectra(run: Run, title: str) -> Section:
    """Say how to ask for spectra, with the names of this record's dimensions."""
    fields = [] if run.forecast is None else list(run.forecast.data_vars.values())
    dims = list(dict.fromkeys(dim for field in fields for dim in space_dims(field)))
    if fields and not dims:
        return absent("spectra", title, "No spectra: this record has no space to take them along.")
    if run.forecast is not None and structure_dims(run.forecast):
        return absent("spectra", title, "No spectra: none of the dimensions of a body is periodic.")
    ask = element("code", f"evaluate: {{spectra: [{', '.join(dims or ['x'])}]}}")
    again = run.command("evaluate") + (" --overwrite" if run.scores is not None else "")
    reason = ["No spectra: name the periodic dimensions among ", ask, ", then run ", element("code", again)]
    return absent("spectra", title, *reason)


def drift_section(run: Run, gallery: Gallery) -> Section:
    """Spatial variance against lead time: whether the forecast keeps its energy."""
    title = "Variance drift"
    if run.scores is None or "variance" not in run.scores:
        return absent("drift", title, "No variance yet: run ", element("code", run.command("evaluate")))
    variance, units = run.scores["variance"], variable_units(run.scores)
    variables = _finite_variables(variance)  # a vector has none
    drawn = []
    for variable in variables[:SHOWN_VARIABLES]:
        figure = figures.drift(variance, variable, units.get(variable, "1"))
        alt = f"Spatial variance of {variable} against lead time"
        drawn.append(gallery.add(f"variance_{variable}", figure, alt))
    words = "Variance about the spatial mean, averaged over starts. " + drift_words(variance, variables[0])
    return Section("drift", title, with_figures(words, drawn, more(variables)))


def _finite_variables(values: xr.DataArray) -> list[str]:
    """The variables with any finite value; all where there is none."""
    names = [str(v) for v in values["variable"].values]
    return [n for n in names if np.isfinite(values.sel(variable=n).values).any()] or names


def drift_words(variance: xr.DataArray, variable: str) -> str:
    """The model's variance at the last lead as a part of the truth's."""
    last = variance.sel(variable=variable).isel(lead_time=-1)
    model, truth = float(last.sel(source="model")), float(last.sel(source="truth"))
    if not (np.isfinite([model, truth]).all() and truth > 0):
        return ""
    return f"At the last lead the model holds {100 * model / truth:.0f} % of the truth's variance of {variable}."


# ---------------------------------------------------------------------------------------------- training


def training_section(run: Run, gallery: Gallery) -> Section:
    """Loss curves and learning rate."""
    log = run.training
    if log is None:
        return absent(
            "training",
            "Training",
            "No training log here (the model was imported, or not trained in this run): ",
            element("code", run.command("fit")),
            " writes one.",
        )
    drawn = []
    if any(len(figures.logged(log, column)[0]) for column in ("train_loss", "validation_loss")):
        alt = "Training and validation loss against epoch"
        drawn.append(gallery.add("training_loss", figures.training_loss(log), alt))
    if len(figures.logged(log, "learning_rate", "step")[0]):
        drawn.append(gallery.add("learning_rate", figures.learning_rate(log), "Learning rate against optimiser step"))
    if not drawn:
        return absent("training", "Training", "The training log holds neither losses nor learning rates.")
    return Section("training", "Training", with_figures(summary_line(run.summary), drawn))


def summary_line(summary: Mapping[str, object]) -> str:
    """Epochs, steps, time and waiting, from ``fit.json``."""
    words = []
    if "epochs" in summary and "steps" in summary:
        words.append(f"{count(summary['epochs'])} epochs, {count(summary['steps'])} optimiser steps")
    if "seconds" in summary:
        words.append(f"{clock(float(str(summary['seconds'])))} of training")
    if "waited_fraction" in summary:
        words.append(f"{100 * float(str(summary['waited_fraction'])):.1f} % of it waiting for data")
    return ", ".join(words) + "." if words else ""


def clock(seconds: float) -> str:
    """A span of time as ``2 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
