"""Symmetries of a record as more training data: shifts along periodic axes and reflections, drawn for every sample."""

from __future__ import annotations

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
class Symmetries:
    """Maps that take a record's trajectories to others that might as well have been recorded.

    In training every sample, with all its times, is shifted by a random number of nodes along each axis of `shifts`,
    and each reflection is made with probability one half. A channel flow: ``shifts: [x, z]``, ``reflections:
    [{axes: [y], odd: [v]}, {axes: [z], odd: [w]}]``.

    Args:
        shifts: periodic dimensions with even spacing.
        reflections: each by itself.
    """

    shifts: tuple[str, ...] = ()
    reflections: tuple[Reflection, ...] = ()


class Augmentation(nn.Module):
    """Applies `symmetries` to normalised batches.

    Args:
        symmetries: of the record.
        packing: channels, grids and normaliser of the batches.

    Raises:
        InputError: a dimension or variable is unknown, or the nodes along it are not even (mirrored).
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
        for role, group in packing.groups.items():
            for number, reflection in enumerate(symmetries.reflections):
                sign, offset = _odd(group, reflection)
                self.register_buffer(f"sign_{role}_{number}", sign, persistent=False)
                self.register_buffer(f"offset_{role}_{number}", offset, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Another sample of the same law for each sample.

        Args:
            batch: role -> normalised ``[b, (t,) c, *space]``; all of a sample's roles and times are mapped alike.
        """
        moved: dict[str, list[Tensor]] = {role: [] for role in batch}
        for index in range(len(next(iter(batch.values())))):
            fractions = torch.rand(len(self.symmetries.shifts)).tolist()
            mirrored = (torch.rand(len(self.symmetries.reflections)) < 0.5).tolist()
            for role, values in batch.items():
                moved[role].append(self._move(role, values[index], fractions, mirrored))
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
                sign, offset = (self.get_buffer(f"{what}_{role}_{number}") for what in ("sign", "offset"))
                x = torch.addcmul(offset, x, sign)
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


def _odd(group: ChannelGroup, reflection: Reflection) -> tuple[Tensor, Tensor]:
    """Sign and offset per channel: ``-x`` in physical units is ``-z - 2 mean / std`` in normalised ones."""
    odd = torch.tensor(
        [n in reflection.odd for n, k in zip(group.variables, group.levels, strict=True) for _ in range(k)]
    )
    shift = -2 * torch.tensor(group.mean) / torch.tensor(group.std)
    column = (-1, *[1] * len(group.shape))
    return torch.where(odd, -1.0, 1.0).reshape(column), torch.where(odd, shift, 0.0).reshape(column)
