"""The published filtered fields of channel flow (fDNS) as the source of a dataset.

NumPy arrays of dims (group, time, x, y, z, component), components u, v, w and perhaps p, float32 or float64, either
full velocities or fluctuations about a mean that comes in a file of its own. They are read through memory maps.

Source: Kaggle data set ``aifluid/coarsened-fdns-data-chl``; described with IFactFormer-m, Sci. China Phys. Mech.
Astron. 69, 214606 (2026), doi 10.1007/s11433-024-2666-9.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from workbench import __version__
from workbench.errors import InputError
from workbench.resources import data_root
from workbench.simulate.channel_grid import wall_normal_nodes
from workbench.simulate.channel_record import CONVENTION, VELOCITIES, channel_record

WHERE = (
    "it is part of the Kaggle data set aifluid/coarsened-fdns-data-chl "
    "(https://www.kaggle.com/datasets/aifluid/coarsened-fdns-data-chl)"
)
BULK_VELOCITY = 2 / 3


@dataclass(frozen=True)
class FilteredDNS:
    """Published fields of one Reynolds number; a group of the file is a trajectory.

    Args:
        path: the array of fields; relative paths start at the data root.
        mean_path: the mean profile, for fields that are fluctuations.
        reynolds_number: 1/ν.
        friction_velocity: u_τ of the unfiltered flow, from the published statistics.
        nominal_friction_reynolds_number: for the title.
        length_x, length_z: of the box.
        save_interval: time between fields.
    """

    path: str
    reynolds_number: float
    friction_velocity: float
    nominal_friction_reynolds_number: float
    length_x: float
    length_z: float
    save_interval: float = 1.0
    mean_path: str | None = None

    @property
    def trajectories(self) -> int:
        """Groups in the file."""
        return self._fields.shape[0]

    @cached_property
    def _fields(self) -> np.ndarray:
        """The array ``[group, time, x, y, z, component]``, memory-mapped and checked."""
        fields = _memory_map(self.path)
        if fields.ndim != 6 or fields.shape[-1] not in (3, 4) or min(fields.shape) < 1 or fields.shape[3] < 3:
            raise InputError(
                f"{_locate(self.path)}: expected dims (group, time, x, y, z, component) with components u, v, w and "
                f"perhaps p; found shape {fields.shape}"
            )
        return fields

    @cached_property
    def _mean(self) -> np.ndarray | None:
        """Mean profile ``[y, component]`` to be added, or None where the fields are full velocities."""
        bulk = self._bulk_of_file()
        file = _locate(self.path)
        if abs(bulk - BULK_VELOCITY) < 0.15 * BULK_VELOCITY:
            return None
        if abs(bulk) > 0.15 * BULK_VELOCITY:
            raise InputError(
                f"{file}: the bulk velocity of its first fields is {bulk:.4g}; expected {BULK_VELOCITY:.4g} (full "
                "velocities over the laminar centre-line velocity) or 0 (fluctuations); rescale the velocities, or put "
                "the streamwise component first"
            )
        if self.mean_path is None:
            raise InputError(
                f"{file} holds fluctuations (bulk velocity {bulk:.2g}); give mean_path too, the file of the mean "
                f"profile, whose name has 'ave' in it: {WHERE}"
            )
        mean = _memory_map(self.mean_path)
        expected, components = (1, 1, 1, self._fields.shape[3], 1), self._fields.shape[-1]
        if mean.shape[:-1] != expected or mean.shape[-1] not in (3, 4):
            raise InputError(
                f"{_locate(self.mean_path)}: expected a mean profile of shape {(*expected, components)} for {file}; "
                f"found {mean.shape}"
            )
        return np.asarray(mean[0, 0, 0, :, 0, :3], np.float64)

    def _bulk_of_file(self) -> float:
        """Bulk velocity of a few fields of the first group, by the trapezoidal rule on the stretched nodes."""
        count = self._fields.shape[1]
        sample = np.asarray(self._fields[0, :: max(1, count // 4), ..., 0], np.float64)
        if not np.isfinite(sample).all():
            raise InputError(f"{_locate(self.path)}: values are not finite; fetch the file again: {WHERE}")
        profile = sample.mean((0, 1, 3))
        return float(np.trapezoid(profile, wall_normal_nodes(len(profile)))) / 2

    def template(self) -> xr.Dataset:
        """The whole record, lazy: dims, coordinates, dtypes and attributes of what `simulate` returns.

        Raises:
            InputError: a file is absent, damaged or not what it should be.
        """
        shape = self._fields.shape[:-1]
        empty = da.zeros(shape, dtype=np.float32, chunks=(1, *shape[1:]))
        return self._dataset(dict.fromkeys(VELOCITIES, empty), range(self.trajectories))

    def simulate(self, trajectories: Sequence[int], progress: Callable[[int, int], None] | None = None) -> xr.Dataset:
        """Read the named groups into memory, as float32 full velocities.

        Args:
            trajectories: numbers of groups.
            progress: called with (done, total) after every group.

        Raises:
            InputError: there is no such group, or a file is absent, damaged or not what it should be.
        """
        outside = [k for k in trajectories if not 0 <= k < self.trajectories]
        if outside:
            raise InputError(f"{_locate(self.path)} has groups 0 to {self.trajectories - 1}; asked for {outside}")
        shape = (len(trajectories), *self._fields.shape[1:-1])
        fields = {name: np.empty(shape, np.float32) for name in VELOCITIES}
        for place, group in enumerate(trajectories):
            for component, name in enumerate(VELOCITIES):
                field = self._fields[group, ..., component]
                if self._mean is not None:
                    field = field + self._mean[:, None, component]
                fields[name][place] = field
            if progress:
                progress(place + 1, len(trajectories))
        return self._dataset(fields, trajectories)

    def _dataset(self, fields: Mapping[str, np.ndarray | da.Array], trajectories: Sequence[int]) -> xr.Dataset:
        _, steps, nx, ny, nz, _ = self._fields.shape
        lengths = (self.length_x, self.length_z)
        kind = "full velocities" if self._mean is None else "fluctuations, to which the mean profile was added"
        attributes: dict[str, str | float] = {
            "title": (
                "Turbulent channel flow, published filtered fields, nominal friction Reynolds number "
                f"{self.nominal_friction_reynolds_number:g}"
            ),
            "equation": f"incompressible Navier-Stokes, constant flow rate, periodic in x and z; {CONVENTION}",
            "viscosity": 1 / self.reynolds_number,
            "bulk_velocity": BULK_VELOCITY,
            "half_height": 1.0,
            "nominal_friction_reynolds_number": self.nominal_friction_reynolds_number,
            "friction_velocity": self.friction_velocity,
            "friction_reynolds_number": self.friction_velocity * self.reynolds_number,
            "source": f"{Path(self.path).name} ({kind}), read by workbench {__version__}",
        }
        times = np.arange(steps) * self.save_interval
        return channel_record(fields, trajectories, times, (nx, ny, nz), lengths, attributes)


def _locate(path: str) -> Path:
    """The file; relative paths start at the data root."""
    return data_root() / path


def _memory_map(path: str) -> np.ndarray:
    """A .npy file of floating-point numbers, not read yet."""
    file = _locate(path)
    if not file.is_file():
        raise InputError(f"{file} is not there; {WHERE}; put the file there, or give its path")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{file} is not a whole NumPy array ({error}); fetch it again: {WHERE}") from error
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        found = getattr(array, "dtype", type(array).__name__)
        raise InputError(f"{file}: expected an array of float32 or float64 numbers; found {found}")
    return array
