"""The watch with real processes: whoever ends or falls silent is named, and everybody else ends."""

import os
import signal
import socket
import sys
import time

import pytest

from workbench.cluster import watch
from workbench.cluster.watch import Hub, Spoke
from workbench.exit_status import LOST_RANK

NODES = ["a", "b", "c"]


class Ranks:
    """Three processes that do nothing but watch, and do so already; what each is told of a loss goes to a file."""

    def __init__(self, folder, behave=lambda rank, part: time.sleep(100), **times):
        self.folder = folder
        ready, started = os.pipe()
        hub = Hub(NODES, self.tell(0), **times)
        self.pids = []
        for rank in range(3):
            pid = os.fork()
            if not pid:
                address = ("127.0.0.1", hub.port)
                part = hub if rank == 0 else Spoke(rank, address, hub.token, NODES, self.tell(rank), **times)
                if rank:
                    hub._server.close()
                part.start()
                os.close(started)
                behave(rank, part)
                os._exit(0)
            self.pids.append(pid)
        hub._server.close()
        os.close(started)
        os.read(ready, 1)  # its end, when all have closed theirs
        os.close(ready)

    def tell(self, rank):
        return lambda verdict: (self.folder / str(rank)).write_text(verdict)

    def end(self):
        """Statuses, and what each was told."""
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        told = [(self.folder / str(rank)) for rank in range(3)]
        return statuses, [t.read_text() if t.exists() else "" for t in told]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_killed_is_named_at_once(tmp_path, rank):
    """As its connection closes, not after a silence."""
    ranks = Ranks(tmp_path)
    os.kill(ranks.pids[rank], signal.SIGKILL)
    statuses, told = ranks.end()
    expected = [LOST_RANK] * 3
    expected[rank] = -signal.SIGKILL
    assert statuses == expected
    verdict = f"rank {rank} on node {NODES[rank]} has ended: it was killed, or its node is down"
    assert [t for r, t in enumerate(told) if r != rank] == [verdict] * 2


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_is_silent_is_named_after_a_while(tmp_path, monkeypatch, rank):
    """Stopped, as on a node that hangs: its connections stay open."""
    monkeypatch.setattr(watch, "INTERVAL", 0.1)  # many signs of life in 3 s, however busy the machine
    ranks = Ranks(tmp_path, patience=3)
    os.kill(ranks.pids[rank], signal.SIGSTOP)
    for other in set(ranks.pids) - {ranks.pids[rank]}:
        os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
    os.kill(ranks.pids[rank], signal.SIGCONT)
    statuses, told = ranks.end()
    assert LOST_RANK in statuses
    assert f"rank {rank} on node {NODES[rank]} has given no sign of life for 3 s" in told


def test_a_rank_that_lives_but_does_not_go_on_is_named(tmp_path, monkeypatch):
    def behave(rank, part):
        part.at = 7 if rank == 1 else 8
        time.sleep(100)

    monkeypatch.setattr(watch, "INTERVAL", 0.1)
    statuses, told = Ranks(tmp_path, behave, stall=3).end()
    assert statuses == [LOST_RANK] * 3
    assert set(told) == {"rank 1 on node b lives but has not gone on for 3 s, and the others wait for it"}


def test_an_error_is_told_to_the_others(tmp_path):
    def behave(rank, part):
        if rank == 1:
            part.leave("ValueError: no")
            sys.stdout.flush()
            os._exit(3)
        time.sleep(100)

    statuses, told = Ranks(tmp_path, behave).end()
    assert statuses == [LOST_RANK, 3, LOST_RANK]
    assert told == ["rank 1 on node b has ended with ValueError: no", "", told[0]]


def test_ranks_that_leave_one_after_the_other_are_not_missed(tmp_path):
    def behave(rank, part):
        time.sleep(0.3 * rank)
        part.leave()

    statuses, told = Ranks(tmp_path, behave).end()
    assert statuses == [0, 0, 0] and told == ["", "", ""]


def test_a_stranger_is_not_listened_to(tmp_path):
    def behave(rank, part):
        if rank == 2:
            with socket.create_connection(part._line.socket.getpeername()) as stranger:
                stranger.sendall(b'{"token": "guess", "rank": 1, "left": "a lie"}\n')
                assert stranger.recv(1) == b"", "shown the door"
        time.sleep(1)
        part.leave()

    statuses, told = Ranks(tmp_path, behave).end()
    assert statuses == [0, 0, 0] and told == ["", "", ""]
