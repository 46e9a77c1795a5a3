"""Markdown as GitHub writes it, for pull requests and wikis: pipes, marks, links and mentions in names stay text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from costguard.reports.document import Chart, Document, Figures, Heading, Part, Table
from costguard.reports.formats.texts import texts
from costguard.rows import shown, visible

FOR_PEOPLE = False

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>&|~$\"'\u200b]")
_LINKED = re.compile(r"[@#]|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What people, issues and addresses are found by, in text that was read already."""

_BEGINNING = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))")
"""What makes a list, a rule or a heading of a line of text."""


def write(document: Document) -> str:
    """The title, then the parts; charts are their tables."""
    return "\n\n".join([f"# {_text(document.title)}", *filter(None, map(_part, document.parts))])


def _part(part: Part) -> str:
    match part:
        case str():
            return "\\\n".join(_BEGINNING.sub(_guarded, _text(line)) for line in part.splitlines())
        case Heading():
            return f"## {_text(part.text)}"
        case Figures():
            return "\n".join(
                f"- **{_text(item.label)}:** {_text(' '.join(filter(None, [shown(item.value), item.unit])))}"
                + (f" ({_text(item.note)})" if item.note else "")
                for item in part.items
            )
        case Table():
            return _table(part)
        case Chart():
            return "\n\n".join(filter(None, [f"**{_text(part.title)}**" if part.title else "", _table(part.table)]))


def _guarded(found: re.Match[str]) -> str:
    return f"{found[1]}{''.join(f'&#{ord(each)};' for each in found[2])}"


def _table(table: Table) -> str:
    rows, total = texts(table)
    lines = [
        _line(_text(column.title) for column in table.columns),
        _line("---:" if column.number else "---" for column in table.columns),
        *(_line(map(_cell, row)) for row in rows),
    ]
    if total is not None:
        lines.append(_line(f"**{_cell(text)}**" if text else "" for text in total))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A name that reads as a person, an issue or an address is set as code, in which nothing is looked for."""
    deep = len(text) - len(text.lstrip(" "))
    lines = [_escaped(line) for line in text.lstrip(" ").split("\n")]
    joined = "&nbsp;" * deep + "<br>".join(lines)
    return f"<code>{joined}</code>" if _LINKED.search(text) else joined


def _text(text: str) -> str:
    """One line of prose; what would be a mention, an issue or an address has an empty character in it."""
    words, linked = _LINKED.split(" ".join(text.split("\n"))), _LINKED.findall(" ".join(text.split("\n")))
    marks = [f"&#{ord(found)};&#8203;" for found in linked]
    return "".join(piece for pair in zip(map(_escaped, words), [*marks, ""], strict=True) for piece in pair)


def _escaped(text: str) -> str:
    """Characters that mean something in Markdown or HTML as entities: these mean nothing in a cell or in code."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", visible(text))
