"""How every figure and the page look: one palette, one set of line styles, one matplotlib context.

The palette is that of Okabe and Ito (2008), which stays apart under the common colour-vision deficiencies; line styles
differ as well, so nothing rests on colour alone. Each colour has a name, a value on light paper and one on dark paper.
Figures are drawn in the light values; the page replaces them by CSS variables and so follows the reader's setting.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

PAPER, INK, MUTED, LINE = "#ffffff", "#1c2128", "#59636e", "#d3d9e0"
MODEL = "#0072b2"
BASELINES = ("#d55e00", "#009e73", "#b5588f", "#9a6b00", "#3a8fb7")

DARK = {
    PAPER: "#161b22",
    INK: "#e6edf3",
    MUTED: "#9aa5b1",
    LINE: "#343c46",
    MODEL: "#4ea8de",
    BASELINES[0]: "#ff8a4c",
    BASELINES[1]: "#2fc79a",
    BASELINES[2]: "#e08fc0",
    BASELINES[3]: "#e0b040",
    BASELINES[4]: "#8fd0f0",
}
"""Value on dark paper of every colour that a figure may use."""

CSS_NAMES = {
    PAPER: "--paper",
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    MODEL: "--model",
    **{colour: f"--baseline-{i}" for i, colour in enumerate(BASELINES)},
}

DASHES: tuple[Any, ...] = ((0, (5, 1.6)), (0, (1.2, 1.4)), (0, (7, 1.6, 1.4, 1.6)), (0, (3, 1.2)), (0, (9, 2.5)))
SIGNED_MAP, POSITIVE_MAP, ERROR_MAP = "RdBu_r", "viridis", "PuOr_r"
MISSING = "#9aa0a6"
"""Colour of points without a finite value."""

RC: Any = {
    "figure.facecolor": PAPER,
    "figure.dpi": 110,
    "savefig.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 6),
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "legend.borderpad": 0.1,
    "svg.fonttype": "none",
    "svg.hashsalt": "workbench",
    "path.simplify": True,
}


def context() -> AbstractContextManager[None]:
    """The matplotlib settings under which figures are made and saved."""
    return mpl.rc_context(RC)


@dataclass(frozen=True)
class LineStyle:
    """Colour, dashes, width and drawing order of one source of values."""

    color: str
    linestyle: Any
    linewidth: float
    zorder: float

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {
            "color": self.color,
            "linestyle": self.linestyle,
            "linewidth": self.linewidth,
            "zorder": self.zorder,
        }


def line_style(source: str, order: int) -> LineStyle:
    """Style of ``truth``, ``model`` or the baseline at position `order` among the baselines."""
    if source == "truth":
        return LineStyle(INK, "-", 1.4, 2.6)
    if source == "model":
        return LineStyle(MODEL, "-", 2.2, 3.0)
    return LineStyle(BASELINES[order % len(BASELINES)], DASHES[order % len(DASHES)], 1.5, 2.4)


def css_variables() -> str:
    """The palette as CSS custom properties: light, dark by preference, light again on paper."""
    light = "".join(f"{CSS_NAMES[c]}:{c};" for c in CSS_NAMES)
    dark = "".join(f"{CSS_NAMES[c]}:{DARK[c]};" for c in CSS_NAMES)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def to_css_variables(svg: str) -> str:
    """Replace the palette's colours in the style attributes of `svg` by the CSS variables of the page."""
    pattern = re.compile(r"(fill|stroke): (" + "|".join(CSS_NAMES) + r")\b")
    return pattern.sub(lambda match: f"{match[1]}: var({CSS_NAMES[match[2]]})", svg)
