"""FOCUS exports as files, written row by row: CSV, and Parquet by the extra `parquet`."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, Protocol

from costguard.reports.document import Row
from costguard.reports.focus import COLUMNS, VERSION
from costguard.reports.formats.csv_format import cell
from costguard.reports.formats.parquet import arrow

CSV_ROWS, PARQUET_ROWS = 500, 20_000
"""Rows that are kept before they are written; of Parquet this is a group of rows."""

_PLACES = 15
"""Decimals of an amount: a price a million tokens has nano-dollars, a list cost a millionth of these."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take some more."""


def write_csv(rows: Iterable[Row], file: Sink) -> int:
    """UTF-8; a null is empty, a moment ISO 8601 with a Z, an amount has a decimal point. How many rows there were."""
    total = 0
    for some in _some(rows, CSV_ROWS, at_least_once=True):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not total:
            writer.writerow(COLUMNS)
        writer.writerows([write(row[name]) for name, write in _COLUMNS] for row in some)
        file.write(text.getvalue().encode(errors="backslashreplace"))
        total += len(some)
    return total


def write_parquet(rows: Iterable[Row], file: Sink) -> int:
    """Amounts as decimal128(38, 15), moments as UTC timestamps in microseconds. How many rows there were.

    ConfigurationError without pyarrow.
    """
    pa, parquet = arrow()
    types = {
        "text": pa.string(),
        "amount": pa.decimal128(38, _PLACES),
        "moment": pa.timestamp("us", tz="UTC"),
        "count": pa.int64(),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()], metadata={"focus_version": VERSION})
    total = 0
    with parquet.ParquetWriter(_Counted(file), schema, compression="zstd") as writer:
        for some in _some(rows, PARQUET_ROWS, at_least_once=False):
            columns = [[_plain(row[name]) for row in some] for name in COLUMNS]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))
            total += len(some)
    return total


WRITERS: dict[str, Callable[[Iterable[Row], Sink], int]] = {"csv": write_csv, "parquet": write_parquet}
"""Format -> how it is written."""


def _some(rows: Iterable[Row], count: int, *, at_least_once: bool) -> Iterator[list[Row]]:
    """The rows, so many at a time; nothing at all as an empty list, if `at_least_once`."""
    left = iter(rows)
    some = list(islice(left, count))
    if some or at_least_once:
        yield some
    while some := list(islice(left, count)):
        yield some


@functools.lru_cache(maxsize=4096)
def _text(value: str | None) -> object:
    """Most texts come again and again."""
    return cell(value)


def _amount(value: Decimal | None) -> str:
    if value is None:
        return ""
    whole, _, decimals = f"{value:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'}"


@functools.lru_cache(maxsize=4096)
def _moment(value: datetime | None) -> str:
    return "" if value is None else f"{value:%Y-%m-%dT%H:%M:%SZ}"


_CELLS: dict[str, Callable[[Any], object]] = {"text": _text, "amount": _amount, "moment": _moment, "count": cell}
_COLUMNS = [(name, _CELLS[kind]) for name, kind in COLUMNS.items()]


def _plain(value: object) -> Any:
    """Text that UTF-8 has no bytes for is written down as Python does."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


class _Counted:
    """A sink that knows how far it is, as Parquet's footer wants it, even of a pipe."""

    closed = False

    def __init__(self, file: Sink) -> None:
        self._file = file
        self._at = 0

    def write(self, data: Any) -> int:
        """Pass it on."""
        self._file.write(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """How much was written."""
        return self._at

    def flush(self) -> None:
        """Whoever opened it sees to that."""

    def close(self) -> None:
        """Whoever opened it sees to that."""
