"""The section on ``structures.nc``: every forecast in its row, the best in bold, energy of the start that is shown."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.report.gallery import Gallery
from workbench.report.header import long_run, verdict
from workbench.report.structures import by_lead, energy, long_run_sections, motion_table, quantity_table


@pytest.fixture
def scores() -> xr.Dataset:
    """Two quantities and their errors; the second forecast is better, but for the frequency, which it has not."""
    forecasts, quantities = ["model", "modal"], ["displacement", "von_mises", "velocity"]
    score = np.tile(np.array([[0.2, 0.4, 0.8], [0.1, 0.3, 0.9]])[:, None], (1, 3, 1))
    rng = np.random.default_rng(0)
    found = xr.Dataset(
        {
            "score": (("forecast", "quantity", "metric"), score),
            "score_by_lead": (("forecast", "quantity", "metric", "lead_time"), rng.random((2, 3, 3, 5))),
            "peak_error": (("forecast", "trajectory", "init_time"), [[[0.5], [0.3]], [[0.2], [0.2]]]),
            "energy_drift": (("forecast", "trajectory", "init_time"), [[[-0.5], [0.3]], [[0.1], [-0.1]]]),
            "frequency_error": (("forecast", "trajectory", "init_time"), [[[0.1], [np.nan]], [[np.nan], [np.nan]]]),
            "energy": (("source", "trajectory", "init_time", "lead_time"), rng.random((3, 2, 1, 5))),
        },
        {
            "forecast": forecasts,
            "quantity": quantities,
            "metric": ["nmae", "nrmse", "r2"],
            "source": ["truth", *forecasts],
            "lead_time": ("lead_time", 0.1 * np.arange(1, 6), {"units": "s"}),
        },
        {"verdict": "meets the bars", "missing": json.dumps({"energy of modal": "it has no velocity"})},
    )
    found["metric"].attrs["definition"] = json.dumps({"nmae": "<|p - t| / R>"})
    for name in ("peak_error", "energy_drift", "frequency_error"):
        found[name].attrs = {"units": "1", "long_name": f"the {name}"}
    found["energy"].attrs["units"] = "J"
    return found


def cells(markup: str) -> list[list[str]]:
    """Rows of a table; ``*`` marks what is bold."""
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", markup)
    return [
        [head, *("*" + text if best else text for best, text in re.findall(r"<td( class=\"best\")?>(.*?)</td>", body))]
        for head, body in rows
    ]


def test_the_best_is_the_least_error_or_the_largest_share(scores):
    assert cells(quantity_table(scores, "displacement")) == [
        ["model", "0.200", "0.400", "0.800"],
        ["modal", "*0.100", "*0.300", "*0.900"],
    ]


def test_motion_is_averaged_by_its_size_over_what_there_is(scores):
    assert cells(motion_table(scores)) == [["model", "0.400", "0.400", "*0.100"], ["modal", "*0.200", "*0.100", "–"]]
    assert motion_table(scores.drop_vars(["peak_error", "energy_drift", "frequency_error"])) is None


def test_curves_are_those_of_the_file(scores):
    lines = by_lead(scores, "von_mises").axes[0].lines
    np.testing.assert_allclose(lines[1].get_ydata(), scores["score_by_lead"][1, 1, 1])
    curves = energy(scores, 1).axes[0].lines
    np.testing.assert_allclose([line.get_ydata() for line in curves], scores["energy"][:, 1, 0])
    assert [line.get_label() for line in curves] == ["truth", "model", "modal"]


def run_on(path) -> SimpleNamespace:
    evaluate = SimpleNamespace(long_run=SimpleNamespace(domain="structures"))
    experiment = SimpleNamespace(long_run=path, report=SimpleNamespace(start=0), evaluate=evaluate)
    return SimpleNamespace(experiment=experiment, command=lambda verb: f"workbench {verb} -c beam")


def test_the_section_holds_the_verdict_and_what_was_not_computed(scores, tmp_path):
    scores.to_netcdf(tmp_path / "structures.nc")
    (section,) = long_run_sections(run_on(tmp_path / "structures.nc"), Gallery(tmp_path))
    assert "<b>The model meets the bars.</b>" in section.body
    assert "Not computed: energy of modal: it has no velocity" in section.body
    assert "<h3>von Mises stress</h3>" in section.body and "<summary>velocity</summary>" in section.body
    assert {"nrmse_displacement.png", "nrmse_von_mises.svg", "energy.png"} <= {p.name for p in tmp_path.iterdir()}


def test_the_verdict_stands_at_the_top_too(scores, tmp_path):
    assert long_run(run_on(tmp_path / "structures.nc")) == ""
    scores.to_netcdf(tmp_path / "structures.nc")
    line = long_run(run_on(tmp_path / "structures.nc"))
    assert "<p>Long run: meets the bars</p>" in verdict("does not beat its baselines: why", "how far", line, "evaluate")


def test_a_missing_file_names_the_command_and_another_file_is_refused(scores, tmp_path):
    (section,) = long_run_sections(run_on(tmp_path / "structures.nc"), Gallery(tmp_path))
    assert not section.present and "workbench evaluate -c beam" in section.body
    scores[["energy"]].to_netcdf(tmp_path / "structures.nc")
    with pytest.raises(InputError, match="holds no scores of a structure; write it again with: workbench evaluate"):
        long_run_sections(run_on(tmp_path / "structures.nc"), Gallery(tmp_path))
    (tmp_path / "structures.nc").write_text("broken")
    with pytest.raises(InputError, match="cannot read .*structures.nc"):
        long_run_sections(run_on(tmp_path / "structures.nc"), Gallery(tmp_path))
