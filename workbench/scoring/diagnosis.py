"""Scores of fluxes and downscaled fields, as their field asks for them, into ``diagnosis.nc``.

``scores.nc`` has the errors with their significance; here are those of maps and of series apart, the distribution of
values, and what is right and wrong at the scales that the means over cells do not hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.baselines.forecasts import fit_baselines, needs_climatology
from workbench.data.climatology import fit_climatology
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.starts import Problem
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.metrics.distributions import BINS, hellinger_distance
from workbench.metrics.spectra import power_spectrum
from workbench.scoring.judge import MODEL, other_run
from workbench.scoring.spectra import spectrum_dims
from workbench.scoring.tally import full_weights
from workbench.scoring.truth import Aligned, align, entries, refuse_training_states

STARTS = (TRAJECTORY, "init_time")
METRICS = {
    "rmse_in_space": "mean over instants of sqrt <(p - t)^2>, <> over the map",
    "rmse_in_time": "mean over the map of sqrt <(p - t)^2>, <> over instants",
    "correlation_in_time": "mean over the map of the correlation over instants",
    "correlation": "correlation of all values together",
    "hellinger": f"sqrt(1 - sum_i sqrt(p_i q_i)) of the shares in {BINS} bins that hold equal shares of the truth",
    "fine_power": "power at wavelengths below two cells, over that of the truth",
    "fine_error": "power of p - t at wavelengths below two cells, over that of the truth",
}
HEADINGS = {
    "rmse_in_space": "rmse, maps",
    "rmse_in_time": "rmse, series",
    "correlation_in_time": "r, series",
    "correlation": "r",
    "hellinger": "Hellinger",
    "fine_power": "fine power",
    "fine_error": "fine error",
}
HIGHER_IS_BETTER = ("correlation_in_time", "correlation")


def long_run(
    experiment: Experiment,
    record: xr.Dataset,
    forecast: xr.Dataset,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Everything that ``diagnosis.nc`` holds: ``score(forecast, metric, variable)``.

    Args:
        experiment: says in ``evaluate`` what stands beside the model.
        record: the truth.
        forecast: ``(member, [trajectory,] init_time, lead_time, *space)`` with the lead 0.
        progress: called with forecasts scored and forecasts in all.

    Raises:
        InputError: the experiment forecasts, or the forecast does not fit the record.
    """
    problem = Problem.of(record, experiment.data, forecast.sizes["lead_time"])
    if problem.first_lead:
        raise InputError("evaluate.long_run.domain is diagnosis, and the experiment forecasts: data.horizon must be 0")
    aligned = align(problem, forecast)
    if experiment.rollout.split != "train":
        refuse_training_states(aligned)
    truth = _maps(_truth(aligned))
    weights = full_weights(problem, experiment.evaluate.weights)
    sources = _sources(experiment, aligned)
    dims = _fine_dims(problem, experiment.evaluate.spectra)
    rows: dict[str, xr.DataArray] = {}
    for number, (name, source) in enumerate(sources.items()):
        maps = _maps(source.isel(member=0, lead_time=0, drop=True).compute())
        scored = {
            row.label: _scores(row.of(maps)[row.label], row.of(truth)[row.label], _weight(weights, row, problem))
            | (_fine(row.of(maps)[row.label], row.of(truth)[row.label], dims, problem) if dims else {})
            for row in entries(problem)
        }
        rows[name] = xr.DataArray(
            [[values.get(metric, np.nan) for values in scored.values()] for metric in METRICS],
            dims=("metric", "variable"),
            coords={"metric": list(METRICS), "variable": list(scored)},
        )
        progress(number + 1, len(sources))
    score = xr.concat(list(rows.values()), dim="forecast").assign_coords(forecast=list(rows))
    found = xr.Dataset({"score": score.dropna("metric", how="all")})
    found["metric"].attrs["definition"] = json.dumps({m: METRICS[m] for m in found["metric"].values})
    found["variable"].attrs["units"] = json.dumps({r.label: record[r.name].attrs["units"] for r in entries(problem)})
    attrs = {
        "title": f"Scores of {experiment.name} as a diagnosis",
        "instants": len(aligned.starts) * len(aligned.trajectories),
        "workbench_version": __version__,
    }
    return found.assign_attrs(attrs, verdict=verdict(found))


def _sources(experiment: Experiment, aligned: Aligned) -> dict[str, xr.Dataset]:
    """The model, the baselines and the other runs."""
    config, problem = experiment.evaluate, aligned.problem
    climatology = None
    if needs_climatology(config.baselines, problem.missing):
        climatology = fit_climatology(problem.record, problem.names, problem.parts["train"], problem.missing)
    fitted = fit_baselines(config.baselines, problem, climatology, full_weights(problem, config.weights))
    found = {MODEL: aligned.forecast}
    found |= {name: forecaster(aligned.trajectories, aligned.starts) for name, forecaster in fitted.items()}
    return found | {name: other_run(aligned, name, path) for name, path in config.beside.items()}


def _truth(aligned: Aligned) -> xr.Dataset:
    states, where = aligned.states(slice(None), slice(None), slice(None))
    return states.compute().isel({TIME: where.isel(lead_time=0)}).drop_vars(TIME, errors="ignore")


def _maps(fields: xr.Dataset) -> xr.Dataset:
    """All instants of all trajectories along one dimension, without labels of starts."""
    starts = [d for d in STARTS if d in fields.dims]
    return fields.drop_vars(
        [n for n in fields.coords if set(fields[n].dims) & set(starts)], errors="ignore"
    ).stack(instant=starts, create_index=False)  # fmt: skip


def _weight(weights: dict[str, np.ndarray], row: Any, problem: Problem) -> xr.DataArray:
    """Area weights of a row, of sum 1."""
    found = xr.DataArray(weights[row.name], dims=problem.space(row.name)).isel(row.level)
    return found / found.sum()


def _scores(p: xr.DataArray, t: xr.DataArray, weight: xr.DataArray) -> dict[str, float]:
    """What is said of maps, series and values."""
    p, t = p.astype(np.float64), t.astype(np.float64)
    space = weight.dims
    square = (p - t) ** 2
    in_time = xr.corr(p, t, "instant").fillna(0.0)  # a series that does not change tells nothing
    every = [f - (f * weight).sum(space).mean("instant") for f in (p, t)]
    spread = [float((f**2 * weight).sum(space).mean("instant")) for f in every]
    together = float((every[0] * every[1] * weight).sum(space).mean("instant"))
    return {
        "rmse_in_space": float(np.sqrt((square * weight).sum(space)).mean()),
        "rmse_in_time": float((np.sqrt(square.mean("instant")) * weight).sum()),
        "correlation_in_time": float((in_time * weight).sum()),
        "correlation": together / float(np.sqrt(spread[0] * spread[1])) if min(spread) > 0 else 0.0,
        "hellinger": hellinger_distance(p.values, t.values),
    }


# ---------------------------------------------------------------------------------------------- fine scales


def _fine_dims(problem: Problem, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Dimensions of the spectra of a field that is downscaled; none of fluxes."""
    if problem.coarsen < 2:
        return ()
    return spectrum_dims(problem.record, asked)


def _fine(p: xr.DataArray, t: xr.DataArray, dims: tuple[str, ...], problem: Problem) -> dict[str, float]:
    """Power, and power of the error, at wavelengths below two cells."""
    window = None if set(spectrum_dims(problem.record, ())) >= set(dims) else "hann"
    spectra = [power_spectrum(f, dims, window=window) for f in (p, t, p - t)]  # type: ignore[arg-type]
    power = [s.mean([d for d in s.dims if d != "wavenumber"]) for s in spectra]
    step = max(float(np.abs(np.diff(problem.record[d].values.astype(np.float64))).mean()) for d in dims)
    fine = power[0]["wavenumber"] > np.pi / (problem.coarsen * step)
    predicted, true, wrong = (float(s.where(fine, 0.0).sum()) for s in power)
    return {"fine_power": predicted / true, "fine_error": wrong / true}


# ---------------------------------------------------------------------------------------------- words


def verdict(scores: xr.Dataset) -> str:
    """How well values go together and are distributed, on average over variables, beside the best of the others."""
    words = []
    for metric in ("correlation", "hellinger"):
        means = scores["score"].sel(metric=metric).mean("variable")
        mine = float(means.sel(forecast=MODEL))
        others = means.drop_sel(forecast=MODEL)
        if not others.size:
            words.append(f"{metric} {mine:.3g}")
            continue
        best = others.idxmax() if metric in HIGHER_IS_BETTER else others.idxmin()
        words.append(f"{metric} {mine:.3g} (best of the others: {best.item()} {float(others.sel(forecast=best)):.3g})")
    return ", ".join(words)


def summary(scores: xr.Dataset) -> dict[str, Any]:
    """Every score as plain numbers for ``--json``; what is not finite is null."""
    score = scores["score"]
    return {
        "verdict": scores.attrs["verdict"],
        "score": {
            str(v): {
                str(f): {
                    str(m): x if np.isfinite(x := float(score.sel(variable=v, forecast=f, metric=m))) else None
                    for m in score["metric"].values
                }
                for f in score["forecast"].values
            }
            for v in score["variable"].values
        },
    }


def print_table(scores: xr.Dataset) -> None:
    """Every score, a row for each variable and forecast."""
    from rich.console import Console
    from rich.table import Table

    units, score = json.loads(scores["variable"].attrs["units"]), scores["score"]
    table = Table(title=f"maps over {scores.attrs['instants']} instants", title_justify="left")
    table.add_column("variable")
    table.add_column("forecast")
    for metric in map(str, score["metric"].values):
        table.add_column(HEADINGS[metric], justify="right")
    for variable in map(str, score["variable"].values):
        for k, name in enumerate(map(str, score["forecast"].values)):
            row = score.sel(variable=variable, forecast=name).values
            table.add_row(f"{variable} ({units[variable]})" if k == 0 else "", name, *(f"{x:.3g}" for x in row))
        table.add_section()
    console = Console()
    console.print(table)
    console.print(scores.attrs["verdict"], soft_wrap=True, highlight=False, markup=False)
