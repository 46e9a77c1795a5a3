"""Receive Runware's webhooks: a small ASGI app that books each result, for any ASGI server.

    app = webhooks.app(guard, secret=os.environ["COSTGUARD_WEBHOOK_SECRET"])

    "webhookURL": f"https://hooks.example.com/costguard/{secret}"

`docs/webhooks.md` says how to run it. It needs no library beyond costguard's own; the extra `webhooks` names
a server, uvicorn.
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import anyio

from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.effects import Interrupted

if TYPE_CHECKING:
    from costguard.guard import Guard

SECRET_CHARS_MIN = 16
"""A shorter secret is refused: it stands in a URL that anybody may try."""

BODY_BYTES_MAX = 16 * 2**20
"""Default of `body_max`: room for a result that carries a picture as base64."""

BODY_TIMEOUT_S = 10
"""Default of `body_timeout_s`: results are small, and a sender that dribbles is no sender of results."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_SECRET = re.compile(r"[A-Za-z0-9._~-]+")

log = logging.getLogger("costguard")


def app(
    guard: Guard,
    *,
    secret: str,
    path: str = "/costguard",
    body_max: int = BODY_BYTES_MAX,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> App:
    """An ASGI app that takes results by POST at `path/secret` and books them with `guard.observe`.

    `secret`: at least 16 letters, digits or `-._~`, so that it stands in a URL as it is. `body_max`: bytes of
    a body; `body_timeout_s`: seconds for all of it. The guard stays yours to close. ConfigurationError for
    settings that cannot be used.

    Statuses: 200 the ledger has it (a task that is not in this ledger is logged, and 200 too), 400 not JSON,
    404 anything but this path with this secret, 405 not POST, 408 too slow, 413 too long, 503 the ledger
    could not be written: send it again.
    """
    if not isinstance(secret, str) or len(secret) < SECRET_CHARS_MIN or not _SECRET.fullmatch(secret):
        raise ConfigurationError(
            f"secret: expected at least {SECRET_CHARS_MIN} letters, digits or -._~; make one with"
            ' `python -c "import secrets; print(secrets.token_urlsafe(32))"`'
        )
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigurationError(f"path: {path!r} does not begin with a slash, such as '/costguard'")
    if isinstance(body_max, bool) or not isinstance(body_max, int) or body_max < 1:
        raise ConfigurationError(f"body_max: {body_max!r} is not a number of bytes from 1")
    if not body_timeout_s > 0:
        raise ConfigurationError(f"body_timeout_s: {body_timeout_s!r} is not a number of seconds above 0")
    address = f"{path.rstrip('/')}/{secret}".encode()

    async def receiver(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            status = await answer(scope, receive)
            if status is not None:
                await _send(send, status)

    async def answer(scope: MutableMapping[str, Any], receive: Receive) -> int | None:
        if not hmac.compare_digest(_path(scope).encode(errors="replace"), address):
            return 404
        if scope["method"] != "POST":
            return 405
        if _announced(scope) > body_max:
            log.warning("webhook: a body of more than %d bytes was refused", body_max)
            return 413
        body = None
        with anyio.move_on_after(body_timeout_s) as limit:
            body = await _read(receive, body_max)
        if limit.cancelled_caught:
            log.warning("webhook: a body that did not come within %g s was refused", body_timeout_s)
            return 408
        if body is None:
            log.info("webhook: the sender went away before its body was complete; nothing was recorded")
            return None
        if len(body) > body_max:
            log.warning("webhook: a body of more than %d bytes was refused", body_max)
            return 413
        return await book(bytes(body))

    async def book(body: bytes) -> int:
        try:
            await guard.offload(lambda: guard.observe(body))
        except Interrupted as stop:  # it is booked, but nobody waits for the answer any more
            raise stop.cancellation from None
        except ConfigurationError:
            log.warning("webhook: a body of %d bytes is not JSON; nothing was recorded", len(body))
            return 400
        except LedgerError as error:
            log.error("webhook: a result could not be recorded, its sender is asked to send it again: %s", error)
            return 503
        return 200

    return receiver


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan protocol; there is nothing to prepare and nothing to take down."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


def _path(scope: MutableMapping[str, Any]) -> str:
    """The path below the place where the app is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _announced(scope: MutableMapping[str, Any]) -> int:
    """The Content-Length in bytes; 0 if there is none: what comes is counted anyway."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length[:19]) if length.isdigit() else 0


async def _read(receive: Receive, body_max: int) -> bytearray | None:
    """The body, or a little more than `body_max` of it; None if the sender went away."""
    body = bytearray()
    while len(body) <= body_max:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


async def _send(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0")]
    if status == 405:
        headers.append((b"allow", b"POST"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        log.info("webhook: the sender went away before its answer %d", status)
