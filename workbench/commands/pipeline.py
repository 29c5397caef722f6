"""workbench pipeline: dataset, fit, rollout, evaluate and report in one go, leaving out what is done."""

from __future__ import annotations

from workbench import evaluate, report
from workbench import experiment as experiments
from workbench.commands import dataset, predict, rollout, train
from workbench.lifetime_experiment import LifetimeExperiment, either

HELP = """
Builds the record, and the references of evaluate.long_run, where they are recipes that are not built yet; then trains,
rolls out, scores and reports. Stages whose result is there are skipped and a training that was stopped is resumed, so
a stopped pipeline continues where it was; --overwrite does everything but the datasets again. Of an experiment on the
life of cells, predict stands in the place of rollout.

  workbench pipeline -c kolmogorov/fno
"""


COMMANDS = {
    "dataset": dataset.main,
    "fit": train.fit,
    "rollout": rollout.main,
    "predict": predict.main,
    "evaluate": evaluate.main,
    "report": report.main,
}


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("pipeline", "Dataset, fit, rollout, evaluate, report.", HELP)
    options, rest = parser.parse_known_args(argv)
    experiment = either(options.config, rest, options.run_dir)
    shared = [word for name in options.config for word in ("-c", name)] + ["--run-dir", str(experiment.run_dir), *rest]
    stages = plan(experiment, options.overwrite)
    for number, (stage, words) in enumerate(stages.items(), 1):
        if words is None:
            print(f"[{number}/{len(stages)}] {stage}: done before", flush=True)
            continue
        print(f"[{number}/{len(stages)}] {stage}", flush=True)
        name = stage.split()[0]
        status = COMMANDS[name](words if name == "dataset" else [*shared, *words])
        if status:
            return status
    print(closing_line(experiment))
    return 0


def plan(experiment: experiments.Experiment | LifetimeExperiment, overwrite: bool) -> dict[str, list[str] | None]:
    """Stage -> extra words of its command, or None where it is done."""
    again = ["--overwrite"] if overwrite else []
    fitted = (experiment.run_dir / "fit.json").exists() and not overwrite
    begun = (experiment.run_dir / "checkpoints" / "last.ckpt").exists()
    stages: dict[str, list[str] | None] = {}
    if isinstance(experiment, LifetimeExperiment):
        records, forecasting, forecast = [experiment.data.record], "predict", experiment.predictions
    else:
        records = [experiment.data.record, *experiment.evaluate.long_run.references.values()]
        forecasting, forecast = "rollout", experiment.forecast
    for record in records:
        if unbuilt(record):
            stages[f"dataset {record}"] = ["build", record]
    stages["fit"] = None if fitted else again or (["--resume"] if begun else [])
    later = again if fitted else ["--overwrite"]  # what an earlier model left is of no use to a new one
    stages[forecasting] = None if fitted and forecast.exists() else later
    stages["evaluate"] = None if fitted and experiment.scores.exists() else later
    stages["report"] = ["--overwrite"]
    return stages


def unbuilt(record: str) -> bool:
    """Whether `record` is a recipe whose store is not there yet."""
    from workbench.data.recipe import read_recipe, recipe_names

    return record.partition("/")[0] in recipe_names() and not read_recipe(record).path.exists()


def closing_line(experiment: experiments.Experiment | LifetimeExperiment) -> str:
    """Where the report is and whether the surrogate beat its baselines."""
    import xarray as xr

    with xr.open_dataset(experiment.scores) as scores:
        verdict = scores.attrs["verdict"]
        headline = scores.attrs["headline"]
    return f"{headline}\nThe surrogate {verdict}. Report: {experiment.run_dir / 'report.html'}"
