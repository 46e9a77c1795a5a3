"""Requests and responses of httpx and httpx2, read and changed through what both have in common.

Which of the two is at work is read from the message's own class: responses and streams are built from the
module that the client uses, and neither is imported here.
"""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from costguard.clients.guarding import OPTIONS, REFUSALS
from costguard.errors import InvalidRequest
from costguard.exchange.effects import Claim, Head, Send
from costguard.exchange.endpoints import normal_host

DECODED_MAX = 64 * 2**20
"""Bytes that a request's compressed body may unpack to."""

_PIECE_BYTES = 64 * 1024
"""A body is unpacked in such pieces, so that a bound can be kept whatever it would swell to."""

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
_JSON = ("application/json", "text/json", "")

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
    """True if the body must be read, or is in memory, or says it is JSON: other uploads are not ours to buffer."""
    # A redirected request has its bytes in its stream alone.
    if claim.is_sure or hasattr(request, "_content") or isinstance(request.stream, module_of(request).ByteStream):
        return True
    content_type = header(request, b"content-type")
    return content_type in _JSON or content_type.endswith("+json")


def plain_body(request: Any, body: bytes, claim: Claim) -> bytes:
    """A request's body without its Content-Encoding, within `DECODED_MAX` bytes.

    InvalidRequest if it cannot be decoded and is, or may be, of a wire that is guarded; what is surely of none
    gives b"".
    """
    encoding = _encoding(request) if "content-encoding" in request.headers else ""
    if not encoding or not body:
        return body
    plain, problem = body, ""
    for name in reversed([name.strip() for name in encoding.split(",")]):
        if name not in ("", "identity"):
            plain, problem = _unpacked(module_of(request), name, plain)
        if problem:
            break
    else:
        return plain
    if claim.is_sure or any(dialect.recognises(plain) for dialect in claim.dialects):
        raise InvalidRequest(
            f"request body: its Content-Encoding {encoding!r} cannot be read ({problem}); send it plain;"
            " nothing was sent"
        )
    return b""


def _unpacked(module: ModuleType, name: str, body: bytes) -> tuple[bytes, str]:
    """A body without one encoding, as far as it could be undone, and what the problem was."""
    plain = bytearray()
    try:
        for piece in _gunzipped(body) if name in ("gzip", "x-gzip") else _decoded(module, name, body):
            plain += piece
            if len(plain) > DECODED_MAX:
                return bytes(plain), f"it unpacks to more than {DECODED_MAX // 2**20} MiB"
    except Exception as error:  # noqa: BLE001  each encoding has errors of its own
        return bytes(plain), type(error).__name__
    return bytes(plain), ""


def _gunzipped(body: bytes) -> Iterator[bytes]:
    """All members of a gzip body: servers read them all, the libraries' decoders only the first."""
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _decoded(module: ModuleType, name: str, body: bytes) -> Iterator[bytes]:
    decoder = Decoder(module, name)
    if not decoder.is_able:
        raise LookupError(name)
    for start in range(0, len(body), _PIECE_BYTES):
        yield decoder.decode(body[start : start + _PIECE_BYTES])
    yield decoder.flush()


def _encoding(message: Any) -> str:
    """Its Content-Encoding, all of them in order; "" without one."""
    found = ""
    for key, value in message.headers.raw:
        if key.lower() == b"content-encoding":
            found = f"{found}, {value.decode('latin-1')}" if found else value.decode("latin-1")
    return found.strip().lower()


def _library_decoder(module: ModuleType, encoding: str) -> Any:
    """What the library itself undoes an encoding with."""
    # A response that is still to be read: one that is whole would be decoded here and now.
    unread = type("Unread", (module.SyncByteStream,), {})()
    return module.Response(200, headers={"content-encoding": encoding}, stream=unread)._get_content_decoder()


class Decoder:
    """What undoes a Content-Encoding piece by piece, as the client's own library does."""

    def __init__(self, module: ModuleType, encoding: str) -> None:
        # The library's own way, which no public name leads to; a test watches over it.
        self._inner: Any = module.Response(200, headers={"content-encoding": encoding})._get_content_decoder()

        names = [name.strip() for name in encoding.split(",")]
        self.is_able = all(_is_known(module, name) for name in names)
        """False if the library knows not all of the encodings, and would leave those as they are."""

    def decode(self, chunk: bytes) -> bytes:
        """The bytes that `chunk` completes; raises the library's DecodingError."""
        return _joined(self._inner.decode(chunk))

    def flush(self) -> bytes:
        """What is left at the end."""
        return _joined(self._inner.flush())


def _is_known(module: ModuleType, encoding: str) -> bool:
    """Whether the library can undo this one encoding; what it cannot, it leaves as it is."""
    if encoding in ("", "identity"):
        return True
    return type(_library_decoder(module, encoding)).__name__ != "IdentityDecoder"


def _joined(pieces: bytes | Iterable[bytes]) -> bytes:
    return pieces if isinstance(pieces, bytes) else b"".join(pieces)


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
    if isinstance(error, REFUSALS):
        return True  # another guard, further down the line, refused it
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
    if not encoding:
        return raw
    try:
        decoded: bytes = module.Response(200, headers={"content-encoding": encoding}, content=raw).content
    except module.DecodingError:
        return b""
    return decoded
