"""What an experiment says about its data: the `data:` section of the YAML file, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from workbench.errors import InputError

Bound = float | str
FIT = "fit"
"""Instead of the path of a climatology: fit one."""


@dataclass(frozen=True)
class Split:
    """Which part of the record trains, validates and tests.

    A part is ``[first, last]``. By time, the bounds are dates (``'2008-06-30'``, both ends included) or
    fractions of the record (``0.8``). By trajectory, they are fractions or positions ``[0, 24]`` (the end
    excluded). By any coordinate along ``trajectory``, a part lists the labels that belong to it.

    Args:
        by: ``time``, ``trajectory``, or the name of a coordinate along ``trajectory``.
        train: the part that trains, and the only one that statistics and climatology see.
        validation: the part that chooses the best epoch.
        test: the part that is scored.
        gap: record steps left out at the start of validation and test, so that neighbours do not leak.
    """

    by: str = "time"
    train: tuple[Bound, ...] = (0.0, 0.8)
    validation: tuple[Bound, ...] = (0.8, 0.9)
    test: tuple[Bound, ...] = (0.9, 1.0)
    gap: int = 0

    def part(self, name: str) -> tuple[Bound, ...]:
        """The bounds of part ``train``, ``validation`` or ``test``.

        Raises:
            InputError: there is no such part.
        """
        if name not in ("train", "validation", "test"):
            raise InputError(f"split part '{name}' is unknown: expected train, validation or test")
        return tuple(getattr(self, name))


@dataclass(frozen=True)
class DataConfig:
    """Which record, which variables in which part they play, which windows of it make a sample.

    Args:
        record: a recipe (``kolmogorov_flow/tiny``), a Zarr store, a NetCDF file, a glob of NetCDF files, an ``s3://``,
            ``gs://`` or ``https://`` address of one of them, or a folder of published MERRA-2 files.
        state: variables that the model takes in and predicts, in channel order.
        forcing: variables known in the future (loads), input only; ``cos_day_of_year`` and others follow from the dates
            (`workbench.data.derived`).
        static: variables without time (land mask, material), input only; ``latitude_radians`` and others follow from
            the grid.
        diagnostic: variables that are predicted and not fed back (stress).
        history: number of states that the model sees.
        horizon: number of future states in a training sample; over 1, training is unrolled; 0 where nothing lies ahead
            and the task gives fields at the instants that it sees (`workbench.tasks.DiagnosisTask`).
        validation_horizon: number of future states in a validation sample; by default as `horizon`.
        stride: record steps between two states.
        every: record steps between the starts of two samples.
        input_deltas: record steps between two input states, of which each sample draws one; by default `stride`.
        leads: record steps from the latest input to the target (and on to the next), of which each sample draws one; 0
            asks for the latest input itself. By default `stride`. With either of the two, batches say what was drawn.
        climatology: ``fit`` (on the training split, once, kept beside the record), or a store or folder that holds one;
            batches then hold the climatology of the state at the times of the targets.
        leaky_climatology: take a climatology although it was fitted on states of the validation or test split.
        units: units of variables whose file does not say them, ``{slp: Pa}``.
        crop: index range per dimension, ``{lat: [0, 16]}``, applied when the record is opened.
        split: which part trains, validates, tests.
        gaps: what a gap in the time axis does: ``error``, or ``split`` (no window crosses it).
        coarsen: points along each axis, of which a model that downscales sees the area-weighted mean alone
            (`workbench.tasks.DownscalingTask`).
        missing: what a missing value does: ``error``, or ``mask`` (a mask channel per input channel, and a
            loss over valid points only).
        normalise: ``standard`` (mean and standard deviation of the training split, per channel), ``none``, or
            ``published`` (the files ``musigma_*.nc`` in the folder `climatology`).
        damaged: what a damaged chunk met in training does: ``stop``, or ``skip`` (samples that touch it are replaced by
            others, and counted).
        batch_size: samples per batch and device.
        shuffle: ``block`` (samples drawn from a few resident blocks of consecutive steps: fast on any
            chunking), ``full`` (any order) or ``none``.
        threads: reading threads; 0 reads in the thread that trains, and nothing ahead.
        cache: megabytes of decoded chunks that may stay in memory; 0 keeps none.
        remote_cache: folder for chunks of a remote Zarr store that were read once; several processes may share it.
        remote_cache_gb: gigabytes that this folder may hold.
    """

    record: str
    state: tuple[str, ...] = ()
    forcing: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    diagnostic: tuple[str, ...] = ()
    history: int = 1
    horizon: int = 1
    validation_horizon: int | None = None
    stride: int = 1
    every: int = 1
    input_deltas: tuple[int, ...] = ()
    leads: tuple[int, ...] = ()
    climatology: str | None = None
    leaky_climatology: bool = False
    units: dict[str, str] = field(default_factory=dict)
    crop: dict[str, tuple[int, int]] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    gaps: Literal["error", "split"] = "error"
    coarsen: int = 1
    missing: Literal["error", "mask"] = "error"
    damaged: Literal["stop", "skip"] = "stop"
    normalise: Literal["standard", "none", "published"] = "standard"
    batch_size: int = 8
    shuffle: Literal["block", "full", "none"] = "block"
    threads: int = 2
    cache: int = 1024
    remote_cache: str | None = None
    remote_cache_gb: float = 20.0

    def __post_init__(self) -> None:
        """Refuse counts below one and variables in two parts."""
        least = {"history": 1, "horizon": 0, "coarsen": 1, "stride": 1, "every": 1, "batch_size": 1, "threads": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InputError(f"data.{name} is {getattr(self, name)}: expected at least {minimum}")
        for name, least_step in (("input_deltas", 1), ("leads", 0)):
            if min(getattr(self, name), default=least_step) < least_step:
                raise InputError(f"data.{name} is {list(getattr(self, name))}: expected steps of at least {least_step}")
        if self.input_deltas and self.history < 2:
            raise InputError(f"data.input_deltas lie between inputs, data.history is {self.history}: set it to 2")
        if self.coarsen > 1 and self.horizon:
            raise InputError(
                f"data.coarsen is {self.coarsen} and data.horizon {self.horizon}: downscaling gives the fields at the "
                "instants that it sees; set data.horizon: 0"
            )
        if self.normalise == "published" and self.climatology in (None, FIT):
            raise InputError("data.normalise is published: data.climatology must name the folder of published files")
        if self.remote_cache_gb <= 0:
            raise InputError(f"data.remote_cache_gb is {self.remote_cache_gb}: expected more than 0")
        seen: dict[str, str] = {}
        for role, names in self.roles().items():
            for name in names:
                if name in seen:
                    raise InputError(f"variable '{name}' is listed under data.{seen[name]} and data.{role}: choose one")
                seen[name] = role
        if not self.state and not self.diagnostic:
            raise InputError("data.state is empty: name at least one variable to predict")

    @property
    def first_lead(self) -> int:
        """Strides from the latest state seen to the first that is predicted: 0 where nothing lies ahead."""
        return min(self.horizon, 1)

    def reach(self, steps: int) -> int:
        """Strides from the latest state seen to the last of `steps` predicted ones."""
        return steps - 1 + self.first_lead

    def roles(self) -> dict[str, tuple[str, ...]]:
        """Role -> variable names, for the roles that have any."""
        roles = {
            "state": self.state,
            "forcing": self.forcing,
            "static": self.static,
            "diagnostic": self.diagnostic,
        }
        return {role: tuple(names) for role, names in roles.items() if names}

    def variables(self) -> tuple[str, ...]:
        """Every variable that the experiment reads."""
        return tuple(name for names in self.roles().values() for name in names)
