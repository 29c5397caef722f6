"""Predicted lives of cells with intervals and flags, as a CF-conforming Dataset: curves in, xarray out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from workbench import __version__
from workbench.attributions import BASELINES, attributions
from workbench.conformal import cross_conformal, p_values
from workbench.data.battery import CELL, CYCLE
from workbench.data.cell_packing import CellPacking
from workbench.data.cell_parts import TRAIN
from workbench.errors import InputError
from workbench.tasks.lifetime import LifetimeTask, signature

LEVEL = 0.9
"""Of prediction intervals."""

UNLIKE = 0.05
"""p-value at or below which a cell is flagged as unlike those of the training."""

ATTRIBUTED = 100
"""Cells at most whose predictions are attributed."""

PREDICTED, LOWER, UPPER = "predicted_life", "predicted_life_lower", "predicted_life_upper"


def predict(
    task: LifetimeTask, cells: xr.Dataset, where: str, *, level: float = LEVEL, policies: Sequence[str] = ()
) -> xr.Dataset:
    """Predict the life of cells.

    Args:
        task: trained, in evaluation mode.
        cells: curves, as `workbench.data.cell_curves.read_curves` gives them.
        where: what holds them, for messages.
        level: of the intervals.
        policies: that the training cells had; by default not known.

    Returns:
        along ``cell`` the geometric mean of the ensemble, bounds (from errors on batches that are left out for cells of
        a new batch, on policies for all others), the spread of the ensemble, the p-value of the conformal test for
        being like the training cells, and flags.

    Raises:
        InputError: the cells do not fit the packing, or the task was not trained to its end.
    """
    packing = trained(task)
    packing.check(cells, where)
    raw, change = packing.pack(cells)
    networks = task.predict_log_life(raw, change)
    groups = networks.reshape(-1, task.members, networks.shape[1])
    centre, by_fold = groups[0].mean(0), groups[1:].mean(1)
    known = {name: buffer.cpu().numpy() for name, buffer in task.network.named_buffers()}
    bounds = cross_conformal(by_fold, known["residuals"], known["folds"], level)
    new = packing.of_new_batch(cells)
    if packing.batch_folds:
        by_batch = cross_conformal(by_fold, known["batch_residuals"], known["batch_folds"], level)
        bounds = np.where(new, by_batch[0], bounds[0]), np.where(new, by_batch[1], bounds[1])
    usual = p_values(signature(raw, change).numpy(), known["signatures"], known["folds"])
    values = {
        PREDICTED: np.exp(centre),
        LOWER: np.exp(bounds[0]),
        UPPER: np.exp(bounds[1]),
        "spread": np.exp(groups[0].std(0)),
        "p_value": usual,
        "unlike_training": (usual <= UNLIKE).astype(np.int8),
        "new_batch": new.astype(np.int8),
    }
    if policies and "policy" in cells.coords:
        values["new_policy"] = (~np.isin(cells["policy"].values.astype(str), policies)).astype(np.int8)
    return _dataset(values, cells, level)


def cross_validated(task: LifetimeTask, cells: xr.Dataset) -> xr.Dataset:
    """What networks that have not seen its fold predict of each training cell, of the cells that the task trained on.

    Raises:
        InputError: the cells are not as many as were trained on, or the task was not trained to its end.
    """
    packing = trained(task)
    train = cells.isel({CELL: cells["part"].values == TRAIN})
    if train.sizes[CELL] != packing.training:
        raise InputError(
            f"the model was trained on {packing.training} cells, the experiment's train split has "
            f"{train.sizes[CELL]}: set data.split back, or train again"
        )
    residuals = task.network.get_buffer("residuals").cpu().numpy()
    predicted = train["cycle_life"].values * np.exp(-residuals)
    missing = np.full(len(predicted), np.nan)
    return _dataset({PREDICTED: predicted, LOWER: missing, UPPER: missing}, train, LEVEL)


def with_attributions(task: LifetimeTask, cells: xr.Dataset, train: xr.Dataset, predictions: xr.Dataset) -> xr.Dataset:
    """The predictions with, for each variable, the mean absolute attribution ``(cycle, axis)`` over the cells.

    Baselines are training cells at even steps of their life. Of many cells, `ATTRIBUTED` are taken at even steps.
    """
    packing = trained(task)
    cells = cells.isel({CELL: slice(None, None, -(-cells.sizes[CELL] // ATTRIBUTED))})
    by_life = np.argsort(train["cycle_life"].values)
    chosen = by_life[np.linspace(0, len(by_life) - 1, BASELINES + 2).round().astype(int)[1:-1]]
    baselines = packing.pack(train.isel({CELL: chosen}))[0]
    found = attributions(task, packing.pack(cells)[0], baselines).abs().mean(0).numpy()
    arrays = {}
    for variable, values in zip(packing.spec.variables, found, strict=True):
        (dim,) = variable.dims
        axis = packing.spec.axis(dim)
        coords: dict[str, Any] = {CYCLE: cells[CYCLE], dim: (dim, list(axis.values), {"units": axis.units})}
        about = f"mean absolute share of {variable.long_name} in the logarithm of predicted life"
        attrs = {"units": "1", "long_name": about, "source": f"integrated gradients from {BASELINES} training cells"}
        arrays[f"attribution_{variable.name}"] = xr.DataArray(values, coords, (CYCLE, dim), attrs=attrs)
    return predictions.assign(arrays)


def trained(task: LifetimeTask) -> CellPacking:
    """The packing of a task that has residuals.

    Raises:
        InputError: it has none yet.
    """
    if task.packing is None:
        raise RuntimeError("build(packing) comes before a prediction")
    if not torch.isfinite(task.network.get_buffer("residuals")).all():
        raise InputError("the checkpoint was written before the first validation: train on with workbench fit --resume")
    return task.packing


def provenance(name: str, card: dict[str, Any], weights: str, record: str) -> dict[str, Any]:
    """Global attributes of predictions."""
    return {
        "title": f"Cycle lives predicted by {name}",
        "history": f"workbench {__version__}: prediction from curves of the first cycles",
        "source": f"neural network {card['task']['init_args']['network']['class_path']}",
        "workbench_experiment": name,
        "workbench_record": record,
        "workbench_checkpoint": weights,
        "workbench_data_fingerprint": str(card.get("data", {}).get("fingerprint", "")),
        "workbench_split": str(card.get("data", {}).get("split", "")),
        "workbench_parameters": card["parameters"],
        "workbench_version": __version__,
    }


def save(predictions: xr.Dataset, path: Path) -> Path:
    """Write predictions as NetCDF, or what lies along ``cell`` as CSV; under the name only once they are whole.

    Raises:
        InputError: the name ends otherwise.
    """
    from workbench.scoring.judge import write_scores

    if path.suffix == ".nc":
        write_scores(predictions, path)
        return path
    if path.suffix != ".csv":
        raise InputError(f"predictions go to *.nc or *.csv, found {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    along = [name for name, array in predictions.variables.items() if array.dims == (CELL,)]
    predictions[[n for n in along if n in predictions.data_vars]].to_dataframe().to_csv(temporary)
    temporary.replace(path)
    return path


def _dataset(values: dict[str, np.ndarray], cells: xr.Dataset, level: float) -> xr.Dataset:
    """Arrays along ``cell`` with their CF attributes, and what is known of the cells."""
    interval = f"{100 * level:g} % prediction interval"
    flag = {"flag_values": np.array([0, 1], np.int8), "units": "1"}
    attrs: dict[str, dict[str, Any]] = {
        PREDICTED: {"units": "1", "long_name": "predicted cycle life", "ancillary_variables": f"{LOWER} {UPPER}"},
        LOWER: {"units": "1", "long_name": f"lower bound of the {interval}", "level": level},
        UPPER: {"units": "1", "long_name": f"upper bound of the {interval}", "level": level},
        "spread": {"units": "1", "long_name": "factor between members of the ensemble, one standard deviation"},
        "p_value": {"units": "1", "long_name": "conformal p-value of the distance to the nearest training cell"},
        "unlike_training": {"long_name": "cell unlike those of the training", "flag_meanings": "usual unlike", **flag},
        "new_batch": {"long_name": "batch of no training cell", "flag_meanings": "known new", **flag},
        "new_policy": {"long_name": "charging policy of no training cell", "flag_meanings": "known new", **flag},
    }
    data = {name: (CELL, array, attrs[name]) for name, array in values.items()}
    kept = {"cycle_life", "policy", "batch", "part"} & set(cells.coords)
    coords = {name: (CELL, _plain(cells[name].values), cells[name].attrs) for name in sorted(kept)}
    names = {"long_name": "cell", "cf_role": "timeseries_id"}
    return xr.Dataset(data, {CELL: (CELL, _plain(cells[CELL].values), names), **coords}, {"Conventions": "CF-1.11"})


def _plain(values: np.ndarray) -> np.ndarray:
    """Text as objects, which NetCDF stores as strings."""
    return values.astype(object) if values.dtype.kind in "UST" else values
