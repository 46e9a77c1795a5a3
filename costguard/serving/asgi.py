"""The few words of ASGI that the proxy speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Every value of a header; `name` in lower case, as ASGI has them."""
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def text_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """As `header`, of words in any language: they are UTF-8, as most clients send them, and else Latin-1."""

    def text(value: str) -> str:
        try:
            return value.encode("latin-1").decode()
        except UnicodeDecodeError:
            return value

    return [text(value) for value in header(headers, name)]


def raw_path(scope: Scope) -> str:
    """The path as it was asked for, percent-encoded; its bytes as Latin-1."""
    raw = scope.get("raw_path")
    if raw is None:
        from urllib.parse import quote

        return quote(scope["path"])
    found: bytes = raw
    return found.partition(b"?")[0].decode("latin-1")


async def answer(send: Send, status: int, body: bytes, content_type: str, headers: Headers | None = None) -> None:
    """Send a whole response."""
    told = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})
