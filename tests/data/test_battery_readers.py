"""Foreign files of battery cells: generated ones whose curves are known, mixed-up units, code in pickles."""

import itertools
import pickle

import battery_log
import h5py
import numpy as np
import pandas as pd
import pytest

from workbench.data.battery import incremental_capacity
from workbench.data.cell_samples import life
from workbench.data.readers.battery_csv import BatteryCsv
from workbench.data.readers.batteryml import BatteryML
from workbench.data.readers.matr_batches import VOLTAGES, MatrBatches, severson_split
from workbench.data.recipe import build, read_recipe
from workbench.data.store import open_record
from workbench.errors import InputError

RATIO = np.linspace(0, 1, 101)
MIDDLE = np.r_[2:39, 42:79, 82:100]
"""Points of RATIO away from the jumps of the current."""


def fading(cell, number):
    return 1.07 - 0.002 * cell - 0.01 * number


def check_curves(record, cell, place, number, capacity=None):
    """The curves of one cycle are those of the law that the files were made from."""
    capacity = fading(cell, number) if capacity is None else capacity
    found = record.isel(cell=place).sel(cycle=number)
    np.testing.assert_allclose(found.charge_voltage, battery_log.charge_voltage(RATIO), atol=1e-3)
    np.testing.assert_allclose(found.charge_current[MIDDLE], battery_log.rate(RATIO)[MIDDLE], rtol=1e-5)
    np.testing.assert_allclose(found.charge_temperature[MIDDLE], 30 + battery_log.rate(RATIO)[MIDDLE], rtol=1e-5)
    charging = 3600 * capacity / battery_log.NOMINAL * (0.4 / 5 + 0.4 / 4 + 0.2)
    np.testing.assert_allclose(found.charge_elapsed[-1], charging + 60, rtol=1e-3)  # two rests of 30 s
    np.testing.assert_allclose(found.discharge_capacity, battery_log.discharged(found.voltage, capacity), atol=1e-3)
    np.testing.assert_allclose(found.discharge_temperature, 34 - (3.5 - found.voltage) / 1.5, atol=1e-3)


# ---------------------------------------------------------------------------------------------- MATR


def write_batch(path, cells, cycles=5, minutes=1 / 60, current=1.0):
    """A MATLAB v7.3 file in the structure of the published ones."""
    with h5py.File(path, "w") as file:
        batch, names = file.create_group("batch"), itertools.count()

        def refer(values):
            return file.create_dataset(f"#refs#/{next(names)}", data=np.asarray(values)).ref

        def column(group, name, references):
            group.create_dataset(name, data=np.array(references, h5py.ref_dtype)[:, None], dtype=h5py.ref_dtype)

        columns = {name: [] for name in ("policy_readable", "barcode", "cycle_life", "summary", "cycles")}
        for k in range(cells):
            numbers = np.arange(1, cycles + 1)
            columns["policy_readable"].append(refer([[ord(c)] for c in "5C(40%)-4C-newstructure"]))
            columns["barcode"].append(refer([[ord(c)] for c in f"EL{k}"]))
            columns["cycle_life"].append(refer([[700.0 + k]]))
            summary = file.create_group(f"#refs#/s{k}")
            values = {"IR": 0.016, "QCharge": 1.08, "Tavg": 33.0, "Tmin": 30.0, "Tmax": 36.0, "chargetime": 12.5}
            for name, value in values.items():
                summary[name] = np.full((1, cycles), value)
            summary["QDischarge"], summary["cycle"] = fading(k, numbers)[None], numbers[None]
            logged = {name: [] for name in ("t", "V", "I", "T", "Qc", "Qd", "Qdlin", "Tdlin")}
            for number in numbers:
                capacity = fading(k, number)
                time, voltage, rate, warmth, filled, emptied = battery_log.cycle(capacity)
                grid = (battery_log.discharged(VOLTAGES, capacity), 34 - (3.5 - VOLTAGES) / 1.5)
                samples = (time * minutes, voltage, rate * current, warmth, filled, emptied, *grid)
                for name, value in zip(logged, samples, strict=True):
                    logged[name].append(refer(np.zeros((1, 2)) if number == 1 else value[None]))
            group = file.create_group(f"#refs#/c{k}")
            for name, references in logged.items():
                column(group, name, references)
            columns["summary"].append(summary.ref)
            columns["cycles"].append(group.ref)
        for name, references in columns.items():
            column(batch, name, references)


def test_batches_of_matr_become_a_store_with_corrections_exclusions_and_units(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    folder = tmp_path / "raw"
    folder.mkdir()
    write_batch(folder / "2017-05-12_batchdata_updated_struct_errorcorrect.mat", 14)
    write_batch(folder / "MATR_batch_20170630.mat", 9)
    recipe = read_recipe("matr_batches/early", {"path": str(folder), "cycles": 5, "points": 101})
    # The cells of both files are alike, which no real ones are.
    with pytest.raises(InputError, match="cells 'b1c0' and 'b2c0' hold the same discharge_capacity"):
        build(recipe)
    (folder / "MATR_batch_20170630.mat").unlink()
    found = open_record(str(build(recipe))).load()
    assert found.cell.values.tolist() == [f"b1c{k}" for k in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11)]
    assert found.cycle.values.tolist() == [2, 3, 4, 5]
    assert found.cycle_life.values[:6].tolist() == [700 + 662, 701 + 981, 702 + 1060, 703 + 208, 704 + 482, 705]
    assert found.split.values[:4].tolist() == ["test1", "train", "test1", "train"]
    assert set(found.policy.values) == {"5C(40%)-4C"} and found.barcode.values[0] == "EL0"
    np.testing.assert_allclose(found.charge_time, 750.0)  # 12.5 minutes
    np.testing.assert_allclose(found.capacity.sel(cell="b1c9", cycle=4), fading(9, 4), rtol=1e-6)
    check_curves(found, 9, 8, 4)
    slope = incremental_capacity(found).sel(cell="b1c9", cycle=4)
    np.testing.assert_allclose(slope, -fading(9, 4) / 1.5, rtol=1e-2)


def test_the_second_batch_leaves_continuations_out(tmp_path):
    write_batch(tmp_path / "2017-06-30.mat", 10, cycles=3)
    found = MatrBatches(str(tmp_path / "2017-06-30.mat"), cycles=5, points=20).template()
    assert found.cell.values.tolist() == [f"b2c{k}" for k in range(7)]
    # Two of four cycles are there; what comes after them is missing, not repaired.
    assert not found.corrupted.any() and np.isnan(found.discharge_capacity.sel(cycle=[4, 5])).all()


def test_the_published_split_has_41_43_and_40_cells():
    split = list(severson_split().values())
    assert [split.count(part) for part in ("train", "test1", "test2")] == [41, 43, 40]


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [({"minutes": 1.0}, "time=s"), ({"current": 1.1}, "current=A"), ({"minutes": 1 / 3600}, "time=h")],
)
def test_units_that_do_not_conserve_charge_are_refused_with_those_that_do(tmp_path, wrong, advice):
    write_batch(tmp_path / "2017-05-12.mat", 1, cycles=3, **wrong)
    with pytest.raises(InputError, match=rf"cell 'b1c0': the current of a charge adds up to .*expected once.*{advice}"):
        MatrBatches(str(tmp_path), points=20).template()


def test_what_is_no_batch_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected .mat files named after 20170512, .* found none"):
        MatrBatches(str(tmp_path)).template()
    (tmp_path / "2017-05-12.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(InputError, match="2017-05-12.mat is not a whole batch of MATR in MATLAB v7.3"):
        MatrBatches(str(tmp_path)).template()
    with h5py.File(tmp_path / "2017-05-12.mat", "w") as file:
        file.create_group("other")
    with pytest.raises(InputError, match="is not a whole batch"):
        MatrBatches(str(tmp_path)).template()


# ---------------------------------------------------------------------------------------------- BatteryML


def pickled(cell, cycles=7, seconds=1.0, amperes=battery_log.NOMINAL):
    logged = []
    for number in range(1, cycles + 1):
        time, voltage, rate, warmth, filled, emptied = battery_log.cycle(fading(cell, number))
        logged.append(
            {
                "cycle_number": number,
                "time_in_s": (time * seconds).tolist(),
                "voltage_in_V": voltage.tolist(),
                "current_in_A": rate * amperes,  # a list or an array
                "temperature_in_C": warmth.tolist(),
                "charge_capacity_in_Ah": filled.tolist(),
                "discharge_capacity_in_Ah": emptied.tolist(),
                "internal_resistance_in_ohm": np.float64(0.016),
            }
        )
    protocol = [{"rate_in_C": 5.0, "end_soc": 0.4}, {"rate_in_C": 4.0, "end_soc": 0.8}]
    return {
        "cell_id": f"MATR_b1c{cell}",
        "cycle_data": logged,
        "nominal_capacity_in_Ah": 1.1,
        "charge_protocol": protocol,
    }


def dump(path, content):
    path.write_bytes(pickle.dumps(content))


def test_pickles_of_batteryml_become_a_record(tmp_path):
    for k in (1, 2):
        dump(tmp_path / f"MATR_b1c{k}.pkl", pickled(k))
    found = BatteryML(str(tmp_path), cycles=6, points=101).template().load()
    assert found.cell.values.tolist() == ["MATR_b1c1", "MATR_b1c2"] and found.split.values.tolist() == [
        "train",
        "test1",
    ]
    assert found.policy.values.tolist() == ["5C(40%)-4C"] * 2
    check_curves(found, 2, 1, 5)
    assert np.isnan(found.cycle_life).all() and found.attrs["censored_cells"].startswith("2: MATR_b1c1")
    assert found.observed_cycles.values.tolist() == [7, 7]


def test_its_pickles_of_matr_count_minutes_and_c_rates(tmp_path):
    dump(tmp_path / "cell.pkl", pickled(0, seconds=1 / 60, amperes=1.0))
    with pytest.raises(InputError, match="it does with current=h-1, time=min, capacity=Ah"):
        BatteryML(str(tmp_path)).template()
    arguments = read_recipe("batteryml/matr", {"path": str(tmp_path), "points": 101, "cycles": 5}).arguments
    check_curves(BatteryML(**arguments).template(), 0, 0, 3)


class Harm:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path, capsys):
    for number, content in enumerate((Harm(), pickled(0) | {"extra": np.array([Harm()], object)})):
        dump(tmp_path / f"{number}.pkl", content)
        with pytest.raises(InputError, match="holds code, not only numbers .it would run builtins.print.: refused"):
            BatteryML(str(tmp_path / f"{number}.pkl")).template()
    assert capsys.readouterr().out == ""


def test_what_is_no_pickle_of_a_cell_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no .pkl file; BatteryML's preprocess"):
        BatteryML(str(tmp_path)).template()
    file = tmp_path / "a.pkl"
    dump(file, {"cell_id": "a"})
    with pytest.raises(InputError, match="not a cell of BatteryML: expected a dictionary with cell_id"):
        BatteryML(str(file)).template()
    file.write_bytes(pickle.dumps(pickled(0))[:500])
    with pytest.raises(InputError, match="is no pickle, or damaged"):
        BatteryML(str(file)).template()


# ---------------------------------------------------------------------------------------------- tables


def table(cells=("a", "b"), cycles=6, counter="both"):
    rows = []
    for k, name in enumerate(cells):
        for number in range(1, cycles + 1):
            time, voltage, rate, warmth, filled, emptied = battery_log.cycle(fading(k, number))
            charge = filled - emptied if counter == "net" else np.where(rate >= 0, filled, emptied)
            columns = {"time": time, "V": voltage, "I": rate * 1.1, "T": warmth, "Q": charge}
            rows.append(pd.DataFrame({"cell": name, "cycle": number, **columns}))
    return pd.concat(rows)


def read(tmp_path, samples, **arguments):
    path = tmp_path / "cells.csv"
    samples.to_csv(path, index=False)
    return (
        BatteryCsv(str(path), **({"nominal_capacity": 1.1, "points": 101, "cycles": 5} | arguments)).template().load()
    )


@pytest.mark.parametrize("counter", ["both", "net"])
def test_a_table_becomes_a_record(tmp_path, counter):
    (tmp_path / "about.csv").write_text("cell,policy,split,cycle_life\nb,5C(40%)-4C,test1,600\na,4C,train,\n")
    found = read(tmp_path, table(counter=counter), cells=str(tmp_path / "about.csv"))
    check_curves(found, 1, 1, 4)
    assert found.policy.values.tolist() == ["4C", "5C(40%)-4C"] and found.split.values.tolist() == ["train", "test1"]
    np.testing.assert_array_equal(found.cycle_life, [np.nan, 600])
    assert found.attrs["censored_cells"] == "1: a"
    np.testing.assert_allclose(found.capacity.sel(cell="a"), fading(0, found.cycle), rtol=1e-6)


def test_the_end_of_life_is_found_and_a_single_dip_is_none():
    capacity = dict(enumerate([1.0, 0.95, 0.5, 0.93, 0.89, 0.879, 0.87, 0.86], start=1))
    assert life(capacity, 1.1) == 6
    assert np.isnan(life({1: 1.0, 2: 0.9}, 1.1))
    assert life({1: 1.0, 2: 0.879}, 1.1) == 2


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"nominal_capacity": 0.0}, "nominal capacity of the cells is not known: .*--set nominal_capacity=AH"),
        ({"Q": 1000}, {}, "it does with current=A, time=s, capacity=mAh"),
        ({"I": 1 / 1.1}, {}, "it does with current=h-1, time=s, capacity=Ah"),
        ({}, {"current": "h-1"}, "it does with current=A, time=s, capacity=Ah"),
        ({"time": 1 / 3600}, {}, "it does with current=A, time=h, capacity=Ah"),
        ({"I": 1000, "Q": 1000}, {}, "looks like mAh"),
        ({"I": 17}, {}, "no usual units make it so; is the nominal capacity right"),
        (
            {"I": -1},
            {},
            r"where its current is positive than .*: expected positive currents where the cell charges; change",
        ),
        ({"V": 1000}, {}, "median voltage of .*: expected that of one cell in V"),
        ({"T": 10}, {}, "median temperature of .*looks like K"),
        ({}, {"time": "ms"}, "time is in 'ms': expected one of s, min, h"),
        ({}, {"cycles": 2}, "cell 'a' has 1 of the cycles 2 to 2: expected at least two"),
    ],
)
def test_mixed_up_units_and_too_few_cycles_are_refused(tmp_path, change, arguments, message):
    samples = table(("a",), cycles=4)
    for column, factor in change.items():
        samples[column] *= factor
    with pytest.raises(InputError, match=message):
        read(tmp_path, samples, **arguments)


def test_tables_that_are_none_are_refused(tmp_path):
    samples = table(("a",), cycles=3).reset_index(drop=True)
    with pytest.raises(InputError, match="has no column 'Q': expected cell, cycle, time, V, I, T, Q; found cell"):
        read(tmp_path, samples.drop(columns="Q"))
    with pytest.raises(InputError, match=r"row 12 lacks a value: expected all but T in every row"):
        read(tmp_path, samples.assign(V=samples.V.where(samples.index != 10)))
    with pytest.raises(InputError, match="column 'I' holds text: expected numbers"):
        read(tmp_path, samples.assign(I="5 A"))
    with pytest.raises(InputError, match=r"time steps back in row .* .cell 'a', cycle 1.*is the cell there twice"):
        read(tmp_path, pd.concat([samples, samples]))
    about = tmp_path / "about.csv"
    for text, message in (
        ("cell,policy\nb,4C\n", "does not list cell 'a'"),
        (
            "cell,split\na,train\na,test1\n",
            "lists cell 'a' more than once: expected each cell in one row and one split",
        ),
        ("cell,colour\na,red\n", "has a column 'colour': expected any of cell, policy"),
        ("cell,split\na,testing\n", "cell 'a' is in split 'testing'"),
    ):
        about.write_text(text)
        with pytest.raises(InputError, match=message):
            read(tmp_path, samples, cells=str(about))
