"""Text to tokens: tiktoken, loaded with Gemma 4's vocabulary, which counts as Gemini bills."""

from __future__ import annotations

from hashlib import sha256
from itertools import accumulate, pairwise

from costguard.estimating.encoder import INDEX, MARK, Vocabulary, load, preload

__all__ = ["CACHE_ENTRIES_MAX", "FRAMING_TOKENS", "count", "preload", "text_upper"]

CACHE_ENTRIES_MAX = 2**16
"""No more counts than this are remembered (about 10 MB)."""

# tiktoken slows down several times on one uncut stretch of 1 MB. Blocks of this many characters are quick,
# and, being a multiple of 31 and of 16, agree with how runs of one character are merged. A window reaches
# as far to each side of a seam as the longest piece (48 bytes).
_BLOCK = 31 * 16
_SEAM_BYTES = 48
_DENSE = r"(?:> </|[^ \n0-9])+| +|\n+"

# (recent, older): counts by digest. Only whole-tuple swaps and dict operations: no lock, so none to inherit.
_counts: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})


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
    text = text.replace(MARK, " ")
    if not text:
        return 0
    data = text.encode()
    vocabulary = load(data)
    if len(text) >= 2 * _BLOCK and _is_dense(text):
        joined = _count_in_blocks(text, vocabulary)
        if joined is not None:
            return joined
    return vocabulary.encode([text]).weight()


def _is_dense(text: str) -> bool:
    """Whether some stretch of a block's length has no place to cut. Looks once into each block."""
    import re

    dense = re.compile(_DENSE)
    for start in range(0, len(text) - _BLOCK + 1, _BLOCK):
        found = dense.match(text, start, start + _BLOCK)
        if found and found.end() == start + _BLOCK:
            return True
    return False


def _count_in_blocks(text: str, vocabulary: Vocabulary) -> int | None:
    """Count a text of at least two blocks by encoding it in blocks and mending the seams.

    Exact, because a sequence of tokens is what merging gives for a text as soon as every two neighbours are
    what merging gives for those two. That holds inside a block; around a seam it holds if a window over the
    seam, merged afresh, begins and ends with the tokens that the blocks have there. If a window does not,
    the answer is None.
    """
    data = text.encode()
    cuts = [*range(0, len(text) - _BLOCK, _BLOCK), len(text)]  # the last block takes the remainder
    blocks = [text[start:end] for start, end in pairwise(cuts)]
    encoded = vocabulary.encode(blocks)
    ranks, sizes = encoded.ranks, vocabulary.sizes
    seams = accumulate(len(block.encode()) for block in blocks[:-1])
    windows: list[tuple[int, int, bytes]] = []
    for mark, seam in zip(encoded.marks(), seams, strict=True):
        # A window begins and ends where a token and a character both begin.
        first, start, least = mark, seam, seam - _SEAM_BYTES
        while start > least or data[start] & 0xC0 == 0x80:
            first -= 1
            start -= sizes[ranks[first] & INDEX]
        after, end, most = mark + 1, seam, seam + _SEAM_BYTES
        while end < most or data[end] & 0xC0 == 0x80:
            end += sizes[ranks[after] & INDEX]
            after += 1
        windows.append((first, after, data[start:end]))

    different = dict.fromkeys(window for _, _, window in windows)  # a long line often repeats itself
    mended = vocabulary.encode(window.decode() for window in different)
    marks = mended.marks()
    begins, stops = [0, *(mark + 1 for mark in marks)], [*marks, len(mended.ranks)]
    places = dict(zip(different, zip(begins, stops, strict=True), strict=True))
    total = encoded.weight()
    for first, after, window in windows:
        begin, stop = places[window]
        if mended.ranks[begin] != ranks[first] or mended.ranks[stop - 1] != ranks[after - 1]:
            return None
        total += mended.weight(begin, stop) - encoded.weight(first, after)
    return total
