"""workbench predict: forecasts of a trained model, from an experiment or from one weights file and one input file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import experiment as experiments
from workbench.commands import lifetimes
from workbench.errors import InputError
from workbench.header import read_card
from workbench.lifetime_experiment import LifetimeExperiment, either

if TYPE_CHECKING:
    import xarray as xr

HELP = """
  workbench predict -c kolmogorov/fno
      forecasts data.horizon steps from every start of the test split; writes runs/EXPERIMENT/predict.zarr
  workbench predict model.safetensors input.nc -o forecast.nc --steps 24
      needs nothing but the two files: forecasts from the last state of the input (--every-start: from each one)
      whose forcing is known for all steps, after comparing variables, units, grid and time step with what the model
      was trained for (of a larger grid it takes the part that it was trained on); a model that adds to a climatology
      needs that, too (--climatology), and calendar channels are known as far ahead as you like
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("predict", "Forecast with a trained model.", HELP + lifetimes.HELP)
    parser.add_argument("weights", nargs="?", help="checkpoint or safetensors file (with INPUT; otherwise give -c)")
    parser.add_argument("input", nargs="?", help="NetCDF or Zarr record to start from")
    parser.add_argument("-o", "--output", metavar="FILE", help="*.zarr or *.nc")
    parser.add_argument("--steps", type=int, help="steps to forecast (default: 1, or data.horizon with -c)")
    parser.add_argument(
        "--every-start", action="store_true", help="forecast from every state of INPUT, not the last only"
    )
    parser.add_argument(
        "--climatology", metavar="FILE", help="with INPUT: that of the training, where it is not where it was then"
    )
    parser.add_argument("--cells", default="", metavar="NAMES", help="with -c: cells or parts whose life is predicted")
    parser.add_argument("--device", default="auto", help="cpu, cuda ... (default: a GPU if there is one)")
    options, rest = parser.parse_known_args(argv)
    if options.config:
        experiment = either(options.config, rest, options.run_dir)
        if isinstance(experiment, LifetimeExperiment):
            lifetimes.predict_experiment(experiment, options.weights, options.cells, options.output, options.overwrite)
            return 0
        from_experiment(experiment, options.weights, options.steps, options.output, options.device, options.overwrite)
        return 0
    if not (options.weights and options.input and options.output):
        raise InputError("give either -c EXPERIMENT, or WEIGHTS INPUT -o OUTPUT (workbench predict --help)")
    if rest:
        raise InputError(f"'{rest[0]}' is not expected here: without -c there is no experiment to override")
    if read_card(options.weights)["packing"].get("kind") == "cells":
        lifetimes.predict_file(options.weights, options.input, options.output, options.overwrite)
        return 0
    from_file(
        options.weights,
        options.input,
        options.output,
        options.steps or 1,
        options.every_start,
        options.device,
        options.overwrite,
        options.climatology,
    )
    return 0


def from_experiment(
    experiment: experiments.Experiment,
    weights: str | None,
    steps: int | None,
    output: str | None,
    device: str,
    overwrite: bool,
) -> Path:
    """Forecast `data.horizon` steps from every start of the split of the experiment's `rollout` section."""
    from workbench.commands.rollout import roll_out

    config = replace(experiment.rollout, steps=steps or max(experiment.data.horizon, 1), starts=0, members=1)
    chosen = replace(experiment, rollout=config)
    target = Path(output) if output else experiment.run_dir / "predict.zarr"
    return roll_out(chosen, weights, device, overwrite, target)


def from_file(
    weights: str,
    source: str,
    output: str,
    steps: int,
    every_start: bool,
    device: str,
    overwrite: bool,
    climatology: str | None = None,
) -> Path:
    """Forecast from a file with nothing but a weights file, and the climatology where the model adds to one.

    Raises:
        InputError: the input or the climatology is not what the model was trained for.
    """
    from workbench.data.derived import is_derived, with_derived
    from workbench.data.grid import crop_onto
    from workbench.data.spec import TIME, TRAJECTORY, RecordSpec, segments
    from workbench.data.store import open_record, refuse_existing

    refuse_existing(Path(output), overwrite)
    card = read_card(weights)
    needed = [name for group in card["packing"]["groups"].values() for name in group["variables"]]
    record = open_record(source)
    crop = crop_onto(record, RecordSpec.from_dict(card["packing"]["spec"]).axes)
    if crop:
        print(f"{source}: cropped to the grid of training, {', '.join(f'{d}: {list(r)}' for d, r in crop.items())}")
        record = open_record(source, crop)
    record = with_derived(record, needed)
    if TIME not in record.dims:
        raise InputError(f"{source} has no time dimension: expected states in time to start from")
    stride, history = int(card.get("stride", 1)), int(card["packing"]["history"])
    runs = segments(record, "split")
    forcing = card["packing"]["groups"].get("forcing", {}).get("variables", [])
    first, forced = (history - 1) * stride, not all(n in record and is_derived(record[n]) for n in forcing)
    reach = (steps - 1 + card.get("first_lead", 1)) * stride if forced else 0
    starts = np.concatenate([np.arange(lo + first, hi - reach) for lo, hi in runs])
    if not len(starts):
        known = f" and the forcing of {steps} steps after them" if forced else ""
        raise InputError(
            f"{source} has {record.sizes[TIME]} instants, the model needs {first + 1 + reach} in a row: {first + 1} to "
            f"start from{known}"
        )
    from workbench.commands.rollout import forecast, print_plan
    from workbench.experiment import RolloutConfig
    from workbench.plan import plan_from
    from workbench.weights import load

    task, card = load(weights)
    trajectories = np.arange(record.sizes.get(TRAJECTORY, 1))
    added_to = None
    if task.adds_to_climatology:
        task.packing.check(record, f"the record {source}", ["state"], stride)
        added_to = _climatology(card, climatology, record)
    plan = plan_from(
        record,
        RolloutConfig(steps=steps),
        trajectories,
        starts if every_start else starts[-1:],
        task.packing,
        stride,
        16,
        added_to,
    )
    print_plan(str(card.get("experiment", weights)), plan)
    return forecast(task, card, plan, Path(output), str(card.get("experiment", "")), weights, device, overwrite)


def _climatology(card: dict[str, Any], path: str | None, record: xr.Dataset) -> xr.Dataset:
    """The climatology that a model was trained with: at `path`, or where it was then.

    Raises:
        InputError: it is not there, does not fit the record, or is another one.
    """
    from workbench.data.climatology_store import matching_climatology

    trained = card.get("data", {}).get("climatology", {})
    place = path or trained.get("record", "")
    if path is None and not Path(place).exists():
        raise InputError(
            f"the model adds to the climatology of {trained.get('period', 'its training')}, which is not at "
            f"'{place}': say where it is with --climatology"
        )
    found = matching_climatology(record, card["packing"]["groups"]["state"]["variables"], place)
    period = str(found.attrs.get("fit_period", ""))
    if period != trained.get("period", period):
        raise InputError(
            f"the climatology {place} was fitted on {period}, the model was trained with that of {trained['period']}"
        )
    return found
