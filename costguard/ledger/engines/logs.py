"""The last commit in a ledger's log (`-wal`), by which it is known whether the log is the one that was left.

Layouts: sqlite.org/walformat.html, 1 (the log) and 2.2 (its index, `-shm`).
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

_INDEX = struct.Struct("=12x2xHI4x2I8s8x48xI")
"""Of the index: page size, pages in the log, their checksum, the log's salts, and the pages put into the database."""

_CHECKSUM = struct.Struct(">2I")
_HEADER_BYTES, _FRAME_BYTES = 32, 24
BLOCK_BYTES, _BLOCK_PAGES, _FIRST_PAGES = 32768, 4096, 4062
"""The index comes in blocks, each of which tells of so many pages; the first, which has the header, of fewer. SQLite
maps it into memory, and a process that reads behind its end is killed."""
_TRIES = 1000


class Tip(NamedTuple):
    """The last commit of a log."""

    pages: int
    """In the log, 0 for none."""
    page_bytes: int
    salts: bytes
    """8 bytes: the first four count how often this log was begun anew."""
    checksum: bytes
    """8 bytes, over all pages up to this one."""

    def offset(self) -> int:
        """Where its last page begins in the log."""
        return _HEADER_BYTES + (self.pages - 1) * (_FRAME_BYTES + self.page_bytes)


NOTHING = Tip(0, 0, bytes(8), bytes(8))
"""Of a log without a commit."""


class Index:
    """The open index (`-shm`) of a log."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = b""
        self._known: tuple[Tip, int] | None = None

    def tip(self) -> tuple[Tip, int] | None:
        """The last commit, and how many pages of the log the database has too.

        None for an index that was cut short, or that its writer never finished.
        """
        found = os.pread(self._fd, 100, 0)
        if found == self._read:
            return self._known
        tries = _TRIES
        while found[:48] != found[48:96]:  # a commit is just being made
            tries -= 1
            if tries == 0 or len(found) < 100:
                return None
            found = os.pread(self._fd, 100, 0)
        self._known = self._parsed(found)
        self._read = found
        return self._known

    def _parsed(self, found: bytes) -> tuple[Tip, int] | None:
        if len(found) < 100:
            return None
        page_bytes, pages, one, two, salts, done = _INDEX.unpack(found)
        if pages > _FIRST_PAGES:
            blocks = 1 + (pages + _BLOCK_PAGES - _FIRST_PAGES - 1) // _BLOCK_PAGES
            if os.fstat(self._fd).st_size < BLOCK_BYTES * blocks:
                return None
        if not pages:
            return NOTHING, 0
        return Tip(pages, page_bytes if page_bytes > 1 else 65536, salts, _CHECKSUM.pack(one, two)), done


def holds(log: int, tip: Tip) -> bool:
    """True if the commit `tip` is in the open log."""
    if not tip.pages:
        return True
    frame = os.pread(log, _FRAME_BYTES, tip.offset())
    return frame[8:16] == tip.salts and frame[16:] == tip.checksum


def follows(tip: Tip, noted: Tip, *, is_spent: bool) -> bool:
    """True if a log that ends with `tip` has all that it had when it ended with `noted`.

    `is_spent`: the database has all that was noted, so that the log may have been begun anew since.
    """
    if tip == noted:
        return True
    if tip.salts == noted.salts:
        return tip.pages > noted.pages
    if not is_spent:
        return False
    return not tip.pages or not noted.pages or _count(tip) == (_count(noted) + 1) % (1 << 32)


def _count(tip: Tip) -> int:
    return int.from_bytes(tip.salts[:4], "big")
