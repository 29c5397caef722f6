"""Which forecasts are made, and what their Dataset looks like: coordinates, attributes, chunks; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from workbench.data.spec import TRAJECTORY
from workbench.data.starts import forecast_times
from workbench.data.windows import Windows
from workbench.data.writer import lazy_like
from workbench.experiment import RolloutConfig

if TYPE_CHECKING:
    from workbench.data.packing import Packing

CHUNK_BYTES = 4 * 2**20
LEADING = ("member", TRAJECTORY, "init_time")


@dataclass
class ForecastPlan:
    """Which forecasts are made, of which record, in which batches.

    Attributes:
        record: the record that the starts come from.
        trajectories: ``int64[n]`` positions along trajectory.
        starts: ``int64[m]`` record time indices of the latest state seen.
        steps: number of leads.
        stride: record steps between two states.
        members: ensemble members per start.
        perturbation: noise on members' initial states, in training standard deviations.
        seed: seed of the noise.
        batch_size: forecasts advanced together.
        block: leads per chunk.
        climatology: of the state, for a model that adds to it; `workbench.data.climatology_store` opens one.
        first_lead: strides from the start to the first lead: 1, or 0 for a diagnosis.
    """

    record: xr.Dataset
    trajectories: np.ndarray
    starts: np.ndarray
    steps: int
    stride: int = 1
    members: int = 1
    perturbation: float = 0.0
    seed: int = 0
    batch_size: int = 16
    block: int = 20
    climatology: xr.Dataset | None = None
    first_lead: int = 1

    @property
    def counts(self) -> dict[str, int]:
        """Forecasts along member, trajectory and initial time."""
        return {"member": self.members, TRAJECTORY: len(self.trajectories), "init_time": len(self.starts)}

    @property
    def batched(self) -> str:
        """The dimension along which forecasts are batched: the longest."""
        return max(self.counts, key=lambda dim: self.counts[dim])

    def batches(self) -> list[dict[str, slice]]:
        """The forecasts of each batch, as slices of member, trajectory and initial time."""
        counts, axis = self.counts, self.batched
        others = [dim for dim in LEADING if dim != axis]
        return [
            {
                others[0]: slice(i, i + 1),
                others[1]: slice(j, j + 1),
                axis: slice(k, min(k + self.batch_size, counts[axis])),
            }
            for i in range(counts[others[0]])
            for j in range(counts[others[1]])
            for k in range(0, counts[axis], self.batch_size)
        ]

    def members_of(self, batch: Mapping[str, slice]) -> list[tuple[int, int, int]]:
        """The (member, trajectory, initial time) numbers of a batch, in tensor order."""
        ranges = [range(batch[dim].start, batch[dim].stop) for dim in LEADING]
        return [(m, j, k) for m in ranges[0] for j in ranges[1] for k in ranges[2]]

    def windows(self, batch: Mapping[str, slice], first: int, length: int) -> Windows:
        """Record windows of `length` states whose first is `first` states after the start."""
        chosen = self.members_of(batch)
        start = np.array([self.starts[k] + first * self.stride for _, _, k in chosen], dtype=np.int64)
        return Windows(
            np.array([self.trajectories[j] for _, j, _ in chosen], dtype=np.int64), start, length, self.stride
        )


def plan_from(
    record: xr.Dataset,
    config: RolloutConfig,
    trajectories: np.ndarray,
    starts: np.ndarray,
    packing: Packing,
    stride: int,
    batch_size: int,
    climatology: xr.Dataset | None = None,
) -> ForecastPlan:
    """The plan of an experiment's `rollout` section, with a chunk of about 4 MB by default."""
    batch = config.batch_size or batch_size
    step_bytes = 4 * int(np.prod(packing.space))
    block = config.block or max(1, min(config.steps, CHUNK_BYTES // (step_bytes * batch)))
    return ForecastPlan(
        record,
        trajectories,
        starts,
        config.steps,
        stride,
        config.members,
        config.perturbation,
        config.seed,
        batch,
        block,
        climatology,
    )


def template(packing: Packing, plan: ForecastPlan) -> xr.Dataset:
    """The forecast Dataset in full shape, lazy, with every coordinate and attribute."""
    times = forecast_times(plan.record, plan.starts, plan.stride, plan.steps, plan.first_lead)
    coords: dict[str, Any] = {
        "member": ("member", np.arange(plan.members), {"long_name": "ensemble member", "units": "1"})
    }
    sizes = dict(plan.counts)
    if TRAJECTORY in plan.record.dims:
        coords[TRAJECTORY] = plan.record[TRAJECTORY].isel({TRAJECTORY: plan.trajectories}).variable
    else:
        del sizes[TRAJECTORY]
    sizes["lead_time"] = plan.steps
    data = {}
    names = [n for role in ("state", "diagnostic") if role in packing.groups for n in packing.groups[role].variables]
    for name in names:
        dims = packing.dims(name)
        shape = {**sizes, **{d: len(packing.spec.axis(d).values) for d in dims}}
        data[name] = ((*sizes, *dims), lazy_like(shape), packing.spec.variable(name).all_attrs())
    return xr.Dataset(data, coords={**coords, **times, **_grid(packing, plan.record, names)})


def _grid(packing: Packing, record: xr.Dataset, names: list[str]) -> dict[str, Any]:
    """Grid coordinates with the attributes that the record gives them."""
    grid = packing.grid(names)
    return {
        dim: (dim, values, {**attrs, **(record[dim].attrs if dim in record.coords else {})})
        for dim, (_, values, attrs) in grid.items()
    }
