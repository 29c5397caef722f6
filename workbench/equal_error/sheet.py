"""What ``speedup.nc`` holds, the sentence on top of it and the table under it; free of torch.

One flat NetCDF-4 file:

    error(solver, point), surrogate_error(point) with _low and _high, error_without_model(reference, point)
    error_by_lead(solver, lead_time), surrogate_error_by_lead(lead_time)
    seconds(solver, batch, clock, round), surrogate_seconds(batch, clock, round)   per forecast [and unit of time]
    batch_size(solver, batch), surrogate_batch_size(batch)
    ratio(point, batch, clock) with _low and _high, bound(...), equal_solver(...)  solver over surrogate at equal error
    moot(point), settings(solver), note(solver)

`batch` is ``one`` forecast at a time, or the ``best`` number together; `clock` is ``wall`` or ``cpu``. A ratio over 1
means that the surrogate is faster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from workbench.equal_error.front import AT_LEAST, AT_MOST
from workbench.equal_error.ratios import Ratios

BATCHES, CLOCKS = ("one", "best"), ("wall", "cpu")
BOUNDS = ("between", "at most", "at least")
NOT_RUN = "not run"
KINDS = {"one": "for one forecast", "best": "in the best batch"}


@dataclass(frozen=True)
class Comparison:
    """Everything that was measured.

    Attributes:
        labels: of the candidates that were tried, with `settings` and `notes` in the same order.
        ran: positions of those that have errors and timings.
        points: labels of the points; those beyond leads are statistics.
        lead_points: how many of them are leads.
        lead_time: coordinate of the forecasts.
        errors: of the candidates that ran ``(ran, point)``.
        own: error of the surrogate, low, high ``(3, point)``.
        references: errors ``(point,)`` of what costs nothing, by name.
        by_lead: mean errors of surrogate and those that ran ``(1 + ran, lead)``.
        wall, cpu: seconds of surrogate and those that ran ``(1 + ran, batch, round)``.
        per: what they are told of: ``forecast``, or ``forecast and unit of time``.
        variables: whose error it is.
        sizes: of their batches ``(1 + ran, batch)``.
        ratios: on ``(point, batch, clock)``; `solver` counts those that ran.
    """

    labels: Sequence[str]
    settings: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    ran: Sequence[int]
    points: Sequence[str]
    lead_points: int
    lead_time: xr.DataArray
    errors: np.ndarray
    own: np.ndarray
    references: Mapping[str, np.ndarray]
    by_lead: np.ndarray
    wall: np.ndarray
    cpu: np.ndarray
    per: str
    variables: Sequence[str]
    sizes: np.ndarray
    ratios: Ratios


def dataset_of(found: Comparison, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The comparison as one flat Dataset, with its sentence."""
    seconds = np.stack([found.wall, found.cpu], 2)
    unit = {"units": "s", "long_name": f"computing time per {found.per}"}
    norm = {"units": "1", "long_name": f"relative L2 error of {', '.join(found.variables)}, mean over starts"}
    cells, names = ("point", "batch", "clock"), list(found.references)
    references = np.stack([found.references[name] for name in names])
    chosen = np.array([found.labels[i] for i in found.ran], dtype=object)[found.ratios.solver]
    unproven = np.array(found.own[0] >= references.min(0)) & (np.arange(len(found.points)) < found.lead_points)
    unproven |= ~np.isfinite(found.own[0])
    data: dict[str, Any] = {
        "error": (("solver", "point"), _spread(found, found.errors), norm),
        "error_by_lead": (("solver", "lead_time"), _spread(found, found.by_lead[1:]), norm),
        "surrogate_error_by_lead": ("lead_time", found.by_lead[0], norm),
        "error_without_model": (("reference", "point"), references, norm),
        "seconds": (("solver", "batch", "clock", "round"), _spread(found, seconds[1:]), unit),
        "surrogate_seconds": (("batch", "clock", "round"), seconds[0], unit),
        "batch_size": (("solver", "batch"), _spread(found, found.sizes[1:].astype(float)), {"units": "1"}),
        "surrogate_batch_size": ("batch", found.sizes[0], {"units": "1"}),
        "bound": (cells, np.array(BOUNDS, dtype=object)[found.ratios.bound]),
        "equal_solver": (cells, chosen, {"long_name": "cheapest solver at least as good, else the most accurate"}),
        "moot": ("point", unproven, {"long_name": "the surrogate is no better than what costs nothing, or fails"}),
        "settings": ("solver", [json.dumps(dict(s)) for s in found.settings]),
        "note": ("solver", list(found.notes)),
    }
    for suffix, row in zip(("", "_low", "_high"), found.own, strict=True):
        data[f"surrogate_error{suffix}"] = ("point", row, norm)
    for suffix, values in zip(
        ("", "_low", "_high"), (found.ratios.ratio, found.ratios.low, found.ratios.high), strict=True
    ):
        words = {"units": "1", "long_name": "time of the solver over that of the surrogate at equal error"}
        data[f"ratio{suffix}"] = (cells, values, words)
    coords = {
        "solver": list(found.labels),
        "point": list(found.points),
        "batch": list(BATCHES),
        "clock": list(CLOCKS),
        "reference": names,
        "lead_time": found.lead_time,
    }
    result = xr.Dataset(data, coords, {"Conventions": "CF-1.11", "lead_points": found.lead_points, **attrs})
    return result.assign_attrs(headline=statement(result), verdict=verdict(result))


def _spread(found: Comparison, values: np.ndarray) -> np.ndarray:
    """Values of those that ran, on all that were tried; NaN elsewhere."""
    everyone = np.full((len(found.labels), *values.shape[1:]), np.nan)
    everyone[list(found.ran)] = values
    return everyone


# ------------------------------------------------------------------------------------------------------- sentence


def headline_point(sheet: xr.Dataset) -> str | None:
    """The mean over all leads; where the surrogate has nothing to show there, the last lead where it has."""
    leads = [str(p) for p in sheet["point"].values[: int(sheet.attrs["lead_points"])]]
    shown = [p for p in leads if not bool(sheet["moot"].sel(point=p))]
    return shown[-1] if shown else None


def statement(sheet: xr.Dataset) -> str:
    """One sentence: what the solver takes at the surrogate's error."""
    point = headline_point(sheet)
    if point is None:
        best = sheet["error_without_model"].isel(point=0)
        name = str(best["reference"].values[int(best.values.argmin())])
        return (
            f"the surrogate is no better than {'the ' if name == 'training mean' else ''}{name}, which costs nothing, "
            f"at any lead (relative L2 {float(sheet['surrogate_error'][0]):.3g} against {float(best.min()):.3g} "
            f"at {sheet['point'].values[0]}): no speed-up can be claimed"
        )
    return f"at the error of the surrogate over {words_of(point)} {about(sheet, point)}: {verdict(sheet)}"


def words_of(point: str) -> str:
    """``30 steps`` for the mean over the leads 1 to 30; other labels as they are."""
    return f"{point.rpartition(' ')[2]} steps" if point.startswith("steps 1 to ") else point


def about(sheet: xr.Dataset, point: str) -> str:
    """The error at a point, and what the solver takes for it."""
    error = float(sheet["surrogate_error"].sel(point=point))
    one, each = (ratio_text(sheet, point, batch, "wall") for batch in BATCHES)
    solver, bound = (
        str(sheet[n].sel(point=point, batch="one", clock="wall").values) for n in ("equal_solver", "bound")
    )
    if bound == BOUNDS[AT_LEAST]:
        first = f"no solver is as good; the most accurate one ({solver}) takes"
    else:
        first = f"the cheapest solver ({solver}{'' if bound == BOUNDS[AT_MOST] else ' or a little coarser'}) takes"
    return f"(relative L2 {error:.3g}) {first} {one} of its time {KINDS['one']} and {each} {KINDS['best']}"


def ratio_text(sheet: xr.Dataset, point: str, batch: str, clock: str) -> str:
    """``0.8 (95 %: 0.7 to 0.9)``, with ≤ or ≥ for a bound and for an interval that is open."""
    cell = sheet.sel(point=point, batch=batch, clock=clock)
    sign = {BOUNDS[AT_MOST]: "≤ ", BOUNDS[AT_LEAST]: "≥ "}.get(str(cell["bound"].values), "")
    low, high = float(cell["ratio_low"]), float(cell["ratio_high"])
    spread = f"{number(low)} to {number(high)}"
    if low == 0 and high == np.inf:
        spread = "open on both sides"
    elif low == 0:
        spread = f"≤ {number(high)}"
    elif high == np.inf:
        spread = f"≥ {number(low)}"
    text = f"{sign}{number(float(cell['ratio']))}"
    return text if np.isnan(low) else f"{text} ({100 * sheet.attrs['confidence']:g} %: {spread})"


def number(value: float) -> str:
    """Two significant digits, without exponents between 0.001 and 1000."""
    return f"{value:.2g}" if not 10 <= abs(value) < 1000 else f"{value:.0f}"


def verdict(sheet: xr.Dataset) -> str:
    """``a speed-up``, ``no speed-up``, or the one kind of batch that has it; beyond chance if there is an interval."""
    point = headline_point(sheet)
    if point is None:
        return "no speed-up"
    cells = {batch: sheet.sel(point=point, batch=batch, clock="wall") for batch in BATCHES}
    faster = {batch: _beyond(cell, above=True) for batch, cell in cells.items()}
    note = " (too few starts for an interval)" if any(np.isnan(cell["ratio_low"]) for cell in cells.values()) else ""
    if all(faster.values()):
        return "a speed-up" + note
    if any(faster.values()):
        return f"a speed-up {next(KINDS[batch] for batch in BATCHES if faster[batch])} only{note}"
    slower = all(_beyond(cell, above=False) for cell in cells.values())
    return f"no speed-up{', the solver is faster' if slower else ''}{note}"


def _beyond(cell: xr.Dataset, above: bool) -> bool:
    """Whether a ratio is above (or below) 1 beyond chance; a bound on the other side never is."""
    low, high, ratio = (float(cell[name]) for name in ("ratio_low", "ratio_high", "ratio"))
    wrong = BOUNDS[AT_MOST] if above else BOUNDS[AT_LEAST]
    if str(cell["bound"].values) == wrong:
        return False
    edge = ratio if np.isnan(low) else (low if above else high)
    return edge > 1.0 if above else edge < 1.0


# ---------------------------------------------------------------------------------------------------------- table


def table(sheet: xr.Dataset) -> str:
    """Candidates with errors and costs, then the ratios; for a terminal."""
    point = headline_point(sheet) or str(sheet["point"].values[int(sheet.attrs["lead_points"]) - 1])
    notes = dict(zip(map(str, sheet["solver"].values), map(str, sheet["note"].values), strict=True))
    ran = [label for label, note in notes.items() if not note]
    width = max(len("surrogate"), *map(len, map(str, sheet["point"].values)), *map(len, ran))
    told = f"{sheet['seconds'].attrs['long_name']} in s: alone, in the best batch"
    lines = [f"{'':<{width}}  {'error, ' + point:<22}  {told}"]
    error = sheet["error"].sel(point=point)
    lines.append(_row("surrogate", width, float(sheet["surrogate_error"].sel(point=point)), sheet["surrogate_seconds"]))
    lines += [_row(label, width, float(error.sel(solver=label)), sheet["seconds"].sel(solver=label)) for label in ran]
    failed = [label for label, note in notes.items() if note and not note.startswith(NOT_RUN)]
    spared = [label for label, note in notes.items() if note.startswith(NOT_RUN)]
    lines += [f"failed: {len(failed)} more; the variable note of speedup.nc says why"] if failed else []
    lines += [f"not run, since a cheaper one is better everywhere: {'; '.join(spared)}"] if spared else []
    lines += ["", f"{'at the error of':<{width}}  solver / surrogate: one forecast | best batch (CPU time: one | best)"]
    for label in map(str, sheet["point"].values):
        text = f"nothing to compare: the surrogate {shortcoming(sheet, label)}"
        if not bool(sheet["moot"].sel(point=label)):
            wall, cpu = ([ratio_text(sheet, label, b, clock) for b in BATCHES] for clock in CLOCKS)
            text = f"{' | '.join(wall)}   ({' | '.join(t.partition(' (')[0] for t in cpu)})"
        lines.append(f"{label:<{width}}  {text}")
    return "\n".join(lines)


def shortcoming(sheet: xr.Dataset, point: str) -> str:
    """Why there is nothing to compare at a point."""
    finite = np.isfinite(float(sheet["surrogate_error"].sel(point=point)))
    return "is no better than what costs nothing" if finite else "does not stay finite for so long"


def _row(label: str, width: int, error: float, seconds: xr.DataArray) -> str:
    costs = []
    for batch in BATCHES:
        values = seconds.sel(batch=batch, clock="wall").values
        costs.append(f"{np.median(values):.3g} ({values.min():.2g} to {values.max():.2g})")
    shown = "left out" if np.isnan(error) else f"{error:.4g}"
    return f"{label:<{width}}  {shown:<22}  {costs[0]:<26}  {costs[1]}"
