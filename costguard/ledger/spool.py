"""Files for what a ledger could not be told yet: one a program, one record a line, on the disk before a call is sent.

Each line is a CRC-32 and a text. Who writes a file keeps a lock on it, which ends with the program: a file without one
is nobody's, and whoever opens the ledger next takes it over. A line that was cut off was of a call that was not sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from costguard.errors import LedgerError
from costguard.ledger.place import data_folder

FOLDER_VARIABLE = "COSTGUARD_SPOOL"
"""Environment variable that names the folder in which each ledger has a folder of its own for such files."""

BYTES_MAX = 64 * 2**20
"""Bytes of a file at which no further call begins; how those under way end is still written. Some 50,000 calls."""

_SUFFIX = ".spool"

log = logging.getLogger("costguard")


def spool_folder(ledger: str, *, make: bool = True) -> Path:
    """Where the files for a ledger lie, by its name: see `FOLDER_VARIABLE`, else in the platform's data folder.

    Made, for the user alone, unless `make` is false. LedgerError if it
    cannot be made, or is somebody else's.
    """
    root = os.environ.get(FOLDER_VARIABLE)
    folder = Path(root).expanduser() if root else data_folder(make=False) / "spool"
    folder /= hashlib.sha256(ledger.encode("utf-8", "replace")).hexdigest()[:16]
    if not make:
        return folder
    try:
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise LedgerError(f"the spool folder {folder} belongs to another user; name another with {FOLDER_VARIABLE}")
        if found.st_mode & 0o077:
            folder.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "it cannot be written to")
    except OSError as error:
        raise LedgerError(
            f"the spool folder {folder} cannot be made: {error.strerror}; name another with {FOLDER_VARIABLE}"
        ) from error
    return folder


class Line(NamedTuple):
    """A record's text, and the byte of the file at which the next one begins."""

    text: str
    end: int


class Lines(NamedTuple):
    """The records of a file, and how many whole lines of it are none. What was cut off at its end is left out."""

    found: list[Line]
    damaged: int


class Spool:
    """The file of this program in `folder`: made when there is something to keep, removed when all of it is told.

    Safe to use from many threads. LedgerError for a disk that does not take a record: then none of it is kept.
    """

    _fd: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Reentrant: the end of a stream that was dropped comes from garbage collection, at any moment.
        self.lock = threading.RLock()
        self._pid = os.getpid()
        self.path: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of the file; 0 without one."""
        with self.lock:
            self._check_process()
            return 0 if self._fd is None else os.fstat(self._fd).st_size

    def append(self, texts: Sequence[str]) -> None:
        """Keep records, all or none; on the disk once this returns."""
        data = b"".join(map(_line, texts))
        with self.lock:
            self._check_process()
            try:
                fd = self._open() if self._fd is None else self._fd
                self._write(fd, data)
            except OSError as error:
                raise LedgerError(
                    f"the spool in {self._folder} cannot be written: {error.strerror}; nothing was kept"
                ) from error

    def lines(self, start: int = 0) -> Lines:
        """What is kept from byte `start` on."""
        with self.lock:
            self._check_process()
            return Lines([], 0) if self._fd is None else _read(self._fd, start)

    def clear(self, keep: Sequence[str] = ()) -> None:
        """Remove the file, but for the records in `keep`; who has read it holds `lock` until then.

        What is kept is in a file of its own before the old one goes: a program killed in between leaves both.
        """
        with self.lock:
            old, path = self._fd, self.path
            self._fd = self.path = None
            try:
                if keep:
                    self.append(keep)
            except LedgerError:
                self._fd, self.path = old, path
                raise
            if old is not None and path is not None:
                _remove(path, old)

    def close(self) -> None:
        """Let the file go: it is nobody's then, and removed if there is nothing in it."""
        with self.lock:
            if self.size == 0 and self._fd is not None and self.path is not None:
                _remove(self.path, self._fd)
            elif self._fd is not None:
                os.close(self._fd)
            self._fd = self.path = None

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def _check_process(self) -> None:
        """The file of a fork's parent stays its own; its lock does, too, as the child only closes it."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            fd, self._fd, self.path = self._fd, None, None
            if fd is not None:
                os.close(fd)

    def after_fork(self) -> None:
        """In a fork's child: threads that held the lock are not here."""
        self.lock = threading.RLock()
        self._check_process()

    def _open(self) -> int:
        """A new file that is this program's."""
        while True:
            path = self._folder / f"{os.getpid()}-{uuid.uuid4().hex}{_SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if _take(fd):  # else another program took it for a dead one's
                    _sync_folder(self._folder)
                    self._fd, self.path = fd, path
                    return fd
            except OSError:
                _remove(path, fd)
                raise
            os.close(fd)

    @staticmethod
    def _write(fd: int, data: bytes) -> None:
        start = os.fstat(fd).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, start)
            raise


def take_over(folder: Path, write: Callable[[Path, Lines], bool]) -> int:
    """Hand the lines of each file in `folder` that is nobody's to `write`, and remove it if that returns true.

    Returns the number of those removed. A file with damaged lines is kept beside, under another name.
    """
    removed = 0
    for path in _files(folder):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # gone, or of another user
            continue
        try:
            if not _take(fd):
                continue
            lines = _read(fd, 0)
            if not write(path, lines):
                continue
            if lines.damaged:
                kept = path.with_suffix(".damaged")
                path.rename(kept)
                log.error("%d records in %s cannot be read any more: it is kept", lines.damaged, kept)
            else:
                path.unlink()
            removed += 1
        except OSError as error:
            log.error("the spool %s: %s", path, error.strerror)
        finally:
            os.close(fd)
    return removed


def kept_lines(folder: Path) -> Iterator[Line]:
    """What all files in `folder` keep, those of living programs too; nothing is locked or changed."""
    for path in _files(folder):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            yield from _read(fd, 0).found
        finally:
            os.close(fd)


def _files(folder: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)
    except OSError:
        return ()


def _take(fd: int) -> bool:
    """Lock a file that is still there; False if somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _remove(path: Path, fd: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _line(text: str) -> bytes:
    data = text.encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _read(fd: int, start: int) -> Lines:
    data = bytearray()
    while part := os.pread(fd, 2**20, start + len(data)):
        data += part
    found: list[Line] = []
    damaged = at = 0
    while (stop := data.find(b"\n", at)) >= 0:
        line = bytes(data[at:stop])
        at = stop + 1
        text = line[9:].decode(errors="replace")
        if line == _line(text)[:-1]:
            found.append(Line(text, start + at))
        else:
            damaged += 1
    return Lines(found, damaged)
