"""Ensembles of several networks or of masked tokens: rollouts one after the other, joined as members of one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.commands.rollout import roll_out
from workbench.data.integrity import manifest_path
from workbench.data.spec import TRAJECTORY
from workbench.data.store import refuse_existing
from workbench.data.writer import StoreWriter, lazy_like
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.share import Share

CHANGING = ("workbench_checkpoint", "workbench_seconds_per_step", "workbench_stopped")
"""Attributes of a forecast that differ between members."""


def roll_out_ensemble(
    experiment: Experiment,
    weights: Sequence[str],
    device: str = "auto",
    overwrite: bool = False,
    share: Share | None = None,
) -> Path:
    """Roll out every network, and every draw of masks of it, and join them along ``member``.

    Members count over networks (slow) and draws or perturbations (fast); the first of each network is neither masked
    nor perturbed. Parts that a killed run finished are kept, and the unfinished one goes on.

    Args:
        experiment: says in ``rollout`` how many members each network has, and what makes them differ.
        weights: checkpoints or exported files.
        device: where the networks run.
        overwrite: replace an existing forecast.
        share: which of several jobs this is: it rolls out some of the networks and draws, and joins nothing.

    Raises:
        InputError: the forecast exists, is to be NetCDF, or the networks forecast different things.
    """
    config, target = experiment.rollout, experiment.forecast
    refuse_existing(target, overwrite)
    if target.suffix != ".zarr":
        raise InputError(
            "an ensemble of several networks or masks is written as Zarr: leave rollout.format at zarr, and convert it "
            "with xr.open_zarr(...).to_netcdf(...)"
        )
    draws = config.members if config.mask_ratio else 1
    parts = []
    pieces = list(product(enumerate(weights), range(draws)))
    for (number, source), draw in share.of(pieces) if share else pieces:
        own = replace(config, members=1 if config.mask_ratio else config.members, mask_ratio=0.0)
        mask = (config.mask_ratio, config.seed + number * draws + draw) if draw else None
        part = _part_path(target, source, own, mask)
        if not part.exists():
            roll_out(replace(experiment, rollout=own), source, device, output=part, mask=mask)
        parts.append(part)
    if share:
        return target
    join_members(parts, target, overwrite)
    for part in parts:
        shutil.rmtree(part)
        manifest_path(part).unlink(missing_ok=True)
    print(f"wrote {target} ({len(parts)} rollouts as members of one forecast)")
    return target


def _part_path(target: Path, source: str, config: Any, mask: tuple[float, int] | None) -> Path:
    """A hidden place for one part, of which the name says what is in it."""
    path = Path(source)
    changed = path.stat().st_mtime_ns if path.exists() else 0
    said = json.dumps([str(path.resolve()), changed, asdict(config), mask], sort_keys=True)
    return target.with_name(f".{target.stem}.{hashlib.sha256(said.encode()).hexdigest()[:12]}.zarr")


def join_members(parts: Sequence[Path], path: Path, overwrite: bool = False) -> Path:
    """Write forecasts from the same starts as one, their members one after the other.

    Args:
        parts: forecasts as ``workbench rollout`` writes them.
        path: the whole.
        overwrite: replace an existing store.

    Raises:
        InputError: they differ in variables, starts, leads or grid.
    """
    opened = [xr.open_zarr(part, consolidated=False) for part in parts]
    first, counts = opened[0], [one.sizes["member"] for one in opened]
    for part, other in zip(parts[1:], opened[1:], strict=True):
        _require_like(first, other, str(other.attrs.get("workbench_checkpoint", part)))
    template, chunks = _template(first, sum(counts))
    writer = StoreWriter(
        path, template, chunks=chunks, identity={"parts": [str(p) for p in parts]}, overwrite=overwrite
    )
    try:
        for number, one in enumerate(opened):
            members = slice(sum(counts[:number]), sum(counts[: number + 1]))
            for block in _blocks(one, chunks):
                key = f"{number} {[piece.start for piece in block.values()]}"
                if key not in writer.done:
                    values = {name: array.isel(block).values for name, array in _fields(one)}
                    writer.write(key, values, {**block, "member": members})
        return writer.finish(_joined_attributes(opened, counts))
    finally:
        writer.close()


def _template(first: xr.Dataset, members: int) -> tuple[xr.Dataset, dict[str, int]]:
    """The whole forecast, lazy, and its chunks."""
    chunks: dict[str, int] = {}
    fields = {}
    for name, array in _fields(first):
        sizes = {str(d): members if d == "member" else s for d, s in array.sizes.items()}
        fields[name] = (tuple(sizes), lazy_like(sizes), array.attrs)
        chunks |= {str(d): int(c[0]) for d, c in zip(array.dims, array.chunks or (), strict=True)}
    coords = {n: c.variable for n, c in first.coords.items() if n != "member"}
    coords["member"] = xr.Variable("member", np.arange(members), first["member"].attrs)
    return xr.Dataset(fields, coords, first.attrs), chunks


def _blocks(dataset: xr.Dataset, chunks: Mapping[str, int]) -> Iterator[dict[str, slice]]:
    """Blocks of one chunk along trajectory and times."""
    dims = [d for d in (TRAJECTORY, "init_time", "lead_time") if d in dataset.dims]
    ranges = [range(0, dataset.sizes[d], chunks[d]) for d in dims]
    for starts in product(*ranges):
        yield {d: slice(k, min(k + chunks[d], dataset.sizes[d])) for d, k in zip(dims, starts, strict=True)}


def _fields(dataset: xr.Dataset) -> list[tuple[str, xr.DataArray]]:
    return [(str(name), array) for name, array in dataset.data_vars.items()]


def _require_like(first: xr.Dataset, other: xr.Dataset, source: str) -> None:
    """Raise unless two forecasts differ in members alone."""
    for name in dict.fromkeys([*first.data_vars, *first.coords, *other.data_vars]):
        if name == "member":
            continue
        if name not in first or name not in other:
            raise InputError(f"'{name}' is forecast by the first weights or by {source}, not by both: join equal ones")
        pair = [d[name].isel(member=0, drop=True) if "member" in d[name].dims else d[name] for d in (first, other)]
        mine, theirs = pair
        same = mine.sizes == theirs.sizes and mine.attrs.get("units") == theirs.attrs.get("units")
        if not same or (name in first.coords and not np.array_equal(mine.values, theirs.values)):
            raise InputError(
                f"'{name}' of the forecast by {source} differs from that of the first weights in size, units or "
                "places: an ensemble is of networks for one record and one experiment"
            )


def _joined_attributes(opened: Sequence[xr.Dataset], counts: Sequence[int]) -> dict[str, Any]:
    """What the attributes of the parts come to."""
    sources, seconds, stopped = ([one.attrs.get(name) for one in opened] for name in CHANGING)
    notes = []
    for number, text in enumerate(stopped):
        for note in json.loads(text or "[]"):
            notes.append({**note, "member": note["member"] + sum(counts[:number])})
    return {
        "workbench_checkpoint": ", ".join(dict.fromkeys(map(str, sources))),
        "workbench_seconds_per_step": float(np.mean([float(s or 0.0) for s in seconds])),
        "workbench_stopped": json.dumps(notes),
    }
