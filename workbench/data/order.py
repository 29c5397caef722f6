"""The order of an epoch: which window comes when, and on which rank, in pure integers.

An epoch is a permutation of the windows, a function of ``(seed, epoch)`` alone:

* ``none``: the order of the record.
* ``full``: every permutation is equally likely.
* ``block``: the record is cut into blocks of consecutive window starts. The blocks come in random order and are
  taken in groups; the windows of one group, all resident in memory together, are drawn in random order. So every
  window comes once, neighbours in a batch come from as many places as a group has blocks, and each chunk of the
  store is decoded about once an epoch instead of once per window.

The permutation is cut into one consecutive share per rank (so that a rank keeps few blocks resident) and every
share into the same number of batches. An interrupted epoch is described by its *legs*, how many steps it ran on how
many ranks; what is left of it can be shared out again over any number of ranks. `Progress` is all of that, in a few
integers that go into a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from workbench.data.windows import Windows
from workbench.errors import InputError

Shuffle = Literal["block", "full", "none"]

SPILL_SHARE = 4
"""A block is at least this many times as long as what its last windows reach into the next block."""

TIMINGS_STREAM = 1
"""Tells the random bits of timings from those of the order."""

RESIDENT_BLOCKS = 8
"""Blocks that a group should have, before blocks are made longer than one chunk."""


@dataclass(frozen=True)
class BlockPlan:
    """How block shuffle cuts the record.

    Attributes:
        steps: record steps per block (L): window starts ``[k L, (k + 1) L)`` form one block.
        resident: blocks per group (N), drawn from together.
        trajectories: trajectories per block.
        offset: trajectories and steps that were cropped off the front, so that blocks stay aligned with chunks.
    """

    steps: int
    resident: int
    trajectories: int = 1
    offset: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Leg:
    """A stretch of an epoch that ran on one number of ranks with one batch size, for `steps` batches per rank."""

    world_size: int
    batch_size: int
    steps: int


def plan_blocks(
    chunk_steps: int,
    span: int,
    resident_steps: int,
    *,
    shard_steps: int = 1,
    chunk_trajectories: int = 1,
    offset: tuple[int, int] = (0, 0),
) -> BlockPlan:
    """Choose the length L and number N of the blocks of a block shuffle.

    The windows at the end of a block reach ``s = span - 1`` steps, rounded up to whole chunks, into the next block,
    and those are decoded for both. L is the shortest whole number of chunks with ``L >= 4 s``, so that at most a
    fifth of the decoding is done twice, unless fewer than 8 such blocks fit into memory: then L is the largest that
    lets 8 fit, and at least one chunk. L is rounded up to whole shards if 8 blocks still fit. N is what fits:
    ``N = resident_steps / (L + s)``, and at least 1.

    Args:
        chunk_steps: record steps in a chunk.
        span: record steps that a window covers.
        resident_steps: decoded steps that may stay in memory.
        shard_steps: record steps in a file, where a file holds several chunks.
        chunk_trajectories: trajectories in a chunk.
        offset: trajectories and record steps that were cropped off the front.
    """
    spill = -(-(span - 1) // chunk_steps) * chunk_steps
    resident = resident_steps // chunk_trajectories
    fitting = (resident // RESIDENT_BLOCKS - spill) // chunk_steps * chunk_steps
    steps = max(chunk_steps, min(SPILL_SHARE * spill, fitting))
    whole_shards = -(-steps // shard_steps) * shard_steps
    if whole_shards <= fitting:
        steps = whole_shards
    return BlockPlan(steps, max(1, resident // (steps + spill)), chunk_trajectories, offset)


def epoch_order(windows: Windows, shuffle: Shuffle, seed: int, epoch: int, blocks: BlockPlan | None) -> np.ndarray:
    """The windows of one epoch in the order in which they are drawn.

    Args:
        windows: what to draw from.
        shuffle: ``none``, ``full`` or ``block``.
        seed: of the whole training.
        epoch: number of the epoch.
        blocks: how to cut the record; needed by ``block`` only.

    Returns:
        a permutation ``int64[n]`` of window numbers.
    """
    count = len(windows)
    if shuffle == "none":
        return np.arange(count, dtype=np.int64)
    # Raw bits of a counter-based generator: the same numbers in every release of numpy, on every machine.
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    keys = bits.random_raw(count)
    if shuffle == "full" or blocks is None:
        return np.argsort(keys, kind="stable").astype(np.int64)
    block = _block_numbers(windows, blocks)
    place = np.empty(block.max() + 1, dtype=np.int64)
    place[np.argsort(bits.random_raw(len(place)), kind="stable")] = np.arange(len(place))
    groups = -(-len(place) // blocks.resident)
    return np.lexsort((keys, place[block] * groups // len(place))).astype(np.int64)


def draw_timings(windows: Windows, shuffle: Shuffle, seed: int, epoch: int) -> Windows:
    """The windows of one epoch, each with one pair of input delta and lead time, all equally likely.

    The draw of a window depends on ``(seed, epoch)`` and its number alone, so it is the same on any number of ranks and
    after any interruption. In the order of the record (``none``), every epoch has the draws of the first: validation
    losses stay comparable.
    """
    if windows.timings is None:
        return windows
    bits = np.random.Philox(np.random.SeedSequence([seed, 0 if shuffle == "none" else epoch, TIMINGS_STREAM]))
    drawn = bits.random_raw(len(windows)) % np.uint64(len(windows.timings.offsets))
    return replace(windows, drawn=drawn.astype(np.int64))


def _block_numbers(windows: Windows, blocks: BlockPlan) -> np.ndarray:
    """Number ``int64[n]`` of the block of each window, counting only blocks that have windows."""
    across = (windows.trajectory + blocks.offset[0]) // blocks.trajectories
    along = (windows.start + blocks.offset[1]) // blocks.steps
    _, number = np.unique(across * (along.max() + 1) + along, return_inverse=True)
    return number


def steps_per_epoch(count: int, batch_size: int, world_size: int) -> int:
    """Batches that each rank gets from `count` windows: as few as `batch_size` allows, none empty.

    Where that is impossible (`batch_size` 1 and a count that the ranks do not divide), some batches hold one more.

    Raises:
        InputError: there are fewer windows than ranks.
    """
    if count < world_size:
        raise InputError(
            f"{count} windows cannot be shared out to {world_size} ranks, every rank needs one per step; "
            f"run on at most {count} ranks, or make more windows (a wider split, a smaller data.every)"
        )
    return min(-(-count // (batch_size * world_size)), count // world_size)


def even_edges(count: int, pieces: int) -> np.ndarray:
    """Edges ``int64[pieces + 1]`` that cut ``range(count)`` into pieces which differ by at most one."""
    small, larger = divmod(count, pieces)
    number = np.arange(pieces + 1)
    return number * small + np.minimum(number, larger)


def batch_edges(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """Where the batches of one rank begin and end in an order of `count` windows.

    Batch `k` is ``order[edges[k]:edges[k + 1]]``. Over all ranks every window comes exactly once, every rank gets
    the same number of batches, and the sizes of all batches differ by at most one.

    Returns:
        ``int64[steps + 1]``.

    Raises:
        InputError: there are fewer windows than ranks.
    """
    steps = steps_per_epoch(count, batch_size, world_size)
    first, last = even_edges(count, world_size)[rank : rank + 2]
    return first + even_edges(last - first, steps)


def remaining(order: np.ndarray, legs: Sequence[Leg]) -> np.ndarray:
    """What is left of `order` after `legs`, in the order in which it is shared out again."""
    for leg in legs:
        edges = [batch_edges(len(order), leg.batch_size, rank, leg.world_size) for rank in range(leg.world_size)]
        order = np.concatenate([order[e[min(leg.steps, len(e) - 1)] : e[-1]] for e in edges])
    return order


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands: enough to draw its order again and to leave out what was drawn before.

    Attributes:
        epoch: its number.
        shuffle: ``block``, ``full`` or ``none``.
        seed: of the order.
        blocks: how block shuffle cuts the record.
        legs: what has run.
    """

    epoch: int
    shuffle: Shuffle
    seed: int
    blocks: BlockPlan | None = None
    legs: tuple[Leg, ...] = ()

    def advanced(self, batch_size: int, world_size: int) -> Progress:
        """One step later, on `world_size` ranks."""
        if self.legs and (self.legs[-1].batch_size, self.legs[-1].world_size) == (batch_size, world_size):
            last = replace(self.legs[-1], steps=self.legs[-1].steps + 1)
            return replace(self, legs=(*self.legs[:-1], last))
        return replace(self, legs=(*self.legs, Leg(world_size, batch_size, 1)))

    def left(self, windows: Windows, batch_size: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The batches that one rank has still to draw.

        Returns:
            an order ``int64[m]`` and edges ``int64[steps + 1]``: batch `k` is ``order[edges[k]:edges[k + 1]]``.

        Raises:
            InputError: fewer windows are left than there are ranks.
        """
        order = epoch_order(windows, self.shuffle, self.seed, self.epoch, self.blocks)
        legs, done = self.legs, 0
        if legs and (legs[-1].batch_size, legs[-1].world_size) == (batch_size, world_size):
            legs, done = legs[:-1], legs[-1].steps  # the same batches go on, to the bit
        order = remaining(order, legs)
        if not len(order):
            return order, np.zeros(1, np.int64)
        return order, batch_edges(len(order), batch_size, rank, world_size)[done:]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Progress:
        """Rebuild what `to_dict` wrote."""
        blocks = plain["blocks"] and BlockPlan(**{**plain["blocks"], "offset": tuple(plain["blocks"]["offset"])})
        return cls(**{**plain, "blocks": blocks, "legs": tuple(Leg(**leg) for leg in plain["legs"])})
