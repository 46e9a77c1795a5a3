"""A copy of a ledger while it is in use: whole, checked, and put in place at once."""

from __future__ import annotations

import contextlib
import os
import tempfile
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
    try:
        fd, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
        os.close(fd)
        made = Path(name)
        try:
            ReadEngine(path).copy(made)
            found = check(made)
            if found is not None:
                raise LedgerError(f"the copy of {path} is not whole and was thrown away: {found}")
            _sync(made)
            _check_target(resolve(path), place, force)  # it took a while: who knows what came meanwhile
            made.replace(place)
            _sync(place.parent)
        finally:
            with contextlib.suppress(OSError):
                made.unlink()
    except OSError as error:
        raise LedgerError(f"cannot write the backup {place}: {error.strerror}") from error
    return place


_BESIDE = ("-wal", "-shm", "-journal", "-lock")
"""What the names of files that belong to a ledger end with."""


def _check_target(path: Path, place: Path, force: bool) -> None:
    check_is_file(place)
    for suffix in _BESIDE:
        owner = place.name.removesuffix(suffix)
        if owner not in ("", place.name) and os.path.lexists(place.with_name(owner)):
            raise LedgerError(f"{place} would be taken for a part of {place.with_name(owner)}; name another")
    beside = [f"{place}{suffix}" for suffix in _BESIDE if os.path.lexists(f"{place}{suffix}")]
    if not os.path.lexists(place):
        if beside:
            raise LedgerError(f"{place} would be taken for the owner of {', '.join(beside)}; name another")
        return
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
