"""The experiment file: one YAML of at most 40 lines that every verb reads, free of torch.

`load` resolves names (``-c kolmogorov/fno``), stacks several files, applies command-line overrides and gives the parts
that need no torch (`data`, `rollout`, `evaluate`, `report`) as dataclasses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from workbench.data.config import DataConfig
from workbench.errors import InputError
from workbench.keys import check_keys
from workbench.resources import find_experiment, folder


@dataclass(frozen=True)
class RolloutConfig:
    """How far, from where and how often the model is rolled out.

    Args:
        steps: model steps per forecast.
        starts: number of initial times, evenly spaced over the split (per trajectory); 0 takes every one.
        split: part of the record that the starts come from.
        within: keep every lead inside the split, so that it can be scored; ``false`` lets forecasts run past it.
        members: ensemble members per start and network; over 1 needs a `perturbation` or a `mask_ratio`.
        perturbation: standard deviation of the noise added to each member's initial state, in units of each
            channel's training standard deviation; member 0 is never perturbed.
        mask_ratio: fraction of the tokens of a `PrithviWxC` that each member masks, by draws of its own; member 0 is
            never masked.
        masked_steps: whether members mask in the ``first`` step of a forecast, from which they go on with all tokens,
            or in ``all`` steps.
        seed: seed of the perturbations and masks.
        batch_size: forecasts advanced together; by default that of the data.
        block: lead times written at once; by default what fills a chunk of about 4 MB.
        format: ``zarr``, or ``netcdf`` for one NetCDF-4 file.
    """

    steps: int = 20
    starts: int = 30
    split: Literal["train", "validation", "test"] = "test"
    within: bool = True
    members: int = 1
    perturbation: float = 0.0
    mask_ratio: float = 0.0
    masked_steps: Literal["first", "all"] = "first"
    seed: int = 0
    batch_size: int | None = None
    block: int | None = None
    format: Literal["zarr", "netcdf"] = "zarr"

    def __post_init__(self) -> None:
        """Refuse counts that make no forecast."""
        for name in ("steps", "members"):
            if getattr(self, name) < 1:
                raise InputError(f"rollout.{name} is {getattr(self, name)}: expected at least 1")
        if not 0 <= self.mask_ratio < 1:
            raise InputError(f"rollout.mask_ratio is {self.mask_ratio}: expected a fraction of the tokens, below 1")
        if self.mask_ratio and (self.members < 2 or self.perturbation > 0):
            raise InputError(
                f"rollout.mask_ratio is {self.mask_ratio} with {self.members} members and perturbation "
                f"{self.perturbation}: masks make the members differ, of which the first has none; set rollout.members "
                "to 2 or more and leave rollout.perturbation at 0"
            )
        if self.members > 1 and self.perturbation <= 0 and not self.mask_ratio:
            raise InputError(
                f"rollout.members is {self.members} with rollout.perturbation {self.perturbation}: all members would "
                "be equal; set rollout.perturbation (0.01 is a usual start)"
            )


@dataclass(frozen=True)
class LongRunConfig:
    """Statistics of a rollout as a whole, beside those of the truth: what its field asks besides errors at each lead.

    Args:
        domain: whose statistics: ``channel``, turbulent flow between two walls, ``structures``, vibrating bodies,
            ``diagnosis``, fluxes and downscaled fields, or ``storms``, tracks of lows in the weather; by default none.
        references: of ``channel``: other records of the same flow, such as coarse solvers, that stand beside the model
            (name -> recipe, path or address); a text file holds published profiles.
        discard: of ``channel``: part of the forecast's steps that is left out of its statistics, while it settles.
        batches: of ``channel``: batches of consecutive states, in all runs together, that the uncertainty is taken
            from.
    """

    domain: Literal["", "channel", "structures", "diagnosis", "storms"] = ""
    references: dict[str, str] = field(default_factory=dict)
    discard: float = 0.2
    batches: int = 20

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to average."""
        if not 0 <= self.discard < 1:
            raise InputError(f"evaluate.long_run.discard is {self.discard}: expected a part of the steps, 0 or below 1")
        if self.batches < 2:
            raise InputError(f"evaluate.long_run.batches is {self.batches}: an uncertainty needs at least 2")
        beside = {
            "structures": "what stands beside a structure is named in evaluate.baselines, for example quasi_static, "
            "modal and coarse_mesh",
            "diagnosis": "what stands beside a diagnosis is named in evaluate.baselines, for example bilinear and "
            "regression",
            "storms": "beside storms stands their own motion, carried on",
        }
        if self.references and self.domain in beside:
            raise InputError(f"evaluate.long_run.references are of the domain channel: {beside[self.domain]}")


@dataclass(frozen=True)
class EvaluateConfig:
    """Which scores are computed, against which baselines, and how sure they are.

    Args:
        metrics: names of metrics (``workbench evaluate --list`` prints them with definitions).
        headline: the metric of the report's first sentence.
        printed: metrics that ``workbench evaluate`` prints besides the headline's.
        baselines: forecasts that stand beside the model in every table.
        beside: other runs, whose forecasts stand beside them: name -> run directory, or forecast.
        weights: area weights: ``auto`` (cosine of latitude where the record has one, else quadrature on stretched axes,
            else uniform), ``cos_lat``, ``area``, ``quadrature`` or ``uniform``.
        vectors: vectors that are scored as one quantity beside their components, such as ``{wind: [u10, v10]}``; their
            ``rmse`` is the root of the mean squared length of the error.
        spectra: dimensions along which spectra are taken; by default the periodic ones that the record names in its
            attribute ``periodic``, else none.
        resamples: bootstrap resamples over starts.
        confidence: level of every interval.
        long_run: statistics of the rollout as a whole.
    """

    metrics: tuple[str, ...] = ("rmse", "mae", "bias", "correlation", "acc")
    headline: str = "rmse"
    printed: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ("persistence", "climatology")
    beside: dict[str, str] = field(default_factory=dict)
    weights: Literal["auto", "cos_lat", "area", "quadrature", "uniform"] = "auto"
    vectors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    spectra: tuple[str, ...] = ()
    resamples: int = 1000
    confidence: float = 0.95
    long_run: LongRunConfig = field(default_factory=LongRunConfig)


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows.

    Args:
        title: heading; by default the experiment's name.
        variable: variable of pictures and animation; by default the first state variable.
        start: forecast that is animated, counted over trajectories and initial times.
        frames: frames of the animation at most.
    """

    title: str = ""
    variable: str = ""
    start: int = 0
    frames: int = 40


@dataclass(frozen=True)
class Experiment:
    """One resolved experiment.

    Attributes:
        name: such as ``kolmogorov/fno``.
        files: the YAML files, in stacking order.
        config: the merged file as plain dicts.
        run_dir: where everything that belongs to a run is kept.
    """

    name: str
    files: tuple[Path, ...]
    config: dict[str, Any]
    data: DataConfig
    rollout: RolloutConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    run_dir: Path = field(default=Path("runs"))

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint of the run."""
        return self.run_dir / "checkpoints" / "best.ckpt"

    @property
    def forecast(self) -> Path:
        """The rolled-out forecast."""
        return self.run_dir / ("rollout.nc" if self.rollout.format == "netcdf" else "rollout.zarr")

    @property
    def scores(self) -> Path:
        """The scores, as NetCDF."""
        return self.run_dir / "scores.nc"

    @property
    def long_run(self) -> Path:
        """The statistics of the rollout as a whole, as NetCDF, named after their domain."""
        return self.run_dir / f"{self.evaluate.long_run.domain}.nc"


LIFETIME_TASK = "LifetimeTask"
LIFETIME_VERBS = ("check", "fit", "validate", "test", "predict", "evaluate", "report", "pipeline", "export", "sweep")

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "rollout": RolloutConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
}


def argument_parser(prog: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """The options that every verb with an experiment shares."""
    parser = argparse.ArgumentParser(
        prog=f"workbench {prog}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="EXPERIMENT", help="experiment name or YAML file; stacks"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="folder of the run (default runs/EXPERIMENT)")
    parser.add_argument("--overwrite", action="store_true", help="replace what this verb wrote before")
    return parser


def name_of(file: Path) -> str:
    """Name of an experiment: its path under the packaged experiments, else the file's stem."""
    root = folder("experiments").resolve()
    resolved = file.resolve()
    if resolved.is_relative_to(root):
        return resolved.relative_to(root).with_suffix("").as_posix()
    return file.stem


def load(names: Sequence[str], overrides: Sequence[str] = (), run_dir: str | None = None) -> Experiment:
    """Resolve an experiment.

    Args:
        names: experiment names or paths; later ones override earlier ones key by key.
        overrides: ``--section.key=value`` words of the command line.
        run_dir: folder of the run; by default ``runs/<name>``.

    Raises:
        InputError: a file, key or value is wrong; a misspelt key is named with its nearest neighbour.
    """
    return made(*resolve(names, overrides), run_dir)


def made(files: tuple[Path, ...], config: dict[str, Any], run_dir: str | None = None) -> Experiment:
    """The experiment of what `resolve` gives.

    Raises:
        InputError: a key or value is wrong, or the experiment is about the life of cells.
    """
    if is_lifetimes(config):
        raise InputError(
            f"{name_of(files[0])} is about the life of cells ({LIFETIME_TASK}), and nothing in it is stepped in time: "
            f"its verbs are {', '.join(LIFETIME_VERBS)}"
        )
    check_keys(config, SECTIONS)
    run = run_folder(files, run_dir)
    sections = {name: build(cls, config.get(name, {}), name) for name, cls in SECTIONS.items()}
    return Experiment(name_of(files[0]), files, config, run_dir=run, **sections)


def run_folder(files: Sequence[Path], run_dir: str | None) -> Path:
    """Folder of a run: `run_dir`, else ``runs/<name>``."""
    return Path(run_dir) if run_dir else Path("runs") / name_of(files[0])


def resolve(names: Sequence[str], overrides: Sequence[str] = ()) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """The files behind experiment names, and what they and the command line say together.

    Raises:
        InputError: no name is given, a file is missing or no mapping, or an override cannot be read.
    """
    if not names:
        raise InputError("no experiment given: pass -c NAME or -c FILE.yaml (workbench --help lists the packaged ones)")
    files = tuple(find_experiment(name) for name in names)
    config: dict[str, Any] = {}
    for file in files:
        config = merge(config, read_yaml(file))
    for key, value in parse_overrides(overrides):
        config = merge(config, nest(key, value))
    return files, config


def is_lifetimes(config: dict[str, Any]) -> bool:
    """Whether an experiment is about the life of cells (`workbench.lifetime_experiment`), by the class of its task."""
    model = config.get("model")
    return isinstance(model, dict) and str(model.get("class_path", "")).rpartition(".")[2] == LIFETIME_TASK


def blank() -> Experiment:
    """An experiment without files: enough to ask the Lightning CLI for its help."""
    return Experiment("", (), {}, DataConfig("", ("",)), RolloutConfig(), EvaluateConfig(), ReportConfig())


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping that `file` holds.

    Raises:
        InputError: the file is not YAML or not a mapping.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {type(content).__name__}, expected a mapping with data:, model:, trainer:")
    return content


def merge(base: Any, top: Any) -> Any:
    """`top` laid over `base`: mappings key by key (a new class path starts afresh), everything else replaced."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    if "class_path" in top and base.get("class_path") not in (None, top["class_path"]):
        return top
    return {**base, **{k: merge(base[k], v) if k in base else v for k, v in top.items()}}


def nest(key: str, value: Any) -> dict[str, Any]:
    """``nest('a.b', 1) == {'a': {'b': 1}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def parse_overrides(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key and YAML value from ``--key=value`` and ``--key value`` words."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"'{word}' is not expected here: overrides look like --data.batch_size=16")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--{key} has no value: write --{key}=VALUE")
            text = rest.pop(0)
        yield key, yaml.safe_load(text)


def build(cls: type, values: Any, where: str) -> Any:
    """Make a (nested) dataclass from plain YAML values, checking each value's type.

    Raises:
        InputError: a value is of the wrong type or a required one is missing.
    """
    from jsonargparse import Namespace

    parser = _parser(cls, where)
    try:
        parsed = parser.parse_object({where: values or {}})
        return parser.instantiate_classes(parsed if isinstance(parsed, Namespace) else Namespace())[where]
    except InputError:
        raise
    except Exception as error:  # jsonargparse raises several kinds; all of them mean a wrong value
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        raise cause or InputError(f"the section '{where}' has a wrong value: {_short(error)}") from error


@lru_cache
def _parser(cls: type, where: str) -> Any:
    """What reads a section; to make it takes ten times as long as to use it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, where)
    return parser


def _short(error: Exception) -> str:
    return " ".join(str(error).split())
