"""Autoregressive forecasts: a generator over states, written to a store as they come.

Memory does not grow with the number of steps or forecasts: the generator keeps one window of states and one block of
steps, a background thread writes whole chunks, and what is written is forgotten. A killed rollout continues from the
last written chunk with the saved state, bit for bit. A forecast whose state is no longer finite stops, is noted with
step and place, and keeps what was good.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench import __version__
from workbench.background import Background
from workbench.data.packing import Packing
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.store import refuse_existing
from workbench.data.writer import StoreWriter
from workbench.known import Known, KnownReader
from workbench.plan import LEADING, ForecastPlan, template
from workbench.share import Share

Context = dict[str, Tensor]
Fields = dict[str, Tensor]
"""Role (state, diagnostic) -> normalised values."""


@runtime_checkable
class Stepper(Protocol):
    """What can be rolled out: steps of physical time on normalised tensors (`workbench.tasks.ForecastTask`)."""

    packing: Packing | None
    normalisers: Any
    state_channels: int
    adds_to_climatology: bool

    def begin(self, window: Tensor, context: Context | None) -> Tensor:
        """What the first step sees, made of the last `history` states: the state, then what a network remembers."""
        ...

    def advance_block(self, window: Tensor, known: Known, steps: int) -> tuple[Fields, Tensor]:
        """Between one and `steps` steps in one go, as many as suit the network; and what the next step sees.

        Args:
            window: what `begin` or the steps before gave, ``[b, h, c, *space]``.
            known: what is known of the steps; there may be more of them.
            steps: how many may be taken.
        """
        ...

    def context(self, known: Known, step: int) -> Context:
        """What step `step` needs besides the state."""
        ...


def rollout(
    task: Stepper,
    window: Float[Tensor, "b h c *space"],
    known: Known | None = None,
    steps: int | None = None,
) -> Iterator[Fields]:
    """Repeat `advance_block`, for `steps` steps or for ever.

    Args:
        task: what is rolled out.
        window: what `begin` made of the last `history` states, normalised.
        known: what is known of all steps.
        steps: how many; needed where what is known ends, as forcing does.

    Yields:
        of each role the next values ``[b, c, *space]``.
    """
    for fields, _ in _blocks(task, window, known or {}, steps):
        for t in range(fields["state"].shape[1]):
            yield {role: values[:, t] for role, values in fields.items()}


def _blocks(task: Stepper, window: Tensor, known: Known, steps: int | None) -> Iterator[tuple[Fields, Tensor]]:
    """Values ``[b, t, c, *space]`` of the next steps, and the window after them."""
    done = 0
    while steps is None or done < steps:
        with torch.inference_mode():
            ahead = {role: values if role == "static" else values[:, done:] for role, values in known.items()}
            fields, window = task.advance_block(window, ahead, 1 if steps is None else steps - done)
        done += fields["state"].shape[1]
        yield fields, window


@dataclass
class Outcome:
    """What a rollout came to.

    Attributes:
        path: the written forecast.
        seconds_per_step: wall time of one step of one forecast, of the model alone.
        stopped: forecasts that left the finite numbers, with step and place.
    """

    path: Path
    seconds_per_step: float = 0.0
    stopped: list[dict[str, Any]] = field(default_factory=list)


def write_rollout(
    task: Stepper,
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
    """Roll the model out from every start of `plan` and write the forecast, resuming a killed one.

    As one of several jobs, roll out a `share` of the batches. A call without a share then rolls out what is missing,
    which may be nothing, and finishes the forecast.

    Args:
        task: the trained task, built and in evaluation mode.
        plan: which forecasts.
        path: ``*.zarr`` or ``*.nc``.
        attrs: global attributes (provenance).
        identity: what a partial forecast must have in common with this one to be continued.
        overwrite: replace an existing forecast.
        device: where the model runs.
        progress: called with steps done and steps in all.
        share: which of several jobs this is.

    Raises:
        InputError: the path exists, the record does not fit the packing, forcing ends before the forecast, or the model
            needs a climatology and the plan has none.
    """
    packing = task.packing
    if packing is None:
        raise RuntimeError("build(packing) comes before a rollout")
    path, place = Path(path), torch.device(device)
    reader = KnownReader(packing, plan, task.normalisers, place, task.adds_to_climatology)
    refuse_existing(path, overwrite)
    store = path if path.suffix == ".zarr" else path.with_suffix(".zarr")
    chunks = {"member": 1, TRAJECTORY: 1, "init_time": 1, "lead_time": plan.block, plan.batched: plan.batch_size}
    writer = StoreWriter(
        store,
        template(packing, plan).assign_attrs({"Conventions": "CF-1.11", **(attrs or {})}),
        chunks=chunks,
        identity={
            "steps": plan.steps,
            "starts": plan.starts.tolist(),
            "members": plan.members,
            "chunks": [plan.batch_size, plan.block],
            **(identity or {}),
        },
        overwrite=overwrite or store != path,
        share=share,
    )
    numbered = list(enumerate(plan.batches()))
    run = _Run(task, packing, plan, reader, writer, place, progress, share.of(numbered) if share else numbered)
    try:
        outcome = run.all()
        final = {
            "workbench_seconds_per_step": outcome.seconds_per_step,
            "workbench_stopped": json.dumps(outcome.stopped),
            "workbench_version": __version__,
        }
        writer.finish(final)
    finally:
        writer.close()
    outcome.path = path if store == path or share else to_netcdf(store, path)
    return outcome


def to_netcdf(store: Path, path: Path) -> Path:
    """Turn a finished Zarr forecast into one NetCDF-4 file and drop the store."""
    import shutil

    temporary = path.with_name(f".{path.name}.partial")
    with xr.open_zarr(store, consolidated=False, decode_times=False) as dataset:  # numbers and units as they are
        for variable in dataset.variables.values():
            variable.encoding = {k: v for k, v in variable.encoding.items() if k == "dtype"}
        dataset.to_netcdf(temporary, engine="netcdf4")
    os.replace(temporary, path)
    shutil.rmtree(store)
    store.with_name(f"{store.name}.manifest.json").unlink(missing_ok=True)
    return path


@dataclass
class _Position:
    """Where a rollout stands: enough to continue it bit for bit."""

    batch: int = 0
    lead: int = 0
    window: Tensor | None = None
    alive: Tensor | None = None
    stopped: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write atomically."""
        window, alive = (torch.empty(0) if t is None else t.cpu() for t in (self.window, self.alive))
        temporary = path.with_suffix(".part.npz")
        np.savez(
            temporary,
            position=np.array([self.batch, self.lead]),
            window=window.numpy(),
            alive=alive.numpy(),
            stopped=np.array(json.dumps(self.stopped)),
        )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> _Position:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            batch, lead = (int(v) for v in saved["position"])
            window, alive = torch.from_numpy(saved["window"]), torch.from_numpy(saved["alive"])
            return cls(batch, lead, window, alive, json.loads(str(saved["stopped"])))


class _Run:
    """One rollout in progress: reads starts, steps, hands whole chunks to the writing thread."""

    def __init__(
        self,
        task: Stepper,
        packing: Packing,
        plan: ForecastPlan,
        reader: KnownReader,
        writer: StoreWriter,
        device: torch.device,
        progress: Callable[[int, int], None] | None,
        batches: Sequence[tuple[int, dict[str, slice]]],
    ) -> None:
        self.task, self.packing, self.plan, self.writer, self.device = task, packing, plan, writer, device
        self.reader, self.progress, self.batches = reader, progress or (lambda done, total: None), batches
        self.names = [
            n for role in ("state", "diagnostic") if role in packing.groups for n in packing.groups[role].names()
        ]
        self.position_path = writer.journal.companion("position.npz")
        self.stopped: list[dict[str, Any]] = []

    def all(self) -> Outcome:
        """Every batch that is not written, from where a killed run left it."""
        start = _Position.load(self.position_path) if self.position_path.exists() else _Position()
        self.stopped = start.stopped
        with Background() as background:
            for done, (number, batch) in enumerate(self.batches):
                if _whole(number) not in self.writer.done:
                    position = start if number == start.batch else _Position(number)
                    self._batch(batch, position, done * self.plan.steps, background)
        seconds, steps = self.writer.journal.spent()
        return Outcome(self.writer.path, seconds / max(1.0, steps), self._stopped_anywhere())

    def _stopped_anywhere(self) -> list[dict[str, Any]]:
        """What all shares have noted, each forecast once."""
        notes = list(self.stopped)
        for path in self.writer.journal.companions("position.npz"):
            notes += [note for note in _Position.load(path).stopped if note not in notes]
        return notes

    def _batch(self, batch: dict[str, slice], start: _Position, before: int, background: Background) -> None:
        """Roll one batch out from `start`; `before` counts the steps of the batches before it."""
        number, total = start.batch, len(self.batches) * self.plan.steps
        seconds, steps = 0.0, 0
        window, alive, lead = start.window, start.alive, start.lead
        if lead == 0 or window is None or alive is None:
            window = self._perturbed(self.reader.states(batch), batch)
            alive = torch.ones(len(window), dtype=torch.bool)
            with torch.inference_mode():
                window = self.task.begin(window, self.task.context(self.reader.known(batch, 0, 1), 0))
        window = window.to(self.device)
        valid = torch.isfinite(window[:, -1, : self.task.state_channels])
        while lead < self.plan.steps:
            size = min(self.plan.block, self.plan.steps - lead)
            out: list[Fields] = []
            known = self.reader.known(batch, lead, size)
            clock = time.perf_counter()
            for fields, following in _blocks(self.task, window, known, size):
                window = following
                dead = self._retire(fields["state"], valid, alive, batch, lead + 1)
                out.append(self._physical(fields, dead))
                lead += dead.shape[1]
                self.progress(before + lead, total)
            seconds += time.perf_counter() - clock
            steps += size * len(alive)
            if not alive.all():  # harmless from here on
                kept = alive.to(window.device).reshape(-1, *[1] * (window.ndim - 1))
                window = torch.where(kept, window, 0.0)
            ended = lead == self.plan.steps
            after = _Position(
                number + ended,
                0 if ended else lead,
                None if ended else window.clone(),
                alive.clone(),
                list(self.stopped),
            )
            blocks = {role: torch.cat([steps[role] for steps in out], 1) for role in out[0]}
            background.submit(self._write, batch, lead - size, blocks, after)
        self.writer.spend(seconds, steps)

    def _perturbed(self, window: Tensor, batch: dict[str, slice]) -> Tensor:
        """Add each member's own noise, the same whatever batch the forecast is in; member 0 stays as it is."""
        for row, forecast in enumerate(self.plan.members_of(batch)):
            if forecast[0] and self.plan.perturbation:
                draw = np.random.default_rng([self.plan.seed, *forecast]).standard_normal(window.shape[1:], np.float32)
                window[row] += self.plan.perturbation * torch.from_numpy(draw).to(window)
        return window

    def _retire(self, state: Tensor, valid: Tensor, alive: Tensor, batch: dict[str, slice], lead: int) -> Tensor:
        """Note in `alive` forecasts that leave the finite numbers; from where on each is dead, ``bool[b, t]``.

        Args:
            state: of the steps ``[b, t, c, *space]``, the first of which is the step `lead`.
            valid: where a forecast started from a number.
            alive: forecasts that had not left them before.
            batch: which forecasts these are.
            lead: step of the first state.
        """
        finite = torch.isfinite(state) | ~valid[:, None]
        gone = ~finite.flatten(2).all(2).cpu()
        dead = (gone.cumsum(1) > 0) | ~alive[:, None]
        for row in torch.nonzero(dead[:, -1] & alive).flatten().tolist():
            step = int(torch.nonzero(gone[row])[0])
            channel, *place = (int(i) for i in torch.nonzero(~finite[row, step])[0])
            member, trajectory, start = self.plan.members_of(batch)[row]
            note = {"member": member, "init_time": str(self.plan.record[TIME].values[self.plan.starts[start]])}
            if TRAJECTORY in self.plan.record.dims:
                note[TRAJECTORY] = int(self.plan.trajectories[trajectory])
            self.stopped.append({**note, "step": lead + step, "variable": self.names[channel], "index": place})
        alive &= ~dead[:, -1]
        return dead

    def _physical(self, fields: Fields, dead: Tensor) -> Fields:
        """Physical units on the host, for each role; a stopped forecast is NaN."""
        parts = {role: self.task.normalisers[role].inverse(values).cpu() for role, values in fields.items()}
        for values in parts.values():
            values[dead] = torch.nan
        return parts

    def _write(self, batch: dict[str, slice], lead: int, blocks: dict[str, Tensor], after: _Position) -> None:
        """Write one block ``[b, lead, c, *space]`` of each role for every forecast, then the position after it."""
        counts = [batch[dim].stop - batch[dim].start for dim in LEADING]
        arrays: dict[str, np.ndarray] = {}
        for role, block in blocks.items():
            arrays |= self.packing.split(block.numpy().reshape(*counts, *block.shape[1:]), role, 4)
        if TRAJECTORY not in self.plan.record.dims:
            arrays = {name: array[:, 0] for name, array in arrays.items()}
        region = {**batch, "lead_time": slice(lead, lead + blocks["state"].shape[1])}
        self.writer.write(f"{[s.start for s in batch.values()]} {lead}", arrays, region)
        after.save(self.position_path)
        if after.lead == 0:
            self.writer.note(_whole(after.batch - 1))


def _whole(number: int) -> str:
    """What the journal says of a batch all of whose steps are written, and its position saved."""
    return f"batch {number}"
