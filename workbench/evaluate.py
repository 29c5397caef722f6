"""Forecasts against truth and baselines, with significance: ``workbench evaluate``; free of torch.

    scores = evaluate(experiment)                       # reads the run's rollout, writes the run's scores.nc
    scores.score.sel(metric="rmse", variable="slp").plot(hue="forecast")

What the file holds is said in `workbench.scoring.scores`; how sure its numbers are in `workbench.significance`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from workbench import experiment as experiments
from workbench.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

HELP = """
reads   runs/EXPERIMENT/rollout.zarr (or .nc) and the record of the experiment; baselines are fitted on its train split
writes  runs/EXPERIMENT/scores.nc: score(forecast, metric, variable, lead_time) with bootstrap intervals, p-values
        against each baseline, the step up to which the model is better, decorrelation, spectra and variance

The last line says how far the model beats its baselines. Choose them, the metrics and the weights in the section
evaluate: of the experiment, or here:

  workbench evaluate -c kolmogorov/fno --evaluate.baselines="[persistence, climatology, linear]"
  workbench evaluate -c kolmogorov/fno --overwrite --evaluate.headline=mae --evaluate.resamples=5000
  >>> xr.open_dataset("runs/kolmogorov/fno/scores.nc").score.sel(metric="rmse")
"""


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = experiments.argument_parser("evaluate", "Score the rollout of a run against truth and baselines.", HELP)
    parser.add_argument("--list", action="store_true", help="print every metric with its definition, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options, rest = parser.parse_known_args(list(argv))
    if options.list:
        from workbench.metrics import describe

        print(describe())
        return 0
    experiment = experiments.load(options.config, rest, options.run_dir)
    from workbench.progress import bar
    from workbench.scoring.verdict import print_table, summary

    with bar("evaluate") as progress:
        scores = evaluate(experiment, overwrite=options.overwrite, progress=progress)
    if options.json:
        print(json.dumps(summary(scores)))
        return 0
    print_table(scores)
    print(f"wrote {experiment.scores}")
    return 0


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
    from workbench.scoring.truth import align, refuse_training_states

    refuse_existing(experiment.scores, overwrite)
    forecast = open_forecast(experiment) if forecast is None else forecast
    record = open_data(experiment.data)
    aligned = align(Problem.of(record, experiment.data, forecast.sizes.get("lead_time", 1)), forecast)
    if experiment.rollout.split != "train":
        refuse_training_states(aligned)
    _refuse_other_split(experiment, aligned.problem.parts["train"].label(record))
    scores = judge(experiment, aligned, with_model=True, climatology=climatology, progress=progress)
    return write_scores(scores, experiment.scores)


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
