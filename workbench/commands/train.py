"""workbench fit, validate, test: everything that can be wrong is found before torch is imported."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeExperiment, either
from workbench.locks import take_lock

if TYPE_CHECKING:
    from workbench.data.spec import RecordSpec

DESCRIPTIONS = {
    "fit": "Train an experiment.",
    "validate": "Loss of a trained model on the validation split.",
    "test": "Loss of a trained model on the test split.",
}


def fit(words: list[str]) -> int:
    """Train an experiment."""
    return train("fit", words)


def validate(words: list[str]) -> int:
    """Loss of a trained model on the validation split."""
    return train("validate", words)


def test(words: list[str]) -> int:
    """Loss of a trained model on the test split."""
    return train("test", words)


def train(name: str, words: list[str]) -> int:
    """Check the experiment without torch, then hand over to the Lightning CLI."""
    parser = experiments.argument_parser(
        name,
        DESCRIPTIONS[name],
        "Any key of the experiment can be overridden: --data.batch_size=16 --trainer.max_epochs=3\n"
        "--help-all lists every key with its meaning (imports torch, takes some seconds);\n"
        "--print_config prints the resolved configuration and stops.\n"
        "fit writes checkpoints/best.ckpt, checkpoints/last.ckpt, metrics.csv and config.yaml into the run directory.",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run from its last checkpoint")
    parser.add_argument(
        "--resume-or-start",
        action="store_true",
        help="continue the run, or start it where it has no checkpoint yet: one command for every attempt",
    )
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
    experiment = either(options.config, overrides, options.run_dir)
    if name == "fit" and options.resume_or_start:
        if (experiment.run_dir / "fit.json").exists():
            print(f"the training in {experiment.run_dir} is complete; --resume trains it for more epochs")
            return 0
        options.resume = last_checkpoint(experiment).exists()
    arguments = [word for file in experiment.files for word in ("--config", str(file))] + overrides
    with sole_training(experiment.run_dir) if name == "fit" and first_process() and not printing else nullcontext():
        if not printing:
            arguments += _prepare_run(name, experiment, options)
        from workbench import training

        return training.run(name, experiment, arguments + printing)


@contextmanager
def sole_training(run: Path) -> Iterator[None]:
    """Keep other trainings out of a run directory while the block runs.

    Raises:
        InputError: another process trains in it.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.parent / f".{run.name}.lock"
    lock = take_lock(path)
    if lock is None:
        raise InputError(
            f"another process is training in {run}: wait until it has ended, or train beside it with --run-dir"
        )
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _prepare_run(
    name: str, experiment: experiments.Experiment | LifetimeExperiment, options: argparse.Namespace
) -> list[str]:
    """Check data and checkpoint early, make room for the run; returns the checkpoint argument for Lightning."""
    from workbench.data.spec import RecordSpec
    from workbench.header import read_card, refuse_other_model

    found = _look(experiment)
    last = last_checkpoint(experiment)
    checkpoint = Path(options.ckpt_path) if options.ckpt_path else (last if options.resume else None)
    if name != "fit":
        checkpoint = checkpoint or experiment.checkpoint
    elif checkpoint is None and last.exists() and first_process():
        if not options.overwrite:
            raise InputError(
                f"{experiment.run_dir} holds a trained model already; pass --resume to continue it, --overwrite to "
                "replace it (it is kept as *.previous), or --run-dir to train beside it"
            )
        set_aside(experiment.run_dir)
    if checkpoint is None:
        return []
    card = read_card(checkpoint)
    refuse_other_model(card, experiment.config.get("model") or {}, checkpoint)
    trained = RecordSpec.from_dict(card["packing"]["spec"])
    trained.require(found, f"{checkpoint}: the record {experiment.data.record}")
    return [f"--ckpt_path={checkpoint}"]


def last_checkpoint(experiment: experiments.Experiment | LifetimeExperiment) -> Path:
    """Where a run goes on from."""
    return experiment.run_dir / "checkpoints" / "last.ckpt"


def _look(experiment: experiments.Experiment | LifetimeExperiment) -> RecordSpec:
    """Open the record and find what would stop a training; returns what it is."""
    if isinstance(experiment, LifetimeExperiment):
        from workbench.data.cell_curves import open_cells, spec_of
        from workbench.data.cell_parts import censored_note

        cells = open_cells(experiment.data)
        note = censored_note(cells)
        if note and first_process():
            print(note, flush=True)
        return spec_of(cells, experiment.data.variables)
    from workbench.data.preflight import look

    return look(experiment.data).spec


def first_process() -> bool:
    """Whether this is the only process of the run, or its rank 0: the one that makes room for it."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def set_aside(run: Path) -> None:
    """Keep a run directory as ``*.previous``, and make room for a new one."""
    previous = run.with_name(f"{run.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    os.replace(run, previous)
