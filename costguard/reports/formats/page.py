"""HTML: one file that needs nothing else, for a browser on any screen, dark or light, and for paper.

No scripts, no links, no address of anything: its content security policy allows its own style sheet alone. Charts
are SVG with their tables below. What names contain is text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Any

from costguard.reports.document import Chart, Column, Document, Figures, Heading, Part, Table
from costguard.reports.formats.svg import draw, text
from costguard.reports.formats.texts import texts
from costguard.reports.periods import days_text
from costguard.rows import shown

FOR_PEOPLE = False

_FEW = 3
"""Columns that stand beside each other on a phone, too."""

_LONG_ROWS = 14
"""Of the table below a chart of columns: more of them are folded away."""

_DEEPEST = 4
"""Steps that a tree is shown with; deeper rows stand at the last one."""

_LABELS = {"as_of": "As of", "timezone": "Time zone"}


def write(document: Document) -> str:
    """The whole page."""
    style = _style()
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{allowed}';"
            " base-uri 'none'; form-action 'none'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{text(document.title)}</title>",
            f"<style>{style}</style>\n</head>\n<body>\n<main>",
            *_header(document),
            *_sections(document.parts),
            "</main>\n<footer>Made by costguard. Amounts are in USD.</footer>",
            "</body>\n</html>",
        ]
    )


@cache
def _style() -> str:
    return files("costguard.reports.formats").joinpath("page.css").read_text(encoding="utf-8")


def _header(document: Document) -> Iterator[str]:
    yield f'<header>\n<p class="brand">costguard</p>\n<h1><bdi>{text(document.title)}</bdi></h1>'
    if document.about:
        yield '<dl class="about">'
        for key, value in _about(document.about).items():
            label = _LABELS.get(key, key.replace("_", " ").capitalize())
            yield f"<div><dt>{text(label)}</dt><dd><bdi>{text(shown(value))}</bdi></dd></div>"
        yield "</dl>"
    yield "</header>"


def _about(about: Mapping[str, Any]) -> dict[str, Any]:
    """For people: the days from `since` to before `until` as one, tags as they are told on the command line."""
    found: dict[str, Any] = {}
    for key, value in about.items():
        if key == "since" and "until" in about:
            found["days"] = days_text(date.fromisoformat(value), date.fromisoformat(about["until"]))
        elif key == "tags" and isinstance(value, Mapping):
            found[key] = ", ".join(f"{name}={said}" for name, said in value.items())
        elif key != "until" or "since" not in about:
            found[key] = value
    return found


def _sections(parts: Sequence[Part]) -> Iterator[str]:
    """A section for each heading, and one before the first."""
    numbers = count(1)
    is_open = False
    for part in parts:
        if isinstance(part, Heading) or not is_open:
            if is_open:
                yield "</section>"
            yield "<section>"
            is_open = True
        yield from _part(part, numbers)
    if is_open:
        yield "</section>"


def _part(part: Part, numbers: Iterator[int]) -> Iterator[str]:
    match part:
        case str():
            lines = "".join(f"<p>{text(line)}</p>" for line in part.splitlines() if line.strip())
            yield f'<div class="text">{lines}</div>' if lines else ""
        case Heading():
            yield f"<h2>{text(part.text)}</h2>"
        case Figures():
            yield '<dl class="figures">'
            for item in part.items:
                unit = f' <span class="unit">{text(item.unit)}</span>' if item.unit else ""
                note = f"<dd{_class('note', item.level)}>{text(item.note)}</dd>" if item.note else ""
                value = f"<dd{_class('value', item.level)}>{text(shown(item.value))}{unit}</dd>"
                yield f"<div><dt>{text(item.label)}</dt>{value}{note}</div>"
            yield "</dl>"
        case Table():
            yield from _table(part)
        case Chart():
            yield "<figure>"
            if part.title:
                yield f"<figcaption>{text(part.title)}</figcaption>"
            yield draw(part, next(numbers))
            is_folded = part.kind == "columns" and len(part.table.rows) > _LONG_ROWS
            yield "<details><summary>The same in figures</summary>" if is_folded else ""
            yield from _table(part.table)
            yield "</details>" if is_folded else ""
            yield "</figure>"


def _table(table: Table) -> Iterator[str]:
    rows, total = texts(table)
    yield f"<table{_stacked(len(table.columns))}>"
    yield f"<thead><tr>{''.join(_title(column) for column in table.columns)}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        yield _row(table.columns, row)
    yield "</tbody>"
    if total is not None:
        yield f"<tfoot>{_row(table.columns, total)}</tfoot>"
    yield "</table>"


def _stacked(columns: int) -> str:
    """On a phone, the first of many columns stands above the others; these in threes, or in twos if there are 4."""
    return _class("many" if columns > _FEW else "", "pairs" if columns == 5 else "")


def _title(column: Column) -> str:
    return f'<th scope="col"{_class("n" if column.number else "")}>{text(column.title)}</th>'


def _row(columns: Sequence[Column], row: Sequence[str]) -> str:
    cells = [
        _cell(column, words, is_first=index == 0)
        for index, (column, words) in enumerate(zip(columns, row, strict=True))
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(column: Column, words: str, *, is_first: bool) -> str:
    """Directions of writing stay within a cell; `data-title` stands beside it where there is no room for columns."""
    kinds = [
        "n" if column.number else "",
        "" if column.number else _indent(words),
        "lines" if "\n" in words else "",
        "long" if len(words) > 14 else "",
    ]
    inner = text(words) if column.number or not words else f"<bdi>{text(words)}</bdi>"
    if is_first and not column.number:
        return f'<th scope="row"{_class(*kinds)}>{inner}</th>'
    return f'<td{_class(*kinds)} data-title="{text(column.title)}">{inner}</td>'


def _indent(words: str) -> str:
    """How deep a row stands in a tree: two blanks are a step."""
    step = (len(words) - len(words.lstrip(" "))) // 2
    return f"in{min(step, _DEEPEST)}" if step and words.strip() else ""


def _class(*kinds: str) -> str:
    joined = " ".join(filter(None, kinds))
    return f' class="{joined}"' if joined else ""
