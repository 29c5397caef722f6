"""The order of an epoch: complete, without repeats, the same everywhere, whole even when interrupted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.order import (
    BlockPlan,
    Leg,
    Progress,
    batch_edges,
    epoch_order,
    even_edges,
    plan_blocks,
    remaining,
    steps_per_epoch,
)
from workbench.data.windows import Windows
from workbench.errors import InputError


def windows(starts_per_trajectory, length=2):
    """Consecutive windows of several trajectories."""
    trajectory = np.repeat(np.arange(len(starts_per_trajectory)), starts_per_trajectory)
    start = np.concatenate([np.arange(n) for n in starts_per_trajectory])
    return Windows(trajectory, start, length)


some_windows = st.lists(st.integers(1, 60), min_size=1, max_size=4).map(windows)
some_blocks = st.builds(
    BlockPlan,
    steps=st.integers(1, 40),
    resident=st.integers(1, 12),
    trajectories=st.integers(1, 3),
    offset=st.tuples(st.integers(0, 3), st.integers(0, 20)),
)
some_progress = st.builds(
    Progress,
    epoch=st.integers(0, 5),
    shuffle=st.sampled_from(["none", "full", "block"]),
    seed=st.integers(0, 5),
    blocks=some_blocks,
)


@given(some_windows, some_progress)
def test_every_window_comes_once(found, progress):
    order = epoch_order(found, progress.shuffle, progress.seed, progress.epoch, progress.blocks)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(len(found)))


def test_order_depends_on_seed_and_epoch_alone():
    found, blocks = windows([200]), BlockPlan(10, 4)
    for shuffle in ("full", "block"):
        orders = {(s, e): tuple(epoch_order(found, shuffle, s, e, blocks)) for s in range(3) for e in range(3)}
        assert len(set(orders.values())) == 9
        assert orders[1, 2] == tuple(epoch_order(found, shuffle, 1, 2, blocks))
    assert list(epoch_order(found, "none", 1, 2, None)) == list(range(200))


def test_full_order_is_the_same_in_every_release():
    """Raw Philox bits are guaranteed not to change; a change here would break the resuming of old checkpoints."""
    assert epoch_order(windows([8]), "full", 7, 3, None).tolist() == [7, 1, 6, 0, 4, 2, 3, 5]


def test_full_order_is_uniform():
    """Each of 5 windows comes first equally often: chi-squared, 4 degrees of freedom, under its 0.999 point."""
    found = windows([5])
    first = np.bincount([epoch_order(found, "full", 0, e, None)[0] for e in range(4000)], minlength=5)
    assert ((first - 800) ** 2 / 800).sum() < 18.5


@given(some_windows, some_blocks, st.integers(0, 3))
def test_block_order_keeps_few_blocks_resident(found, blocks, epoch):
    """Once a group of `resident` blocks is left, none of its blocks comes again."""
    order = epoch_order(found, "block", 0, epoch, blocks)
    block = [
        (
            (found.trajectory[i] + blocks.offset[0]) // blocks.trajectories,
            (found.start[i] + blocks.offset[1]) // blocks.steps,
        )
        for i in order
    ]
    first, last = {}, {}
    for place, b in enumerate(block):
        first.setdefault(b, place)
        last[b] = place
    for place in range(len(order)):
        assert sum(first[b] <= place <= last[b] for b in first) <= blocks.resident


def test_block_order_mixes_the_blocks_of_a_group():
    found = windows([400])
    order = epoch_order(found, "block", 0, 0, BlockPlan(steps=10, resident=8))
    blocks_per_batch = [len(set(found.start[batch] // 10)) for batch in np.split(order, 50)]
    assert np.mean(blocks_per_batch) > 4.5  # 8 draws from 8 blocks hit 5.25 on average


@given(
    chunk=st.integers(1, 64),
    span=st.integers(1, 40),
    memory=st.integers(0, 5000),
    shard=st.integers(1, 4),
    trajectories=st.integers(1, 4),
)
def test_blocks_are_whole_chunks_and_fit_into_memory(chunk, span, memory, shard, trajectories):
    plan = plan_blocks(chunk, span, memory, shard_steps=shard * chunk, chunk_trajectories=trajectories)
    spill = -(-(span - 1) // chunk) * chunk
    assert plan.steps % chunk == 0 and plan.steps >= chunk
    assert plan.resident == 1 or plan.resident * (plan.steps + spill) * trajectories <= memory
    if plan.steps > chunk:
        assert plan.resident >= 8


def test_blocks_decode_at_most_a_fifth_twice_where_memory_allows():
    assert plan_blocks(1, 2, 1000) == BlockPlan(4, 200)
    assert plan_blocks(16, 2, 10_000) == BlockPlan(64, 125)
    assert plan_blocks(16, 2, 500).steps == 32, "8 blocks of 32 + 16 steps fit, of 64 + 16 they do not"
    assert plan_blocks(1, 2, 1000, shard_steps=32) == BlockPlan(32, 30)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_even_edges_differ_by_at_most_one(count, pieces):
    sizes = np.diff(even_edges(count, pieces))
    assert sizes.sum() == count and sizes.max() - sizes.min() <= 1 and list(sizes) == sorted(sizes, reverse=True)


@given(st.integers(1, 500), st.integers(1, 20), st.integers(1, 8))
def test_ranks_share_an_epoch_evenly(count, batch_size, world_size):
    if count < world_size:
        with pytest.raises(InputError, match=f"{count} windows cannot be shared out to {world_size} ranks"):
            batch_edges(count, batch_size, 0, world_size)
        return
    edges = [batch_edges(count, batch_size, rank, world_size) for rank in range(world_size)]
    steps = steps_per_epoch(count, batch_size, world_size)
    assert {len(e) for e in edges} == {steps + 1}
    assert [e[0] for e in edges[1:]] == [e[-1] for e in edges[:-1]] and (edges[0][0], edges[-1][-1]) == (0, count)
    sizes = np.concatenate([np.diff(e) for e in edges])
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
    assert sizes.max() <= max(batch_size, 2)
    assert sizes.max() <= batch_size or batch_size == 1


@given(
    some_windows,
    some_progress,
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=4),
)
@settings(max_examples=200)
def test_an_epoch_run_in_legs_draws_every_window_once(found, progress, legs):
    """Whatever ranks and batch sizes it goes on with, at any point, no window comes twice and none is lost."""
    drawn = []
    for batch_size, world_size, steps in [*legs, (3, 1, 10**6)]:
        ranks = [progress.left(found, batch_size, 0, 1)[0]]
        if len(ranks[0]) < world_size:
            continue
        ranks = [progress.left(found, batch_size, rank, world_size) for rank in range(world_size)]
        assert len({len(edges) for _, edges in ranks}) == 1
        for step in range(min(steps, len(ranks[0][1]) - 1)):
            drawn += [i for order, edges in ranks for i in order[edges[step] : edges[step + 1]].tolist()]
            progress = progress.advanced(batch_size, world_size)
    assert sorted(drawn) == list(range(len(found)))
    assert len(progress.left(found, 3, 0, 1)[1]) == 1


@given(some_windows, some_progress, st.integers(1, 9), st.integers(1, 4), st.data())
def test_resuming_on_the_same_ranks_gives_the_same_batches(found, progress, batch_size, world_size, data):
    if len(found) < world_size:
        return
    rank = data.draw(st.integers(0, world_size - 1))
    order, edges = progress.left(found, batch_size, rank, world_size)
    stop = data.draw(st.integers(0, len(edges) - 1))
    for _ in range(stop):
        progress = progress.advanced(batch_size, world_size)
    again, rest = Progress.from_dict(progress.to_dict()).left(found, batch_size, rank, world_size)
    assert [order[a:b].tolist() for a, b in zip(edges[stop:-1], edges[stop + 1 :], strict=True)] == [
        again[a:b].tolist() for a, b in zip(rest[:-1], rest[1:], strict=True)
    ]


@given(some_progress, st.lists(st.builds(Leg, st.integers(1, 4), st.integers(1, 9), st.integers(0, 5)), max_size=3))
def test_progress_survives_a_checkpoint(progress, legs):
    progress = Progress(progress.epoch, progress.shuffle, progress.seed, progress.blocks, tuple(legs))
    assert Progress.from_dict(progress.to_dict()) == progress


def test_nothing_remains_of_a_finished_epoch():
    assert len(remaining(np.arange(10), [Leg(2, 2, 3)])) == 0
    assert Progress(0, "none", 0, None, (Leg(2, 2, 3),)).left(windows([10]), 5, 0, 1)[1].tolist() == [0]


def test_too_few_windows_left_for_the_ranks():
    left = Progress(0, "none", 0, None, (Leg(1, 4, 2),))
    with pytest.raises(InputError, match="3 windows cannot be shared out to 4 ranks.*at most 3 ranks"):
        left.left(windows([10]), 4, 0, 4)
