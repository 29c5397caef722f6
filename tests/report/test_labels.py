"""Numbers, units and times in words."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.report import labels
from workbench.report.background import time_step
from workbench.report.sections import clock

EXPONENTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.58, "0.580"), (1.5349, "1.53"), (-12.345, "−12.3"), (1013.25, "1013"), (101325, "101325"),
     (2.19e-9, "2.19·10⁻⁹"), (-3e12, "−3.00·10¹²"), (0.9996, "1.00"), (math.nan, "–"), (math.inf, "–")],
)  # fmt: skip
def test_number(value, text):
    assert labels.number(value) == text


@pytest.mark.parametrize(
    ("largest", "units", "found"),
    [(13041.0, "Pa", (1e3, "kPa")), (3e8, "Pa", (1e6, "MPa")), (0.3, "Pa", (1.0, "Pa")), (0.0, "Pa", (1.0, "Pa")),
     (0.3, "m", (1e-3, "mm")), (2.0, "m", (1.0, "m")), (1e-9, "m", (1e-6, "µm")), (950.0, "N", (1.0, "N")),
     (5e4, "m s-1", (1.0, "m s-1"))],
)  # fmt: skip
def test_prefixes(largest, units, found):
    assert labels.prefixed(largest, units) == found


@given(st.floats(-1e30, 1e30).filter(lambda v: abs(v) > 1e-30))
def test_number_keeps_three_digits(value):
    mantissa, _, exponent = labels.number(value).translate(EXPONENTS).partition("·10")
    assert float(mantissa) * 10.0 ** int(exponent or 0) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("units", "pretty", "square"),
    [("m s-1", "m s⁻¹", "m2 s-2"), ("1", "", "1"), ("", "", "1"), ("K", "K", "K2"), ("kg m**-2", "kg m⁻²", "(kg m⁻²)²"),
     ("degrees_north", "°N", "(°N)²"), ("W/m2", "W/m²", "(W/m²)²")],
)  # fmt: skip
def test_units(units, pretty, square):
    assert labels.pretty_units(units) == pretty
    assert labels.squared(units) == square
    assert labels.with_units("u", units) == (f"u ({pretty})" if pretty else "u")


def lead(values, **attrs):
    return xr.DataArray(np.asarray(values), dims="lead_time", attrs=attrs)


@pytest.mark.parametrize(
    ("array", "values", "label"),
    [
        (lead(np.arange(1, 5) * np.timedelta64(6, "h")), [6, 12, 18, 24], "lead time (hours)"),
        (lead(np.arange(1, 5) * np.timedelta64(1, "D")), [1, 2, 3, 4], "lead time (days)"),
        (lead(np.arange(1, 3) * np.timedelta64(500, "ms")), [0.5, 1], "lead time (seconds)"),
        (lead([0.5, 1.0], units="s"), [0.5, 1.0], "lead time (s)"),
        (lead([1, 2, 3], units="1"), [1, 2, 3], "lead time (steps)"),
        (lead([0.1, 0.2]), [0.1, 0.2], "lead time"),
    ],
)
def test_lead_axis(array, values, label):
    found, words = labels.lead_axis(array)
    np.testing.assert_allclose(found, values)
    assert words == label


def test_times():
    assert labels.lead_label(np.timedelta64(24, "h")) == "24\u202fh"
    assert labels.lead_label(np.timedelta64(10, "D")) == "10\u202fd"
    assert labels.lead_label(0.25, "s") == "0.25\u202fs" and labels.lead_label(3) == "3"
    assert labels.moment(np.datetime64("2009-01-05T06:00", "ns")) == "2009-01-05 06:00"
    assert labels.moment(np.datetime64("2009-01-05T06:00:30", "ns")) == "2009-01-05 06:00:30"
    assert labels.moment("cell 3") == "cell 3" and labels.moment(2.5, "s") == "2.5\u202fs"
    assert time_step(86400, "s") == "24\u202fh" and time_step(0.25, "s") == "0.25 s" and time_step(1, "1") == "1"
    assert [clock(s) for s in (12.4, 83.4, 7500)] == ["12 s", "1 min 23 s", "2 h 05 min"]


def test_counts_and_durations():
    assert labels.count(1234567) == "1\u202f234\u202f567"
    assert [labels.short_count(v) for v in (999, 1188353, 2.5e9)] == ["999", "1.19\u202fM", "2.50\u202fG"]
    assert [labels.duration(v) for v in (2, 0.0123, 4.5e-6, 3e-9)] == [
        "2.00\u202fs",
        "12.3\u202fms",
        "4.50\u202fµs",
        "3.00\u202fns",
    ]
    assert [labels.brief(v) for v in (0.25, 101325.0, 1e7, -3.0)] == ["0.25", "101325", "1e+07", "−3"]


def test_dollars_are_escaped_for_matplotlib():
    assert labels.plain("a $x$\n b") == r"a \$x\$ b"
    assert labels.spoken("damped_persistence") == "damped persistence"
