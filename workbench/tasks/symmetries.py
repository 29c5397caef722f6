"""Symmetries of a record as more training data: shifts, reflections and exchanges of axes, drawn for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workbench.data.packing import ChannelGroup, Packing
from workbench.data.spec import Axis
from workbench.errors import InputError

UNEVEN = 1e-3
"""Part of the mean spacing by which nodes may be off an even or mirrored grid."""


@dataclass(frozen=True)
class Reflection:
    """A reversal of axes under which the laws of a record do not change.

    Args:
        axes: dimensions that are reversed together, ``[y]``; with elements beside nodes ``[node_y, elem_y]``.
        odd: variables that change their sign, such as the velocity along the axis.
    """

    axes: tuple[str, ...]
    odd: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """An exchange of axes under which the laws of a record do not change, such as those of a square section.

    Args:
        axes: pairs of dimensions that change places, ``[[y, z]]``; with elements beside nodes ``[[node_y, node_z],
            [elem_y, elem_z]]``.
        variables: pairs that change places with them, such as the components of the velocity along both.
    """

    axes: tuple[tuple[str, str], ...]
    variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Symmetries:
    """Maps that take a record's trajectories to others that might as well have been recorded.

    In training every sample, with all its times, is shifted by a random number of nodes along each axis of `shifts`,
    and each reflection and each exchange is made with probability one half. A channel flow: ``shifts: [x, z]``,
    ``reflections: [{axes: [y], odd: [v]}, {axes: [z], odd: [w]}]``.

    Args:
        shifts: periodic dimensions with even spacing.
        reflections: each by itself.
        exchanges: each by itself, after them.
    """

    shifts: tuple[str, ...] = ()
    reflections: tuple[Reflection, ...] = ()
    exchanges: tuple[Exchange, ...] = ()


class Augmentation(nn.Module):
    """Applies `symmetries` to normalised batches.

    Args:
        symmetries: of the record.
        packing: channels, grids and normaliser of the batches.

    Raises:
        InputError: a dimension or variable is unknown, the nodes along it are not even (mirrored), or those along two
            differ.
    """

    def __init__(self, symmetries: Symmetries, packing: Packing) -> None:
        super().__init__()
        self.symmetries, self.groups = symmetries, packing.groups
        dims = {dim for group in packing.groups.values() for dim in group.space}
        names = {name for group in packing.groups.values() for name in group.variables}
        for dim in symmetries.shifts:
            _check_shift(_axis(packing, dim, dims, "shifts"))
        for reflection in symmetries.reflections:
            for dim in reflection.axes:
                axis = _axis(packing, dim, dims, "reflections")
                if dim not in symmetries.shifts:
                    _check_mirrored(axis)
            unknown = [name for name in reflection.odd if name not in names]
            if unknown:
                raise InputError(
                    f"symmetries: '{unknown[0]}' is odd under the reflection of {', '.join(reflection.axes)}, but the "
                    f"experiment's variables are {sorted(names)}"
                )
        for exchange in symmetries.exchanges:
            for pair in exchange.axes:
                _check_alike(*(_axis(packing, dim, dims, "exchanges") for dim in pair))
            _check_partners(exchange, packing)
        for role, group in packing.groups.items():
            for number, reflection in enumerate(symmetries.reflections):
                self._keep(f"{role}_{number}", **_odd(group, reflection))
            for number, exchange in enumerate(symmetries.exchanges):
                self._keep(f"{role}_exchange_{number}", **_exchanged(group, exchange))

    def _keep(self, name: str, **tensors: Tensor) -> None:
        for what, tensor in tensors.items():
            self.register_buffer(f"{what}_{name}", tensor, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Another sample of the same law for each sample.

        Args:
            batch: role -> normalised ``[b, (t,) c, *space]``; all of a sample's roles and times are mapped alike.
        """
        moved: dict[str, list[Tensor]] = {role: [] for role in batch}
        for index in range(len(next(iter(batch.values())))):
            fractions = torch.rand(len(self.symmetries.shifts)).tolist()
            mirrored = (torch.rand(len(self.symmetries.reflections)) < 0.5).tolist()
            exchanged = (torch.rand(len(self.symmetries.exchanges)) < 0.5).tolist()
            for role, values in batch.items():
                x = self._move(role, values[index], fractions, mirrored)
                moved[role].append(self._exchange(role, x, exchanged))
        return {role: torch.stack(values) for role, values in moved.items()}

    def _move(self, role: str, x: Tensor, fractions: list[float], mirrored: list[bool]) -> Tensor:
        space = self.groups[role].space
        where = {dim: x.ndim - len(space) + place for place, dim in enumerate(space)}
        shifts = {
            where[dim]: int(fraction * x.shape[where[dim]])
            for dim, fraction in zip(self.symmetries.shifts, fractions, strict=True)
            if dim in where
        }
        if shifts:
            x = x.roll(list(shifts.values()), list(shifts))
        for number, reflection in enumerate(self.symmetries.reflections):
            if mirrored[number]:
                x = x.flip([where[dim] for dim in reflection.axes if dim in where])
                scale, offset = (self.get_buffer(f"{what}_{role}_{number}") for what in ("scale", "offset"))
                x = torch.addcmul(offset, x, scale)
        return x

    def _exchange(self, role: str, x: Tensor, exchanged: list[bool]) -> Tensor:
        space = self.groups[role].space
        channels = x.ndim - len(space) - 1
        for number, exchange in enumerate(self.symmetries.exchanges):
            if exchanged[number]:
                for one, other in exchange.axes:
                    if one in space:
                        x = x.transpose(channels + 1 + space.index(one), channels + 1 + space.index(other))
                name = f"{role}_exchange_{number}"
                order, scale, offset = (self.get_buffer(f"{what}_{name}") for what in ("order", "scale", "offset"))
                x = torch.addcmul(offset, x.index_select(channels, order), scale)
        return x


def _axis(packing: Packing, dim: str, known: set[str], what: str) -> Axis:
    if dim not in known:
        raise InputError(f"symmetries.{what} names the dimension '{dim}': expected one of {sorted(known)}")
    return packing.spec.axis(dim)


def _check_shift(axis: Axis) -> None:
    steps = np.diff(np.array(axis.values, float))
    if len(steps) and np.ptp(steps) > UNEVEN * abs(steps.mean()):
        raise InputError(
            f"symmetries.shifts: the nodes along '{axis.name}' are {abs(steps).min():.4g} to {abs(steps).max():.4g} "
            "apart; a shift needs a periodic axis with even spacing: leave it out"
        )


def _check_mirrored(axis: Axis) -> None:
    values = np.array(axis.values, float)
    spacing = np.ptp(values) / max(1, len(values) - 1)
    if np.abs(values + values[::-1] - (values[0] + values[-1])).max() > UNEVEN * spacing:
        raise InputError(
            f"symmetries.reflections: the nodes along '{axis.name}' are not the mirror image of themselves: leave the "
            "reflection out, or crop the record to a symmetric grid (data.crop)"
        )


def _check_alike(one: Axis, other: Axis) -> None:
    first, second = (np.array(axis.values, float) for axis in (one, other))
    if len(first) != len(second) or np.abs((first - first[0]) - (second - second[0])).max() > UNEVEN * np.ptp(first):
        raise InputError(
            f"symmetries.exchanges: the nodes along '{one.name}' ({len(first)} over {np.ptp(first):.4g}) and "
            f"'{other.name}' ({len(second)} over {np.ptp(second):.4g}) differ: leave the exchange out"
        )


def _check_partners(exchange: Exchange, packing: Packing) -> None:
    """Both of a pair of variables, and of axes, must be of one role with as many levels."""
    for pair in exchange.variables:
        groups = [group for group in packing.groups.values() if set(pair) <= set(group.variables)]
        if not groups or len({groups[0].levels[groups[0].variables.index(name)] for name in pair}) > 1:
            raise InputError(
                f"symmetries.exchanges: {pair[0]} and {pair[1]} must be variables of one role with as many levels, but "
                f"the roles hold { ({role: list(group.variables) for role, group in packing.groups.items()}) }"
            )
    for pair in exchange.axes:
        if any(len(set(pair) & set(group.space)) == 1 for group in packing.groups.values()):
            raise InputError(f"symmetries.exchanges: {pair[0]} and {pair[1]} must be two axes of the same variables")


def _odd(group: ChannelGroup, reflection: Reflection) -> dict[str, Tensor]:
    """Scale and offset of each channel: ``-x`` in physical units is ``-z - 2 mean / std`` in normalised ones."""
    odd = _column(group, [float(n in reflection.odd) for n, k in _variables(group) for _ in range(k)])
    shift = _column(group, group.mean) / _column(group, group.std)
    return {"scale": 1.0 - 2.0 * odd, "offset": -2.0 * odd * shift}


def _exchanged(group: ChannelGroup, exchange: Exchange) -> dict[str, Tensor]:
    """Which channel each channel becomes, and scale and offset from the other's normalisation to its own."""
    partner = dict(exchange.variables) | {other: one for one, other in exchange.variables}
    ends = np.cumsum([0, *group.levels])
    order = [
        int(ends[group.variables.index(partner.get(n, n))]) + level for n, k in _variables(group) for level in range(k)
    ]
    mean, std = _column(group, group.mean), _column(group, group.std)
    return {"order": torch.tensor(order), "scale": std[order] / std, "offset": (mean[order] - mean) / std}


def _variables(group: ChannelGroup) -> list[tuple[str, int]]:
    return list(zip(group.variables, group.levels, strict=True))


def _column(group: ChannelGroup, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, *[1] * len(group.shape))
