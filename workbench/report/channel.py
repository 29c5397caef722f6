"""Sections on the long run of a channel flow: verdict and distances, stability, profiles, structure, planes of u."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.store import naming_bad_chunks
from workbench.metrics.channel import nearest_nodes
from workbench.report import channel_figures as figures
from workbench.report.gallery import Gallery
from workbench.report.html import Content, Html, Section, absent, element, table
from workbench.report.labels import lead_label, moment, number, spoken
from workbench.report.run import Run, read_long_run
from workbench.report.sections import with_figures
from workbench.report.tables import table_leads
from workbench.scoring.channel_verdict import correlated

NEAR_WALL = 15.0
"""Height in viscous units of the wall-parallel plane, of the correlations and of the distributions."""


def long_run_sections(run: Run, gallery: Gallery) -> list[Section]:
    """The sections on ``channel.nc``; where it is missing, how to make it."""
    path = run.experiment.long_run
    if not path.exists():
        return [absent("long-run", "Long run", "Not evaluated yet: run ", element("code", run.command("evaluate")))]
    scores = read_long_run(run, lambda s: "distance" in s and "volume_history" in s, "statistics of a channel")
    near = nearest_nodes(scores["y_plus"].values, [NEAR_WALL])[0]
    sections = [
        Section("long-run", "Long run", element("div", verdict_words(scores), distance_table(scores), _notes(scores))),
        Section("stability", "Stability", _stability(scores, gallery)),
        Section("profiles", "Profiles in wall units", _profiles(scores, gallery)),
        Section("structure", "Spectra, correlations and distributions", _structure(scores, near, gallery)),
    ]
    if run.forecast is not None and run.record is not None:
        planes = _planes(run.forecast, run.record, scores, near, gallery)
        sections.append(Section("planes", "Planes of the streamwise velocity", planes))
    return sections


# ---------------------------------------------------------------------------------------------- words and numbers


def verdict_words(scores: xr.Dataset) -> Html:
    """The verdict on stability and that on accuracy."""
    sentences = [scores.attrs["verdict"], scores.attrs["accuracy"]]
    return element("div", [element("p", element("b", s[:1].upper() + s[1:] + ".")) for s in sentences if s])


def distance_table(scores: xr.Dataset) -> Html:
    """Every statistic as one number beside the sampling floor; bold is what the floor reaches."""
    units = json.loads(scores["statistic"].attrs["units"])
    labels = json.loads(scores["statistic"].attrs["label"])
    others = [str(name) for name in scores["source"].values if name != "truth"]
    rows: list[list[Content]] = []
    for name in map(str, scores["statistic"].values):
        row = scores.sel(statistic=name, target="truth")
        label = labels[name] + ("" if units[name] == "1" else f" ({units[name]})")
        rows.append([label, number(row["floor_high"]), *(_distance(row.sel(source=other)) for other in others)])
    return table(["distance from the truth", "sampling floor", *map(spoken, others)], rows, class_="scores")


def _distance(row: xr.Dataset) -> Html:
    value, low, high = (float(row[name]) for name in ("distance", "distance_low", "distance_high"))
    bounds = element("small", f"{number(low)} to {number(high)}") if np.isfinite([low, high]).all() else None
    reached = value <= float(row["floor_high"] * row["floor_scale"])
    return element("td", number(value), bounds, class_="best" if reached else None)


def _notes(scores: xr.Dataset) -> Html:
    attrs = scores.attrs
    batches, states = json.loads(attrs["batches"]), json.loads(attrs["states"])
    counts = "; ".join(f"{spoken(name)} {batches[name]} of {states[name]} states" for name in batches)
    level = 100 * float(attrs["confidence"])
    words = (
        f"Small numbers are {level:g} % intervals from batch means (batches: {counts}). The sampling floor is what the "
        f"distance of two halves of the truth stays below in {level:g} % of {attrs['splits']} random divisions; bold "
        "is at or below it, brought to the length of the run. "
    )
    warning = correlated(scores)
    words += f"{warning[:1].upper()}{warning[1:]}. " if warning else ""
    reynolds = float(attrs["friction_reynolds_number"])
    words += f"Wall units of all: uτ = {float(attrs['friction_velocity_of_wall_units']):.4g} "
    words += f"({attrs['friction_velocity_source']}), Reτ = {reynolds:.4g}."
    tables = [str(name) for name in scores["target"].values if name != "truth"]
    return element("div", element("p", words, class_="lead"), [_published(scores, name) for name in tables])


def _published(scores: xr.Dataset, target: str) -> Html:
    """Distances of the profiles from a published table."""
    labels = json.loads(scores["statistic"].attrs["label"])
    distance = scores["distance"].sel(target=target)
    names = [str(n) for n in distance["statistic"].values if np.isfinite(distance.sel(statistic=n).values).any()]
    sources = [str(s) for s in scores["source"].values if s != target]
    rows = [[labels[n], *(number(distance.sel(statistic=n, source=s)) for s in sources)] for n in names]
    return table([f"distance from {spoken(target)}", *map(spoken, sources)], rows, class_="scores")


def _stability(scores: xr.Dataset, gallery: Gallery) -> Html:
    drawn = []
    for quantity, label in figures.QUANTITY.items():
        figure = figures.history(scores, quantity)
        drawn.append(gallery.add(f"history_{quantity}", figure, f"{label} over time, beside the band of the truth"))
    rows: list[list[Content]] = []
    for source in map(str, scores["summed"].values):
        leaves = scores["exit_step"].sel(summed=source).min("run")
        named = (leaves.sel(volume_average=q) for q in figures.QUANTITY)
        rails = (number(scores[rail].sel(source=source)) for rail in ("divergence", "wall_slip"))
        rows.append([spoken(source), *(_step(float(v)) for v in named), *rails])
    head = ["leaves the band at step", *figures.QUANTITY.values(), "divergence", "slip at the walls"]
    words = "The band is the range of the truth's own history, extended on either side by half its width."
    return with_figures(words, drawn, table(head, rows))


def _step(value: float) -> str:
    return "never" if np.isinf(value) else "–" if np.isnan(value) else f"{value:.0f}"


# -------------------------------------------------------------------------------------------------------- figures


def _profiles(scores: xr.Dataset, gallery: Gallery) -> Html:
    unit = float(scores.attrs["friction_velocity_of_wall_units"])
    drawn = [
        gallery.add(
            "mean_velocity",
            figures.profile(scores, "mean_velocity", "⟨u⟩⁺", unit),
            "Mean streamwise velocity in wall units against the distance from the wall, for every source",
        )
    ]
    for component in ("u", "v", "w"):
        figure = figures.profile(scores, "rms", f"{component}′ rms⁺", unit, component)
        drawn.append(gallery.add(f"rms_{component}", figure, f"Root mean square of {component} in wall units"))
    stress = figures.profile(scores, "shear_stress", "−⟨u′v′⟩⁺", unit**2)
    drawn.append(gallery.add("shear_stress", stress, "Reynolds shear stress in wall units"))
    level = 100 * float(scores.attrs["confidence"])
    return with_figures(f"Both walls averaged; bands are {level:g} % intervals from batch means.", drawn)


def _structure(scores: xr.Dataset, near: int, gallery: Gallery) -> Html:
    places = dict.fromkeys([near, int(scores["height"].values[-1])])
    drawn = []
    for axis in ("x", "z"):
        for place in places:
            alt = f"Kinetic energy spectrum along {axis} at {figures.height(scores, place)}"
            drawn.append(gallery.add(f"spectrum_{axis}_{place}", figures.spectrum(scores, axis, place), alt))
    drawn.append(gallery.add("joint_pdf", figures.joint(scores, near), "Contours of the joint density of u and v"))
    wide = []
    for axis in ("x", "z"):
        alt = f"Two-point correlations along {axis} of u, v and w"
        wide.append(gallery.add(f"correlation_{axis}", figures.correlation(scores, axis, near), alt, wide=True))
    alt = "Probability densities of u, v, w and Q on a logarithmic scale"
    wide.append(gallery.add("distributions", figures.distribution(scores, near), alt, wide=True))
    return with_figures("", drawn, element("div", wide))


def _planes(forecast: xr.Dataset, record: xr.Dataset, scores: xr.Dataset, near: int, gallery: Gallery) -> Html:
    """Instantaneous u of the first forecast, parallel to the wall and across the stream, at a few leads."""
    first = {dim: 0 for dim in ("member", TRAJECTORY, "init_time") if dim in forecast.dims}
    chosen = forecast["u"].isel({**first, "lead_time": table_leads(forecast.sizes["lead_time"])})
    label = forecast[TRAJECTORY].values[0] if TRAJECTORY in forecast.dims else None
    truth = record["u"] if label is None else record["u"].sel({TRAJECTORY: label})
    middle = forecast.sizes["x"] // 2
    cuts = {
        f"u parallel to the wall, {figures.height(scores, near)}": ({"y": near}, ("z", "x")),
        f"u across the stream, x = {moment(forecast['x'].values[middle])}": ({"x": middle}, ("y", "z")),
    }
    drawn = []
    for title, (cut, dims) in cuts.items():
        columns = [
            _column(chosen.isel(lead_time=i).isel(cut), truth.isel(cut), dims, (forecast, record))
            for i in range(chosen.sizes["lead_time"])
        ]
        figure = figures.snapshots(columns, title, f"u ({forecast['u'].attrs.get('units', '1')})")
        drawn.append(gallery.add(title, figure, f"Instantaneous {title}: truth above, model below", wide=True))
    words = "Truth above, rollout below. Past the end of the record its last state stands for the truth."
    return element("div", element("p", words, class_="lead"), drawn)


def _column(
    plane: xr.DataArray, truth: xr.DataArray, dims: tuple[str, str], sources: tuple[xr.Dataset, xr.Dataset]
) -> tuple[str, xr.DataArray, xr.DataArray]:
    """Heading, truth and forecast of one lead."""
    times, valid = truth[TIME].values, plane["valid_time"].values
    nearest = int(np.argmin(np.abs(times - valid)))
    lead = lead_label(plane["lead_time"].values[()], plane["lead_time"].attrs.get("units", "1"))
    with naming_bad_chunks(sources[0]):
        mine = plane.transpose(*dims).load()
    with naming_bad_chunks(sources[1]):
        theirs = truth.isel({TIME: nearest}).transpose(*dims).load()
    return f"lead {lead}", theirs, mine
