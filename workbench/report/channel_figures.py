"""Figures of a channel's long-run statistics, from what ``channel.nc`` holds.

Every source has its line, its band the interval of batch means. Wall units are those of the truth's friction velocity,
for every source alike; a published table has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.report import style
from workbench.report.fields import Scale, aspect, height_over_width, positions, space_dims, truth_scale
from workbench.report.figures import decades_of, legend_below, log_ticks, new_axes
from workbench.report.labels import plain, spoken
from workbench.report.pictures import WIDTH, colormap

KARMAN, INTERCEPT = 0.41, 5.2
"""Of the logarithmic law u+ = ln(y+) / 0.41 + 5.2 (Pope 2000, Turbulent Flows, eq. 7.43)."""
BELOW_TRUTH = 30.0
"""How far below the least of the truth a spectrum is drawn."""
QUANTITY = {
    "energy": "kinetic energy",
    "rms_u": "rms of u over the volume",
    "rms_v": "rms of v over the volume",
    "rms_w": "rms of w over the volume",
    "bulk_velocity": "bulk velocity",
}


def looks(scores: xr.Dataset) -> dict[str, style.LineStyle]:
    """The line of each source, the same in every figure."""
    names = [str(name) for name in scores["source"].values]
    others = [name for name in names if name not in ("truth", "model")]
    return {name: style.line_style(name, others.index(name) if name in others else 0) for name in names}


def y_plus(scores: xr.Dataset, source: str) -> np.ndarray:
    """Distance of the nodes from the wall in the viscous units of a source."""
    return scores["y_plus"].values * float(scores["reynolds"].sel(source=source)) / _reynolds(scores)


def _reynolds(scores: xr.Dataset) -> float:
    return float(scores.attrs["friction_reynolds_number"])


def _friction(scores: xr.Dataset) -> float:
    return float(scores.attrs["friction_velocity_of_wall_units"])


def profile(scores: xr.Dataset, name: str, title: str, unit: float, component: str | None = None) -> Figure:
    """One profile of every source over y+ on a logarithmic axis; the mean velocity with the law of the wall.

    Args:
        scores: what ``channel.nc`` holds.
        name: of the profile.
        title: heading, and label of the axis.
        unit: what the values are divided by.
        component: of the rms.
    """
    with style.context():
        figure, axes = new_axes(title)
        for source, look in looks(scores).items():
            row = scores.sel(source=source) if component is None else scores.sel(source=source, component=component)
            over = y_plus(scores, source)
            inside = over > 0
            curves = [row[f"{name}{suffix}"].values / unit for suffix in ("", "_low", "_high")]
            _curve(axes, over[inside], [curve[inside] for curve in curves], source, look)
        if name == "mean_velocity":
            _law_of_the_wall(axes, _reynolds(scores))
        axes.set_xscale("log")
        log_ticks(axes.xaxis, 3.0)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if name == "shear_stress" else 0.0)
        axes.set_xlabel("y⁺")
        axes.set_ylabel(plain(title))
        legend_below(figure, axes)
    return figure


def _curve(axes: Axes, over: np.ndarray, curves: Sequence[np.ndarray], source: str, look: style.LineStyle) -> None:
    value, low, high = curves
    if np.isfinite(value).any():
        marker: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(over) <= 40 and source == "truth" else {}
        axes.plot(over, value, label=plain(spoken(source)), **look.keywords(), **marker)
        axes.fill_between(over, low, high, color=look.color, alpha=0.16, linewidth=0, zorder=look.zorder - 1)


def _law_of_the_wall(axes: Axes, reynolds: float) -> None:
    near, far = np.geomspace(1.0, 11.0, 30), np.geomspace(11.0, max(reynolds, 30.0), 30)
    over, law = np.concatenate([near, far]), np.concatenate([near, np.log(far) / KARMAN + INTERCEPT])
    axes.plot(over, law, color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), label="law of the wall", zorder=1)


def spectrum(scores: xr.Dataset, axis: str, place: int) -> Figure:
    """One-sided kinetic energy spectra (E_uu + E_vv + E_ww) / 2 at one height, both axes logarithmic.

    Args:
        scores: what ``channel.nc`` holds.
        axis: ``x`` or ``z``.
        place: position of the height.
    """
    name, dim = f"spectrum_{axis}", f"wavenumber_{axis}"
    wavenumber = scores[dim].values * float(scores.attrs["half_height"])
    unit = _friction(scores) ** 2
    truth = 0.5 * scores[name].sel(source="truth").isel(y=place).sum("component", skipna=False).values / unit
    with style.context():
        figure, axes = new_axes(f"{'streamwise' if axis == 'x' else 'spanwise'} spectrum, {height(scores, place)}")
        for source, look in looks(scores).items():
            chosen = scores.sel(source=source).isel(y=place)
            energy = 0.5 * chosen[name].sum("component", skipna=False).values / unit
            drawn = (wavenumber > 0) & (energy > 0) & np.isfinite(energy)
            if drawn.any():
                axes.plot(wavenumber[drawn], energy[drawn], label=plain(spoken(source)), **look.keywords())
        axes.set_xscale("log")
        axes.set_yscale("log")
        log_ticks(axes.xaxis, decades_of(wavenumber))
        least = truth[truth > 0].min(initial=np.inf) / BELOW_TRUTH
        if np.isfinite(least) and axes.get_ylim()[0] < least:
            axes.set_ylim(bottom=least)
        log_ticks(axes.yaxis, float(np.log10(axes.get_ylim()[1] / axes.get_ylim()[0])))
        axes.set_xlabel(f"k h along {axis}")
        axes.set_ylabel("E / (uτ² h)")
        legend_below(figure, axes)
    return figure


def height(scores: xr.Dataset, place: int) -> str:
    """A height in words: ``y⁺ = 15``."""
    return f"y⁺ = {float(scores['y_plus'][place]):.3g}"


def correlation(scores: xr.Dataset, axis: str, place: int) -> Figure:
    """Two-point correlation of each component at one height over the separation.

    Args:
        scores: what ``channel.nc`` holds.
        axis: ``x`` or ``z``.
        place: position of the height.
    """
    name, dim = f"correlation_{axis}", f"separation_{axis}"
    over = scores[dim].values / float(scores.attrs["half_height"])
    with style.context():
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, component in zip(panels, ("u", "v", "w"), strict=True):
            axes.set_title(plain(f"{component}, {height(scores, place)}"))
            axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
            for source, look in looks(scores).items():
                row = scores.sel(source=source, component=component).isel(y=place)
                _curve(axes, over, [row[f"{name}{s}"].values for s in ("", "_low", "_high")], source, look)
            axes.set_xlabel(f"separation along {axis} over h")
        panels[0].set_ylabel("correlation")
        legend_below(figure, panels[0])
    return figure


def distribution(scores: xr.Dataset, place: int) -> Figure:
    """Probability densities of the fluctuations and of Q at one height, over the truth's rms, densities logarithmic."""
    with style.context():
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        panels = figure.subplots(1, 4, sharey=True)
        for axes, quantity in zip(panels, ("u", "v", "w", "q"), strict=True):
            axes.set_title(plain("Q" if quantity == "q" else f"{quantity}′") + f", {height(scores, place)}")
            unit = _spread(scores, quantity, place)
            for source, look in looks(scores).items():
                row = scores[["pdf", "pdf_value"]].sel(source=source, quantity=quantity).isel(y=place)
                density = row["pdf"].values * unit
                drawn = np.isfinite(density) & (density > 0)
                if drawn.any():
                    label = plain(spoken(source))
                    axes.plot(row["pdf_value"].values[drawn] / unit, density[drawn], label=label, **look.keywords())
            axes.set_yscale("log")
            log_ticks(axes.yaxis, 4.0)
            axes.set_ylim(1e-4, None)
            axes.set_xlabel("over the truth's rms")
        panels[0].set_ylabel("probability density")
        legend_below(figure, panels[0])
    return figure


def _spread(scores: xr.Dataset, quantity: str, place: int) -> float:
    truth = scores.sel(source="truth").isel(y=place)
    return float(truth["q_rms"] if quantity == "q" else truth["rms"].sel(component=quantity))


def joint(scores: xr.Dataset, place: int) -> Figure:
    """Joint density of u' and v' at one height: contours of 0.1, 0.03, 0.01 and 0.003, in the truth's rms.

    Ejections are in the upper left quadrant, sweeps in the lower right one.
    """
    levels = [0.003, 0.01, 0.03, 0.1]
    units = [_spread(scores, name, place) for name in ("u", "v")]
    with style.context():
        figure, axes = new_axes(f"joint PDF of u′ and v′, {height(scores, place)}")
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        axes.axvline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        for source, look in looks(scores).items():
            row = scores[["joint_pdf", "joint_u", "joint_v"]].sel(source=source).isel(y=place)
            density = row["joint_pdf"].values * units[0] * units[1]
            if source in ("truth", "model") and np.isfinite(density).all():
                x, y = (row[f"joint_{name}"].values / unit for name, unit in zip(("u", "v"), units, strict=True))
                axes.contour(x, y, density.T, levels, colors=look.color, linewidths=look.linewidth * 0.7)
                axes.plot([], [], label=plain(spoken(source)), **look.keywords())
        axes.set_xlabel("u′ over its rms")
        axes.set_ylabel("v′ over its rms")
        legend_below(figure, axes)
    return figure


def history(scores: xr.Dataset, quantity: str) -> Figure:
    """A volume average of every run of the rollout and the references over time, and the band of the truth."""
    low, high = (float(scores[bound].sel(volume_average=quantity)) for bound in ("band_low", "band_high"))
    with style.context():
        figure, axes = new_axes(QUANTITY[quantity])
        axes.axhspan(low, high, color=style.LINE, alpha=0.6, linewidth=0, label="band of the truth")
        for source, look in looks(scores).items():
            if source not in scores["summed"].values:
                continue
            values = scores["volume_history"].sel(summed=source, volume_average=quantity).values
            time = scores["history_time"].sel(summed=source).values
            time = time - (time[0] if source != "model" else 0.0)
            for k, row in enumerate(values[np.isfinite(values).any(1)]):
                keywords = look.keywords() | {"linewidth": 0.9}
                axes.plot(time, row, label=plain(spoken(source)) if k == 0 else None, **keywords)
        span = high - low
        model = scores["volume_history"].sel(volume_average=quantity).values
        finite = model[np.isfinite(model)]
        bottom, top = np.clip([finite.min(), finite.max()], low - 3 * span, high + 3 * span)
        axes.set_ylim(min(bottom, low) - 0.1 * span, max(top, high) + 0.1 * span)
        axes.set_xlabel("time")
        axes.set_ylabel(plain(QUANTITY[quantity]))
        legend_below(figure, axes)
    return figure


def snapshots(columns: Sequence[tuple[str, xr.DataArray, xr.DataArray]], title: str, bar_label: str) -> Figure:
    """Planes of truth (above) and rollout (below) at several leads, side by side, in one scale of colours.

    Args:
        columns: heading, plane of the truth and plane of the rollout, each on two space dimensions (upwards, right).
        title: what plane it is.
        bar_label: of the colours.
    """
    scale: Scale = truth_scale(np.stack([truth.values for _, truth, _ in columns]))
    first = columns[0][1]
    panel = WIDTH / len(columns)
    tall = max(0.75, panel * min(height_over_width(first), 1.4))
    with style.context(), mpl.rc_context({"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(WIDTH, 2 * tall + 1.9), layout="constrained")
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        grid = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey=True)
        up, right = space_dims(first)
        for j, (heading, *planes) in enumerate(columns):
            for i, plane in enumerate(planes):
                axes = grid[i, j]
                mesh = axes.pcolormesh(
                    positions(plane, right),
                    positions(plane, up),
                    np.ma.masked_invalid(plane.values),
                    shading="nearest",
                    cmap=colormap(scale),
                    vmin=scale.low,
                    vmax=scale.high,
                    rasterized=True,
                )
                axes.set_aspect(aspect(first))
            grid[0, j].set_title(plain(heading))
            grid[1, j].set_xlabel(right)
        for i, name in enumerate(("truth", "model")):
            grid[i, 0].set_ylabel(f"{name}\n{up}")
        figure.colorbar(mesh, ax=grid.ravel().tolist(), location="bottom", aspect=60, pad=0.03).set_label(
            plain(bar_label)
        )
    return figure
