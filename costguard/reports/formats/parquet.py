"""Parquet: a document's rows as typed columns, amounts as exact decimals. Needs the extra `parquet`."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from costguard.errors import ConfigurationError
from costguard.reports.document import Document, plain

_PLACES = 9
"""Decimals of an amount: a nano-dollar."""


def arrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`; ConfigurationError names the extra where they are not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError(
            f"--format parquet needs pyarrow ({error}); install it: pip install 'runware-costguard[parquet]'"
        ) from error
    return pa, parquet


def pack(document: Document) -> bytes:
    """One column for each key, `about` first: decimal128(38, 9) for amounts, int64, double, bool, UTC timestamps in
    microseconds, else text, nested values as JSON.

    A column of which nothing is known has the type null, which fits any other when files are put together.
    ConfigurationError without pyarrow.
    """
    pa, parquet = arrow()
    rows = document.stackable_rows
    columns = {key: _column(pa, [row[key] for row in rows]) for key in document.stackable_keys}
    schema = pa.schema(
        [(key, column.type) for key, column in columns.items()], metadata={"costguard.title": document.title}
    )
    table = pa.table(list(columns.values()), schema=schema)
    packed = io.BytesIO()
    parquet.write_table(table, packed, compression="zstd")
    return packed.getvalue()


def _column(pa: Any, values: Sequence[object]) -> Any:
    """An array of the one type that all known values have."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values if isinstance(value, int)):
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and float in kinds:
        return pa.array(values, pa.float64())
    if kinds <= {int, Decimal}:
        return _decimals(pa, values)
    if all(issubclass(kind, datetime) for kind in kinds):
        moments = [value.astimezone(UTC) if isinstance(value, datetime) else None for value in values]
        return pa.array(moments, pa.timestamp("us", tz="UTC"))
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _decimals(pa: Any, values: Sequence[Any]) -> Any:
    """Amounts, to the nano-dollar or as many decimals as there are more."""
    exact = [None if value is None else Decimal(value) for value in values]
    places = max(_PLACES, *(-int(value.as_tuple().exponent) for value in exact if value is not None))
    return pa.array(exact, pa.decimal128(38, places))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, (Decimal, datetime)):
        return plain(value)
    return json.dumps(value, ensure_ascii=True, default=plain)
