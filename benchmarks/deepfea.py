"""Time DeepFEA against the fine-mesh solver that made its record, a trajectory of 50 instants, in one run.

Both go from loads, supports and material in memory to displacements and von Mises stresses on the record's grid in
memory. The surrogate normalises, runs the network over all steps at once, as a rollout does, and goes back to physical
units. The solver factorises or finds its time step, marches and recovers stresses; `drawing` (meshing, assembly, first
frequency, size of the loads) is timed beside it and not part of the ratio, nor is anything written. The linear solver
takes trajectories one by one, so 32 of them take 32 times as long; the neo-Hookean one advances 32 together.

One thread each, in turns; CPU seconds for a trajectory, medians over the rounds; a ratio is the median of the ratios
of the rounds. `step by step` is the same with one call of the network a step. Weights do not change the time, so
untrained ones of the default sizes do; those of a run or weights file are taken with their own sizes.

This is the plain ratio, which the paper puts at two orders of magnitude (doi 10.1016/j.eswa.2024.126343); it says
nothing of errors, for which see ``workbench speedup``.

    python benchmarks/deepfea.py [--quick] [--weights beam_2d=RUN_OR_FILE ...]
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import torch
import xarray as xr
from torch import Tensor

from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.recipe import read_recipe
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_record
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.models.deepfea import DeepFEA
from workbench.simulate.structures import Structures
from workbench.simulate.structures_fields import moving_fields
from workbench.simulate.structures_march import advance
from workbench.simulate.structures_trials import Trial
from workbench.tasks import TransientTask
from workbench.weights import load

CASES = ("beam_2d", "beam_2d_neohookean", "block_3d")
HIDDEN, BATCH, SAMPLES = (32, 32), 32, 1


def solve(solver: Structures, trials: list[Trial]) -> None:
    """Motion and stresses of drawn cases, as the record was made."""
    bodies, drives = [t.body for t in trials], [t.drive for t in trials]
    names = [f"trajectory {k}" for k in range(len(trials))]
    motions = advance(solver.law, solver.scheme, bodies, drives, names, solver.steps_between, solver.spectral_radius)
    for trial, motion in zip(trials, motions, strict=True):
        body = trial.body
        moving_fields(motion, body.elements, body.material, solver.law, solver.kinematics, solver.refinement)


def untrained(record: xr.Dataset) -> TransientTask:
    """A network of the default sizes for the record."""
    axes = "xyz"[: 2 + ("node_z" in record.dims)]
    config = DataConfig(
        record="in memory",
        state=tuple(f"displacement_{a}" for a in axes),
        forcing=tuple(f"load_{a}" for a in axes),
        static=(*(f"support_{a}" for a in axes), "node_youngs_modulus", "node_poissons_ratio"),
        diagnostic=("von_mises", "effective_strain"),
        horizon=record.sizes["time"] - 1,
    )
    train = parts(record, config)["train"]
    packing = Packing.fit(record, config, fit_statistics(record, config.variables(), train))
    network = functools.partial(DeepFEA, hidden=HIDDEN, peephole="channel")
    supports = {f"displacement_{a}": f"support_{a}" for a in axes}
    return TransientTask(network, supports=supports).build(packing).eval()  # type: ignore[arg-type]


def surrogate(task: TransientTask, record: xr.Dataset) -> tuple[Callable[[int], Tensor], Callable[[], Tensor]]:
    """Displacement and stress of a number of trajectories at once (copies of a few), and of one step by step.

    Both take physical values and give physical values, displacement first.
    """
    packing = task.packing
    if packing is None:
        raise SystemExit("the weights have no packing")
    roles = {role: packing.pack(record, role) for role in ("state", "forcing", "static") if role in packing.groups}
    chosen = {count: torch.arange(count) % record.sizes["trajectory"] for count in (1, BATCH)}
    batches = {count: {role: x[places] for role, x in roles.items()} for count, places in chosen.items()}
    state, elements = (task.normalisers[role].inverse for role in ("state", "diagnostic"))

    @torch.inference_mode()
    def run(count: int, block: int) -> Tensor:
        z = {role: task.normalisers[role](x) for role, x in batches[count].items()}  # type: ignore[operator]
        forcing, found = z["forcing"], []
        window = task.begin(z["state"][:, :1], task.context(z, 0))
        for first in range(0, forcing.shape[1] - 1, block):
            fields, window = task.advance_block(window, z | {"forcing": forcing[:, first:]}, block)
            elements(fields["diagnostic"])  # type: ignore[operator]
            found.append(state(fields["state"]))  # type: ignore[operator]
        return torch.cat(found, 1)

    def at_once(count: int) -> Tensor:
        return run(count, record.sizes["time"] - 1)

    def step_by_step() -> Tensor:
        return run(1, 1)

    difference = (at_once(1) - step_by_step()).abs().max() / at_once(1).abs().max()
    if difference > 1e-4:
        raise SystemExit(f"a rollout differs from all steps at once by {difference:.1e}")
    return at_once, step_by_step


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """CPU seconds of one of several runs."""
    began = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - began) / repeats


def measure(case: str, weights: Path | None, rounds: int, rounds_of_batches: int) -> dict[str, list[float]]:
    """CPU seconds a trajectory of everybody, in turns."""
    solver = Structures(**read_recipe(f"{case}/small").arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = write_record(solver.simulate(range(SAMPLES)), Path(folder) / "record.zarr")
        record = open_record(str(made))
        task = untrained(record) if weights is None else load(weights)[0]
        at_once, step_by_step = surrogate(task, record)
    count = 1 if solver.law == "linear" else BATCH
    trials = [solver.trial(k) for k in range(max(count, SAMPLES))]
    at_once(BATCH)
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        one = trials[turn % len(trials)]
        times = {
            "drawing": seconds(lambda turn=turn: solver.trial(turn)),
            "solver 1": seconds(lambda one=one: solve(solver, [one])),
            "surrogate 1": seconds(lambda: at_once(1), 8),
            "step by step": seconds(step_by_step),
        }
        if turn < rounds_of_batches:
            times[f"surrogate {BATCH}"] = seconds(lambda: at_once(BATCH)) / BATCH
            alone = times["solver 1"]
            times[f"solver {BATCH}"] = alone if count == 1 else seconds(lambda: solve(solver, trials)) / BATCH
        for who, duration in times.items():
            found.setdefault(who, []).append(duration)
    return found


def weights_of(argument: str) -> tuple[str, Path]:
    """``CASE=PATH`` with the file of a run directory's best checkpoint."""
    case, _, path = argument.partition("=")
    if case not in CASES or not path:
        raise argparse.ArgumentTypeError(f"expected CASE=PATH with a case of {', '.join(CASES)}; found {argument}")
    file = Path(path)
    return case, file / "checkpoints" / "best.ckpt" if file.is_dir() else file


def main() -> None:
    """Print one row a case and batch, then the ratios as JSON."""
    parser = argparse.ArgumentParser(description="DeepFEA against the solver that made its record")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: end within 45 s on two cores")
    parser.add_argument("--weights", type=weights_of, action="append", default=[], metavar="CASE=PATH")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights: dict[str, Path] = dict(options.weights)
    ratios: dict[str, float] = {}
    print(f"torch {torch.__version__}, 1 thread; CPU ms a trajectory, preset small")
    titles = f"{'case':20} {'weights':>10} {'batch':>6} {'drawing':>9} {'solver':>9} {'DeepFEA':>9} {'ratio':>8}"
    print(f"{titles} {'step by step':>13}")
    for case in CASES:
        found = measure(case, weights.get(case), *((2, 1) if options.quick else (9, 5)))
        for batch in (1, BATCH):
            ours, theirs = found[f"surrogate {batch}"], found[f"solver {batch}"]
            ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
            ratios[f"{case}_batch{batch}"] = round(ratio, 1)
            drawing, solver, network, steps = (
                1e3 * statistics.median(times) for times in (found["drawing"], theirs, ours, found["step by step"])
            )
            kind, slow = "given" if case in weights else "untrained", f"{steps:13.1f}" if batch == 1 else ""
            row = f"{case:20} {kind:>10} {batch:6} {drawing:9.1f} {solver:9.1f} {network:9.2f} {ratio:8.1f} {slow}"
            print(row, flush=True)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
