"""The command ``workbench``: parses little, checks early, and imports torch only for the verbs that compute with it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench import __version__
from workbench.errors import InputError

VERBS = {
    "fit": "train an experiment",
    "validate": "loss of a trained model on the validation split",
    "test": "loss of a trained model on the test split",
    "predict": "forecast from every start of the test split, or from a file: predict WEIGHTS INPUT -o OUTPUT",
    "rollout": "forecast many steps from the starts that the experiment names",
    "evaluate": "score the rollout against truth and baselines",
    "report": "write report.html",
    "pipeline": "fit, rollout, evaluate and report in one go",
    "baselines": "score persistence, climatology and friends alone, before any training",
    "check": "look at an experiment without training: data, windows, chunks, memory, one batch",
    "dataset": "build, list, inspect and verify datasets",
    "export": "write one self-describing safetensors file from a checkpoint",
}
TORCH_FREE: dict[str, str] = {
    "evaluate": "workbench.evaluate",
    "report": "workbench.report",
    "baselines": "workbench.baselines",
    "dataset": "workbench.commands.dataset",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"workbench {__version__}")
        return 0
    try:
        return verb(words[0])(words[1:])
    except InputError as error:
        print(f"workbench {words[0]}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"workbench {words[0]}: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def overview() -> str:
    """What ``workbench --help`` prints."""
    from workbench.resources import experiment_names

    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())
    return (
        "usage: workbench VERB -c EXPERIMENT [--section.key=value ...]\n\n"
        "Trustworthy neural surrogates and forecasts: xarray in, xarray out.\n\n"
        f"verbs (workbench VERB --help says more):\n{verbs}\n\n"
        f"packaged experiments: {', '.join(experiment_names())}\n\n"
        "A first run:\n  workbench dataset build kolmogorov_flow/tiny\n  workbench pipeline -c kolmogorov/fno"
    )


def verb(name: str) -> Callable[[list[str]], int]:
    """The function behind a verb.

    Raises:
        InputError: there is no such verb.
    """
    if name in TORCH_FREE:
        return importlib.import_module(TORCH_FREE[name]).main  # type: ignore[no-any-return]
    if name in ("fit", "validate", "test"):
        return lambda words: train(name, words)
    own = {"predict": "predict", "rollout": "rollout", "pipeline": "pipeline", "check": "check", "export": "export"}
    if name in own:
        return importlib.import_module(f"workbench.commands.{own[name]}").main  # type: ignore[no-any-return]
    from difflib import get_close_matches

    near = get_close_matches(name, VERBS, n=1)
    raise InputError(f"unknown verb '{name}'" + (f": did you mean '{near[0]}'?" if near else f": {', '.join(VERBS)}"))


def train(name: str, words: list[str]) -> int:
    """fit, validate, test: check the experiment without torch, then hand over to the Lightning CLI."""
    from workbench import experiment as experiments

    parser = experiments.argument_parser(
        name,
        VERBS[name] + ".",
        "Any key of the experiment can be overridden: --data.batch_size=16 --trainer.max_epochs=3\n"
        "--help-all lists every key with its meaning (imports torch, takes some seconds);\n"
        "--print_config prints the resolved configuration and stops.\n"
        "fit writes checkpoints/best.ckpt, checkpoints/last.ckpt, metrics.csv and config.yaml into the run directory.",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run from its last checkpoint")
    parser.add_argument(
        "--ckpt_path", metavar="FILE", help="checkpoint to start from (default for validate, test: best)"
    )
    parser.add_argument("--help-all", action="store_true", help="every key that the experiment file may have")
    options, rest = parser.parse_known_args(words)
    if options.help_all:
        from workbench import training

        return training.run(name, experiments.blank(), ["--help"])
    printing = [w for w in rest if w.startswith("--print_config")]
    overrides = [w for w in rest if w not in printing]
    experiment = experiments.load(options.config, overrides, options.run_dir)
    arguments = [word for file in experiment.files for word in ("--config", str(file))] + overrides
    if not printing:
        arguments += _prepare_run(name, experiment, options)
    from workbench import training

    return training.run(name, experiment, arguments + printing)


def _prepare_run(name: str, experiment, options: argparse.Namespace) -> list[str]:  # type: ignore[no-untyped-def]
    """Check data and checkpoint early, make room for the run; returns the checkpoint argument for Lightning."""
    from workbench.data.preflight import look
    from workbench.header import read_card, refuse_other_model

    look(experiment.data)
    last = experiment.run_dir / "checkpoints" / "last.ckpt"
    checkpoint = Path(options.ckpt_path) if options.ckpt_path else (last if options.resume else None)
    if name != "fit":
        checkpoint = checkpoint or experiment.checkpoint
    elif checkpoint is None and last.exists():
        if not options.overwrite:
            raise InputError(
                f"{experiment.run_dir} holds a trained model already; pass --resume to continue it, --overwrite to "
                "replace it (it is kept as *.previous), or --run-dir to train beside it"
            )
        _set_aside(experiment.run_dir)
    if checkpoint is None:
        return []
    refuse_other_model(read_card(checkpoint), experiment.config.get("model") or {}, checkpoint)
    return [f"--ckpt_path={checkpoint}"]


def _set_aside(run: Path) -> None:
    import shutil

    previous = run.with_name(f"{run.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    os.replace(run, previous)


if __name__ == "__main__":
    sys.exit(main())
