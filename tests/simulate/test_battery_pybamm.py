"""Cells by PyBaMM, where it is installed."""

import sys

import numpy as np
import pytest

from workbench.data.recipe import read_recipe
from workbench.errors import InputError
from workbench.simulate.battery_pybamm import PybammCells


@pytest.mark.filterwarnings("ignore")  # those of PyBaMM and what it imports
def test_cells_age_and_stay_within_their_limits():
    pytest.importorskip("pybamm", reason="the extra 'pybamm' is not installed")
    found = PybammCells(count=1, cycles=6, points=40, most_cycles=6).template().load()
    assert found.charge_voltage.max() < 4.21 and found.charge_voltage.min() > 2.45
    assert (np.diff(found.capacity) < 0).all() and 4.5 < float(found.capacity[0, 0]) < 5.1
    np.testing.assert_allclose(found.discharge_capacity[..., -1], found.capacity, rtol=0.01)
    assert found.attrs["censored_cells"] == "1: p0" and found.observed_cycles.values.tolist() == [10]


def test_without_pybamm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybamm", None)
    with pytest.raises(InputError, match=r"needs PyBaMM: pip install 'workbench-surrogates\[pybamm\]'"):
        read_recipe("battery_pybamm/tiny").source().template()
    with pytest.raises(
        InputError, match="count is 0, cycles 10, .*: expected at least 1, 2, 10, and as many as cycles"
    ):
        PybammCells(count=0)
