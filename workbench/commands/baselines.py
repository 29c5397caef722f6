"""workbench baselines: score the forecasts that every model stands beside, before any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench import experiment as experiments

if TYPE_CHECKING:
    import xarray as xr

HELP = """
reads   the record of the experiment; no model and no training is needed
writes  runs/EXPERIMENT/baselines.nc, laid out like scores.nc

Which forecasts: as many steps and starts as the section rollout: says, from its split. Which baselines: by default
all of persistence, climatology, damped_persistence and linear, and of a record that workbench.simulate.structures made
quasi_static, modal and coarse_mesh too. Where nothing lies ahead (data.horizon: 0) they are climatology, regression and
either interpolations of the means (data.coarsen) or the closure by gradients. What they reach is what a model has to
beat.

  workbench baselines -c weather/ncep_slp_fno
  workbench baselines -c kolmogorov/fno --rollout.steps=50 --evaluate.baselines="[persistence, linear]"
  >>> xr.open_dataset("runs/kolmogorov/fno/baselines.nc").score.sel(metric="rmse")
"""


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = experiments.argument_parser("baselines", "Score the baselines alone, before any training.", HELP)
    parser.add_argument("--list", action="store_true", help="print every baseline with its definition, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options, rest = parser.parse_known_args(list(argv))
    if options.list:
        from workbench.baselines.battery import BASELINES as LIFETIMES
        from workbench.baselines.forecasts import BASELINES, DIAGNOSES, STRUCTURES

        every = {**BASELINES, **STRUCTURES, **DIAGNOSES, **{n: f"life: {b.title}" for n, b in LIFETIMES.items()}}
        print("\n".join(f"{name}\n    {definition}" for name, definition in every.items()))
        return 0
    experiment = experiments.load(options.config, rest, options.run_dir)
    from workbench.scoring.verdict import print_table, summary

    scores = score_baselines(experiment, overwrite=options.overwrite)
    if options.json:
        print(json.dumps(summary(scores)))
        return 0
    print_table(scores, experiment.evaluate.printed)
    print(f"wrote {experiment.run_dir / 'baselines.nc'}")
    return 0


def score_baselines(experiment: experiments.Experiment, *, overwrite: bool = False) -> xr.Dataset:
    """Score the baselines from the starts of the experiment's section ``rollout``; writes ``baselines.nc``.

    The baselines are those of the experiment's section ``evaluate`` where its file names them, else all there are.

    Raises:
        InputError: the scores exist, or no forecast of so many steps fits into the split.
    """
    from dataclasses import replace

    from workbench.baselines.diagnosis import suitable
    from workbench.baselines.forecasts import BASELINES, STRUCTURES, persistence
    from workbench.data.starts import Problem, choose_starts
    from workbench.data.store import open_data, refuse_existing
    from workbench.progress import bar
    from workbench.scoring.judge import judge, write_scores
    from workbench.scoring.truth import align, refuse_training_states

    path = experiment.run_dir / "baselines.nc"
    refuse_existing(path, overwrite)
    config, data = experiment.rollout, experiment.data
    problem = Problem.of(open_data(data), data, config.steps)
    if "baselines" not in (experiment.config.get("evaluate") or {}):
        every = (*BASELINES, *(STRUCTURES if "material_law" in problem.record.attrs else ()))
        every = every if problem.first_lead else suitable(problem)
        experiment = replace(experiment, evaluate=replace(experiment.evaluate, baselines=every))
    trajectories, starts = choose_starts(
        problem.parts[config.split], data.history, data.stride, data.reach(config.steps), config.starts
    )
    aligned = align(problem, persistence(problem, trajectories, starts))
    if config.split != "train":
        refuse_training_states(aligned)
    with bar("baselines") as progress:
        scores = judge(experiment, aligned, with_model=False, progress=progress)
    return write_scores(scores, path)
