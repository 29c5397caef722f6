"""workbench export: one self-describing safetensors file from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from workbench import experiment as experiments
from workbench.lifetime_experiment import LifetimeExperiment, either

HELP = """
The file holds the weights and, in its metadata, names, units, coordinates, grid, time step, normaliser, model
configuration, data fingerprint and scores. It predicts alone:

  workbench export -c kolmogorov/fno -o kolmogorov.safetensors
  workbench predict kolmogorov.safetensors input.nc -o forecast.nc --steps 24
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("export", "Write one self-describing safetensors file.", HELP)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: runs/EXPERIMENT/model.safetensors")
    options, rest = parser.parse_known_args(argv)
    experiment = either(options.config, rest, options.run_dir)
    from workbench.data.store import refuse_existing
    from workbench.header import read_card

    target = Path(options.output) if options.output else experiment.run_dir / "model.safetensors"
    refuse_existing(target, options.overwrite)
    read_card(experiment.checkpoint)
    from workbench.commands.rollout import class_paths
    from workbench.weights import export, load

    task, card = load(experiment.checkpoint, trusted=class_paths(experiment.config))
    export(task, target, {**card, "scores": _scores(experiment)}, options.overwrite)
    print(f"wrote {target} ({card['parameters']:,} parameters)")
    return 0


def _scores(experiment: experiments.Experiment | LifetimeExperiment) -> str:
    """The headline of the run's scores, if it has been evaluated."""
    if not experiment.scores.exists():
        return ""
    import xarray as xr

    with xr.open_dataset(experiment.scores) as scores:
        return str(scores.attrs.get("headline", ""))
