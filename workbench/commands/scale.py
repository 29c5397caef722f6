"""workbench scale: weak and strong scaling of an experiment, measured on this machine and modelled beyond."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.scaling import PUBLISHED, Kind, Row, Step, efficiency, line_through, modelled

HELP = """
Trains some steps on one rank and on --ranks of this machine's CPUs, with the batch of the experiment on each (weak) and
with the same batch shared out (strong), and takes the median time of a step; the first third is not counted. Then a
model of a step, time on one rank and a ring all-reduce over links of the given bandwidth and latency, goes on to as
many ranks as asked for.

  workbench scale -c kolmogorov/fno --bandwidth 25 --latency 2
"""
KINDS: tuple[Kind, Kind] = ("weak", "strong")


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = experiments.argument_parser("scale", "Weak and strong scaling of a training.", HELP)
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks measured on this machine (default 2)")
    parser.add_argument("--steps", type=int, default=60, help="of each measurement (default 60)")
    parser.add_argument("--up-to", type=int, default=4096, metavar="N", help="ranks of the model (default 4096)")
    parser.add_argument("--bandwidth", type=float, default=25.0, metavar="GB/S", help="of a link (default 25)")
    parser.add_argument("--latency", type=float, default=2.0, metavar="US", help="of a message (default 2)")
    options, rest = parser.parse_known_args(argv)
    experiment = experiments.load(options.config, rest, options.run_dir)
    batch = experiment.data.batch_size
    if options.ranks < 2 or batch < options.ranks:
        raise InputError(
            f"--ranks {options.ranks} with data.batch_size {batch}: expected at least 2 ranks and a sample for each"
        )
    folder = experiment.run_dir / "scaling"
    folder.mkdir(parents=True, exist_ok=True)
    rows, step = study(folder, options, rest, batch)
    write_table(folder / "scaling.csv", rows)
    draw(folder / "scaling.png", rows)
    print("\n".join(report(rows, step)))
    print(f"{folder / 'scaling.csv'}, {folder / 'scaling.png'}")
    return 0


def study(folder: Path, options: Namespace, rest: list[str], batch: int) -> tuple[list[Row], Step]:
    """Measure, then model."""
    ranks, share = options.ranks, batch // options.ranks

    def run(n: int, samples: int) -> float:
        return step_seconds(folder / f"ranks{n}_batch{samples}", options, rest, n, samples)

    alone, alone_share = run(1, batch), run(1, share)
    rows = [Row(kind, 1, batch, alone, 1.0, "measured") for kind in KINDS]
    for kind, samples in zip(KINDS, (batch, share), strict=True):
        seconds = run(ranks, samples)
        rows.append(Row(kind, ranks, samples, seconds, efficiency(kind, ranks, alone, seconds), "measured"))
    fixed, sample = line_through((batch, alone), (share, alone_share))
    gradients = gradient_bytes(folder / f"ranks1_batch{batch}" / "checkpoints" / "last.ckpt")
    step = Step(fixed, sample, gradients, options.bandwidth * 1e9, options.latency * 1e-6)
    counts = [2**k for k in range(1, options.up_to.bit_length()) if 2**k <= options.up_to]
    for kind in KINDS:
        rows += modelled(step, kind, batch, counts)
    return rows, step


def step_seconds(run_dir: Path, options: Namespace, rest: list[str], ranks: int, batch: int) -> float:
    """Median time of a step on ranks of this machine, one thread each.

    Raises:
        InputError: a training fails, or ends before there is anything to measure.
    """
    shown = [word for name in options.config for word in ("-c", name)] + rest
    words = [
        *("fit", *shown, "--run-dir", str(run_dir), "--overwrite", f"--data.batch_size={batch}"),
        *("--trainer.accelerator=cpu", f"--trainer.devices={ranks}", f"--trainer.max_steps={options.steps}"),
        *("--trainer.max_epochs=1000000", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *(["--trainer.strategy=ddp"] if ranks > 1 else []),
    ]
    print(f"{ranks} ranks with {batch} samples each ...", file=sys.stderr, flush=True)
    log = run_dir.with_suffix(".log")
    with open(log, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "workbench", *words],
            stdout=out,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        last = (log.read_text().strip().splitlines() or [""])[-1]
        raise InputError(f"a training on {ranks} ranks ended with status {done.returncode}: {last} ({log} has all)")
    with open(run_dir / "throughput.csv", newline="") as file:
        times = [float(row["step_seconds"]) for row in csv.DictReader(file)]
    return statistics.median(times[len(times) // 3 :])


def gradient_bytes(checkpoint: Path) -> float:
    """Bytes of the gradients, from the parameters that the card of a checkpoint counts."""
    from workbench.header import read_card

    return 4.0 * read_card(checkpoint)["parameters"]


def write_table(path: Path, rows: list[Row]) -> None:
    """Write all rows."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def report(rows: list[Row], step: Step) -> list[str]:
    """The table, as lines, with the published figures."""
    lines = [
        f"a step: {1e3 * step.fixed:.3g} ms + {1e3 * step.sample:.3g} ms a sample; {step.gradients / 1e6:.3g} MB of "
        f"gradients over {step.bandwidth / 1e9:.3g} GB/s and {1e6 * step.latency:.3g} us",
        f"{'':8} {'ranks':>6} {'batch':>8} {'ms a step':>10} {'efficiency':>11}",
    ]
    for row in rows:
        numbers = f"{row.ranks:6} {row.batch:8.4g} {1e3 * row.seconds:10.4g} {row.efficiency:10.1%}"
        lines.append(f"{row.kind:8} {numbers}  {row.source}")
    for network, kind, devices, value in PUBLISHED:
        lines.append(f"{kind:8} {devices:6} {'':8} {'':10} {value:10.1%}  published, Frontier, {network}")
    return lines


def draw(path: Path, rows: list[Row]) -> None:
    """Efficiency over ranks: measured, modelled, published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for kind, colour in zip(KINDS, ("C0", "C1"), strict=True):
        curve = [row for row in rows if row.kind == kind and row.source == "model"]
        axes.plot([r.ranks for r in curve], [r.efficiency for r in curve], colour, label=f"{kind}, model")
        points = [row for row in rows if row.kind == kind and row.source == "measured"]
        axes.plot(
            [r.ranks for r in points], [r.efficiency for r in points], "o", color=colour, label=f"{kind}, measured"
        )
        known = [(devices, value) for _, k, devices, value in PUBLISHED if k == kind]
        axes.plot(*zip(*known, strict=True), "*", color=colour, label=f"{kind}, published (Frontier)")
    axes.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
