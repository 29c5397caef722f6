"""Diagnoses written to a store: forecasts whose only lead is 0, laid out, resumed and scored like any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench import __version__
from workbench.data.packing import Packing
from workbench.data.reader import WindowReader
from workbench.data.spec import TRAJECTORY
from workbench.data.store import refuse_existing
from workbench.data.writer import StoreWriter
from workbench.errors import InputError
from workbench.plan import LEADING, ForecastPlan, template
from workbench.rollout import Outcome, to_netcdf
from workbench.share import Share
from workbench.tasks.diagnosis import DiagnosisTask


def write_diagnosis(
    task: DiagnosisTask,
    plan: ForecastPlan,
    path: str | Path,
    *,
    attrs: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
    share: Share | None = None,
) -> Outcome:
    """Diagnose every start of `plan`, or a `share`, and write what was found; goes on where a killed one stopped.

    Args:
        task: the trained task, built and in evaluation mode.
        plan: which instants.
        path: ``*.zarr`` or ``*.nc``.
        attrs: global attributes (provenance).
        identity: what a partial result must have in common with this one to be continued.
        overwrite: replace an existing result.
        device: where the model runs.
        progress: called with batches done and batches in all.
        share: which of several jobs this is; a call without one finishes what they have written.

    Raises:
        InputError: the path exists, the record does not fit the packing, a value that is seen is missing, or there is
            more than one lead or member.
    """
    packing = task.packing
    if packing is None:
        raise RuntimeError("build(packing) comes before a diagnosis")
    if plan.steps != 1 or plan.members != 1:
        raise InputError(
            f"a diagnosis has one step and one member, found rollout.steps {plan.steps} and rollout.members "
            f"{plan.members}: set both to 1"
        )
    source = str(plan.record.encoding.get("source", ""))
    packing.check(plan.record, f"the record {source}", task.inputs, plan.stride)
    path = Path(path)
    refuse_existing(path, overwrite)
    store = path if path.suffix == ".zarr" else path.with_suffix(".zarr")
    writer = StoreWriter(
        store,
        template(packing, plan).assign_attrs({"Conventions": "CF-1.11", **(attrs or {})}),
        chunks={"member": 1, TRAJECTORY: 1, "init_time": 1, "lead_time": 1, plan.batched: plan.batch_size},
        identity={"starts": plan.starts.tolist(), "chunks": plan.batch_size, **(identity or {})},
        overwrite=overwrite or store != path,
        share=share,
    )
    numbered = list(enumerate(plan.batches()))
    batches = share.of(numbered) if share else numbered
    show = progress or (lambda done, total: None)
    try:
        seconds = _write(task, packing, plan, batches, writer, torch.device(device), show)
        writer.finish({"workbench_seconds_per_step": seconds, "workbench_version": __version__})
    finally:
        writer.close()
    return Outcome(path if store == path or share else to_netcdf(store, path), seconds)


def _write(
    task: DiagnosisTask,
    packing: Packing,
    plan: ForecastPlan,
    batches: Sequence[tuple[int, dict[str, slice]]],
    writer: StoreWriter,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> float:
    """Write the batches that are missing; returns seconds of the model for one instant."""
    names = {role: packing.groups[role].variables for role in task.inputs}
    reader = WindowReader(plan.record, names, crop=plan.record.encoding.get("crop"), cache_bytes=2**26)
    for done, (number, batch) in enumerate(batches, 1):
        if str(number) not in writer.done:
            windows = plan.windows(batch, 1 - packing.history, packing.history)
            seen = {role: np.empty(reader.buffer_shape(role, windows, len(windows)), np.float32) for role in names}
            reader.read(windows, np.arange(len(windows)), seen, missing="error")
            clock = time.perf_counter()
            with torch.inference_mode():
                found = task.diagnose({role: torch.from_numpy(values).to(device) for role, values in seen.items()})
            values = found.cpu().numpy()
            writer.spend(time.perf_counter() - clock, len(values))
            counts = [batch[dim].stop - batch[dim].start for dim in LEADING]
            arrays = packing.split(values.reshape(*counts, 1, *values.shape[1:]), task.role, 4)
            if TRAJECTORY not in plan.record.dims:
                arrays = {name: array[:, 0] for name, array in arrays.items()}
            writer.write(str(number), arrays, batch)
        progress(done, len(batches))
    seconds, count = writer.journal.spent()
    return seconds / max(count, 1.0)
