"""What a program knows of a ledger whose files change under it: its last entry, and what nobody else may still see."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any


class Rescue:
    """The one copy that an engine saves of the ledger at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: Path | None = None

    @property
    def said(self) -> str:
        """A sentence that says where it is; empty if there is none."""
        return "" if self._saved is None else f". All that was recorded here is kept in {self._saved}"

    def save(self, connection: sqlite3.Connection | None) -> None:
        """Save what `connection` sees, once, if that can be done."""
        if self._saved is None and connection is not None:
            name = Path(f"{self._path}-rescue-{time.time_ns() // 1000}-{os.getpid()}")
            try:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                connection.execute("VACUUM INTO ?", (str(name),))
            except (OSError, sqlite3.Error):
                name.unlink(missing_ok=True)
            else:
                self._saved = name

    def forget(self) -> None:
        """Remove it: all of it is in the ledger."""
        if self._saved is not None:
            self._saved.unlink(missing_ok=True)
            self._saved = None


class Memory:
    """The last entry that was known when the connections had to be given up: is it in what is opened next?"""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] | None = None
        self._is_lost = False

    def keep(self, connection: sqlite3.Connection | None) -> None:
        """Remember the last entry that `connection` sees; None if it cannot be asked."""
        try:
            if connection is None:
                self._is_lost = True
            else:
                self._last = connection.execute("SELECT * FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        except sqlite3.Error:
            self._is_lost = True

    def is_in(self, connection: sqlite3.Connection) -> bool:
        """True if what is remembered is part of what `connection` sees; it is forgotten then."""
        if self._is_lost:
            return False
        if self._last is not None:
            same = connection.execute("SELECT * FROM entries WHERE seq = ?", self._last[:1]).fetchone()
            if same != self._last:
                return False
            self._last = None
        return True
