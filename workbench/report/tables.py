"""Score tables: numbers of ``scores.nc`` as they are, the best in bold, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.metrics.evaluation import METRICS
from workbench.report.html import Content, Html, element, table
from workbench.report.labels import lead_label, number, pretty_units, spoken, squared
from workbench.report.style import BASELINES, CSS_NAMES, MODEL


def table_leads(count: int) -> list[int]:
    """The first lead, a quarter, half and the whole of `count` leads, as indices."""
    return sorted({0, max(round(count / 4) - 1, 0), max(round(count / 2) - 1, 0), count - 1})


def units_of_score(metric: str, units: str) -> str:
    """Units of a score of a variable in `units`; ``1`` for a metric unknown here or a pure number."""
    power = METRICS[metric].unit_power if metric in METRICS else 0
    return {0: "1", 1: units, 2: squared(units)}[power]


def best(values: np.ndarray, optimum: float | None) -> np.ndarray:
    """Which of `values` come nearest to `optimum`; none where there is no optimum or no finite value."""
    distance = np.abs(values - (np.nan if optimum is None else optimum))
    finite = distance[np.isfinite(distance)]
    return distance == finite.min() if finite.size else np.zeros(values.shape, dtype=bool)


def optimum_of(metric: str) -> float | None:
    """The value of a perfect forecast; None where neither direction is better or the metric is not known."""
    return METRICS[metric].optimum if metric in METRICS else None


def score_table(scores: xr.Dataset, metric: str, units: dict[str, str]) -> Html:
    """One metric of every variable: a row a forecast, a column a lead.

    Args:
        scores: Dataset with ``score`` (and bounds) on ``(forecast, metric, variable, lead_time)``.
        metric: name of the metric.
        units: variable -> units.
    """
    leads = table_leads(scores.sizes["lead_time"])
    chosen = scores.sel(metric=metric).isel(lead_time=leads)
    forecasts = [str(name) for name in scores["forecast"].values]
    rows: list[Html] = []
    for variable in map(str, scores["variable"].values):
        unit = pretty_units(units_of_score(metric, units.get(variable, "1")))
        heading = f"{variable} ({unit})" if unit else variable
        rows.append(element("tr", element("th", heading, scope="rowgroup", colspan=len(leads) + 1), class_="group"))
        rows += _variable_rows(chosen.sel(variable=variable), forecasts, optimum_of(metric))
    lead_units = scores["lead_time"].attrs.get("units", "1")
    titles = [lead_label(value, lead_units) for value in chosen["lead_time"].values]
    head = element("tr", *(element("th", t, scope="col") for t in ["lead time", *titles]))
    whole = element("table", element("thead", head), element("tbody", rows), class_="scores")
    return element("div", whole, class_="scroll", tabindex="0")


def _variable_rows(chosen: xr.Dataset, forecasts: Sequence[str], optimum: float | None) -> list[Html]:
    values = chosen["score"].transpose("forecast", "lead_time").values
    bold = np.stack([best(column, optimum) for column in values.T], axis=1)
    bounds = None
    if "score_low" in chosen and "score_high" in chosen:
        bounds = [chosen[b].transpose("forecast", "lead_time").values for b in ("score_low", "score_high")]
    rows = []
    for i, name in enumerate(forecasts):
        cells = [
            element(
                "td",
                number(value),
                element("small", interval(bounds[0][i, j], bounds[1][i, j])) if bounds else None,
                class_="best" if bold[i, j] else None,
            )
            for j, value in enumerate(values[i])
        ]
        rows.append(element("tr", element("th", swatch(i), spoken(name), scope="row"), *cells))
    return rows


def swatch(order: int) -> Html:
    """The line of a forecast as it is in the figures: the model first, then the baselines."""
    color = MODEL if order == 0 else BASELINES[(order - 1) % len(BASELINES)]
    shape = "solid" if order == 0 else ("dashed", "dotted")[(order - 1) % 2]
    return element("span", class_="swatch", style=f"border-color:var({CSS_NAMES[color]});border-style:{shape}")


def interval(low: float, high: float) -> str:
    """``0.12 to 0.15``; empty where either bound is not finite."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    return f"{number(low)} to {number(high)}"


def horizon_table(scores: xr.Dataset) -> Html:
    """Up to which step the model is better than each baseline, and when it decorrelates."""
    steps = scores.sizes["lead_time"]
    baselines = [str(name) for name in scores["baseline"].values]
    rows: list[list[Content]] = []
    for variable in map(str, scores["variable"].values):
        row: list[Content] = [variable]
        for name in baselines:
            row.append(_horizon(scores.sel(variable=variable, baseline=name), steps))
        if "decorrelation_lead" in scores:
            row.append(_decorrelation(scores, variable))
        rows.append(row)
    head: list[Content] = ["better to step", *(f"than {spoken(name)}" for name in baselines)]
    if "decorrelation_lead" not in scores:
        return table(head, rows)
    definition = scores["decorrelation_lead"].attrs.get("long_name", "")
    return table([*head, "decorrelates at lead"], rows, definition and f"Decorrelation: {definition}.")


def _horizon(chosen: xr.Dataset, steps: int) -> Html:
    reached = int(chosen["beats_to"])
    text = "never" if reached == 0 else f"{reached} of {steps}"
    bounds = None
    if "beats_to_low" in chosen and "beats_to_high" in chosen:
        low, high = float(chosen["beats_to_low"]), float(chosen["beats_to_high"])
        bounds = element("small", f"{low:.0f} to {high:.0f}") if np.isfinite([low, high]).all() else None
    return element("td", text, bounds)


def _decorrelation(scores: xr.Dataset, variable: str) -> Html:
    chosen = scores["decorrelation_lead"].sel(variable=variable, forecast=scores["forecast"].values[0])
    value = chosen.values[()]
    missing = np.isnat(value) if isinstance(value, np.timedelta64) else not np.isfinite(value)
    units = scores["lead_time"].attrs.get("units", "1")
    return element("td", "later than the last" if missing else lead_label(value, units))


def significance_table(scores: xr.Dataset) -> Html:
    """p-values of the comparison with each baseline at the leads of the score table."""
    leads = table_leads(scores.sizes["lead_time"])
    units = scores["lead_time"].attrs.get("units", "1")
    titles = [lead_label(value, units) for value in scores["lead_time"].values[leads]]
    rows: list[list[Content]] = []
    for variable in map(str, scores["variable"].values):
        for baseline in map(str, scores["baseline"].values):
            values = scores["p_value"].sel(variable=variable, baseline=baseline).isel(lead_time=leads).values
            rows.append([f"{variable}: model against {spoken(baseline)}", *(p_value(v) for v in values)])
    return table(["p-value at lead", *titles], rows)


def p_value(value: float) -> str:
    """A p-value in two digits, ``< 0.001`` below that."""
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.2g}"
