"""CSV: a document's rows under a header of their keys, each with what tells it from those of other documents."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from decimal import Decimal

from costguard.reports.document import Document, plain

FOR_PEOPLE = False

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What spreadsheets begin a formula with; some take the wide characters, too."""


def write(document: Document) -> str:
    """Lines end with a newline; an unknown is empty. Text that a spreadsheet takes for a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = document.stackable_keys
    writer.writerow(map(cell, keys))
    for row in document.stackable_rows:
        writer.writerow([cell(row[key]) for key in keys])
    return text.getvalue()


def cell(value: object) -> object:
    """A value as a cell: text that a spreadsheet takes for a formula is quoted, numbers are as they are."""
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
