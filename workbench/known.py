"""What forecasts start from, and what is known of their steps beforehand: read from the record, normalised.

Forcing that follows from dates alone (`workbench.data.derived`) and a climatology are known beyond the end of the
record, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench.data.climatology_reader import ClimatologyReader
from workbench.data.derived import is_derived, with_derived
from workbench.data.packing import ChannelGroup, Packing
from workbench.data.reader import WindowReader
from workbench.data.spec import TIME, time_step
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.plan import ForecastPlan

Known = dict[str, Tensor]
"""What is known of some steps, normalised: ``forcing [b, history + steps, k, *space]`` of the last `history` instants
and of the ends of the steps, ``climatology [b, steps, c, *space]`` of the state at their ends, and
``static [b, j, *space]``; each where there is such a thing."""

CACHE_BYTES = 2**26


class KnownReader:
    """Reads for batches of a plan.

    Args:
        packing: of the task.
        plan: which forecasts.
        normalisers: of the task, role -> module.
        device: where tensors go.
        climatology: whether the climatology is wanted.

    Raises:
        InputError: the record does not fit the packing, forcing ends before the forecast, or there is no climatology.
    """

    def __init__(
        self, packing: Packing, plan: ForecastPlan, normalisers: Any, device: torch.device, climatology: bool
    ) -> None:
        self.packing, self.plan, self.normalisers, self.device = packing, plan, normalisers, device
        roles = [role for role in packing.groups if role != "diagnostic"]
        packing.check(plan.record, f"the record {_source(plan)}", roles, plan.stride)
        times = _times(plan)
        self._readers = {role: self._reader(role, packing.groups[role], times) for role in roles}
        self._climatology = self._climatology_reader(times) if climatology else None

    def _reader(self, role: str, group: ChannelGroup, times: xr.DataArray) -> WindowReader:
        record = self.plan.record
        if role == "forcing" and times.size > record.sizes[TIME]:
            record = _derived_forcing(self.plan, group, times)
        crop = record.encoding.get("crop")
        return WindowReader(record, {role: group.variables}, crop=crop, cache_bytes=CACHE_BYTES)

    def _climatology_reader(self, times: xr.DataArray) -> ClimatologyReader:
        if self.plan.climatology is None:
            raise InputError(
                "the model adds to a climatology, and this forecast has none: name it in data.climatology "
                "(workbench predict: --climatology FILE)"
            )
        names = self.packing.groups["state"].variables
        return ClimatologyReader(self.plan.climatology, names, times, 0, cache_bytes=CACHE_BYTES)

    def states(self, batch: Mapping[str, slice]) -> Tensor:
        """The last `history` states ``[b, history, c, *space]`` that the forecasts see."""
        return self._read(batch, "state", 1 - self.packing.history, self.packing.history)

    def known(self, batch: Mapping[str, slice], lead: int, size: int) -> Known:
        """What is known of `size` steps after the first `lead`, read together."""
        history, found = self.packing.history, Known()
        if "forcing" in self._readers:
            found["forcing"] = self._read(batch, "forcing", lead + 1 - history, history + size)
        if "static" in self._readers:
            found["static"] = self._read(batch, "static", 0, 1)
        if self._climatology is not None:
            windows = self.plan.windows(batch, lead + 1, size)
            buffer = np.empty(self._climatology.buffer_shape(windows, len(windows)), np.float32)
            self._climatology.start(windows, np.arange(len(windows)), buffer)()
            found["climatology"] = self._normalised("state", buffer)
        return found

    def _read(self, batch: Mapping[str, slice], role: str, first: int, length: int) -> Tensor:
        """Windows of `role`, `first` states after the starts."""
        windows = self.plan.windows(batch, first, length)
        reader = self._readers[role]
        buffer = np.empty(reader.buffer_shape(role, windows, len(windows)), np.float32)
        reader.read(windows, np.arange(len(windows)), {role: buffer})
        if self.packing.missing == "error" and not np.isfinite(buffer).all():
            raise InputError(
                f"missing (NaN) values in the {role} that a forecast of {_source(self.plan)} "
                "starts from; the model was trained without a mask (data.missing: mask)"
            )
        return self._normalised(role, buffer)

    def _normalised(self, role: str, values: np.ndarray) -> Tensor:
        normalised: Tensor = self.normalisers[role](torch.from_numpy(values).to(self.device))
        return normalised


def _source(plan: ForecastPlan) -> str:
    return str(plan.record.encoding.get("source", ""))


def _times(plan: ForecastPlan) -> xr.DataArray:
    """Times of the record, continued in its step to the end of the last forecast where that lies beyond."""
    time = plan.record[TIME]
    beyond = int(plan.starts.max()) + plan.steps * plan.stride + 1 - time.size
    if beyond <= 0:
        return time
    step, _, calendar = time_step(plan.record)
    after: np.ndarray = step * np.arange(1, beyond + 1)
    if calendar:
        after = (after * 1e9).round().astype("timedelta64[ns]")
    values = np.concatenate([time.values, time.values[-1] + after])
    return xr.DataArray(values, dims=TIME, coords={TIME: values}, attrs=time.attrs)


def _derived_forcing(plan: ForecastPlan, group: ChannelGroup, times: xr.DataArray) -> xr.Dataset:
    """The forcing at times beyond the end of the record.

    Raises:
        InputError: it does not follow from dates alone.
    """
    record = plan.record
    given = [name for name in group.variables if not is_derived(record[name])]
    if given:
        raise InputError(
            f"the forecast needs {', '.join(given)} up to time index {times.size - 1}, the record "
            f"{_source(plan)} ends at {record.sizes[TIME] - 1}: start earlier or take fewer steps"
        )
    grid = record[group.variables[0]].isel({TIME: 0}, drop=True)  # has the axes in the record's order
    return with_derived(grid.to_dataset(name="grid").assign_coords({TIME: times}), group.variables)
