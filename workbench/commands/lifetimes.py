"""predict, for experiments and weights files that are about the life of cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeExperiment

if TYPE_CHECKING:
    import xarray as xr

FLAGS = ("unlike_training", "new_batch", "new_policy")

HELP = """
of an experiment on the life of cells (LifetimeTask):
  workbench predict -c battery/fpnn
      predicts every cell that is tested, and each training cell by networks that have not seen its policy; writes
      runs/EXPERIMENT/predictions.nc (or -o FILE.nc, FILE.csv): life, 90 % interval, and flags for cells unlike those
      of the training, or of a batch or policy that it had not
  workbench predict -c battery/fpnn --cells censored -o censored.csv
      predicts the named cells or parts (train, test1, censored ...) alone
  workbench predict model.safetensors mine.zarr -o lives.csv
      predicts every cell of a record, after comparing its curves with what the model was trained for
"""


def predict_experiment(
    experiment: LifetimeExperiment,
    weights: str | None = None,
    cells: str = "",
    output: str | None = None,
    overwrite: bool = False,
    attributions: bool = True,
) -> Path:
    """Predict the cells of an experiment, by default those that are tested, beside cross-validated training cells.

    Args:
        experiment: from `workbench.lifetime_experiment.load_lifetimes`.
        weights: checkpoint or exported file; by default the run's.
        cells: names of cells or parts, separated by commas, that are predicted instead.
        output: ``*.nc`` or ``*.csv``; by default into the run directory.
        overwrite: replace existing predictions.
        attributions: whether to find out what the predictions rest on.

    Raises:
        InputError: there are no weights, the record does not fit them, or no such cells.
    """
    import xarray as xr

    from workbench.commands.rollout import class_paths
    from workbench.data.cell_curves import open_cells
    from workbench.data.cell_parts import NOT_SCORED, TRAIN, censored_note
    from workbench.data.store import refuse_existing
    from workbench.header import read_card

    source = Path(weights) if weights else experiment.checkpoint
    if not source.exists() and not weights:
        raise InputError(f"no trained model at {source}: run workbench fit -c {experiment.name} first")
    target = Path(output) if output else experiment.predictions
    refuse_existing(target, overwrite)
    read_card(source)
    found = open_cells(experiment.data)
    chosen = _named(found, cells) if cells else ~np.isin(found["part"].values, NOT_SCORED)
    from workbench import lifetimes
    from workbench.weights import load

    task, card = load(source, trusted=class_paths(experiment.config))
    asked, record = found.isel(cell=chosen), str(found.encoding["source"])
    lives = lifetimes.predict(task, asked, record, policies=card["data"]["policies"])
    if not cells:
        refuse_other_split(card, found)
        both = [lives, lifetimes.cross_validated(task, found)]
        lives = xr.concat(both, "cell", fill_value=dict.fromkeys(FLAGS, np.int8(0)))
        if attributions:
            train = found.isel(cell=found["part"].values == TRAIN)
            lives = lifetimes.with_attributions(task, asked, train, lives)
        if note := censored_note(found):
            print(note)
    return _write(lives, lifetimes.provenance(experiment.name, card, str(source), record), target)


def predict_file(weights: str, source: str, output: str, overwrite: bool) -> Path:
    """Predict every cell of a record with nothing but a weights file.

    Raises:
        InputError: the cells are not what the model was trained for, or have too few cycles.
    """
    from workbench.data.cell_curves import read_curves, refuse_too_few
    from workbench.data.store import open_record, refuse_existing
    from workbench.header import read_card

    refuse_existing(Path(output), overwrite)
    card = read_card(weights)
    plain = card["packing"]
    names = [variable["name"] for variable in plain["spec"]["variables"]]
    cells = read_curves(open_record(source), names, len(plain["mean"][0]), plain["first_cycle"], plain["cycles"])
    refuse_too_few(cells, names, plain["cycles"])
    from workbench import lifetimes
    from workbench.weights import load

    task, card = load(weights)
    lives = lifetimes.predict(task, cells, source, policies=card["data"]["policies"])
    name = str(card.get("experiment", weights))
    return _write(lives, lifetimes.provenance(name, card, weights, source), Path(output))


def refuse_other_split(card: dict[str, Any], cells: xr.Dataset) -> None:
    """Raise where a cell that the model was trained on is tested now, or the other way round.

    Raises:
        InputError: there is one.
    """
    trained = set(card["data"]["trained_on"])
    for name, part in zip(cells["cell"].values.astype(str), cells["part"].values, strict=True):
        if (name in trained) != (part == "train"):
            raise InputError(
                f"cell {name} is in {part} now, and the model was trained with{'' if name in trained else 'out'} it: "
                "what is scored may be what it was trained on; set data.split back, or train again"
            )


def _named(cells: xr.Dataset, words: str) -> np.ndarray:
    """Which cells are meant by names of cells or parts."""
    names, parts = cells["cell"].values.astype(str), cells["part"].values
    chosen = np.zeros(len(names), bool)
    for word in filter(None, words.split(",")):
        found = (names == word) | (parts == word)
        if not found.any():
            listed = ", ".join(sorted(set(parts.tolist())))
            raise InputError(f"no cell or part '{word}': expected a name of a cell, or one of {listed}")
        chosen |= found
    return chosen


def _write(lives: xr.Dataset, attrs: dict[str, Any], target: Path) -> Path:
    from workbench.lifetimes import save

    save(lives.assign_attrs(attrs), target)
    unlike = lives["cell"].values[lives["unlike_training"].values == 1].astype(str)
    if len(unlike):
        print(f"unlike those of the training, so beware of their predictions: {', '.join(unlike)}")
    print(f"wrote {target} ({lives.sizes['cell']} cells)")
    return target
