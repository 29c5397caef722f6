"""Solvers run on one torch thread and leave the number of threads as they found it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import torch

from workbench.simulate.threads import one_thread


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_number_of_threads_comes_back():
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_number_of_threads_comes_back_after_an_error():
    with pytest.raises(RuntimeError, match="solver"), one_thread():
        raise RuntimeError("solver")
    assert torch.get_num_threads() == 2


def test_number_of_threads_comes_back_when_blocks_overlap():
    both_inside, first_left = Barrier(2), Event()

    def first() -> int:
        with one_thread():
            both_inside.wait(100)
        first_left.set()
        return torch.get_num_threads()

    def last() -> int:
        with one_thread():
            both_inside.wait(100)
            assert first_left.wait(100)
        return torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        assert [job.result() for job in (pool.submit(first), pool.submit(last))] == [2, 2]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2, "threads that start later inherit it"
