"""What a database must do to hold a ledger: transactions of plain SQL, all or nothing.

Another database is another engine, not another accounting: its own file in `engines/`, and one line there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Tx(Protocol):
    """One open transaction of an engine. SQL uses `?` parameters and returns plain tuples."""

    for_update: str

    own: dict[Any, Any]
    """What write transactions remember for the next one: empty if anyone else has written since the last commit of
    this engine, and after a transaction that failed. A read transaction's is its own, and empty."""
    kept: dict[Any, Any]
    """As `own`, but kept while others write: what is in it is to be looked at anew by who uses it."""

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Every row."""

    def one(self, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""

    def each(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows, one by one."""

    def insert(self, sql: str, key: str, parameters: Sequence[object]) -> int:
        """An `INSERT` of one row; returns the number that the engine gave to its column `key`."""

    def run(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A statement without rows."""

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each of `rows`."""

    def damage(self) -> str | None:
        """What the database itself finds wrong with its storage, None if it is sound."""


class Engine(Protocol):
    """A database that runs transactions: all or nothing, and writers as if one after the other.

    Raises LedgerError, never a driver's own error. Safe to use from many threads and after forks.
    """

    def write(self, op: Callable[[Any], T]) -> T:
        """Run `op(tx)` in a transaction, durable once this returns; rolled back if `op` raises."""

    def read(self, op: Callable[[Any], T]) -> T:
        """Run `op(tx)` on one consistent snapshot."""

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""

    @property
    def is_in_place(self) -> bool:
        """True if the storage that was opened is still what its name leads to."""

    def close(self) -> None:
        """Release everything; later use is a LedgerError."""
