"""What battery lives are predicted with besides networks: from nothing, from the policy, from how discharges change.

All are fitted to the logarithm of the life of training cells, their hyper-parameters chosen by cross-validation among
these cells, grouped by policy. ``ΔQ(V)`` is the discharge capacity of the last cycle seen minus that of a reference
cycle, against voltage: cycle 10 from 30 cycles on, as published, else cycle 3.

Source: Severson et al. 2019, Nat. Energy 4, 383 (variance model, features of the discharge); Attia et al. 2021,
J. Electrochem. Soc. 168, 100522 (ridge, elastic net, PLS and random forests on ΔQ(V)).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from workbench.data.battery import CELL, CYCLE
from workbench.data.cell_splits import policy_folds
from workbench.data.charge_policy import ChargePolicy
from workbench.errors import InputError

POINTS = 100
"""Intervals of voltage over which ΔQ(V) is averaged where it is the input itself."""
FOLDS = 5


@dataclass(frozen=True)
class LifetimeBaseline:
    """One regression of log life.

    Attributes:
        title: for tables.
        features: of the cells from cycles up to a number, ``float64[cell, feature]``.
        regression: makes the scikit-learn regressor.
        grid: its hyper-parameters, chosen by cross-validation.
    """

    title: str
    features: Callable[[xr.Dataset, int], np.ndarray]
    regression: Callable[[], Any]
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)


def fit_predict(name: str, train: xr.Dataset, cells: xr.Dataset, cycles: int) -> np.ndarray:
    """Fit one of `BASELINES` to training cells and predict the life of other ones.

    Args:
        name: of the baseline.
        train: cells with known life, as `workbench.data.battery` lays them out.
        cells: those to predict.
        cycles: number of the last cycle that may be seen.

    Returns:
        cycles to the end of life, ``float64[cell]``.

    Raises:
        InputError: the life of a training cell is not known, a cycle is not in the record, or a policy is unknown.
    """
    return predictor(name, train, cycles)(cells)


def predictor(name: str, train: xr.Dataset, cycles: int) -> Callable[[xr.Dataset], np.ndarray]:
    """Fit one of `BASELINES`; the result predicts any cells (see `fit_predict`)."""
    baseline, life = BASELINES[name], train["cycle_life"].values
    if not np.isfinite(life).all():
        raise InputError(
            f"{np.isnan(life).sum()} of {len(life)} training cells did not reach their end of life: expected a life "
            "of each; leave censored cells out"
        )
    inputs = baseline.features(train, cycles)
    if name == "mean_life":
        return lambda cells: np.full(cells.sizes[CELL], life.mean())
    fitted = _fitted(baseline, inputs, np.log(life), train["policy"].values.tolist())
    return lambda cells: np.exp(np.ravel(fitted.predict(baseline.features(cells, cycles))))


def _fitted(baseline: LifetimeBaseline, inputs: np.ndarray, target: np.ndarray, policies: list[str]) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV

    if not baseline.grid:
        return baseline.regression().fit(inputs, target)
    groups = policies if all(policies) else [str(k) for k in range(len(policies))]
    folds = policy_folds(groups, min(FOLDS, len(set(groups))), seed=0)
    search = GridSearchCV(baseline.regression(), dict(baseline.grid), cv=folds, scoring="neg_mean_squared_error")
    with warnings.catch_warnings():  # a weak penalty that does not converge loses the comparison by itself
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(inputs, target)


# ---------------------------------------------------------------------------------------------- features


def no_features(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """Nothing is seen."""
    return np.zeros((cells.sizes[CELL], 0))


def policy_features(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """First C-rate, state of charge at the switch, second C-rate, mean C-rate to 80 % of charge: nothing measured."""
    policies = [ChargePolicy.parse(str(policy)) for policy in cells["policy"].values]
    return np.array([[p.first, p.switch, p.second, 0.8 / p.hours] for p in policies])


def reference_cycle(cycles: int) -> int:
    """The cycle that ΔQ(V) is measured from."""
    return 10 if cycles >= 30 else 3


def capacity_change(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """ΔQ(V) in Ah, ``float64[cell, voltage]``.

    Raises:
        InputError: the record has no discharge capacity, or one of the two cycles is not in it.
    """
    last, first = (_capacity(cells, cycle) for cycle in (cycles, reference_cycle(cycles)))
    return last - first


def averaged_change(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """ΔQ(V) averaged over `POINTS` equal intervals of voltage."""
    change = capacity_change(cells, cycles)
    parts = np.array_split(change, min(POINTS, change.shape[1]), axis=1)
    return np.stack([part.mean(1) for part in parts], 1)


def variance_feature(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """Logarithm of the variance over voltage of ΔQ(V)."""
    return np.log(capacity_change(cells, cycles).var(1, keepdims=True))


def discharge_features(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """The six of the published discharge model.

    Logarithms of the size of minimum, variance, skewness and kurtosis of ΔQ(V); capacity of the first cycle of the
    record; largest capacity minus that.
    """
    from scipy.stats import kurtosis, skew

    change = capacity_change(cells, cycles)
    moments = [change.min(1), change.var(1), skew(change, axis=1), kurtosis(change, axis=1, fisher=False)]
    capacity = _capacity_by_cycle(cells, cycles)
    first = capacity[:, 0]
    return np.stack([*(np.log(np.abs(m) + 1e-12) for m in moments), first, capacity.max(1) - first], 1)


def ten_features(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """Those of the discharge, slope and intercept of the fade, capacity of the last cycle, mean of ΔQ(V)."""
    capacity = _capacity_by_cycle(cells, cycles)
    slope, intercept = np.polyfit(np.arange(capacity.shape[1]), capacity.T, 1)
    mean = capacity_change(cells, cycles).mean(1)
    return np.column_stack([discharge_features(cells, cycles), slope, intercept, capacity[:, -1], mean])


def _capacity(cells: xr.Dataset, cycle: int) -> np.ndarray:
    """Q(V) of one cycle in float64."""
    if "discharge_capacity" not in cells:
        raise InputError("the record has no discharge_capacity, which this baseline is fitted to")
    numbers = cells[CYCLE].values
    if cycle not in numbers:
        raise InputError(
            f"the baseline needs cycle {cycle}; the record holds cycles {numbers[0]} to {numbers[-1]}: see more cycles"
        )
    return np.asarray(cells["discharge_capacity"].sel({CYCLE: cycle}).values, np.float64)


def _capacity_by_cycle(cells: xr.Dataset, cycles: int) -> np.ndarray:
    """Capacity at the lowest voltage of the cycles up to `cycles`, ``float64[cell, cycle]``."""
    seen = cells["discharge_capacity"].isel(voltage=-1).sel({CYCLE: slice(None, cycles)})
    return np.asarray(seen.values, np.float64)


# ---------------------------------------------------------------------------------------------- regressions


def _constant() -> Any:
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()


def _ordinary() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


def _forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(300, random_state=0)


def _scaled(regression: Any) -> Any:
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline([("scale", StandardScaler()), ("regression", regression)])


def _ridge() -> Any:
    from sklearn.linear_model import Ridge

    return _scaled(Ridge())


def _elastic_net() -> Any:
    from sklearn.linear_model import ElasticNet

    return _scaled(ElasticNet(max_iter=5000))


def _partial_least_squares() -> Any:
    from sklearn.cross_decomposition import PLSRegression

    return PLSRegression(scale=True)


_PENALTIES = np.logspace(-3, 4, 29).tolist()
_ELASTIC = {"regression__alpha": np.logspace(-3, 0, 13).tolist(), "regression__l1_ratio": [0.1, 0.5, 0.9]}

BASELINES: dict[str, LifetimeBaseline] = {
    "mean_life": LifetimeBaseline("mean life", no_features, _constant),
    "policy_only": LifetimeBaseline("policy only, random forest", policy_features, _forest),
    "variance_model": LifetimeBaseline("variance of ΔQ(V), least squares", variance_feature, _ordinary),
    "discharge_features": LifetimeBaseline(
        "discharge features, elastic net", discharge_features, _elastic_net, _ELASTIC
    ),
    "ridge": LifetimeBaseline("ΔQ(V), ridge", averaged_change, _ridge, {"regression__alpha": _PENALTIES}),
    "elastic_net": LifetimeBaseline("ΔQ(V), elastic net", averaged_change, _elastic_net, _ELASTIC),
    "pls": LifetimeBaseline(
        "ΔQ(V), partial least squares", averaged_change, _partial_least_squares, {"n_components": list(range(1, 9))}
    ),
    "random_forest": LifetimeBaseline("ten features, random forest", ten_features, _forest),
}
