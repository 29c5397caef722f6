"""Picture sheets: every frame in its place, north up, missing points grey, within the budget."""

import base64
import io
import re

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workbench.report import animation, style
from workbench.report.animation import animate_planes, cells, chosen_frames, fitting_sheets, frame_labels, picture_sheet
from workbench.report.fields import Scale

SCALE = Scale("viridis", 0.0, 1.0)


def field(values: np.ndarray, y: np.ndarray | None = None) -> xr.DataArray:
    frames, rows, columns = values.shape
    coords = {
        "lead_time": np.arange(1.0, frames + 1),
        "y": np.arange(rows) if y is None else y,
        "x": np.arange(columns),
    }
    return xr.DataArray(values, coords, ["lead_time", "y", "x"], name="u")


def frame(sheet: animation.Sheet, k: int) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(sheet.data)).convert("RGB"), dtype=int)
    tall, wide = sheet.height + 2 * animation.GUTTER, sheet.width + 2 * animation.GUTTER
    top, left = k // sheet.columns * tall + animation.GUTTER, k % sheet.columns * wide + animation.GUTTER
    return pixels[top : top + sheet.height, left : left + sheet.width]


def colour(value: float) -> np.ndarray:
    return np.array(mpl.colormaps["viridis"](value, bytes=True)[:3], dtype=int)


@pytest.mark.parametrize("frames", [1, 2, 5, 12])
def test_each_frame_is_in_its_place(frames):
    levels = np.linspace(0, 1, frames)
    sheet = picture_sheet(field(np.broadcast_to(levels[:, None, None], (frames, 4, 8)).copy()), SCALE, 64)
    assert (sheet.width, sheet.height) == (64, 32)
    for k, level in enumerate(levels):
        assert np.abs(frame(sheet, k) - colour(level)).max() < 12


@pytest.mark.parametrize("y", [np.arange(4.0), np.arange(4.0)[::-1]])
def test_the_largest_y_is_on_top(y):
    values = np.broadcast_to((y / 3)[None, :, None], (1, 4, 4)).copy()
    picture = frame(picture_sheet(field(values, y), SCALE, 64), 0)
    assert np.abs(picture[4] - colour(1.0)).max() < 16
    assert np.abs(picture[-5] - colour(0.0)).max() < 16


def test_missing_points_are_grey():
    picture = frame(picture_sheet(field(np.full((1, 4, 4), np.nan)), SCALE, 32), 0)
    assert np.abs(picture - np.array([int(style.MISSING[i : i + 2], 16) for i in (1, 3, 5)])).max() < 6


def test_cells_lie_between_the_midpoints_of_a_stretched_axis():
    index = cells(np.array([0.0, 1.0, 4.0]), 100)
    edges = np.array([-0.5, 0.5, 2.5, 5.5])
    expected = np.digitize(-0.5 + (np.arange(100) + 0.5) * 0.06, edges) - 1
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(cells(np.array([7.0]), 3), 0)


@given(st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 3)), min_size=2, max_size=20, unique=True))
def test_cells_rise_along_any_axis(values):
    axis = np.array(values)
    index = cells(axis, 64)
    assert (np.diff(axis[index]) >= 0).all() and index.min() >= 0 and index.max() < len(axis)


@given(st.integers(1, 500), st.integers(1, 100))
def test_frames_are_few_evenly_spaced_and_hold_both_ends(leads, frames):
    index = chosen_frames(leads, frames)
    assert len(index) == min(leads, frames) and index[0] == 0
    assert frames == 1 or index[-1] == leads - 1
    assert np.ptp(np.diff(index)) <= 1 if len(index) > 1 else True


def test_sheets_shrink_until_they_fit(monkeypatch):
    noise = np.random.default_rng(0).random((4, 64, 64))
    whole = fitting_sheets([field(noise)], [SCALE])[0]
    monkeypatch.setattr(animation, "BUDGET", len(whole.data) - 1)
    smaller = fitting_sheets([field(noise)], [SCALE])[0]
    assert smaller.width < whole.width and len(smaller.data) < len(whole.data)


def test_noise_on_a_large_grid_stays_within_the_budget(monkeypatch):
    noise = np.random.default_rng(0).random((40, 256, 256), dtype=np.float32)
    monkeypatch.setattr(animation, "BUDGET", animation.BUDGET // 3)
    (sheet,) = fitting_sheets([field(noise)], [SCALE])
    assert len(sheet.data) <= animation.BUDGET


def test_player_holds_three_pictures_and_a_label_for_each_frame():
    values = np.random.default_rng(0).random((3, 4, 4))
    html = animate_planes(field(values), field(values), ["one", "two", "three"])
    pictures = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    assert len(pictures) == 3
    assert all(Image.open(io.BytesIO(base64.b64decode(p))).format == "WEBP" for p in pictures)
    assert "[&quot;one&quot;, &quot;two&quot;, &quot;three&quot;]" in html and 'max="2"' in html
    assert re.findall(r'aria-label="([^"]+)"', html)[:2] == ["u: truth", "u: prediction"]


def test_labels_tell_lead_and_step_and_where_the_forecast_stopped():
    lead = xr.DataArray(np.arange(1, 4) * np.timedelta64(6, "h"), dims="lead_time")
    assert frame_labels(lead)[1] == "lead 12\u202fh, step 2 of 3"
    stopped = frame_labels(lead, 2)
    assert [label.endswith("stopped, not finite") for label in stopped] == [False, True, True]
