"""What scores are made of: the sums of all forecasts, and what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import xarray as xr

from workbench.data.spec import TRAJECTORY
from workbench.errors import InputError
from workbench.experiment import EvaluateConfig
from workbench.metrics import WeightedSums, find_metric, finish
from workbench.metrics.fields import VECTOR_METRICS
from workbench.scoring.tally import ENSEMBLE_ONLY, Tally

ENSEMBLE_OWN = ("crps", "crps_fair", "spread", "skill", "spread_skill_ratio")
"""Always scored where there are members."""
ENSEMBLE_PRINTED = ("crps_fair", "spread_skill_ratio")


@dataclass(frozen=True)
class Sheet:
    """What scores are made of.

    Attributes:
        tally: the sums; its first forecast is the one that is judged.
        metrics: names of the metrics, in the order of the table.
        config: headline, resamples and confidence.
        baselines: names of the forecasts that the first one is compared with; none where only baselines are scored.
        leads: the coordinate ``lead_time``.
        units: entry -> units.
        vectors: entries that are vectors, which have `VECTOR_METRICS` alone.
    """

    tally: Tally
    metrics: tuple[str, ...]
    config: EvaluateConfig
    baselines: tuple[str, ...]
    leads: xr.DataArray
    units: dict[str, str]
    vectors: frozenset[str]

    @property
    def forecasts(self) -> list[str]:
        """Names of all forecasts, the one that is judged first."""
        return list(self.tally.sums)

    @property
    def labels(self) -> list[str]:
        """Names of the rows: variables, or levels of them."""
        return list(next(iter(self.tally.sums.values())))

    @property
    def ahead(self) -> bool:
        """Whether the leads lie ahead of the starts; a diagnosis has the lead 0 alone."""
        leads = self.leads.values
        return bool(leads[0] != leads[0] - leads[0])

    @property
    def lead_units(self) -> dict[str, str]:
        """The attribute ``units`` of a lead; none for time differences, which carry their own."""
        return {k: str(v) for k, v in self.leads.attrs.items() if k == "units"}

    def metrics_of(self, name: str, label: str) -> list[str]:
        """The metrics that a row of the forecast `name` has."""
        single = name in self.baselines or not self.baselines
        return [
            m
            for m in self.metrics
            if not (single and m in ENSEMBLE_ONLY) and not (label in self.vectors and m not in VECTOR_METRICS)
        ]

    def by_row(self, rows: dict[str, dict[str, xr.DataArray]], dim: str) -> xr.DataArray:
        """Stack ``name -> entry -> array`` into one array ``(dim, variable, ...)``, NaN for entries without one."""
        outer = [
            xr.concat(list(found.values()), pd.Index(list(found), name="variable"), join="outer", coords="minimal",
                      compat="override", combine_attrs="drop")
            for found in rows.values()
        ]  # fmt: skip
        index = pd.Index(list(rows), name=dim)
        found = xr.concat(outer, index, join="outer", coords="minimal", compat="override", combine_attrs="drop")
        return found if list(found.indexes["variable"]) == self.labels else found.reindex(variable=self.labels)


def scored_metrics(config: EvaluateConfig, members: int | None) -> tuple[str, ...]:
    """The metrics of the table: those asked for, the headline, and for an ensemble its own.

    Args:
        config: the section ``evaluate``.
        members: of the forecast; None where only baselines are scored, which leaves ensemble metrics out.

    Raises:
        InputError: a metric is unknown or needs more members, or the headline cannot tell better from worse.
    """
    if config.headline in ENSEMBLE_ONLY or find_metric(config.headline).optimum is None:
        raise InputError(
            f"evaluate.headline is '{config.headline}', by which a model cannot be compared with baselines of one "
            "member: choose an error such as rmse, mae or crps"
        )
    if config.vectors and config.headline not in VECTOR_METRICS:
        raise InputError(
            f"evaluate.headline is '{config.headline}', which a vector does not have (evaluate.vectors): choose rmse"
        )
    own = ENSEMBLE_OWN if members is not None and members > 1 else ()
    names = tuple(dict.fromkeys((*config.metrics, config.headline, *config.printed, *own)))
    for name in names:
        find_metric(name)
        if name in ENSEMBLE_ONLY and members == 1:
            raise InputError(
                f"evaluate.metrics names '{name}', which needs an ensemble, and the forecast has one member: leave it "
                "out, or roll out with rollout.members and rollout.perturbation"
            )
    return tuple(n for n in names if members is not None or n not in ENSEMBLE_ONLY)


def starts_of(sums: WeightedSums) -> list[str]:
    """The dimensions that number the starts."""
    return [d for d in (TRAJECTORY, "init_time") if d in sums.weights.dims]


def finished(metrics: Sequence[str], sums: WeightedSums, label: str) -> xr.DataArray:
    """The metrics ``(metric, ...)`` of one row that follow from its sums."""
    return finish(metrics, sums)[label].drop_vars("unit_power")
