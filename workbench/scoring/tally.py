"""One pass over forecasts and truth, block by block: the weighted sums of every start and lead, and spectra.

A block is a range of trajectories, starts and leads that fits into memory with everything it is compared with, so
that a forecast of any size can be scored. Sums of blocks are put together, never averaged: the scores do not depend on
the blocks (`workbench.metrics.base`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr

from workbench.data.climatology import climatology_at
from workbench.data.grid import Weighting, grid_weights, is_latitude
from workbench.data.spec import TIME, TRAJECTORY, RecordSpec
from workbench.data.starts import Problem
from workbench.data.store import naming_bad_chunks
from workbench.errors import InputError
from workbench.metrics import WeightedSums, accumulate, concatenate
from workbench.metrics.ensembles import ENSEMBLE_METRICS
from workbench.metrics.fields import VECTOR_METRICS
from workbench.scoring.spectra import Block, SpectraPile
from workbench.scoring.truth import Aligned, Entry, entries, refuse_missing

BLOCK_BYTES = 64 * 2**20
SHAPES = ("correlation", "correlation_sample_mean")
"""Always accumulated: variance drift and decorrelation come from their sums."""
ENSEMBLE_ONLY = tuple(m.name for m in ENSEMBLE_METRICS if m.name not in ("crps", "skill"))
"""Need at least two members, which no baseline has."""


@dataclass(frozen=True)
class Tally:
    """What is kept of a pass.

    Attributes:
        sums: forecast -> entry -> sums that keep trajectory, init_time and lead_time; of the mean of the members.
        shapes: the same of member 0 alone (`SHAPES`).
        spectra: ``truth`` or forecast -> entry -> position of the lead -> mean spectrum ``(wavenumber)``.
    """

    sums: dict[str, dict[str, WeightedSums]]
    shapes: dict[str, dict[str, WeightedSums]]
    spectra: dict[str, dict[str, dict[int, xr.DataArray]]]


def entry_weights(problem: Problem, entry: Entry, kind: Weighting) -> xr.DataArray | None:
    """Area weights of an entry on its grid; None where they are uniform.

    Raises:
        InputError: weights by latitude are asked for a grid without latitude.
    """
    spec = RecordSpec.of(problem.record, [entry.name])
    if kind in ("cos_lat", "area") and not any(is_latitude(axis) for axis in spec.axes):
        raise InputError(
            f"evaluate.weights is '{kind}', but '{entry.name}' lies on {', '.join(a.name for a in spec.axes)}, none of "
            "which is a latitude (units degrees_north, or called lat or latitude): set it to auto"
        )
    return grid_weights(spec.axes, kind)


def full_weights(problem: Problem, kind: Weighting) -> dict[str, np.ndarray]:
    """Area weights of every variable at every point, ``[*space]``."""
    found = {}
    for entry in {e.name: e for e in entries(problem)}.values():
        grid = problem.record[entry.name].isel({TIME: 0}).isel({TRAJECTORY: 0}, missing_dims="ignore")
        ones = xr.ones_like(grid, dtype=np.float64).drop_attrs().compute()
        weights = entry_weights(problem, entry, kind)
        found[entry.name] = (ones if weights is None else ones * weights).transpose(*problem.space(entry.name)).values
    return found


@dataclass(frozen=True)
class Request:
    """What is tallied.

    Attributes:
        metrics: names of the metrics asked for.
        weights: kind of area weights.
        spectra: dimensions along which spectra are taken; none: no spectra.
        climatology: for anomalies; None where no metric needs one.
        spectrum_leads: positions of the leads with spectra.
        vectors: name of a vector -> the variables that are its components.
    """

    metrics: tuple[str, ...]
    weights: Weighting
    spectra: tuple[str, ...]
    climatology: xr.Dataset | None
    spectrum_leads: tuple[int, ...]
    vectors: Mapping[str, Sequence[str]]


def tally(
    aligned: Aligned,
    forecasts: Mapping[str, xr.Dataset],
    request: Request,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tally:
    """Pass over the forecasts once.

    Args:
        aligned: the first forecast, matched with its record.
        forecasts: name -> forecast, all from the same starts; the first is that of `aligned`.
        request: what is wanted.
        progress: called with blocks done and blocks in all.
    """
    rows = entries(aligned.problem, request.vectors)
    weights = {row.label: entry_weights(aligned.problem, row, request.weights) for row in rows}
    sums, shapes, spectra = _Pile(), _Pile(), SpectraPile(aligned.problem, request.spectra, request.spectrum_leads)
    blocks = list(_blocks(aligned, forecasts))
    for done, block in enumerate(blocks, start=1):
        truth, loaded, climatology = _load(aligned, forecasts, block, request.climatology)
        for row in rows:
            observed = row.of(truth)
            options: dict[str, Any] = {
                "over": [d for d in aligned.problem.space(row.name) if d not in row.level],
                "weights": weights[row.label],
                "climatology": None if climatology is None else row.of(climatology),
                "mask": observed.notnull() if aligned.problem.missing == "mask" else None,
            }
            spectra.add("truth", row, observed, block, weights[row.label])
            for name, forecast in loaded.items():
                prediction = row.of(forecast)
                members = prediction.sizes["member"]
                of_mean = accumulate(metrics_of(request.metrics, members, row), prediction, observed, **options)
                if row.is_vector:
                    sums.add(name, row, block, of_mean)
                    continue
                first = prediction.isel(member=[0])
                sums.add(name, row, block, of_mean)
                shapes.add(
                    name, row, block, of_mean if members == 1 else accumulate(SHAPES, first, observed, **options)
                )
                spectra.add(name, row, first.isel(member=0, drop=True), block, weights[row.label])
        progress(done, len(blocks))
    return Tally(sums.whole(), shapes.whole(), spectra.means())


def metrics_of(metrics: Sequence[str], members: int, row: Entry) -> list[str]:
    """The metrics that a row of a forecast of so many members has, with those of its shape."""
    if row.is_vector:
        return [m for m in metrics if m in VECTOR_METRICS]
    return list(dict.fromkeys(m for m in (*metrics, *SHAPES) if members > 1 or m not in ENSEMBLE_ONLY))


def _blocks(aligned: Aligned, forecasts: Mapping[str, xr.Dataset]) -> Iterator[Block]:
    """Blocks of about `BLOCK_BYTES`, leads fastest."""
    problem, sizes = aligned.problem, next(iter(forecasts.values())).sizes
    state = sum(8 * int(np.prod(problem.shape(name))) for name in problem.names)
    copies = 3 + 2 * sum(f.sizes["member"] for f in forecasts.values())
    room = max(BLOCK_BYTES // (state * copies), 1)
    counts = {TRAJECTORY: len(aligned.trajectories), "init_time": sizes["init_time"], "lead_time": sizes["lead_time"]}
    lengths = {}
    for dim in reversed(counts):
        lengths[dim] = min(counts[dim], room)
        room = max(room // lengths[dim], 1)
    for i in range(0, counts[TRAJECTORY], lengths[TRAJECTORY]):
        for j in range(0, counts["init_time"], lengths["init_time"]):
            for k in range(0, counts["lead_time"], lengths["lead_time"]):
                yield {
                    TRAJECTORY: slice(i, i + lengths[TRAJECTORY]),
                    "init_time": slice(j, j + lengths["init_time"]),
                    "lead_time": slice(k, k + lengths["lead_time"]),
                }


def _load(
    aligned: Aligned, forecasts: Mapping[str, xr.Dataset], block: Block, climatology: xr.Dataset | None
) -> tuple[xr.Dataset, dict[str, xr.Dataset], xr.Dataset | None]:
    """Truth, forecasts and climatology of one block, in memory, on equal coordinates."""
    states, where = aligned.states(block[TRAJECTORY], block["init_time"], block["lead_time"])
    chosen = [f.isel(block, missing_dims="ignore") for f in forecasts.values()]
    with naming_bad_chunks(aligned.problem.record):
        states, *chosen = dask.compute(states, *chosen)
    if aligned.problem.missing == "error":
        refuse_missing(states)
    truth = states.isel({TIME: where}).drop_vars(TIME, errors="ignore")
    labels = {d: chosen[0][d] for d in (TRAJECTORY, "init_time", "lead_time") if d in chosen[0].coords}
    truth = truth.assign_coords(labels)
    valid = chosen[0]["valid_time"].transpose("init_time", "lead_time")
    reference = None if climatology is None else climatology_at(climatology, valid)
    return truth, {name: f.assign_coords(labels) for name, f in zip(forecasts, chosen, strict=True)}, reference


class _Pile:
    """Sums of the blocks seen so far, by forecast and entry."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, list[tuple[Block, WeightedSums]]]] = {}

    def add(self, name: str, row: Entry, block: Block, sums: WeightedSums) -> None:
        self.parts.setdefault(name, {}).setdefault(row.label, []).append((block, sums))

    def whole(self) -> dict[str, dict[str, WeightedSums]]:
        """The sums of all blocks put together along leads, then starts, then trajectories."""
        return {
            name: {label: _joined(parts, ("lead_time", "init_time", TRAJECTORY)) for label, parts in rows.items()}
            for name, rows in self.parts.items()
        }


def _joined(parts: list[tuple[Block, WeightedSums]], dims: Sequence[str]) -> WeightedSums:
    if len(parts) == 1:
        return parts[0][1]
    dim, *others = dims
    groups: dict[tuple[int, ...], list[tuple[Block, WeightedSums]]] = {}
    for block, sums in parts:
        groups.setdefault(tuple(block[d].start for d in others), []).append((block, sums))
    together = [(group[0][0], concatenate([sums for _, sums in group], dim)) for group in groups.values()]
    return _joined(together, others) if others else together[0][1]
