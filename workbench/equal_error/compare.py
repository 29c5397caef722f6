"""From what was measured to what is written: errors, intervals and ratios of every point and statistic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from workbench.equal_error.clock import Timings
from workbench.equal_error.contestants import Contestant
from workbench.equal_error.errors import Result
from workbench.equal_error.profiles import STATISTICS, Profiles
from workbench.equal_error.ratios import Draws, Point, mean_errors, ratio_at, stack
from workbench.equal_error.sheet import Comparison, dataset_of
from workbench.equal_error.starts import Starts
from workbench.experiment import EvaluateConfig
from workbench.significance import expanded_level


def scorer(points: Sequence[Point], profiles: Profiles | None) -> Callable[[Result], tuple[np.ndarray, np.ndarray]]:
    """What turns a result into its errors at every point, and into the distances of its statistics.

    A distance is not below what the truth's own sample shows, so that a candidate at or below that is good enough.
    """

    def scores(result: Result) -> tuple[np.ndarray, np.ndarray]:
        once = np.ones((1, len(result.errors)))
        found = mean_errors(result.errors[None], once, points)[0, 0]
        if profiles is None:
            return found, np.empty(0)
        return found, np.maximum(profiles.distances(result.moments.mean(0)), profiles.sampling)

    return scores


@dataclass(frozen=True)
class _Column:
    """One point or statistic.

    Attributes:
        label: names it.
        errors: of surrogate and candidates ``(row, contestant)``, a row a resample.
        target: error that the solver has to reach ``(row,)``.
        draws: the resamples.
        references: errors of what costs nothing.
    """

    label: str
    errors: np.ndarray
    target: np.ndarray
    draws: Draws
    references: Mapping[str, float]

    def interval(self, confidence: float) -> list[float]:
        """Measured error of the surrogate, low and high; NaN without resamples."""
        own = self.errors[:, 0]
        if len(own) == 1:
            return [own[0], np.nan, np.nan]
        level = expanded_level(0.5 * (1.0 - confidence), self.draws.blocks)
        return [own[0], *np.quantile(own[1:], [level, 1.0 - level], method="inverted_cdf")]


def compare(
    config: EvaluateConfig,
    starts: Starts,
    points: Sequence[Point],
    profiles: Profiles | None,
    candidates: Sequence[Contestant],
    results: Sequence[Result],
    ran: Sequence[int],
    timings: Timings,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Everything that was measured, compared and labelled (`workbench.equal_error.sheet`).

    Args:
        config: resamples and confidence.
        starts: the forecasts.
        points: where errors are compared.
        profiles: statistics of long runs, if there are any.
        candidates: all that were tried.
        results: of the surrogate and of them.
        ran: those that have errors and timings.
        timings: of the surrogate and of those.
        attrs: global attributes.
    """
    chosen = [results[0], *(results[1 + i] for i in ran)]
    every, rounds = np.stack([result.errors for result in chosen]), timings.wall.shape[-1]
    columns = _leads(starts, points, every, rounds, config.resamples)
    if profiles is not None:
        columns += _statistics(profiles, np.stack([r.moments for r in chosen]), rounds, config.resamples)
    ratios = [
        ratio_at(c.errors[:, 1:], c.target, seconds[1:, batch], seconds[0, batch], c.draws, config.confidence)
        for c in columns
        for batch in range(2)
        for seconds in (timings.wall, timings.cpu)
    ]
    leads, per = starts.costs
    names = dict.fromkeys(name for column in columns for name in column.references)
    shown = np.stack([c.errors[0, 1:] for c in columns], 1)
    shown[np.isnan(every[1:]).all((1, 2)), : len(points)] = np.nan  # left out is not failed
    if profiles is not None:
        shown[[bool(np.isnan(result.moments).all()) for result in chosen[1:]], len(points) :] = np.nan
    return dataset_of(
        Comparison(
            [c.label for c in candidates], [c.settings for c in candidates], [r.note for r in results[1:]], ran,
            [c.label for c in columns], len(points), starts.problem.times(starts.times)["lead_time"],
            shown,
            np.transpose([c.interval(config.confidence) for c in columns]),
            {name: np.array([c.references.get(name, np.inf) for c in columns]) for name in names},
            every.mean(1), timings.wall * leads, timings.cpu * leads, per,
            starts.problem.names, timings.sizes,
            stack(ratios, (len(columns), 2, 2)),
        ),
        {**attrs, "confidence": config.confidence, "resamples": len(columns[0].draws.starts) - 1,
         "blocks": columns[0].draws.blocks},
    )  # fmt: skip


def _leads(starts: Starts, points: Sequence[Point], every: np.ndarray, rounds: int, resamples: int) -> list[_Column]:
    series = np.where(np.isfinite(every[0]), every[0], np.nan)
    draws = Draws.of(starts.groups, series, rounds, resamples)
    errors = mean_errors(every, draws.starts, points)
    free = {n: mean_errors(e[None], draws.starts[:1], points)[0, 0] for n, e in starts.without_a_model().items()}
    return [
        _Column(point.label, errors[..., i], errors[:, 0, i], draws, {n: float(e[i]) for n, e in free.items()})
        for i, point in enumerate(points)
    ]


def _statistics(profiles: Profiles, moments: np.ndarray, rounds: int, resamples: int) -> list[_Column]:
    """Distances of long runs; the error to reach is not below what the truth's own sample shows."""
    draws = Draws.of((moments.shape[1], 1), moments[0, :, 0, 0, 0], rounds, resamples)
    weights = draws.starts / draws.starts.sum(1, keepdims=True)
    errors = profiles.distances(np.einsum("rn,cnsky->rcsky", weights, moments))
    target = np.maximum(errors[:, 0], profiles.sampling)
    return [
        _Column(label, errors[..., i], target[:, i], draws, {"sampling": float(profiles.sampling[i])})
        for i, label in enumerate(STATISTICS)
    ]
