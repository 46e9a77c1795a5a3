"""Who made a call: the body that is read from them, and whether they are still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

from costguard.serving.asgi import Receive, Scope


class GoneError(Exception):
    """The caller went away before its request was complete."""


class TooLargeError(Exception):
    """A body that must be read is longer than it may be."""


class Caller:
    """One call, from its beginning in the task that serves it.

    A caller that goes away ends it: at once, except while the provider works on what may be billed. That is waited for,
    so that the ledger learns what it cost.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self.is_gone = False
        self.is_stopped = False
        """It was ended from here: the cancellation is nobody else's."""
        self.request: httpx.Request | None = None
        """What is sent for it, if that may be billed."""
        self.is_at_work = False
        """The provider has it, and has not begun to answer."""

    def watch(self) -> None:
        """From here on, notice if the caller goes away; all that it has to say was read."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if not self.is_at_work:
            self.stop()

    def stop(self) -> None:
        """End the call, whatever it is at; what was sent and not answered is unresolved then."""
        if not self.is_stopped and self._task is not None:
            self.is_stopped = True
            self._task.cancel()

    def leave(self) -> None:
        """The call is over."""
        if self._watching is not None:
            self._watching.cancel()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        is_more = True
        while is_more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                raise GoneError
            is_more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece
        self.watch()


class Body(httpx.AsyncByteStream):
    """A caller's body as httpx takes it, at most `most` bytes of it; None: as many as come."""

    def __init__(self, caller: Caller, most: int | None) -> None:
        self._caller = caller
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for piece in self._caller.pieces():
            count += len(piece)
            if self._most is not None and count > self._most:
                raise TooLargeError
            yield piece


def has_body(scope: Scope) -> bool:
    """Whether a request says that a body follows."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 "))
        for name, value in scope["headers"]
    )
