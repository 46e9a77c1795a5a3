"""The ASGI application: each call in, through the guard, and back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

from costguard.guard import Guard
from costguard.serving import headers, metrics
from costguard.serving.answering import SENT, TurnedAwayError, problem_of, where
from costguard.serving.asgi import Receive, Scope, Send, answer
from costguard.serving.caller import Caller, GoneError
from costguard.serving.door import Door
from costguard.serving.sockets import Socket, SocketUpstream, deny
from costguard.serving.upstream import Upstream
from costguard.wire import NATIVE
from costguard.wire.dialect import Known, Problem

STOP_S = 10.0
"""How long the endings of calls that were cut short may take to be written."""

JSON = "application/json"

_LARGE_BYTES = 256 * 1024
"""A refused body of more is read for the names of its tasks on a thread: other calls do not wait for that."""

log = logging.getLogger("costguard")


class Proxy:
    """See `serving.app`."""

    def __init__(
        self, guard: Guard, upstream: Upstream, door: Door, sockets: SocketUpstream, *, drain_s: float
    ) -> None:
        self._guard = guard
        self._upstream = upstream
        self._door = door
        self._drain_s = drain_s
        self._sockets = sockets
        self._calls: dict[asyncio.Task[Any], Caller | Socket] = {}
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._talk(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.drain(self._drain_s)
                await self._upstream.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def drain(self, seconds: float) -> None:
        """Take no more calls, and let those under way end for so long; then end them, and have that written."""
        self.is_draining = True
        for call in self._calls.values():
            if isinstance(call, Socket):
                call.leave()
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)
        left = list(self._calls.items())
        if left:
            log.warning(
                "%d calls were cut short by the end of the proxy: what was sent of them is unresolved", len(left)
            )
            for _, call in left:
                call.stop()
            await asyncio.wait([task for task, _ in left], timeout=STOP_S)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, caller = asyncio.current_task(), Caller(receive)
        if task is None:  # never so within a server
            return
        self._calls[task] = caller
        try:
            await self._call(scope, caller, send)
        except asyncio.CancelledError:
            if not caller.is_stopped:
                raise
            task.uncancel()
        except GoneError:
            log.debug("a caller went away before its request was complete")
        finally:
            del self._calls[task]
            caller.leave()

    async def _talk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A websocket, from the request for it on."""
        task, talking = asyncio.current_task(), Socket(receive, send)
        if task is None or (await receive())["type"] != "websocket.connect":
            return
        self._calls[task] = talking
        try:
            token = self._door.take_token(scope)
            if self.is_draining:
                raise TurnedAwayError(Problem(503, "shutting_down", "the proxy is shutting down; nothing was sent"))
            project = await self._door.project(scope, token)
            with self._guard.scope(project=project):
                await talking.serve(scope, self._sockets, self._door.dropped, lambda: self._door.holder(scope, token))
        except Exception as error:  # noqa: BLE001  see `deny`
            if talking.is_accepted:
                log.error("a websocket failed in the proxy: %s", where(error))
            else:
                await deny(scope, send, error, self._sockets.name)
        finally:
            del self._calls[task]

    async def _call(self, scope: Scope, caller: Caller, send: Send) -> None:
        token = self._door.take_token(scope)
        own = {"/healthz": self._health, "/metrics": self._metrics}.get(scope["path"])
        request: httpx.Request | None = None
        speaks: Known | None = None
        try:
            if own is not None and scope["method"] in ("GET", "HEAD"):
                caller.watch()
                await own(scope, token, send)
                return
            if self.is_draining:
                raise TurnedAwayError(Problem(503, "shutting_down", "the proxy is shutting down; nothing was sent"))
            project = await self._door.project(scope, token)
            options = {} if project is None else {"project": project}
            request, speaks = self._upstream.request(scope, caller, options, self._door.dropped)
            response = await self._upstream.transport.handle_async_request(request)
        except GoneError:
            raise
        except asyncio.CancelledError:
            if caller.is_gone or not caller.is_stopped:
                raise
            said = f"the proxy ended before {self._upstream.name} had answered; {SENT}"
            await self._tell(send, Problem(503, "shutting_down", said), speaks or NATIVE, _body(request))
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is owed an answer
            problem = problem_of(error, self._upstream.name)
            if problem is None:
                log.error("a call failed in the proxy: %s", where(error))
                problem = Problem(500, "internal", "the proxy failed; its log says where")
            await self._tell(send, problem, speaks or self._upstream.speaks(scope), _body(request))
        else:
            caller.is_at_work = False
            await self._answer(response, caller, send, is_whole=isinstance(response.stream, httpx.ByteStream))

    @staticmethod
    async def _answer(response: httpx.Response, caller: Caller, send: Send, *, is_whole: bool) -> None:
        """Pass a response back as it comes; one that breaks off is broken off here, too."""
        try:
            if caller.is_gone:
                return
            told = headers.to_caller(response.headers.raw)
            await send({"type": "http.response.start", "status": response.status_code, "headers": told})
            stream: Any = response.stream
            if is_whole:
                await send({"type": "http.response.body", "body": b"".join(stream)})
                return
            async for chunk in stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await response.aclose()
            await send({"type": "http.response.body", "body": b""})
        except (httpx.HTTPError, OSError) as error:
            log.warning("an answer broke off: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001  a server would log its words
            log.error("an answer failed in the proxy: %s", where(error))
        finally:
            await response.aclose()

    async def _tell(self, send: Send, problem: Problem, speaks: Known, body: bytes) -> None:
        extra = [(b"connection", b"close")] if problem.status in (413, 503) else []
        if len(body) > _LARGE_BYTES:
            told = await asyncio.to_thread(speaks.problem, problem, body)
        else:
            told = speaks.problem(problem, body)
        await answer(send, problem.status, told, JSON, extra)

    async def _health(self, scope: Scope, token: str | None, send: Send) -> None:  # noqa: ARG002
        status, said = await metrics.health(self._guard, is_draining=self.is_draining)
        await answer(send, status, said, JSON)

    async def _metrics(self, scope: Scope, token: str | None, send: Send) -> None:
        project = await self._door.reader(scope, token)
        content_type, said = await metrics.page(self._guard, project, in_flight=len(self._calls) - 1)
        await answer(send, 200, said, content_type)


def _body(request: httpx.Request | None) -> bytes:
    """A request's body, as far as it was read whole."""
    try:
        return b"" if request is None else request.content
    except httpx.RequestNotRead:
        return b""
