"""The classical predictions of cycle life that every model stands beside, fitted on the training cells of a run."""

from __future__ import annotations

import numpy as np
import xarray as xr

from workbench.baselines.battery import BASELINES, fit_predict
from workbench.data.battery import CELL, CYCLE
from workbench.data.cell_parts import TRAIN
from workbench.data.store import open_record
from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeExperiment


def fit_baselines(
    experiment: LifetimeExperiment, lives: xr.Dataset
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Lives that the baselines of an experiment predict.

    Args:
        experiment: names record, split, cycles and baselines.
        lives: predictions, whose part ``train`` says what baselines are fitted on.

    Returns:
        name -> life of every cell of `lives`, NaN for those fitted on; name -> definition; and, where the experiment
        names no baselines, why the record does not allow some of them.

    Raises:
        InputError: a baseline that the experiment names is unknown or cannot be fitted.
    """
    asked = experiment.evaluate.baselines
    unknown = [name for name in asked if name not in BASELINES]
    if unknown:
        raise InputError(f"evaluate.baselines names '{unknown[0]}': expected some of {', '.join(BASELINES)}")
    if experiment.data.leaky:
        return {}, {}, ["baselines are made for whole cells, and stand beside no split of windows"]
    record = open_record(experiment.data.record)
    seen = record.isel({CYCLE: record[CYCLE].values <= experiment.data.cycles})
    train = lives["part"].values == TRAIN
    fitted, new = (seen.sel({CELL: lives[CELL].values[rows].astype(str)}).load() for rows in (train, ~train))
    found: dict[str, np.ndarray] = {}
    left_out = []
    for name in asked or BASELINES:
        try:
            predicted = fit_predict(name, fitted, new, experiment.data.cycles)
        except InputError as error:
            if asked:
                raise
            left_out.append(f"without {name.replace('_', ' ')}: {error}")
            continue
        found[name] = np.full(len(train), np.nan)
        found[name][~train] = predicted
    return found, {name: BASELINES[name].title for name in found}, left_out
