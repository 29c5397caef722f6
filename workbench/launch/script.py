"""A job's script: the template of the site's scheduler, and the body that all share, from `hpc/`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.launch.chain import Job
from workbench.launch.site import Site, seconds
from workbench.resources import data_root, folder

KEPT = ("WORKBENCH_SITE", "WORKBENCH_THREADS", "PYTHONPATH")
"""Variables of the shell that submits which the jobs get, too."""


@dataclass(frozen=True)
class Paths:
    """Where a chain is kept: scripts, logs and what the jobs note, all in one folder of the run directory."""

    run: Path

    @property
    def folder(self) -> Path:
        """The folder, absolute."""
        return self.run.absolute() / "launch"

    def script(self, job: Job) -> Path:
        """The script of a job."""
        return self.folder / f"{job.name}.sh"

    def record(self, name: str) -> Path:
        """Where the attempts of a job are noted; of an array, ``.TASK`` comes behind it."""
        return self.folder / f"{name}.attempts"

    def log(self, job: Job, scheduler: str) -> Path:
        """What a job prints, as the scheduler wants to be told."""
        many = job.tasks > 1
        marks = {"slurm": "-%A_%a" if many else "-%j", "pbs": "-^array_index^" if many else "", "local": ""}
        return self.folder / f"{job.name}{marks[scheduler]}.out"


def render(job: Job, site: Site, paths: Paths, account: str = "") -> str:
    """The script, exactly as it is submitted.

    Args:
        job: one of a chain.
        site: where it runs.
        paths: of the run.
        account: that it is charged to; by default that of the site.
    """
    starter = _starter(job, site)
    parts = [site.scheduler, *([f"{site.scheduler}_{starter}"] if starter else []), "job"]
    template = "".join((folder("hpc") / f"{part}.sh").read_text() for part in parts)
    values = {
        "name": f"{paths.run.name}-{job.name}",
        "log": paths.log(job, site.scheduler),
        "directives": "\n".join(_directives(job, site, account or site.account)),
        "launcher": f" {site.launcher}" if site.launcher else "",
        "ranks": job.nodes * job.ranks,
        "ranks_per_node": job.ranks,
        "shares": job.shares,
        "seconds": max(1, seconds(job.time) - site.notice),
        "what": f"workbench {job.words[0]} on {site.title}",
        "folder": shlex.quote(os.getcwd()),
        "setup": "\n".join(setup_lines(site)),
        "record": shlex.quote(str(paths.record(job.name))),
        "commands": _command(job, site),
    }
    # Placeholders are @{name}, so that the shell keeps its dollars.
    text = re.sub(r"@\{(\w+)\}\n?", lambda found: _filled(found, values), template)
    return re.sub(r"\n{3,}", "\n\n", text)


def _filled(found: re.Match[str], values: Mapping[str, Any]) -> str:
    """A placeholder's value, and the end of its line unless it leaves an empty one."""
    value = str(values[found[1]])
    return value + ("\n" if found[0].endswith("\n") and value else "")


def _directives(job: Job, site: Site, account: str) -> list[str]:
    """Lines that ask for nodes, in the scheduler's words."""
    if site.scheduler == "slurm":
        return [f"#SBATCH {option}" for option in _slurm(job, site, account)]
    if site.scheduler == "pbs":
        return [f"#PBS {option}" for option in _pbs(job, site, account)]
    return []


def _gpus(job: Job, site: Site) -> int:
    """GPUs of one node that a job asks for: all for a training, one for a rollout where nodes can be shared."""
    nodes = site.nodes(job.kind)
    whole = job.trains or not nodes.shared
    return nodes.gpus if whole else min(1, nodes.gpus)


def _cores(job: Job, site: Site) -> int:
    """Cores of one node, in proportion to its GPUs."""
    nodes = site.nodes(job.kind)
    return nodes.cores * _gpus(job, site) // nodes.gpus if nodes.gpus else nodes.cores


def _slurm(job: Job, site: Site, account: str) -> list[str]:
    nodes = site.nodes(job.kind)
    options = [f"--partition={nodes.partition}"] if nodes.partition else []
    options += [f"--account={account}"] if account else []
    options += [f"--nodes={job.nodes}", f"--ntasks-per-node={job.ranks}"]
    options += [f"--cpus-per-task={max(1, _cores(job, site) // job.ranks)}"]
    options += [f"--gpus-per-node={_gpus(job, site)}"] if nodes.gpus else []
    options += [f"--mem={nodes.memory}"] if nodes.memory else []
    options += [f"--time={job.time}"]
    options += [f"--array=1-{job.tasks}"] if job.tasks > 1 else []
    options += [f"--signal=USR1@{site.notice}"] if job.trains else []
    return [*options, *nodes.options]


def _pbs(job: Job, site: Site, account: str) -> list[str]:
    nodes = site.nodes(job.kind)
    select = f"select={job.nodes}:ncpus={_cores(job, site)}:mpiprocs={job.ranks}"
    select += f":ngpus={_gpus(job, site)}" if nodes.gpus else ""
    select += f":mem={nodes.memory}" if nodes.memory else ""
    options = [f"-q {nodes.partition}"] if nodes.partition else []
    options += [f"-A {account}"] if account else []
    options += [f"-l {select}", f"-l walltime={job.time}"]
    options += [f"-J 1-{job.tasks}"] if job.tasks > 1 else []
    return [*options, *nodes.options]


def setup_lines(site: Site) -> list[str]:
    """What comes before the commands of a job: modules, variables, and the lines of the profile."""
    lines = [f"module load {' '.join(site.modules)}"] if site.modules else []
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    kept["WORKBENCH_DATA"] = str(data_root().absolute())
    lines += [f"export {name}={shlex.quote(value)}" for name, value in kept.items()]
    # Of the profile, dollars are the job's: MIOPEN_USER_DB_PATH: /tmp/miopen-$SLURM_JOB_ID
    lines += [f'export {name}="{value}"' for name, value in site.environment.items()]
    return [*lines, *site.setup]


def _starter(job: Job, site: Site) -> str:
    """Which function of the templates starts the processes of a job, and its file; empty where there is only one."""
    if site.scheduler == "local":
        return ""  # a training starts its own ranks
    return "ranks" if job.trains else "shares" if job.ranks > 1 else ""


def _command(job: Job, site: Site) -> str:
    program = f"{site.container} workbench" if site.container else f"{shlex.quote(sys.executable)} -m workbench"
    start = {"": "", "ranks": "on_every_rank ", "shares": "share_by_share "}[_starter(job, site)]
    share = f' --share "$TASK/{job.shares}"' if job.shares > 1 and job.ranks == 1 else ""
    return f"{start}{program} {shlex.join(job.words)}{share}"
