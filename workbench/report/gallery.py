"""Figures on their way to the page: written as PNG and SVG, and put into the page as SVG that follows its colours."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from workbench.report import style
from workbench.report.html import Html, element, markup

RASTER_DPI = 130
"""Resolution of colour meshes inside an SVG, and half of that of the PNG files."""


@dataclass
class Gallery:
    """The folder that figures are written to, and the names given so far.

    Attributes:
        folder: where PNG and SVG files go.
        names: file names in use, without suffix.
    """

    folder: Path
    names: set[str] = field(default_factory=set)

    def add(self, name: str, figure: Figure, alt: str, caption: str = "", wide: bool = False) -> Html:
        """Write `figure` as PNG and SVG; return it as a ``<figure>`` for the page.

        Args:
            name: what the files are called, after anything but letters and digits became an underscore.
            figure: a matplotlib figure.
            alt: what is to be seen, for those who cannot see it.
            caption: printed under the figure.
            wide: let a narrow screen scroll sideways rather than shrink the figure.
        """
        stem = self._name(name)
        lay_out_once(figure)
        svg = to_svg(figure)
        (self.folder / f"{stem}.svg").write_text(svg, encoding="utf-8")
        with style.context():
            figure.savefig(self.folder / f"{stem}.png", dpi=2 * RASTER_DPI, metadata={"Software": None})
        return self.frame(inline(svg, stem, alt), caption, wide)

    @staticmethod
    def frame(drawing: Html, caption: str = "", wide: bool = False) -> Html:
        """A drawing with its caption."""
        box = element("div", drawing, class_="scroll" if wide else "fit", tabindex="0" if wide else None)
        words = element("figcaption", caption) if caption else None
        return element("figure", box, words, class_="plot wide" if wide else "plot")

    def _name(self, name: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()[:80] or "figure"
        number = 2
        free = stem
        while free in self.names:
            free, number = f"{stem}_{number}", number + 1
        self.names.add(free)
        return free


def lay_out_once(figure: Figure) -> None:
    """Place the axes now and for good: saving twice then takes 2 drawings instead of 4 (half the time of a report)."""
    engine = figure.get_layout_engine()
    if engine is not None:
        with style.context():
            engine.execute(figure)
        figure.set_layout_engine("none")


def to_svg(figure: Figure) -> str:
    """`figure` as SVG text, the same for the same figure."""
    buffer = io.StringIO()
    with style.context():
        figure.savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(svg: str, prefix: str, alt: str) -> Html:
    """An SVG file as an element of a page.

    Identifiers get `prefix` where something refers to them and go where nothing does, since those of two figures
    may be equal; palette colours become CSS variables; the size is left to the page; images are compressed.

    Args:
        svg: file as matplotlib writes it.
        prefix: distinguishes this figure from others on the page.
        alt: text for those who cannot see it.
    """
    body = (
        svg[svg.index("<svg") :]
        .replace("xlink:href", "href")
        .replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    )
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    names = {a or b for a, b in used}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in names else _frame_mark(m[1]), body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    view = re.search(r'viewBox="([^"]+)"', body)
    box = view[1] if view else "0 0 1 1"
    body = f'<svg viewBox="{box}" role="img" aria-label="{markup(alt)}">' + body[body.index(">") + 1 :]
    body = re.sub(r"data:image/png;base64,([^\"]+)", _smaller, body)
    body = body.replace(f"fill: {style.PAPER}", "fill: none", 1)  # the ground of the figure is that of the page
    return Html(style.to_css_variables(re.sub(r"\n\s*", "\n", body.strip())))


def _smaller(match: re.Match[str]) -> str:
    """An embedded PNG as WebP: a fifth of the size for fields of turbulence."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(match[1]))).save(buffer, "WEBP", quality=90, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _frame_mark(name: str) -> str:
    """``frame-7`` becomes the mark of an animation frame, hidden unless it is the first; other names go."""
    match = re.fullmatch(r"frame-(\d+)(-\w+)?", name)
    if match is None:
        return ""
    return f' data-frame="{match[1]}"' + ("" if match[1] == "0" else ' visibility="hidden"')
