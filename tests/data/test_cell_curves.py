"""Cells of a record as an experiment sees them: resampled without loss of area, refused where they are not as said."""

import battery
import numpy as np
import pytest
import xarray as xr

from workbench.data.cell_curves import open_cells, read_curves, resample
from workbench.data.cells_config import CellsConfig
from workbench.errors import InputError


@pytest.fixture(scope="module")
def record():
    return battery.cells()


def opened(tmp_path, record, **changes):
    record.to_netcdf(tmp_path / "cells.nc")
    settings = {"points": 20, "cycles": 12, "split": "policy", "folds": 3} | changes
    return open_cells(CellsConfig(str(tmp_path / "cells.nc"), **settings))


@pytest.mark.parametrize("points", [7, 20, 60, 133])
@pytest.mark.parametrize("falling", [False, True])
def test_means_over_intervals_are_exact_for_straight_curves_and_keep_the_area_of_others(points, falling):
    rng = np.random.default_rng(0)
    axis = np.sort(rng.uniform(2, 3.5, 60))[:: -1 if falling else 1]
    values = np.stack([3 * axis - 2, rng.normal(size=60)])[:, None]
    curves = xr.DataArray(values, {"axis": axis}, ("cell", "cycle", "axis"), "curve")
    found = resample(curves, points)
    middles = found["axis"].values
    np.testing.assert_allclose(found[0, 0], 3 * middles - 2, rtol=2e-6)
    whole = np.trapezoid(values[1, 0], axis) / (axis[-1] - axis[0])
    np.testing.assert_allclose(float(found[1, 0].mean()), whole, rtol=1e-5)
    assert middles.size == points and (np.diff(middles) < 0).all() == falling


def test_cells_come_with_parts_and_folds_of_whole_policies(tmp_path, record):
    cells = opened(tmp_path, record)
    assert cells["discharge_capacity"].dims == ("cell", "cycle", "voltage")
    assert cells["incremental_capacity"].attrs["units"] == "Ah V-1"
    assert cells["cycle"].values.tolist() == list(range(2, 13)) and cells.sizes["voltage"] == 20
    slope = np.gradient(cells["discharge_capacity"].values, cells["voltage"].values, axis=-1)
    np.testing.assert_allclose(cells["incremental_capacity"], slope, rtol=1e-3, atol=1e-4)
    places = cells.to_dataframe().reset_index().groupby("policy")[["part", "fold"]].nunique()
    assert (places == 1).all(axis=None)
    assert set(cells["fold"].values[cells["part"].values == "train"]) == {0, 1, 2}
    assert (cells["fold"].values[cells["part"].values == "test"] == -1).all()


def test_censored_cells_are_kept_out(tmp_path, record):
    record = record.copy(deep=True)
    record["cycle_life"][[0, 5]] = np.nan
    part = opened(tmp_path, record)["part"]
    assert part.values[[0, 5]].tolist() == ["censored"] * 2 and (part == "censored").sum() == 2


def test_a_cell_in_two_parts_is_refused_by_barcode_and_by_curves(tmp_path, record):
    record = record.assign_coords(split=("cell", ["train"] * 24 + ["test1"] * 12))
    assert set(opened(tmp_path, record, split="severson")["part"].values) == {"train", "test1"}
    same = record.copy(deep=True)
    same["barcode"][30] = "EL0003"
    with pytest.raises(InputError, match=r"cells c3 \(train\) and c30 \(test1\) share the barcode: one cell must not"):
        opened(tmp_path, same, split="severson")
    copied = record.copy(deep=True)
    copied["discharge_capacity"][31] = copied["discharge_capacity"][4].values
    with pytest.raises(InputError, match=r"cells c4 \(train\) and c31 \(test1\) share curves"):
        opened(tmp_path, copied, split="severson")


def test_windows_of_the_leaky_split_are_cut_from_every_cell(tmp_path, record):
    cells = opened(tmp_path, record, split="leaky_windows", every=9)
    names = cells["cell"].values.tolist()
    assert len(names) == 3 * 36 and "c7@11" in names and "c7@20" in names
    whole = read_curves(record, ["discharge_capacity"], 20, 2, None)["discharge_capacity"].sel(cell="c7")
    window = cells["discharge_capacity"].sel(cell="c7@11")
    np.testing.assert_array_equal(window, whole.sel(cycle=slice(11, 21)))
    shared = [set(name.split("@")[0] for name in cells["cell"].values[cells["part"].values == p]) for p in
              ("train", "test")]  # fmt: skip
    assert shared[0] & shared[1]


BROKEN = {
    "mAh in the units": (
        lambda r: r["discharge_capacity"].attrs.update(units="mAh"),
        "is in 'mAh' in .*, expected 'Ah': capacities in mAh are divided by 1000",
    ),
    "mAh in the numbers": (
        lambda r: r.update({"discharge_capacity": 1000 * r["discharge_capacity"].assign_attrs(units="Ah")}),
        "discharge_capacity in .* reaches .* Ah, expected 0.001 to 400: capacities in mAh",
    ),
    "a policy that nobody knows": (
        lambda r: r["policy"].__setitem__(2, ""),
        "1 of 36 cells have no policy",
    ),
    "a cell with a hole": (
        lambda r: r["discharge_capacity"].__setitem__((3, 5), np.nan),
        r"too few cycles: 1 of 36 cells lack curves of the cycles up to 12, or end within them \(c3\); set data.cycles",
    ),
    "a cell that ended": (
        lambda r: r["cycle_life"].__setitem__(4, 11),
        r"too few cycles: 1 of 36 cells .* \(c4\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_records_are_refused_with_a_repair(tmp_path, record, name):
    broken, message = record.copy(deep=True), BROKEN[name][1]
    broken["policy"] = broken["policy"].astype(object)
    for variable in broken.variables.values():
        variable.attrs = dict(variable.attrs)
    BROKEN[name][0](broken)
    with pytest.raises(InputError, match=message):
        opened(tmp_path, broken)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cycles": 40}, "holds cycles 1 to 30, and cycles 2 to 40 are asked for .* set data.cycles to at most 30"),
        ({"variables": ("charge_voltage",)}, "data.variables names 'charge_voltage', .* has the curves discharge_cap"),
        ({"split": "severson"}, "data.split is severson, and the record has no split"),
        ({"folds": 20}, "20 folds of .* policies"),
        ({"cycles": 3}, "data.cycles is 3 with data.first_cycle 2: 2 cycles are too few"),
        ({"reference": 13}, "data.reference is cycle 13, and cycles 2 to 12 are seen"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, record, changes, message):
    with pytest.raises(InputError, match=message):
        opened(tmp_path, record, **changes)


def test_a_c_rate_that_is_a_current_is_refused(tmp_path, record):
    charge = xr.DataArray(
        np.ones((36, 30, 8), "f4"),
        {"capacity_ratio": np.linspace(0, 1, 8)},
        ("cell", "cycle", "capacity_ratio"),
        attrs={"units": "A"},
    )
    with pytest.raises(InputError, match=r"charge_current is in 'A' .*, expected 'h-1': a C-rate \(h-1\)"):
        opened(tmp_path, record.assign(charge_current=charge), variables=("charge_current",))
