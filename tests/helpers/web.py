"""A web server on the loopback interface that serves a folder, counts, waits, and misbehaves on request."""

import hashlib
import http.server
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[str, int], str | int | None]
"""``fault(path, number)``: a status to answer the n-th request (from 0) of a path with, or one of the words below."""

WORDS = ("truncate", "reset", "flip", "stall")


class Web:
    """Serves `folder` until `close`; `asked` counts the requests by method, path and range."""

    def __init__(self, folder: Path, latency: float = 0.0, fault: Fault = lambda path, number: None) -> None:
        self.folder, self.latency, self.fault = folder, latency, fault
        self.asked: Counter = Counter()
        self.running, self.most, self._held = 0, 0, 0
        self._lock = threading.Condition()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                web._answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hold(self, count: float) -> None:
        """Answer nothing (for 30 s at most) until so many requests are there at once; ``hold(0)`` lets them go."""
        with self._lock:
            self._held = count
            self._lock.notify_all()

    def chunks(self, variable: str) -> Counter:
        """How often each chunk (path and range) of a variable was asked for, tables of shards left out."""
        return Counter(
            {
                (path, span): n
                for (method, path, span), n in self.asked.items()
                if method == "GET" and f"/{variable}/" in path and not path.endswith((".json", ".zarray", ".zattrs"))
                if span is None or not span.startswith("bytes=-")
            }
        )

    def _answer(self, request) -> None:
        path, span = request.path.partition("?")[0], request.headers.get("Range")
        with self._lock:
            number = self.asked[request.command, path, span]
            self.asked[request.command, path, span] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running >= self._held:
                self._held = 0
                self._lock.notify_all()
            self._lock.wait_for(lambda: not self._held, 30)
        try:
            time.sleep(self.latency)
            self._send(request, path, span, self.fault(path, number))
        finally:
            with self._lock:
                self.running -= 1

    def _send(self, request, path: str, span: str | None, fault: str | int | None) -> None:
        file = self.folder / path.strip("/")
        if fault == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.close_connection = True
            request.connection.close()
            return
        if fault == "stall":
            time.sleep(1.0)
        status = fault if isinstance(fault, int) else 200 if file.is_file() else 404
        body = bytearray(file.read_bytes()) if status == 200 else bytearray()
        stat = file.stat() if status == 200 else None
        request.send_response_only(206 if span and status == 200 else status)
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            body = body[-int(last) :] if not first else body[int(first) : int(last) + 1 if last else None]
        if stat:
            request.send_header("ETag", hashlib.md5(f"{stat.st_mtime_ns} {stat.st_size}".encode()).hexdigest())
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault == "flip" and body:
            body[len(body) // 2] ^= 4
        if request.command == "GET":
            request.wfile.write(body[: len(body) // 2] if fault == "truncate" else body)
        if fault == "truncate":
            request.close_connection = True
