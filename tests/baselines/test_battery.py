"""Baselines of battery lives: the published figures of the variance model, laws recovered, and what is refused."""

import numpy as np
import pytest

from workbench.baselines.battery import BASELINES, discharge_features, fit_predict, policy_features, predictor
from workbench.data.battery import VOLTAGE, battery_record
from workbench.data.cell_splits import by_label
from workbench.data.charge_policy import ChargePolicy
from workbench.data.readers.matr_arrays import MatrArrays
from workbench.errors import InputError

CYCLES = np.arange(2, 41)
VOLTAGES = np.linspace(3.5, 2.0, 60)


def cells(count, seed):
    """Discharges that lose charge in one shape, and lives that follow the variance of that loss by a power law."""
    rng = np.random.default_rng(seed)
    loss = np.exp(rng.normal(np.log(2e-3), 0.7, count))
    shape = np.exp(-(((VOLTAGES - 3.0) / 0.15) ** 2))
    curve = 1.05 / (1 + np.exp(20 * (VOLTAGES - 3.2)))
    values = curve - loss[:, None, None] * ((CYCLES / 40) ** 1.2)[:, None] * shape
    change = values[:, CYCLES == 40] - values[:, CYCLES == 10]
    life = 30 * change.var(axis=(1, 2)) ** -0.2
    policies = [str(ChargePolicy(3 + k % 5, 0.4, 4)) for k in range(count)]
    names = {"cell": [f"s{seed}c{k}" for k in range(count)], "policy": policies}
    return battery_record({"discharge_capacity": values}, {VOLTAGE: VOLTAGES}, CYCLES, names, life)


def scores(predicted, life):
    error = predicted - life
    return [round(float(np.sqrt((error**2).mean())), 1), round(100 * float(np.abs(error / life).mean()), 1)]


def test_variance_model(request):
    """RMSE in cycles and mean percentage error of the model of Severson et al. 2019, to the last digit."""
    file = request.config.getoption("--golden").parent / "data" / "battery" / "matr_qdlin_124.npz"
    if not file.exists():
        pytest.skip(f"no discharge curves of the 124 cells of MATR at {file}")
    record = MatrArrays(str(file)).template().load()
    parts = by_label(record)
    predict = predictor("variance_model", record.isel(cell=parts["train"]), 100)
    parts["test1x"] = np.array([k for k in parts["test1"] if record.cell.values[k] != "b2c1"])
    found = {n: scores(predict(record.isel(cell=k)), record.cycle_life.values[k]) for n, k in parts.items()}
    expected = {"train": [103.6, 14.1], "test1": [137.9, 14.7], "test1x": [138.3, 13.2], "test2": [195.9, 11.4]}
    assert found == expected


def test_a_power_law_of_the_variance_is_recovered():
    train, test = cells(30, 0), cells(20, 1)
    found = fit_predict("variance_model", train, test, 40)
    np.testing.assert_allclose(found, test.cycle_life, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in ("mean_life", "policy_only")])
def test_what_sees_discharges_beats_the_mean(name):
    train, test = cells(30, 0), cells(20, 1)
    error, blind = (scores(fit_predict(n, train, test, 40), test.cycle_life.values)[1] for n in (name, "mean_life"))
    assert error < 0.7 * blind


def test_nothing_after_the_last_cycle_seen_is_looked_at():
    train = cells(6, 0)
    seen = train.isel(cycle=slice(0, 29))
    for baseline in BASELINES.values():
        np.testing.assert_array_equal(baseline.features(train, 30), baseline.features(seen, 30))


def test_the_policy_alone_is_four_numbers():
    train = cells(10, 0).assign_coords(policy=("cell", ["4C", "5.4C(50%)-3.6C", "1C(4%)-6C-newstructure"] + ["6C"] * 7))
    np.testing.assert_allclose(
        policy_features(train, 10)[:3],
        [[4, 0.8, 4, 4], [5.4, 0.5, 3.6, 0.8 / (0.5 / 5.4 + 0.3 / 3.6)], [1, 0.04, 6, 0.8 / (0.04 + 0.76 / 6)]],
    )
    for policy in ("", "fast", "4C(90%)-3C", "0C", "4C(50%)", "..C"):
        with pytest.raises(
            InputError, match=f"unknown policy '{policy.replace('(', '.').replace(')', '.')}': expected"
        ):
            ChargePolicy.parse(policy)


def test_features_of_the_discharge_are_those_of_the_curve():
    found = cells(3, 0)
    last, tenth = (found.discharge_capacity.sel(cycle=c).values.astype(float) for c in (40, 10))
    features = discharge_features(found, 40)
    np.testing.assert_allclose(features[:, 0], np.log(np.abs((last - tenth).min(1))), rtol=1e-6)
    np.testing.assert_allclose(features[:, 4], found.discharge_capacity[:, 0, -1], rtol=1e-6)


def test_what_cannot_be_fitted_is_refused():
    train = cells(6, 0)
    censored = train.copy()
    censored["cycle_life"] = train.cycle_life.where(np.arange(6) > 1)
    with pytest.raises(InputError, match="2 of 6 training cells did not reach their end of life"):
        fit_predict("ridge", censored, train, 40)
    with pytest.raises(InputError, match="needs cycle 50; the record holds cycles 2 to 40: see more cycles"):
        fit_predict("ridge", train, train, 50)
    with pytest.raises(InputError, match="has no discharge_capacity"):
        fit_predict("ridge", train.drop_vars("discharge_capacity"), train, 40)
