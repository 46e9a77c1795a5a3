"""Which headers are passed on: all but those that speak of one connection, or of this proxy."""

from __future__ import annotations

from collections.abc import Iterable

from costguard.serving.asgi import Headers

TOKEN = b"x-costguard-token"
"""The header by which a caller names itself."""

PROJECT = "X-Costguard-Project"
"""The header that names a project, unless the operator names another."""

_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110, 7.6.1: of one connection only."""

_OURS = frozenset((b"host", b"expect", b"forwarded", TOKEN))
"""Answered or written anew here. Who called from where, which `Forwarded` tells, is none of the provider's business."""

TAKEN = (
    _HOP
    | _OURS
    | frozenset(
        b"authorization x-api-key api-key cookie origin user-agent accept accept-encoding"
        b" content-type content-length content-encoding".split()
    )
)
"""Headers that say something else than a project: of a key, the ledger would keep it as one."""

_OVERRIDES = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))
"""By these a request says that it means another method; one that means POST is to come as one, and be guarded."""

_FORWARDED = b"x-forwarded-"
_ENCODINGS = frozenset(("gzip", "deflate", "identity"))
"""What the guard can undo with nothing but httpx."""


def to_upstream(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes], *, is_read: bool) -> Headers:
    """A request's headers as they go on; `dropped`: further ones that do not.

    `is_read`: the guard reads the answer, so it must not come in an encoding that it cannot undo.
    """
    headers = list(headers)
    # Of two lengths the chunks are the true one (RFC 9112, 6.3); the other would cut the request in two.
    is_chunked = any(name == b"transfer-encoding" for name, _ in headers)
    passed = [
        (name, value)
        for name, value in _end_to_end(headers)
        if name not in _OURS
        and name not in dropped
        and not name.startswith(_FORWARDED)
        and not (is_chunked and name == b"content-length")
        and not (name in _OVERRIDES and value.strip().upper() == b"POST")
    ]
    return (
        [(name, _readable(value) if name == b"accept-encoding" else value) for name, value in passed]
        if is_read
        else passed
    )


def to_caller(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """A response's headers as they go back."""
    return _end_to_end(headers)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    lower = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in lower if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in lower if name not in _HOP and name not in named]


def _readable(value: bytes) -> bytes:
    words = [word.strip() for word in value.decode("latin-1").split(",")]
    known = [word for word in words if word.partition(";")[0].strip().lower() in _ENCODINGS]
    return ", ".join(known).encode("latin-1") or b"identity"
