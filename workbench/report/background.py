"""What a reader needs to judge and repeat the run: data card, configuration, environment, references."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.report import citations
from workbench.report.html import Content, Section, absent, definitions, details, element, table, yaml_block
from workbench.report.labels import brief, lead_label, number, pretty_units
from workbench.report.run import Run

HIDDEN = ("workbench_stopped", "workbench_complete", "Conventions")
"""Attributes of the forecast that say nothing about where it comes from, or are shown elsewhere."""

SHOWN_ABOVE = ("headline", "verdict", "headline_metric", "optimum", "baselines", "stopped")
"""Attributes of the scores that the page shows elsewhere."""


def data_section(run: Run) -> Section:
    """The data card: record, licence, citation, variables with statistics, axes, splits."""
    card = run.card
    if card is None:
        return absent("data", "Data", "No data card: ", element("code", run.command("fit")), " writes data_card.json.")
    named = (("title", "title"), ("licence", "licence"), ("citation", "cite as"))
    facts: list[tuple[Content, Content]] = [(label, str(card[key])) for key, label in named if card.get(key)]
    if "record" in card:
        facts.insert(0, ("record", element("code", str(card["record"]))))
    if "time_step" in card:
        facts.append(("time step", time_step(float(card["time_step"]), str(card.get("time_units", "1")))))
    if isinstance(card.get("sizes"), Mapping):
        facts.append(("sizes", ", ".join(f"{name} {size}" for name, size in card["sizes"].items())))
    facts += [(f"{name} split", str(label)) for name, label in dict(card.get("splits") or {}).items()]
    if "fingerprint" in card:
        facts.append(("fingerprint", element("code", str(card["fingerprint"]))))
    return Section("data", "Data", element("div", definitions(facts, class_="facts"), _variables(card), _axes(card)))


def time_step(step: float, units: str) -> str:
    """A time step: minutes, hours or days where it is that many seconds."""
    if units == "s" and step >= 120:
        return lead_label(np.timedelta64(round(step), "s"))
    return f"{brief(step)} {pretty_units(units)}".strip()


def _variables(card: Mapping[str, Any]) -> Content:
    """Variables with units and the statistics of the training split."""
    statistics = dict(card.get("statistics") or {})
    rows: list[list[Content]] = []
    for variable in card.get("variables") or []:
        name = str(variable.get("name", ""))
        known = statistics.get(name) or {}
        numbers = [_numbers(known.get(key)) for key in ("mean", "std")]
        rows.append(
            [name, str(variable.get("long_name", "")), pretty_units(variable.get("units", "1")) or "1", *numbers]
        )
    head = ["variable", "long name", "units", "training mean", "training deviation"]
    return [element("h3", "Variables"), table(head, rows)] if rows else None


def _numbers(value: Any) -> str:
    """A number, or the first of several (one a level)."""
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_numbers(v) for v in value[:3])
        return shown + (", …" if len(value) > 3 else "")
    return number(value) if isinstance(value, (int, float)) else "–"


def _axes(card: Mapping[str, Any]) -> Content:
    rows: list[list[Content]] = []
    for axis in card.get("axes") or []:
        values = axis.get("values")
        size = axis.get("size", len(values) if values else "–")
        first, last = (axis.get(key, values[at] if values else "–") for key, at in (("first", 0), ("last", -1)))
        ends = f"{_end(first)} … {_end(last)}"
        rows.append([str(axis.get("name", "")), str(size), ends, pretty_units(axis.get("units", "1")) or "1"])
    return [element("h3", "Axes"), table(["axis", "points", "from … to", "units"], rows)] if rows else None


def _end(value: Any) -> str:
    return brief(value) if isinstance(value, (int, float)) else str(value)


def configuration_section(run: Run) -> Section:
    """The experiment as written, and with every default resolved."""
    parts: list[Content] = [details("Experiment, as written", yaml_block(run.written), open_=True)]
    if run.resolved:
        parts.append(details("Every setting of the training, defaults included", yaml_block(run.resolved)))
    else:
        hint = ["The resolved configuration is written by ", element("code", run.command("fit")), "."]
        parts.append(element("p", *hint, class_="absent"))
    return Section("configuration", "Configuration", element("div", parts))


def environment_section(run: Run) -> Section:
    """Versions and provenance, as forecast and scores carry them."""
    facts: list[tuple[Content, Content]] = [("run directory", element("code", str(run.experiment.run_dir)))]
    for key, value in run.forecast_attrs.items():
        if key not in HIDDEN:
            facts.append((str(key).removeprefix("workbench_").replace("_", " "), _plain(value)))
    for key, value in run.score_attrs.items():
        same = run.forecast_attrs.get(f"workbench_{str(key).removeprefix('workbench_')}") == value
        if key not in SHOWN_ABOVE and not same:
            facts.append((f"scores: {str(key).replace('_', ' ')}", _plain(value)))
    return Section("environment", "Versions and environment", definitions(facts, class_="facts"))


def _plain(value: Any) -> str:
    """An attribute as text; a JSON object as ``a 1, b 2``."""
    text = str(value)
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        return ", ".join(f"{k} {v}" for k, v in found.items())
    return brief(value) if isinstance(value, float) else text


def references_section(run: Run) -> Section:
    """BibTeX of the data, the methods and the packages that this run used."""
    keys = citations.used(run.experiment.config, scored=run.scores is not None)
    card = run.card or {}
    data = citations.data_entry(*(str(card.get(key) or "") for key in ("citation", "title", "licence")))
    known = citations.entries()
    entries = ([data] if data else []) + [known[key] for key in keys]
    note = "BibTeX of the data, the methods and the packages behind these numbers."
    listing = element("pre", element("code", "\n\n".join(entries)), class_="bibtex", tabindex="0")
    body = element("div", element("p", note, class_="lead"), details("BibTeX", listing, open_=True))
    return Section("references", "References", body)
