"""xarray <-> tensor: channels, units and the normaliser, with an exact inverse.

A `Packing` lists, for each *role* (state, forcing, static, diagnostic), the channels as (variable, level) with units,
and holds the mean and standard deviation of the training split. It travels inside every checkpoint, so that a
checkpoint alone turns a physical Dataset into a physical prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench.data.config import DataConfig
from workbench.data.derived import is_derived
from workbench.data.readers.merra2 import published_scalers
from workbench.data.spec import ANOMALY_VARIANCE, LEVEL_NAMES, TIME, TRAJECTORY, RecordSpec
from workbench.data.statistics import Statistics
from workbench.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelGroup:
    """The channels of one role, all on one grid, with their normaliser.

    Attributes:
        variables: variable names, in channel order.
        levels: number of levels of each variable (1 for a variable without level).
        space: names of the space dims, in tensor order.
        shape: sizes of the space dims.
        mean, std: one number per channel; a constant channel has std 1.
        tendency_std: standard deviation of one step's change, per channel; 1 where there is none.
        anomaly_std: root of the mean square of the anomaly from the climatology, per channel of the state where the
            experiment has a climatology (1 where it is 0); empty elsewhere.
    """

    variables: tuple[str, ...]
    levels: tuple[int, ...]
    space: tuple[str, ...]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tendency_std: tuple[float, ...]
    anomaly_std: tuple[float, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sum(self.levels)

    def names(self) -> list[str]:
        """One name per channel: ``t2m``, or ``u[0]``, ``u[1]`` for levels."""
        return [
            name if count == 1 else f"{name}[{i}]"
            for name, count in zip(self.variables, self.levels, strict=True)
            for i in range(count)
        ]


@dataclass(frozen=True)
class Packing:
    """How a record becomes tensors and back.

    Attributes:
        spec: variables, grid and time step that the packing was made for.
        groups: role -> its channels.
        history: number of states that a model sees.
        missing: ``error`` or ``mask``.
        period: what the normaliser was fitted on.
        coarsen: points along each axis of a cell, where the means over cells are downscaled.
    """

    spec: RecordSpec
    groups: dict[str, ChannelGroup]
    history: int
    missing: str
    period: str
    coarsen: int = 1

    @classmethod
    def fit(
        cls, dataset: xr.Dataset, config: DataConfig, statistics: Statistics, climatology: xr.Dataset | None = None
    ) -> Packing:
        """Make the packing of an experiment from the record and the statistics of its training split.

        Args:
            dataset: the record.
            config: the ``data:`` section.
            statistics: of the training split.
            climatology: whose anomalies are predicted, where the experiment names one.

        Raises:
            InputError: variables of one role lie on different grids, or published scalers lack a variable.
        """
        spec = RecordSpec.of(dataset, config.variables(), config.stride)
        if config.normalise == "published":
            statistics = _with_published_scalers(dataset, config, statistics)
        groups = {
            role: _group(spec, names, statistics, config.normalise != "none") for role, names in config.roles().items()
        }
        if climatology is not None:
            variances = [climatology[n + ANOMALY_VARIANCE].values.ravel() for n in groups["state"].variables]
            anomaly_std = tuple(float(v) or 1.0 for v in np.sqrt(np.concatenate(variances)))
            groups["state"] = replace(groups["state"], anomaly_std=anomaly_std)
        return cls(spec, groups, config.history, config.missing, statistics.period, config.coarsen)

    @property
    def space(self) -> tuple[int, ...]:
        """Sizes of the grid that the model works on: that of the state, else of the first role."""
        return (self.groups.get("state") or next(iter(self.groups.values()))).shape

    def check(self, dataset: xr.Dataset, where: str, roles: Sequence[str] | None = None, stride: int = 1) -> None:
        """Compare `dataset` with what the packing was made for.

        Raises:
            InputError: variables, units, grid or time step differ; every difference is listed.
        """
        names = [n for role, group in self.groups.items() if roles is None or role in roles for n in group.variables]
        present = [n for n in names if n in dataset.data_vars]
        found = RecordSpec.of(dataset, present, stride)
        wanted = RecordSpec(
            tuple(self.spec.variable(n) for n in names),
            self.spec.axes,
            self.spec.time_step,
            self.spec.time_units,
            self.spec.calendar,
            self.spec.parameters,
        )
        several = TIME in dataset.dims and dataset.sizes[TIME] > 1
        wanted.require(found, where, check_time=several)
        for sentence in wanted.other_parameters(found):
            log.warning("%s is unlike what the model was trained for: %s", where, sentence)

    def pack(self, dataset: xr.Dataset, role: str) -> Float[Tensor, "..."]:
        """Physical float32 tensor ``[(trajectory,) (time,) channel, *space]`` of the variables of `role`."""
        group = self.groups[role]
        parts = []
        for name in group.variables:
            array = dataset[name]
            lead = [d for d in (TRAJECTORY, TIME) if d in array.dims]
            level = [d for d in array.dims if d in LEVEL_NAMES] or ["_level"]
            if level == ["_level"]:
                array = array.expand_dims("_level")
            parts.append(array.transpose(*lead, *level, *group.space).values)
        axis = parts[0].ndim - len(group.space) - 1
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts, axis), dtype=np.float32))

    def unpack(
        self, tensor: Float[Tensor, "..."], role: str, dims: Sequence[str], coords: Mapping[str, Any]
    ) -> xr.Dataset:
        """Dataset of the physical `tensor` ``[*dims, channel, *space]``, coordinates and attributes restored.

        Args:
            tensor: values in physical units.
            role: whose channels they are.
            dims: names of the leading dims (``member``, ``init_time``, ``lead_time`` …).
            coords: coordinates of the leading dims.
        """
        values = self.split(tensor.detach().cpu().numpy(), role, len(dims))
        data = {
            name: ((*dims, *self.dims(name)), array, self.spec.variable(name).all_attrs())
            for name, array in values.items()
        }
        return xr.Dataset(data, coords={**coords, **self.grid(self.groups[role].variables)})

    def split(self, values: np.ndarray, role: str, leading: int) -> dict[str, np.ndarray]:
        """Cut ``[..., channel, *space]`` into variable -> ``[..., (level,) *space]``, as views."""
        group, out, start = self.groups[role], {}, 0
        for name, count in zip(group.variables, group.levels, strict=True):
            piece = values[(slice(None),) * leading + (slice(start, start + count),)]
            has_level = any(d in LEVEL_NAMES for d in self.spec.variable(name).dims)
            out[name] = piece if has_level else piece.squeeze(leading)
            start += count
        return out

    def dims(self, name: str) -> tuple[str, ...]:
        """Dims of a predicted variable: its level, then space, in tensor order."""
        group = next(g for g in self.groups.values() if name in g.variables)
        level = tuple(d for d in self.spec.variable(name).dims if d in LEVEL_NAMES)
        return (*level, *group.space)

    def grid(self, names: Sequence[str]) -> dict[str, Any]:
        """Coordinates of the grid that the variables `names` lie on."""
        used = dict.fromkeys(d for n in names for d in self.dims(n))
        return {d: (d, np.array(self.spec.axis(d).values), {"units": self.spec.axis(d).units}) for d in used}

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: the inverse of `from_dict`."""
        return {
            "spec": self.spec.to_dict(),
            "groups": {role: asdict(group) for role, group in self.groups.items()},
            "history": self.history,
            "missing": self.missing,
            "period": self.period,
            "coarsen": self.coarsen,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Packing:
        """Rebuild the packing that `to_dict` wrote."""
        groups = {role: ChannelGroup(**{k: tuple(v) for k, v in g.items()}) for role, g in plain["groups"].items()}
        spec = RecordSpec.from_dict(plain["spec"])
        return cls(spec, groups, plain["history"], plain["missing"], plain["period"], plain.get("coarsen", 1))


class Normaliser(torch.nn.Module):
    """``(x - mean) / std`` per channel and its inverse, on any device.

    The buffers are not part of the state dict: they come from the packing, which every checkpoint carries.
    """

    mean: Tensor
    std: Tensor
    tendency_std: Tensor

    def __init__(self, group: ChannelGroup) -> None:
        super().__init__()
        for name in ("mean", "std", "tendency_std"):
            column = torch.tensor(getattr(group, name), dtype=torch.float32).reshape(-1, *[1] * len(group.shape))
            self.register_buffer(name, column, persistent=False)

    def forward(self, x: Float[Tensor, "*b c *space"]) -> Float[Tensor, "*b c *space"]:
        """Physical units -> units of the training standard deviation."""
        return (x - self.mean) / self.std

    def inverse(self, z: Float[Tensor, "*b c *space"]) -> Float[Tensor, "*b c *space"]:
        """Normalised -> physical units."""
        return z * self.std + self.mean


def _group(spec: RecordSpec, names: Sequence[str], statistics: Statistics, standard: bool) -> ChannelGroup:
    grids = {name: tuple(d for d in spec.variable(name).dims if d not in LEVEL_NAMES) for name in names}
    if len({tuple(sorted(g)) for g in grids.values()}) > 1:
        listed = "; ".join(f"'{n}' on {g}" for n, g in grids.items())
        raise InputError(f"variables of one role must share a grid, found {listed}")
    space = grids[names[0]]
    levels = tuple(len(statistics.variables[n].mean) for n in names)
    columns: dict[str, tuple[float, ...]] = {}
    for field in ("mean", "std", "tendency_std"):
        values = [float(v) for n in names for v in getattr(statistics.variables[n], field)]
        columns[field] = tuple(v if field == "mean" or v > 0 else 1.0 for v in values)
    if not standard:
        columns["mean"] = (0.0,) * len(columns["mean"])
        columns["std"] = (1.0,) * len(columns["std"])
    shape = tuple(len(spec.axis(d).values) for d in space)
    return ChannelGroup(tuple(names), levels, space, shape, **columns)


def _with_published_scalers(dataset: xr.Dataset, config: DataConfig, statistics: Statistics) -> Statistics:
    """Means and standard deviations of the published files in place of those of the training split."""
    scalers, found = published_scalers(str(config.climatology)), dict(statistics.variables)
    for name in config.variables():
        if is_derived(dataset[name]):
            continue
        if name not in scalers:
            raise InputError(
                f"the published scalers in {config.climatology} lack '{name}': set data.normalise: standard"
            )
        kept = {d: slice(*config.crop[d]) for d in scalers[name].dims if d in config.crop}
        mean, std = (scalers[name].sel(statistic=s).isel(kept).values.ravel().tolist() for s in ("mean", "std"))
        if len(mean) != len(found[name].mean):
            raise InputError(f"'{name}' has {len(found[name].mean)} levels, the published scalers have {len(mean)}")
        found[name] = replace(found[name], mean=mean, std=std)
    return replace(statistics, variables=found)
