"""Gemma 4's vocabulary in tiktoken: loaded once a process, in the background or when first needed.

The vocabulary ships inside the package (`vocabulary/`, built by `scripts/build_vocabulary`); nothing is
downloaded. Most programs never need all of it: a text of European characters can hold no other piece, so that
part (three fifths) is loaded first, and the whole in its place with the first text of other characters.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (see the fork hooks below)
import contextlib
import os
import sys
import threading
from array import array
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from costguard.errors import CostguardError

if TYPE_CHECKING:
    import tiktoken

TABLE_SHA256 = "9a3042d4cc8a62bf9abf85ea3b4134726d8b3000394ca0adde0c63259707b4a6"
"""sha256 of the uncompressed vocabulary table, as `scripts/build_vocabulary` prints it."""

MARK = "▁"
# U+2581 is how Gemma writes a space. Counted text has none left, so it can stand between texts that
# tiktoken has to encode apart.

# Gemma has no split pattern: it merges over the whole text, which is slow. Cutting between two characters
# is exact if no piece of the vocabulary holds them side by side. So it is between newlines and the rest,
# around digits, before a space (but for the one piece "> </"), and between these two groups of letters
# and all else. A test shows that no piece is cut.
_LATIN = r"\p{Latin}\x{300}-\x{36f}"
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}\x{30fc}"
_SPLIT = rf"\n+|[0-9]| *(?:[{_LATIN}]+|[{_CJK}]+|(?:> </|[^ \n0-9{_LATIN}{_CJK}])+)| +"

EUROPEAN = bytes([*range(0xCA), 0xE2])
"""The bytes of UTF-8 that the part has pieces of: ASCII, U+0080 to U+027F and U+2000 to U+2FFF."""

# A rank is a kind (its top byte) and an index. Only the order of ranks means something to tiktoken, so the kind
# can say how many of Gemma's tokens it stands for, and a sum over ranks is a count of bytes.
_TWO, _THREE, _ONE, _NONE = range(4)
_KIND_BITS = 24
INDEX = (1 << _KIND_BITS) - 1
"""What of a rank is its index."""

_TOP = 3 if sys.byteorder == "little" else 0


class Encoded(NamedTuple):
    """Texts as ranks, with the rank of MARK between them."""

    ranks: memoryview[int]
    kinds: bytes  # of each rank

    def weight(self, start: int = 0, end: int | None = None) -> int:
        """How many of Gemma's tokens the ranks from `start` to `end` stand for. MARK is none."""
        kinds = self.kinds[start:end]
        return len(kinds) + kinds.count(_TWO) + 2 * kinds.count(_THREE) - kinds.count(_NONE)

    def marks(self) -> list[int]:
        """Where MARK stands."""
        found, at = [], self.kinds.find(_NONE)
        while at >= 0:
            found.append(at)
            at = self.kinds.find(_NONE, at + 1)
        return found


class Vocabulary(NamedTuple):
    """Gemma's pieces, or the European part of them."""

    encoding: tiktoken.Encoding
    sizes: bytes  # by a rank's index: its length in bytes
    is_whole: bool

    def encode(self, texts: Iterable[str]) -> Encoded:
        """The ranks of the texts, each encoded by itself, with MARK between them."""
        text = MARK.join(texts)
        try:
            # What `encode_to_numpy` reads, without numpy (18 MB): not public, and it may go.
            data = bytes(self.encoding._core_bpe.encode_to_tiktoken_buffer(text, {MARK}))
        except AttributeError:
            data = array("I", self.encoding.encode(text, allowed_special={MARK}, disallowed_special=())).tobytes()
        return Encoded(memoryview(data).cast("I"), data[_TOP::4])

    def covers(self, data: bytes) -> bool:
        """Whether all pieces that a text of these UTF-8 bytes can hold are here."""
        return self.is_whole or data.isascii() or not data.translate(None, EUROPEAN)


_vocabulary: Vocabulary | None = None
_loader: threading.Thread | None = None
_loading = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits for a load under way, so that a child finds the lock free, the vocabulary as it should be and no
    # import half done. Loading must not register hooks of this kind meanwhile: tiktoken's imports that do
    # (logging, concurrent.futures) have come first, above, which also puts this lock before theirs.
    os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)


def preload() -> None:
    """Load the whole vocabulary, if this process has not yet: about 0.3 s, during which other threads stall.

    Safe to call from many threads: one of them loads. Raises CostguardError if the shipped table is damaged.
    """
    load()


def preload_soon() -> None:
    """Begin to load the European part on a thread of its own, unless that is done or under way.

    What needs the vocabulary meanwhile waits for it. A process that ends does not; what fails here fails again
    where it is needed, and is said there.
    """
    global _loader  # noqa: PLW0603
    if _vocabulary is not None or not _loading.acquire(blocking=False):
        return
    try:
        if _vocabulary is None and (_loader is None or not _loader.is_alive()):
            loader = threading.Thread(target=_load_quietly, name="costguard-vocabulary", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread to be had, or the interpreter is ending
                loader.start()
                _loader = loader
    finally:
        _loading.release()


def _load_quietly() -> None:
    with contextlib.suppress(Exception):
        load(b"")


def load(data: bytes | None = None) -> Vocabulary:
    """The vocabulary, loaded if need be: enough of it for a text of these UTF-8 bytes, or the whole.

    Raises CostguardError if the shipped table is damaged.
    """
    global _vocabulary  # noqa: PLW0603
    found = _vocabulary
    if found is None or not (found.is_whole if data is None else found.covers(data)):
        with _loading:
            found = _vocabulary
            if found is None or not (found.is_whole if data is None else found.covers(data)):
                is_whole = data is None or bool(data.translate(None, EUROPEAN))
                _vocabulary = found = None  # first, so that its memory can be used again
                _vocabulary = found = build(read_table(), is_whole=is_whole)
    return found


def read_table() -> bytes:
    """The uncompressed table; its layout is described in scripts/build_vocabulary."""
    import zlib
    from importlib.resources import files

    path = files("costguard.estimating") / "vocabulary" / "gemma4.gz"
    try:
        table = zlib.decompress(path.read_bytes(), zlib.MAX_WBITS | 16)
        found = f"its content has sha256 {sha256(table).hexdigest()}, expected {TABLE_SHA256}"
    except (OSError, zlib.error) as error:
        table, found = b"", str(error)
    if sha256(table).hexdigest() != TABLE_SHA256:
        raise CostguardError(
            f"cannot count tokens: the vocabulary {path} is damaged or missing ({found});"
            " install runware-costguard again"
        )
    return table


def build(table: bytes, *, is_whole: bool = True) -> Vocabulary:
    """The vocabulary of a table, or the European part of it."""
    import tiktoken

    helpers, pieces = (part.split(b"\xff") for part in table.split(b"\xff\xff"))
    if not is_whole:
        pieces = [piece for piece in pieces if piece.isascii() or not piece.translate(None, EUROPEAN)]
    every = [*(bytes([byte]) for byte in range(256)), *helpers, *pieces]
    ranks = dict(zip(every, range(_ONE << _KIND_BITS, _NONE << _KIND_BITS), strict=False))
    for index, helper in enumerate(helpers, 256):
        ranks[helper] = (_TWO if len(helper) == 2 else _THREE) << _KIND_BITS | index
    mark = _NONE << _KIND_BITS | len(every)
    sizes = bytes([*map(len, every), 0])
    del every, pieces
    encoding = tiktoken.Encoding("costguard-gemma4", pat_str=_SPLIT, mergeable_ranks=ranks, special_tokens={MARK: mark})
    ranks.clear()  # the encoder has its own copy by now; this one would keep 30 MB for decoding
    return Vocabulary(encoding, sizes, is_whole)
