"""Sections on a moving structure: its deformed mesh in the colours of the stress, and histories at single points.

They are there where the forecast holds every component of a displacement on ``(node_y, node_x[, node_z])``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.errors import InputError
from workbench.report import structures_figures as figures
from workbench.report.animation import BUDGET, Sheet, chosen_frames, frame_labels, panels, player, tile
from workbench.report.case import Case, pick_case
from workbench.report.gallery import Gallery
from workbench.report.html import Html, Section, element
from workbench.report.labels import lead_label, number, spoken
from workbench.report.run import Run
from workbench.report.structures import of_start, read_scores
from workbench.report.structures_drawing import PANELS, frame
from workbench.report.structures_scene import VECTOR, History, Scene, box, build_scene, dims_of

WIDTHS = (512, 384, 288, 208, 160)
"""Widths of a frame in pixels, tried in turn until the pictures fit `BUDGET`."""


def structure_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The deformed body in motion and at two leads, and histories; none for other records.

    Where there is no truth the section on the forecast says so.
    """
    if run.forecast is None or run.record is None or not dims_of(run.forecast):
        return []
    try:
        case = pick_case(run.forecast, run.record, run.experiment.report.start)
    except InputError:
        return []
    scene = build_scene(case, run.record)
    index = chosen_frames(scene.lead.size, run.experiment.report.frames)
    return [
        Section("deformed", "The deformed body", _deformed(case, scene, index, gallery)),
        Section("histories", "Histories", _histories(run, scene, gallery)),
    ]


def _deformed(case: Case, scene: Scene, index: np.ndarray, gallery: Gallery) -> Html:
    stop = case.stop.step if case.stop else None
    labels = frame_labels(scene.lead, stop)
    stage = panels(sheets(scene, index), scene.shared, scene.errors, f"{scene.quantity}, {figures.exaggerated(scene)}")
    note = f"stopped at step {stop}" if stop else "no finite value"
    leads = still_leads(scene, stop)
    spoken = " and ".join(_lead(scene, lead) for lead in leads)
    alt = f"{figures.heading(scene)}: truth, prediction and error at lead {spoken}"
    still = gallery.add("deformed", figures.deformed(scene, leads, note), alt, wide=True)
    return element(
        "div",
        element("p", _words(case, scene, stop), class_="lead"),
        element("div", player(stage, [labels[i] for i in index]), class_="drawn"),
        element("h3", f"At lead {spoken}"),
        still,
    )


def _words(case: Case, scene: Scene, stop: int | None) -> str:
    words = [figures.heading(scene), case.label, f"stopped at step {stop}" if stop else ""]
    sentence = ", ".join(word for word in words if word)
    return f"{sentence[:1].upper()}{sentence[1:]}. The error is drawn on the truth, with the outline of the prediction."


def sheets(scene: Scene, index: np.ndarray) -> list[Sheet]:
    """Frames of truth, prediction and error at the leads `index`, as large as the budget allows."""
    limits = box(scene, index)
    for width in WIDTHS:
        found = [
            tile(np.stack([frame(scene, panel, lead, limits, width) for lead in index])) for panel in range(len(PANELS))
        ]
        if sum(len(sheet.data) for sheet in found) <= BUDGET:
            break
    return found


def still_leads(scene: Scene, stop: int | None) -> Sequence[int]:
    """Where the truth has the strongest colour, and the last lead, or the last before the forecast stopped."""
    last = scene.lead.size - 1 if stop is None else min(max(stop - 2, 0), scene.lead.size - 1)
    worst = int(np.argmax(scene.truth.values[: last + 1].max(1)))
    return sorted({worst, last})


def _lead(scene: Scene, lead: int) -> str:
    return lead_label(scene.lead.values[lead], scene.lead.attrs.get("units", "1"))


def _histories(run: Run, scene: Scene, gallery: Gallery) -> Html:
    place, others = scene.probe_place, other_histories(run, scene)
    sides = ", ".join(["truth", "prediction", *map(spoken, others)])
    alt = f"Displacement of the node at {place} against lead time: {sides}"
    drawn = [gallery.add("probe", figures.histories(scene, others), alt, wide=True)]
    words = f"The probe is the node that moves most in the truth, at {place}."
    if scene.truth.peak is not None and scene.prediction.peak is not None:
        ends = [number(np.nanmax(m.peak, initial=0.0)) for m in (scene.truth, scene.prediction) if m.peak is not None]
        alt = f"Largest {scene.quantity} against lead time: at most {ends[0]} in the truth, {ends[1]} predicted"
        drawn.append(gallery.add("peak_stress", figures.peak(scene, others), alt, wide=True))
    return element("div", element("p", words, class_="lead"), drawn)


def other_histories(run: Run, scene: Scene) -> dict[str, History]:
    """The baselines of ``structures.nc``, by name; none where it is missing, or of another forecast than the scene."""
    experiment = run.experiment
    if experiment.evaluate.long_run.domain != "structures" or not experiment.long_run.exists():
        return {}
    scores = read_scores(run)
    names = [name for name in (f"probe_displacement_{axis}" for axis in VECTOR) if name in scores]
    if not names:
        return {}
    moves = np.stack([of_start(scores[name], experiment.report.start) for name in names], -1)
    true = scene.truth.displacement[:, scene.probe]
    if moves.shape[1:] != true.shape or not np.allclose(moves[0], true, atol=1e-6 * np.abs(true).max()):
        return {}
    stresses = None
    if "largest_stress" in scores:
        stresses = of_start(scores["largest_stress"], experiment.report.start)
    sources = map(str, scores["source"].values)
    found = {n: History(moves[k], None if stresses is None else stresses[k]) for k, n in enumerate(sources)}
    return {name: history for name, history in found.items() if name not in ("truth", "model")}
