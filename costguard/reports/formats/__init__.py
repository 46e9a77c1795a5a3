"""The formats of reports: one module each, loaded when it is asked for, so that `costguard --help` stays light.

A new format is one file, with what `Format` or `Binary` asks of it, and its line in `FORMATS` or `BINARY`: every
command that prints data offers it then, and takes it for files that end in its name.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import PurePath
from typing import Protocol, cast

from costguard.reports.document import Document

FORMATS = {
    "table": "costguard.reports.formats.table",
    "json": "costguard.reports.formats.json_format",
    "csv": "costguard.reports.formats.csv_format",
    "markdown": "costguard.reports.formats.markdown",
    "html": "costguard.reports.formats.page",
}
"""Name in `--format` -> module; the first is the default."""

BINARY = {"parquet": "costguard.reports.formats.parquet"}
"""The same, of what is no text."""

ENDINGS = {"txt": "table", "md": "markdown", "htm": "html", "parq": "parquet"}
"""Endings of files that are not the name of their format."""


class Format(Protocol):
    """What a module of a format has."""

    FOR_PEOPLE: bool
    """Whether people read it: long lists are shortened for them, and the terminal's encoding is used."""

    def write(self, document: Document) -> str:
        """The document as text; "" if there is nothing to print."""
        ...


class Binary(Protocol):
    """What a module of a format has that is no text."""

    def pack(self, document: Document) -> bytes:
        """The document as a file's content. ConfigurationError if a library that it needs is missing."""
        ...


def names() -> list[str]:
    """Of all formats, the default first."""
    return [*FORMATS, *BINARY]


def named(name: str) -> Format:
    """The format of that name. KeyError for an unknown one."""
    return cast(Format, import_module(FORMATS[name]))


def binary(name: str) -> Binary:
    """The binary format of that name. KeyError for an unknown one."""
    return cast(Binary, import_module(BINARY[name]))


def is_for_people(name: str) -> bool:
    """Whether long lists are shortened in it."""
    return name in FORMATS and named(name).FOR_PEOPLE


def by_ending(path: PurePath) -> str | None:
    """The name of the format that a file of that name is in; None if its ending does not tell."""
    ending = path.suffix.removeprefix(".").lower()
    name = ENDINGS.get(ending, ending)
    return name if name in names() else None
