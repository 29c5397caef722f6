"""The variables of one role side by side: which channel is which, and how a step of all of them is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from workbench.data.sources import ChunkSource, Job, Source, Target
from workbench.data.spec import LEVEL_NAMES, TIME, TRAJECTORY
from workbench.errors import InputError

SMALL_CHUNK = 2**17
"""For chunks of fewer bytes the GIL costs more than a second thread brings, and a check of a whole batch less."""


class Channels:
    """The channels of one role: its variables in order, the levels of each variable fastest.

    A *step* is all channels at one trajectory and time. Steps are numbered trajectory by trajectory; a role none of
    whose variables has a trajectory (or time) axis has only one trajectory (or time).

    Args:
        dataset: the record.
        role: ``state``, ``forcing``, ``static`` or ``diagnostic``.
        sources: variable -> source, in channel order.
        offset: trajectories and time steps that were cropped off the front.

    Attributes:
        steps: number of trajectories and times.
        unit: trajectories and times in the largest chunk of a variable.
        complete: ``bool[trajectories * times]``, the steps that are known to have no missing value.

    Raises:
        InputError: the variables do not share a grid, or a static one changes in time.
    """

    def __init__(
        self, dataset: xr.Dataset, role: str, sources: Mapping[str, Source], offset: tuple[int, int] = (0, 0)
    ) -> None:
        self.role, self.variables, self.offset = role, tuple(sources), offset
        arrays = [dataset[name] for name in self.variables]
        self.space = _shared_grid(role, arrays)
        self._grid = tuple(dataset.sizes[d] for d in self.space)
        self._sources = tuple(sources.values())
        self._dims = [[str(d) for d in a.dims if d not in (TIME, TRAJECTORY)] for a in arrays]
        self._levels = [tuple(dataset.sizes[d] for d in dims if d in LEVEL_NAMES) for dims in self._dims]
        self._edges = np.cumsum([0, *(math.prod(levels) for levels in self._levels)]).tolist()
        self._has = [(TRAJECTORY in a.dims, TIME in a.dims) for a in arrays]
        everyone = zip(*self._has, strict=True)
        self.steps = tuple(dataset.sizes[d] if any(h) else 1 for d, h in zip((TRAJECTORY, TIME), everyone, strict=True))
        self.complete = np.zeros(math.prod(self.steps), bool)
        self.unit = tuple(max(s.unit[i] for s in self._sources) for i in (0, 1))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, *space)``."""
        return (self._edges[-1], *self._grid)

    @property
    def nbytes(self) -> int:
        """Bytes of one step."""
        return 4 * math.prod(self.shape)

    @property
    def small(self) -> bool:
        """Whether some jobs are so small that threads get in each other's way; what is waited for counts as large."""
        return any(isinstance(s, ChunkSource) and s.nbytes < SMALL_CHUNK and not s.remote for s in self._sources)

    @property
    def requests(self) -> int:
        """Remote chunks that hold one step."""
        return sum(s.chunks_a_step for s in self._sources if isinstance(s, ChunkSource) and s.remote)

    @property
    def shard(self) -> int:
        """Time steps that lie in one file."""
        return max(s.shard if isinstance(s, ChunkSource) else s.unit[1] for s in self._sources)

    def number(self, trajectory: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Number of each step."""
        r = trajectory if self.steps[0] > 1 else np.zeros_like(trajectory)
        return r * self.steps[1] + (time if self.steps[1] > 1 else 0)

    @property
    def chunks(self) -> tuple[int, int]:
        """Chunks along trajectory and time."""
        along = (-(-(n + o) // u) for n, o, u in zip(self.steps, self.offset, self.unit, strict=True))
        return next(along), next(along)

    def chunk_of(self, steps: np.ndarray) -> np.ndarray:
        """Number of the chunk in which each step lies."""
        r, t = (
            (index + o) // u
            for index, o, u in zip(np.divmod(steps, self.steps[1]), self.offset, self.unit, strict=True)
        )
        return r * self.chunks[1] + t

    def steps_in(self, chunks: np.ndarray) -> np.ndarray:
        """Numbers of all steps that lie in some chunks."""
        if self.unit == (1, 1):
            r, t = np.divmod(chunks, self.chunks[1])
            return (r - self.offset[0]) * self.steps[1] + t - self.offset[1]
        found = [np.empty(0, np.int64)]
        for chunk in chunks.tolist():
            r, t = (
                np.arange(max(q * u - o, 0), min((q + 1) * u - o, n))
                for q, u, o, n in zip(divmod(chunk, self.chunks[1]), self.unit, self.offset, self.steps, strict=True)
            )
            found.append((r[:, None] * self.steps[1] + t).ravel())
        return np.concatenate(found)

    def jobs(
        self,
        buffer: np.ndarray,
        trajectory: np.ndarray,
        time: np.ndarray,
        rows: np.ndarray,
        incomplete: np.ndarray | None = None,
    ) -> list[Job]:
        """Jobs that put step ``(trajectory[i], time[i])`` into row ``rows[i]`` of `buffer`.

        Args:
            buffer: ``float32[row, channels * space]``.
            trajectory: ``int64[n]``.
            time: ``int64[n]``.
            rows: ``int64[n]``.
            incomplete: ``bool[row]`` to set where a NaN is read.
        """
        if not len(rows):
            return []
        steps = buffer.reshape(len(buffer), *self.shape)
        nothing = np.zeros_like(trajectory)
        found: list[Job] = []
        for i, source in enumerate(self._sources):
            block = steps[:, self._edges[i] : self._edges[i + 1]].reshape(len(buffer), *self._levels[i], *self._grid)
            named = [*(d for d in self._dims[i] if d in LEVEL_NAMES), *self.space]
            as_stored = block.transpose(0, *(1 + named.index(d) for d in self._dims[i]))
            has_trajectory, has_time = self._has[i]
            r, t = trajectory if has_trajectory else nothing, time if has_time else nothing
            found += source.plan(Target(as_stored, incomplete), r, t, rows)
        return found

    def stack(self, step: xr.Dataset) -> np.ndarray:
        """``float32[channels, *space]`` of a Dataset that holds one step in memory."""
        blocks = []
        for name, dims in zip(self.variables, self._dims, strict=True):
            levels = [d for d in dims if d in LEVEL_NAMES]
            blocks.append(step[name].transpose(*levels, *self.space).values.reshape(-1, *self._grid))
        return np.concatenate([block.astype(np.float32) for block in blocks])

    def locate(self, value: int) -> tuple[str, dict[str, int]]:
        """Variable, and index along each of its levels and space dims, of one number of a step."""
        channel, *place = (int(i) for i in np.unravel_index(value, self.shape))
        i = int(np.searchsorted(self._edges, channel, side="right")) - 1
        levels = [d for d in self._dims[i] if d in LEVEL_NAMES]
        level = np.unravel_index(channel - self._edges[i], self._levels[i]) if levels else ()
        return self.variables[i], dict(zip([*levels, *self.space], [*map(int, level), *place], strict=True))


def _shared_grid(role: str, arrays: Sequence[xr.DataArray]) -> tuple[str, ...]:
    """The space dims of the variables of a role, in the order of the first one."""
    aside = (TIME, TRAJECTORY, *LEVEL_NAMES)
    grids = [tuple(str(d) for d in a.dims if d not in aside) for a in arrays]
    for array, grid in zip(arrays, grids, strict=True):
        if sorted(grid) != sorted(grids[0]):
            raise InputError(
                f"variable '{array.name}' lies on {grid}, '{arrays[0].name}' on {grids[0]}: the variables of one role "
                f"(data.{role}) must share a grid; list one of them under another role"
            )
        if role == "static" and TIME in array.dims:
            raise InputError(f"variable '{array.name}' changes in time: list it under data.forcing, not data.static")
    return grids[0]
