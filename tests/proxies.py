"""A network that fails, before a PostgreSQL server: slow, cut, hung, refusing, and cut before or after a commit.

It reads the frontend/backend protocol, as PostgreSQL's manual has it in "Message Formats", without TLS.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from postgres import free_port

Lost = Literal["request", "answer"]

_NEGOTIATIONS = (80877103, 80877104)
"""Requests for TLS and for GSSAPI: the server answers with one bare byte, and the client goes on in plain text."""
_READY = b"Z"


@dataclass
class _Trap:
    """A cut that is to come, at the statement that brings `left` to 0."""

    predicate: Callable[[bytes], bool]
    left: int
    lost: Lost

    def springs(self, statement: bytes) -> bool:
        if self.left and self.predicate(statement):
            self.left -= 1
            return self.left == 0
        return False


class Proxy:
    """Listens on a port of 127.0.0.1 and passes on to that of a server, in a thread of its own. A context manager."""

    def __init__(self, target: int, *, delay_s: float = 0) -> None:
        self.target = target
        """The server's port; another one takes effect for new connections."""
        self.delay_s = delay_s
        """Seconds by which whatever a client sends reaches the server later; answers pass at once."""
        self.port = free_port()
        self.cuts = 0
        """How many connections were cut at a statement so far."""
        self.trap: _Trap | None = None
        self.wires: set[_Wire] = set()
        self.flows = asyncio.Event()
        self._socket = _bound(self.port)
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._socket.close()

    def url(self, url: str) -> str:
        """A URL that names the server, by way of this proxy; other servers in it stay."""
        changed, times = re.subn(rf":{self.target}(?=[,/])", f":{self.port}", url)
        assert times == 1, f"the port {self.target} is not in the URL"
        return changed

    def cut(self) -> None:
        """Cut every connection now; new ones pass."""
        self._do(self._cut())

    def hang(self) -> None:
        """Pass nothing on, in either direction; connections stay, and new ones are accepted and hang, too."""
        self._do(self._hang())

    def refuse(self) -> None:
        """Refuse new connections; the others stay."""
        self._do(self._refuse())

    def mend(self) -> None:
        """Pass everything on again, what hung too; accept connections, and forget cuts that are still to come."""
        self._do(self._mend())

    def cut_after(self, predicate: Callable[[bytes], bool], n: int = 1, *, lost: Lost = "answer") -> None:
        """Cut a connection at the n-th statement from now, over all connections, of whose SQL `predicate` is true.

        With `lost="request"` the server never gets it. With `lost="answer"` it has executed it and answered, and the
        client is not told. A prepared statement counts each time that it is executed.
        """
        self.trap = _Trap(predicate, n, lost)

    def cut_commit(self, n: int = 1, lost: Lost = "answer") -> None:
        """As `cut_after`, at the n-th statement in which COMMIT stands, and not READ COMMITTED."""
        self.cut_after(lambda statement: re.search(rb"\bCOMMIT\b", statement.upper()) is not None, n, lost=lost)

    def _do(self, work: Coroutine[None, None, None]) -> None:
        """Done in the thread when this returns."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _cut(self) -> None:
        for wire in self.wires:
            wire.cut()

    async def _hang(self) -> None:
        self.flows.clear()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._socket = _bound(self.port)  # so that nobody else listens there

    async def _mend(self) -> None:
        self.trap = None
        self.flows.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, sock=self._socket)

    async def _end(self) -> None:
        for wire in self.wires:
            wire.cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = _Wire(self, reader, writer)
        self.wires.add(wire)
        try:
            await wire.carry()
        finally:
            self.wires.discard(wire)


class _Wire:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._talk = _Talk()
        self._lost: int | None = None
        """Which answer the client does not get."""
        self._is_cut = False

    def cut(self) -> None:
        """End it towards both sides, and drop what is under way."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def carry(self) -> None:
        """Until either side ends it, or it is cut."""
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._proxy.flows.wait()
            reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.target)
            self._writers.append(writer)
            if self._is_cut:
                return
            queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
            tasks = [asyncio.create_task(each) for each in (self._send(queue), self._down(reader), self._up(queue))]
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        except ConnectionError:
            self.cut()  # there is no server
        finally:
            for task in tasks:
                task.cancel()
            for writer in self._writers:
                writer.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _up(self, queue: asyncio.Queue[tuple[float, bytes] | None]) -> None:
        clock = asyncio.get_running_loop().time
        with suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                messages = []
                for message, statement, answer in self._talk.sent(data):
                    trap = self._proxy.trap
                    if statement is not None and trap is not None and trap.springs(statement):
                        if trap.lost == "request":
                            self._proxy.cuts += 1
                            self.cut()
                            return
                        self._lost = answer
                    messages.append(message)
                queue.put_nowait((clock() + self._proxy.delay_s, b"".join(messages)))
        queue.put_nowait(None)

    async def _send(self, queue: asyncio.Queue[tuple[float, bytes] | None]) -> None:
        clock = asyncio.get_running_loop().time
        while (item := await queue.get()) is not None:
            due, data = item
            await asyncio.sleep(due - clock())
            await self._pass(self._writers[1], data)

    async def _down(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(1 << 16):
            messages = []
            for message, answer in self._talk.told(data):
                if answer != self._lost:
                    messages.append(message)
                elif message[:1] == _READY:
                    self._proxy.cuts += 1
                    self.cut()
                    return
            await self._pass(self._writers[0], b"".join(messages))

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._proxy.flows.wait()
        writer.write(data)
        await writer.drain()


class _Talk:
    """Whole messages out of the bytes of one connection, and which answer belongs to which.

    Answers are numbered by the ReadyForQuery that ends each: the first ends the login.
    """

    def __init__(self) -> None:
        self._sent, self._told = bytearray(), bytearray()
        self._is_started = False
        self._bare = 0
        self._asked, self._answer = 1, 1
        self._prepared: dict[bytes, bytes] = {}

    def sent(self, data: bytes) -> Iterator[tuple[bytes, bytes | None, int]]:
        """Of each message of the client: it, the SQL that it has executed or None, and the number of its answer."""
        self._sent += data
        while (message := _take(self._sent, int(self._is_started))) is not None:
            yield message, *self._read(message)

    def told(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Of each message of the server: it, and the number of the answer that it is of."""
        self._told += data
        while self._bare and self._told:
            self._bare -= 1
            yield bytes([self._told.pop(0)]), self._answer
        while (message := _take(self._told, 1)) is not None:
            yield message, self._answer
            self._answer += message[:1] == _READY

    def _read(self, message: bytes) -> tuple[bytes | None, int]:
        if not self._is_started:
            is_negotiation = int.from_bytes(message[4:8], "big") in _NEGOTIATIONS
            self._bare += is_negotiation
            self._is_started = not is_negotiation
            return None, self._asked
        kind, body = message[:1], message[5:]
        if kind in {b"Q", b"S", b"F"}:  # Query, Sync, FunctionCall: a ReadyForQuery for each
            self._asked += 1
            return (body[:-1] if kind == b"Q" else None), self._asked
        if kind == b"P":  # Parse
            name, statement, _ = body.split(b"\0", 2)
            self._prepared[name] = statement
        elif kind == b"B":  # Bind
            return self._prepared.get(body.split(b"\0", 2)[1]), self._asked + 1
        return None, self._asked + 1


def _take(stream: bytearray, kind: int) -> bytes | None:
    """The first message off a stream, if it is whole: `kind` bytes, then a length that counts itself, then the rest."""
    size = kind + int.from_bytes(stream[kind : kind + 4], "big")
    if len(stream) < max(size, kind + 4):
        return None
    message = bytes(stream[:size])
    del stream[:size]
    return message


def _bound(port: int) -> socket.socket:
    """A socket that keeps a port of 127.0.0.1; connections are refused until it listens."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
