"""What the storms of a forecast come to: a sentence, a table, and plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from workbench.scoring.verdict import lead_text, shown_leads

ROWS = {
    "mean_track_error": ("track error (km)", 1.0),
    "mean_absolute_pressure_error": ("error of central pressure (hPa)", 0.01),
    "mean_pressure_error": ("bias of central pressure (hPa)", 0.01),
    "mean_absolute_wind_error": ("error of strongest wind (m/s)", 1.0),
}
"""Mean -> its name in the table, and the factor of its units."""


def verdict(scores: xr.Dataset) -> str:
    """Track errors at the first and the last lead beside those of the motion at the start."""
    errors = scores["mean_track_error"].sel(sample="all")
    words = []
    for k in dict.fromkeys((1, errors.sizes["lead_time"] - 1)):
        model, motion = (float(errors.sel(forecast=name)[k]) for name in ("model", "persistence_of_motion"))
        count = int(scores["storms"].sel(sample="all")[k])
        lead = lead_text(scores["lead_time"].values[k], "")
        if count:
            words.append(f"{model:.0f} km at {lead} (motion at the start carried on: {motion:.0f} km; {count} storms)")
    return f"puts storms off by {' and '.join(words)}" if words else "follows no storm to the first lead"


def summary(scores: xr.Dataset) -> dict[str, Any]:
    """Verdict and means as plain numbers for ``--json``; what is not finite is null."""

    def plain(array: xr.DataArray) -> Any:
        return [v if np.isfinite(v) else None for v in array.values.astype(float).tolist()]

    return {
        "verdict": scores.attrs["verdict"],
        "lead_time": [lead_text(value, "") for value in scores["lead_time"].values],
        "samples": {
            str(sample): {
                "storms": plain(scores["storms"].sel(sample=sample)),
                "followed": plain(scores["followed"].sel(sample=sample)),
                **{
                    name: {
                        str(f): plain(scores[name].sel(sample=sample, forecast=f)) for f in scores["forecast"].values
                    }
                    for name in ROWS
                },
            }
            for sample in scores["sample"].values
        },
    }


def print_table(scores: xr.Dataset) -> None:
    """Print mean errors of storms at a few leads, for all storms and the deepest, and the verdict last."""
    from rich.console import Console
    from rich.table import Table

    leads = [k + 1 for k in shown_leads(scores.sizes["lead_time"] - 1)]
    console = Console()
    for sample in map(str, scores["sample"].values):
        table = Table(title=f"storms: {sample}", title_justify="left")
        for column in ("", "forecast"):
            table.add_column(column)
        for k in leads:
            table.add_column(lead_text(scores["lead_time"].values[k], ""), justify="right")
        chosen = scores.sel(sample=sample).isel(lead_time=leads)
        for name, (words, factor) in ROWS.items():
            if chosen[name].notnull().any():
                for k, forecast in enumerate(map(str, chosen["forecast"].values)):
                    cells = [f"{factor * v:.3g}" for v in chosen[name].sel(forecast=forecast).values]
                    table.add_row(words if k == 0 else "", forecast.replace("_", " "), *cells)
                table.add_section()
        table.add_row("storms", "", *(str(int(v)) for v in chosen["storms"].values))
        table.add_row("still there in the model", "", *(f"{100 * v:.0f} %" for v in chosen["followed"].values))
        console.print(table)
    console.print(f"The model {scores.attrs['verdict']}", soft_wrap=True, highlight=False, markup=False)
