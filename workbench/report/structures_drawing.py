"""A structure drawn on axes: the faces of its deformed mesh in colours, its outline at rest, supports and loads."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from workbench.report import style
from workbench.report.fields import Scale
from workbench.report.pictures import colormap
from workbench.report.structures_body import depth, edges_in_front, to_screen, visible
from workbench.report.structures_scene import Box, Motion, Scene, arrows

FRAME_INCHES = 3.2
"""Width of a frame of the animation, to which lines are in proportion."""
GLYPH = 0.032
"""Length of the triangle of a support, over the longest side of the body."""
VECTOR_FACES = 400
"""Faces up to which a panel is drawn in vectors; more make files large, and become an image."""
DOTS = (0, (2.2, 1.8))
"""Of the outline at rest."""
GREY, ARROW_COLOUR = "#7d8590", style.BASELINES[0]
"""The grey can be told from paper in both settings of the page, which frames of an animation do not follow."""


def draw_truth(axes: Axes, scene: Scene, lead: int) -> PolyCollection:
    """The truth at one lead, with supports and loads."""
    return _draw(axes, scene, scene.truth, lead)


def draw_prediction(axes: Axes, scene: Scene, lead: int) -> PolyCollection:
    """The prediction at one lead, with supports and loads."""
    return _draw(axes, scene, scene.prediction, lead)


def draw_error(axes: Axes, scene: Scene, lead: int) -> PolyCollection:
    """Prediction less truth in colours on the truth, and the outline of the prediction."""
    _at_rest(axes, scene)
    values = scene.prediction.values[lead] - scene.truth.values[lead]
    mesh = _faces(axes, scene, scene.truth.displacement[lead], values, scene.errors)
    places = scene.deformed(scene.prediction.displacement[lead])
    lines = to_screen(places[edges_in_front(scene.body, places)])
    lines = lines[np.isfinite(lines).all((1, 2))]
    axes.add_collection(LineCollection(list(lines), colors=style.MODEL, linewidths=1.3, zorder=4), autolim=False)
    return mesh


PANELS = (draw_truth, draw_prediction, draw_error)
"""In the order of `workbench.report.pictures.TITLES`."""


def _draw(axes: Axes, scene: Scene, motion: Motion, lead: int) -> PolyCollection:
    _at_rest(axes, scene)
    mesh = _faces(axes, scene, motion.displacement[lead], motion.values[lead], scene.shared)
    places = scene.deformed(motion.displacement[lead])
    _supports(axes, scene, places)
    if scene.forces is not None:
        _loads(axes, scene, places, scene.forces[lead])
    probe = to_screen(places[scene.probe])
    axes.plot(
        *probe, "o", markersize=4, markerfacecolor="white", markeredgecolor=style.INK, markeredgewidth=1, zorder=5
    )
    return mesh


def set_out(axes: Axes, limits: Box) -> None:
    """Give the axes their limits, and x and y the same scale."""
    left, right, bottom, top = limits
    axes.set_aspect("equal")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def polygons(scene: Scene, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The faces that are seen, in the order of painting, and their corners on the screen ``[face, 4, 2]``."""
    corners = scene.deformed(displacement)[scene.body.faces]
    seen = visible(corners)
    return seen, to_screen(corners[seen])


def _faces(axes: Axes, scene: Scene, displacement: np.ndarray, values: np.ndarray, scale: Scale) -> PolyCollection:
    seen, corners = polygons(scene, displacement)
    mesh = PolyCollection(
        list(corners),
        array=np.ma.masked_invalid(values[seen]),
        cmap=colormap(scale),
        norm=Normalize(scale.low, scale.high),
        edgecolors=(*mpl.colors.to_rgb(style.INK), 0.55),
        linewidths=float(np.clip(8 / np.sqrt(len(scene.body.faces)), 0.15, 0.5)),
        zorder=2,
    )
    mesh.set_rasterized(len(seen) > VECTOR_FACES)
    axes.add_collection(mesh, autolim=False)
    return mesh


def _at_rest(axes: Axes, scene: Scene) -> None:
    """The undeformed outline, behind everything."""
    lines = to_screen(scene.body.reference[scene.body.outline])
    dots = LineCollection(list(lines), colors=GREY, linewidths=0.9, linestyles=[DOTS], zorder=1)
    axes.add_collection(dots, autolim=False)


def _supports(axes: Axes, scene: Scene, places: np.ndarray) -> None:
    """Triangles that touch the held nodes from outside, filled where every component is held."""
    body = scene.body
    nodes = np.intersect1d(np.flatnonzero(body.held.any(1)), body.nodes)
    tips = to_screen(places[nodes])
    away = to_screen(body.outward[nodes])
    length = np.linalg.norm(away, axis=1, keepdims=True)
    away = np.where(length > 0.1, away / np.maximum(length, 1e-12), [0.0, -1.0]) * GLYPH * body.size
    across = 0.55 * away[:, ::-1] * [-1, 1]
    triangles = np.stack([tips, tips + away + across, tips + away - across], 1)
    whole, behind = body.held[nodes].all(1), depth(body.outward[nodes]) < 0
    for filled, back in ((True, True), (True, False), (False, True), (False, False)):
        chosen = triangles[(whole == filled) & (behind == back) & np.isfinite(tips).all(1)]
        face = GREY if filled else "none"
        axes.add_collection(
            PolyCollection(list(chosen), facecolors=face, edgecolors=GREY, linewidths=0.8, zorder=1.5 if back else 3),
            autolim=False,
        )


def _loads(axes: Axes, scene: Scene, places: np.ndarray, forces: np.ndarray) -> None:
    starts, ends = (to_screen(points) for points in arrows(scene.body, places, forces))
    if len(starts):
        axes.quiver(
            *starts.T,
            *(ends - starts).T,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.008,
            headwidth=3.6,
            headlength=4.2,
            headaxislength=3.8,
            minlength=0,
            color=ARROW_COLOUR,
            edgecolor="white",
            linewidth=0.3,
            zorder=4,
        )


def frame(scene: Scene, panel: int, lead: int, limits: Box, pixels: int) -> np.ndarray:
    """One panel at one lead without axes on transparent ground, ``uint8[height, width, 4]``.

    Args:
        scene: what is drawn.
        panel: position in `PANELS`.
        lead: position of the lead.
        limits: left, right, bottom and top.
        pixels: width.
    """
    left, right, bottom, top = limits
    ratio = round(pixels * (top - bottom) / (right - left) / 16) * 16 / pixels
    with style.context():
        figure = Figure(figsize=(FRAME_INCHES, FRAME_INCHES * ratio), dpi=pixels / FRAME_INCHES, facecolor="none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        set_out(axes, limits)
        PANELS[panel](axes, scene, lead)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.array(canvas.buffer_rgba())
