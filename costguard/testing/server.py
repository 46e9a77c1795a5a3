"""A stand-in on a loopback port: HTTP/1.1 with keep-alive, streams in chunks, webhooks from the background."""

from __future__ import annotations

import http.client
import queue
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from costguard.testing.records import Provider, Reply, Webhook

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_WEBHOOK_TRIES = 3
_WEBHOOK_TIMEOUT_S = 5


@contextmanager
def serve(standin: Provider) -> Iterator[str]:
    """Serve `standin` on 127.0.0.1, at a free port; yields the base URL. See `StandIn.serve`."""
    server = _Server(standin)
    courier = threading.Thread(target=server.carry_webhooks, name="stand-in webhooks", daemon=True)
    # Shutdown waits for the end of a poll: a short one, since each test pays for it.
    listener = threading.Thread(target=server.serve_forever, args=(0.02,), name="stand-in", daemon=True)
    courier.start()
    listener.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        listener.join()
        server.hang_up()
        server.webhooks.put(None)
        courier.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, standin: Provider) -> None:
        self.standin = standin
        self.closing = threading.Event()
        self.webhooks: queue.SimpleQueue[Webhook | None] = queue.SimpleQueue()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """As http.server does, but without asking the name service for this host's name: that can be slow."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the base class, and remember the connection, so that `hang_up` can end it."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close what clients keep open, and wait for the threads that served it."""
        self.closing.set()
        with self._lock:
            connections = dict(self._open)
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
        for thread in connections.values():
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is everyday life here; anything else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def carry_webhooks(self) -> None:
        """Send what is owed, one after the other, until None comes."""
        while webhook := self.webhooks.get():
            # Examples name hosts that belong to others: nothing leaves this machine.
            if urlsplit(webhook.url).hostname in _LOOPBACK:
                for _ in range(_WEBHOOK_TRIES):
                    if _post(webhook):
                        break


def _post(webhook: Webhook) -> bool:
    """POST a webhook; whether it was answered with a 2xx."""
    url = urlsplit(webhook.url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=_WEBHOOK_TIMEOUT_S)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        connection.request("POST", target, webhook.body, {"Content-Type": "application/json"})
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self._body()
        reply = self.server.standin.handle(self.command, self.path, dict(self.headers.items()), body)
        try:
            self._send(reply)
        finally:
            for webhook in reply.webhooks:
                self.server.webhooks.put(webhook)

    do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet: bodies and addresses may hold secrets."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(pieces)

    def _send(self, reply: Reply) -> None:
        standin = self.server.standin
        self.server.closing.wait(standin.latency_s)
        self.close_connection = self.close_connection or reply.fault is not None
        silent = reply.fault == "drop" or (reply.fault == "hang" and not reply.chunks)
        if not silent:
            self._send_head(reply)
            for chunk in reply.chunks:
                if "content-length" in reply.headers:
                    self.wfile.write(chunk)
                else:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                    self.wfile.flush()
                    self.server.closing.wait(standin.chunk_delay_s)
            if reply.fault is None and "content-length" not in reply.headers:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        if reply.fault == "hang":
            self.connection.recv(1)  # returns when the client gives up, or the server closes

    def _send_head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "content-length" not in reply.headers:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
