"""fit, validate and test: the Lightning CLI with the defaults that every run of Workbench shares."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.loggers.csv_logs import _ExperimentWriter
from lightning_fabric.utilities import cloud_io
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO

import workbench.models
import workbench.tasks  # noqa: F401  short class names in experiment files resolve among what is imported
from workbench.allocator import keep_freed_memory
from workbench.cluster import job
from workbench.cluster.lost_ranks import LostRanks
from workbench.cluster.preemption import Preempted, Preemption
from workbench.cluster.pulse import Pulse
from workbench.cluster.stragglers import Stragglers
from workbench.cluster.throughput import BAR, Throughput
from workbench.data.cell_module import CellDataModule
from workbench.data.module import RecordDataModule
from workbench.errors import InputError
from workbench.exit_status import REQUEUE
from workbench.experiment import SECTIONS, Experiment
from workbench.lifetime_experiment import LIFETIME_SECTIONS, LifetimeExperiment
from workbench.models.parts import PARTS, remove_parts, whole
from workbench.tasks.callbacks import ContinueEpoch, EpochLines, RankState, Summary, WholeSteps
from workbench.tasks.sharding import ShardedBlocks
from workbench.weights import card_of


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a killed save never leaves half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        torch.save(checkpoint, temporary)
        os.replace(temporary, path)
        remove_parts(path, but=checkpoint.get(PARTS, ""))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint with what lies beside it."""
        super().remove_checkpoint(path)
        remove_parts(Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain types only, whatever the caller asks; parts of ranks are put together."""
        return whole(Path(path), super().load_checkpoint(path, map_location, weights_only=True))


class _AppendingWriter(_ExperimentWriter):
    """The CSV writer of Lightning, except that it goes on with the file of the run it continues."""

    def _check_log_dir_exists(self) -> None:
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


class RunLog(CSVLogger):
    """``metrics.csv`` in the run directory; a resumed run continues it where its checkpoint was taken."""

    @property
    def experiment(self) -> Any:
        """The writer."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment

    def drop_after(self, step: int) -> None:
        """Forget rows logged after `step`: the resumed run will log them again."""
        file = Path(self.log_dir) / "metrics.csv"
        if not file.exists():
            return
        with open(file, newline="") as old:
            rows = [r for r in csv.DictReader(old) if int(float(r["step"])) < step]
        with open(file, "w", newline="") as new:
            writer = csv.DictWriter(new, fieldnames=self.experiment.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


class ContinueLog(pl.Callback):
    """Cuts the log back to the checkpoint that a run resumes from."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Drop rows of steps that will be run again."""
        if isinstance(trainer.logger, RunLog) and trainer.is_global_zero:
            trainer.logger.drop_after(trainer.global_step)


class Card(pl.Callback):
    """Writes the card into every checkpoint."""

    def __init__(self, experiment: str = "") -> None:
        self.experiment = experiment

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the card as one JSON string: plain data that any reader may look at."""
        data = trainer.datamodule.card()  # type: ignore[attr-defined]
        score = {k: float(v) for k, v in trainer.callback_metrics.items() if k not in BAR}
        stride = getattr(trainer.datamodule.config, "stride", 1)  # type: ignore[attr-defined]
        extra = {"experiment": self.experiment, "data": data, "stride": stride, "training": score}
        checkpoint["workbench"] = json.dumps(card_of(module, extra))


class TrainingCLI(LightningCLI):
    """The Lightning CLI whose file also holds the sections of other verbs."""

    sections = SECTIONS

    def __init__(self, verb: str, **kwargs: Any) -> None:
        self.verb = verb
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Accept (and show in --help and --print_config) the sections that other verbs read."""
        for name, cls in self.sections.items():
            if name != "data":
                parser.add_class_arguments(cls, name)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with the run's log first among its loggers, atomic checkpoints and blocks as units of fsdp."""
        trainer = self._get(self.config_init, "trainer", default={})
        loggers, plugins = (_listed(trainer.get(key)) for key in ("logger", "plugins"))
        run_dir = str(trainer["default_root_dir"])
        log = RunLog(save_dir=run_dir, name="", version="", flush_logs_every_n_steps=1)
        if trainer.get("strategy") == "fsdp":
            kwargs["strategy"] = ShardedBlocks()
        callbacks = _listed(trainer.get("callbacks"))
        wanted = trainer.get("enable_progress_bar") is not False and not sys.stdout.isatty()
        if wanted and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            kwargs["callbacks"] = [*callbacks, EpochLines()]
        plugins.append(AtomicCheckpoints())
        if job.under_slurm() and not job.under_torchrun():
            plugins.append(SLURMEnvironment(auto_requeue=False))  # its own saves inside of a step
        return super().instantiate_trainer(logger=[log, *loggers], plugins=plugins, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one verb that runs: a parser for each of Lightning's takes a second."""
        skipped = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "weights_only"}
        return {self.verb: skipped}


class LifetimeTrainingCLI(TrainingCLI):
    """The same for experiments on the life of cells."""

    sections = LIFETIME_SECTIONS


def _listed(value: Any) -> list[Any]:
    """What the experiment gives for a logger or plugin, as a list; true and null are Lightning's words for default."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def defaults(experiment: Experiment | LifetimeExperiment) -> dict[str, Any]:
    """Trainer defaults of a run: the ranks of its job, best and last checkpoint, exact resume, card, health."""
    run, pulse = experiment.run_dir, Pulse()
    checkpoints: dict[str, Any] = {"dirpath": str(run / "checkpoints"), "enable_version_counter": False}
    return {
        **job.layout(),
        "default_root_dir": str(run),
        "log_every_n_steps": 10,
        "num_sanity_val_steps": 0,
        "callbacks": [
            LostRanks(str(run)),
            pulse,
            ModelCheckpoint(filename="best", monitor="validation_loss", **checkpoints),
            ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **checkpoints),
            ModelCheckpoint(filename="last", train_time_interval=timedelta(minutes=10), **checkpoints),
            LearningRateMonitor("step"),
            RankState(),
            WholeSteps(),
            ContinueEpoch(),
            Card(experiment.name),
            ContinueLog(),
            Summary(str(run)),
            Throughput(str(run), pulse),
            Stragglers(pulse),
            Preemption(str(run), pulse),
        ],
    }


def run(verb: str, experiment: Experiment | LifetimeExperiment, arguments: list[str]) -> int:
    """Run a Lightning verb.

    Args:
        verb: ``fit``, ``validate`` or ``test``.
        experiment: the resolved experiment.
        arguments: the command line after the verb, experiment names replaced by paths.

    Returns:
        0, or 75 if a signal has ended a training that may go on.

    Raises:
        InputError: another rank has ended.
    """
    quieten()
    know_storage_by_name()
    keep_freed_memory()
    try:
        with naming_lost_ranks():
            _train(verb, experiment, arguments)
    except Preempted:
        return REQUEUE
    return 0


def _train(verb: str, experiment: Experiment | LifetimeExperiment, arguments: list[str]) -> None:
    lifetimes = isinstance(experiment, LifetimeExperiment)
    (LifetimeTrainingCLI if lifetimes else TrainingCLI)(
        verb,
        model_class=pl.LightningModule,
        datamodule_class=CellDataModule if lifetimes else RecordDataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults=defaults(experiment),
        parser_class=_Parser,
        args=[verb, *arguments],
    )


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Say what it means that another rank does not answer any more.

    Raises:
        InputError: another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "by peer" in str(error)):
            raise
        raise InputError(
            "another rank of this training has ended, so this one cannot go on; what the other one printed says why. "
            f"Continue from the last checkpoint with: workbench fit --resume ({str(error).splitlines()[0]:.200})"
        ) from error


def know_storage_by_name() -> None:
    """Keep Lightning from importing gcsfs, s3fs and adlfs, a second and more, to see that a folder is not of theirs."""
    cloud_io._is_object_storage = lambda fs: type(fs).__module__.partition(".")[0] in ("adlfs", "gcsfs", "s3fs")


def quieten() -> None:
    """Leave out messages of Lightning and of torch's profiler that say nothing about the run."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 against torch 2.13
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # ours come from the command line
    warnings.filterwarnings("ignore", message=".*overrides the configure_model callback")  # nothing is sharded in it
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # a user of SLURM knows
    noise = ("Tip:", "Loading `train_dataloader`", "TPU available")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(word in record.getMessage() for word in noise)
    )


class _Parser(LightningArgumentParser):
    """Says first what is wrong, and leaves the pages of usage to --help."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise the message alone."""
        raise InputError(" ".join(str(ex or message).split())) from ex
