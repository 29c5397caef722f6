"""One pass over a channel record: everything that its long-run statistics need, as sums over batches.

Of every state the averages over wall-parallel planes are summed: velocity, products, the power of streamwise and
spanwise waves, Q, and counts of values in bins. Sums of parts add up with ``+``: a record may be cut in time, by run or
by process, and ends in the same numbers. What heights or wall units are asked for later need not be known.

Values are counted in bins of the standardised variable (u - c(y)) / s(y) with centre and width frozen beforehand
(`sample_scale`), the same for truth and forecast, so that their histograms can be compared and merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import dask
import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import require_same_coordinates
from workbench.metrics.channel import Grid, Names, q_of_gradient, same_units, velocity_gradient
from workbench.metrics.channel_kernel import HISTORY, QUANTITIES, Kernel

SLAB = 2**16
"""Values of a component worked on at once: 4.6 ms a state of 32 x 33 x 16, where 2^20, out of the cache, takes 8.4."""
BLOCK = 2**20
"""Values of a component read at once, at least: a store of one state a chunk is read in 200 reads, not in 8 000."""
SAMPLES = 16
"""States that the scale of the bins is read off."""


@dataclass(frozen=True)
class ChannelSums:
    """Sums over the states of a channel record; a commutative monoid under ``+``.

    Attributes:
        sums: per batch: ``count``, ``velocity(component, y)``, ``product(pair, y)``, ``power_x(component, y,
            wavenumber_x)``, ``power_z``, ``q_square(y)``, ``histogram(quantity, y, bin)``, ``joint(y, bin_u, bin_v)``.
        history: per run and time, averages over the volume: `HISTORY`.
        scale: ``centre(quantity, y)`` and ``width(quantity, y)`` of the bins.
    """

    sums: xr.Dataset
    history: xr.Dataset
    scale: xr.Dataset

    def __add__(self, other: ChannelSums) -> ChannelSums:
        """Return the sums of both parts together.

        Raises:
            InputError: grids or bins differ, or a state is in both parts.
        """
        require_same_coordinates(self.sums, other.sums, ("y", "wavenumber_x", "wavenumber_z"), "one part", "the other")
        if not self.scale.identical(other.scale):
            raise InputError("the parts were counted in different bins: accumulate all of them with one scale")
        mine, theirs = xr.align(self.history["energy"], other.history["energy"], join="inner")
        if mine.size and (mine.notnull() & theirs.notnull()).any():
            raise InputError("a state is in both parts: cut the record so that every state is in one part only")
        left, right = xr.align(self.sums, other.sums, join="outer", fill_value=0.0)
        return ChannelSums(left + right, self.history.combine_first(other.history), self.scale)


# ----------------------------------------------------------------------------------------------------- the pass


def accumulate(
    velocity: xr.Dataset,
    batches: np.ndarray,
    scale: xr.Dataset,
    names: Names | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ChannelSums:
    """Sum over a record or forecast in one pass, dask block by dask block; memory is that of one block.

    Args:
        velocity: the three components ``(..., time, x, y, z)`` in any order; dimensions besides time and space number
            the runs (trajectory, or member, trajectory and initial time).
        batches: ``int[run, time]`` as from `workbench.metrics.long_run.batch_numbers`, runs counted in the order of
            their dimensions; -1 keeps a state out of the sums, though not out of the history.
        scale: as from `sample_scale`.
        names: of components and directions; by default u, v, w and x, y, z and time.
        progress: called with blocks done and blocks in all.

    Raises:
        InputError: the grid is no channel's, units differ between components, or `batches` has another shape.
    """
    names = names or Names()
    grid = Grid.of(velocity, names)
    same_units(velocity, names)
    runs = run_dims(velocity, names)
    sizes = [velocity.sizes[dim] for dim in (*runs, names.time)]
    if batches.shape != (int(np.prod(sizes[:-1])), sizes[-1]):
        raise InputError(
            f"batches are {batches.shape}, the record has {int(np.prod(sizes[:-1]))} runs of {sizes[-1]} states: "
            "number every state of every run"
        )
    kernel = Kernel(grid, scale)
    known = np.unique(batches[batches >= 0])
    totals = {name: np.zeros((len(known), *shape)) for name, shape in kernel.shapes().items()}
    history = np.full((len(HISTORY), *batches.shape), np.nan)
    components, leading = _components(velocity, names, runs), [*runs, names.time]
    edges = _edges(components, leading)
    total = int(np.prod([len(e) - 1 for e in edges]))
    for done, (block, run, time) in enumerate(_blocks(components, leading, edges), start=1):
        for fields, r, t in _slabs(block, run, time):
            with np.errstate(over="ignore", invalid="ignore"):  # a diverged state shows as inf or nan
                gradient = velocity_gradient(fields, grid)
                history[:, r, t] = kernel.volume(fields, gradient)
                for number in np.unique(batches[r, t][batches[r, t] >= 0]):
                    mine = np.flatnonzero(batches[r, t] == number)
                    place = int(np.searchsorted(known, number))
                    for name, part in kernel.planes(fields[:, mine], gradient[:, :, mine]).items():
                        totals[name][place] += part
        progress(done, total)
    return ChannelSums(
        kernel.labelled(totals, known), _history(history, velocity, names, runs), scale.reset_coords(drop=True)
    )


def run_dims(velocity: xr.Dataset, names: Names) -> list[str]:
    """The dimensions that number runs: those of the velocity besides time and space, in their order."""
    dims = velocity[names.velocity[0]].dims
    return [str(dim) for dim in dims if dim not in (*names.space, names.time)]


def _components(velocity: xr.Dataset, names: Names, runs: list[str]) -> list[xr.DataArray]:
    """The components ``(*runs, time, x, y, z)``, whole in space, with equal chunks where they have any."""
    chosen = velocity[list(names.velocity)].reset_coords(drop=True)  # whose chunks need not fit those of the fields
    chosen = chosen.transpose(*runs, names.time, *names.space).unify_chunks()
    if chosen.chunks:
        chosen = chosen.chunk(dict.fromkeys(names.space, -1))
    return [chosen[name] for name in names.velocity]


def _edges(components: list[xr.DataArray], leading: list[str]) -> list[list[int]]:
    """Where blocks begin and end along runs and time: whole chunks, short ones joined along time."""
    first = components[0]
    chunks = [first.chunksizes[dim] if first.chunks else (first.sizes[dim],) for dim in leading]
    edges = [[0, *np.cumsum(part).tolist()] for part in chunks]
    per_time = int(np.prod(first.shape[-3:]) * np.prod([max(part) for part in chunks[:-1]], dtype=int))
    joined = [0]
    for edge in edges[-1][1:]:
        if (edge - joined[-1]) * per_time >= BLOCK or edge == edges[-1][-1]:
            joined.append(edge)
    return [*edges[:-1], joined]


def _blocks(
    components: list[xr.DataArray], leading: list[str], edges: list[list[int]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every chunk once: fields ``[3, state, x, y, z]``, and the run and time of each state."""
    sizes = [components[0].sizes[dim] for dim in leading[:-1]]
    for corner in product(*(range(len(e) - 1) for e in edges)):
        where = {dim: slice(e[i], e[i + 1]) for dim, e, i in zip(leading, edges, corner, strict=True)}
        block = np.stack(dask.compute(*(component.isel(where).data for component in components)))
        ranges = np.meshgrid(*(np.arange(s.start, s.stop) for s in where.values()), indexing="ij")
        run = np.ravel_multi_index([r.ravel() for r in ranges[:-1]], sizes) if sizes else np.zeros(ranges[0].size, int)
        yield block.reshape(3, -1, *block.shape[-3:]), run, ranges[-1].ravel()


def _slabs(block: np.ndarray, run: np.ndarray, time: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    states = max(1, SLAB // int(np.prod(block.shape[2:])))
    for start in range(0, block.shape[1], states):
        part = slice(start, start + states)
        yield block[:, part].astype(np.float64), run[part], time[part]


def _history(values: np.ndarray, velocity: xr.Dataset, names: Names, runs: list[str]) -> xr.Dataset:
    stacked = velocity[list(names.velocity)].isel(dict.fromkeys(names.space, 0)).drop_vars(names.space)
    labels = [
        ", ".join(
            f"{dim} {stacked[dim].values[i] if dim in stacked.coords else i}" for dim, i in zip(runs, at, strict=True)
        )
        for at in np.ndindex(*(velocity.sizes[dim] for dim in runs))
    ]
    time = velocity[names.time].values if names.time in velocity.coords else np.arange(velocity.sizes[names.time])
    arrays = {name: (("run", "time"), row) for name, row in zip(HISTORY, values, strict=True)}
    return xr.Dataset(arrays, {"run": labels, "time": time})


# ---------------------------------------------------------------------------------------------------- the scale


def sample_scale(velocity: xr.Dataset, names: Names | None = None, samples: int = SAMPLES) -> xr.Dataset:
    """Centre and width of the bins, from states of the truth evenly spread over its runs and times.

    They are the mean and standard deviation of the sample at each height, made symmetric about the centre; they only
    place the bins, so a small sample does.

    Args:
        velocity: as in `accumulate`.
        names: of components and directions.
        samples: number of states.

    Returns:
        ``centre(quantity, y)`` and ``width(quantity, y)``, quantity u, v, w and q.
    """
    names = names or Names()
    grid = Grid.of(velocity, names)
    runs = run_dims(velocity, names)
    components = _components(velocity, names, runs)
    sizes = [velocity.sizes[dim] for dim in (*runs, names.time)]
    chosen = np.unique(np.linspace(0, np.prod(sizes) - 1, samples).round().astype(int))
    places = [dict(zip((*runs, names.time), np.unravel_index(i, sizes), strict=True)) for i in chosen]
    fields = np.stack([np.stack([c.isel(place).values for place in places]) for c in components]).astype(np.float64)
    values = np.concatenate([fields, q_of_gradient(velocity_gradient(fields, grid))[None]])
    mean = values.mean((1, 2, 4))
    mirror = np.array([1.0, -1.0, 1.0, 1.0])[:, None] * mean[:, ::-1]
    variance = values.var((1, 2, 4))
    width = np.sqrt(0.5 * (variance + variance[:, ::-1]))
    floor = 1e-6 * width.max(axis=1, keepdims=True)
    width = np.where(width > floor, width, np.where(floor > 0, floor, 1.0))
    coords = {"quantity": list(QUANTITIES), "y": grid.y}
    dims = ("quantity", "y")
    return xr.Dataset({"centre": (dims, 0.5 * (mean + mirror)), "width": (dims, width)}, coords)
