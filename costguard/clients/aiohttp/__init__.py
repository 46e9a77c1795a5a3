"""aiohttp: a client middleware. What is known of its messages is in `messages`."""

from __future__ import annotations

import re
from typing import Any, NoReturn, TypeVar

import aiohttp

from costguard.clients.aiohttp.messages import (
    RequestBody,
    address,
    another,
    buffered,
    is_never_sent,
    media_type,
    passes,
    read_already,
)
from costguard.clients.aiohttp.streams import listening
from costguard.clients.guarding import OPTIONS, Guarding, Handing, call_of, in_hand, is_copy, second_guard
from costguard.errors import ConfigurationError
from costguard.estimating import tokens
from costguard.exchange.drivers import adrive
from costguard.exchange.effects import Claim, Head, Listen, Question, Send
from costguard.exchange.flow import exchange
from costguard.exchange.offload import sleep

C = TypeVar("C")

_KNOWN = (3, 12, 6)
"""Since this version a middleware can read and change a request's body."""

_version = tuple(int(part) for part in re.findall(r"[0-9]+", aiohttp.__version__)[:3])
if _version < _KNOWN or _version[0] != _KNOWN[0]:
    raise ConfigurationError(
        f"aiohttp {aiohttp.__version__} is a version that costguard does not know: it guards aiohttp 3, from 3.12.6 on"
    )


def wrap(guard: Guarding, client: C) -> NoReturn:  # noqa: ARG001  every adapter has this one
    """A session takes its middlewares when it is made, and no public name leads to them later: TypeError."""
    name = f"{type(client).__module__}.{type(client).__name__}"
    raise TypeError(
        f"guard.wrap cannot guard a {name}, whose middlewares are fixed when it is made: make it as"
        " aiohttp.ClientSession(middlewares=(guard.aiohttp_middleware,))"
    )


class Middleware:
    """A client middleware that guards what passes through it, on whichever loop its session is."""

    def __init__(self, guard: Guarding) -> None:
        tokens.preload()
        self.guard = guard

    async def __call__(self, request: Any, handler: Any) -> Any:
        """Send `request` under guard and return the response."""
        if request.method != "POST":
            return await handler(request)
        hand = in_hand.get()
        if hand is not None and hand.request is request and hand.guard is not self.guard and not self.guard.is_closed:
            raise second_guard("session")
        return await self.send(request, handler)

    async def send(self, request: Any, handler: Any) -> Any:
        """As a call of it, for a POST that no other guard has in hand."""
        call = call_of(self.guard, request, address, passes)
        if call is None:
            return await handler(request)
        port = _Port(handler, request, self.guard, call.claim)
        try:
            await adrive(exchange(self.guard, call), port, self.guard.offload)
        except BaseException:
            if port.response is not None:
                port.response.close()  # nobody else will
            raise
        return port.response


class _Port:
    """One request on its way through a session's handler."""

    def __init__(self, handler: Any, request: Any, guard: Guarding, claim: Claim) -> None:
        self._handler = handler
        self._request = request
        self._guard = guard
        self._body = RequestBody(request, claim)
        self._read: bytes | None = None
        self.response: Any = None

    async def read_request(self) -> bytes | None:
        body = await self._body.read()
        if is_copy(self._guard, self._request, body):
            return None
        self._read = body
        return body

    async def send(self, effect: Send) -> Head:
        is_ours = effect.receipt is not None and bool(effect.receipt.tasks)
        await self._body.replace(effect.body, is_ours)
        self._request.response = None
        with Handing(self._guard, self._request, effect, self._is_never_sent, self._read):
            self.response = await self._handler(self._request)
        if is_ours:
            setattr(self.response, OPTIONS, effect.receipt)
        return Head(self.response.status, media_type(self.response))

    def _is_never_sent(self, error: Exception) -> bool:
        # A middleware behind this one may have sent it before, and met the error at a second try.
        return self._request.response is None and is_never_sent(error)

    async def read_response(self) -> bytes:
        return await buffered(self._request, self.response)

    def listen(self, effect: Listen) -> bytes | None:
        whole = read_already(self.response)
        if whole is None:
            self.response.content = listening(self._request, self.response, effect, self._guard)
        elif effect.sieve is not None and whole == self.response._body:  # else the caller undoes its encoding
            self.response._body = effect.sieve.feed(whole) + effect.sieve.end()
        return whole

    async def ask(self, question: Question) -> tuple[int, bytes]:
        other = await another(self._request, question.body)
        with Handing(self._guard, other, Send(question.body), self._is_never_sent, None):
            response = await self._handler(other)
        try:
            return response.status, await buffered(other, response)
        finally:
            response.release()

    async def pause(self, seconds: float) -> None:
        await sleep(seconds)
