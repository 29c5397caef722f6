"""Site profiles: what a job script has to know about a cluster, in one YAML file of `hpc/sites/`."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from workbench.errors import InputError
from workbench.experiment import build, read_yaml
from workbench.resources import folder

NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders that are another one on every node, nearly everywhere."""


@dataclass(frozen=True)
class Nodes:
    """One kind of nodes, and how it is asked for.

    Args:
        partition: of SLURM, or queue of PBS; by default that of the site.
        cores: of one node, as many as a job may use.
        gpus: of one node; what the site counts as one (a GCD of an MI250X is one).
        memory: asked for per node, in the scheduler's own words; by default none.
        time: walltime asked for where ``--time`` says nothing, ``H:MM:SS`` or ``D-HH:MM:SS``.
        max_time: longest walltime that the partition grants; empty: unknown.
        max_nodes: most nodes of one job; 0: unknown.
        shared: whether one job may have a part of a node, so that a rollout asks for one GPU only.
        options: further options of sbatch or qsub, a line each.
    """

    partition: str = ""
    cores: int = 1
    gpus: int = 0
    memory: str = ""
    time: str = "1:00:00"
    max_time: str = ""
    max_nodes: int = 0
    shared: bool = True
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        for text in filter(None, (self.time, self.max_time)):
            seconds(text)


@dataclass(frozen=True)
class Site:
    """A cluster.

    Args:
        title: what it is called.
        documentation: address of its pages that the profile was made from.
        tested: whether it has been run there.
        scheduler: ``slurm``, ``pbs``, or ``local`` for a machine without one.
        account: that jobs are charged to; ``--account`` says another one.
        needs_account: whether the scheduler refuses jobs without.
        cpu: nodes for datasets, scores and reports.
        gpu: nodes for training and rollouts; those of `cpu` where the site has no GPUs.
        modules: to be loaded, in this order.
        setup: further lines of shell before the commands, such as the activation of an environment.
        environment: variables of every job: network interfaces, caches.
        container: what comes before ``workbench`` to run it in an image, such as ``apptainer exec --nv image.sif``; by
            default the Python that submits runs the jobs, too.
        launcher: further options of srun or mpiexec for a training.
        visible: folders that compute nodes see; by default all but those of one machine, such as /tmp.
        notice: seconds before the end of its walltime at which a training is told to stop and queue again.
    """

    title: str
    documentation: str = ""
    tested: bool = False
    scheduler: Literal["slurm", "pbs", "local"] = "slurm"
    account: str = ""
    needs_account: bool = False
    cpu: Nodes = field(default_factory=Nodes)
    gpu: Nodes | None = None
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    container: str = ""
    launcher: str = ""
    visible: tuple[str, ...] = ()
    notice: int = 120

    def nodes(self, kind: Literal["cpu", "gpu"]) -> Nodes:
        """The nodes for a kind of work."""
        return self.gpu if kind == "gpu" and self.gpu else self.cpu

    def sees(self, path: Path) -> bool:
        """Whether compute nodes find what this machine has at `path`."""
        place = path.resolve()
        if self.scheduler == "local":
            return True
        if self.visible:
            return any(place.is_relative_to(Path(os.path.expandvars(root)).resolve()) for root in self.visible)
        return not any(place.is_relative_to(root) for root in NODE_LOCAL)


def site_names() -> list[str]:
    """The packaged profiles."""
    return sorted(path.stem for path in (folder("hpc") / "sites").glob("*.yaml"))


def default_site() -> str:
    """``$WORKBENCH_SITE``, else the general profile of the scheduler whose commands are here."""
    here = "slurm" if shutil.which("sbatch") else "pbs" if shutil.which("qsub") else "local"
    return os.environ.get("WORKBENCH_SITE") or here


def read_site(name: str) -> Site:
    """A profile: a YAML file, or the name of a packaged one.

    Raises:
        InputError: there is none, or it has a wrong key or value.
    """
    path = Path(name)
    packaged = folder("hpc") / "sites" / f"{name}.yaml"
    if not path.is_file():
        if not packaged.is_file():
            near = get_close_matches(name, site_names(), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the packaged ones are {', '.join(site_names())}"
            raise InputError(f"no site '{name}': no file at {path.resolve()} and no packaged profile; {hint}")
        path = packaged
    try:
        return build(Site, read_yaml(path), "site")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def seconds(text: str) -> int:
    """Of a walltime ``[D-][HH:]MM:SS``.

    Raises:
        InputError: the text is not of that form.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):([0-5]\d)", text)
    if not found or (found[2] and int(found[3]) > 59):
        raise InputError(f"'{text}' is no walltime: expected HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def walltime(text: str) -> str:
    """In the one form that SLURM and PBS understand alike, ``HHH:MM:SS``."""
    minutes, rest = divmod(seconds(text), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
