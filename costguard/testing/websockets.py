"""A stand-in on a websocket: the same answers and the same bill, in frames."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from costguard.testing import exact
from costguard.testing.records import Provider, Reply

if TYPE_CHECKING:
    from websockets.sync.server import ServerConnection

_TEXT = 0x81
_BEYOND = 127
"""First bytes of a frame: it is a text and whole; its length stands in the eight bytes that follow."""


@contextmanager
def serve(standin: Provider, *, apart: bool, conflicts: bool) -> Iterator[str]:
    """Serve `standin` on a websocket of 127.0.0.1; yields its URL. See `StandIn.serve_websocket`."""
    from websockets.sync.server import serve as serve_sync

    talking = _Talking(standin, apart=apart, conflicts=conflicts)
    with serve_sync(talking, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, name="stand-in websocket", daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1"
        finally:
            talking.hang_up()
            server.shutdown()
            thread.join()


class _Talking:
    """Answers each connection, on a thread of its own."""

    def __init__(self, standin: Provider, *, apart: bool, conflicts: bool) -> None:
        self._standin = standin
        self._apart = apart
        self._conflicts = conflicts
        self._lock = threading.Lock()
        self._open: set[ServerConnection] = set()
        self._known: set[str] = set()
        self._is_closing = False

    def __call__(self, connection: ServerConnection) -> None:
        with self._lock:
            self._open.add(connection)
        if self._is_closing:
            _hang_up(connection)
        try:
            for message in connection:
                self._answer(connection, exact.loads(message if isinstance(message, bytes) else message.encode()))
        except (OSError, EOFError):
            pass  # a client that goes away is everyday life here
        except Exception as error:
            if type(error).__name__ not in ("ConnectionClosedError", "ConnectionClosedOK"):
                raise
        finally:
            with self._lock:
                self._open.discard(connection)

    def hang_up(self) -> None:
        """Cut every connection."""
        self._is_closing = True
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _hang_up(connection)

    def _answer(self, connection: ServerConnection, asked: Any) -> None:
        tasks = asked if isinstance(asked, list) else [asked]
        for task in tasks:
            kind = task.get("taskType")
            if kind == "authentication":
                item = {"taskType": kind, "connectionSessionUUID": str(uuid.uuid4())}
                connection.send(exact.dumps({"data": [item]}))
            elif kind == "ping":
                connection.send(exact.dumps({"data": [{"taskType": kind, "pong": True}]}))
            elif not self._is_conflict(connection, task):
                reply = self._standin.handle("POST", "/v1", {}, exact.dumps([task]).encode())
                self._send(connection, reply)

    def _is_conflict(self, connection: ServerConnection, task: dict[str, Any]) -> bool:
        """Whether a task was sent before and is turned away for that."""
        name = str(task.get("taskUUID"))
        if not self._conflicts or task.get("taskType") in ("getResponse", "getTaskDetails"):
            return False
        with self._lock:
            if name not in self._known:
                self._known.add(name)
                return False
        said = {"code": "conflictTaskUUID", "message": "This taskUUID is in use.", "taskUUID": name}
        connection.send(exact.dumps({"errors": [said]}))
        return True

    def _send(self, connection: ServerConnection, reply: Reply) -> None:
        body = b"".join(reply.chunks)
        if reply.fault == "cut":
            head = bytes((_TEXT, _BEYOND)) + (2 * len(body) + 2).to_bytes(8)
            connection.socket.sendall(head + body)  # half of what it announces
        elif reply.fault != "drop":
            for frame in self._frames(body, is_stream="content-length" not in reply.headers):
                connection.send(frame)
        if reply.fault in ("cut", "drop"):
            _hang_up(connection)

    def _frames(self, body: bytes, *, is_stream: bool) -> Iterator[str]:
        if is_stream:
            for line in body.decode().splitlines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data != "[DONE]":
                    yield exact.dumps({"data": [exact.loads(data.encode())]})
            return
        if self._apart:
            with contextlib.suppress(ValueError):
                told = exact.loads(body)
                for item in told.get("data", ()):
                    yield exact.dumps({"data": [item]})
                if told.get("errors") or not told.get("data"):
                    yield exact.dumps({key: value for key, value in told.items() if key != "data"})
                return
        yield body.decode()


def _hang_up(connection: ServerConnection) -> None:
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)
