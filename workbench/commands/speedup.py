"""workbench speedup: the surrogate against the solver of its record, at equal error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.speedup import QUICK_ROUNDS, QUICK_STARTS, ROUNDS, STARTS, path_of, speedup

HELP = """
reads   runs/EXPERIMENT/checkpoints/best.ckpt (or --weights), and the record, which must come from one of our solvers
writes  runs/EXPERIMENT/speedup.nc; `workbench report --overwrite` then shows it as a cost-error plot

The solver is run at many resolutions, time steps and closures from the same fields on the record's nodes as the
surrogate. At the surrogate's error after each of the --leads, and over all of them, the table says what the
cheapest solver takes, over what the surrogate takes: above 1 the surrogate is faster. Both are timed in turns in one
run, on the same hardware and threads, one forecast at a time and in the batch that suits each best.

By default forecasts are as long as the surrogate is better than persistence and the mean of the training data. Beyond
that there is nothing to compare. Structures are forecast from rest to the end, both sides knowing loads, supports and
material; the error is that of displacement, unless --variables names others, and the plain ratio to the solver that
made the record stands beside the one at equal error.

Errors of finished candidates are kept: a stopped comparison goes on with the next one. Timings never mix runs: they
are taken all together at the end.

  workbench speedup -c kolmogorov/fno
  workbench speedup -c kolmogorov/fno --quick
  workbench speedup -c kolmogorov/fno --list
  workbench speedup -c kolmogorov/fno --leads 1,10,20 --starts 64 --threads 2 --overwrite
  workbench speedup -c kolmogorov/fno --candidates "32 x 32*;64 x 64*" --steps 40
  workbench speedup -c beam.yaml --variables von_mises
"""


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = experiments.argument_parser("speedup", "Surrogate against its solver at equal error.", HELP)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint or safetensors (default: the run's best)")
    parser.add_argument("--steps", type=int, metavar="N", help="length of the forecasts (default: as far as useful)")
    parser.add_argument("--leads", metavar="STEPS", help="steps to compare at (default: 1, a quarter, half, and all)")
    parser.add_argument("--starts", type=int, metavar="N", help=f"forecasts, about so many (default {STARTS})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides (default 1)")
    parser.add_argument("--candidates", metavar="LABELS", help="only these, with wildcards, separated by ;")
    parser.add_argument("--variables", metavar="NAMES", help="whose error is compared, with wildcards, separated by ;")
    parser.add_argument("--device", default="cpu", help="where both sides run: cpu (default), cuda ...")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STARTS} forecasts, {QUICK_ROUNDS} timing rounds")
    parser.add_argument("--list", action="store_true", help="print the candidates, and stop")
    options, rest = parser.parse_known_args(list(argv))
    experiment = experiments.load(options.config, rest, options.run_dir)
    if options.list:
        print("\n".join(list_candidates(experiment)))
        return 0
    from workbench.equal_error.plain import plain_words
    from workbench.equal_error.sheet import table
    from workbench.progress import bar

    weights = _weights(experiment, options.weights)
    with bar("speedup") as progress:
        sheet = speedup(
            experiment,
            _task(experiment, weights),
            identity={"weights": [str(weights.resolve()), weights.stat().st_mtime_ns]},
            steps=options.steps,
            leads=_numbers(options.leads),
            forecasts=(QUICK_STARTS if options.quick else STARTS) if options.starts is None else options.starts,
            thread_count=options.threads,
            variables=_words(options.variables),
            patterns=_words(options.candidates),
            rounds=QUICK_ROUNDS if options.quick else ROUNDS,
            device=options.device,
            attrs=_provenance(experiment, weights, options.device),
            overwrite=options.overwrite,
            progress=progress,
        )
    print(f"{experiment.name}: {sheet['error'].attrs['long_name']}")
    print(table(sheet))
    print(f"{experiment.name}: {sheet.attrs['headline']}")
    if plain := plain_words(sheet):
        print(f"{experiment.name}: {plain}")
    print(f"wrote {path_of(experiment)}")
    return 0


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(";") if word.strip())


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--leads is '{text}': expected steps such as 1,10,20") from None


def list_candidates(experiment: experiments.Experiment) -> list[str]:
    """Labels of the candidates that the record's solver offers, cheapest first."""
    from workbench.data.spec import time_step
    from workbench.data.store import open_data
    from workbench.equal_error.contestants import solver_of, solvers

    record = open_data(experiment.data)
    interval = time_step(record)[0] * experiment.data.stride
    return [c.label for c in solvers(solver_of(record), experiment.data.state, interval, "cpu")]


def _weights(experiment: experiments.Experiment, weights: str | None) -> Path:
    source = Path(weights) if weights else experiment.checkpoint
    if not source.exists():
        raise InputError(
            f"no trained model at {source}: run workbench fit -c {experiment.name} first, or pass --weights"
        )
    return source


def _task(experiment: experiments.Experiment, weights: Path) -> Any:
    from workbench.commands.rollout import class_paths
    from workbench.weights import load

    return load(weights, trusted=class_paths(experiment.config))[0]


def _provenance(experiment: experiments.Experiment, weights: Path, device: str) -> dict[str, Any]:
    """Who was measured, on what."""
    import torch

    from workbench import __version__
    from workbench.commands.rollout import versions

    return {
        "title": f"{experiment.name}: surrogate against solver at equal error",
        "workbench_experiment": experiment.name,
        "workbench_checkpoint": str(weights),
        "workbench_version": __version__,
        "workbench_versions": json.dumps(versions(torch.device(device))),
        "hardware": hardware(device),
    }


def hardware(device: str) -> str:
    """What both sides ran on: the GPU, or the processor and its cores."""
    import os
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
