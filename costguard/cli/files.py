"""An answer in a file: put in its place whole, or not at all, and never in that of something else."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from costguard.errors import ConfigurationError

_DATABASE = b"SQLite format 3\0"
"""What every SQLite file begins with."""


def check_place(path: Path) -> Path:
    """The file that `path` leads to, through links, new or one that may be replaced.

    ConfigurationError for what is no regular file, is protected, a database or another's, has other names, or is in
    no folder that can be written to.
    """
    try:
        place = Path(os.path.realpath(path))
        folder = place.parent.stat()
        found = _stat(place)
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "name a file in a folder that is there") from error
    if not stat.S_ISDIR(folder.st_mode):
        raise _refused(path, f"{place.parent} is no folder", "name a file in a folder that is there")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise _refused(path, f"the folder {place.parent} cannot be written to", "name a file in another one")
    if found is None:
        return place
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "it is no regular file", "name a new file")
    if not os.access(place, os.W_OK) or not found.st_mode & stat.S_IWUSR:
        raise _refused(path, "it is protected from being written to", "name another file, or remove it first")
    if found.st_nlink > 1:
        raise _refused(path, "it has other names (hard links), which keep what is in it", "remove it first")
    if os.geteuid() not in (found.st_uid, 0):
        raise _refused(path, "it belongs to another user", "remove it first")
    if _begins(place) == _DATABASE:
        raise _refused(path, "it is a database", "name another file")
    return place


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` where `path` leads to, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write what is to be where `path` leads to: what was there, or all of it, is seen.

    It takes its place at the end, and not at all if anything is raised before. A new file has the mode that the umask
    says, one that is replaced keeps its own. ConfigurationError as by `check_place`, and for what cannot be written.
    """
    place = check_place(path)
    beside = place.with_name(f".costguard-{secrets.token_hex(8)}")
    try:
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
                _keep_rights(place, file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        finally:
            with contextlib.suppress(OSError):  # it is not there any more, if all went well
                beside.unlink()
        _sync_folder(place.parent)
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "name a file where there is room") from error


def _keep_rights(place: Path, file: int) -> None:
    found = _stat(place)
    if found is None:
        return
    mine = os.fstat(file)
    if (found.st_uid, found.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(file, found.st_uid, found.st_gid)
    os.fchmod(file, stat.S_IMODE(found.st_mode))


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that may not be read cannot be synced, and all is written
        opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_DATABASE))


def _refused(path: Path, why: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be written: {why}; {instead}")
