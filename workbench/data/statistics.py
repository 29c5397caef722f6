"""Streamed, weighted, mergeable statistics of the training split.

One pass of dask over blocks of time gives, per channel, the weighted mean, variance, extrema and number of valid
values, and the same for the tendency ``x(t + step) - x(t)`` (the scale of residual targets). Blocks are combined by the
pairwise update of Chan, Golub & LeVeque (1983, eq. 1.3), so that the result does not depend on the chunking beyond
round-off. Results are kept beside the record with their period and fingerprint, and are never recomputed
silently nor taken from outside the training split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from workbench.data.spec import LEVEL_NAMES, TIME, TRAJECTORY
from workbench.data.store import naming_bad_chunks
from workbench.data.windows import Part
from workbench.errors import InputError
from workbench.progress import bar
from workbench.resources import data_root

BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Moments:
    """Weighted moments of a set of values, one entry per channel; ``+`` merges two disjoint sets.

    Attributes:
        weight: sum of weights ``[channel]``.
        mean: weighted mean ``[channel]``.
        m2: weighted sum of squared deviations from the mean ``[channel]``.
        minimum, maximum: extrema ``[channel]``.
        missing: number of non-finite values ``[channel]``.
    """

    weight: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    missing: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Moments:
        """Moments of `values` ``[channel, ...]`` with `weights` that broadcast against ``values[0]``."""
        values = values.reshape(len(values), -1).astype(np.float64)
        weight = np.broadcast_to(weights, values.shape)
        finite = np.isfinite(values)
        weight = np.where(finite, weight, 0.0)
        clean = np.where(finite, values, 0.0)
        total = weight.sum(1)
        mean = np.divide((weight * clean).sum(1), total, out=np.zeros_like(total), where=total > 0)
        m2 = (weight * (clean - mean[:, None]) ** 2).sum(1)
        low = np.where(finite, values, np.inf).min(1, initial=np.inf)
        high = np.where(finite, values, -np.inf).max(1, initial=-np.inf)
        return cls(total, mean, m2, low, high, (~finite).sum(1))

    def __add__(self, other: Moments) -> Moments:
        total = self.weight + other.weight
        share = np.divide(other.weight, total, out=np.zeros_like(total), where=total > 0)
        delta = other.mean - self.mean
        return Moments(
            total,
            self.mean + delta * share,
            self.m2 + other.m2 + delta**2 * self.weight * share,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.missing + other.missing,
        )

    @property
    def std(self) -> np.ndarray:
        """Weighted (biased) standard deviation ``[channel]``."""
        return np.sqrt(np.divide(self.m2, self.weight, out=np.zeros_like(self.m2), where=self.weight > 0))


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of one variable of the training split, one entry per level (one entry where it has none)."""

    mean: list[float]
    std: list[float]
    minimum: list[float]
    maximum: list[float]
    tendency_mean: list[float]
    tendency_std: list[float]
    missing: list[int]


@dataclass(frozen=True)
class Statistics:
    """Statistics of a record's training split.

    Attributes:
        variables: variable name -> its statistics.
        period: what the training split covers, for people.
        key: hash of record, variables, split and stride that the statistics belong to.
    """

    variables: dict[str, ChannelStatistics]
    period: str
    key: str

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Statistics:
        """Rebuild the statistics that `to_dict` wrote."""
        variables = {name: ChannelStatistics(**values) for name, values in plain["variables"].items()}
        return cls(variables, plain["period"], plain["key"])


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


def statistics_key(dataset: xr.Dataset, names: Sequence[str], part: Part, stride: int, weighted: bool) -> str:
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
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def statistics_path(dataset: xr.Dataset, key: str) -> Path:
    """Where statistics are kept: beside a local record if its folder can be written, else in the data folder."""
    source = Path(str(dataset.encoding.get("source", "record")))
    beside = source.parent
    if beside.is_dir() and os.access(beside, os.W_OK) and "*" not in source.name:
        return beside / f"{source.name}.statistics" / f"{key}.json"
    return data_root() / "statistics" / f"{source.name.replace('*', '_')}-{key}.json"


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
        variables = {n: _variable_statistics(dataset, n, part, stride, weights, progress) for n in names}
        found = Statistics(variables, part.label(dataset), key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.partial")
        temporary.write_text(json.dumps(found.to_dict()))
        os.replace(temporary, path)
    if missing == "error":
        _refuse_missing(dataset, found, part)
    return found


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
    moments = dask.delayed(_block_moments)
    tasks = [moments(block.data, own, axis, weight, stride) for block, own, axis in _blocks(array, part, stride)]
    with naming_bad_chunks(dataset):
        results = _compute(tasks, f"statistics of {name}", progress)
    values, tendency = results[0]
    for more_values, more_tendency in results[1:]:
        values, tendency = values + more_values, tendency + more_tendency
    return ChannelStatistics(
        values.mean.tolist(),
        values.std.tolist(),
        values.minimum.tolist(),
        values.maximum.tolist(),
        tendency.mean.tolist(),
        tendency.std.tolist(),
        [int(n) for n in values.missing],
    )


def _compute(tasks: list[Any], label: str, progress: bool) -> list[Any]:
    if not progress:
        return list(dask.compute(*tasks, scheduler="threads"))
    results: list[Any] = []
    size = max(1, len(tasks) // 50)
    with bar(label) as update:
        for start in range(0, len(tasks), size):
            results += dask.compute(*tasks[start : start + size], scheduler="threads")
            update(len(results), len(tasks))
    return results


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
    chunk = array.chunksizes[TIME][0] if array.chunks else 1
    size = max(1, BLOCK_BYTES // step_bytes)
    size = -(-size // chunk) * chunk
    for lo, hi in part.runs:
        for start in range(lo, hi, size):
            own = min(size, hi - start)
            stop = min(start + own + stride, hi)
            yield array.isel({TIME: slice(start, stop)}), own, axis


def _block_moments(block: Any, own: int, axis: int, weight: np.ndarray, stride: int) -> tuple[Moments, Moments]:
    block = np.asarray(block)
    if own < 0:
        values = Moments.of(block, _flat_weight(weight, block))
        return values, Moments.of(block[..., :0], np.ones(1))
    head = np.take(block, range(own), axis)
    later = np.take(block, range(stride, block.shape[axis]), axis)
    earlier = np.take(block, range(later.shape[axis]), axis)
    change = later.astype(np.float64) - earlier
    return Moments.of(head, _flat_weight(weight, head)), Moments.of(change, _flat_weight(weight, change))


def _flat_weight(weight: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Space weights repeated over the leading (trajectory, time) axes, flattened like ``block[0]``."""
    return np.broadcast_to(weight, block.shape[1:]).reshape(-1) if weight.size > 1 else np.ones(1)
