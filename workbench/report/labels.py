"""Numbers, units, times and lead times in the words of people."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CLOCK = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
_DEGREES = {"degrees_north": "°N", "degrees_east": "°E", "degree_north": "°N", "degree_east": "°E", "degrees": "°"}
_LONG = {"d": "days", "h": "hours", "min": "minutes", "s": "seconds"}


def plain(text: object) -> str:
    """Text that matplotlib prints as it is, without reading dollar signs as mathematics."""
    return " ".join(str(text).split()).replace("$", r"\$")


def pretty_units(units: object) -> str:
    """Units with raised exponents, ``m s-1`` as ``m s⁻¹``; empty for a pure number."""
    text = str(units).strip()
    if text in ("", "1", "None"):
        return ""
    if text in _DEGREES:
        return _DEGREES[text]
    text = re.sub(r"\*\*|\^", "", text)
    return re.sub(r"(?<=[A-Za-z])-?\d+", lambda match: match[0].translate(_SUPERSCRIPTS), text)


def squared(units: str) -> str:
    """Units of the square: ``m s-1`` as ``m2 s-2``; in brackets where they are not plain powers."""
    if units.strip() in ("", "1"):
        return "1"
    powers = [re.fullmatch(r"([A-Za-z]+)(-?\d+)?", word) for word in units.split()]
    if all(powers):
        return " ".join(f"{m[1]}{2 * int(m[2] or 1)}" for m in powers if m)
    return f"({pretty_units(units)})²"


def with_units(name: object, units: object) -> str:
    """``name (units)``; the name alone for a pure number."""
    pretty = pretty_units(units)
    return f"{name} ({pretty})" if pretty else str(name)


_PREFIXES = {"Pa": (("G", 1e9), ("M", 1e6), ("k", 1e3)), "N": (("M", 1e6), ("k", 1e3)), "m": (("m", 1e-3), ("µ", 1e-6))}


def prefixed(largest: float, units: object) -> tuple[float, str]:
    """What to divide pascals, newtons or metres by for numbers that are easy to read, and their units then.

    Other units are left alone.

    Args:
        largest: of the numbers.
        units: as the record has them.
    """
    text = str(units).strip()
    steps = sorted([("", 1.0), *_PREFIXES.get(text, ())], key=lambda step: step[1])
    prefix, size = max((s for s in steps if largest >= s[1]), key=lambda step: step[1], default=steps[0])
    return (size, prefix + text) if largest > 0 else (1.0, text)


def describe(array: xr.DataArray) -> str:
    """Name and units of a variable or coordinate for an axis."""
    name = array.attrs.get("long_name") or array.name
    return plain(with_units(name, array.attrs.get("units", "1")))


def number(value: Any, digits: int = 3) -> str:
    """`value` with `digits` significant digits, trailing zeros kept; an en dash where it is not finite."""
    value = float(value)
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 <= int(exponent) < 6:
        text = f"{value:.{max(digits - 1 - int(exponent), 0)}f}"
    else:
        text = f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return text.replace("-", "−")


def brief(value: float) -> str:
    """`value` with at most four significant digits and no trailing zeros: ends of axes and limits of colours."""
    size = abs(float(value))
    return (f"{value:.0f}" if 1e4 <= size < 1e6 else f"{value:.4g}").replace("-", "−")


def power_of_ten(value: float) -> str:
    """A power of ten for an axis: ``0.01``, ``1``, ``10⁴``."""
    exponent = round(float(np.log10(value)))
    return brief(value) if -2 <= exponent <= 3 else f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def spoken(name: object) -> str:
    """A name of the program in words: ``damped_persistence`` as ``damped persistence``."""
    return str(name).replace("_", " ")


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands: ``1 234 567``."""
    return f"{int(value):,}".replace(",", "\u202f")


def short_count(value: Any) -> str:
    """A large whole number in three digits: ``1.23 M``."""
    size = float(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{number(size / limit)}\u202f{letter}"
    return f"{size:.0f}"


def duration(seconds: float) -> str:
    """Seconds of computing in a fitting unit: ``12.3 ms``."""
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= limit:
            return f"{number(seconds / limit)}\u202f{unit}"
    return f"{number(seconds * 1e9)}\u202fns"


def lead_axis(lead: xr.DataArray) -> tuple[np.ndarray, str]:
    """Lead times as numbers, and the label of their axis.

    Args:
        lead: ``lead_time`` as timedelta64, or numbers with the attribute ``units``.
    """
    if np.issubdtype(lead.dtype, np.timedelta64):
        seconds = lead.values / np.timedelta64(1, "s")
        unit, size = _clock_unit(float(np.max(np.abs(seconds), initial=0.0)))
        return seconds / size, f"lead time ({_LONG[unit]})"
    values = lead.values.astype(float)
    units = pretty_units(lead.attrs.get("units", "1"))
    if not units and np.array_equal(values, np.arange(1, len(values) + 1)):
        return values, "lead time (steps)"
    return values, f"lead time ({units})" if units else "lead time"


def _clock_unit(seconds: float) -> tuple[str, float]:
    """The largest unit of which `seconds` hold at least two (days from two days on, and so on)."""
    return next(((unit, size) for unit, size in _CLOCK if seconds >= 2 * size), _CLOCK[-1])


def lead_label(value: Any, units: object = "1") -> str:
    """One lead time: ``6 h`` or ``0.25 s``."""
    if isinstance(value, np.timedelta64):
        seconds = float(value / np.timedelta64(1, "s"))
        unit, size = _clock_unit(seconds)
        return f"{seconds / size:.4g}\u202f{unit}"
    pretty = pretty_units(units)
    return f"{float(value):.4g}\u202f{pretty}" if pretty else f"{float(value):.4g}"


def moment(value: Any, units: object = "1") -> str:
    """An instant: ``2009-01-05 06:00``, or a number with units."""
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]")).replace("T", " ").removesuffix(":00")
    if isinstance(value, (str, np.str_)):
        return str(value)
    return lead_label(value, units)
