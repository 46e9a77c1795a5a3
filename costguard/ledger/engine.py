"""What a database must do to hold a ledger: transactions of plain SQL, all or nothing.

Another database is another engine, not another accounting: its own file in `engines/`, and one line there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeVar

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


class Outcome(NamedTuple):
    """What came of something that was tried: its value, or the error it raised."""

    value: Any
    error: BaseException | None


def attempt(run: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call `run(*arguments)`."""
    try:
        return Outcome(run(*arguments), None)
    except Exception as error:  # noqa: BLE001  it belongs to whoever asks for the outcome
        return Outcome(None, error)


class Write(NamedTuple):
    """A step of something that takes several: a transaction of `engine`, whose value or error is to be sent back."""

    engine: Engine
    op: Callable[[Any], Any]


Steps = Generator[Write, Any, T]
"""Something that takes several writes, and may be put aside before each: so that many share a transaction."""


def run(steps: Steps[T]) -> T:
    """Run `steps` to their end, here and now, one write after another."""
    try:
        write = next(steps)
        while True:
            try:
                value = write.engine.write(write.op)
            except BaseException as error:  # noqa: BLE001  the steps decide what it means
                write = steps.throw(error)
            else:
                write = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result


class Engine(Protocol):
    """A database that runs transactions: all or nothing, and writers as if one after the other.

    Raises LedgerError, never a driver's own error. Safe to use from many threads and after forks.
    """

    def write(self, op: Callable[[Any], T]) -> T:
        """Run `op(tx)` in a transaction, durable once this returns; rolled back if `op` raises.

        `op` may be run on another thread, and again if it had to be rolled back.
        """

    def write_all(self, writes: Sequence[tuple[Context, Callable[[Any], Any]]]) -> list[Outcome]:
        """Run each `op(tx)` of `(context, op)` as `write` does when called in that context: none fails for another."""

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
