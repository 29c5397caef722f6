"""What would make a job fail in the queue, found before it is submitted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.experiment import Experiment
from workbench.launch.chain import Job
from workbench.launch.site import Site, seconds, walltime
from workbench.lifetime_experiment import LifetimeExperiment
from workbench.resources import data_root


def problems(experiment: Experiment | LifetimeExperiment, jobs: Sequence[Job], site: Site, account: str) -> list[str]:
    """All that keeps the jobs from running on the site, a line each."""
    return [*_charge(site, account), *_limits(jobs, site), *_places(experiment, site)]


def _charge(site: Site, account: str) -> Iterator[str]:
    if site.needs_account and not (account or site.account):
        yield "no account: jobs are charged to one there; pass --account NAME, or say it in the profile"


def _limits(jobs: Sequence[Job], site: Site) -> Iterator[str]:
    for job in jobs:
        nodes = site.nodes(job.kind)
        where = f"the partition {nodes.partition}" if nodes.partition else f"the {job.kind} nodes"
        if nodes.max_time and seconds(job.time) > seconds(nodes.max_time):
            yield f"{job.name}: {job.time} is longer than {where} grants ({walltime(nodes.max_time)}); set --time"
        if nodes.max_nodes and job.nodes > nodes.max_nodes:
            yield f"{job.name}: {job.nodes} nodes are more than {where} gives one job ({nodes.max_nodes}); set --nodes"
        if job.trains and site.scheduler != "local" and job.ranks > (nodes.gpus or nodes.cores):
            unit = f"{nodes.gpus} GPUs" if nodes.gpus else f"{nodes.cores} cores"
            yield f"{job.name}: {job.ranks} ranks on nodes of {unit}; set --ranks"
        if job.trains and seconds(job.time) <= site.notice:
            yield f"{job.name}: {job.time} is not longer than the notice before its end ({site.notice} s); set --time"


def _places(experiment: Experiment | LifetimeExperiment, site: Site) -> Iterator[str]:
    places = {
        "the working directory": Path.cwd(),
        "the run directory": experiment.run_dir,
        "the data": data_root(),
        **{f"the file of the experiment {file.name}": file for file in experiment.files},
    }
    record = Path(experiment.data.record)
    if record.exists():
        places["the record"] = record
    if not site.container:
        places["Python"] = Path(sys.prefix)
        places["Workbench"] = Path(__file__)
    shared = " or ".join(map(os.path.expandvars, site.visible)) or "a shared file system"
    for what, path in places.items():
        if not site.sees(path):
            yield f"{what} lies in {path.resolve()}, where no compute node finds it: move it to {shared}"
