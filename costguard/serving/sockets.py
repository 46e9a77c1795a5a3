"""Websockets through the proxy: what goes out passes the gate, what comes in is heard, frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from costguard.clients.websockets import Talk
from costguard.errors import ConfigurationError, CostguardError
from costguard.exchange.endpoints import normal_host
from costguard.exchange.gate import ENFORCE
from costguard.guard import Guard
from costguard.serving import headers
from costguard.serving.answering import TurnedAwayError, problem_of, where
from costguard.serving.asgi import Headers, Receive, Scope, Send, answer, raw_path
from costguard.serving.upstream import CONNECT_S, VERSION, NotPlainError
from costguard.wire import NATIVE, SOCKETS
from costguard.wire.dialect import Problem

FRAME_BYTES_MAX = 64 * 2**20
"""Of one message, either way: room for media as base64."""

_LEAVING, _FAILED, _REFUSED = 1001, 1011, 1008
"""Codes of RFC 6455 by which a connection is closed."""

_UNSENDABLE = {1005: 1000, 1006: _FAILED, 1015: _FAILED}
"""Codes that say what became of a connection, and what to send in their place."""

Admit = Callable[[], Awaitable[object]]
"""Raises `TurnedAwayError` for a caller that may not call any more."""

log = logging.getLogger("costguard")


class SocketUpstream:
    """Where websockets are passed on to: at `url`, with or without its `/v1`; None: where `api` has them."""

    def __init__(self, guard: Guard, api: httpx.URL, url: str | None) -> None:
        self._guard = guard
        self._base = _base(api, url)
        self.name = urlsplit(self._base).netloc
        if guard.mode == ENFORCE and not self._is_native(VERSION):
            raise ConfigurationError(
                f"upstream_ws: this guard does not know {self.name}; name it:"
                f" Guard(endpoints=[{self._base + VERSION!r}])"
            )

    def talk(self, path: str) -> Talk:
        """What guards a connection to `path`.

        `TurnedAwayError` for one that a guard cannot read, `NotPlainError` for one that would lead elsewhere.
        """
        if not path.startswith("/") or "#" in path:
            raise NotPlainError
        if self._guard.mode == ENFORCE and not self._is_native(path):
            said = f"websockets are guarded at {VERSION} alone, with native tasks; nothing was sent"
            raise TurnedAwayError(Problem(403, "websocket_not_metered", said))
        host, port, full = self._address(path)
        return Talk(self._guard, host=host, port=port, path=full)

    def _is_native(self, path: str) -> bool:
        claim = self._guard.claim(*self._address(path))
        return claim is not None and claim.is_sure and claim.dialects == (NATIVE,)

    def _address(self, path: str) -> tuple[str, int | None, str]:
        parts = urlsplit(self._base + path)
        port = None if parts.port == {"ws": 80, "wss": 443}[parts.scheme] else parts.port
        return normal_host(parts.hostname or ""), port, parts.path

    def connect(self, scope: Scope, dropped: frozenset[bytes]) -> Any:
        """A connection to where a request for one is passed on, to be awaited."""
        from websockets.asyncio.client import connect

        class Connect(connect):
            def process_redirect(self, exc: Exception) -> Exception:
                return exc  # it is the caller's to follow

        query = scope.get("query_string", b"").decode("latin-1")
        url = self._base + raw_path(scope) + (f"?{query}" if query else "")
        told = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers.to_upstream(scope["headers"], dropped, is_read=False)
            if not name.startswith(b"sec-websocket-")
        ]
        return Connect(
            url,
            additional_headers=told,
            subprotocols=scope.get("subprotocols") or None,
            user_agent_header=None,
            open_timeout=CONNECT_S,
            max_size=FRAME_BYTES_MAX,
            ping_timeout=None,  # a slow reader at the other end may keep its answer waiting
            proxy=None,
        )


class Socket:
    """A caller's websocket, and the upstream's."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_over = asyncio.Event()
        self._is_leaving = False
        self._talk: Talk | None = None
        self.is_accepted = False

    def leave(self) -> None:
        """End as soon as nothing is waited for."""
        self._is_leaving = True
        self._look()

    def stop(self) -> None:
        """End now; what is not answered is unresolved."""
        self._is_over.set()

    def _look(self) -> None:
        if self._is_leaving and (self._talk is None or self._talk.is_at_rest):
            self._is_over.set()

    async def serve(self, scope: Scope, upstream: SocketUpstream, dropped: frozenset[bytes], admit: Admit) -> None:
        """From the first word to the last. Raises what is to be answered in place of a websocket.

        `admit` is asked before each frame: a caller whose token is revoked is refused, and its connection ends.
        """
        talk = self._talk = upstream.talk(raw_path(scope))
        async with upstream.connect(scope, dropped) as far:
            await self._send({"type": "websocket.accept", "subprotocol": far.subprotocol, "headers": []})
            self.is_accepted = True
            code = _LEAVING
            coroutines = (self._out(far, talk, admit), self._back(far, talk), self._ended())
            tasks = [asyncio.create_task(one) for one in coroutines]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                reason = "the proxy ended"
                if tasks[0].done():
                    reason = "the caller went away"
                elif tasks[1].done():
                    code, reason = _UNSENDABLE.get(far.close_code, far.close_code or 1000), "closed by the provider"
            finally:
                for task in tasks:
                    task.cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                await talk.end(reason)
        for error in found:
            if isinstance(error, Exception) and not isinstance(error, OSError):  # that one is the caller, gone
                log.error("a websocket failed in the proxy: %s", type(error).__name__)
                code = _FAILED
        if tasks[0].cancelled():
            with contextlib.suppress(OSError):
                await self._send({"type": "websocket.close", "code": code})

    async def _ended(self) -> None:
        await self._is_over.wait()

    async def _out(self, far: Any, talk: Talk, admit: Admit) -> None:
        """What the caller sends."""
        from websockets.exceptions import ConnectionClosed
        from websockets.protocol import State

        while (message := await self._receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            frame: str | bytes = message["bytes"] if text is None else text
            try:
                await admit()
                await talk.send(frame, far.send, lambda: far.state is State.OPEN)
            except (CostguardError, TurnedAwayError) as error:
                problem = problem_of(error, "")
                if problem is not None:
                    told = NATIVE.problem(problem, frame.encode() if isinstance(frame, str) else frame)
                    await self._send({"type": "websocket.send", "text": told.decode()})
                if isinstance(error, TurnedAwayError):
                    self.leave()
            except ConnectionClosed:
                await self._is_over.wait()  # what else there is to say of it comes the other way

    async def _back(self, far: Any, talk: Talk) -> None:
        """What the upstream sends."""
        from websockets.exceptions import ConnectionClosedError

        try:
            async for frame in far:
                await talk.hear(frame)
                kind = "text" if isinstance(frame, str) else "bytes"
                await self._send({"type": "websocket.send", kind: frame})
                self._look()
        except ConnectionClosedError:
            return


async def deny(scope: Scope, send: Send, error: Exception, upstream: str) -> None:
    """Answer a request for a websocket with what kept it from being one."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus

    if isinstance(error, InvalidStatus):  # the upstream's own word
        told: Headers = [
            (name.lower().encode(), value.encode("latin-1")) for name, value in error.response.headers.raw_items()
        ]
        kept = [
            (name, value) for name, value in headers.to_caller(told) if name not in (b"content-length", b"content-type")
        ]
        kind = error.response.headers.get("content-type", "application/json")
        await _deny(scope, send, error.response.status_code, bytes(error.response.body or b""), kind, kept)
        return
    problem = problem_of(error, upstream)
    if problem is None:
        if not isinstance(error, (OSError, TimeoutError, InvalidHandshake)):
            log.error("a websocket failed in the proxy: %s", where(error))
            problem = Problem(500, "internal", "the proxy failed; its log says where")
        else:
            said = f"{upstream} cannot be reached ({type(error).__name__}); nothing was sent"
            problem = Problem(502, "upstream_unreachable", said)
    await _deny(scope, send, problem.status, NATIVE.problem(problem, b""), "application/json", [])


async def _deny(scope: Scope, send: Send, status: int, body: bytes, kind: str, more: Headers) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _REFUSED})
        return

    async def as_websocket(message: Any) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await answer(as_websocket, status, body, kind, more)


def _base(api: httpx.URL, url: str | None) -> str:
    """What comes before `/v1` in the address of websockets."""
    if url is None:
        plain = str(api).rstrip("/").removesuffix(VERSION)
        url = SOCKETS.get(normal_host(api.host)) or plain.replace("http", "ws", 1)
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(f"upstream_ws: {url!r} is not an address such as wss://ws-api.runware.ai/v1")
    return url.rstrip("/").removesuffix(VERSION)
