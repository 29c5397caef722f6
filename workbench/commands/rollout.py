"""workbench rollout: forecast many steps from the starts that an experiment names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.share import Share

HELP = """
reads   runs/EXPERIMENT/checkpoints/best.ckpt (or --weights) and the record of the experiment
writes  runs/EXPERIMENT/rollout.zarr: (member, [trajectory,] init_time, lead_time, ...), CF, with provenance

A killed rollout continues where it stopped. Memory does not grow with steps, starts or members.

  workbench rollout -c kolmogorov/fno --rollout.steps=200 --rollout.members=8 --rollout.perturbation=0.01
  workbench rollout -c era5.yaml --weights runs/seed0/checkpoints/best.ckpt runs/seed1/checkpoints/best.ckpt
  workbench rollout -c prithvi.yaml --rollout.members=8 --rollout.mask_ratio=0.5

Several weights make one ensemble, of rollout.members members each.

Several jobs write one forecast at once with --share 1/4 ... --share 4/4, each some of its batches; a rollout without
--share comes last and finishes it. workbench submit does this.
  >>> xr.open_zarr("runs/kolmogorov/fno/rollout.zarr").vorticity.isel(lead_time=-1).plot()
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser(
        "rollout", "Forecast many steps from the starts that the experiment names.", HELP
    )
    parser.add_argument(
        "--weights", metavar="FILE", nargs="+", help="checkpoints or safetensors (default: the run's best)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--share", type=Share.parse, metavar="NUMBER/COUNT", help="roll out as one of several jobs")
    options, rest = parser.parse_known_args(argv)
    experiment = experiments.load(options.config, rest, options.run_dir)
    weights = options.weights or [None]
    if len(weights) > 1 or experiment.rollout.mask_ratio:
        from workbench.commands.ensemble import roll_out_ensemble

        sources = [source or str(experiment.checkpoint) for source in weights]
        roll_out_ensemble(experiment, sources, options.device, options.overwrite, options.share)
    else:
        roll_out(experiment, weights[0], options.device, options.overwrite, share=options.share)
    return 0


def roll_out(
    experiment: experiments.Experiment,
    weights: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    output: Path | None = None,
    mask: tuple[float, int] | None = None,
    share: Share | None = None,
) -> Path:
    """Roll out an experiment's model from the starts of its `rollout` section, by default into its run directory.

    Args:
        experiment: from `workbench.experiment.load`.
        weights: checkpoint or exported file; by default the run's best.
        device: where the model runs.
        overwrite: replace an existing forecast.
        output: where the forecast is written.
        mask: fraction of the tokens that is masked, and the seed of the draws.
        share: which of several jobs this is.

    Raises:
        InputError: there are no weights, the record does not fit them, or the forecast exists.
    """
    from workbench.data.climatology_store import open_climatology
    from workbench.data.starts import choose_starts
    from workbench.data.store import open_data, refuse_existing
    from workbench.data.windows import parts
    from workbench.header import read_card

    config, data = experiment.rollout, experiment.data
    source = Path(weights) if weights else experiment.checkpoint
    if not source.exists() and not weights:
        raise InputError(f"no trained model at {source}: run workbench fit -c {experiment.name} first")
    target = output or experiment.forecast
    refuse_existing(target, overwrite)
    read_card(source)
    record = open_data(data)
    reach, split = data.reach(config.steps) if config.within else 0, parts(record, data)
    trajectories, starts = choose_starts(split[config.split], data.history, data.stride, reach, config.starts)
    climatology = open_climatology(record, data, split) if data.climatology else None
    from workbench.weights import load

    task, card = load(source, trusted=class_paths(experiment.config))
    if task.first_lead != data.first_lead:
        repair = "forecasts: set it to 1 or more" if task.first_lead else "forecasts nothing: set it to 0"
        raise InputError(f"data.horizon is {data.horizon}, and the {type(task).__name__} in {source} {repair}")
    if mask is not None:
        from workbench.tasks.masked_tokens import mask_tokens

        mask_tokens(task, *mask, config.masked_steps)
    from workbench.plan import plan_from

    plan = plan_from(record, config, trajectories, starts, task.packing, data.stride, data.batch_size, climatology)
    print_plan(experiment.name, plan)
    return forecast(task, card, plan, target, experiment.name, str(source), device, overwrite, share)


def print_plan(name: str, plan: Any) -> None:
    """One line on what will be computed."""
    counts = " x ".join(
        f"{n} {label}" for label, n in zip(("members", "trajectories", "starts"), plan.counts.values(), strict=True)
    )
    print(f"{name}: {counts}, {plan.steps} steps each")


def forecast(
    task: Any,
    card: dict[str, Any],
    plan: Any,
    path: Path,
    name: str,
    weights: str,
    device: str,
    overwrite: bool,
    share: Share | None = None,
) -> Path:
    """Write the forecast of a plan with its provenance, showing a progress bar; shared by rollout and predict."""
    import torch

    from workbench.allocator import keep_freed_memory
    from workbench.diagnosis import write_diagnosis
    from workbench.progress import bar
    from workbench.rollout import write_rollout

    keep_freed_memory()
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    source = str(plan.record.encoding.get("source", ""))
    plan = replace(plan, first_lead=task.first_lead)
    write, what = (write_rollout, "Forecast") if task.first_lead else (write_diagnosis, "Diagnosis")
    steps = f"autoregressive forecast of {plan.steps} steps" if task.first_lead else "fields at the instants seen"
    names = [n for r in ("state", "diagnostic") if r in task.packing.groups for n in task.packing.groups[r].variables]
    attrs = {
        "title": f"{what} of {', '.join(names)} by {name}",
        "history": f"workbench {card['workbench']}: {steps}",
        "source": f"neural surrogate {card['task']['init_args']['network']['class_path']}",
        "workbench_experiment": name,
        "workbench_record": source,
        "workbench_checkpoint": weights,
        "workbench_data_fingerprint": str(card.get("data", {}).get("fingerprint", "")),
        "workbench_parameters": card["parameters"],
        "workbench_versions": json.dumps(versions(chosen)),
    }
    identity = {"weights": weights, "modified": Path(weights).stat().st_mtime_ns, "record": source}
    with bar("rollout") as progress:
        outcome = write(
            task.to(chosen),
            plan,
            path,
            attrs=attrs,
            identity=identity,
            overwrite=overwrite,
            device=chosen,
            progress=progress,
            share=share,
        )
    for note in outcome.stopped[:5]:
        print(f"stopped: {note}")
    if outcome.stopped:
        total = int(np.prod(list(plan.counts.values())))
        print(f"{len(outcome.stopped)} of {total} forecasts left the finite numbers; they are NaN from there on")
    what = f"share {share} of {outcome.path}" if share else str(outcome.path)
    print(f"wrote {what} ({1e3 * outcome.seconds_per_step:.2f} ms per forecast step)")
    return outcome.path


def versions(device: Any) -> dict[str, str]:
    """Software and device that a forecast was made with."""
    import platform

    import numpy
    import torch
    import xarray

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "xarray": xarray.__version__,
        "numpy": numpy.__version__,
        "device": name,
    }


def class_paths(config: Any) -> list[str]:
    """Every class path that an experiment names: classes that its user trusts."""
    if isinstance(config, dict):
        own = [str(config["class_path"])] if "class_path" in config else []
        return own + [p for value in config.values() for p in class_paths(value)]
    return []
