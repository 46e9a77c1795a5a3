"""What is known of a ledger's files while they are in use, and whether they are still those."""

from __future__ import annotations

from pathlib import Path

from costguard.ledger.engines import logs, places
from costguard.ledger.engines.lock import WriterLock
from costguard.ledger.engines.logs import Tip
from costguard.ledger.engines.places import Anchor, Files, Names, Note

SPENT, LOST = "spent", "lost"


class WatchedFiles:
    """The files of the ledger at `path`, as this engine last saw them and as the note in the lock file tells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = Names(path)
        self._lock = WriterLock(path)
        self._anchor: Anchor | None = None
        self._place: tuple[int, int] | None = None
        self._seen: Files | None = None
        self._noted: tuple[bytes, Note | None] = b"", None
        self._own: tuple[Tip, int] | None = None

    @property
    def is_in_place(self) -> bool:
        """True if the file that was opened is still what its path leads to."""
        found = self._look()
        return found is not None and found[:2] == self._place

    def _look(self) -> Files | None:
        try:
            return self._names.look()
        except OSError:
            return None

    def _note(self) -> Note | None:
        """What the lock file says, as far as it may be read: under the lock for sure."""
        found = self._lock.read()
        if found != self._noted[0]:
            self._noted = found, places.decode(found)
        return self._noted[1]

    def _is_own(self) -> bool:
        """True if nobody has written since this engine did, and the log still holds that."""
        anchor, own = self._anchor, self._own
        return anchor is not None and own is not None and anchor.tip() is own and anchor.holds(own[0])

    def _is_still_in(self, wal: int) -> bool:
        """True if the log `wal` is the one in use, with all that this engine ever saw of it."""
        seen, anchor, own = self._seen, self._anchor, self._own
        if seen is None or anchor is None or own is None or seen.wal != wal:
            return False
        return anchor.holds(own[0])

    def _log_fault(self, note: Note | None) -> str | None:
        """Whether the log is another than was left: `SPENT` if nothing is missing for that, `LOST` if it may be."""
        read = self._anchor.tip() if self._anchor is not None else None
        if read is None or self._anchor is None:
            return SPENT  # the index is no more than that: it can be made anew from the log
        tip, done = read
        if not self._anchor.holds(tip):
            return SPENT if done >= tip.pages and (note is None or tip == note.tip) else LOST
        if note is None or logs.follows(tip, note.tip, is_spent=note.is_spent):
            return None
        return LOST

    def _looks_right(self) -> bool:
        """True if a reader may trust the files; another program may just have put its log into the database."""
        found, seen = self._look(), self._seen
        if found is None or seen is None:
            return seen is not None  # a file that is gone is the writer's to tell
        if (found.inode, found.wal, found.shm) != (seen.inode, seen.wal, seen.shm):
            return found[:2] != self._place
        try:
            note = self._note()
            fault = self._log_fault(note)
        except OSError:  # a fork in a signal handler closed the files
            return False
        if fault is not None:
            return False
        return found == seen or (note is not None and note.fits(found) and note.wal == found.wal)

    def _remember(self) -> int:
        """Keep what is known of the files for all programs; the lock is held. Returns the log's pages."""
        seen = self._seen
        read = self._anchor.tip() if self._anchor is not None else None
        if seen is None or read is None:
            return 0
        self._own = read
        tip, done = read
        self._write_note(Note(seen.inode, seen.size, seen.mtime_ns, seen.wal, done >= tip.pages, False, tip))
        return tip.pages

    def _write_note(self, note: Note) -> None:
        if note != self._noted[1]:
            encoded = note.encode()
            self._lock.write(encoded)
            self._noted = encoded, note

    def _begin_writing_database(self) -> None:
        note = self._note()
        if note is not None:
            self._write_note(note._replace(is_busy=True))
