"""Time the integrators of neo-Hookean solids, with the error that each makes, in one run.

Trajectories of ``beam_2d_neohookean/small`` are computed again from what their record says, explicitly and implicitly,
on the record's own mesh of 16 x 16 elements and on coarser ones, stresses included. The reference is the explicit
solver on the own mesh with four times its steps. An error is the relative L2 difference of a trajectory, mean over
trajectories; CPU milliseconds are per trajectory, on one thread, least of the rounds, in turns.

    python benchmarks/neohookean.py [--quick]
"""

import argparse
import json
import os
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import xarray as xr

from workbench.data.recipe import read_recipe
from workbench.simulate.structures import Structures
from workbench.simulate.structures_replay import Fields, Replay, State, read_conditions

SCORED = {"displacement": ("displacement_x", "displacement_y"), "von Mises": ("von_mises",)}
CANDIDATES = [(1, "explicit", None), *((1, "implicit", n) for n in (1, 2, 4))]
CANDIDATES += [(k, kind, n) for k in (2, 4) for kind, n in (("explicit", None), ("implicit", 1), ("implicit", 2))]


def error(found: list[Fields], record: xr.Dataset, names: tuple[str, ...]) -> float:
    """Relative L2 difference, mean over trajectories."""
    shares = []
    for k, fields in enumerate(found):
        truth = np.stack([record[name].values[k] for name in names])
        shares.append(np.linalg.norm(np.stack([fields[name] for name in names]) - truth) / np.linalg.norm(truth))
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four trajectories, one round")
    quick = parser.parse_args().quick
    count, rounds = (4, 1) if quick else (32, 3)
    arguments = read_recipe("beam_2d_neohookean/small").arguments
    own = Structures(**arguments)
    record = Structures(**{**arguments, "substeps": 4 * own.steps_between}).simulate(range(count))
    cases = read_conditions(record, range(count))
    rest: list[State] = [(np.zeros_like(case.loads[0]),) * 2 for case in cases]  # type: ignore[misc]

    rows = {}
    for coarser, kind, steps in CANDIDATES:
        replay = Replay.of(record, coarser, kind, own.steps_between if (coarser, kind) == (1, "explicit") else steps)
        mesh = " x ".join(str(n * replay.specimen.refinement) for n in replay.specimen.elements)
        rows[f"{mesh} {kind}" + (f" {steps}" if steps else "")] = replay
    milliseconds: dict[str, list[float]] = {name: [] for name in rows}
    errors = {}
    for _ in range(rounds):
        for name, replay in rows.items():
            began = time.process_time()
            found = replay.march(cases, rest)
            milliseconds[name].append(1e3 * (time.process_time() - began) / count)
            errors[name] = {quantity: error(found, record, names) for quantity, names in SCORED.items()}

    print(f"{'elements, integrator, steps':<28}{'CPU ms':>8}" + "".join(f"{f'error in {q}, %':>26}" for q in SCORED))
    for name, times in milliseconds.items():
        print(f"{name:<28}{min(times):>8.1f}" + "".join(f"{100 * errors[name][q]:>26.2g}" for q in SCORED))
    explicit = min(milliseconds["16 x 16 explicit"])
    ratios = {f"implicit_{n}": explicit / min(milliseconds[f"16 x 16 implicit {n}"]) for n in (1, 2, 4)}
    print(json.dumps({name: round(ratio, 2) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
