"""workbench plan: what a training needs in memory, and how to spread it over GPUs, without running it."""

from __future__ import annotations

import json
from dataclasses import asdict

from workbench import experiment as experiments
from workbench.strategies import Choice, Need, Strategy, choose, strategies

HELP = """
Runs the network at its full size on tensors without memory and adds up parameters, gradients, moments of the optimiser
and activations, for every strategy: single (one GPU), ddp (a whole copy on each), fsdp (states in parts, for networks
in blocks), each with all blocks kept or computed again on the way back (checkpointed). Of the record, only names and
sizes are looked at. Suggests the first strategy that holds the batch; --free of a GPU is left to tensors, the rest to
the driver, the communication and what is lost between tensors.

  workbench plan -c weather/ncep_slp --gpus 8 --memory 80
"""
GB = 1e9


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("plan", "What a training needs in memory, and how to spread it.", HELP)
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs in all (default 1)")
    parser.add_argument("--memory", type=float, default=80.0, metavar="GB", help="of each, in 1e9 bytes (default 80)")
    parser.add_argument("--free", type=float, default=0.92, help="part of it that tensors may take (default 0.92)")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    options, rest = parser.parse_known_args(argv)
    experiment = experiments.load(options.config, rest, options.run_dir)
    plain, again = needs(experiment)
    found = list(strategies(plain, again, options.gpus))
    usable = options.free * options.memory * GB
    choice = choose(found, usable, experiment.data.batch_size)
    if options.json:
        print(json.dumps({"need": asdict(plain), "strategies": [asdict(s) for s in found]}))
    else:
        print("\n".join(report(plain, found, choice, experiment.data.batch_size, usable, options.gpus)))
    return 0


def needs(experiment: experiments.Experiment) -> tuple[Need, Need | None]:
    """What a step needs as it is, and with all blocks computed again where there are blocks."""
    from workbench.commands.rollout import class_paths
    from workbench.errors import InputError
    from workbench.memory import need
    from workbench.weights import rebuild

    if "model" not in experiment.config:
        raise InputError("the experiment has no model section: model: {class_path: ForecastTask, init_args: ...}")
    precision = str((experiment.config.get("trainer") or {}).get("precision", "32-true"))
    trusted, where = class_paths(experiment.config), f"the files of {experiment.name}"
    found = []
    for checkpointed in (False, True):
        task = rebuild(experiment.config["model"], trusted, where)
        found.append(need(task, experiment.data, precision, checkpointed))
        if not found[0].block:
            return found[0], None
    return found[0], found[1]


def report(need: Need, found: list[Strategy], choice: Choice | None, batch: int, usable: float, gpus: int) -> list[str]:
    """The table and the suggestion, as lines."""
    lines = [
        f"{need.parameters:,} parameters: weights {need.weights / GB:.3g} GB, gradients {need.gradients / GB:.3g} GB, "
        f"moments {need.optimiser / GB:.3g} GB (1 GB is 1e9 bytes)",
        f"on each of {gpus} GPUs, of which tensors may take {usable / GB:.4g} GB:",
        f"{'strategy':20} {'states':>9} {'a sample':>9} {f'batch {batch}':>9} {'largest batch':>14}",
    ]
    for strategy in found:
        numbers = (strategy.states, strategy.sample, strategy.total(batch))
        cells = " ".join(f"{value / GB:9.3g}" for value in numbers)
        lines.append(f"{strategy.label:20} {cells} {strategy.largest(usable):14}")
    if choice is None:
        return [
            *lines,
            "not one sample fits: take more or larger GPUs, --trainer.precision=bf16-mixed, or a smaller model",
        ]
    how = ", with every block in the network's checkpoint_encoder and checkpoint_decoder"
    lines.append(f"take {choice.strategy.label}: {choice.words()}{how if choice.strategy.checkpointed else ''}")
    return lines
