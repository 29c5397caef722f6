"""workbench submit: an experiment as a chain of jobs on a cluster, each stage on the nodes that it needs."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from workbench import experiment as experiments
from workbench.commands.train import set_aside
from workbench.errors import InputError
from workbench.launch.chain import STAGES, Job, Request, chain
from workbench.launch.dask import add_option
from workbench.launch.ledger import Entry, Ledger, states
from workbench.launch.preflight import problems
from workbench.launch.scheduler import refusal, submission, submit
from workbench.launch.script import Paths, render
from workbench.launch.site import Site, default_site, read_site, site_names
from workbench.lifetime_experiment import LifetimeExperiment, either

HELP = """
Writes a script for each stage that is not done (dataset, fit, rollout or predict, evaluate, report) into RUN/launch/
and submits it, each to start when the one before it has ended well. Datasets, scores and reports get CPU nodes,
training and rollouts GPU nodes; a dataset or rollout is divided over an array of jobs that write one store. Where a
stage has failed, the jobs after it are dropped: the same command again goes on with that stage.

  workbench submit -c kolmogorov/fno --dry-run                   print what would be submitted
  workbench submit -c kolmogorov/fno --site perlmutter --account m1234_g --nodes 4
  workbench submit -c kolmogorov/fno --stage rollout --shares 16 --rollout.members=8 --rollout.perturbation=0.01
  workbench jobs -c kolmogorov/fno
  workbench cancel -c kolmogorov/fno

--site is a file, or one of: {sites}. By default $WORKBENCH_SITE, else what this machine has: slurm, pbs or local.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    options, rest = _parser().parse_known_args(argv)
    experiment = either(options.config, rest, options.run_dir)
    asked = {
        name: getattr(options, name) for name in ("stage", "nodes", "ranks", "time", "shares", "dask", "overwrite")
    }
    request = Request(**asked, configs=tuple(options.config), overrides=tuple(rest))
    site, paths = read_site(options.site), Paths(experiment.run_dir)
    if options.dask:  # its workers are jobs for the same site
        file = Path(options.site)
        os.environ["WORKBENCH_SITE"] = str(file.absolute()) if file.is_file() else options.site
    jobs, done = chain(experiment, site, request)
    for stage in done:
        print(f"{stage}: done before")
    if not jobs:
        print(f"nothing to submit: {experiment.run_dir} is complete (--overwrite does it again)")
        return 0
    scripts = [render(job, site, paths, options.account) for job in jobs]
    if options.dry_run:
        _print(jobs, scripts, site, paths)
    wrong = problems(experiment, jobs, site, options.account) + _findings(experiment)
    wrong = wrong or _refusals(jobs, scripts, site)
    if wrong:
        raise InputError(f"nothing can be submitted to {site.title}:\n  " + "\n  ".join(wrong))
    if site.documentation and not site.tested:
        print(f"note: the profile of {site.title} is from its documentation and has not been run there")
    if options.dry_run:
        return 0
    _refuse_running(paths)
    if options.overwrite and request.stage in ("pipeline", "fit") and experiment.run_dir.exists():
        set_aside(experiment.run_dir)
    paths.folder.mkdir(parents=True, exist_ok=True)
    for job, script in zip(jobs, scripts, strict=True):
        paths.script(job).write_text(script)
    return (_run_here if site.scheduler == "local" else _submit)(jobs, site, paths, options.site, done)


def _parser() -> argparse.ArgumentParser:
    parser = experiments.argument_parser(
        "submit", "Submit an experiment to a cluster.", HELP.format(sites=", ".join(site_names()))
    )
    parser.add_argument("--site", default=default_site(), metavar="NAME|FILE", help="profile of the cluster")
    parser.add_argument("--account", default="", metavar="NAME", help="that the jobs are charged to")
    parser.add_argument("--stage", choices=("pipeline", *STAGES), default="pipeline", help="only this one")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the training")
    parser.add_argument("--ranks", type=int, help="processes of the training on each node (default: one a GPU)")
    parser.add_argument("--time", metavar="H:MM:SS", help="walltime of the training, or of the one stage")
    parser.add_argument("--shares", type=int, default=4, help="processes that a dataset or rollout is divided over")
    add_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="print scripts and commands, submit nothing")
    return parser


def _findings(experiment: experiments.Experiment | LifetimeExperiment) -> list[str]:
    """Errors that `workbench check` finds in the experiment, as far as its record is there already."""
    from workbench.commands.check import check
    from workbench.stages import unbuilt

    if unbuilt(experiment.data.record):
        return []
    found = check(experiment, batch=False)
    return [f"{finding.what}; {finding.repair}" for finding in found if finding.level == "error"]


def _refusals(jobs: Sequence[Job], scripts: Sequence[str], site: Site) -> list[str]:
    """The first job that the scheduler would not take, or would leave in the queue for ever."""
    said = ((job.name, refusal(site.scheduler, script)) for job, script in zip(jobs, scripts, strict=True))
    return next(([f"{name}: {words}"] for name, words in said if words), [])


def _print(jobs: Sequence[Job], scripts: Sequence[str], site: Site, paths: Paths) -> None:
    """What would be written and run; numbers that the scheduler will give are its jobs' names in capitals."""
    before = None
    for job, script in zip(jobs, scripts, strict=True):
        print(f"# ---- {paths.script(job)}\n{script}")
        if site.scheduler == "local":
            print(f"$ bash {shlex.quote(str(paths.script(job)))}\n")
        else:
            print("$ " + shlex.join(submission(site.scheduler, paths.script(job), before)) + "\n")
        before = job.name.upper()


def _refuse_running(paths: Paths) -> None:
    """Raise if jobs of an earlier chain of this run still wait or run.

    Raises:
        InputError: they do.
    """
    ledger = Ledger.read(paths)
    if ledger is None:
        return
    alive = [f"{state.entry.name} ({state.entry.number})" for state in states(ledger, paths) if state.alive]
    if alive:
        raise InputError(
            f"jobs of {paths.run} still wait or run: {', '.join(alive)}; look at them with workbench jobs, or end them "
            "with workbench cancel"
        )


def _submit(jobs: Sequence[Job], site: Site, paths: Paths, name: str, done: list[str]) -> int:
    """Submit job after job; what was submitted is written down even if the scheduler refuses the next one."""
    entries: list[Entry] = []
    width = max(len(job.name) for job in jobs)
    for job in jobs:
        try:
            number = submit(site.scheduler, paths.script(job), entries[-1].number if entries else None)
        except InputError as error:
            before = ", ".join(entry.name for entry in entries)
            raise InputError(
                f"{error}; submitted before it, and to be ended by workbench cancel: {before or 'none'}"
            ) from error
        entries.append(_entry(job, number, site.scheduler, paths))
        Ledger(name, site.scheduler, tuple(done), tuple(entries)).write(paths)
        kind = f"{job.nodes} {job.kind} node{'s' * (job.nodes > 1)}" + (f" x {job.tasks} jobs" * (job.tasks > 1))
        print(f"submitted {job.name:<{width}}  {number:<10} {kind}, {job.time}")
    print(f"scripts and logs: {paths.folder}; how far they are: workbench jobs --run-dir {paths.run}")
    return 0


def _run_here(jobs: Sequence[Job], site: Site, paths: Paths, name: str, done: list[str]) -> int:
    """Run job after job on this machine; returns the status of the first that fails."""
    entries: list[Entry] = []
    for job in jobs:
        print(job.name, flush=True)
        process = subprocess.Popen(["bash", str(paths.script(job))])
        entries.append(_entry(job, str(process.pid), site.scheduler, paths))
        Ledger(name, site.scheduler, tuple(done), tuple(entries)).write(paths)
        if process.wait():
            print(f"failed with status {process.returncode}: see {paths.log(job, site.scheduler)}")
            return process.returncode
    print(f"scripts and logs: {paths.folder}")
    return 0


def _entry(job: Job, number: str, scheduler: str, paths: Paths) -> Entry:
    log = str(paths.log(job, scheduler))
    for mark, value in (("%j", number), ("%A", number), ("%a", "*"), ("^array_index^", "*")):
        log = log.replace(mark, value)
    return Entry(job.name, number, job.tasks, shlex.join(job.words), log)
