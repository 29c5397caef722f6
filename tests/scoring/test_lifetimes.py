"""Scores of lives against values worked out by hand, and the choice of depth."""

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.lifetime_experiment import LifetimeEvaluateConfig
from workbench.scoring.lifetimes import score
from workbench.scoring.lifetimes_sweep import choose, combine, mean_error, standard_error
from workbench.scoring.lifetimes_verdict import best_baseline

TRUE = np.array([100.0, 200, 300, 400, 500, 600, 700, 800, 900, 1000])
PART = ["test1"] * 4 + ["test2"] * 4 + ["train"] * 2


def lives(factor=1.1):
    along = {
        "predicted_life": factor * TRUE,
        "predicted_life_lower": [90, 90, 90, 500, 400, 400, 400, 900, np.nan, np.nan],
        "predicted_life_upper": [120, 300, 310, 600, 700, 700, 705, 990, np.nan, np.nan],
        "unlike_training": [1] + 9 * [0],
        "p_value": np.linspace(0.02, 1, 10),
        "new_policy": [0] * 4 + [1] * 4 + [0] * 2,
    }
    found = xr.Dataset({name: ("cell", np.asarray(values)) for name, values in along.items()})
    found["predicted_life_lower"].attrs["level"] = 0.9
    policy = ["a", "a", "b", "b", "c", "c", "c", "c", "a", "b"]
    about = {"cell": list("ABCDEFGHIJ"), "cycle_life": ("cell", TRUE), "part": ("cell", PART)}
    return found.assign_coords(policy=("cell", policy), **about).assign_attrs(workbench_split="severson")


def scored(beside, **config):
    found = {name: np.where(np.array(PART) == "train", np.nan, values) for name, values in beside.items()}
    return score(lives(), found, dict.fromkeys(found, "text"), LifetimeEvaluateConfig(**({"resamples": 400} | config)))


def test_scores_of_parts_with_and_without_a_cell():
    found = scored({"worse": 1.5 * TRUE, "mixed": TRUE * np.r_[np.full(4, 1.3), np.full(6, 1.05)]}, without=("A",))
    assert found["part"].values.tolist() == ["test1", "test1x", "test2", "train", "all tests"]
    mape = found["score"].sel(metric="mape")
    np.testing.assert_allclose(mape.sel(forecast="model"), 10)
    np.testing.assert_allclose(mape.sel(forecast="mixed", part=["test1", "test2"]), [30, 5])
    assert np.isnan(mape.sel(forecast="mixed", part="train"))
    rmse = found["score"].sel(metric="rmse", forecast="model")
    np.testing.assert_allclose(rmse.sel(part="test1x"), np.sqrt(np.mean([20.0**2, 30**2, 40**2])))
    np.testing.assert_allclose(found["coverage"].sel(part=["test1", "test1x", "test2"]), [0.75, 2 / 3, 0.75])
    low, high = (found[n].sel(metric="rmse", forecast="model", part="test1") for n in ("score_low", "score_high"))
    assert low < rmse.sel(part="test1") < high
    assert found["policy_new"].sel(policy=["a", "c"]).values.tolist() == [0, 1]
    np.testing.assert_allclose(found["policy_bias"], 10)


def test_the_verdict_names_the_part_and_the_baseline_that_is_better():
    found = scored({"worse": 1.5 * TRUE, "mixed": TRUE * np.r_[np.full(4, 1.3), np.full(6, 1.05)]}, without=("A",))
    assert best_baseline(found, "test1x") == "mixed" and best_baseline(found, "test2") == "mixed"
    assert found.attrs["verdict"] == "does not beat its baselines: on test2 mixed has mape 5 against 10"
    assert found.attrs["headline"].startswith("test1x: mape 10 % against 30 of mixed; test2: mape 10 % against 5 of")
    assert "90 % intervals cover 75.0 % of lives" in found.attrs["headline"]
    assert scored({"worse": 1.5 * TRUE}).attrs["verdict"] == "beats its baselines"
    assert found["p_value_of_difference"].sel(baseline="mixed", part="test2") < 0.05
    assert scored({"same": 1.1 * TRUE})["p_value_of_difference"].sel(baseline="same", part="test2") == 1


def test_unknown_cells_and_lives_are_refused():
    with pytest.raises(InputError, match="evaluate.without names Z, and the predictions have no such cell"):
        scored({}, without=("Z",))
    censored = lives().assign_coords(cycle_life=("cell", np.where(TRUE > 900, np.nan, TRUE)))
    with pytest.raises(InputError, match="predictions of cells without an end of life cannot be scored"):
        score(censored, {}, {}, LifetimeEvaluateConfig())


def test_the_smallest_depth_within_one_standard_error_is_chosen():
    errors = {0: [[14.0], [18.0], [16.0]], 1: [[12.0], [18.0], [15.0]], 2: [[10.0], [16.0], [13.0]]}
    assert mean_error(errors[2]) == 13 and standard_error(errors[2]) == pytest.approx(np.sqrt(3))
    assert choose(errors) == 2
    assert choose({**errors, 1: [[11.0], [18.0], [15.0]]}) == 1
    assert choose({0: [[13.5, 14.5], [14.0]], **{k: errors[k] for k in (1, 2)}}) == 0


def test_a_sweep_holds_scores_choices_and_what_was_published():
    errors = {0: [[10.0], [12.0]], 1: [[2.0], [2.1]]}
    found = combine({10: scored({"worse": 1.5 * TRUE}), 20: scored({})}, {10: errors, 20: errors}, "blocks", "FPNN")
    assert found["score"].sizes["cycles"] == 2 and found["chosen_depth"].values.tolist() == [1, 1]
    assert np.isnan(found["score"].sel(cycles=20, forecast="worse")).all()
    np.testing.assert_allclose(found["cross_validated"].sel(depth=0), 11)
    assert "cannot be compared" in found.attrs["comment"]
