"""The formats of reports: one module each, loaded when it is asked for, so that `costguard --help` stays light.

A new format is one file, with what `Format` asks of it, and its line in `FORMATS`: every command that prints
data offers it then.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from costguard.reports.document import Document

FORMATS = {
    "table": "costguard.reports.formats.table",
    "json": "costguard.reports.formats.json_format",
    "csv": "costguard.reports.formats.csv_format",
}
"""Name in `--format` -> module; the first is the default."""


class Format(Protocol):
    """What a module of a format has."""

    FOR_PEOPLE: bool
    """Whether people read it: long lists are shortened for them, and the terminal's encoding is used."""

    def write(self, document: Document) -> str:
        """The document as text; "" if there is nothing to print."""
        ...


def named(name: str) -> Format:
    """The format of that name. KeyError for an unknown one."""
    return cast(Format, import_module(FORMATS[name]))
