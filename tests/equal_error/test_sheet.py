"""The sentence, the verdict and the table, for every way that a comparison can fall."""

import html

import numpy as np
import pytest
import xarray as xr

from workbench.equal_error.clock import Timings
from workbench.equal_error.plain import plain_words, with_plain
from workbench.equal_error.ratios import Ratios
from workbench.equal_error.sheet import Comparison, dataset_of, headline_point, ratio_text, table
from workbench.errors import InputError
from workbench.report.gallery import Gallery
from workbench.report.speed import cost_error, speed_sections

LABELS = ["16 x 16", "32 x 32", "64 x 64", "broken"]


def sheet_of(ratio=(2.0, 2.0), low=(1.5, 1.5), high=(3.0, 3.0), bound=0, own=(0.1, 0.3, 0.2), free=(0.5, 0.25, 0.4)):
    """Three candidates that ran, one that failed; a ratio for one forecast and one for the best batch."""

    def cells(values, dtype=float):
        return np.broadcast_to(np.asarray(values, dtype)[None, :, None], (3, 2, 2)).copy()

    costs = np.array([8.0, 1.0, 4.0, 32.0])[:, None, None] * np.array([1.0, 1.1, 0.9])
    found = Comparison(
        labels=LABELS,
        settings=[{"resolution": 16}, {"resolution": 32}, {"resolution": 64}, {}],
        notes=["", "", "", "time_step 1 exceeds the admissible 0.1"],
        ran=[0, 1, 2],
        points=["step 1", "step 2", "steps 1 to 2"],
        lead_points=3,
        lead_time=xr.DataArray([0.5, 1.0], dims="lead_time", attrs={"units": "s"}),
        errors=np.array([[0.4, 0.8, 0.6], [0.1, 0.2, 0.15], [0.01, 0.02, 0.015]]),
        own=np.stack([own, np.multiply(own, 0.9), np.multiply(own, 1.1)]),
        references={"persistence": np.array(free)},
        by_lead=np.ones((4, 2)),
        wall=np.repeat(costs, 2, 1),
        cpu=np.repeat(costs, 2, 1),
        per="forecast",
        variables=["u", "v"],
        sizes=np.array([[1, 8]] * 4),
        ratios=Ratios(cells(ratio), cells(low), cells(high), cells((bound, bound), int), cells((1, 1), int)),
    )
    attrs = {"confidence": 0.95, "starts": 9, "rounds": 3, "hardware": "a test", "threads": 1, "date": "today"}
    return dataset_of(found, attrs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "(32 x 32 or a little coarser) takes 2 (95 %: 1.5 to 3) of its time for one forecast and 2 "),
        ({}, "in the best batch: a speed-up"),
        ({"low": (0.9, 0.9)}, "in the best batch: no speed-up"),
        ({"ratio": (0.5, 0.4), "low": (0.4, 0.3), "high": (0.6, 0.9)}, "no speed-up, the solver is faster"),
        ({"low": (1.2, 0.4)}, "a speed-up for one forecast only"),
        ({"bound": 1, "low": (0, 0)}, "cheapest solver (32 x 32) takes ≤ 2 (95 %: ≤ 3) of its time"),
        ({"bound": 1, "low": (0, 0)}, "in the best batch: no speed-up"),
        ({"bound": 1, "low": (0, 0), "high": (0.3, 0.3)}, "no speed-up, the solver is faster"),
        ({"bound": 2, "high": (np.inf, np.inf)}, "no solver is as good; the most accurate one (32 x 32) takes ≥ 2 ("),
        ({"bound": 2, "high": (np.inf, np.inf)}, "95 %: ≥ 1.5) in the best batch: a speed-up"),
        ({"low": (np.nan, np.nan), "high": (np.nan, np.nan)}, "takes 2 of its time for one forecast and 2 in the"),
        ({"low": (np.nan, np.nan), "high": (np.nan, np.nan)}, "a speed-up (too few starts for an interval)"),
    ],
)
def test_the_sentence(changes, words):
    headline = sheet_of(**changes).attrs["headline"]
    assert headline.startswith("at the error of the surrogate over 2 steps (relative L2 0.2)")
    assert words in headline


def test_where_the_mean_shows_nothing_the_last_lead_that_does_is_told():
    sheet = sheet_of(own=(0.1, 0.3, 0.45))
    assert sheet.moot.values.tolist() == [False, True, True]
    assert headline_point(sheet) == "step 1"
    assert sheet.attrs["headline"].startswith("at the error of the surrogate over step 1 (relative L2 0.1)")
    assert "nothing to compare" in table(sheet).splitlines()[-1]


def test_an_interval_without_ends_says_so():
    sheet = sheet_of()
    cell = dict(point=headline_point(sheet), batch="one", clock="wall")
    sheet["ratio_low"].loc[cell], sheet["ratio_high"].loc[cell] = 0.0, np.inf
    assert "(95 %: open on both sides)" in ratio_text(sheet, cell["point"], "one", "wall")


def test_a_surrogate_that_does_not_last_has_no_ratio():
    sheet = sheet_of(own=(0.1, np.inf, np.inf))
    assert sheet.moot.values.tolist() == [False, True, True]
    assert "the surrogate does not stay finite for so long" in table(sheet).splitlines()[-1]


def test_the_table_has_everybody():
    lines = table(sheet_of()).splitlines()
    assert lines[1].split()[:3] == ["surrogate", "0.2", "8"]
    assert [line.split("  ")[0] for line in lines[2:5]] == LABELS[:3]
    assert lines[5].startswith("failed: 1 more")


def test_the_figure_marks_the_front_and_the_surrogate():
    axes = cost_error(sheet_of(), "steps 1 to 2", "one").axes[0]
    dominated, front = axes.get_lines()[:2]
    assert len(dominated.get_xdata()) == 0
    assert front.get_xdata().tolist() == sorted(front.get_xdata()) and len(front.get_xdata()) == 3
    assert axes.get_xscale() == axes.get_yscale() == "log"


class _Run:
    def __init__(self, folder):
        self.experiment = type("Experiment", (), {"run_dir": folder})()


def test_the_section_is_there_where_the_file_is(tmp_path):
    assert speed_sections(_Run(tmp_path), Gallery(tmp_path)) == []
    sheet_of(own=(0.1, 0.3, 0.2)).to_netcdf(tmp_path / "speedup.nc")
    (section,) = speed_sections(_Run(tmp_path), Gallery(tmp_path))
    text = section.body
    assert "At the error of the surrogate over 2 steps" in text and "no better than what costs nothing" in text
    assert "time_step 1 exceeds" in text and "9 forecasts" in text
    assert (tmp_path / "speed_one.svg").exists()


def test_the_plain_ratio_stands_apart(tmp_path):
    """The surrogate takes 2 s a forecast of four leads, alone and together, the record's solver 10 s and 40 s."""
    wall = np.array([[[0.5] * 3, [0.5] * 3], [[2.5] * 3, [10.0] * 3]])
    sheet = with_plain(sheet_of(), Timings(wall, 2 * wall, np.array([[1, 32], [1, 32]])), 4, "128 x 128")
    assert plain_words(sheet_of()) == ""
    np.testing.assert_allclose(sheet.plain_ratio.sel(clock="wall"), [5, 20])
    np.testing.assert_allclose(sheet.plain_seconds.sel(side="solver of the record", clock="cpu", together=1), 20)
    words = plain_words(sheet)
    assert words.startswith("not at equal error: the solver that made the record (128 x 128) takes 5 times as long")
    assert "20 times for 32 together" in words and words.endswith("the surrogate has a relative L2 error of 0.2")
    sheet.to_netcdf(tmp_path / "speedup.nc")
    (section,) = speed_sections(_Run(tmp_path), Gallery(tmp_path))
    assert "Not at equal error: the solver that made the record (128 x 128)" in section.body
    text = html.unescape(str(section.body))
    assert "Plain ratio against the record's own solver, as papers state it, not at equal error; computing time" in text
    assert "Errors are the relative L2 error of u, v, mean over starts; times the computing time per forecast" in text


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "speedup.nc").write_text("no")
    with pytest.raises(InputError, match="cannot read .*speedup.nc.*workbench speedup --overwrite"):
        speed_sections(_Run(tmp_path), Gallery(tmp_path))
