"""Ageing cells: lithium and charge conserved, limits, convergence, fade with a knee, lives that policies change."""

import numpy as np
import pytest

from workbench.data.charge_policy import ChargePolicy
from workbench.data.recipe import build, read_recipe
from workbench.data.store import open_record
from workbench.errors import InputError
from workbench.simulate import battery, battery_cell
from workbench.simulate.battery import BatteryAgeing
from workbench.simulate.battery_cell import LIMITS, NOMINAL, charge, discharge, fresh_cells

POLICY = (np.array([6.0, 4.0]), np.array([0.4, 0.8]), np.array([3.6, 4.0]))


def cells(count=2, seed=0):
    return fresh_cells(np.random.SeedSequence(seed).spawn(count))


def lives(policies, **changed):
    """Of copies of one cell, each charged by one policy."""
    source = BatteryAgeing(count=len(policies), cycles=2, **changed)
    source.__dict__["policies"] = [ChargePolicy.parse(policy) for policy in policies]
    source.__dict__["_random"] = lambda name: np.random.SeedSequence(0)
    return source._run(np.linspace(3.5, 2.0, 50))[2]


def test_lithium_and_charge_are_conserved():
    found = cells()
    lithium = found.lithium
    for _ in range(3):
        before = found.in_lfp.copy()
        filled = charge(found, *POLICY, until=0.8)
        np.testing.assert_allclose(before - found.in_lfp, filled.moved[-1], atol=1e-12)
        before = found.in_lfp.copy()
        emptied = discharge(found)
        np.testing.assert_allclose(found.in_lfp - before, emptied.moved[-1], atol=1e-12)
        for half in (filled, emptied):  # the current of a step is that at its beginning
            np.testing.assert_allclose((half.current[:-2] * np.diff(half.hours[:-1], axis=0)).sum(0), half.moved[-2])
        found.age(50, np.stack([found.sei, found.plated, -0.001 * found.graphite]) / 100, np.array([True, True]))
    np.testing.assert_allclose(found.lithium, lithium, rtol=1e-13)


def test_the_charge_follows_its_policy_and_the_limits():
    found = cells()
    filled, emptied = charge(found, *POLICY, until=0.8), discharge(found)
    assert filled.voltage.max() <= LIMITS[1] and emptied.voltage.min() >= LIMITS[0] - 1e-9
    np.testing.assert_allclose(emptied.voltage[-1], LIMITS[0])
    np.testing.assert_allclose(filled.current[-1], battery_cell.CUT_OFF)
    rate, share = filled.current[:, 0] / NOMINAL, filled.moved[:, 0] / NOMINAL
    np.testing.assert_allclose(rate[share < 0.4], 6)
    np.testing.assert_allclose(rate[(share > 0.41) & (share < 0.8)], 3.6)
    assert (rate[(share > 0.8) & (filled.voltage[:, 0] < LIMITS[1])] == 1).all()
    fast = filled.hours[np.argmax(share >= 0.8), 0]
    assert fast == pytest.approx(ChargePolicy(6, 0.4, 3.6).hours, rel=0.05)


def test_charge_and_discharge_converge_with_the_step(monkeypatch):
    def solution(refined):
        for name, value in original.items():
            monkeypatch.setattr(battery_cell, name, value / refined)
        found = cells()
        warmest = charge(found, *POLICY, until=0.8).temperature.max(0)
        return warmest, discharge(found).moved[-1], found.plated

    original = {name: getattr(battery_cell, name) for name in ("STEP", "SHARE", "SMALLEST")}
    coarse, middle, fine, finest = (solution(k) for k in (1, 2, 4, 16))
    order = np.log2((coarse[0] - middle[0]) / (middle[0] - fine[0]))
    np.testing.assert_allclose(order, 1, atol=0.15)
    np.testing.assert_allclose(coarse[1], finest[1], rtol=1e-3)
    np.testing.assert_allclose(coarse[2], finest[2], rtol=0.03)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The smallest preset, as built."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WORKBENCH_DATA", str(tmp_path_factory.mktemp("data")))
        return open_record(str(build(read_recipe("battery_ageing")))).load()


def test_capacity_fades_ever_faster():
    found, capacity = cells(4), []
    policy = [np.full(4, value) for value in (5.4, 0.5, 3.6)]
    for _ in range(40):
        before = found.losses
        charge(found, *policy, until=0.8)
        capacity.append(discharge(found).moved[-1])
        found.age(19, found.losses - before, np.ones(4, bool))
    fade = -np.diff(capacity, axis=0)
    assert (fade > 0).all()
    end = [int(np.argmax(c < 0.8 * NOMINAL)) for c in np.array(capacity).T]
    for k, last in enumerate(end):
        assert last > 5 and fade[last - 1, k] > 2 * fade[last // 3, k]  # the knee


def test_faster_charge_shortens_life():
    *found, early, late = lives(["4C", "5C", "6C", "6C(40%)-3.6C", "3.6C(30%)-5.6C"])
    assert (np.diff(found) < -0.1 * np.array(found[:-1])).all()
    assert late < early  # fast charge harms where the graphite is full


def test_leaps_change_no_life_by_more_than_a_hundredth(monkeypatch):
    policies, computed = ["5C", "6C(40%)-3.6C"], []
    with monkeypatch.context() as counted:
        counted.setattr(battery, "discharge", lambda cells: computed.append(1) or discharge(cells))
        found = lives(policies)
    assert len(computed) < max(found) / battery.JUMP + 5
    monkeypatch.setattr(battery, "JUMP", 5)
    np.testing.assert_allclose(found, lives(policies), rtol=0.01)


def test_a_cell_depends_on_its_number_and_the_seed_alone(record):
    alone = BatteryAgeing(count=3, cycles=40).template().load()
    for name in alone.data_vars:
        np.testing.assert_array_equal(alone[name], record[name][:3], err_msg=name)
    other = BatteryAgeing(count=3, cycles=3, most_cycles=3, seed=1).template()
    assert (other.capacity.values != alone.capacity.values[:, :3]).all()


def test_the_record_is_whole(record):
    assert dict(record.sizes) == {"cell": 8, "cycle": 40, "voltage": 200, "capacity_ratio": 200}
    assert not record.corrupted.any() and np.isfinite(record.discharge_capacity).all()
    assert (record.cycle_life > 150).all() and (record.cycle_life < 3000).all()
    assert record.split.values.tolist() == ["train", "test1"] * 2 + ["test2"] * 2 + ["train", "test1"]
    assert len(set(record.policy.values)) == 4
    change = record.discharge_capacity.sel(cycle=40) - record.discharge_capacity.sel(cycle=10)
    spread = np.log(change.var("voltage").values)
    assert np.corrcoef(spread, np.log(record.cycle_life))[0, 1] < -0.5


def test_a_cell_that_outlives_the_study_is_censored():
    found = BatteryAgeing(count=2, cycles=3, most_cycles=50).template()
    assert np.isnan(found.cycle_life).all() and (found.observed_cycles >= 50).all()
    assert found.attrs["censored_cells"] == "2: s0, s1"


def test_parameters_out_of_range_are_refused():
    for name, value in (("count", 0), ("cycles", 1), ("points", 5), ("most_cycles", 10)):
        with pytest.raises(InputError, match=f"{name} is {value}: expected at least"):
            BatteryAgeing(**{name: value})
