"""The climatology of the targets of a batch, read as the record itself is: chunk by chunk, by threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from workbench.data.climatology import slots_of
from workbench.data.reader import WindowReader
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.windows import Windows
from workbench.errors import InputError

ROLE = "climatology"


class ClimatologyReader:
    """Reads a climatology at the times of a record.

    Args:
        climatology: as `workbench.data.climatology_store.open_climatology` returned it.
        names: variables, in channel order.
        time: times of the record.
        history: states of a window that are inputs; the others are targets.
        threads: reading threads; 0 reads in the calling thread.
        cache_bytes: memory for decoded fields.

    Raises:
        InputError: the climatology has other hours than the record.
    """

    def __init__(
        self,
        climatology: xr.Dataset,
        names: Sequence[str],
        time: xr.DataArray,
        history: int,
        *,
        threads: int = 2,
        cache_bytes: int = 2**28,
    ) -> None:
        self._slots, self._time, self._history = slots_of(climatology, time), time, history
        self._source = climatology.encoding.get("source", "the climatology")
        # A day of the year plays the part of a trajectory, a time of day that of a time.
        steps = {"dayofyear": TRAJECTORY, "hour": TIME}
        renamed = climatology[list(names)].rename({d: n for d, n in steps.items() if d in climatology.dims})
        renamed.encoding = dict(climatology.encoding)
        crop = climatology.encoding.get("crop")
        self._reader = WindowReader(renamed, {ROLE: names}, crop=crop, threads=threads, cache_bytes=cache_bytes)

    def buffer_shape(self, windows: Windows, count: int) -> tuple[int, ...]:
        """``(count, horizon, channels, *space)``."""
        return (count, windows.length - self._history, *self._reader.shape(ROLE))

    def start(self, windows: Windows, indices: np.ndarray, out: np.ndarray) -> Callable[[], None]:
        """Begin to read the climatology of the targets of some windows.

        Args:
            windows: of the record.
            indices: ``int[b]``, which of them.
            out: C-contiguous ``float32[b, horizon, channels, *space]``.

        Returns:
            a function that waits until `out` is full, and must be called.

        Raises:
            InputError: the climatology has nothing for a target.
        """
        times = windows.times(indices)[:, self._history :].ravel()
        day, hour = self._slots[times].T
        if (day < 0).any():
            raise InputError(
                f"{self._source} has no climatology for {str(self._time.values[times[day < 0][0]])[:16]}: expected "
                "every day of the year and hour that the record has; fit it on whole years, or fetch the files it lacks"
            )
        buffer = {ROLE: out.reshape(len(times), 1, *out.shape[2:])}
        return self._reader.start(Windows(day, hour, 1), np.arange(len(times)), buffer)
