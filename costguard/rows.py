"""Rows of data as people read them, and as notebooks show them: a table, or a DataFrame."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from importlib import import_module
from typing import Any

from costguard.errors import ConfigurationError

UNKNOWN = "–"
"""An unknown or absent value."""

LIBRARIES = ("pandas", "polars")


def shown(value: object) -> str:
    """A value as text for people: Decimal plain, as USD are; counts with commas; an unknown as a dash."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M %Z}"
    return str(value)


def visible(text: str) -> str:
    """Text with control characters but line breaks, and those that turn the direction of writing, in writing.

    A terminal would obey the ones; the others make a name look like another.
    """
    return _UNSEEN.sub(_written, text)


_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def to_html(titles: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """An HTML table of the columns in `titles` (key -> title), for a notebook, which has a style of its own."""
    names = "".join(f"<th>{escape(visible(title))}</th>" for title in titles.values())
    head = f"<thead><tr>{names}</tr></thead>" if any(titles.values()) else ""
    cells = [[escape(visible(shown(row.get(key, "")))) for key in titles] for row in rows]  # a total has blanks
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def to_frame(keys: Sequence[str], rows: Sequence[Mapping[str, Any]], library: str | None = None) -> Any:
    """A DataFrame of the columns `keys`: of `library`, "pandas" or "polars", else of the one the program has loaded,
    else of the one that is installed, pandas first.

    Amounts stay Decimal: objects in pandas, Decimal(38, 9) in polars. ConfigurationError if there is no library.
    """
    columns = {key: [row[key] for row in rows] for key in keys}
    module, name = _library(library)
    if name == "pandas":
        return module.DataFrame(columns, columns=list(keys), dtype=object).infer_objects()
    schema = {key: module.Decimal(38, 9) for key, values in columns.items() if _are_amounts(values)}
    return module.DataFrame(columns, schema_overrides=schema, strict=False)


def _are_amounts(values: Iterable[object]) -> bool:
    known = [value for value in values if value is not None]
    return any(isinstance(value, Decimal) for value in known) and all(
        isinstance(value, (Decimal, int)) and not isinstance(value, bool) for value in known
    )


def _library(wanted: str | None) -> tuple[Any, str]:
    if wanted is not None and wanted not in LIBRARIES:
        raise ConfigurationError(f"library: expected pandas or polars, found {wanted!r}")
    loaded = [name for name in LIBRARIES if name in sys.modules]
    for name in [wanted] if wanted else [*loaded, *LIBRARIES]:
        try:
            return import_module(name), name
        except ImportError:
            continue
    raise ConfigurationError(f"a DataFrame needs {wanted or 'pandas or polars'}; install it: pip install pandas")
