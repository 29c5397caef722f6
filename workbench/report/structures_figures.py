"""Figures of a moving structure: its deformed mesh in colours, and histories at one node and at the worst element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from workbench.report import style
from workbench.report.figures import legend_below
from workbench.report.labels import brief, lead_axis, lead_label, plain, prefixed, spoken, with_units
from workbench.report.pictures import TITLES, WIDTH, bar
from workbench.report.structures_body import to_screen
from workbench.report.structures_drawing import ARROW_COLOUR, DOTS, GREY, PANELS, set_out
from workbench.report.structures_scene import VECTOR, History, Scene, box


def deformed(scene: Scene, leads: Sequence[int], note: str = "") -> Figure:
    """Truth, prediction and error on the deformed mesh side by side, one row a lead.

    Args:
        scene: what is drawn.
        leads: positions of the leads.
        note: printed over a prediction that is not finite.
    """
    left, right, bottom, top = limits = box(scene, np.array(leads))
    tall = min((top - bottom) / (right - left), 1.4) * WIDTH / 3.45
    with style.context(), mpl.rc_context({"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, len(leads) * (tall + 0.2) + 1.8), layout=ConstrainedLayoutEngine(h_pad=0.09))
        figure.suptitle(plain(heading(scene)), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        grid = figure.subplots(len(leads), 3, squeeze=False, sharex=True, sharey=True)
        for row, lead in zip(grid, leads, strict=True):
            meshes = [draw(axes, scene, lead) for draw, axes in zip(PANELS, row, strict=True)]
            _name_row(row, scene, lead, note)
        for axes in grid.ravel():
            set_out(axes, limits)
            _bare(axes, scene.body.dim)
        for axes, title in zip(grid[0], TITLES, strict=True):
            axes.set_title(title)
        for axes in grid[-1] if scene.body.dim == 2 else ():
            axes.set_xlabel(plain(with_units("x", scene.axis_units)))
        if scene.body.dim == 3:
            _triad(grid[-1, 0])
        mine, true = scene.prediction.values[list(leads)], scene.truth.values[list(leads)]
        bar(figure, meshes[0], list(grid[:, :2].ravel()), 2, plain(scene.quantity), scene.shared.exceeded_by(mine))
        bar(figure, meshes[2], list(grid[:, 2]), 1, "error", scene.errors.exceeded_by(mine - true))
        handles = _legend(scene)
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), columnspacing=1.6)
    return figure


def heading(scene: Scene) -> str:
    """What is drawn, and by how much it is exaggerated."""
    return f"{scene.quantity.partition(' (')[0]} on the deformed body, {exaggerated(scene)}"


def exaggerated(scene: Scene) -> str:
    """By how much displacements are, in words."""
    return "true to scale" if scene.factor == 1 else f"displacements drawn × {brief(scene.factor)}"


def _name_row(row: Sequence[Axes], scene: Scene, lead: int, note: str) -> None:
    words = lead_label(scene.lead.values[lead], scene.lead.attrs.get("units", "1"))
    up = f"\n{with_units('y', scene.axis_units)}" if scene.body.dim == 2 else ""
    row[0].set_ylabel(f"lead {words}{up}")
    if not np.isfinite(scene.prediction.displacement[lead][scene.body.nodes]).all():
        row[1].text(0.5, 0.5, plain(note), transform=row[1].transAxes, ha="center", va="center", weight="bold")


def _bare(axes: Axes, dim: int) -> None:
    """No frame; numbers only where the axes are those of the body."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.locator_params(nbins=5)
    if dim == 3:
        axes.set_xticks([])
        axes.set_yticks([])


def _triad(axes: Axes) -> None:
    """The directions of space in the lower left corner."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    origin = np.array([left + 0.1 * (right - left), bottom + 0.1 * (top - bottom)])
    for axis, arrow in zip(VECTOR, 0.09 * (right - left) * to_screen(np.eye(3)), strict=True):
        look = {"arrowstyle": "->", "color": style.MUTED, "lw": 0.9}
        axes.annotate("", tuple(origin + arrow), tuple(origin), arrowprops=look)
        to_right, up = (origin + 1.35 * arrow).tolist()
        axes.text(to_right, up, axis, ha="center", va="center", color=style.MUTED, fontsize=8)


def _legend(scene: Scene) -> list[Line2D]:
    """What the marks mean."""
    plainly: dict[str, Any] = {"linestyle": "none", "markersize": 7}
    found = [Line2D([], [], color=GREY, linestyle=DOTS, linewidth=0.9, label="undeformed")]
    if scene.body.held.any():
        found.append(Line2D([], [], marker=">", color=GREY, label="support", **plainly))
    if scene.forces is not None:
        label = f"nodal load (longest {scene.largest_force})"
        found.append(
            Line2D([], [], marker=r"$\rightarrow$", color=ARROW_COLOUR, label=label, **plainly | {"markersize": 12})
        )
    look: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.INK, "markersize": 4.5}
    found.append(Line2D([], [], marker="o", linestyle="none", label="probe", **look))
    found.append(Line2D([], [], color=style.MODEL, linewidth=1.3, label="outline of the prediction"))
    return found


def histories(scene: Scene, others: Mapping[str, History]) -> Figure:
    """Displacement of the probe against lead time, one panel a component: truth, prediction and other forecasts."""
    lead, label = lead_axis(scene.lead)
    dim = scene.body.dim
    truth, prediction = (m.displacement[:, scene.probe] for m in (scene.truth, scene.prediction))
    size, units = prefixed(float(np.nanmax(np.abs(truth), initial=0.0)), scene.axis_units)
    with style.context():
        figure = Figure(figsize=(9.0, 1.2 + 1.7 * dim), layout="constrained")
        panels = figure.subplots(dim, 1, sharex=True, sharey=True)
        panels[0].set_title(plain(f"displacement of the node at {scene.probe_place}"))
        for k, axes in enumerate(panels):
            baselines = {name: history.displacement[:, k] / size for name, history in others.items()}
            _lines(axes, lead, truth[:, k] / size, prediction[:, k] / size, baselines)
            axes.set_ylabel(plain(with_units(f"u{VECTOR[k]}", units)))
        _limit(panels[0], truth / size)
        panels[-1].set_xlabel(plain(label))
        legend_below(figure, panels[0])
    return figure


def peak(scene: Scene, others: Mapping[str, History]) -> Figure:
    """The largest von Mises stress of the body against lead time: truth, prediction and other forecasts."""
    lead, label = lead_axis(scene.lead)
    true, mine = scene.truth.peak, scene.prediction.peak
    if true is None or mine is None:
        raise ValueError("a scene without von Mises stress has no peak")
    with style.context():
        figure = Figure(figsize=(9.0, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title("largest stress in the body")
        stresses = {name: history.stress / scene.unit for name, history in others.items() if history.stress is not None}
        _lines(axes, lead, true, mine, stresses)
        _limit(axes, true)
        axes.set_ylabel(plain(scene.quantity))
        axes.set_xlabel(plain(label))
        legend_below(figure, axes)
    return figure


def _lines(axes: Axes, lead: np.ndarray, true: np.ndarray, mine: np.ndarray, others: Mapping[str, np.ndarray]) -> None:
    mark: dict[str, Any] = {"marker": "o", "markersize": 3} if len(lead) < 3 else {}
    axes.plot(lead, true, label="truth", **style.line_style("truth", 0).keywords(), **mark)
    axes.plot(lead, mine, label="prediction", **style.line_style("model", 0).keywords(), **mark)
    for k, (name, values) in enumerate(others.items()):
        axes.plot(lead, values, label=plain(spoken(name)), **style.line_style(name, k).keywords(), **mark)


def _limit(axes: Axes, truth: np.ndarray) -> None:
    """Keep a prediction that runs away from flattening the truth."""
    low, high = float(np.nanmin(truth)), float(np.nanmax(truth))
    reach = (high - low) or abs(high) or 1.0
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - 2 * reach), min(top, high + 2 * reach))
