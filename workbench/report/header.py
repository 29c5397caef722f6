"""The top of the page: title, verdict, headline, key figures, and a warning where forecasts stopped."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from workbench.report.case import Stop, starts_count
from workbench.report.html import Content, Html, definitions, element, table
from workbench.report.labels import count, duration, lead_label, short_count
from workbench.report.run import Run, read_long_run


def header(run: Run, title: str, stopped: Sequence[Stop]) -> Html:
    """The top of the page: title, verdict, headline and key figures."""
    attrs = run.score_attrs
    experiment = run.experiment.name
    eyebrow = f"Forecast report · experiment {experiment}" if title != experiment else "Forecast report"
    return element(
        "header",
        element("p", eyebrow, class_="eyebrow"),
        element("h1", title),
        verdict(str(attrs.get("verdict", "")), str(attrs.get("headline", "")), long_run(run), run.command("evaluate")),
        key_figures(run, stopped),
        stops_table(stopped),
    )


def long_run(run: Run) -> str:
    """The verdict of the domain, such as whether a flow is stable, where the run was scored so."""
    if not run.experiment.long_run.exists():
        return ""
    title = "Diagnosis" if run.experiment.evaluate.long_run.domain == "diagnosis" else "Long run"
    return f"{title}: {read_long_run(run, lambda s: 'verdict' in s.attrs, 'verdict').attrs['verdict']}"


def verdict(sentence: str, headline: str, domain: str, command: str) -> Html:
    """The verdict in large letters, its reason and the headline under it; without scores, how to make them.

    Args:
        sentence: ``beats its baselines``, or ``does not beat its baselines: reason``.
        headline: how far which baseline is beaten.
        domain: what the domain's own scores say.
        command: what scores the run.
    """
    if not sentence and not headline:
        how = element("p", "Score it with ", element("code", command))
        words = element("div", element("strong", "Not scored yet"), how)
        return element("div", _sign("open"), words, class_="verdict open")
    judgement, _, reason = sentence.partition(": ")
    kind = "good" if judgement.startswith("beats") else "warn" if "not beat" in judgement else "open"
    lines = [element("p", line) for line in (reason, headline, domain) if line]
    large = element("strong", judgement[:1].upper() + judgement[1:] if judgement else "Scored")
    return element("div", _sign(kind), element("div", large, lines), class_=f"verdict {kind}")


def _sign(kind: str) -> Html:
    path = {"good": "M7 12.5l3.4 3.4L17 9", "warn": "M12 7v6m0 3.4v.1", "open": "M8 12h.1m3.9 0h.1m3.9 0h.1"}[kind]
    drawing = [element("circle", cx=12, cy=12, r=10.5), element("path", d=path)]
    return element("svg", drawing, viewBox="0 0 24 24", class_="sign", aria_hidden="true")


def key_figures(run: Run, stopped: Sequence[Stop]) -> Html | None:
    """Parameters, cost, starts, members, horizon and confidence, as far as they are known."""
    forecast, attrs = run.forecast_attrs, run.score_attrs
    pairs: list[tuple[Content, Content]] = []
    if "workbench_parameters" in forecast:
        parameters = forecast["workbench_parameters"]
        pairs.append(("parameters", element("span", short_count(parameters), title=count(parameters))))
    if "workbench_seconds_per_step" in forecast:
        pairs.append(("per forecast step", duration(float(forecast["workbench_seconds_per_step"]))))
    if run.forecast is not None:
        pairs += _extent(run.forecast)
    if "resamples" in attrs:
        pairs.append(("bootstrap resamples", count(attrs["resamples"])))
    if stopped and run.forecast is not None:
        total = starts_count(run.forecast) * run.forecast.sizes.get("member", 1)
        pairs.append(("forecasts that stopped", f"{len(stopped)} of {total}"))
    return definitions(pairs, class_="key") if pairs else None


def _extent(forecast: xr.Dataset) -> list[tuple[Content, Content]]:
    lead = forecast["lead_time"]
    steps = len(lead)
    last = lead_label(lead.values[-1], lead.attrs.get("units", "1"))
    members = forecast.sizes.get("member", 1)
    pairs: list[tuple[Content, Content]] = [
        ("starts", count(starts_count(forecast))),
        ("members" if members > 1 else "member", str(members)),
        (f"steps forecast, to lead {last}", count(steps)),
    ]
    return pairs


def stops_table(stopped: Sequence[Stop]) -> Html | None:
    """Forecasts that were no longer finite: which, when and where."""
    if not stopped:
        return None
    shown = 20
    rows: list[list[Content]] = [[s.label or "–", s.member, s.step, s.variable, s.place] for s in stopped[:shown]]
    rest = f" The first {shown}:" if len(stopped) > shown else ""
    words = f"Left the finite numbers and stopped: {len(stopped)}. Values are missing from that step on.{rest}"
    grid = table(["forecast", "member", "step", "variable", "grid index"], rows)
    return element("div", element("p", words), grid, class_="note")
