"""workbench pipeline: dataset, fit, rollout, evaluate and report in one go, leaving out what is done."""

from __future__ import annotations

from workbench import evaluate, report
from workbench import experiment as experiments
from workbench.commands import dataset, predict, rollout, train
from workbench.lifetime_experiment import LifetimeExperiment, either
from workbench.stages import plan

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


def closing_line(experiment: experiments.Experiment | LifetimeExperiment) -> str:
    """Where the report is and whether the surrogate beat its baselines."""
    import xarray as xr

    with xr.open_dataset(experiment.scores) as scores:
        verdict = scores.attrs["verdict"]
        headline = scores.attrs["headline"]
    return f"{headline}\nThe surrogate {verdict}. Report: {experiment.run_dir / 'report.html'}"
