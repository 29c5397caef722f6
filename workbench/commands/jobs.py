"""workbench jobs and workbench cancel: how far a submitted chain is, and its end."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.launch.ledger import Ledger, State, states
from workbench.launch.scheduler import cancel as cancel_jobs
from workbench.launch.script import Paths
from workbench.lifetime_experiment import either

HELP = """
A line for each job of the chain that workbench submit made: its number, its state by the scheduler and by what the job
itself has noted in RUN/launch/, how often it began, and where it prints. Needs no accounting.

  workbench jobs -c kolmogorov/fno
  workbench jobs --run-dir runs/kolmogorov/fno --json
"""
CANCEL = """
Ends all jobs of the chain that wait or run, the last ones first. What is finished, checkpoints and written parts of
stores included, stays, and workbench submit goes on with it.

  workbench cancel -c kolmogorov/fno
  workbench cancel --run-dir runs/kolmogorov/fno
"""


def jobs(argv: list[str]) -> int:
    """Print the state of a chain; status 1 if something in it has failed."""
    parser = experiments.argument_parser("jobs", "How far the jobs of an experiment are.", HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    options, rest = parser.parse_known_args(argv)
    paths = _paths(options.config, rest, options.run_dir)
    ledger = _ledger(paths)
    found = states(ledger, paths)
    if options.json:
        print(json.dumps([asdict(state) for state in found]))
    else:
        width = max(len(name) for name in (*ledger.done, *(state.entry.name for state in found)))
        for stage in ledger.done:
            print(f"{stage:<{width}}  done before")
        for state in found:
            print(line(state, width))
    return int(any(_failed(state) for state in found))


def cancel(argv: list[str]) -> int:
    """End a chain."""
    parser = experiments.argument_parser("cancel", "End the jobs of an experiment.", CANCEL)
    options, rest = parser.parse_known_args(argv)
    paths = _paths(options.config, rest, options.run_dir)
    ledger = _ledger(paths)
    alive = [state.entry for state in states(ledger, paths) if state.alive]
    if not alive:
        print("no job waits or runs")
        return 0
    cancel_jobs(ledger.scheduler, [entry.number for entry in alive])
    print("cancelled " + ", ".join(f"{entry.name} ({entry.number})" for entry in alive))
    return 0


def line(state: State, width: int) -> str:
    """One job in one line, and below it where a failed one prints; its name is `width` wide."""
    what = ", ".join(f"{n} {name}" if state.entry.tasks > 1 else name for name, n in state.counts.items())
    often = f", {state.attempts} attempts" if state.attempts > state.entry.tasks else ""
    note = f" ({state.note})" if state.note else ""
    log = f"\n{'':<{width}}  {state.entry.log}" if _failed(state) else ""
    return f"{state.entry.name:<{width}}  {state.entry.number:<10} {what}{often}{note}{log}"


def _failed(state: State) -> bool:
    return bool(state.counts.keys() - {"done", "running", "waiting", "cancelled", "never began"})


def _paths(configs: list[str], rest: list[str], run_dir: str | None) -> Paths:
    if run_dir and not configs:
        return Paths(Path(run_dir))
    return Paths(either(configs, rest, run_dir).run_dir)


def _ledger(paths: Paths) -> Ledger:
    ledger = Ledger.read(paths)
    if ledger is None:
        raise InputError(f"no jobs were submitted for {paths.run}: workbench submit does that")
    return ledger
