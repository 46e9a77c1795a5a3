"""Content encodings: bodies that arrive compressed, and answers that are compressed chunk by chunk."""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Callable
from typing import Any

from costguard.errors import ConfigurationError

_Encoder = Callable[[bytes, bool], bytes]
"""Takes a piece and whether it is the last; gives all bytes a reader needs to see that piece."""


def _zlib(wbits: int) -> _Encoder:
    made = zlib.compressobj(wbits=wbits)
    return lambda piece, last: made.compress(piece) + made.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _brotli() -> _Encoder:
    made = _library("brotli").Compressor()
    return lambda piece, last: bytes(made.process(piece) + (made.finish() if last else made.flush()))


def _zstd() -> _Encoder:
    library = _library("zstandard")
    made = library.ZstdCompressor().compressobj()
    ending, pausing = library.COMPRESSOBJ_FLUSH_FINISH, library.COMPRESSOBJ_FLUSH_BLOCK
    return lambda piece, last: bytes(made.compress(piece) + made.flush(ending if last else pausing))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigurationError(f"this content encoding needs the package {name}: pip install {name}") from None


_ENCODERS: dict[str, Callable[[], _Encoder]] = {
    "gzip": lambda: _zlib(31),
    "deflate": lambda: _zlib(15),
    "deflate-raw": lambda: _zlib(-15),
    "br": _brotli,
    "zstd": _zstd,
}


def header(encoding: str) -> str:
    """The `Content-Encoding` header of an encoding: raw deflate calls itself `deflate`, as some servers do."""
    return ", ".join("deflate" if name == "deflate-raw" else name for name in _names(encoding))


def encode(chunks: list[bytes], encoding: str) -> list[bytes]:
    """The chunks of a body, encoded; each is flushed, so that a reader has it before the next one comes.

    `encoding` is one of gzip, deflate (with zlib's frame), deflate-raw, br and zstd, or several with
    commas between, the first applied first. ConfigurationError for others, and where br or zstd lack their
    package (`brotli`, `zstandard`).
    """
    layers = [_ENCODERS[name]() for name in _names(encoding)]
    encoded = []
    for at, chunk in enumerate(chunks, start=1):
        piece = chunk
        for layer in layers:
            piece = layer(piece, at == len(chunks))
        encoded.append(piece)
    return encoded


def decode(body: bytes, encoding: str | None) -> bytes:
    """A request's body in plain bytes; `encoding` is its `Content-Encoding`.

    ValueError when it is not what the header says; NotImplementedError for anything but gzip.
    """
    if encoding is None or encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() != "gzip":
        raise NotImplementedError(encoding)
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError("the body is not gzip") from error


def _names(encoding: str) -> list[str]:
    names = [name.strip() for name in encoding.split(",")]
    unknown = [name for name in names if name not in _ENCODERS]
    if unknown:
        raise ConfigurationError(f"content encoding {unknown[0]!r} is not known; there are {', '.join(_ENCODERS)}")
    return names
