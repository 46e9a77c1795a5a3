"""The ledger's files as their names lead to them, and what is known of them: are they what they should be?

SQLite keeps one database in three files and trusts that they belong together. Here that is looked at. The lock file
keeps a note (`Note`): the size and time of the database file as our own programs last left it, which `-wal` belongs
to it, and the last commit in that. Whatever another program does to the files shows as a difference to the note.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from costguard.errors import LedgerError
from costguard.ledger.engines import logs, spans
from costguard.ledger.engines.logs import Tip

_SHARED = (0x40000002, 510)
"""Bytes of a database on which SQLite's connections hold their shared lock (first, length)."""
_DMS = (128, 1)
"""Byte of `-shm` that tells SQLite that the file is in use."""


class AdriftError(LedgerError):
    """The files beside the database are not those that are in use here."""


class Files(NamedTuple):
    """What the names lead to: the database's place, size and time, the inodes of `-wal` and `-shm` (0: not there)."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    wal: int
    shm: int


class Note(NamedTuple):
    """What our programs last knew, kept in the lock file."""

    inode: int
    size: int
    mtime_ns: int
    wal: int
    """Inode of the `-wal` in use, 0 for none."""
    is_spent: bool
    """True if the database file holds all that is in the log."""
    is_busy: bool
    """True while the log is put into the database: a program that was killed meanwhile leaves it so."""
    tip: Tip
    """The last commit in the log."""

    def encode(self) -> bytes:
        """Of one length, so that it is overwritten whole."""
        packed = _NOTE.pack(*self[:6], *self.tip)
        return b"%b%b%b\n" % (_MARK, packed, crc32(packed).to_bytes(4, "big"))

    def fits(self, found: Files) -> bool:
        """True if the database file is as it was left, in content; copying a folder keeps that."""
        return (self.size, self.mtime_ns) == (found.size, found.mtime_ns)


_MARK = b"costguard 2 "
_NOTE = struct.Struct(">QQqQ??IH8s8s")


def decode(note: bytes) -> Note | None:
    """A note, None for none, one of another version, or one that is just being written."""
    packed = note[len(_MARK) : len(_MARK) + _NOTE.size]
    if not note.startswith(_MARK) or note[len(_MARK) + _NOTE.size :][:4] != crc32(packed).to_bytes(4, "big"):
        return None
    values = _NOTE.unpack(packed)
    inode, size, mtime_ns, wal, is_spent, is_busy = values[:6]
    return Note(inode, size, mtime_ns, wal, is_spent, is_busy, Tip(*values[6:]))


class Names:
    """A ledger's file names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database, self._wal, self._shm = str(path), f"{path}-wal", f"{path}-shm"

    def look(self) -> Files:
        """What they lead to now: three system calls; a `-shm` cut short is none. OSError without a database."""
        stat = os.stat
        database = stat(self._database)
        try:
            wal = stat(self._wal).st_ino
        except OSError:
            wal = 0
        try:
            index = stat(self._shm)
            shm = index.st_ino if index.st_size >= logs.BLOCK_BYTES else 0
        except OSError:
            shm = 0
        return Files(database.st_dev, database.st_ino, database.st_size, database.st_mtime_ns, wal, shm)

    def wal_bytes(self) -> int:
        """The size of `-wal`, 0 without one."""
        try:
            return Path(self._wal).stat().st_size
        except OSError:
            return 0

    @contextlib.contextmanager
    def pinned_log(self) -> Iterator[None]:
        """Keep the `-wal` that is there from giving its inode to another, should it be removed meanwhile."""
        try:
            fd = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield
            return
        try:
            yield
        finally:
            os.close(fd)

    def remove_beside(self) -> None:
        """Remove `-wal` and `-shm`, which hold nothing that is not elsewhere. The writer's lock must be held."""
        Path(self._wal).unlink(missing_ok=True)
        self.remove_index()

    def remove_index(self) -> None:
        """Remove `-shm`, which is made anew from `-wal`. The writer's lock must be held."""
        Path(self._shm).unlink(missing_ok=True)

    def check_one_name(self) -> None:
        """LedgerError if the same file has another name: each has its own `-wal`, `-lock` and truth."""
        if self.path.stat().st_nlink > 1:
            raise LedgerError(
                f"the ledger {self.path} has a second name (a hard link): programs that use the other name would keep"
                f" another book. Remove one name (`find DIR -samefile {self.path}` lists them), or copy it with"
                " `costguard backup`"
            )
        if _is_mounted(self.path):
            raise LedgerError(
                f"the ledger {self.path} is a single file mounted from elsewhere: programs there would keep another"
                " book. Mount the folder that it is in instead"
            )

    def judge(self, note: Note | None, found: Files) -> bool:
        """Before the files are used: True if only a look into them tells whether they belong together.

        LedgerError if records are missing for certain.
        """
        frames = self.wal_bytes() > 0
        if note is None:
            return frames
        if not note.fits(found) and not note.is_busy:
            return True
        if not note.is_spent and not (frames and self._log_holds(note.tip)):
            raise self.not_whole(found)
        return note.is_busy or (frames and (note.inode, note.wal) != (found.inode, found.wal))

    def _log_holds(self, tip: Tip) -> bool:
        try:
            fd = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise LedgerError(f"the ledger {self.path}: {self._wal} cannot be read: {error.strerror}") from error
        try:
            return logs.holds(fd, tip)
        finally:
            os.close(fd)

    def not_whole(self, found: Files) -> LedgerError:
        """What to say where the log does not hold what was noted."""
        return LedgerError(
            f"the ledger {self.path} is not whole: its {self._wal}, which held records of its own, was"
            f" {'overwritten, cut short or replaced by another file' if found.wal else 'removed'}. Programs that still"
            " use the ledger put a removed one back at their next call; or put the file back yourself. If it is lost"
            f" for good, remove {self.path}-lock to go on without what was in it"
        )


def _is_mounted(path: Path) -> bool:
    try:
        rows = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    name = str(path).encode().replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011")
    return any(row.split(b" ", 5)[4] == name for row in rows)


class Anchor:
    """Keeps SQLite's claim on a ledger's files for as long as this process has connections on them.

    SQLite's own locks (POSIX) are lost as soon as the process closes any descriptor of the file, be it by copying it.
    Others then take themselves for the last user and remove the `-wal` under our feet. The locks of an anchor (OFD,
    where there are such) belong to its own descriptors, which stay open. While they are held, no connection removes
    a `-wal`, not even the last one here: so they are let go only when all is in place, see `let_go`.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._shm: int | None = None
        self.shm = 0
        """Inode of the `-shm` that is locked, 0 without one."""
        self._index: logs.Index | None = None
        self._log: int | None = None
        self.users = 0

    def header(self) -> bytes:
        """The first 100 bytes of the database file itself."""
        return os.pread(self._fd, 100, 0)

    def is_deleted(self) -> bool:
        """True if the file has no name any more: what is in it ends with its last descriptor."""
        return os.fstat(self._fd).st_nlink == 0

    def hold(self, path: Path) -> None:
        """Take the locks; to be called once the file is in WAL mode, with its `-shm` there."""
        spans.claim(self._fd, fcntl.F_RDLCK, _SHARED)
        if self._shm is None:
            try:
                self._shm = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise AdriftError(
                    f"the ledger {path}: {path}-shm was taken away while it was opened ({error.strerror}); nothing"
                    " was sent or recorded, try again"
                ) from error
            self.shm = os.fstat(self._shm).st_ino
            self._index = logs.Index(self._shm)
            with contextlib.suppress(OSError):
                self._log = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        spans.claim(self._shm, fcntl.F_RDLCK, _DMS)

    def hold_database(self) -> None:
        """Take the lock on the database alone."""
        spans.claim(self._fd, fcntl.F_RDLCK, _SHARED)

    def has_others(self) -> bool:
        """True if others have connections on the file: other programs, or other engines of this one."""
        return (self.users > 1 and self.shm != 0) or spans.is_claimed(self._fd, _SHARED)

    def let_go(self) -> None:
        """Give the locks up, so that the last connection of all, here or elsewhere, may put the log away."""
        spans.claim(self._fd, fcntl.F_UNLCK, _SHARED)
        if self._shm is not None:
            spans.claim(self._shm, fcntl.F_UNLCK, _DMS)

    def tip(self) -> tuple[Tip, int] | None:
        """The last commit in the log, and how many of its pages are in the database; None for a damaged index."""
        return None if self._index is None else self._index.tip()

    def holds(self, tip: Tip) -> bool:
        """True if the log holds the commit `tip`."""
        return not tip.pages or (self._log is not None and logs.holds(self._log, tip))

    def descriptors(self) -> list[int]:
        """What is open. No connection of this process may be left on the files when one is closed."""
        return [fd for fd in (self._fd, self._shm, self._log) if fd is not None]


class View:
    """The descriptors that all who only read a ledger in this process share.

    Closing any descriptor of a file drops the POSIX locks of all connections of the process on it, and so the claim
    of another thread on the state it reads: they are closed only when nobody here uses the file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._indexes: dict[int, int] = {}
        self.parked: list[int] = []
        self.users = 0

    def has_others(self) -> bool:
        """True if anybody has connections on the file."""
        return spans.is_claimed(self._fd, _SHARED)

    def tip(self, path: Path) -> tuple[Tip, int] | None:
        """What the `-shm` of the ledger at `path` shows; None where nobody uses it: SQLite makes it anew then."""
        with _anchoring:
            inode = Path(f"{path}-shm").stat().st_ino
            if inode not in self._indexes:
                fd = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
                self._indexes[os.fstat(fd).st_ino] = fd
            fd = self._indexes.get(inode, -1)
        return logs.Index(fd).tip() if fd >= 0 and spans.is_claimed(fd, _DMS) else None

    def copy_database(self, target: Path) -> None:
        """Copy the database file."""
        with target.open("wb") as made:
            at = 0
            while block := os.pread(self._fd, 1 << 20, at):
                at += made.write(block)

    def descriptors(self) -> list[int]:
        """What is open."""
        return [self._fd, *self._indexes.values(), *self.parked]


_views: dict[tuple[int, int], View] = {}
_anchors: dict[tuple[int, int], Anchor] = {}
_anchoring = threading.RLock()


def anchor(path: Path) -> Anchor:
    """The anchor of the file at `path`, one for all who use it in this process; `drop` gives it back."""
    with _anchoring:
        found = path.stat()
        key = (found.st_dev, found.st_ino)
        held = _anchors.get(key)
        if held is None:
            held = _anchors[key] = Anchor(path)
        held.users += 1
        return held


def drop(held: Anchor) -> None:
    """Give an anchor back; the last one closes it."""
    with _anchoring:
        held.users -= 1
        if held.users == 0:
            for key in [key for key, each in _anchors.items() if each is held]:
                del _anchors[key]
                view = _views.get(key)
                if view is not None and view.users:
                    view.parked += held.descriptors()
                    return
                _close([*held.descriptors(), *(_views.pop(key).descriptors() if view is not None else ())])


@contextlib.contextmanager
def viewed(path: Path) -> Iterator[View]:
    """The view of the file at `path`, one for all who read it in this process. OSError if it cannot be opened."""
    with _anchoring:
        found = path.stat()
        key = (found.st_dev, found.st_ino)
        view = _views.get(key)
        if view is None:
            view = _views[key] = View(path)
        view.users += 1
    try:
        yield view
    finally:
        with _anchoring:
            view.users -= 1
            if view.users == 0 and key not in _anchors:
                del _views[key]
                _close(view.descriptors())


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)
