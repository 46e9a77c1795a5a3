"""Text to tokens: tiktoken, loaded with Gemma 4's vocabulary, which counts as Gemini bills.

The vocabulary ships inside the package (`vocabulary/`, built by `scripts/build_vocabulary`); nothing is
downloaded. It takes 0.3 to 0.5 s and 75 MB to load, once a process: call `preload()` off an event loop.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (see the fork hooks below)
import os
import threading
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from costguard.errors import CostguardError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt
    import tiktoken

TABLE_SHA256 = "9c6a459d74bc18bec0e27bd5f2086ddfec40da6189347f35ae465c69d1c3cba7"
"""sha256 of the uncompressed vocabulary table, as `scripts/build_vocabulary` prints it."""

CACHE_ENTRIES_MAX = 2**16
"""No more counts than this are remembered (about 10 MB)."""

_MARK = "▁"
# U+2581 is how Gemma writes a space. Counted text has none left, so it can stand between texts that
# tiktoken has to encode apart.

# Gemma has no split pattern: it merges over the whole text, which is slow. Cutting between two characters
# is exact if no piece of the vocabulary holds them side by side. So it is between newlines and the rest,
# around digits, before a space (but for the one piece "> </"), and between these two groups of letters
# and all else. A test shows that no piece is cut.
_LATIN = r"\p{Latin}\x{300}-\x{36f}"
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}\x{30fc}"
_SPLIT = rf"\n+|[0-9]| *(?:[{_LATIN}]+|[{_CJK}]+|(?:> </|[^ \n0-9{_LATIN}{_CJK}])+)| +"

# tiktoken slows down several times on one uncut stretch of 1 MB. Blocks of this many characters are quick,
# and, being a multiple of 31 and of 16, agree with how runs of one character are merged. The seam is wider
# than the longest piece (48 bytes).
_BLOCK = 31 * 16
_SEAM_BYTES = 64
_DENSE = r"(?:> </|[^ \n0-9])+| +|\n+"


class _Vocabulary(NamedTuple):
    encoding: tiktoken.Encoding
    weights: npt.NDArray[np.uint8]  # by rank: how many of Gemma's tokens it stands for
    sizes: npt.NDArray[np.uint8]  # by rank: its length in bytes
    mark: int  # the rank of _MARK

    def encode(self, texts: Iterable[str]) -> npt.NDArray[np.uint32]:
        """The ranks of the texts, each encoded by itself, with `mark` between them."""
        return self.encoding.encode_to_numpy(_MARK.join(texts), allowed_special={_MARK}, disallowed_special=())


_vocabulary: _Vocabulary | None = None
_loading = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits for a load under way, so that a child finds the lock free, the vocabulary whole and no
    # import half done. Loading must not register hooks of this kind meanwhile: tiktoken's imports that do
    # (logging, concurrent.futures) have come first, above, which also puts this lock before theirs.
    os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)

# (recent, older): counts by digest. Only whole-tuple swaps and dict operations: no lock, so none to inherit.
_counts: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})


def preload() -> None:
    """Load the vocabulary, if this process has not yet: about 0.5 s, during which other threads stall.

    Safe to call from many threads: one of them loads. Raises CostguardError if the shipped table is damaged.
    """
    _load()


def count(text: str) -> int:
    """Gemma 4 tokens of one text, exactly, without any chat template. Never above its UTF-8 bytes.

    Counts are remembered by a digest of the text, never the text itself. Surrogates that make a pair count
    as their character, lone ones as U+FFFD, which is what a JSON reader at the other end makes of them; with
    them, take the UTF-8 bytes by `text.encode("utf-8", "surrogatepass")`. Loads the vocabulary when first
    called. Raises CostguardError if the shipped table is damaged.
    """
    global _counts  # noqa: PLW0603
    try:
        data = text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        data = text.encode()
    key = sha256(data).digest()
    recent, older = _counts
    found = recent.get(key)
    if found is None:
        found = older.get(key)
        if found is None:
            found = _count(text)
        recent[key] = found
        if len(recent) >= CACHE_ENTRIES_MAX // 2:
            _counts = ({}, recent)
    return found


FRAMING_TOKENS = 8
"""What a provider may add around each message: its role and its marks. House rule: the published examples add none,
and chat templates that are known add 3 to 5."""


def text_upper(text_bytes: int, expected: int, messages: int) -> int:
    """The most tokens that texts can be billed for: min(bytes, expected + 5 % rounded up), and 8 a message.

    `text_bytes` is their length in UTF-8 (no token is shorter than a byte), `expected` the sum of their
    counts, `messages` how many messages they came in. The 5 % and the 8 are house rules: room for a
    tokenizer that differs a little from Gemma 4's, and for the provider's own framing, which comes on top of
    the bytes: many short messages are mostly framing.
    """
    return min(text_bytes, expected + -(-expected // 20)) + FRAMING_TOKENS * messages


def _count(text: str) -> int:
    text = text.replace(_MARK, " ")
    if not text:
        return 0
    vocabulary = _load()
    if len(text) >= 2 * _BLOCK and _is_dense(text):
        joined = _count_in_blocks(text, vocabulary)
        if joined is not None:
            return joined
    return int(vocabulary.weights[vocabulary.encode([text])].sum(dtype="int64"))


def _is_dense(text: str) -> bool:
    """Whether some stretch of a block's length has no place to cut. Looks once into each block."""
    import re

    dense = re.compile(_DENSE)
    for start in range(0, len(text) - _BLOCK + 1, _BLOCK):
        found = dense.match(text, start, start + _BLOCK)
        if found and found.end() == start + _BLOCK:
            return True
    return False


def _count_in_blocks(text: str, vocabulary: _Vocabulary) -> int | None:
    """Count a text of at least two blocks by encoding it in blocks and mending the seams.

    Exact, because a sequence of tokens is what merging gives for a text as soon as every two neighbours are
    what merging gives for those two. That holds inside a block; around a seam it holds if a window over the
    seam, merged afresh, begins and ends with the tokens that the blocks have there. If a window does not,
    the answer is None.
    """
    import numpy as np

    data = text.encode()
    cuts = [*range(0, len(text) - _BLOCK, _BLOCK), len(text)]  # the last block takes the remainder
    ranks = vocabulary.encode(text[start:end] for start, end in pairwise(cuts))
    is_mark = ranks == vocabulary.mark
    ends = np.cumsum(vocabulary.sizes[ranks], dtype=np.int64)
    seams = ends[is_mark]
    ranks, ends = ranks[~is_mark], ends[~is_mark]
    starts = ends - vocabulary.sizes[ranks]

    # A window begins and ends where a token and a character both begin.
    begins_character = np.frombuffer(data, np.uint8)[starts] & 0xC0 != 0x80
    tokens = np.flatnonzero(begins_character)
    places = starts[begins_character]
    first = tokens[np.searchsorted(places, seams - _SEAM_BYTES, "right") - 1]
    after = tokens[np.searchsorted(places, seams + _SEAM_BYTES)]

    windows = zip(starts[first].tolist(), starts[after].tolist(), strict=True)
    mended = vocabulary.encode(data[start:end].decode() for start, end in windows)
    marks = np.flatnonzero(mended == vocabulary.mark)
    begin = np.concatenate(([0], marks + 1))
    end = np.concatenate((marks, [len(mended)]))
    if (mended[begin] != ranks[first]).any() or (mended[end - 1] != ranks[after - 1]).any():
        return None
    before = np.concatenate(([0], np.cumsum(vocabulary.weights[ranks], dtype=np.int64)))
    unmended = (before[after] - before[first]).sum()
    return int(before[-1] - unmended + vocabulary.weights[mended].sum(dtype=np.int64))


def _load() -> _Vocabulary:
    global _vocabulary  # noqa: PLW0603
    if _vocabulary is None:
        with _loading:
            if _vocabulary is None:
                _vocabulary = _build(_read_table())
    return _vocabulary


def _read_table() -> bytes:
    """The uncompressed table; its layout is described in scripts/build_vocabulary."""
    import gzip
    import zlib
    from importlib.resources import files

    path = files("costguard.estimating") / "vocabulary" / "gemma4.gz"
    try:
        table = gzip.decompress(path.read_bytes())
        found = f"its content has sha256 {sha256(table).hexdigest()}, expected {TABLE_SHA256}"
    except (OSError, EOFError, zlib.error) as error:
        table, found = b"", str(error)
    if sha256(table).hexdigest() != TABLE_SHA256:
        raise CostguardError(
            f"cannot count tokens: the vocabulary {path} is damaged or missing ({found});"
            " install runware-costguard again"
        )
    return table


def _build(table: bytes) -> _Vocabulary:
    import numpy as np
    import tiktoken

    helpers, pieces = (int(number) for number in np.frombuffer(table, "<u4", 2))
    body = 8 + helpers + pieces
    ones = np.ones(256, np.uint8)
    mark = 256 + helpers + pieces
    # The mark weighs nothing and has no bytes.
    sizes = np.concatenate((ones, np.frombuffer(table, np.uint8, helpers + pieces, 8), [np.uint8(0)]))
    weights = np.ones(mark + 1, np.uint8)
    weights[256 : 256 + helpers] = sizes[256 : 256 + helpers]
    weights[mark] = 0

    ends = (np.cumsum(sizes[256:mark], dtype=np.int64) + body).tolist()
    ranks = {bytes([byte]): byte for byte in range(256)}
    start = body
    for rank, end in enumerate(ends, 256):
        ranks[table[start:end]] = rank
        start = end
    encoding = tiktoken.Encoding(
        "costguard-gemma4", pat_str=_SPLIT, mergeable_ranks=ranks, special_tokens={_MARK: mark}
    )
    ranks.clear()  # the encoder has its own copy by now; this one would keep 30 MB for decoding
    return _Vocabulary(encoding, weights, sizes, mark)
