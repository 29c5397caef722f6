"""workbench report: one self-contained page on a run, with figures, animation and references; free of torch."""

from __future__ import annotations

from collections.abc import Sequence

from workbench import experiment as experiments
from workbench.lifetime_experiment import either

HELP = """
reads   whatever is in runs/EXPERIMENT: rollout.zarr (or .nc) or predictions.nc, scores.nc, metrics.csv, data_card.json
writes  runs/EXPERIMENT/report.html, one file that opens anywhere without a network, and figures/*.png, *.svg

What is missing is left out, with the command that makes it. The same run gives the same bytes.

  workbench report -c kolmogorov/fno
  workbench report -c kolmogorov/fno --overwrite --report.title="Kolmogorov flow, FNO" --report.start=3
  workbench report -c mine.yaml --run-dir runs/second --report.variable=pressure --report.frames=60
"""


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = experiments.argument_parser("report", "Write the report of a run: report.html and figures.", HELP)
    options, rest = parser.parse_known_args(list(argv))
    experiment = either(options.config, rest, options.run_dir)
    from workbench.report.page import write_report

    page = write_report(experiment, options.overwrite)
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
    return 0
