"""A copy of a ledger while it is in use: whole, checked, and put in place at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from costguard.errors import LedgerError
from costguard.ledger.engines.files import check_is_file, resolve
from costguard.ledger.engines.reading import ReadEngine


def back_up(path: str | Path, target: str | Path, check: Callable[[Path], str | None], *, force: bool = False) -> Path:
    """Copy the ledger at `path` to the file `target` (mode 0600) and return its full name; no writer is held up.

    The copy is one file, made beside `target` and renamed once `check` (the copy's path -> what is wrong with it)
    found nothing. LedgerError for that, for a `target` that is there (without `force`), that is a ledger in use, or
    that cannot be written.
    """
    place = resolve(target)
    _check_target(resolve(path), place, force)
    made = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            ReadEngine(path).copy(made)
            found = check(made)
            if found is not None:
                raise LedgerError(f"the copy of {path} is not whole and was thrown away: {found}")
            _sync(made)
            made.replace(place)
            _sync(place.parent)
        finally:
            with contextlib.suppress(OSError):
                made.unlink()
    except OSError as error:
        raise LedgerError(f"cannot write the backup {place}: {error.strerror}") from error
    return place


def _check_target(path: Path, place: Path, force: bool) -> None:
    check_is_file(place)
    if not os.path.lexists(place):
        return
    beside = [f"{place}{suffix}" for suffix in ("-wal", "-shm", "-lock") if os.path.lexists(f"{place}{suffix}")]
    if beside or place == path or (path.exists() and place.samefile(path)):
        raise LedgerError(
            f"{place} is a ledger that programs use ({', '.join(beside) or 'the very same'}); name another"
        )
    if not force:
        raise LedgerError(f"{place} is there already; name another file, or overwrite it with --force")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
