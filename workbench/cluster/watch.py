"""Notices a rank that has ended or does not answer any more, says which one and on which node, and ends the others.

Where a rank is gone, the others wait for it inside of a collective: for half an hour under NCCL, and no exception can
reach them there. So a thread of every rank keeps a connection to rank 0. The system closes that of a process that
ends, however it ends; a process that is stopped, or a node that is gone, shows by its silence.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import select
import selectors
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from workbench.exit_status import LOST_RANK

INTERVAL = 2.0
"""Seconds between two signs of life."""

PATIENCE = 30.0
"""Seconds of silence after which a rank is given up."""

STALL = 900.0
"""Seconds after which a rank is given up that lives, but does not go on while others wait for it."""

DELIVERY = 1.0
"""Seconds from what rank 0 says last to its end: a connection that ends too early may take it along."""

FAREWELL = 10.0
"""Seconds that a rank waits at the end for the others to leave."""

GRACE = 2.0
"""Seconds that a rank with an error waits before it reports it: another one may have died, and be the cause."""


class Line:
    """One connection, on which JSON objects go to and fro, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        self.socket, self.closed, self._rest = connection, False, b""

    def send(self, **message: Any) -> None:
        """Send an object; a peer that has gone is noticed when it is heard."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """What has come since.

        Raises:
            OSError: the other side has ended.
        """
        data = self.socket.recv(2**16)
        if not data:
            self.closed = True
            raise ConnectionResetError("closed by the other side")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Watch(ABC):
    """The part of one rank in the watch, on a thread of its own.

    Args:
        nodes: the node of every rank.
        lost: is told which rank was lost, in a sentence; then this process ends with status 71.
        patience: seconds of silence after which a rank is given up.
        stall: seconds without progress after which a rank is given up that others are ahead of.

    Attributes:
        at: how far this rank is: a number that grows whenever it does something.
        silent: whether the rank that was lost has given no sign of life, as one whose node has failed.
    """

    def __init__(
        self, nodes: list[str], lost: Callable[[str], None], patience: float = PATIENCE, stall: float = STALL
    ) -> None:
        self.nodes, self.lost, self.patience, self.stall = nodes, lost, patience, stall
        self.at = 0
        self.left = self.silent = False

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    @abstractmethod
    def _run(self) -> None:
        """Watch until this rank or all have left."""

    @abstractmethod
    def leave(self, reason: str = "") -> None:
        """Say that this rank ends, and with which error if it is one: the others then end, too."""

    def _end(self, verdict: str, tell: Callable[[str], None] = lambda _: None) -> None:
        """End this process, whatever its other threads wait for, and tell others before."""
        if not self.left:
            self.lost(verdict)
            tell(verdict)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(LOST_RANK)

    def _named(self, rank: int, what: str) -> str:
        return f"rank {rank} on node {self.nodes[rank]} {what}"


class Hub(Watch):
    """The part of rank 0, which hears all others and decides who is lost.

    Attributes:
        port: where it listens.
        token: what the others have to know.
    """

    def __init__(self, nodes: list[str], lost: Callable[[str], None], **times: float) -> None:
        super().__init__(nodes, lost, **times)
        self.token = secrets.token_hex(16)
        self._server = socket.create_server(("", 0), backlog=len(nodes))
        self.port = self._server.getsockname()[1]
        self._lines: dict[int, Line] = {}
        now = time.monotonic()
        self._heard = dict.fromkeys(range(1, len(nodes)), now)
        self._reached = dict.fromkeys(range(len(nodes)), (0, now))

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            sent = before = time.monotonic()
            while not self.left:
                verdict = ""
                for key, _ in selector.select(INTERVAL / 4):
                    if key.fileobj is self._server:
                        line = Line(self._server.accept()[0])
                        selector.register(line.socket, selectors.EVENT_READ, line)
                    else:
                        verdict = verdict or self._hear(key.data, selector)
                now = time.monotonic()
                if now - before > INTERVAL + self.patience / 2:  # this process itself stood still, and heard nobody
                    self._heard = dict.fromkeys(self._heard, now)
                before = now
                if now - sent > INTERVAL:
                    self._tell(at=self.at)
                    sent = now
                verdict = verdict or self._silent(now) or self._stalled(now)
                if verdict:
                    self._end(verdict, self._end_others)

    def _hear(self, line: Line, selector: selectors.BaseSelector) -> str:
        """Take in what a rank says; returns what is wrong with it."""
        rank = next((r for r, known in self._lines.items() if known is line), None)
        try:
            for message in line.receive():
                if rank is None:
                    rank = self._welcome(line, message)
                self._heard[rank] = time.monotonic()
                if message.get("at", 0) > self._reached[rank][0]:
                    self._reached[rank] = message["at"], time.monotonic()
                if "left" in message:
                    self._forget(rank, selector)
                    return self._named(rank, f"has ended with {message['left']}") if message["left"] else ""
        except (OSError, ValueError, KeyError):
            selector.unregister(line.socket)
            line.socket.close()
            if rank is not None:
                return self._named(rank, "has ended: it was killed, or its node is down")
        return ""

    def _welcome(self, line: Line, message: dict[str, Any]) -> int:
        """The rank of a new connection, if it knows the word."""
        if not hmac.compare_digest(str(message["token"]), self.token):
            raise ValueError("a stranger")
        self._lines[message["rank"]] = line
        return int(message["rank"])

    def _forget(self, rank: int, selector: selectors.BaseSelector) -> None:
        line = self._lines.pop(rank)
        selector.unregister(line.socket)
        line.socket.close()
        del self._heard[rank], self._reached[rank]

    def _end_others(self, verdict: str) -> None:
        self._tell(lost=verdict)
        time.sleep(DELIVERY)

    def _tell(self, **message: Any) -> None:
        for line in list(self._lines.values()):
            line.send(**message)

    def _silent(self, now: float) -> str:
        for rank, heard in self._heard.items():
            if now - heard > self.patience:
                self.silent = True
                return self._named(rank, f"has given no sign of life for {self.patience:.0f} s")
        return ""

    def _stalled(self, now: float) -> str:
        """Whether a rank keeps the others waiting: nobody goes on, and it is behind."""
        if self.at != self._reached[0][0]:
            self._reached[0] = self.at, now
        last, since = min(self._reached, key=lambda r: self._reached[r][0]), max(t for _, t in self._reached.values())
        ahead = max(at for at, _ in self._reached.values())
        if now - since > self.stall and self._reached[last][0] < ahead:
            return self._named(last, f"lives but has not gone on for {self.stall:.0f} s, and the others wait for it")
        return ""

    def leave(self, reason: str = "") -> None:
        """End with an error at once, or else wait until all others have left."""
        if reason:
            time.sleep(GRACE)
            self.left = True
            self._end_others(self._named(0, f"has ended with {reason}"))
        else:
            wait_until(lambda: not self._heard)
            self.left = True


class Spoke(Watch):
    """The part of every other rank: gives signs of life to rank 0, and hears whether one is lost."""

    def __init__(
        self, rank: int, address: tuple[str, int], token: str, nodes: list[str], lost: Callable[[str], None],
        **times: float,
    ) -> None:  # fmt: skip
        super().__init__(nodes, lost, **times)
        self._line = Line(socket.create_connection(address, timeout=self.patience))
        self._line.send(token=token, rank=rank)

    def _run(self) -> None:
        heard = before = time.monotonic()
        while not self._line.closed:
            waiting, _, _ = select.select([self._line.socket], [], [], INTERVAL)
            now = time.monotonic()
            heard = now if waiting or now - before > INTERVAL + self.patience / 2 else heard
            before = now
            try:
                lost = [m["lost"] for m in self._line.receive() if "lost" in m] if waiting else []
                if lost:
                    self._end(lost[0])
            except OSError:
                self._line.closed = True
                self._end(self._named(0, "has ended: it was killed, or its node is down"))
            if now - heard > self.patience:
                self._end(self._named(0, f"has given no sign of life for {self.patience:.0f} s"))
            if not self.left:
                self._line.send(at=self.at)

    def leave(self, reason: str = "") -> None:
        """Say that this rank ends, and wait until rank 0 knows."""
        if reason:
            time.sleep(GRACE)
        self.left = True
        self._line.send(left=reason)
        wait_until(lambda: self._line.closed)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for some seconds at most."""
    end = time.monotonic() + FAREWELL
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
