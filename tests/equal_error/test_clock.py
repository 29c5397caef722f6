"""Timings of work whose cost is known, on clocks that nothing else moves."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from spinning import CLOCK

from workbench.equal_error import clock
from workbench.equal_error.clock import Runner, best_batch, elapsed, take_turns, threads


@pytest.fixture(autouse=True)
def known_seconds(monkeypatch):
    monkeypatch.setattr(clock, "time", CLOCK)
    monkeypatch.setattr(clock, "SHORTEST", 0.02)


def spinner(cost: Callable[[int], float], calls: list | None = None):
    """Forecasts that take `cost` seconds a lead for a batch of so many."""

    def forecast(start: torch.Tensor) -> Iterator[torch.Tensor]:
        while True:
            CLOCK.spend(cost(len(start)))
            if calls is not None:
                calls.append(len(start))
            yield start

    return Runner(forecast, torch.zeros(3, 1))


def test_cpu_time_is_what_was_spent_and_wall_time_what_passed():
    def forecast(start: torch.Tensor) -> Iterator[torch.Tensor]:
        while True:
            CLOCK.spend(4e-3)
            CLOCK.wait(1e-3)
            yield start

    assert elapsed(forecast, torch.zeros(1, 1), leads=5, repeats=2) == pytest.approx((50e-3, 40e-3))


def test_contestants_take_turns_and_cost_what_they_cost(monkeypatch):
    monkeypatch.setattr(clock, "BATCH_SIZES", (2,))
    calls: list[int] = []
    seen = []
    found = take_turns(
        [spinner(lambda n: 2e-3), spinner(lambda n: 8e-3, calls)], 4, 3, progress=lambda *done: seen.append(done)
    )
    np.testing.assert_allclose(found.cpu, np.broadcast_to([[[2e-3], [1e-3]], [[8e-3], [4e-3]]], (2, 2, 3)))
    np.testing.assert_allclose(found.wall, found.cpu)
    assert found.sizes.tolist() == [[1, 2], [1, 2]] and set(calls) == {1, 2}
    assert seen[-1] == (8, 8) and seen == sorted(seen)


@pytest.mark.parametrize(("cost", "best"), [(lambda n: 4e-3 + 1e-4 * n, 4), (lambda n: 2e-3 * n * n, 1)])
def test_the_best_batch_is_the_one_whose_forecasts_are_cheapest(monkeypatch, cost, best):
    monkeypatch.setattr(clock, "BATCH_SIZES", (2, 4))
    with threads(1):
        assert best_batch(spinner(cost)) == best


def test_leads_that_are_made_in_one_go_are_timed_together():
    """10 ms for all five leads, at the first of them: 2 ms a lead."""
    calls = []

    def forecast(start: torch.Tensor) -> Iterator[torch.Tensor]:
        CLOCK.spend(10e-3)
        calls.append(len(start))
        yield from [start] * 5

    runner = Runner(forecast, torch.zeros(3, 1), least=5, batched=False)
    with threads(1):
        found = take_turns([runner], leads=5, rounds=3, together=32)
        assert clock.probe(runner) == pytest.approx(2e-3)
    np.testing.assert_allclose(found.cpu, 2e-3)
    assert set(calls) == {1} and found.sizes.tolist() == [[1, 1]]  # one by one, batches bring nothing


def test_a_given_number_is_timed_together():
    calls: list[int] = []
    found = take_turns([spinner(lambda n: 1e-4 * n, calls)], leads=2, rounds=1, together=32)
    assert set(calls) == {1, 32} and found.sizes.tolist() == [[1, 32]]


def test_starts_are_repeated_to_fill_a_batch():
    runner = Runner(lambda start: iter(()), torch.arange(3.0)[:, None])
    assert runner.batch(5)[:, 0].tolist() == [0, 1, 2, 0, 1]


def test_threads_go_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
