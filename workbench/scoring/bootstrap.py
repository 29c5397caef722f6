"""Bootstrap of one forecast's scores over its starts: the sums of every resample, and the bounds of what follows.

The resamples are those of `workbench.significance`: blocks of consecutive starts, levels expanded for few blocks.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from workbench.experiment import EvaluateConfig
from workbench.metrics import WeightedSums
from workbench.metrics.resampling import MIN_BLOCKS, automatic_block_length, block_counts
from workbench.scoring.sheet import finished, starts_of
from workbench.significance import expanded_level


def resample(metric: str, sums: WeightedSums, label: str, config: EvaluateConfig) -> tuple[WeightedSums, float] | None:
    """The sums of each bootstrap resample ``(resample, ...)`` and the number of blocks; None for too few starts.

    The blocks are as long as the autocorrelation of `metric` from start to start asks for.
    """
    dims = starts_of(sums)
    weights = sums.weights[label].transpose(*dims, ...)
    sizes = [weights.sizes[d] for d in dims]
    groups, length = int(np.prod(sizes[:-1])), sizes[-1]
    if groups * length < MIN_BLOCKS:
        return None
    each = finished([metric], sums, label).isel(metric=0).transpose(*dims, ...)
    block_length = automatic_block_length(each.values.reshape(groups, length, -1))
    drawn = block_counts(groups, length, block_length, config.resamples, 0).reshape(-1, *sizes)
    counts = xr.DataArray(drawn.astype(np.float64), dims=("resample", *dims))
    maxima = sums.maxima.where(counts > 0, -np.inf).max(dims, skipna=False) if sums.maxima else sums.maxima
    drawn_sums, drawn_weights = (part.map(lambda a: xr.dot(a, counts, dim=dims)) for part in (sums.sums, sums.weights))
    resampled = WeightedSums(drawn_sums, drawn_weights, maxima)
    return resampled, groups * length / block_length


def bounds_of(values: xr.DataArray, blocks: float, config: EvaluateConfig) -> tuple[xr.DataArray, xr.DataArray]:
    """Order statistics of resampled values (which may be infinite), at the level expanded for few blocks."""
    level = expanded_level(0.5 * (1.0 - config.confidence), blocks)
    ranked = np.sort(values.transpose("resample", ...).values, axis=0)  # NaN last
    ranked = np.where(np.isnan(ranked).any(0), np.nan, ranked)
    kept, last = values.isel(resample=0, drop=True), len(ranked) - 1
    low, high = round(level * last), round((1.0 - level) * last)
    return kept.copy(data=ranked[low]), kept.copy(data=ranked[high])
