"""A proxy on a loopback port, and an API behind it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from costguard import Guard
from costguard.serving import app, running

WAIT_S = 20
"""What happens at once on a machine that is not busy."""


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    pause = threading.Event()
    for _ in range(WAIT_S * 100):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


def raw(url: str, request: bytes) -> bytes:
    """All that comes back for a request as no client writes it; it is to ask for the connection's end."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), parts.port or 0), WAIT_S) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


class Served(NamedTuple):
    """A proxy that runs, and how it is told to end; then everything is written."""

    url: str
    proxy: Any
    end: Callable[[], None]
    thread: threading.Thread


@contextmanager
def serving(guard: Guard, upstream: str, *, drain_s: float = 30, **options: Any) -> Iterator[Served]:
    """Serve `guard` before `upstream` with uvicorn, on a thread of its own."""
    proxy = app(guard, upstream, drain_s=drain_s, **options)
    is_there = threading.Event()
    with running.listen("127.0.0.1", 0) as listening:
        server = running.server(proxy, drain_s=drain_s, started=is_there.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def end() -> None:
            server.should_exit = True

        try:
            assert is_there.wait(WAIT_S)
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", proxy, end, thread)
        finally:
            end()
            thread.join()


class Got(NamedTuple):
    """A request as it came over the wire."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


class Plain:
    """An API that answers each request with what `answer` makes of it: a status, headers, and pieces of a body.

    `written` counts the pieces that were sent; one that cannot be sent any more sets `is_cut`.
    """

    def __init__(self, answer: Callable[[Got], tuple[int, list[tuple[str, str]], Any]]) -> None:
        self.got: list[Got] = []
        self.written = 0
        self.is_cut = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                """Quiet."""

            def handle_all(self) -> None:
                got = Got(self.command, self.path, self.headers.items(), self._body())
                outer.got.append(got)
                status, headers, pieces = answer(got)
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                is_chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
                self.end_headers()
                try:
                    for piece in pieces:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                        outer.written += 1
                    if is_chunked:
                        self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    outer.is_cut.set()
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_all

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length", 0)))
                pieces = []
                while size := int(self.rfile.readline(), 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Plain:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
