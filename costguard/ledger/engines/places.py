"""The ledger's files as their names lead to them, and what is known of them: are they what they should be?

SQLite keeps one database in three files and trusts that they belong together. Here that is looked at. The lock file
keeps a note (`Note`): the size and time of the database file as our own programs last left it, which `-wal` belongs
to it, and whether that holds records the file itself does not hold yet. Whatever another program does to the files
shows as a difference to the note.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from costguard.errors import LedgerError

_SHARED = (0x40000002, 510)
"""Bytes of a database on which SQLite's connections hold their shared lock (first, length)."""
_DMS = (128, 1)
"""Byte of `-shm` that tells SQLite that the file is in use."""
_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", None)
_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", None)


EMPTY, BEGUN, KEPT = range(3)


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
    log: int
    """Whether that holds transactions which the database file does not: `EMPTY`, `BEGUN` (just about to) or `KEPT`."""

    def encode(self) -> bytes:
        """Of one length, so that it is overwritten whole."""
        return f"costguard 1 {' '.join(str(int(value)) for value in self)} .".encode().ljust(159) + b"\n"

    def fits(self, found: Files) -> bool:
        """True if the database file is as it was left, in content; copying a folder keeps that."""
        return (self.size, self.mtime_ns) == (found.size, found.mtime_ns)


def decode(note: bytes) -> Note | None:
    """A note, None for none or one of another version."""
    words = note.split()
    if len(words) != 8 or words[:2] != [b"costguard", b"1"] or words[-1] != b".":
        return None
    try:
        return Note(*map(int, words[2:7]))
    except ValueError:
        return None


class Names:
    """A ledger's file names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database, self._wal, self._shm = str(path), f"{path}-wal", f"{path}-shm"

    def look(self) -> Files:
        """What they lead to now: three system calls. FileNotFoundError if the database is not there."""
        stat = os.stat
        database = stat(self._database)
        try:
            wal = stat(self._wal).st_ino
        except OSError:
            wal = 0
        try:
            shm = stat(self._shm).st_ino
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
        for name in (self._wal, self._shm):
            Path(name).unlink(missing_ok=True)

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
        if note.inode == found.inode and note.fits(found):
            if note.log == KEPT and not (frames and note.wal == found.wal):
                raise LedgerError(
                    f"the ledger {self.path} is not whole: its {self._wal}, which held records of its own, was"
                    f" {'replaced by another file' if found.wal else 'removed'}. Programs that still use the ledger put"
                    " them back at their next call; or put the file back yourself. If it is lost for good, remove"
                    f" {self.path}-lock to go on without what was in it"
                )
            return False
        return frames and not (note.fits(found) and note.inode == found.inode)


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
        self.users = 0

    def header(self) -> bytes:
        """The first 100 bytes of the database file itself."""
        return os.pread(self._fd, 100, 0)

    def is_deleted(self) -> bool:
        """True if the file has no name any more: what is in it ends with its last descriptor."""
        return os.fstat(self._fd).st_nlink == 0

    def hold(self, path: Path) -> None:
        """Take the locks; to be called once the file is in WAL mode, with its `-shm` there."""
        _ofd(self._fd, fcntl.F_RDLCK, _SHARED)
        if self._shm is None:
            try:
                self._shm = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise AdriftError(
                    f"the ledger {path}: {path}-shm was taken away while it was opened ({error.strerror}); nothing"
                    " was sent or recorded, try again"
                ) from error
            self.shm = os.fstat(self._shm).st_ino
        _ofd(self._shm, fcntl.F_RDLCK, _DMS)

    def hold_database(self) -> None:
        """Take the lock on the database alone."""
        _ofd(self._fd, fcntl.F_RDLCK, _SHARED)

    def has_others(self) -> bool:
        """True if others have connections on the file: other programs, or other engines of this one."""
        if self.users > 1 and self.shm:
            return True
        if _OFD_GETLK is None or sys.platform != "linux":
            return False
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, *_SHARED, 0)
        try:
            found = fcntl.fcntl(self._fd, _OFD_GETLK, asked)
        except OSError:  # a file system without such locks
            return False
        return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)

    def let_go(self) -> None:
        """Give the locks up, so that the last connection of all, here or elsewhere, may put the log away."""
        _ofd(self._fd, fcntl.F_UNLCK, _SHARED)
        if self._shm is not None:
            _ofd(self._shm, fcntl.F_UNLCK, _DMS)

    def frames(self) -> tuple[int, int]:
        """Pages in the log, and how many of them are in the database too (sqlite.org/walformat.html, 2.2)."""
        if self._shm is None:
            return 0, 0
        index = os.pread(self._shm, 100, 0)
        if len(index) < 100:
            return 0, 0
        frames, backfilled = struct.unpack_from("=16xI", index)[0], struct.unpack_from("=96xI", index)[0]
        return frames, backfilled

    def close(self) -> None:
        """Close the descriptors. No connection of this process may be left on the files."""
        os.close(self._fd)
        if self._shm is not None:
            os.close(self._shm)


def _ofd(fd: int, kind: int, span: tuple[int, int]) -> None:
    if _OFD_SETLK is not None and sys.platform == "linux":
        try:
            fcntl.fcntl(fd, _OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, *span, 0))
        except OSError:
            return  # a database that is just being made, or a file system without such locks


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
            held.close()
