"""What happened, at the valid times of a forecast; and whether the forecast may be scored with it at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from workbench.data.spec import LEVEL_NAMES, TIME, TRAJECTORY, RecordSpec
from workbench.data.starts import Problem, time_index
from workbench.data.statistics import first_missing
from workbench.errors import InputError
from workbench.metrics.base import COMPONENT

LEADING = ("member", "init_time", "lead_time")


@dataclass(frozen=True)
class Entry:
    """One row of the scores: a variable, a vector of variables, or one level of either (``u[2]``).

    Attributes:
        label: name in tables.
        names: the variable, or the components of the vector.
        level: position along the level, where there is one.
    """

    label: str
    names: tuple[str, ...]
    level: dict[str, int]

    @property
    def name(self) -> str:
        """The variable, or one that has the vector's units and grid."""
        return self.names[0]

    @property
    def is_vector(self) -> bool:
        """Whether the row is a vector."""
        return len(self.names) > 1

    def of(self, dataset: xr.Dataset) -> xr.Dataset:
        """The entry alone, under its label; a vector with its components along `COMPONENT`."""
        chosen = dataset[list(self.names)].isel(self.level, drop=True)
        if not self.is_vector:
            return chosen.rename({self.name: self.label})
        components = [chosen[name] for name in self.names]
        stacked = xr.concat(components, COMPONENT, coords="minimal", compat="override", combine_attrs="override")
        return stacked.to_dataset(name=self.label)


def entries(problem: Problem, vectors: Mapping[str, Sequence[str]] | None = None) -> list[Entry]:
    """The rows of the scores, in channel order, vectors after variables.

    Args:
        problem: what was forecast.
        vectors: name of a vector -> its components.

    Raises:
        InputError: a component is not forecast, or lies on another grid or in other units than the first.
    """
    found = []
    for label, names in {**{name: (name,) for name in problem.names}, **_checked(problem, vectors or {})}.items():
        level = [d for d in problem.space(names[0]) if d in LEVEL_NAMES and problem.record.sizes[d] > 1]
        if not level:
            found.append(Entry(label, names, {}))
        else:
            found += [Entry(f"{label}[{i}]", names, {level[0]: i}) for i in range(problem.record.sizes[level[0]])]
    return found


def _checked(problem: Problem, vectors: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    for label, names in vectors.items():
        missing = [name for name in names if name not in problem.names]
        if missing or label in problem.names or len(set(names)) < 2:
            raise InputError(
                f"evaluate.vectors makes '{label}' of {', '.join(names)}: expected a new name for two or more "
                f"different variables among those that are forecast, {', '.join(problem.names)}"
            )
        kinds = {(problem.space(name), problem.record[name].attrs.get("units")) for name in names}
        if len(kinds) > 1:
            raise InputError(
                f"the components {', '.join(names)} of '{label}' (evaluate.vectors) differ in units or grid: "
                f"{' and '.join(f'{units} on {chr(44).join(space)}' for space, units in sorted(kinds, key=str))}"
            )
    return {label: tuple(names) for label, names in vectors.items()}


@dataclass(frozen=True)
class Aligned:
    """A forecast whose every state has a true one.

    Attributes:
        problem: what was forecast; its `steps` are those of the forecast.
        forecast: on the record's own grid coordinates.
        trajectories: ``int64[n]`` positions along trajectory.
        starts: ``int64[m]`` record time indices of the starts.
        valid: ``int64[m, steps]`` record time indices of the forecast states.
    """

    problem: Problem
    forecast: xr.Dataset
    trajectories: np.ndarray
    starts: np.ndarray
    valid: np.ndarray

    def states(self, trajectories: slice, starts: slice, leads: slice) -> tuple[xr.Dataset, xr.DataArray]:
        """The record's states behind a block of the forecast, lazy and each once, and where they belong.

        Returns:
            states ``([trajectory,] time, *space)``, and positions along that time ``(init_time, lead_time)``.
        """
        valid = self.valid[starts, leads]
        times, where = np.unique(valid, return_inverse=True)
        chosen = self.problem.record[list(self.problem.names)].isel({TIME: times})
        if TRAJECTORY in chosen.dims:
            chosen = chosen.isel({TRAJECTORY: self.trajectories[trajectories]})
        return chosen, xr.DataArray(where.reshape(valid.shape), dims=("init_time", "lead_time"))


def align(problem: Problem, forecast: xr.Dataset) -> Aligned:
    """Match a forecast with the record that it was made from.

    Raises:
        InputError: a variable, unit, grid or trajectory differs; a lead is not a whole number of states; a valid time
            lies beyond the record.
    """
    for name in problem.names:
        if name not in forecast.data_vars:
            raise InputError(
                f"the forecast has no variable '{name}'; it has {', '.join(map(str, forecast.data_vars))}: it was made "
                "by another experiment; roll out again, or name its variables in data.state"
            )
        missing = [d for d in LEADING if d not in forecast[name].dims]
        if missing:
            raise InputError(
                f"'{name}' of the forecast has dimensions {forecast[name].dims} and lacks {', '.join(missing)}: "
                "expected (member, [trajectory,] init_time, lead_time, *space)"
            )
    forecast = forecast[list(problem.names)]
    one = forecast.isel(dict.fromkeys(LEADING, 0), drop=True)
    differences = RecordSpec.of(problem.record, problem.names).differences(RecordSpec.of(one, problem.names), False)
    if differences:
        raise InputError(
            f"the forecast does not fit the record {problem.record.encoding.get('source', '')}: "
            f"{'; '.join(differences)}"
        )
    grid = {d: problem.record[d] for n in problem.names for d in problem.space(n) if d in problem.record.coords}
    problem = replace(problem, steps=forecast.sizes["lead_time"])
    starts = time_index(problem.record, forecast["init_time"], "initial time").values
    valid = time_index(problem.record, forecast["valid_time"].transpose("init_time", "lead_time")).values
    expected = starts[:, None] + problem.stride * problem.leads
    if not np.array_equal(valid, expected):
        raise InputError(
            f"the leads of the forecast are {np.unique(np.diff(valid[0], prepend=starts[0])).tolist()} record steps "
            f"apart, the experiment forecasts every {problem.stride} (data.stride): roll out again with this experiment"
        )
    return Aligned(problem, forecast.assign_coords(grid), _positions(problem, forecast), starts, valid)


def leads_in_record(forecast: xr.Dataset, record: xr.Dataset) -> int:
    """Number of leads that end before the record does, from every start: what of a long forecast has a truth.

    Raises:
        InputError: not even the first one does.
    """
    times, valid = record[TIME].values, forecast["valid_time"].transpose("init_time", "lead_time").values
    slack = np.median(np.diff(times)) / 10 if len(times) > 1 else times.dtype.type(0)
    count = int((valid <= times[-1] + slack).all(axis=0).sum())
    if count == 0:
        raise InputError(
            f"the last forecast starts at {str(forecast['init_time'].values[-1])[:19]}, where the record ends: no "
            "state of it can be scored; start earlier (rollout.starts: 1 starts at the beginning of the split)"
        )
    return count


def _positions(problem: Problem, forecast: xr.Dataset) -> np.ndarray:
    """Positions of the forecast's trajectories in the record."""
    if (TRAJECTORY in forecast.dims) != (TRAJECTORY in problem.record[problem.names[0]].dims):
        with_it, without = ("forecast", "record") if TRAJECTORY in forecast.dims else ("record", "forecast")
        raise InputError(
            f"the {with_it} has a dimension '{TRAJECTORY}' and the {without} has none: they do not belong together"
        )
    if TRAJECTORY not in forecast.dims:
        return np.zeros(1, dtype=np.int64)
    labels = forecast[TRAJECTORY].values
    found = np.asarray(problem.record[TRAJECTORY].to_index().get_indexer(labels), dtype=np.int64)
    if (found < 0).any():
        raise InputError(
            f"trajectory {labels[found < 0][0]} of the forecast is not in the record, whose trajectories run from "
            f"{problem.record[TRAJECTORY].values[0]} to {problem.record[TRAJECTORY].values[-1]}"
        )
    return found


def refuse_training_states(aligned: Aligned) -> None:
    """Raise if a state that is scored belongs to the training part: the scores would know their answers.

    Raises:
        InputError: such a state exists; the first one is named.
    """
    train = aligned.problem.parts["train"]
    shared = np.intersect1d(train.trajectories, aligned.trajectories).size
    if not shared:
        return
    inside = np.zeros(aligned.valid.shape, dtype=bool)
    for lo, hi in train.runs:
        inside |= (aligned.valid >= lo) & (aligned.valid < hi)
    if inside.any():
        time = aligned.problem.record[TIME].values
        first = tuple(np.argwhere(inside)[0])
        state, start = (str(t)[:19] for t in (time[aligned.valid[first]], time[aligned.starts[first[0]]]))
        raise InputError(
            f"{shared * int(inside.sum())} of {len(aligned.trajectories) * inside.size} forecast states lie in the "
            f"training split ({train.label(aligned.problem.record)}), the first at {state} in the forecast from "
            f"{start}: climatology and model have seen them; roll out from the test split, or set the split back to "
            "what the model was trained with"
        )


def refuse_missing(truth: xr.Dataset) -> None:
    """Raise if the truth has a missing value.

    Raises:
        InputError: it has; the first one is named.
    """
    for name, array in truth.data_vars.items():
        if not np.isfinite(array.values).all():
            raise InputError(
                f"variable '{name}' has missing (NaN) values among the states to score, {first_missing(array)}; set "
                "data.missing: mask to score the valid points only"
            )
