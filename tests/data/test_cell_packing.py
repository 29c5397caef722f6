"""The packing of cells: exact inverse, fitted on training cells alone, and refusal of other cells."""

import json

import battery
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.cell_curves import open_cells
from workbench.data.cell_packing import CellPacking
from workbench.data.cells_config import CellsConfig
from workbench.errors import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.nc"
    battery.cells().to_netcdf(path)
    return CellsConfig(str(path), points=20, cycles=12, split="policy", folds=3, reference=4)


@pytest.fixture(scope="module")
def cells(config):
    return open_cells(config)


@pytest.fixture(scope="module")
def packing(cells, config):
    return CellPacking.fit(cells, config)


@given(life=st.floats(1, 1e6))
def test_life_comes_back_exactly(packing, life):
    np.testing.assert_allclose(packing.life(packing.standardised(np.array([life]))), life, rtol=1e-13)


def test_training_cells_have_mean_0_and_deviation_1(packing, cells):
    train = cells.isel(cell=cells["part"].values == "train")
    raw, change = packing.pack(train)
    spread = raw.std((0, 2), correction=0)
    np.testing.assert_allclose(raw.mean((0, 2)), 0, atol=2e-3)
    assert ((spread - 1).abs() < 1e-2).sum() > 0.6 * spread.numel() and spread.max() < 1.01
    np.testing.assert_allclose(change.std((0, 2, 3), correction=0), 1, atol=2e-2)
    assert change[:, :, 1:4].mean(2).abs().max() < 1e-4  # the reference is cycle 4 with its neighbours
    z = packing.standardised(train["cycle_life"].values)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-12)


def test_curves_come_back(packing, cells):
    raw, _ = packing.pack(cells)
    physical = packing.physical(raw)[:, 0].numpy()
    np.testing.assert_allclose(physical, cells["discharge_capacity"], atol=2e-6)


def test_change_is_the_difference_of_physical_curves(packing, cells):
    _, change = packing.pack(cells)
    curves = cells["incremental_capacity"]
    expected = (curves - curves.sel(cycle=slice(3, 5)).mean("cycle")) / packing.change_std[1]
    np.testing.assert_allclose(change[:, 1], expected.clip(-8, 8), atol=1e-4)


def test_test_cells_leave_no_trace(packing, cells, config):
    other = cells.copy(deep=True)
    tested = other["part"].values == "test"
    other["discharge_capacity"][tested] = 0.5
    life = other["cycle_life"].values.copy()
    life[tested] = 1
    assert CellPacking.fit(other.assign_coords(cycle_life=("cell", life)), config) == packing


def test_it_survives_json(packing):
    assert CellPacking.from_dict(json.loads(json.dumps(packing.to_dict()))) == packing


def test_other_cells_are_refused(packing, cells):
    packing.check(cells, "here")
    milli = cells.assign(discharge_capacity=cells["discharge_capacity"].copy(data=1000 * cells["discharge_capacity"]))
    with pytest.raises(InputError, match=r"discharge_capacity in here reaches 10\d\d Ah, .* other units \(mAh for Ah"):
        packing.check(milli, "here")
    with pytest.raises(InputError, match="axis 'voltage'"):
        packing.check(cells.assign_coords(voltage=cells["voltage"] + 0.5), "here")


def test_a_node_without_spread_is_not_blown_up(cells, config):
    flat = cells.copy(deep=True)
    flat["discharge_capacity"][..., 0] = 1e-7 * torch.randn(cells["discharge_capacity"].shape[:2]).numpy()
    raw, _ = CellPacking.fit(flat, config).pack(flat)
    assert raw[:, 0, :, 0].abs().max() < 1e-3
