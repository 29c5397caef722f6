"""What an experiment has to go through, from dataset to report, and which stages are done; free of torch."""

from __future__ import annotations

from pathlib import Path

from workbench.experiment import Experiment
from workbench.lifetime_experiment import LifetimeExperiment


def plan(experiment: Experiment | LifetimeExperiment, overwrite: bool) -> dict[str, list[str] | None]:
    """Stage -> extra words of its command, or None where it is done."""
    again = ["--overwrite"] if overwrite else []
    fitted = (experiment.run_dir / "fit.json").exists() and not overwrite
    begun = (experiment.run_dir / "checkpoints" / "last.ckpt").exists()
    stages: dict[str, list[str] | None] = {}
    verb, forecast = forecasting(experiment)
    records = [experiment.data.record]
    if not isinstance(experiment, LifetimeExperiment):
        records += experiment.evaluate.long_run.references.values()
    for record in records:
        if unbuilt(record):
            stages[f"dataset {record}"] = ["build", record]
    stages["fit"] = None if fitted else again or (["--resume"] if begun else [])
    later = again if fitted else ["--overwrite"]  # what an earlier model left is of no use to a new one
    stages[verb] = None if fitted and forecast.exists() else later
    stages["evaluate"] = None if fitted and experiment.scores.exists() else later
    stages["report"] = ["--overwrite"]
    return stages


def forecasting(experiment: Experiment | LifetimeExperiment) -> tuple[str, Path]:
    """The stage between training and scores, and what it writes."""
    if isinstance(experiment, LifetimeExperiment):
        return "predict", experiment.predictions
    return "rollout", experiment.forecast


def unbuilt(record: str) -> bool:
    """Whether `record` is a recipe whose store is not there yet."""
    from workbench.data.recipe import read_recipe, recipe_names

    return record.partition("/")[0] in recipe_names() and not read_recipe(record).path.exists()
