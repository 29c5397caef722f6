"""Forecasts against truth and baselines, with significance: ``workbench evaluate``; free of torch.

    scores = evaluate(experiment)                       # reads the run's rollout, writes the run's scores.nc
    scores.score.sel(metric="rmse", variable="slp").plot(hue="forecast")

What the file holds is said in `workbench.scoring.scores`; how sure its numbers are in `workbench.significance`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.launch.dask import add_option, cluster
from workbench.lifetime_experiment import LifetimeExperiment, either

if TYPE_CHECKING:
    import xarray as xr

HELP = """
reads   runs/EXPERIMENT/rollout.zarr (or .nc) and the record of the experiment; baselines are fitted on its train split
writes  runs/EXPERIMENT/scores.nc: score(forecast, metric, variable, lead_time) with bootstrap intervals, p-values
        against each baseline, the step up to which the model is better, decorrelation, spectra and variance;
        with evaluate.long_run.domain also runs/EXPERIMENT/DOMAIN.nc: statistics of the whole rollout

The last line says how far the model beats its baselines. Choose them, the metrics and the weights in the section
evaluate: of the experiment, or here:

  workbench evaluate -c kolmogorov/fno --evaluate.baselines="[persistence, climatology, linear]"
  workbench evaluate -c kolmogorov/fno --overwrite --evaluate.headline=mae --evaluate.resamples=5000
  workbench evaluate -c channel.yaml --evaluate.long_run.domain=channel
  workbench evaluate -c beam.yaml --evaluate.long_run.domain=structures
  workbench evaluate -c uk.yaml --evaluate.long_run.domain=diagnosis --evaluate.beside="{cnn: runs/uk_cnn}"
  workbench evaluate -c era5.yaml --evaluate.long_run.domain=storms

of an experiment on the life of cells (LifetimeTask) it reads predictions.nc, and scores.nc holds errors of every part
beside the classical baselines, coverage and width of the intervals, and errors by policy:
  workbench evaluate -c battery/fpnn
  >>> xr.open_dataset("runs/kolmogorov/fno/scores.nc").score.sel(metric="rmse")
"""


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = experiments.argument_parser("evaluate", "Score the rollout of a run against truth and baselines.", HELP)
    parser.add_argument("--list", action="store_true", help="print every metric with its definition, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_option(parser)
    options, rest = parser.parse_known_args(list(argv))
    if options.list:
        from workbench.metrics import describe

        print(describe())
        return 0
    experiment = either(options.config, rest, options.run_dir)
    if isinstance(experiment, LifetimeExperiment):
        return _lifetimes(experiment, options.overwrite, options.json)
    with cluster(options.dask):
        _score(experiment, options.overwrite, options.json)
    return 0


def _score(experiment: experiments.Experiment, overwrite: bool, as_json: bool) -> None:
    """Evaluate, and print what was found."""
    from workbench.progress import bar
    from workbench.scoring.verdict import print_table, summary

    with bar("evaluate") as progress:
        scores = evaluate(experiment, overwrite=overwrite, progress=progress)
    plain = summary(scores)
    if not as_json:
        print_table(scores, experiment.evaluate.printed)
        print(f"wrote {experiment.scores}")
    if experiment.evaluate.long_run.domain:
        with bar("long run") as progress:
            statistics = evaluate_long_run(experiment, overwrite=overwrite, progress=progress)
        plain["long_run"] = domain(experiment).summary(statistics)
        if not as_json:
            domain(experiment).print_table(statistics)
            print(f"wrote {experiment.long_run}")
    if as_json:
        print(json.dumps(plain))


def _lifetimes(experiment: LifetimeExperiment, overwrite: bool, as_json: bool) -> int:
    from workbench.scoring.lifetimes_verdict import print_table, summary

    scores = evaluate_lifetimes(experiment, overwrite=overwrite)
    if as_json:
        print(json.dumps(summary(scores)))
        return 0
    print_table(scores)
    print(f"wrote {experiment.scores}")
    return 0


def evaluate_lifetimes(experiment: LifetimeExperiment, *, overwrite: bool = False) -> xr.Dataset:
    """Score the predicted lives of a run beside the baselines, and write the scores into the run directory.

    Args:
        experiment: from `workbench.lifetime_experiment.load_lifetimes`.
        overwrite: replace existing scores.

    Raises:
        InputError: there are no predictions, or they cannot be scored.
    """
    from workbench.baselines.lifetimes import fit_baselines
    from workbench.data.store import open_record, refuse_existing
    from workbench.scoring.judge import write_scores
    from workbench.scoring.lifetimes import score

    refuse_existing(experiment.scores, overwrite)
    if not experiment.predictions.exists():
        raise InputError(
            f"no predictions to score: expected {experiment.predictions}; make them with: workbench predict -c "
            f"{experiment.name}"
        )
    lives = open_record(str(experiment.predictions)).load()
    found, definitions, left_out = fit_baselines(experiment, lives)
    for note in left_out:
        print(note, file=sys.stderr)
    return write_scores(score(lives, found, definitions, experiment.evaluate), experiment.scores)


def evaluate(
    experiment: experiments.Experiment,
    forecast: xr.Dataset | None = None,
    *,
    climatology: xr.Dataset | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Score a forecast beside the baselines of its experiment, and write the scores into the run directory.

    Args:
        experiment: from `workbench.experiment.load`.
        forecast: ``(member, [trajectory,] init_time, lead_time, *space)``; by default the run's rollout.
        climatology: fitted elsewhere (`workbench.data.climatology`); by default on the training split, here.
        overwrite: replace existing scores.
        progress: called with blocks done and blocks in all.

    Returns:
        what ``scores.nc`` holds, in memory.

    Raises:
        InputError: there is no forecast, it does not fit the record, it runs beyond it, or what would judge it was
            fitted on what is scored.
    """
    from workbench.data.starts import Problem
    from workbench.data.store import open_data, refuse_existing
    from workbench.scoring.judge import judge, write_scores
    from workbench.scoring.truth import align, leads_in_record, refuse_training_states

    refuse_existing(experiment.scores, overwrite)
    if experiment.evaluate.long_run.domain:
        refuse_existing(experiment.long_run, overwrite)
    forecast = open_forecast(experiment) if forecast is None else forecast
    record = open_data(experiment.data)
    if not experiment.rollout.within:
        forecast = forecast.isel(lead_time=slice(0, leads_in_record(forecast, record)))
    aligned = align(Problem.of(record, experiment.data, forecast.sizes.get("lead_time", 1)), forecast)
    if experiment.rollout.split != "train":
        refuse_training_states(aligned)
    _refuse_other_split(experiment, aligned.problem.parts["train"].label(record))
    scores = judge(experiment, aligned, with_model=True, climatology=climatology, progress=progress)
    return write_scores(scores, experiment.scores)


def evaluate_long_run(
    experiment: experiments.Experiment,
    forecast: xr.Dataset | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Compare a whole rollout with the truth as its domain asks for it, and write the result into the run directory.

    A rollout may run past the end of the record (``rollout.within: false``). A channel is not compared state by state,
    a structure as far as the record goes.

    Args:
        experiment: names the domain in ``evaluate.long_run.domain``.
        forecast: by default the run's rollout.
        overwrite: replace existing statistics.
        progress: called with blocks done and blocks in all, for each record that is read.

    Returns:
        what ``channel.nc``, or the file named after another domain, holds, in memory.

    Raises:
        InputError: the experiment names no domain, or the record or a reference is none of this domain.
    """
    from workbench.data.store import open_data, refuse_existing
    from workbench.scoring.judge import write_scores

    if not experiment.evaluate.long_run.domain:
        raise InputError("no long-run statistics: name their domain in evaluate.long_run.domain, for example channel")
    refuse_existing(experiment.long_run, overwrite)
    forecast = open_forecast(experiment) if forecast is None else forecast
    statistics = domain(experiment).long_run(experiment, open_data(experiment.data), forecast, progress)
    return write_scores(statistics, experiment.long_run)


def domain(experiment: experiments.Experiment) -> ModuleType:
    """The module of `workbench.scoring` that the experiment's domain is named after."""
    return import_module(f"workbench.scoring.{experiment.evaluate.long_run.domain}")


def open_forecast(experiment: experiments.Experiment) -> xr.Dataset:
    """The run's rollout, lazy: in the format that the experiment names, else in the other one.

    Raises:
        InputError: there is none.
    """
    from workbench.data.store import open_record

    both = (experiment.forecast, experiment.run_dir / "rollout.zarr", experiment.run_dir / "rollout.nc")
    found = next((path for path in both if path.exists()), None)
    if found is None:
        raise InputError(
            f"no forecast to score: expected {experiment.forecast}; make it with: workbench rollout -c "
            f"{experiment.name} (baselines alone are scored without one: workbench baselines -c {experiment.name})"
        )
    return open_record(str(found))


def _refuse_other_split(experiment: experiments.Experiment, train: str) -> None:
    """Raise if the run's model was trained on another part of the record than the experiment now calls train.

    Raises:
        InputError: it was.
    """
    card = experiment.run_dir / "data_card.json"
    if not card.exists():
        return
    trained = json.loads(card.read_text(encoding="utf-8")).get("splits", {}).get("train", train)
    if trained != train:
        raise InputError(
            f"the model in {experiment.run_dir} was trained on {trained}, the experiment's train split is now {train}: "
            "what is scored may be what it was trained on; set data.split back, or train again"
        )
