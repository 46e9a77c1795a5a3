"""The engine of a path: one SQLite file, to use or to read only."""

from __future__ import annotations

from pathlib import Path

from costguard.errors import LedgerError
from costguard.ledger.engines.reading import ReadEngine
from costguard.ledger.engines.sqlite import SqliteEngine


def open_engine(target: str | Path, *, durability: str) -> SqliteEngine:
    """See `costguard.ledger.engines`: the file at a path."""
    return SqliteEngine(target, durability=durability)


def open_reader(target: str | Path, *, durability: str) -> ReadEngine:  # noqa: ARG001
    """The same, without the right or the wish to write."""
    return ReadEngine(target)


def is_there(target: str | Path) -> bool:
    """Whether there is anything but an empty file."""
    path = Path(target)
    try:
        return path.exists() and (not path.is_file() or path.stat().st_size > 0)
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be read: {error.strerror}") from error


def name_of(target: str | Path) -> str:
    """Its path."""
    return str(target)
