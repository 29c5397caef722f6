"""The section on storms: tables and pictures of what ``storms.nc`` holds."""

import numpy as np
import pytest
import xarray as xr

from workbench.report.storms import by_lead, means_table, tracks
from workbench.scoring.storms import _scored


@pytest.fixture
def scores():
    """Two storms of one start over three leads; the second is lost by the model after one step."""
    lead = np.arange(4)
    storms = np.zeros((3, 2, 4, 4))
    for source, speed in enumerate((2.0, 1.5, 2.5)):
        for storm in range(2):
            storms[source, storm] = [50 + 0 * lead, -40 + speed * lead, 97000 + 500 * storm + 100 * lead, np.nan * lead]
    storms[1, 1, :, 2:] = np.nan
    forecast = xr.Dataset(
        coords={
            "init_time": np.array(["2001-01-01"], "datetime64[ns]"),
            "lead_time": (np.arange(1, 4) * np.timedelta64(1, "D")).astype("timedelta64[ns]"),
        }
    )
    return _scored(storms, forecast, np.zeros(2, int)).assign_attrs(verdict="puts storms off by little")


def test_the_table_of_means(scores):
    text = str(means_table(scores.sel(sample="all")))
    assert "track error (km)" in text and "strongest wind" not in text  # there was no wind
    assert "50 %" in text and "100 %" in text and "35.7" in text  # half a degree of longitude at 50 degrees north


def test_pictures(scores):
    figure = tracks(scores)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "storms from 2001-01-01 00:00 on"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["truth", "model", "persistence of motion"]
    curve = by_lead(scores, "mean_track_error").axes[0].get_lines()[0].get_ydata()
    np.testing.assert_allclose(curve, scores.mean_track_error.sel(sample="all", forecast="model"))
