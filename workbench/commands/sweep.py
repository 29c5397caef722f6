"""workbench sweep: from how few cycles the life of cells can be told, with the network's depth chosen anew for each."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeExperiment, load_lifetimes

if TYPE_CHECKING:
    import xarray as xr

HELP = """
reads   the record of an experiment on the life of cells (LifetimeTask)
writes  runs/EXPERIMENT/sweep/sweep.nc: scores of the model and of every baseline for each number of early cycles, the
        cross-validated error of every depth of the network, coverage and width of the intervals

For each number of cycles, every depth is trained once for cross-validation over charging policies, on training cells
alone. The smallest depth within one standard error of the best is trained again with all members, predicts and is
scored. A stopped sweep goes on: what is finished is kept. workbench report shows the result.

  workbench sweep -c battery/fpnn
  workbench sweep -c battery/fpnn --cycles 10,20,40 --sweep.depths="[0, 1, 2]"
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("sweep", "Predict the life of cells from more and more cycles.", HELP)
    parser.add_argument("--cycles", metavar="N,N,...", help="numbers of early cycles (default: sweep.cycles)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options, rest = parser.parse_known_args(argv)
    if options.cycles:
        rest.append(f"--sweep.cycles=[{options.cycles}]")
    experiment = load_lifetimes(options.config, rest, options.run_dir)
    from workbench.progress import bar
    from workbench.scoring.lifetimes_sweep import plain, print_sweep

    with bar("sweep") as progress:
        found = sweep(experiment, options.config, rest, options.overwrite, progress)
    if options.json:
        print(json.dumps(plain(found)))
        return 0
    print_sweep(found)
    print(f"wrote {experiment.sweep_scores}")
    return 0


def sweep(
    experiment: LifetimeExperiment,
    names: list[str],
    overrides: list[str],
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Train, predict and score an experiment for every number of cycles; goes on with what is there.

    Args:
        experiment: as loaded from `names` and `overrides`.
        names: names or files of the experiment.
        overrides: words of the command line.
        overwrite: begin anew.
        progress: called with trainings done and trainings in all.

    Returns:
        what ``sweep.nc`` holds.

    Raises:
        InputError: a sweep of another experiment is there.
    """
    from workbench.scoring.judge import write_scores
    from workbench.scoring.lifetimes_sweep import choose, combine

    config, folder = experiment.sweep, experiment.sweep_scores.parent
    _begin(experiment, folder, overwrite)
    done, total = 0, len(config.cycles) * (len(config.depths) + 1)
    scores: dict[int, xr.Dataset] = {}
    errors: dict[int, dict[int, list[list[float]]]] = {}
    for cycles in config.cycles:
        place, words = folder / f"cycles_{cycles:03d}", [*overrides, f"--data.cycles={cycles}"]
        errors[cycles] = {}
        for depth in config.depths:
            errors[cycles][depth] = _cross_validated(experiment, names, words, place / f"{config.depth}_{depth}", depth)
            done += 1
            progress(done, total)
        chosen = choose(errors[cycles])
        scores[cycles] = _scored(experiment, names, [*words, _depth(experiment, chosen)], place / "final")
        done += 1
        progress(done, total)
    network = str(experiment.config["model"]["init_args"]["network"]["class_path"]).rpartition(".")[2]
    return write_scores(combine(scores, errors, config.depth, network), experiment.sweep_scores)


def _begin(experiment: LifetimeExperiment, folder: Path, overwrite: bool) -> None:
    """Make room, or make sure that what is there is of this experiment."""
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    plain = {k: v for k, v in experiment.config.items() if k in ("data", "model", "trainer", "seed_everything")}
    text, note = json.dumps(plain, sort_keys=True), folder / "experiment.json"
    if note.exists() and note.read_text() != text:
        raise InputError(
            f"{folder} holds a sweep that was begun with other data, model or trainer settings: pass --overwrite to "
            "begin anew, or --run-dir to sweep beside it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(text)


def _depth(experiment: LifetimeExperiment, depth: int) -> str:
    return f"--model.init_args.network.init_args.{experiment.sweep.depth}={depth}"


def _cross_validated(
    experiment: LifetimeExperiment, names: list[str], words: list[str], place: Path, depth: int
) -> list[list[float]]:
    """Percentage errors of the training cells of each fold, by networks that have not seen it."""
    note = place / "cross_validation.json"
    if not note.exists():
        members = f"--model.init_args.members={experiment.sweep.members}"
        _fit(names, [*words, _depth(experiment, depth), members], place)
        from workbench.commands.rollout import class_paths
        from workbench.weights import load

        task, _ = load(place / "checkpoints" / "last.ckpt", trusted=class_paths(experiment.config))
        residuals, folds = (task.network.get_buffer(n).numpy() for n in ("residuals", "folds"))
        errors = 100 * abs(np.expm1(-residuals))
        note.write_text(json.dumps([errors[folds == k].tolist() for k in range(task.packing.folds)]))
        shutil.rmtree(place / "checkpoints")  # the networks have done what they were for
    found: list[list[float]] = json.loads(note.read_text())
    return found


def _scored(experiment: LifetimeExperiment, names: list[str], words: list[str], place: Path) -> xr.Dataset:
    """Scores of the experiment with some words, fitted and predicted where that is not done."""
    import xarray as xr

    one = load_lifetimes(names, words, str(place))
    if not one.scores.exists():
        from workbench.commands.lifetimes import predict_experiment
        from workbench.evaluate import evaluate_lifetimes

        _fit(names, words, place)
        with _quiet():
            predict_experiment(one, overwrite=True, attributions=False)
        evaluate_lifetimes(one)
    with xr.open_dataset(one.scores) as scores:
        return scores.load()


def _fit(names: list[str], words: list[str], place: Path) -> None:
    """Train in a folder, or go on there."""
    from workbench.commands.train import fit

    if (place / "fit.json").exists():
        return
    named = [word for name in names for word in ("-c", name)]
    again = ["--resume"] if (place / "checkpoints" / "last.ckpt").exists() else []
    plainly = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    with _quiet():
        fit([*named, *again, "--run-dir", str(place), *plainly, *words])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what each of many trainings says of itself."""
    import workbench.training  # noqa: F401  its loggers set their own level when first imported

    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
