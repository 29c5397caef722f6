"""The page on predicted lives: verdict, parity, scores, intervals, policies, attributions and the sweep over cycles."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.metrics.battery import METRICS
from workbench.report import background, lifetimes_figures, sections
from workbench.report.gallery import Gallery
from workbench.report.header import verdict
from workbench.report.html import Content, Html, Section, absent, definitions, details, document, element, table
from workbench.report.labels import count, number, short_count, spoken
from workbench.report.run import Run
from workbench.scoring.lifetimes_verdict import CROSS_VALIDATED, LEFT_OUT, MODEL, POOLED


def compose(run: Run, gallery: Gallery) -> str:
    """The page as text; figures go to `gallery` on the way."""
    title = run.experiment.report.title or run.experiment.name
    parts = [
        parity_section(run, gallery),
        scores_section(run),
        intervals_section(run, gallery),
        policies_section(run, gallery),
        attribution_section(run, gallery),
        *sweep_sections(run, gallery),
        sections.training_section(run, gallery),
        background.data_section(run),
        background.configuration_section(run),
        background.environment_section(run),
        background.references_section(run),
    ]
    footer = element("footer", f"Made by workbench report {__version__}.")
    return document(title, header(run, title), parts, footer)


def header(run: Run, title: str) -> Html:
    """Title, verdict, headline and key figures."""
    attrs = run.score_attrs
    words = verdict(str(attrs.get("verdict", "")), str(attrs.get("headline", "")), "", run.command("evaluate"))
    pairs: list[tuple[Content, Content]] = []
    if "workbench_parameters" in run.forecast_attrs:
        pairs.append(("parameters, all networks", short_count(run.forecast_attrs["workbench_parameters"])))
    if run.forecast is not None:
        part = run.forecast["part"].values
        pairs += [(f"cells in {name}", count((part == name).sum())) for name in dict.fromkeys(part)]
    eyebrow = f"Lifetime report · experiment {run.experiment.name}"
    key = definitions(pairs, class_="key") if pairs else None
    return element("header", element("p", eyebrow, class_="eyebrow"), element("h1", title), words, key)


def _missing(run: Run, anchor: str, title: str, verb: str = "evaluate") -> Section:
    return absent(anchor, title, "Not there yet: run ", element("code", run.command(verb)))


def parity_section(run: Run, gallery: Gallery) -> Section:
    """Predicted against true life."""
    if run.scores is None:
        return _missing(run, "parity", "Predicted lives")
    level = 100 * float(run.scores.attrs["level"])
    words = (
        f"The band is ±15 %; bars are {level:g} % prediction intervals. Crosses are training cells, each predicted by "
    )
    words += "networks that have not seen its charging policy."
    drawn = gallery.add("parity", lifetimes_figures.parity(run.scores), "Predicted against true life of every cell")
    return Section("parity", "Predicted lives", sections.with_figures(words, [drawn]))


def scores_section(run: Run) -> Section:
    """Every metric of every forecast, one table a part."""
    if run.scores is None:
        return _missing(run, "scores", "Scores")
    scores = run.scores
    meanings, units = (json.loads(scores["metric"].attrs[key]) for key in ("definition", "units"))
    known = json.loads(scores.attrs["baselines"])
    confidence = 100 * float(scores.attrs["confidence"])
    lead = f"Bold is the best; small numbers are {confidence:g} % bootstrap intervals over cells."
    parts: list[Content] = [element("p", lead, class_="lead")]
    parts += [part_table(scores, str(part), units) for part in scores["part"].values]
    listed = [(spoken(n), " ".join(text.split())) for n, text in meanings.items()]
    parts.append(details("What the scores are", definitions(listed, class_="facts")))
    if known:
        named = definitions([(spoken(n), text) for n, text in known.items()], class_="facts")
        parts.append(details("What the baselines are", named))
    return Section("scores", "Scores", element("div", parts))


def part_table(scores: xr.Dataset, part: str, units: dict[str, str]) -> Html:
    """The scores of one part: a row a forecast, a column a metric."""
    one = scores.sel(part=part)
    names = [str(f) for f in one["forecast"].values if np.isfinite(one["score"].sel(forecast=f)).any()]
    one = one.sel(forecast=names)
    best = {}
    for metric in map(str, one["metric"].values):
        values = one["score"].sel(metric=metric).values
        best[metric] = names[int(values.argmax() if metric == "within_15" else values.argmin())]
    rows: list[list[Content]] = []
    for name in names:
        row: list[Content] = [spoken(name)]
        for metric in best:
            at = one.sel(forecast=name, metric=metric)
            bounds = element("small", f"{number(at['score_low'])} to {number(at['score_high'])}")
            row.append(element("td", number(at["score"]), bounds, class_="best" if best[metric] == name else None))
        if "baseline" in scores:
            row.append("" if name == MODEL else _p_value(one, name))
        rows.append(row)
    head = ["", *(f"{spoken(m)} ({units[m] if units[m] == '%' else 'cycles'})" for m in best)]
    head += ["p-value against the model"] if "baseline" in scores else []
    return element("div", element("h3", _title(part)), table(head, rows))


def _p_value(one: xr.Dataset, name: str) -> str:
    value = float(one["p_value_of_difference"].sel(baseline=name))
    return "–" if not np.isfinite(value) else "< 0.01" if value < 0.01 else f"{value:.2f}"


def _title(part: str) -> str:
    if part == CROSS_VALIDATED:
        return "train, cross-validated"
    if part.endswith(LEFT_OUT) and part != POOLED:
        return f"{part}: {part.removesuffix(LEFT_OUT)} without the cells left out"
    return part


def intervals_section(run: Run, gallery: Gallery) -> Section:
    """Interval of every cell, measured coverage and width."""
    if run.scores is None:
        return _missing(run, "intervals", "Intervals")
    scores = run.scores
    rows: list[list[Content]] = []
    for part in map(str, scores["part"].values):
        one = scores.sel(part=part)
        if np.isfinite(one["coverage"]):
            low, high = (f"{100 * float(one[n]):.1f}" for n in ("coverage_low", "coverage_high"))
            share = element("td", f"{100 * float(one['coverage']):.1f} %", element("small", f"{low} to {high}"))
            rows.append([part, share, number(one["ratio"]), number(one["width"])])
    head = ["part", "coverage", "upper bound / lower bound, median", "width in cycles, median"]
    unlike = scores["cell"].values[(scores["unlike_training"].values == 1)].astype(str)
    words = (
        f"{100 * float(scores.attrs['level']):g} % CV+ intervals from residuals of training cells whose policy the "
        "networks had not seen; for cells of a batch that is not among the training's, whose batch they had not seen. "
    )
    words += (
        f"Flagged as unlike the training's: {', '.join(unlike)}." if len(unlike) else "No cell is flagged as unlike."
    )
    drawn = gallery.add("intervals", lifetimes_figures.intervals(scores), "Interval and true life of every tested cell")
    return Section("intervals", "Intervals", sections.with_figures(words, [drawn], table(head, rows)))


def policies_section(run: Run, gallery: Gallery) -> Section:
    """Errors by charging policy."""
    if run.scores is None or "policy_mape" not in run.scores:
        return _missing(run, "policies", "Policies")
    scores = run.scores
    order = np.argsort(-scores["policy_mape"].values)
    rows: list[list[Content]] = []
    for name, one in ((str(scores["policy"].values[k]), scores.isel(policy=k)) for k in order):
        errors = [number(one[key]) for key in ("policy_bias", "policy_mape")]
        rows.append([name, int(one["policy_cells"]), *errors, "new" if int(one["policy_new"]) else ""])
    head = ["policy", "cells", "mean error (%)", "mean absolute error (%)", ""]
    by_kind = []
    for flag, label in ((0, "policies of training cells"), (1, "new policies")):
        chosen = scores["policy_new"].values == flag
        if chosen.any():
            weights = scores["policy_cells"].values[chosen]
            mean = float(np.average(scores["policy_mape"].values[chosen], weights=weights))
            by_kind.append(f"{label}: {mean:.1f} % over {weights.sum()} cells")
    drawn = gallery.add("policies", lifetimes_figures.policies(scores), "Mean error of every tested policy")
    body = sections.with_figures("; ".join(by_kind) + ".", [drawn], details("Every policy", table(head, rows)))
    return Section("policies", "Policies", body)


def attribution_section(run: Run, gallery: Gallery) -> Section:
    """What the predictions rest on: maps over cycles and points, shares of variables."""
    lives = run.forecast
    names = [] if lives is None else [str(n) for n in lives.data_vars if str(n).startswith("attribution_")]
    if lives is None or not names:
        return _missing(run, "attributions", "What predictions rest on", "predict")
    sums = {n: float(lives[n].sum()) for n in names}
    peak = max(float(lives[n].quantile(0.995)) for n in names) or 1.0
    shares = [f"{spoken(n.removeprefix('attribution_'))} {100 * s / sum(sums.values()):.0f} %" for n, s in sums.items()]
    words = f"{lives[names[0]].attrs['source'].capitalize()}, absolute values averaged over the tested cells: "
    drawn = [
        gallery.add(
            n, lifetimes_figures.attribution(lives[n], peak), f"Map of {spoken(n)} over cycles and the curve's axis"
        )
        for n in names
    ]
    return Section(
        "attributions", "What predictions rest on", sections.with_figures(words + ", ".join(shares) + ".", drawn)
    )


# ---------------------------------------------------------------------------------------------- sweep


def sweep_sections(run: Run, gallery: Gallery) -> list[Section]:
    """Scores over the number of cycles, where ``workbench sweep`` has been run."""
    if not run.experiment.sweep_scores.exists():
        return []
    with xr.open_dataset(run.experiment.sweep_scores) as opened:
        sweep = opened.load()
    parts = [str(p) for p in sweep["part"].values if p != CROSS_VALIDATED]
    metric = str(sweep.attrs["headline_metric"])
    shown = [p for p in parts if p != POOLED and p + LEFT_OUT not in parts]
    drawn = [
        gallery.add(
            f"sweep_{part}", lifetimes_figures.over_cycles(sweep, part, metric), f"{metric} on {part} over cycles"
        )
        for part in shown
    ]
    first = [POOLED] if POOLED in parts else []
    figure = lifetimes_figures.coverage_over_cycles(sweep, [*first, *shown])
    drawn.append(gallery.add("sweep_coverage", figure, "Coverage of the prediction intervals over cycles"))
    if sweep.sizes["depth"] > 1:
        alt = "Cross-validated error of every depth at every number of cycles"
        drawn.append(gallery.add("sweep_depth", lifetimes_figures.depth_map(sweep), alt))
    words = "Depth is chosen on training cells alone: the smallest within one standard error of the best. "
    words += str(sweep.attrs.get("comment", ""))
    body = sections.with_figures(words, drawn, element("div", [sweep_table(sweep, part, metric) for part in shown]))
    return [Section("sweep", "From how few cycles", body)]


def sweep_table(sweep: xr.Dataset, part: str, metric: str) -> Html:
    """A score of every forecast at every number of cycles, the best in bold."""
    chosen = sweep.sel(part=part, metric=metric)
    values = chosen["score"].transpose("forecast", "cycles").values
    best = np.nanargmin(np.where(np.isfinite(values), values, np.inf), axis=0)
    rows: list[list[Content]] = []
    for i, name in enumerate(map(str, sweep["forecast"].values)):
        cells: list[Content] = [
            element("td", number(v), class_="best" if best[j] == i else None) for j, v in enumerate(values[i])
        ]
        rows.append([spoken(name), *cells])
    unit = "%" if METRICS[metric][1] == "%" else "cycles"
    return element(
        "div", element("h3", f"{metric} ({unit}) on {part}"), table(["cycles", *map(str, sweep["cycles"].values)], rows)
    )
