"""Circular block resampling of autocorrelated samples: how long the blocks, and which samples each resample draws.

Samples come in groups (trajectories) of equal length; blocks are of consecutive samples and never cross from one
group into another (Politis & Romano 1992, "A circular block-resampling procedure for stationary data").
"""

import math

import numpy as np

MIN_BLOCKS = 4


def automatic_block_length(series: np.ndarray) -> int:
    """Return the block length for samples ``(group, sample, series)``.

    With at least `MIN_BLOCKS` groups a whole group is one block, since groups are independent. With fewer it is the
    automatic length of Politis & White (2004), doi:10.1081/ETR-120028836, with the correction of Patton, Politis &
    White (2009), doi:10.1080/07474930802459016, of the autocorrelation averaged over the series (leads, levels); at
    least the cube root of the number of samples n, since with few samples that estimate is often far too short, and
    at most n / `MIN_BLOCKS`. A series with a NaN or infinity counts for nothing.
    """
    groups, length, _ = series.shape
    if groups >= MIN_BLOCKS or length == 1:
        return length
    usable = series[..., np.isfinite(series).all(axis=(0, 1))]
    total = groups * length
    smallest, largest = math.ceil(round(total ** (1 / 3), 9)), max(1, min(length, total // MIN_BLOCKS))
    return min(max(_politis_white(usable), smallest), largest) if usable.size else largest


def _politis_white(series: np.ndarray) -> int:
    """Return the optimal circular block length from the autocorrelation averaged over the last axis."""
    groups, length, _ = series.shape
    total = groups * length
    anomaly = series - series.mean(axis=(0, 1))
    variance = np.mean(anomaly**2, axis=(0, 1))
    anomaly = anomaly[..., variance > 0] / np.sqrt(variance[variance > 0])
    if anomaly.size == 0:
        return 1
    correlation = np.array(
        [np.sum(anomaly[:, lag:] * anomaly[:, : length - lag], axis=(0, 1)).mean() / total for lag in range(length)]
    )
    insignificant = np.abs(correlation) < 2.0 * np.sqrt(np.log10(total) / total)
    run = max(5, int(np.ceil(np.sqrt(np.log10(total)))))
    padded = np.concatenate([insignificant, np.ones(run, dtype=bool)])
    # The smallest lag after which a run of correlations is insignificant; lag 0 is 1 and never is.
    last = next(lag for lag in range(length) if padded[lag + 1 : lag + 1 + run].all())
    lags = np.arange(1, min(2 * last, length - 1) + 1)
    taper = np.minimum(1.0, 2.0 * (1.0 - lags / max(2 * last, 1)))
    # An estimate at or below zero (strong anticorrelation) stands for a small one: the longest blocks.
    spectrum = max(1.0 + 2.0 * np.sum(taper * correlation[lags]), 1.0 / total)
    curvature = 2.0 * np.sum(taper * lags * correlation[lags])
    return int(np.ceil((1.5 * (curvature / spectrum) ** 2 * total) ** (1.0 / 3.0)))


def block_counts(groups: int, length: int, block_length: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each sample is drawn in each resample, ``(resamples, groups * length)``.

    Each resample draws blocks of ``block_length`` consecutive samples, each circular within a group drawn at random,
    and cuts the last so that every resample has as many samples as there are.
    """
    total = groups * length
    generator = np.random.default_rng(seed)
    draws = -(-total // block_length)
    group = generator.integers(groups, size=(resamples, draws, 1))
    offset = generator.integers(length, size=(resamples, draws, 1))
    chosen = group * length + (offset + np.arange(block_length)) % length
    chosen = chosen.reshape(resamples, -1)[:, :total] + total * np.arange(resamples)[:, None]
    return np.bincount(chosen.ravel(), minlength=resamples * total).reshape(resamples, total)
