"""Content-Encodings undone, of requests and of streams, with httpx's or httpx2's own decoders."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from costguard.errors import InvalidRequest
from costguard.exchange.effects import Claim

DECODED_MAX = 64 * 2**20
"""Bytes that a request's compressed body may unpack to."""

_PIECE_BYTES = 64 * 1024
"""A body is unpacked in such pieces, so that a bound can be kept whatever it would swell to."""


def plain_body(module: ModuleType, encoding: str, body: bytes, claim: Claim) -> bytes:
    """A request's body without its Content-Encoding, within `DECODED_MAX` bytes; `module` is httpx or httpx2.

    InvalidRequest if it cannot be decoded and is, or may be, of a wire that is guarded; what is surely of none
    gives b"".
    """
    if not encoding or not body:
        return body
    plain, problem = body, ""
    for name in reversed([name.strip() for name in encoding.split(",")]):
        if name not in ("", "identity"):
            plain, problem = _unpacked(module, name, plain)
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


def plain_response(module: ModuleType, encoding: str, raw: bytes) -> bytes:
    """A response's body without its Content-Encoding; b"" if that cannot be undone."""
    if not encoding:
        return raw
    try:
        decoded: bytes = module.Response(200, headers={"content-encoding": encoding}, content=raw).content
    except module.DecodingError:
        return b""
    return decoded


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
