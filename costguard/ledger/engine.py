"""What a database must do to hold a ledger: transactions of plain SQL, all or nothing.

Another database is another engine, not another accounting: its own file in `engines/`, and one line there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Tx(Protocol):
    """One open transaction of an engine. SQL uses `?` parameters and returns plain tuples."""

    stamp: str
    """A SELECT of one row, `0, STAMP, 0`: a number that is another one once anybody has called `restamp`."""

    is_shared: bool
    """As of its engine."""

    waited_s: float
    """How long the rows that it took were waited for, beyond the way there and back."""

    is_again: bool
    """True if the same has been run before and may be committed: the answer to that was lost."""

    own: dict[Any, Any]
    """What write transactions remember for the next one: empty if anyone else has written since the last commit of
    this engine, and after a transaction that failed. A read transaction's is its own, and empty."""
    kept: dict[Any, Any]
    """As `own`, but kept while others write: what is in it is to be looked at anew by who uses it."""

    def alone(self) -> None:
        """From here on nobody else writes until the end: the engine may have to begin anew for that.

        For what looks at rows that others may be adding. Transactions that are not `beside` are alone from their start.
        """

    def restamp(self) -> None:
        """What others remember of the ledger under `stamp` is no longer so."""

    def lock(self, sql: str, parameters: Sequence[object] = (), *, known: bool = False) -> None:
        """Take the rows of a `SELECT id … FOR UPDATE` until the end; nothing to do where one writer writes.

        `known`: they are named by their numbers, not looked for: so that nobody can have added one meanwhile.
        """

    def take(self, sql: str, parameters: Sequence[object], numbers: int) -> list[tuple[Any, ...]]:
        """Every row of a query (three columns, the first not negative), of what was locked before.

        What `insert` adds next to the journal, `numbers` rows, is numbered after it: so that the journal has all that
        moves one balance in the order in which it was moved.
        """

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Every row."""

    def one(self, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""

    def each(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows, one by one."""

    def insert(self, sql: str, key: str, parameters: Sequence[object]) -> int:
        """An `INSERT` of one row; returns the number that the engine gave to its column `key`."""

    def seq_of_hold(self, attempt_id: int) -> int | None:
        """The number in the journal of an attempt's first entry; None: the next one."""

    def later(self, op: Callable[[Any], None]) -> None:
        """Run `op` beside others, once this is committed and all that has begun by then is over: nobody is owed it."""

    def tidy(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A `DELETE` of what is of no more use; not done where others may not delete."""

    def run(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A statement without rows."""

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each of `rows`."""

    def columns(self, table: str) -> list[str]:
        """The columns of a table."""

    def renumber(self, tables: Mapping[str, str]) -> None:
        """Rows were put in with numbers of their own (table -> column): those that are given next come after them."""

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
    """A step of something that takes several: a transaction of `engine`, whose value or error is to be sent back.

    `beside`: see `Engine.write`.
    """

    engine: Engine
    op: Callable[[Any], Any]
    beside: bool = False


Steps = Generator[Write, Any, T]
"""Something that takes several writes, and may be put aside before each: so that many share a transaction."""


def run(steps: Steps[T]) -> T:
    """Run `steps` to their end, here and now, one write after another."""
    try:
        write = next(steps)
        while True:
            try:
                value = write.engine.write(write.op, beside=write.beside)
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

    is_shared: bool
    """True if many write at the same time, over a network: what is written may need a key to be found again by."""

    leases: str
    """Whether slices of budgets are taken: `auto`, `on` or `off`, see `accounting.leasing`."""

    def write(self, op: Callable[[Any], T], *, beside: bool = False) -> T:
        """Run `op(tx)` in a transaction, durable once this returns; rolled back if `op` raises.

        `op` may be run on another thread, and again if it had to be rolled back. Unless it is `beside`, nobody else
        writes meanwhile. `beside`: it takes what it decides on (`lock`, `take`), in one order, so that it may run
        beside others such; and it finds what it wrote before, should it be run again (`is_again`).
        """

    def write_all(self, writes: Sequence[tuple[Context, Write]]) -> list[Outcome]:
        """Run each as `write` does when called in its context: none fails for another."""

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
