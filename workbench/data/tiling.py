"""Grids cut into windows of equal size, in pure integers: which windows fit, and what would make them fit.

Free of xarray, so that networks may import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.errors import InputError


def nearest_multiples(size: int, unit: int) -> tuple[int, int]:
    """The largest multiple of `unit` up to `size` (0 where there is none), and the smallest from `size` on."""
    return size // unit * unit, -(-size // unit) * unit


def refuse_uneven(grid: Mapping[str, int], unit: Sequence[int], what: str = "mask unit") -> None:
    """Raise unless windows of `unit` points cut a grid without remainder.

    Args:
        grid: points along each dimension.
        unit: points of a window along each dimension, in the same order.
        what: the name of a window, for the message.

    Raises:
        InputError: a remainder is left; the nearest crop and the nearest padding that leave none are named.
    """
    if len(grid) != len(unit) or min(unit) < 1:
        raise InputError(f"{what} {tuple(unit)}: expected a number from 1 for each of {', '.join(grid)}")
    repairs = []
    for (dim, size), step in zip(grid.items(), unit, strict=True):
        crop, pad = nearest_multiples(size, step)
        if crop != size:
            shorter = f"crop {dim} to {crop} (data.crop: {{{dim}: [0, {crop}]}}) or " if crop else ""
            repairs.append(f"{shorter}pad {dim} to {pad}")
    if repairs:
        sizes = " x ".join(f"{dim} {size}" for dim, size in grid.items())
        raise InputError(
            f"the grid of {sizes} points does not divide into windows of {' x '.join(map(str, unit))} points "
            f"({what}): {'; '.join(repairs)}"
        )
