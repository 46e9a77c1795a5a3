"""Requests and responses of httpx and httpx2, read and changed through what both have in common.

Which of the two is at work is read from the message's own class: responses and streams are built from the
module that the client uses, and neither is imported here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from costguard.clients.encodings import Decoder, plain_response
from costguard.clients.guarding import OPTIONS, is_json
from costguard.exchange.effects import Claim, Head, Send
from costguard.exchange.endpoints import normal_host

_NEVER_SENT = (
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "LocalProtocolError",
    "UnsupportedProtocol",
    "ProxyError",
)
_BODY_HEADERS = ("transfer-encoding", "content-encoding")
"""They speak of the body that was there before."""

_modules: dict[type, ModuleType] = {}


def module_of(value: Any) -> ModuleType:
    """The module that made `value`: httpx or httpx2."""
    found = _modules.get(type(value))
    if found is None:
        names = [base.__module__.partition(".")[0] for base in type(value).__mro__]
        name = next((name for name in names if name in ("httpx", "httpx2")), None)
        if name is None:
            raise TypeError(f"neither httpx nor httpx2 made this {type(value).__name__}")
        found = _modules[type(value)] = sys.modules[name]
    return found


def address(request: Any) -> tuple[str, int | None, str]:
    """Host, port (None for the scheme's own) and path of a request."""
    url = request.url
    return normal_host(url.raw_host.decode("ascii")), url.port, url.raw_path.partition(b"?")[0].decode("ascii")


def options(request: Any) -> object:
    """What the caller laid beside a request, or None."""
    return request.extensions.get(OPTIONS)


def header(message: Any, name: bytes) -> str:
    """A header's value up to its parameters, in lower case; "" if it is not there.

    Read from the raw list: a look-up by name in httpx decodes every header, which is felt on each call.
    """
    for key, value in message.headers.raw:
        if key.lower() == name:
            return str(value.partition(b";")[0].strip().lower().decode("latin-1"))
    return ""


def is_readable(request: Any, claim: Claim) -> bool:
    """True if the body must be read, or is in memory, or says it is JSON: other uploads are not ours to take in."""
    if claim.is_sure or hasattr(request, "_content") or isinstance(request.stream, module_of(request).ByteStream):
        return True
    return is_json(header(request, b"content-type"))


def passes(request: Any, claim: Claim) -> bool:
    """True for a request whose body is in memory, plain and of no wire."""
    body: bytes | None = getattr(request, "_content", None)
    return body is not None and claim.passes(body) and not header(request, b"content-encoding")


def request_encoding(request: Any) -> str:
    """A request's Content-Encoding, all of them in order; "" without one."""
    return _encoding(request) if "content-encoding" in request.headers else ""


def _encoding(message: Any) -> str:
    """Its Content-Encoding, all of them in order; "" without one."""
    found = ""
    for key, value in message.headers.raw:
        if key.lower() == b"content-encoding":
            found = f"{found}, {value.decode('latin-1')}" if found else value.decode("latin-1")
    return found.strip().lower()


def stream_decoder(response: Any) -> Decoder | None:
    """What undoes a response's Content-Encoding; None if it has none."""
    encoding = _encoding(response)
    return Decoder(module_of(response), encoding) if encoding not in ("", "identity") else None


def replace_body(request: Any, body: bytes | None) -> None:
    """Give `request` another body, in place: a redirect or a retry of it then repeats the same tasks."""
    if body is None:
        return
    request.stream = module_of(request).ByteStream(body)
    request._content = body
    request.headers["Content-Length"] = str(len(body))
    for name in _BODY_HEADERS:
        if name in request.headers:
            del request.headers[name]


def is_never_sent(error: Exception) -> bool:
    """True if an error proves that the request never reached the provider."""
    return any(
        base.__name__ in _NEVER_SENT and base.__module__.partition(".")[0] in ("httpx", "httpx2")
        for base in type(error).__mro__
    )


def head(response: Any, effect: Send) -> Head:
    """The beginning of a response, with the receipt laid beside it."""
    if effect.receipt is not None and effect.receipt.tasks:
        response.extensions[OPTIONS] = effect.receipt
    return Head(response.status_code, header(response, b"content-type"))


def another(request: Any, body: bytes) -> Any:
    """A request like `request`, to the same place with the same key, that sends `body`."""
    dropped = (b"content-length", b"transfer-encoding", b"content-encoding", b"content-type", b"accept")
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in dropped]
    extensions = {key: value for key, value in request.extensions.items() if key != OPTIONS}
    headers.append((b"Content-Type", b"application/json"))
    return type(request)("POST", request.url, headers=headers, content=body, extensions=extensions)


def read_already(response: Any) -> bytes | None:
    """The decoded body of a response whose stream nobody will read any more; None if it is still to be read."""
    try:
        content: bytes = response.content
    except module_of(response).ResponseNotRead:
        return None
    return content


def forget_encoding(response: Any) -> None:
    """Let a response say that its body is plain, of a length that is not known yet."""
    for name in ("content-encoding", "content-length"):
        if name in response.headers:
            del response.headers[name]


def replace_content(response: Any, content: bytes) -> None:
    """Give a response that was read already another body, plain."""
    forget_encoding(response)
    response.stream = module_of(response).ByteStream(content)
    response._content = content


def buffered(response: Any, raw: bytes) -> bytes:
    """Let the client read what was read already; returns the decoded body."""
    module = module_of(response)
    response.stream = module.ByteStream(raw)
    encoding = _encoding(response) if "content-encoding" in response.headers else ""
    return plain_response(module, encoding, raw)
