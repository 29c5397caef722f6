"""Published simulations of moving structures in the layout of DeepFEA as the source of a dataset.

One folder a simulation, named 1 … N, with NumPy archives: ``dis_in.npz`` has ``arr_0[step, channel, H, W(, D)]`` with
the coordinates of the nodes before the step, the force on them and a flag (1 where they are held); ``dis_out.npz`` has
``arr_0[step, component, H, W(, D)]``, the coordinates after it; ``effective_out.npz`` has ``eff_stress`` and
``eff_strain`` ``[step, 1, H-1, W-1(, D-1)]`` after it. Values are physical; their units are not in the files.

Source: Triantafyllou, Kalozoumis, Dimas & Iakovidis 2025, Expert Syst. Appl. 269, 126343, doi
10.1016/j.eswa.2024.126343; data set doi 10.5281/zenodo.10870936.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from workbench import __version__
from workbench.errors import InputError
from workbench.resources import data_root
from workbench.simulate.structures_record import GRID, VECTOR, structures_record, variables

WHERE = "the simulations are published as https://doi.org/10.5281/zenodo.10870936"
FEEDBACK_TOLERANCE = 1e-4
"""Of the size of the body: how far the coordinates before a step may be from those after the one before."""


@dataclass(frozen=True)
class DeepFEASimulations:
    """The simulations of one folder; each is a trajectory.

    The record has one instant more than there are steps: it begins with the coordinates before the first step, from
    which displacements are measured, with no load, stress and strain. The force of a step acts at its end.

    Args:
        path: the folder; relative paths start at the data root.
        time_step: between steps, in s.
        metre, newton, pascal: the files' units of length, force and stress in SI units.
    """

    path: str
    time_step: float = 1.0
    metre: float = 1.0
    newton: float = 1.0
    pascal: float = 1.0

    @property
    def trajectories(self) -> int:
        """Simulations in the folder."""
        return len(self._folders)

    @property
    def _root(self) -> Path:
        return data_root() / self.path

    @cached_property
    def _folders(self) -> list[Path]:
        """One a simulation, in the order of their numbers."""
        found = [f for f in self._root.iterdir() if f.is_dir() and f.name.isdigit()] if self._root.is_dir() else []
        if not found:
            raise InputError(f"{self._root}: expected folders 1, 2, … of simulations, found none; {WHERE}")
        return sorted(found, key=lambda folder: int(folder.name))

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """(steps, nodes along each axis) of the first simulation, which all others share."""
        steps, _, *nodes = self._nodes(self._folders[0])[1].shape
        return (steps, *nodes)

    def _nodes(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """What goes into the steps ``[step, channel, *nodes]`` and the coordinates after them."""
        before, after = (_array(folder / f"{name}.npz", "arr_0") for name in ("dis_in", "dis_out"))
        dim = after.ndim - 2
        if dim not in (2, 3) or after.shape[1] != dim or min(after.shape) < 1 or min(after.shape[2:]) < 2:
            raise InputError(
                f"{folder / 'dis_out.npz'}: expected coordinates [step, 2, H, W] or [step, 3, H, W, D]; found shape "
                f"{after.shape}"
            )
        expected = (after.shape[0], 2 * dim + 1, *after.shape[2:])
        if before.shape != expected:
            raise InputError(
                f"{folder / 'dis_in.npz'}: expected {dim} coordinates, {dim} forces and a flag a node, shape "
                f"{expected} as dis_out.npz has; found {before.shape}"
            )
        return before, after

    def template(self) -> xr.Dataset:
        """The whole record, lazy: dims, coordinates, dtypes and attributes of what `simulate` returns.

        Raises:
            InputError: a file is absent, damaged or not what it should be.
        """
        first = self._read(0)
        shapes = {name: (self.trajectories, *values.shape) for name, values in first.items()}
        empty = {n: da.zeros(shape, dtype=np.float32, chunks=-1) for n, shape in shapes.items()}
        return self._dataset(empty, range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """Read the named simulations into memory, as float32 in SI units.

        Args:
            trajectories: places in the order of the folders, from 0.
            progress: called with (done, total) after every simulation.

        Raises:
            InputError: there is no such simulation, or a file is absent, damaged or not what it should be.
        """
        outside = [k for k in trajectories if not 0 <= k < self.trajectories]
        if outside:
            raise InputError(f"{self._root} has simulations 0 to {self.trajectories - 1}; asked for {outside}")
        parts = []
        for place, number in enumerate(trajectories):
            parts.append(self._read(number))
            if progress:
                progress(place + 1, len(trajectories))
        return self._dataset({n: np.stack([part[n] for part in parts]) for n in parts[0]}, trajectories)

    def _read(self, number: int) -> dict[str, np.ndarray]:
        """Variables of one simulation, without the trajectory axis."""
        folder = self._folders[number]
        before, after = self._nodes(folder)
        if (len(after), *after.shape[2:]) != self._shape:
            raise InputError(
                f"{folder}: {len(after)} steps on nodes {after.shape[2:]}, expected {self._shape[0]} on "
                f"{self._shape[1:]} as in {self._folders[0].name}; keep simulations of another size in another folder"
            )
        dim = after.shape[1]
        self._compare_feedback(folder, before[:, :dim], after)
        start, flag = before[0, :dim].astype(np.float64), before[0, -1]
        if flag.min() < 0 or flag.max() > 1 or not flag.any():
            raise InputError(
                f"{folder / 'dis_in.npz'}: expected a flag from 0 (free) to 1 (held) with some node held; found "
                f"{flag.min():g} to {flag.max():g}"
            )
        held = (flag > 0.5).astype(np.float32)
        displacement = _from_rest(self.metre * (after - start))
        load = _from_rest(self.newton * before[:, dim : 2 * dim])
        found: dict[str, np.ndarray] = {}
        for c, axis in enumerate(VECTOR[:dim]):
            found[f"displacement_{axis}"] = displacement[:, c]
            found[f"load_{axis}"] = load[:, c]
            found[f"support_displacement_{axis}"] = displacement[:, c] * held
            found[f"support_{axis}"] = held
            found[f"position_{axis}"] = self.metre * start[c]
        elements = (len(after), 1, *(n - 1 for n in after.shape[2:]))
        for name, key, unit in (("von_mises", "eff_stress", self.pascal), ("effective_strain", "eff_strain", 1.0)):
            values = _array(folder / "effective_out.npz", key)
            if values.shape != elements:
                raise InputError(
                    f"{folder / 'effective_out.npz'}: expected '{key}' of shape {elements}; found {values.shape}"
                )
            found[name] = _from_rest(unit * values)[:, 0]
        return {name: values.astype(np.float32) for name, values in found.items()}

    def _compare_feedback(self, folder: Path, before: np.ndarray, after: np.ndarray) -> None:
        """The coordinates before a step are those after the one before."""
        size = float(np.ptp(before[0].reshape(len(before[0]), -1), 1).max())
        apart = np.abs(before[1:] - after[:-1]).reshape(len(after) - 1, -1).max(1, initial=0)
        if (apart > FEEDBACK_TOLERANCE * size).any():
            step = int(np.argmax(apart > FEEDBACK_TOLERANCE * size)) + 1
            raise InputError(
                f"{folder}: nodes before step {step} lie up to {apart[step - 1]:.3g} from where step {step - 1} left "
                "them, expected the same places; dis_in.npz and dis_out.npz belong to different simulations"
            )

    def _axes(self) -> tuple[list[np.ndarray], str]:
        """Coordinates along the grid: in m where the nodes lie on straight lines along y and x, else their numbers."""
        nodes = self._shape[1:]
        start = self._nodes(self._folders[0])[0][0, : len(nodes)].astype(np.float64) * self.metre
        axes = []
        for axis, name in enumerate(GRID[: len(nodes)]):
            values = np.moveaxis(start[VECTOR.index(name)], axis, 0).reshape(nodes[axis], -1)
            line = values.mean(1)
            if np.ptp(values, 1).max() > 1e-5 * np.ptp(line) or not (np.diff(line) > 0).all():
                return [np.arange(n, dtype=float) for n in nodes], "1"
            axes.append(line)
        return axes, "m"

    def _dataset(self, values: Mapping[str, Any], trajectories: Sequence[int]) -> xr.Dataset:
        axes, units = self._axes()
        attributes = {
            "title": "Transient finite-element simulations of a structure, published with DeepFEA",
            "source": f"{self._root.name}, read by workbench {__version__}",
            "initial_condition": "coordinates before the first step; displacements are measured from them",
        }
        times = np.arange(self._shape[0] + 1) * self.time_step
        known = variables(len(axes))
        ordered = {name: values[name] for name in known if name in values}
        return structures_record(ordered, trajectories, times, axes, attributes, length_units=units)


def _from_rest(values: np.ndarray) -> np.ndarray:
    """Put an instant of zeros in front."""
    return np.concatenate([np.zeros_like(values[:1]), values])


def _array(file: Path, key: str) -> np.ndarray:
    """One array of floating-point numbers of an archive."""
    if not file.is_file():
        raise InputError(f"{file} is not there; {WHERE}; put the simulation's three archives there")
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
            if key not in archive:
                raise InputError(f"{file} has no array '{key}'; it has {', '.join(archive)}")
            values = archive[key]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not a whole NumPy archive ({error}); fetch it again: {WHERE}") from error
    if values.dtype not in (np.float32, np.float64) or not np.isfinite(values).all():
        raise InputError(f"{file}: expected finite float32 or float64 numbers in '{key}'; found {values.dtype}")
    return values
