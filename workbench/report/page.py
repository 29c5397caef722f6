"""The report of a run: one self-contained HTML file, and its figures as PNG and SVG."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path

from workbench import __version__
from workbench.data.store import refuse_existing
from workbench.experiment import Experiment
from workbench.lifetime_experiment import LifetimeExperiment
from workbench.report import background, lifetimes, sections
from workbench.report.case import stops
from workbench.report.forecast_sections import forecast_sections
from workbench.report.gallery import Gallery
from workbench.report.header import header
from workbench.report.html import Section, document, element
from workbench.report.run import Run, open_run
from workbench.report.speed import speed_sections
from workbench.report.structures_pictures import structure_sections


def write_report(experiment: Experiment | LifetimeExperiment, overwrite: bool = False) -> Path:
    """Write ``report.html`` and ``figures/`` into the run directory of `experiment`.

    Both are made under hidden names and renamed when whole; the same run gives the same bytes.

    Args:
        experiment: what `workbench.experiment.load` returns.
        overwrite: replace an earlier report.

    Returns:
        the path of the page.

    Raises:
        InputError: a report exists, or there is nothing to report.
    """
    page, folder = experiment.run_dir / "report.html", experiment.run_dir / "figures"
    refuse_existing(page, overwrite)
    refuse_existing(folder, overwrite)
    run = open_run(experiment)
    drafts = folder.with_name(".figures.partial")
    shutil.rmtree(drafts, ignore_errors=True)
    drafts.mkdir()
    try:
        whole = lifetimes.compose if isinstance(experiment, LifetimeExperiment) else compose
        text = whole(run, Gallery(drafts))
        draft = page.with_name(".report.html.partial")
        draft.write_text(text, encoding="utf-8")
        _replace_folder(drafts, folder)
        os.replace(draft, page)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    return page


def _replace_folder(new: Path, place: Path) -> None:
    retired = place.with_name(f".{place.name}.old")
    shutil.rmtree(retired, ignore_errors=True)
    if place.exists():
        os.replace(place, retired)
    os.replace(new, place)
    shutil.rmtree(retired, ignore_errors=True)


def compose(run: Run, gallery: Gallery) -> str:
    """The page as text; figures go to `gallery` on the way."""
    title = run.experiment.report.title or run.experiment.name
    stopped = stops(run.forecast, run.record) if run.forecast is not None else []
    forecast, *last = forecast_sections(run, gallery)
    growth = [sections.growth_section(run, gallery, stopped)] if run.experiment.data.horizon else []
    parts = [
        *structure_sections(run, gallery),
        forecast,
        sections.scores_section(run),
        *growth,
        *last,
        sections.spectra_section(run, gallery),
        sections.drift_section(run, gallery),
        *_long_run(run, gallery),
        *speed_sections(run, gallery),
        sections.training_section(run, gallery),
        background.data_section(run),
        background.configuration_section(run),
        background.environment_section(run),
        background.references_section(run),
    ]
    version = run.forecast_attrs.get("workbench_version", __version__)
    footer = element("footer", f"Made by workbench report from a run of Workbench {version}.")
    return document(title, header(run, title, stopped), parts, footer)


def _long_run(run: Run, gallery: Gallery) -> list[Section]:
    """The sections of the module here that is named after the experiment's domain; none without a domain."""
    domain = run.experiment.evaluate.long_run.domain
    if not domain:
        return []
    found: list[Section] = import_module(f"workbench.report.{domain}").long_run_sections(run, gallery)
    return found
