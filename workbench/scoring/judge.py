"""The whole way from an aligned forecast to a file: baselines fitted, sums tallied, scores with their provenance."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.baselines.forecasts import BASELINES, fit_baselines, needs_climatology
from workbench.data.climatology import fit_climatology, refuse_leak
from workbench.data.grid import Weighting, axis_weights, is_latitude
from workbench.data.spec import RecordSpec
from workbench.data.starts import Problem
from workbench.data.store import open_record
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.metrics import find_metric
from workbench.metrics.base import SampleStatistic, Statistic
from workbench.scoring.scores import score_dataset
from workbench.scoring.sheet import Sheet, scored_metrics
from workbench.scoring.spectra import spectrum_dims
from workbench.scoring.tally import Request, full_weights, tally
from workbench.scoring.truth import Aligned, align, entries
from workbench.scoring.verdict import bar_to_clear, headline, shown_leads, verdict

MODEL = "model"


def judge(
    experiment: Experiment,
    aligned: Aligned,
    *,
    with_model: bool,
    climatology: xr.Dataset | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Score the aligned forecast beside the experiment's baselines, or the baselines alone.

    Args:
        experiment: names metrics, baselines, weights and confidence in its section ``evaluate``.
        aligned: says which starts and leads; its forecast is the model's.
        with_model: whether that forecast is scored too.
        climatology: fitted elsewhere; by default on the training split, here, where something needs one.
        progress: called with blocks done and blocks in all.

    Raises:
        InputError: a name in the section is unknown, a part is too short for a fit, or the climatology leaks.
    """
    config, problem = experiment.evaluate, aligned.problem
    members = aligned.forecast.sizes["member"]
    metrics = scored_metrics(config, members if with_model else None)
    if climatology is not None:
        times = problem.times(aligned.starts)["valid_time"]
        refuse_leak(climatology, times, aligned.trajectories)
    elif needs_climatology(config.baselines, problem.missing) or any(needs_reference(m) for m in metrics):
        climatology = fit_climatology(problem.record, problem.names, problem.parts["train"], problem.missing)
    fitted = fit_baselines(config.baselines, problem, climatology, full_weights(problem, config.weights))
    beside = {name: forecaster(aligned.trajectories, aligned.starts) for name, forecaster in fitted.items()}
    if with_model:
        beside |= {name: other_run(aligned, name, path) for name, path in config.beside.items()}
    forecasts = {MODEL: aligned.forecast, **beside} if with_model else beside
    if not forecasts:
        raise InputError(f"evaluate.baselines is empty: name at least one of {', '.join(BASELINES)}")
    leads = shown_leads(problem.steps)
    dims = spectrum_dims(problem.record, config.spectra)
    request = Request(metrics, config.weights, dims, climatology, tuple(leads), config.vectors)
    rows = entries(problem, config.vectors)
    units = {row.label: str(problem.record[row.name].attrs["units"]) for row in rows}
    sheet = Sheet(
        tally(aligned, forecasts, request, progress),
        metrics,
        config,
        tuple(beside) if with_model else (),
        problem.times(aligned.starts)["lead_time"],
        units,
        frozenset(row.label for row in rows if row.is_vector),
    )
    scores = score_dataset(sheet).assign_attrs(_provenance(experiment, aligned, climatology, members))
    scores.attrs["baselines"] = json.dumps({name: str(f.attrs["definition"]) for name, f in beside.items()})
    return scores.assign_attrs(_sentences(scores, experiment, with_model))


def other_run(aligned: Aligned, name: str, path: str) -> xr.Dataset:
    """The forecast of another run, from the same starts.

    Raises:
        InputError: there is none, it does not fit the record, or it has other starts or leads.
    """
    inside = [Path(path) / "rollout.zarr", Path(path) / "rollout.nc"]
    places = [Path(path)] if Path(path).suffix in (".zarr", ".nc") else [p for p in inside if p.exists()]
    if not places:
        raise InputError(f"evaluate.beside names '{name}', and there is no forecast in {path}: roll it out first")
    found = open_record(str(places[0]))
    other = align(aligned.problem, found)
    same = [np.array_equal(*pair) for pair in zip(_which(other), _which(aligned), strict=True)]
    if not all(same):
        raise InputError(
            f"the forecast of '{name}' ({places[0]}) has other starts, trajectories or leads than that of this run: "
            "roll both out with the same section rollout"
        )
    definition = f"{found.attrs.get('title', name)}, {found.attrs.get('workbench_parameters', '?')} parameters"
    return other.forecast.mean("member", keep_attrs=True).expand_dims(member=[0]).assign_attrs(definition=definition)


def _which(aligned: Aligned) -> tuple[np.ndarray, ...]:
    return aligned.trajectories, aligned.starts, aligned.valid


def needs_reference(metric: str) -> bool:
    """Whether a metric is about anomalies, and so needs a climatology."""

    def anomalous(statistic: Statistic | SampleStatistic) -> bool:
        if isinstance(statistic, SampleStatistic):
            return any(anomalous(need) for need in statistic.needs)
        return "anomaly" in statistic.name

    return any(anomalous(statistic) for statistic in find_metric(metric).statistics)


def weights_in_words(problem: Problem, kind: Weighting) -> str:
    """``cos(lat)``, ``trapezoid(y)`` and so on, multiplied together; ``uniform`` where there are none."""
    words = []
    for axis in RecordSpec.of(problem.record, problem.names).axes:
        if axis_weights(axis, kind) is not None:
            rule = ("area" if kind == "area" else "cos") if is_latitude(axis) else "trapezoid"
            words.append(f"{rule}({axis.name})")
    return " x ".join(words) or "uniform"


def _provenance(
    experiment: Experiment, aligned: Aligned, climatology: xr.Dataset | None, members: int
) -> dict[str, str | int | float]:
    config, record = experiment.evaluate, aligned.problem.record
    found: dict[str, str | int | float] = {
        "title": f"Scores of {experiment.name}",
        "history": f"workbench {__version__}: forecast against truth and baselines",
        "experiment": experiment.name,
        "record": str(record.encoding.get("source", experiment.data.record)),
        "split": f"{experiment.rollout.split}: {aligned.problem.parts[experiment.rollout.split].label(record)}",
        "starts": len(aligned.starts) * len(aligned.trajectories),
        "trajectories": len(aligned.trajectories),
        "members": members,
        "resamples": config.resamples,
        "confidence": config.confidence,
        "weights": weights_in_words(aligned.problem, config.weights),
        "headline_metric": config.headline,
        "optimum": float(find_metric(config.headline).optimum or 0.0),
        "stopped": len(json.loads(aligned.forecast.attrs.get("workbench_stopped") or "[]")),
        "workbench_version": __version__,
    }
    if climatology is not None:
        found["climatology"] = str(climatology.attrs.get("definition", ""))
        found["climatology_period"] = str(climatology.attrs.get("fit_period", ""))
    return found


def _sentences(scores: xr.Dataset, experiment: Experiment, with_model: bool) -> dict[str, str]:
    config = experiment.evaluate
    if not with_model:
        return {"headline": bar_to_clear(scores, config.headline)}
    if "beats_to" not in scores:
        return {
            "headline": "no baselines to beat: name some in evaluate.baselines",
            "verdict": "not compared with baselines",
        }
    seen = "" if experiment.rollout.split != "train" else " (on the split that the model was trained on)"
    return {
        "headline": headline(scores, config.headline, int(scores.attrs["starts"]), config.confidence) + seen,
        "verdict": verdict(scores, config.headline) + seen,
    }


def write_scores(scores: xr.Dataset, path: Path) -> xr.Dataset:
    """Write scores as NetCDF-4: under their name only once they are whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    scores.to_netcdf(temporary, engine="netcdf4")
    os.replace(temporary, path)
    return scores
