"""CSV: a document's rows under a header of their keys."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from decimal import Decimal

from costguard.reports.document import Document, plain

FOR_PEOPLE = False

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(document: Document) -> str:
    """Lines end with a newline; an unknown is empty. Text that a spreadsheet takes for a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(document.keys)
    for row in document.rows:
        writer.writerow([_value(row[key]) for key in document.keys])
    return text.getvalue()


def _value(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (Decimal, datetime)):
        return plain(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=plain)
    return f"'{text}" if text.startswith(_FORMULA) else text
