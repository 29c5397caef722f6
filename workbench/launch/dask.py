"""Where dask computes: on threads of this process, or on the workers of a cluster; the same code either way.

with cluster("slurm:8"):
workbench.data.statistics.training_statistics(...)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workbench.errors import InputError
from workbench.launch.script import setup_lines
from workbench.launch.site import default_site, read_site, walltime

INSTALL = "pip install 'workbench-surrogates[hpc]'"
JOBS = 4
"""Jobs where ``--dask slurm`` says no number."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option ``--dask`` of a verb that computes with dask."""
    parser.add_argument(
        "--dask",
        metavar="local|slurm:JOBS|ADDRESS",
        help="compute on a new local cluster, on jobs for the CPU nodes of $WORKBENCH_SITE, or on a running cluster",
    )


@contextmanager
def cluster(where: str | None) -> Iterator[None]:
    """Make dask compute on a cluster while the block runs.

    Args:
        where: ``local`` starts one on this machine, ``slurm:JOBS`` or ``pbs:JOBS`` one of jobs for the CPU nodes of the
            site (`start_workers`), an address joins one; None leaves dask on threads.

    Raises:
        InputError: a package is missing, or nothing answers.
    """
    if where is None:
        yield
        return
    try:
        import distributed
    except ImportError as error:
        raise InputError(f"--dask {where} needs distributed: {INSTALL}") from error
    if where.partition(":")[0] in ("slurm", "pbs"):
        with start_workers(where) as workers, distributed.Client(workers) as client:
            client.wait_for_workers(1, timeout=None)
            yield
        return
    try:
        if where == "local":
            client = distributed.Client(threads_per_worker=1, dashboard_address=None)
        else:
            client = distributed.Client(where, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {where}: no scheduler answers there ({error}); expected local, slurm, pbs or tcp://HOST:PORT"
        ) from error
    with client:
        yield


@contextmanager
def start_workers(where: str) -> Iterator[Any]:
    """A dask cluster of jobs, each one node of ``$WORKBENCH_SITE``, that end with the block.

    Args:
        where: ``slurm``, ``slurm:JOBS``, or the same with ``pbs``.

    Raises:
        InputError: dask-jobqueue is missing, the site has another scheduler, or the number is none.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise InputError(f"--dask {where} needs dask-jobqueue: {INSTALL}") from error
    scheduler, _, number = where.partition(":")
    if number and not (number.isdigit() and int(number)):
        raise InputError(f"--dask is '{where}': expected a number of jobs, such as {scheduler}:8")
    name = default_site()
    site = read_site(name)
    if site.scheduler != scheduler:
        raise InputError(f"--dask {where}: the site {name} has the scheduler {site.scheduler}; set WORKBENCH_SITE")
    nodes, kinds = site.cpu, {"slurm": dask_jobqueue.SLURMCluster, "pbs": dask_jobqueue.PBSCluster}
    memory = {"memory": nodes.memory} if nodes.memory else {"memory": "100GB", "job_directives_skip": ["mem"]}
    with kinds[scheduler](
        queue=nodes.partition or None,
        account=site.account or None,
        cores=nodes.cores,
        processes=nodes.cores,
        walltime=walltime(nodes.time),
        job_extra_directives=list(nodes.options),
        job_script_prologue=setup_lines(site),
        python=sys.executable,
        log_directory="dask-jobs",
        scheduler_options={"dashboard_address": None},
        **memory,
    ) as cluster:
        cluster.scale(jobs=int(number or JOBS))
        yield cluster
