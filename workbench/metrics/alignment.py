"""Two labelled arrays are compared point by point only if their labels agree: checks, never a join.

xarray joins unequal coordinates silently (it keeps the intersection), which turns a shifted grid into a score
of fewer points. Here a difference is an error that names the coordinate and shows where it differs.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import InputError

Labelled = xr.DataArray | xr.Dataset


def as_names(over: str | Iterable[str]) -> tuple[str, ...]:
    """Return dimension names as a tuple; a lone string is one name."""
    return (over,) if isinstance(over, str) else tuple(over)


def require_dims(field: Labelled, dims: Sequence[str], what: str) -> None:
    """Raise unless ``field`` has every one of ``dims``."""
    missing = [dim for dim in dims if dim not in field.dims]
    if missing:
        raise InputError(
            f"{what}: expected {tuple(missing)} among its dimensions, found {tuple(map(str, field.dims))}: "
            f"name only dimensions that are there"
        )


def require_same_coordinates(
    first: Labelled, second: Labelled, dims: Iterable[Any], first_name: str, second_name: str
) -> None:
    """Raise unless both arrays have equal labels, in equal order, along every one of ``dims``.

    Args:
        first: An array with all of ``dims``.
        second: Another array with all of ``dims``.
        dims: The dimensions to compare.
        first_name: What to call ``first`` in the message.
        second_name: What to call ``second`` in the message.

    Raises:
        InputError: A label differs, a coordinate is there on one side only, or the sizes differ.
    """
    for dim in dims:
        a, b = first.indexes.get(dim), second.indexes.get(dim)
        if (a is None) != (b is None):
            has, lacks = (first_name, second_name) if b is None else (second_name, first_name)
            raise InputError(
                f"dimension '{dim}' has a coordinate in {has} but none in {lacks}: points cannot be matched; "
                f"give {lacks} the same coordinate with .assign_coords({dim}=...)"
            )
        if first.sizes[dim] != second.sizes[dim] or (a is not None and not _equal(a, b)):
            raise InputError(
                f"coordinate '{dim}' differs between {first_name} and {second_name}: "
                f"{_difference(a, b, first.sizes[dim], second.sizes[dim], first_name, second_name)}; "
                f"bring both to the same points first, for example {second_name}.sel({dim}=...)"
            )


def _equal(a: pd.Index, b: pd.Index | None) -> bool:
    return b is not None and len(a) == len(b) and bool(np.asarray(a == b).all())


def _difference(a: pd.Index | None, b: pd.Index | None, size_a: int, size_b: int, name_a: str, name_b: str) -> str:
    if a is None or b is None:
        return f"{name_a} has {size_a} points, {name_b} has {size_b}"
    if size_a != size_b:
        return f"{name_a} has {_span(a)}, {name_b} has {_span(b)}"
    first = int(np.flatnonzero(~np.asarray(a == b))[0])
    return f"at index {first} {name_a} has {a[first]}, {name_b} has {b[first]}"


def _span(index: pd.Index) -> str:
    return f"{len(index)} points ({index[0]} to {index[-1]})" if len(index) else "0 points"
