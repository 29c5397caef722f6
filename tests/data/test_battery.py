"""Records of cells: the layout, corrupted cycles found and repaired, cells counted twice and units mixed up refused."""

import numpy as np
import pytest

from workbench.data import cell_splits
from workbench.data.battery import VOLTAGE, battery_record, incremental_capacity, report
from workbench.data.readers.matr_arrays import MatrArrays
from workbench.data.recipe import build, read_recipe
from workbench.data.store import open_record
from workbench.errors import InputError

CELLS, CYCLES, POINTS = 9, 30, 40
NAMES = [f"c{k}" for k in range(CELLS)]


def capacity(seed=0):
    """Smooth discharges that fade a little from cycle to cycle, each cell another."""
    rng = np.random.default_rng(seed)
    curve = 1.05 / (1 + np.exp(-np.linspace(-6, 6, POINTS)))
    fade = 1 - rng.uniform(1e-4, 1e-3, (CELLS, 1, 1)) * np.arange(CYCLES)[:, None]
    return (curve * fade).astype("f4")


def record(values=None, **changed):
    arguments = {
        "curves": {"discharge_capacity": capacity() if values is None else values},
        "grids": {VOLTAGE: np.linspace(3.5, 2.0, POINTS)},
        "cycles": np.arange(2, 2 + CYCLES),
        "cells": {"cell": NAMES, "policy": [f"{3 + k % 4}C" for k in range(CELLS)]},
        "cycle_life": np.linspace(300, 900, CELLS),
    }
    return battery_record(**(arguments | changed))


def test_a_corrupted_cycle_is_found_repaired_flagged_and_reported():
    whole = capacity()
    broken = whole.copy()
    broken[2, 10] = 31.0  # what four cycles of MATR hold
    broken[4, 0, 20] += 0.151
    broken[5, -1] = np.nan
    broken[6, 7:9, 3] -= 0.3
    broken[7, 12, 20] += 0.135  # within what the rule allows: the median is a little lower
    found = record(broken)
    expected = np.zeros((CELLS, CYCLES), bool)
    expected[[2, 4, 5, 6, 6], [10, 0, 29, 7, 8]] = True
    np.testing.assert_array_equal(found.corrupted != 0, expected)
    # The fade is linear in the cycle, so that interpolation between good neighbours is exact, at the ends constant.
    np.testing.assert_allclose(found.discharge_capacity[2, 10], whole[2, 10], atol=1e-6)
    np.testing.assert_allclose(found.discharge_capacity[6, 7:9], whole[6, 7:9], atol=1e-6)
    np.testing.assert_array_equal(found.discharge_capacity[4, 0], whole[4, 1])
    np.testing.assert_array_equal(found.discharge_capacity[5, -1], whole[5, -2])
    np.testing.assert_array_equal(found.discharge_capacity.values[~expected], broken[~expected])
    assert found.attrs["repaired_cycles"] == "5: c2 cycle 12, c4 cycle 2, c5 cycle 31, c6 cycle 9 10"


def test_cycles_after_the_end_stay_missing_and_censored_cells_are_counted():
    values, life = capacity(), np.linspace(300.0, 900, CELLS)
    values[3, 20:], life[[3, 5]] = np.nan, np.nan
    seen = np.where(np.isnan(life), 500, life)
    seen[3] = 21
    found = record(values, cycle_life=life, observed_cycles=seen)
    assert np.isnan(found.discharge_capacity[3, 20:]).all() and not found.corrupted.any()
    assert report(found)["censored_cells"] == "2: c3, c5"


def test_incremental_capacity_is_the_derivative_by_voltage():
    voltage = np.linspace(3.5, 2.0, POINTS)
    values = np.broadcast_to((3.5 - voltage) ** 2 / 3, (CELLS, CYCLES, POINTS)) + np.arange(CELLS)[:, None, None] / 99
    found = incremental_capacity(record(values.astype("f4")))
    assert found.attrs["units"] == "Ah V-1" and found.dims == ("cell", "cycle", "voltage")
    np.testing.assert_allclose(found[0, 0, 1:-1], -2 * (3.5 - voltage[1:-1]) / 3, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": 1000 * capacity()}, r"'c0' gives 1,0\d\d at a nominal capacity of 1.1 Ah: .* looks like mAh"),
        ({"nominal_capacity": 1100.0}, "is nominal_capacity in mAh"),
        ({"cells": {"cell": NAMES[:-1] + ["c0"]}}, "cell 'c0' is there 2 times: expected each cell once"),
        ({"cells": {"cell": NAMES, "split": ["train"] * 8 + ["test"]}}, "cell 'c8' is in split 'test': expected"),
        ({"values": capacity()[[*range(8), 3]]}, "cells 'c3' and 'c8' hold the same discharge_capacity"),
        ({"values": np.where(np.arange(CELLS)[:, None, None] == 4, np.nan, capacity())}, "cell 'c4' has no cycle"),
    ],
)
def test_what_cannot_be_true_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        record(**changed)


def test_parts_share_neither_cells_nor_policies():
    policies = [f"p{k % 7}" for k in range(40)]
    for parts in (cell_splits.by_cell(40, 0.3, 1), cell_splits.by_policy(policies, 0.3, 1)):
        assert sorted(np.concatenate(list(parts.values()))) == list(range(40)) and 9 <= len(parts["test"]) <= 15
    train, test = cell_splits.by_policy(policies, 0.3, 1).values()
    assert not {policies[k] for k in train} & {policies[k] for k in test}
    held = []
    for fitted, out in cell_splits.policy_folds(policies, 5, 0):
        assert not {policies[k] for k in fitted} & {policies[k] for k in out}
        held += out.tolist()
    assert sorted(held) == list(range(40))


def test_splits_that_cannot_be_made_are_refused():
    found = record()
    with pytest.raises(InputError, match="labels its 9 cells '': expected 'train' and 'test1' or 'test2'"):
        cell_splits.by_label(found)
    with pytest.raises(InputError, match="1 of 3 cells have no policy: expected one each; split by cell"):
        cell_splits.by_policy(["a", "", "b"], 0.5, 0)
    with pytest.raises(InputError, match="all cells were charged by 'a'"):
        cell_splits.by_policy(["a", "a"], 0.5, 0)
    with pytest.raises(InputError, match="3 folds of 2 policies"):
        cell_splits.policy_folds(["a", "b", "a"], 3, 0)
    with pytest.raises(InputError, match="leaves a part empty"):
        cell_splits.by_cell(3, 0.0, 0)


def archive(folder, **changed):
    arrays = {
        "Qdlin": capacity(),
        "voltage": np.linspace(3.5, 2.0, POINTS),
        "cycle": np.arange(2, 2 + CYCLES),
        "cycle_life": np.arange(300, 300 + CELLS),
        "cell_id": np.array([f"b{1 + k % 3}c{k}" for k in range(CELLS)]),
        "split": np.array(["train", "test1", "test2"] * 3),
        "policy": np.array(["4C(80%)-4C"] * CELLS),
        "barcode": np.array([f"EL{k}" for k in range(CELLS)]),
    } | changed
    path = folder / "matr.npz"
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path, arrays


def test_an_archive_becomes_a_store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    path, arrays = archive(tmp_path)
    found = open_record(str(build(read_recipe("matr/qdlin", {"path": str(path)}))))
    np.testing.assert_array_equal(found.discharge_capacity, arrays["Qdlin"])
    np.testing.assert_array_equal(found.cycle_life, arrays["cycle_life"])
    assert found.policy.values[0] == "4C(80%)-4C" and found.batch.values.tolist()[:3] == ["b1", "b2", "b3"]
    assert found.discharge_capacity.variable.chunksizes["cell"] == (8, 1)
    assert {name: len(cells) for name, cells in cell_splits.by_label(found).items()} == dict(train=3, test1=3, test2=3)


def test_cycles_of_the_archive_with_temperatures_are_numbered_as_those_of_the_other(tmp_path):
    rows = np.stack([np.arange(1.0, 201), np.arange(199.0, -1, -1), *np.full((3, 200), 1.0)], 1)
    rows[:, 2] -= 1e-3 * rows[:, 0]
    names = [f"b2c{k}" for k in range(CELLS)]
    extra = {f"series_{name}": np.delete(rows, 4, 0) for name in names}
    path, arrays = archive(
        tmp_path, cell_id=np.array(names), cycle=np.arange(1, 1 + CYCLES), Tdlin=30 + capacity(1), **extra
    )
    table = tmp_path / "cells.csv"
    lines = [f"{name},{'train' if k else 'test1'},200,4C(80%)-4C,EL{k}" for k, name in enumerate(names)]
    table.write_text("\n".join(["cell_id,split,cycle_life,policy,barcode", *lines]))
    found = MatrArrays(str(path), str(table)).template()
    assert found.cycle.values[0] == 2 and found.split.values[0] == "test1"
    np.testing.assert_array_equal(found.discharge_temperature, arrays["Tdlin"])
    summary = found.capacity.sel(cell="b2c3")
    np.testing.assert_allclose(summary.sel(cycle=[2, 11]), [0.999, 0.990], rtol=1e-6)
    assert np.isnan(summary.sel(cycle=6))  # the fifth row is not there
    table.write_text(table.read_text().replace("b2c4,train,200", "b2c4,train,201"))
    with pytest.raises(InputError, match=r"cell 'b2c4' lives 200 cycles, .*cells.csv says 201"):
        MatrArrays(str(path), str(table)).template()
    table.write_text("cell_id,split\nb2c0,train\n")
    with pytest.raises(InputError, match="expected cell 'b2c0' with columns cell_id, barcode, cycle_life"):
        MatrArrays(str(path), str(table)).template()


def test_what_is_no_such_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file at .*gone.npz: the arrays come from .*--set path=FILE"):
        MatrArrays("gone.npz").template()
    path, _ = archive(tmp_path, voltage=None)
    with pytest.raises(InputError, match="has no array 'voltage': it has Qdlin, cycle"):
        MatrArrays(str(path)).template()
    path, _ = archive(tmp_path, cycle=np.arange(5))
    with pytest.raises(
        InputError, match=r"Qdlin has shape \(9, 30, 40\), cell_id, cycle and voltage give \(9, 5, 40\)"
    ):
        MatrArrays(str(path)).template()
    path, _ = archive(tmp_path, policy=None)
    with pytest.raises(InputError, match="has no array 'policy'"):
        MatrArrays(str(path)).template()
    path, _ = archive(tmp_path, policy=np.array([{}] * CELLS))
    with pytest.raises(InputError, match="not a whole NumPy archive without pickles"):
        MatrArrays(str(path)).template()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="not a whole NumPy archive"):
        MatrArrays(str(path)).template()
