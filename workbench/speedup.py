"""Surrogate against its solver at equal error: ``workbench speedup``.

    task, card = load(experiment.checkpoint)     # workbench.weights
    sheet = speedup(experiment, task)            # writes the run's speedup.nc
    sheet.ratio.sel(point="steps 1 to 30", batch="one", clock="wall")

A surrogate that is faster than the solver that made its data has shown nothing yet: the solver on a coarser grid with
longer steps is faster too. The question is which of them is faster where both are equally wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import experiment as experiments
from workbench.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from workbench.data.starts import Problem
    from workbench.equal_error.clock import Timings
    from workbench.equal_error.contestants import Contestant
    from workbench.equal_error.errors import Result
    from workbench.equal_error.profiles import Profiles
    from workbench.equal_error.starts import Starts
    from workbench.simulate.coarsening import Coarsening

ROUNDS, QUICK_ROUNDS = 9, 5
STARTS, QUICK_STARTS = 32, 8


def path_of(experiment: experiments.Experiment) -> Path:
    """Where the comparison of a run is kept."""
    return experiment.run_dir / "speedup.nc"


def speedup(
    experiment: experiments.Experiment,
    task: Any,
    *,
    identity: Mapping[str, Any] | None = None,
    steps: int | None = None,
    leads: Sequence[int] = (),
    forecasts: int = STARTS,
    variables: Sequence[str] = (),
    thread_count: int = 1,
    patterns: Sequence[str] = (),
    rounds: int = ROUNDS,
    device: str = "cpu",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Compare a run's surrogate with the solver of its record, and write ``speedup.nc`` into the run directory.

    Args:
        experiment: from `workbench.experiment.load`; forecasts start from `rollout.split`.
        task: the trained task (`workbench.weights.load`).
        identity: what errors that a stopped comparison kept must have in common with this one, besides the starts.
        steps: length of the forecasts; by default as many as the surrogate is better at than persistence and the mean
            of the training split, within `rollout.steps` (or half of the split where that does not fit) and `leads`;
            from rest always all of them.
        leads: steps to compare at.
        forecasts: about how many, spread evenly over trajectories and times.
        variables: names of those whose error is compared, with wildcards; by default what the solver compares, or all.
        thread_count: torch threads of both sides.
        patterns: labels of candidates, with wildcards; by default all, up to those that are dearer than needed.
        rounds: of the timing.
        device: where both sides run.
        attrs: global attributes (provenance).
        overwrite: replace an earlier comparison.
        progress: called with what is done, of errors and timings, and what there is in all.

    Returns:
        what `workbench.equal_error.sheet` describes.

    Raises:
        InputError: the record does not fit the model, its solver cannot be run again or fails at every setting, or an
            option is out of range.
    """
    from workbench.allocator import keep_freed_memory
    from workbench.data.store import open_data, refuse_existing
    from workbench.equal_error.clock import threads
    from workbench.equal_error.compare import compare, scorer
    from workbench.equal_error.contestants import solver_of, solver_of_the_record, solvers, surrogate
    from workbench.equal_error.errors import Notebook, as_far_as_useful, measure_all
    from workbench.equal_error.plain import TOGETHER, with_plain
    from workbench.equal_error.profiles import Profiles
    from workbench.equal_error.ratios import points_of
    from workbench.scoring.judge import write_scores
    from workbench.simulate.coarsening import Driven

    path = path_of(experiment)
    refuse_existing(path, overwrite)
    if thread_count < 1 or forecasts < 1:
        raise InputError(f"expected at least one thread and one start; found {thread_count} and {forecasts}")
    record = open_data(experiment.data)
    solver = solver_of(record)
    starts = _starts(experiment, record, solver, variables, steps, forecasts)
    _refuse_other_record(task, starts)
    own, known = surrogate(task, device, starts), None
    keep_freed_memory()
    if isinstance(solver, Driven):
        solver = solver.driven_by(starts.driven, starts.problem.steps)
    elif steps is None:
        with threads(thread_count):
            starts, known = as_far_as_useful(own, starts, device, least=max(leads, default=1))
    problem = starts.problem
    points = points_of(_leads(leads, problem.steps), problem.steps, power=2 if starts.at_rest else 1)
    candidates = solvers(solver, problem.names, starts.interval, device, patterns)
    of_the_record = solver_of_the_record(solver, problem.names, starts.interval, device)
    profiles = Profiles.of(starts, experiment.rollout.steps)
    notebook = Notebook(path.with_name(".speedup.partial"), {**(identity or {}), **_identity(starts, profiles, device)})
    turns = (1 + len(candidates)) * (rounds + 1)
    with threads(thread_count):
        results = measure_all(
            own, candidates, starts, notebook, device, scorer(points, profiles),
            known=known, profiles=profiles, all_of_them=bool(patterns),
            progress=lambda done, total: progress(done, total + turns),
        )  # fmt: skip
        ran = _those_that_ran(candidates, results)
        chosen = [own, *(candidates[i] for i in ran)]
        timings = _time(chosen, starts, device, rounds, progress)
        plain = of_the_record and _time([own, of_the_record], starts, device, rounds, progress, TOGETHER)
    both = {**(attrs or {}), **_how(starts, thread_count, rounds)}
    sheet = compare(experiment.evaluate, starts, points, profiles, candidates, results, ran, timings, both)
    if of_the_record and plain:
        sheet = with_plain(sheet, plain, starts.costs[0], of_the_record.label)
    write_scores(sheet, path)
    notebook.close()
    return sheet


def _starts(
    experiment: experiments.Experiment,
    record: xr.Dataset,
    solver: Coarsening,
    variables: Sequence[str],
    steps: int | None,
    forecasts: int,
) -> Starts:
    """Which forecasts are made of which variables; arguments as of `speedup`."""
    from workbench.data.starts import Problem
    from workbench.equal_error.starts import Starts
    from workbench.simulate.coarsening import Driven

    problem = Problem.of(record, experiment.data, 1)
    wanted = variables or (solver.compares if isinstance(solver, Driven) else ("*",))
    names = tuple(name for name in problem.names if any(fnmatchcase(name, pattern) for pattern in wanted))
    if not names:
        raise InputError(
            f"no variable matches {', '.join(map(repr, wanted))}: the experiment forecasts {', '.join(problem.names)}; "
            "choose with --variables"
        )
    problem = replace(problem, names=names, steps=_steps(problem, experiment, steps))
    return Starts.choose(problem, experiment.rollout.split, forecasts, at_rest=isinstance(solver, Driven))


def _steps(problem: Problem, experiment: experiments.Experiment, asked: int | None) -> int:
    """Length of the forecasts: their truth must lie in the split."""
    runs = problem.parts[experiment.rollout.split].runs
    longest = max((hi - lo - 1) // problem.stride - (problem.history - 1) for lo, hi in runs)
    wanted = experiment.rollout.steps if asked is None else asked
    if asked is None and wanted > longest:
        return max(1, longest // 2)
    if not 1 <= wanted <= longest:
        raise InputError(
            f"forecasts of {wanted} steps were asked for: the {experiment.rollout.split} split holds the truth of 1 to "
            f"{longest} steps; set --steps"
        )
    return wanted


def _leads(asked: Sequence[int], steps: int) -> list[int]:
    """The steps to compare at: those asked for, else the first, a quarter, half and all."""
    wrong = [lead for lead in asked if not 1 <= lead <= steps]
    if wrong:
        raise InputError(f"step {wrong[0]} is beyond the forecasts: leads go from 1 to {steps}; set --steps")
    return sorted(set(asked) or {1, max(1, round(steps / 4)), max(1, round(steps / 2)), steps})


def _refuse_other_record(task: Any, starts: Starts) -> None:
    record = starts.problem.record
    roles = [role for role in task.packing.groups if role != "diagnostic"]
    task.packing.check(record, f"the record {record.encoding.get('source', '')}", roles, starts.problem.stride)


def _identity(starts: Starts, profiles: Profiles | None, device: str) -> dict[str, Any]:
    """What errors that were kept must have in common with this comparison."""
    problem = starts.problem
    return {
        "record": [problem.record.encoding.get("source"), problem.record.attrs.get("workbench_arguments")],
        "forecasts": [starts.trajectories.tolist(), starts.times.tolist(), problem.steps, problem.stride],
        "names": problem.names,
        "long": profiles and profiles.steps,
        "device": device,
    }


def _how(starts: Starts, thread_count: int, rounds: int) -> dict[str, Any]:
    """What was measured, as attributes."""
    return {
        "workbench_record": str(starts.problem.record.encoding.get("source", "")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": thread_count,
        "starts": len(starts),
        "rounds": rounds,
        "steps": starts.problem.steps,
        "interval": starts.interval,
    }


def _those_that_ran(candidates: Sequence[Contestant], results: Sequence[Result]) -> list[int]:
    ran = [i for i, result in enumerate(results[1:]) if not result.note]
    if not ran:
        reasons = "; ".join(f"{c.label}: {r.note}" for c, r in zip(candidates[:3], results[1:4], strict=False))
        raise InputError(f"the solver fails at every setting that was tried ({reasons}): widen --candidates")
    return ran


def _time(
    contestants: Sequence[Contestant],
    starts: Starts,
    device: str,
    rounds: int,
    progress: Callable[[int, int], None],
    together: int | None = None,
) -> Timings:
    from workbench.equal_error.clock import take_turns
    from workbench.equal_error.errors import runner_of

    runners = [runner_of(contestant, starts, device) for contestant in contestants]
    return take_turns(runners, starts.problem.steps, rounds, progress=progress, together=together)
