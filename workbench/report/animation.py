"""Truth, prediction and error side by side in time: frames in one image per panel, played by a few lines of script.

A picture sheet holds all frames of a panel in rows and columns; the script copies one of them onto a canvas. That needs
no server and no other file, and one compressed image is far smaller than forty.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from workbench.report import style
from workbench.report.fields import (
    Scale,
    axis_label,
    error_scale,
    height_over_width,
    positions,
    space_dims,
    truth_scale,
)
from workbench.report.gallery import inline, to_svg
from workbench.report.html import Html, element
from workbench.report.labels import brief, describe, lead_label
from workbench.report.pictures import TITLES, colormap

SIDES = (256, 208, 160, 112, 80)
"""Widths of a frame in pixels, tried in turn until the picture sheets fit `BUDGET`."""

BUDGET = 1_600_000
"""Bytes of all picture sheets together, before base64 adds a third."""

QUALITY, ALPHA_QUALITY = 84, 60

GUTTER = 8
"""Pixels by which the edge of each frame is repeated, since the codec blends neighbours."""


@dataclass(frozen=True)
class Sheet:
    """All frames of one panel in one picture.

    Attributes:
        data: WebP file.
        width: pixels of a frame.
        height: pixels of a frame.
        columns: frames in a row.
    """

    data: bytes
    width: int
    height: int
    columns: int

    @property
    def address(self) -> str:
        """The picture as a data address."""
        return "data:image/webp;base64," + base64.b64encode(self.data).decode("ascii")


def chosen_frames(leads: int, frames: int) -> np.ndarray:
    """At most `frames` lead indices, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, leads - 1, min(max(frames, 1), leads)).round().astype(int))


def animate_planes(truth: xr.DataArray, prediction: xr.DataArray, labels: Sequence[str]) -> Html:
    """A player of three panels for a field on a plane.

    Args:
        truth: ``(lead_time, y, x)``.
        prediction: ``(lead_time, y, x)``.
        labels: what to print beside the slider at each frame.
    """
    error = prediction - truth
    shared, errors = truth_scale(truth.values), error_scale(error.values)
    sheets = fitting_sheets([truth, prediction, error], [shared, shared, errors])
    return player(panels(sheets, shared, errors, describe(truth)), labels)


def panels(sheets: Sequence[Sheet], shared: Scale, errors: Scale, what: str) -> Html:
    """Truth, prediction and error side by side, over their colours.

    Args:
        sheets: of the three.
        shared: colours of truth and prediction.
        errors: colours of the error.
        what: is in the pictures.
    """
    drawn = [
        element(
            "figure",
            element("figcaption", title),
            _canvas(sheet, f"{what}: {title}"),
            element("img", src=sheet.address, alt="", hidden=True, data_columns=sheet.columns, data_gutter=GUTTER),
        )
        for sheet, title in zip(sheets, TITLES, strict=True)
    ]
    return element("div", *drawn, color_bar(shared, what, "both"), color_bar(errors, "error", "one"), class_="panels")


def _canvas(sheet: Sheet, alt: str) -> Html:
    return element("canvas", width=sheet.width, height=sheet.height, role="img", aria_label=alt)


def fitting_sheets(fields: Sequence[xr.DataArray], scales: Sequence[Scale]) -> list[Sheet]:
    """Picture sheets of several fields, as large as `BUDGET` allows."""
    for side in SIDES:
        sheets = [picture_sheet(field, scale, side) for field, scale in zip(fields, scales, strict=True)]
        if sum(len(sheet.data) for sheet in sheets) <= BUDGET:
            break
    return sheets


def picture_sheet(field: xr.DataArray, scale: Scale, side: int) -> Sheet:
    """The frames of a field ``(lead_time, y, x)`` as one WebP picture.

    Args:
        field: the field; missing values get a grey of their own.
        scale: colour map and limits.
        side: pixels of the longer side of a frame.
    """
    y, x = space_dims(field)
    ratio = height_over_width(field)
    width, height = (_whole_blocks(side * part) for part in ((1.0, ratio) if ratio <= 1 else (1 / ratio, 1.0)))
    rows, columns = cells(positions(field, y), height)[::-1], cells(positions(field, x), width)
    frames = field.transpose("lead_time", y, x).values[:, rows][:, :, columns]
    relative = np.ma.masked_invalid((frames - scale.low) / (scale.high - scale.low))
    colors = colormap(scale)(relative, bytes=True)[..., :3]
    return tile(colors)


def tile(frames: np.ndarray) -> Sheet:
    """Pictures of one size, ``uint8[frame, height, width, 3 or 4]``, as one WebP picture."""
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (GUTTER, GUTTER), (GUTTER, GUTTER), (0, 0)), mode="edge")
    per_row, (tall, wide) = int(np.ceil(np.sqrt(len(padded)))), padded.shape[1:3]
    sheet = np.zeros((-(-len(padded) // per_row) * tall, per_row * wide, padded.shape[3]), np.uint8)
    for k, frame in enumerate(padded):
        top, left = k // per_row * tall, k % per_row * wide
        sheet[top : top + tall, left : left + wide] = frame
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=4)
    return Sheet(buffer.getvalue(), width, height, per_row)


def _whole_blocks(pixels: float) -> int:
    """A multiple of 16, the block of the codec."""
    return max(16, 16 * round(pixels / 16))


def cells(values: np.ndarray, pixels: int) -> np.ndarray:
    """Index of the grid cell under each of `pixels` equal pixels, the axis rising; cells end midway between points."""
    if len(values) == 1:
        return np.zeros(pixels, dtype=int)
    order = np.argsort(values)
    rising = values[order]
    middles = (rising[1:] + rising[:-1]) / 2
    first, last = rising[0] - (middles[0] - rising[0]), rising[-1] + (rising[-1] - middles[-1])
    centres = first + (np.arange(pixels) + 0.5) / pixels * (last - first)
    return order[np.searchsorted(middles, centres)]


def color_bar(scale: Scale, label: str, span: str) -> Html:
    """A colour scale with its limits, as wide as one panel or as ``both``."""
    colors = ",".join(to_hex(c) for c in colormap(scale)(np.linspace(0, 1, 17)))
    middle = (scale.low + scale.high) / 2
    ticks = [element("span", brief(value)) for value in (scale.low, middle, scale.high)]
    strip = element("div", class_="strip", style=f"background:linear-gradient(90deg,{colors})")
    return element("div", strip, element("div", *ticks, class_="ticks"), element("small", label), class_=f"bar {span}")


def animate_lines(truth: xr.DataArray, prediction: xr.DataArray, labels: Sequence[str]) -> Html:
    """A player for a field on a line: truth and prediction along its axis.

    Args:
        truth: ``(lead_time, x)``.
        prediction: ``(lead_time, x)``.
        labels: what to print beside the slider at each frame.
    """
    figure = frames_of_lines(truth, prediction)
    drawing = inline(to_svg(figure), "animation", f"{describe(truth)}: truth and prediction, moving in lead time")
    return player(element("div", drawing, class_="plot"), labels)


def frames_of_lines(truth: xr.DataArray, prediction: xr.DataArray) -> Figure:
    """Every frame of two moving lines in one figure, each line named ``frame-k``."""
    dim = space_dims(truth)[0]
    x = positions(truth, dim)
    with style.context():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, field, order in (("truth", truth, 0), ("prediction", prediction, 0)):
            look = style.line_style("model" if name == "prediction" else "truth", order)
            for k in range(field.sizes["lead_time"]):
                label = name if k == 0 else None
                (line,) = axes.plot(x, field.isel(lead_time=k).values, label=label, **look.keywords())
                line.set_gid(f"frame-{k}-{name}")
        scale = truth_scale(truth.values)
        margin = 0.15 * (scale.high - scale.low)
        axes.set_ylim(scale.low - margin, scale.high + margin)
        axes.set_xlabel(axis_label(truth, dim))
        axes.set_ylabel(describe(truth))
        axes.legend(loc="upper right", ncols=2)
    return figure


def player(stage: Html, labels: Sequence[str]) -> Html:
    """A stage with a button and a slider; without script, its first frame."""
    controls = element(
        "div",
        element("button", "Play", type="button", class_="play"),
        element("input", type="range", min=0, max=len(labels) - 1, value=0, aria_label="lead time"),
        element("output", labels[0]),
        class_="controls",
        hidden=True,
    )
    without = element("noscript", element("p", "The animation plays where scripts are allowed.", class_="absent"))
    return element(
        "div", stage, controls, without, class_="player", data_labels=json.dumps(list(labels), ensure_ascii=False)
    )


def frame_labels(lead: xr.DataArray, stop_step: int | None = None) -> list[str]:
    """``lead 6 h, step 1 of 20`` for every lead; from `stop_step` on with the remark that the forecast has stopped."""
    units = lead.attrs.get("units", "1")
    stopped = len(lead) + 1 if stop_step is None else stop_step
    return [
        f"lead {lead_label(value, units)}, step {k} of {len(lead)}" + (" — stopped, not finite" if k >= stopped else "")
        for k, value in enumerate(lead.values, start=1)
    ]
