"""What the long-run statistics of a channel come to: sentences, a table, and plain numbers."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from workbench.metrics.channel_statistics import DISTANCES

BANDED = ("energy", "rms_u", "rms_v", "rms_w")
"""Volume averages whose band decides on stability."""
CORRELATED = 0.3
"""Correlation of successive batch means from which it is said: their variance is then half as large again, or more."""
SPOKEN = {"energy": "kinetic energy", "rms_u": "rms of u", "rms_v": "rms of v", "rms_w": "rms of w"}


def verdict(scores: xr.Dataset) -> str:
    """Whether the model stays in the band of the truth: ``stable for all 4000 steps (8 of 8 forecasts)``."""
    if "model" not in scores["summed"].values:
        return "no rollout among the sources"
    return stability(scores, "model", "forecast")


def stability(scores: xr.Dataset, source: str, what: str = "run") -> str:
    """Whether one source stays in the band of the truth, in words."""
    leaves = scores["exit_step"].sel(summed=source, volume_average=list(BANDED)).dropna("run", how="all")
    runs = leaves.sizes["run"]
    steps = int(scores["history_time"].sel(summed=source).notnull().sum())
    first = leaves.min("volume_average")
    stay = int(np.isinf(first).sum())
    plural = "" if runs == 1 else "s"
    if stay == runs:
        return f"stable: energy and rms stay in the band of the truth for all {steps} steps ({runs} {what}{plural})"
    where = leaves.where(leaves == leaves.min(), drop=True)
    quantity = SPOKEN[str(where["volume_average"].values[0])]
    rest = f"{stay} of {runs} {what}s never leave it" if runs > 1 else f"of {steps}"
    return f"not stable: {quantity} leaves the band of the truth at step {int(leaves.min())} ({rest})"


def accuracy(scores: xr.Dataset) -> str:
    """Which statistics of the model are as near to the truth as two halves of the truth are to each other."""
    if "model" not in scores["source"].values:
        return ""
    distance = scores["distance"].sel(target="truth", source="model")
    if not np.isfinite(distance.values).any():
        return "the rollout has no finite statistics"
    near = (distance <= reach(scores, "model")).values
    labels = np.array([DISTANCES[str(name)].label for name in scores["statistic"].values])
    count = f"as good as sampling permits in {int(near.sum())} of {len(near)} statistics"
    beyond = [str(label) for label in labels[~near]]
    return count if not beyond else f"{count}; further from the truth in {', '.join(beyond)}"


def reach(scores: xr.Dataset, source: str) -> xr.DataArray:
    """The distance below which a source cannot be told from the truth: the floor, brought to the source's length."""
    return scores["floor_high"] * scores["floor_scale"].sel(source=source)


def summary(scores: xr.Dataset) -> dict[str, object]:
    """Verdict, accuracy and distances as plain numbers for ``--json``; what is not finite is null."""
    distance = scores["distance"].sel(target="truth")
    return {
        "verdict": scores.attrs["verdict"],
        "accuracy": scores.attrs["accuracy"],
        "floor": _plain(scores["floor_high"]),
        "distance": {
            str(name): _plain(distance.sel(source=name)) for name in scores["source"].values if name != "truth"
        },
    }


def _plain(row: xr.DataArray) -> dict[str, float | None]:
    names = map(str, row["statistic"].values)
    return {name: float(v) if np.isfinite(v) else None for name, v in zip(names, row.values, strict=True)}


def print_table(scores: xr.Dataset) -> None:
    """Print every distance from the truth beside the sampling floor, and the verdict last."""
    from rich.console import Console
    from rich.table import Table

    others = [str(name) for name in scores["source"].values if name != "truth"]
    batches = json.loads(scores.attrs["batches"])
    count = ", ".join(f"{name} {batches[name]}" for name in batches)
    table = Table(title=f"distance from the truth (batches: {count})", title_justify="left")
    for column in ("statistic", "sampling floor", *others):
        table.add_column(column, justify="left" if column == "statistic" else "right")
    units = json.loads(scores["statistic"].attrs["units"])
    for name in map(str, scores["statistic"].values):
        row = scores.sel(statistic=name, target="truth")
        cells = [distance_text(row.sel(source=other)) for other in others]
        unit = "" if units[name] == "1" else f" ({units[name]})"
        table.add_row(DISTANCES[name].label + unit, f"{float(row['floor_high']):.3g}", *cells)
    console = Console()
    console.print(table)
    for sentence in (scores.attrs["verdict"], scores.attrs["accuracy"], correlated(scores)):
        if sentence:
            console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def correlated(scores: xr.Dataset) -> str:
    """Where batches are shorter than the memory of the flow, so that intervals and floor are too small; else empty."""
    found = json.loads(scores.attrs["batch_correlation"])
    close = [f"{name} {value:.2f}" for name, value in found.items() if value is not None and value > CORRELATED]
    if not close:
        return ""
    return f"successive batches are correlated ({', '.join(close)}): intervals are too narrow, average over longer runs"


def distance_text(row: xr.Dataset) -> str:
    """``0.0123 ± 0.002``: a distance and half its interval; a dash where there is none."""
    value, high = float(row["distance"]), float(row["distance_high"])
    if not np.isfinite(value):
        return "-"
    return f"{value:.3g}" + (f" ± {high - value:.1g}" if np.isfinite(high) else "")
