"""What a run directory holds, read as far as it is there.

Every part may be missing: a model that was imported has no training log, a forecast that was not scored has no scores.
What is missing is None, and the page says in one line which command makes it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
import yaml

from workbench.data.store import open_record
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.lifetime_experiment import LifetimeExperiment
from workbench.resources import experiment_names


@dataclass(frozen=True)
class Run:
    """One run: the experiment and whatever of its results exists.

    Attributes:
        experiment: as loaded, an `Experiment` or a `LifetimeExperiment`; says where the run directory is.
        forecast: the rollout, lazy; of lifetimes, the predictions.
        record: the record that the truth is taken from, lazy.
        record_problem: why there is no record, if there is none.
        scores: what ``workbench evaluate`` wrote, in memory.
        training: the training log.
        summary: what ``fit`` came to (epochs, steps, seconds); empty if it was not trained here.
        card: the data card.
        written: the experiment as its author wrote it, YAML.
        resolved: the experiment with every default, YAML; empty if it was never trained here.
    """

    experiment: Any
    forecast: xr.Dataset | None
    record: xr.Dataset | None
    record_problem: str
    scores: xr.Dataset | None
    training: pd.DataFrame | None
    summary: Mapping[str, Any]
    card: Mapping[str, Any] | None
    written: str
    resolved: str

    @property
    def forecast_attrs(self) -> Mapping[str, Any]:
        """Global attributes of the forecast; empty without one."""
        return {} if self.forecast is None else self.forecast.attrs

    @property
    def score_attrs(self) -> Mapping[str, Any]:
        """Global attributes of the scores; empty without them."""
        return {} if self.scores is None else self.scores.attrs

    def command(self, verb: str) -> str:
        """The command line that runs `verb` on this experiment."""
        experiment = self.experiment
        packaged = experiment.name in experiment_names() and len(experiment.files) == 1
        names = [experiment.name] if packaged else [str(file) for file in experiment.files]
        words = ["workbench", verb, *(word for name in names for word in ("-c", name))]
        if experiment.run_dir != Path("runs") / experiment.name:
            words += ["--run-dir", str(experiment.run_dir)]
        return shlex.join(words)


def open_run(experiment: Experiment | LifetimeExperiment) -> Run:
    """Open everything that the run directory of `experiment` holds.

    Raises:
        InputError: there is no run directory, nothing in it can be shown, or a file in it cannot be read.
    """
    folder = experiment.run_dir
    if not folder.is_dir():
        raise InputError(
            f"no run at {folder}: expected the folder that fit, rollout and evaluate write; "
            "train first (workbench fit) or point to the run with --run-dir"
        )
    record, problem = None, ""
    if isinstance(experiment, LifetimeExperiment):
        path = experiment.predictions
        forecast = open_record(str(path)).load() if path.exists() else None
    else:
        forecast = _forecast(experiment)
        if forecast is not None:
            record, problem = _record(experiment, forecast)
    run = Run(
        experiment=experiment,
        forecast=forecast,
        record=record,
        record_problem=problem,
        scores=_scores(experiment.scores),
        training=_training(folder / "metrics.csv"),
        summary=_json(folder / "fit.json") or {},
        card=_json(folder / "data_card.json"),
        written=_text(folder / "experiment.yaml") or yaml.safe_dump(experiment.config, sort_keys=False),
        resolved=_text(folder / "config.yaml"),
    )
    if run.forecast is None and run.scores is None and run.training is None:
        raise InputError(
            f"nothing to report in {folder}: expected rollout.zarr, rollout.nc or predictions.nc, scores.nc or "
            f"metrics.csv; make them with: {run.command('fit')}, then rollout (or predict) and evaluate"
        )
    return run


def _forecast(experiment: Experiment) -> xr.Dataset | None:
    """The forecast in the format that the experiment asks for, else in the other one."""
    both = (experiment.forecast, experiment.run_dir / "rollout.zarr", experiment.run_dir / "rollout.nc")
    return next((open_record(str(path)) for path in both if path.exists()), None)


def _record(experiment: Experiment, forecast: xr.Dataset) -> tuple[xr.Dataset | None, str]:
    """The record that the forecast says it came from, else the one that the experiment names."""
    found = str(forecast.attrs.get("workbench_record", ""))
    source = found if found and ("://" in found or Path(found).exists()) else experiment.data.record
    try:
        return open_record(source, experiment.data.crop), ""
    except InputError as error:
        return None, str(error)


def _scores(path: Path) -> xr.Dataset | None:
    if not path.exists():
        return None
    try:
        with xr.open_dataset(path, engine="netcdf4", decode_timedelta=True) as opened:
            scores = opened.load()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot read {path}: {error}; write it again with: workbench evaluate --overwrite") from error
    if "score" not in scores:
        raise InputError(
            f"{path} holds no scores: expected the variable 'score', found {', '.join(map(str, scores.data_vars))}; "
            "write it again with: workbench evaluate --overwrite"
        )
    return scores


def _training(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        log = pd.read_csv(path).apply(pd.to_numeric)
    except ValueError as error:  # pandas' own parsing errors are of this kind
        raise InputError(f"cannot read the training log {path}: {error}; remove it to report without it") from error
    rates = [column for column in log if column.startswith("lr-")]
    if rates and "learning_rate" not in log:
        log = log.rename(columns={rates[0]: "learning_rate"})
    return log if len(log) else None


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"cannot read {path}: {error}; remove it to report without it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}: expected a JSON object")
    return content


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def read_long_run(run: Run, fits: Callable[[xr.Dataset], bool], content: str) -> xr.Dataset:
    """What ``workbench evaluate`` wrote of the domain, in memory.

    Args:
        run: whose file.
        fits: whether the file holds what it should.
        content: that, in words: ``scores of a structure``.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = run.experiment.long_run
    again = f"write it again with: {run.command('evaluate')} --overwrite"
    try:
        with xr.open_dataset(path, engine="netcdf4") as opened:
            scores = opened.load()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot read {path}: {error}; {again}") from error
    if not fits(scores):
        raise InputError(f"{path} holds no {content}; {again}")
    return scores
