"""Streamed, weighted, mergeable statistics of the training split.

One pass of dask over blocks of time, on threads or on the cluster of an active `distributed.Client`, gives per channel
the weighted mean, variance, extrema and number of valid values, the same for the tendency ``x(t + step) - x(t)`` (the
scale of residual targets), and quantiles. Blocks are combined by the pairwise update of Chan, Golub & LeVeque (1983,
eq. 1.3), so that the moments do not depend on the chunking beyond round-off, nor on where they are computed.

Quantiles are *of the values, unweighted*, from a KLL sketch (Karnin, Lang & Liberty 2016,
https://arxiv.org/abs/1603.05346) of 4 to 8 million values per channel, spread evenly over the split at places drawn
with a fixed seed, or of all where there are fewer. The value given for a rank has in truth a rank within the stated
error of it, with 99 % confidence. The sketch draws random bits, so two computations agree within that error and no
better.

Results are kept beside the record with their period and fingerprint, and are never recomputed silently nor taken from
outside the training split.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.derived import is_derived
from workbench.data.grid import grid_weights
from workbench.data.moments import RANKS, SKETCHED_VALUES, Summary, rank_errors
from workbench.data.spec import LEVEL_NAMES, TIME, TRAJECTORY, RecordSpec
from workbench.data.store import naming_bad_chunks, stored_chunks
from workbench.data.windows import Part
from workbench.errors import InputError
from workbench.progress import bar
from workbench.resources import data_root

BLOCK_BYTES = 32 * 2**20
GROUP = 8
"""Blocks merged where they were computed, before the result travels."""
VERSION = 2
"""Of what is kept in a file; 2 added quantiles."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of one variable of the training split, one entry per level (one entry where it has none).

    Attributes:
        quantiles: for each level the values of rank `RANKS`, unweighted.
    """

    mean: list[float]
    std: list[float]
    minimum: list[float]
    maximum: list[float]
    tendency_mean: list[float]
    tendency_std: list[float]
    missing: list[int]
    quantiles: list[list[float]]

    @classmethod
    def unscaled(cls) -> ChannelStatistics:
        """Of a variable that is not normalised: mean 0, standard deviation 1, and nothing else known."""
        nan = float("nan")
        return cls([0.0], [1.0], [nan], [nan], [nan], [1.0], [0], [[nan] * len(RANKS)])


@dataclass(frozen=True)
class Statistics:
    """Statistics of a record's training split.

    Attributes:
        variables: variable name -> its statistics.
        period: what the training split covers, for people.
        key: hash of record, variables, split and stride that the statistics belong to.
        ranks: of the quantiles.
        rank_errors: how far the true rank of each quantile may lie from the stated one, with 99 % confidence.
    """

    variables: dict[str, ChannelStatistics]
    period: str
    key: str
    ranks: tuple[float, ...] = RANKS
    rank_errors: tuple[float, ...] = field(default_factory=rank_errors)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Statistics:
        """Rebuild the statistics that `to_dict` wrote."""
        variables = {name: ChannelStatistics(**values) for name, values in plain["variables"].items()}
        return cls(variables, plain["period"], plain["key"], tuple(plain["ranks"]), tuple(plain["rank_errors"]))


def fingerprint(path: str) -> str:
    """Short hash that changes when a record changes.

    A store of ours is known by its manifest (sizes and checksums of all chunks), another local record by the names,
    sizes and modification times of its files, a remote one by its address alone.
    """
    digest = hashlib.sha256()
    local = Path(path)
    manifest = local.with_name(f"{local.name}.manifest.json")
    if manifest.exists():
        digest.update(manifest.read_bytes())
    elif local.exists():
        files = [local] if local.is_file() else sorted(p for p in local.rglob("*") if p.is_file())
        for file in files:
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    else:
        digest.update(path.encode())
    return digest.hexdigest()[:16]


def statistics_key(
    dataset: xr.Dataset, names: Sequence[str], part: Part, stride: int, weighted: bool, version: int = VERSION
) -> str:
    """Hash of everything that statistics depend on."""
    source = str(dataset.encoding.get("source", ""))
    what = {
        "record": fingerprint(source),
        "sizes": {str(k): v for k, v in dataset.sizes.items()},
        "variables": sorted(names),
        "trajectories": part.trajectories.tolist(),
        "runs": part.runs,
        "stride": stride,
        "weighted": weighted,
        **({"version": version} if version > 1 else {}),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def statistics_path(dataset: xr.Dataset, key: str) -> Path:
    """Where statistics are kept."""
    return kept_path(dataset, f"{key}.json")


def kept_path(dataset: xr.Dataset, name: str) -> Path:
    """Where what was computed of a record is kept: beside a local one if its folder can be written, else with data."""
    source = Path(str(dataset.encoding.get("source", "record")))
    beside = source.parent
    # the bits, too: root may write everywhere, and should not in a folder that is meant to stay as it is
    if beside.is_dir() and os.access(beside, os.W_OK) and beside.stat().st_mode & 0o222 and "*" not in source.name:
        return beside / f"{source.name}.statistics" / name
    return data_root() / "statistics" / f"{source.name.replace('*', '_')}-{name}"


def fit_statistics(
    dataset: xr.Dataset,
    names: Sequence[str],
    part: Part,
    *,
    stride: int = 1,
    missing: str = "error",
    weights: xr.DataArray | None = None,
    progress: bool = False,
) -> Statistics:
    """Statistics of the variables `names` over the training part, computed once and kept beside the record.

    Args:
        dataset: the whole record.
        names: variables, each ``([trajectory,] [time,] [level,] *space)``.
        part: the training part.
        stride: record steps of the tendency.
        missing: ``error`` refuses non-finite values, ``mask`` leaves them out.
        weights: area weights on some of the space dims; uniform by default.
        progress: show a progress bar.

    Raises:
        InputError: the part is not the training part, or values are missing while `missing` is ``error``.
    """
    if part.name != "train":
        raise InputError(f"statistics must come from the train split, not from '{part.name}'")
    key = statistics_key(dataset, names, part, stride, weights is not None)
    path = statistics_path(dataset, key)
    if path.exists():
        found = Statistics.from_dict(json.loads(path.read_text()))
    else:
        _tell_of_older(dataset, path, statistics_key(dataset, names, part, stride, weights is not None, version=1))
        variables = {n: _variable_statistics(dataset, n, part, stride, weights, progress) for n in names}
        found = Statistics(variables, part.label(dataset), key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.partial")
        temporary.write_text(json.dumps(found.to_dict()))
        os.replace(temporary, path)
    if missing == "error":
        _refuse_missing(dataset, found, part)
    return found


def training_statistics(dataset: xr.Dataset, config: DataConfig, train: Part, progress: bool = False) -> Statistics:
    """The statistics that an experiment normalises with: area-weighted where its grid has unequal cells.

    Variables of `workbench.data.derived` are left as they are: mean 0, standard deviation 1.

    Args:
        dataset: the record of the experiment.
        config: its ``data:`` section.
        train: its training part.
        progress: show a progress bar.
    """
    names = [n for n in config.variables() if not is_derived(dataset[n])]
    weights = grid_weights(RecordSpec.of(dataset, names).axes)
    found = fit_statistics(
        dataset, names, train, stride=config.stride, missing=config.missing, weights=weights, progress=progress
    )
    derived = {n: ChannelStatistics.unscaled() for n in config.variables() if n not in names}
    return replace(found, variables={**found.variables, **derived})


def _tell_of_older(dataset: xr.Dataset, path: Path, key: str) -> None:
    older = statistics_path(dataset, key)
    if older.exists():
        print(
            f"statistics are computed again into {path}: {older.name} is of a version without quantiles",
            file=sys.stderr,
        )


def table(found: Statistics, units: Mapping[str, str]) -> str:
    """Statistics for people: a line per channel with moments, then one with extrema and quantiles."""
    channels = [
        (f"{name}{f'[{i}]' if len(values.mean) > 1 else ''} {units[name]}".rstrip(), values, i)
        for name, values in found.variables.items()
        for i in range(len(values.mean))
    ]
    moments = ("mean", "std", "tendency_mean", "tendency_std", "missing")
    rows = [["channel", *(name.replace("_", " ") for name in moments)]]
    rows += [[label, *(f"{getattr(values, name)[i]:.6g}" for name in moments)] for label, values, i in channels]
    rows += [[], ["quantiles", "min", *(f"{rank:g}" for rank in found.ranks), "max"]]
    for label, v, i in channels:
        rows.append([label, *(f"{x:.6g}" for x in (v.minimum[i], *v.quantiles[i], v.maximum[i]))])
    rows.append(["rank +-", "", *(f"{error:.5f}" for error in found.rank_errors), ""])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(found.ranks) + 3)]
    lines = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=False)))
        for row in rows
    ]
    return (
        "\n".join(line.rstrip() for line in lines) + "\n(moments weighted by area; quantiles of the values, unweighted)"
    )


def _refuse_missing(dataset: xr.Dataset, found: Statistics, part: Part) -> None:
    for name, values in found.variables.items():
        if sum(values.missing):
            raise InputError(
                f"variable '{name}' has {sum(values.missing)} missing (NaN) values in the train split, "
                f"{first_missing(part.select(dataset)[name])}; set data.missing: mask to train around them"
            )


def first_missing(array: xr.DataArray) -> str:
    """Where the first non-finite value of `array` is, in coordinates."""
    lead = [d for d in (TRAJECTORY, TIME) if d in array.dims]
    rest = [d for d in array.dims if d not in lead]
    bad = array.isnull().any(rest).values
    flat = np.flatnonzero(bad.ravel())
    if not len(flat):
        return "none outside the train split"
    where: dict[Any, int] = {d: int(i) for d, i in zip(lead, np.unravel_index(flat[0], bad.shape), strict=True)}
    field = array.isel(where).isnull().values
    inner: dict[Any, int] = {d: int(i) for d, i in zip(rest, np.argwhere(field)[0], strict=True)} if rest else {}
    place = []
    for dim, index in {**where, **inner}.items():
        place.append(f"{dim}={str(array[dim].values[index])[:19] if dim in array.coords else int(index)}")
    return "first at " + ", ".join(place)


def _variable_statistics(
    dataset: xr.Dataset, name: str, part: Part, stride: int, weights: xr.DataArray | None, progress: bool
) -> ChannelStatistics:
    array = dataset[name]
    if TRAJECTORY in array.dims:
        array = array.isel({TRAJECTORY: part.trajectories})
    level = [str(d) for d in array.dims if d in LEVEL_NAMES]
    space = [str(d) for d in array.dims if d not in (TIME, TRAJECTORY, *LEVEL_NAMES)]
    array = array.transpose(*level, ..., *space)
    if not level:
        array = array.expand_dims("level", 0)
    weight = _weight_array(array, space, weights)
    summary, weight = dask.delayed(_summarise), dask.delayed(weight)
    share = part.steps / array.sizes[TIME] if TIME in array.dims else 1.0
    every = max(1, int(array.size * share) // array.shape[0] // SKETCHED_VALUES)
    tasks = [
        summary(block.data, own, axis, weight, stride, every, seed)
        for seed, (block, own, axis) in enumerate(_blocks(array, part, stride))
    ]
    with naming_bad_chunks(dataset):
        found = _merge_all(tasks, f"statistics of {name}", progress)
    values, tendency = found.values, found.tendency
    return ChannelStatistics(
        values.mean.tolist(),
        values.std.tolist(),
        values.minimum.tolist(),
        values.maximum.tolist(),
        tendency.mean.tolist(),
        tendency.std.tolist(),
        [int(n) for n in values.missing],
        found.quantiles(),
    )


def _merge(summaries: Sequence[Summary]) -> Summary:
    merged = summaries[0]
    for more in summaries[1:]:
        merged = merged + more
    return merged


def _merge_all(tasks: Sequence[Any], label: str, progress: bool) -> Summary:
    """Compute and merge, a few tasks at a time and always in one order, so that memory and result are the same."""
    groups = [dask.delayed(_merge)(tasks[i : i + GROUP]) for i in range(0, len(tasks), GROUP)]
    size = min(32, max(4, len(groups) // 50))
    showing: AbstractContextManager[Callable[[int, int], None]] = nullcontext(lambda done, total: None)
    found: list[Summary] = []
    with bar(label) if progress else showing as update:
        for start in range(0, len(groups), size):
            found = [_merge([*found, *dask.compute(*groups[start : start + size])])]
            update(min(start + size, len(groups)), len(groups))
    return found[0]


def _weight_array(array: xr.DataArray, space: list[str], weights: xr.DataArray | None) -> np.ndarray:
    if weights is None or not set(map(str, weights.dims)) <= set(space):
        return np.ones(1)
    full, _ = xr.broadcast(weights, array.isel({d: 0 for d in array.dims if d not in space}, drop=True))
    return np.asarray(full.transpose(*space).values, dtype=np.float64)


def _blocks(array: xr.DataArray, part: Part, stride: int) -> Iterator[tuple[xr.DataArray, int, int]]:
    """Blocks of steps with the `stride` steps after them that their tendency needs.

    Yields block, number of own steps (-1 without time), and position of the time axis.
    """
    if TIME not in array.dims:
        yield array, -1, -1
        return
    axis = array.get_axis_num(TIME)
    step_bytes = max(1, array.nbytes // array.sizes[TIME])
    chunk = stored_chunks(array)[TIME]
    size = max(1, BLOCK_BYTES // step_bytes)
    size = -(-size // chunk) * chunk
    for lo, hi in part.runs:
        for start in range(lo, hi, size):
            own = min(size, hi - start)
            stop = min(start + own + stride, hi)
            yield array.isel({TIME: slice(start, stop)}), own, axis


def _summarise(block: Any, own: int, axis: int, weight: np.ndarray, stride: int, every: int, seed: int) -> Summary:
    block = np.asarray(block)

    def weights(values: np.ndarray) -> np.ndarray:
        return _flat_weight(weight, values)

    if own < 0:
        return Summary.of(block, block[:, None][:, :0], weights, every, seed)
    before = (slice(None),) * axis
    head, later = block[(*before, slice(own))], block[(*before, slice(stride, None))]
    change = later.astype(np.float64) - block[(*before, slice(later.shape[axis]))]
    return Summary.of(head, change, weights, every, seed)


def _flat_weight(weight: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Space weights repeated over the leading (trajectory, time) axes, flattened like ``block[0]``."""
    return np.broadcast_to(weight, block.shape[1:]).reshape(-1) if weight.size > 1 else np.ones(1)
