"""Which jobs an experiment becomes, in which order, and on which nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.launch.site import Site, walltime
from workbench.lifetime_experiment import LifetimeExperiment
from workbench.stages import forecasting, plan

STAGES = ("dataset", "fit", "rollout", "predict", "evaluate", "report")
"""What ``--stage`` may say besides ``pipeline``, in the order of the pipeline."""


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line.

    Attributes:
        stage: one of `STAGES`, or ``pipeline`` for all that is not done.
        nodes: of the training.
        ranks: processes of the training on each node; by default one for each GPU.
        time: walltime of the training, or of the one stage; by default that of the site.
        shares: processes that a dataset or a rollout is divided over.
        dask: where dask of datasets and scores computes (`workbench.launch.dask.cluster`); a dataset is then one job.
        overwrite: do again what is done.
        configs: names or files of the experiment, as they were given.
        overrides: further words of the command line, ``--section.key=value``.
    """

    stage: str = "pipeline"
    nodes: int = 1
    ranks: int | None = None
    time: str | None = None
    shares: int = 4
    dask: str | None = None
    overwrite: bool = False
    configs: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse counts that are none."""
        for name in ("nodes", "ranks", "shares"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}: expected at least 1")


@dataclass(frozen=True)
class Job:
    """One job, or an array of them.

    Attributes:
        name: of the script, the log and the job.
        kind: of nodes that it runs on.
        words: of its command, after ``workbench``.
        time: walltime.
        shares: processes that the work is divided over, each with a ``--share``; 1 is the whole.
        nodes: that a training has; everything else has one.
        ranks: processes on a node: of a training, or one share each.
    """

    name: str
    kind: Literal["cpu", "gpu"]
    words: tuple[str, ...]
    time: str
    shares: int = 1
    nodes: int = 1
    ranks: int = 1

    @property
    def tasks(self) -> int:
        """Jobs of the array; 1 is no array."""
        return 1 if self.trains else -(-self.shares // self.ranks)

    @property
    def trains(self) -> bool:
        """Whether it is a training: several ranks, and a signal before its time is over."""
        return self.words[0] == "fit"


def chain(experiment: Experiment | LifetimeExperiment, site: Site, request: Request) -> tuple[list[Job], list[str]]:
    """The jobs, each of which waits for the one before it; and the stages that are left out, being done.

    Raises:
        InputError: a stage is asked for by itself whose input is not there.
    """
    stages = plan(experiment, request.overwrite)
    if request.stage != "pipeline":
        stages = {name: words for name, words in stages.items() if name.split()[0] == request.stage}
        _refuse_missing_input(experiment, request.stage)
    if request.stage == "pipeline" and _reported(experiment, stages):
        stages["report"] = None
    done = [name for name, words in stages.items() if words is None]
    jobs = [
        job
        for name, words in stages.items()
        if words is not None
        for job in _jobs(name, words, experiment, site, request)
    ]
    if request.time:
        asked, alone = walltime(request.time), request.stage != "pipeline"
        jobs = [replace(job, time=asked) if job.trains or alone else job for job in jobs]
    return jobs, done


def _reported(experiment: Experiment | LifetimeExperiment, stages: dict[str, list[str] | None]) -> bool:
    """Whether the report shows what all other stages have left."""
    page = experiment.run_dir / "report.html"
    others = [words for name, words in stages.items() if name != "report"]
    return not any(words is not None for words in others) and _newer(page, experiment.scores)


def _newer(file: Path, than: Path) -> bool:
    return file.exists() and file.stat().st_mtime_ns > than.stat().st_mtime_ns


def _refuse_missing_input(experiment: Experiment | LifetimeExperiment, stage: str) -> None:
    verb, forecast = forecasting(experiment)
    needed = {
        verb: ("fit", experiment.checkpoint),
        "evaluate": (verb, forecast),
        "report": ("evaluate", experiment.scores),
    }
    if stage in needed and not needed[stage][1].exists():
        before, path = needed[stage]
        raise InputError(
            f"--stage {stage} needs {path}, which is not there: submit --stage {before} first, or the whole pipeline"
        )


def _jobs(
    name: str, extra: list[str], experiment: Experiment | LifetimeExperiment, site: Site, request: Request
) -> Iterator[Job]:
    """The jobs of one stage; `extra` are the words that `plan` gives its command."""
    stage, _, record = name.partition(" ")
    cpu, gpu = walltime(site.cpu.time), walltime(site.nodes("gpu").time)
    shared = [word for name in request.configs for word in ("-c", name)]
    shared += ["--run-dir", str(experiment.run_dir), *request.overrides]
    dask = ("--dask", request.dask) if request.dask else ()
    divided = 1 if site.scheduler == "local" else request.shares
    if stage == "dataset":
        workers = () if site.scheduler == "local" else ("--workers", str(site.cpu.cores))
        job = Job("dataset-" + record.replace("/", "-"), "cpu", ("dataset", *extra, *workers, *dask), cpu)
        yield from _shared_out(job, 1 if dask else min(divided, _trajectories(record)))
    elif stage == "fit":
        alone = isinstance(experiment, LifetimeExperiment)  # its networks are small and train on one device
        ranks = request.ranks or (1 if alone else max(1, site.nodes("gpu").gpus))
        devices = (f"--trainer.devices={ranks}",) if site.scheduler == "local" and request.ranks else ()
        words = ("fit", *shared, *devices, "--resume-or-start")
        yield Job("fit", "gpu", words, gpu, nodes=request.nodes, ranks=ranks)
    elif isinstance(experiment, Experiment) and stage == "rollout":
        words = ("rollout", *shared, *extra, *_smaller_batches(experiment, divided))
        nodes = site.nodes("gpu")
        ranks = 1 if nodes.shared else min(divided, max(1, nodes.gpus))
        shares = -(-divided // ranks) * ranks  # no GPU of a whole node is left idle
        yield from _shared_out(Job("rollout", "gpu", words, gpu, ranks=ranks), shares)
    else:
        words = (stage, *shared, *extra, *(dask if stage == "evaluate" else ()))
        yield Job(stage, "cpu", words, cpu)


def _shared_out(job: Job, shares: int) -> Iterator[Job]:
    """Jobs that write one store, and the one that finishes it; or the one job that does both."""
    yield replace(job, shares=shares)
    if shares > 1:
        yield replace(job, name=f"{job.name}-finish", kind="cpu", ranks=1)


def _trajectories(record: str) -> int:
    from workbench.data.recipe import read_recipe

    return read_recipe(record).source().trajectories


def _smaller_batches(experiment: Experiment, shares: int) -> tuple[str, ...]:
    """The override that leaves no job without a batch, where the starts or members of one batch would be too many."""
    config = experiment.rollout
    longest = max(config.starts, config.members)
    size = -(-longest // shares)
    if shares == 1 or config.starts == 0 or size >= (config.batch_size or experiment.data.batch_size):
        return ()
    return (f"--rollout.batch_size={size}",)
