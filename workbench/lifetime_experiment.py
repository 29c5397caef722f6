"""An experiment on the life of cells: the same file as any other, read for `LifetimeTask`; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.data.cells_config import CellsConfig
from workbench.errors import InputError
from workbench.experiment import LIFETIME_TASK, Experiment, build, is_lifetimes, made, name_of, resolve, run_folder
from workbench.keys import check_keys


@dataclass(frozen=True)
class LifetimeEvaluateConfig:
    """Which scores of predicted life are computed, and beside what.

    Args:
        baselines: what stands beside the model in every table (``workbench baselines --list``); by default all that
            the record allows.
        without: cells that a second row of their part leaves out, such as ``b2c1``: ``test1x`` is ``test1`` without.
        headline: the metric of the verdict.
        resamples: bootstrap resamples over cells.
        confidence: level of the intervals of scores.
    """

    baselines: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    headline: Literal["mape", "rmse", "mae"] = "mape"
    resamples: int = 1000
    confidence: float = 0.95


@dataclass(frozen=True)
class LifetimeReportConfig:
    """What the report shows.

    Args:
        title: heading; by default the experiment's name.
    """

    title: str = ""


@dataclass(frozen=True)
class SweepConfig:
    """Over which numbers of cycles ``workbench sweep`` goes, and what it chooses anew for each.

    Args:
        cycles: values of ``data.cycles``.
        depth: argument of the network that is chosen.
        depths: its values, from simple to complex.
        members: networks a fold while choosing.
    """

    cycles: tuple[int, ...] = (10, 20, 30, 40, 60, 80, 100)
    depth: str = "blocks"
    depths: tuple[int, ...] = (0, 1, 2, 3, 4)
    members: int = 1

    def __post_init__(self) -> None:
        """Refuse a sweep over nothing."""
        if not self.cycles or not self.depths:
            raise InputError("sweep.cycles and sweep.depths: name at least one value of each")


LIFETIME_SECTIONS: dict[str, type] = {
    "data": CellsConfig,
    "evaluate": LifetimeEvaluateConfig,
    "report": LifetimeReportConfig,
    "sweep": SweepConfig,
}


@dataclass(frozen=True)
class LifetimeExperiment:
    """One resolved experiment on the life of cells.

    Attributes:
        name: such as ``battery/fpnn``.
        files: the YAML files, in stacking order.
        config: the merged file as plain dicts.
        run_dir: where everything that belongs to a run is kept.
    """

    name: str
    files: tuple[Path, ...]
    config: dict[str, Any]
    data: CellsConfig
    evaluate: LifetimeEvaluateConfig
    report: LifetimeReportConfig
    sweep: SweepConfig
    run_dir: Path = field(default=Path("runs"))

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint of the run: no epoch is picked by a loss, which would bend the intervals."""
        return self.run_dir / "checkpoints" / "last.ckpt"

    @property
    def predictions(self) -> Path:
        """The predicted lives."""
        return self.run_dir / "predictions.nc"

    @property
    def scores(self) -> Path:
        """The scores, as NetCDF."""
        return self.run_dir / "scores.nc"

    @property
    def sweep_scores(self) -> Path:
        """The scores over the number of cycles; what they are made from lies beside."""
        return self.run_dir / "sweep" / "sweep.nc"


def load_lifetimes(
    names: Sequence[str], overrides: Sequence[str] = (), run_dir: str | None = None
) -> LifetimeExperiment:
    """Resolve an experiment on the life of cells; arguments as of `workbench.experiment.load`.

    Raises:
        InputError: a file, key or value is wrong, or the experiment is about something else.
    """
    return _made(*resolve(names, overrides), run_dir)


def _made(files: tuple[Path, ...], config: dict[str, Any], run_dir: str | None) -> LifetimeExperiment:
    if not is_lifetimes(config):
        raise InputError(f"{name_of(files[0])} is not about the life of cells: its model is no {LIFETIME_TASK}")
    check_keys(config, LIFETIME_SECTIONS)
    run = run_folder(files, run_dir)
    sections = {name: build(cls, config.get(name, {}), name) for name, cls in LIFETIME_SECTIONS.items()}
    return LifetimeExperiment(name_of(files[0]), files, config, run_dir=run, **sections)


def either(
    names: Sequence[str], overrides: Sequence[str] = (), run_dir: str | None = None
) -> Experiment | LifetimeExperiment:
    """Resolve an experiment of either kind, for the verbs that both have.

    Raises:
        InputError: a file, key or value is wrong.
    """
    files, config = resolve(names, overrides)
    return (_made if is_lifetimes(config) else made)(files, config, run_dir)
