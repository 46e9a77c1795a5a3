"""JSON: a document's whole record, indented, with the number of its schema."""

from __future__ import annotations

import json

from costguard.reports.document import Document, plain

FOR_PEOPLE = False

SCHEMA = 1
"""Raised when a field changes its meaning or goes."""


def write(document: Document) -> str:
    """Money is a decimal string, a time ISO 8601, an unknown null."""
    return json.dumps({"schema": SCHEMA, **document.record}, indent=2, ensure_ascii=False, default=plain)
