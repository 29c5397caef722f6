"""Numbers of the tables are those of scores.nc."""

import re

import numpy as np
import pytest
import xarray as xr

from workbench.report.labels import number
from workbench.report.tables import (
    best,
    horizon_table,
    interval,
    optimum_of,
    p_value,
    score_table,
    significance_table,
    table_leads,
    units_of_score,
)


@pytest.fixture
def scores(whole_run):
    with xr.open_dataset(whole_run.scores, engine="netcdf4", decode_timedelta=True) as opened:
        return opened.load()


def rows(table: str) -> list[list[str]]:
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    return [
        [re.sub(r"<[^>]+>", "|", cell).strip("|") for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in found
    ]


@pytest.mark.parametrize("metric", ["rmse", "bias", "correlation"])
def test_every_number_of_the_table_is_in_the_scores(scores, metric):
    printed = rows(score_table(scores, metric, {"vorticity": "s-1"}))
    leads = table_leads(scores.sizes["lead_time"])
    assert printed[0] == ["lead time", "0.25\u202fs", "0.75\u202fs", "1.5\u202fs", "3\u202fs"]
    at = 1
    for variable in scores["variable"].values:
        assert printed[at][0].startswith(variable)
        for k, forecast in enumerate(scores["forecast"].values, start=at + 1):
            assert printed[k][0] == forecast
            chosen = scores.sel(metric=metric, variable=variable, forecast=forecast).isel(lead_time=leads)
            for cell, value, low, high in zip(
                printed[k][1:], *(chosen[n].values for n in ("score", "score_low", "score_high")), strict=True
            ):
                assert cell == f"{number(value)}|{number(low)} to {number(high)}"
        at += 1 + scores.sizes["forecast"]
    assert len(printed) == at


def test_units_stand_beside_the_variable(scores):
    table = score_table(scores, "rmse", {"vorticity": "s-1", "pressure": "1"})
    assert "vorticity (s⁻¹)" in table and ">pressure</th>" in table
    assert "(s⁻¹)" not in score_table(scores, "correlation", {"vorticity": "s-1"})
    assert [units_of_score(m, "m s-1") for m in ("rmse", "mse", "acc", "unknown")] == ["m s-1", "m2 s-2", "1", "1"]


def test_the_best_is_bold_and_only_the_best(scores):
    table = score_table(scores.isel(variable=[0]), "rmse", {})
    for column, lead in enumerate(table_leads(scores.sizes["lead_time"])):
        values = scores["score"].sel(metric="rmse").isel(variable=0, lead_time=lead).values
        bold = [
            'class="best"' in re.findall(r"<td[^>]*>", row)[column]
            for row in re.findall(r"<tr>(.*?)</tr>", table)
            if "<td" in row
        ]
        assert bold == list(values == values.min())


def test_best_is_nearest_to_the_optimum():
    values = np.array([0.3, -0.1, np.nan, 0.9])
    np.testing.assert_array_equal(best(values, 0.0), [False, True, False, False])
    np.testing.assert_array_equal(best(values, 1.0), [False, False, False, True])
    assert not best(values, None).any() and not best(np.array([np.nan]), 0.0).any()
    np.testing.assert_array_equal(best(np.array([2.0, 2.0]), 0.0), [True, True])
    assert optimum_of("rmse") == 0 and optimum_of("acc") == 1 and optimum_of("unknown") is None


def test_scores_without_intervals_or_values_are_dashes(scores):
    bare = scores.drop_vars(["score_low", "score_high"])
    bare["score"] = bare["score"] * np.nan
    table = score_table(bare, "rmse", {})
    assert "<small>" not in table and table.count("<td>–</td>") == 2 * 3 * 4
    assert interval(np.nan, 1.0) == ""


def test_horizons_and_p_values(scores):
    scores = scores.isel(variable=[0])
    scores["beats_to"] = xr.full_like(scores["beats_to"], 0)
    scores["beats_to"].loc[{"baseline": "climatology"}] = 9
    printed = rows(horizon_table(scores))
    assert printed[0] == ["better to step", "than persistence", "than climatology", "decorrelates at lead"]
    assert printed[1][:3] == ["vorticity", "never|11 to 12", "9 of 12|11 to 12"]
    assert printed[1][3] == "3\u202fs"
    scores["decorrelation_lead"] = scores["decorrelation_lead"] * np.inf
    assert "later than the last" in horizon_table(scores)
    scores["beats_to_low"] = scores["beats_to_low"] * np.nan
    assert rows(horizon_table(scores.drop_vars("decorrelation_lead")))[1] == ["vorticity", "never", "9 of 12"]
    assert rows(significance_table(scores))[1][:2] == ["vorticity: model against persistence", "&lt; 0.001"]
    assert [p_value(v) for v in (0.0004, 0.034, np.nan)] == ["< 0.001", "0.034", "–"]


@pytest.mark.parametrize(("count", "leads"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 3]), (20, [0, 4, 9, 19])])
def test_leads_of_the_table(count, leads):
    assert table_leads(count) == leads
