"""How a table's texts are laid out in lines: in rows, folded to a width, or in a block for each row.

Widths are in the cells of a terminal, where some characters take two. Nothing is ever cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, chop_cells

from costguard.reports.document import Column

_GAP = "  "

Lines = Sequence[str]


@dataclass(frozen=True, slots=True)
class Cells:
    """A table as text: a title and a cell a row for each column, each in lines of their own.

    `codes` are the colours of the rows' last cells, as terminals number them; "" for none.
    """

    columns: Sequence[Column]
    titles: Sequence[Lines]
    rows: Sequence[Sequence[Lines]]
    has_total: bool
    codes: Sequence[str] = ()

    @property
    def widths(self) -> list[int]:
        """Of each column, its title included."""
        return [
            max(cell_len(line) for cell in (title, *(row[index] for row in self.rows)) for line in cell)
            for index, title in enumerate(self.titles)
        ]

    @property
    def width(self) -> int:
        """Of a line."""
        widths = self.widths
        return sum(widths) + len(_GAP) * (len(widths) - 1)


def fitted(cells: Cells, width: int) -> Cells | None:
    """The same with titles and texts folded so that a line has at most `width`; None if that cannot be done.

    Numbers and what is `whole` keep their lines; other texts are folded to no less than their column's `least`.
    """
    cells = replace(
        cells, titles=[_folded(title, max(map(cell_len, title[0].split()), default=0)) for title in cells.titles]
    )
    widths = cells.widths
    least = [
        found if column.number or column.whole else max(min(found, column.least), *map(cell_len, title))
        for found, column, title in zip(widths, cells.columns, cells.titles, strict=True)
    ]
    over = cells.width - width
    while over > 0:
        spare, widest = max(
            (found - floor, index) for index, (found, floor) in enumerate(zip(widths, least, strict=True))
        )
        if not spare:
            return None
        widths[widest] -= 1
        over -= 1
    return replace(
        cells, rows=[[_folded(cell, most) for cell, most in zip(row, widths, strict=True)] for row in cells.rows]
    )


def painted(text: str, code: str) -> str:
    """The text in a colour or weight of a terminal, by its code (SGR)."""
    return f"\x1b[{code}m{text}\x1b[0m" if text and code else text


def in_rows(cells: Cells, *, bold: bool) -> str:
    """A heading, if there is one, a rule, a line or more for each row; the total under a rule of its own.

    Colours only if `bold`.
    """
    widths = cells.widths
    rule = "─" * cells.width
    has_titles = any(map(any, cells.titles))
    lines = [*_row(cells, widths, cells.titles, bold=bold), rule] if has_titles else []
    for number, row in enumerate(cells.rows, start=1):
        is_total = cells.has_total and number == len(cells.rows)
        if is_total and number > 1:
            lines.append(rule)
        code = cells.codes[number - 1] if bold and number <= len(cells.codes) else ""
        lines += _row(cells, widths, row, bold=bold and is_total, code=code)
    return "\n".join(lines)


def _row(cells: Cells, widths: Sequence[int], row: Sequence[Lines], *, bold: bool, code: str = "") -> Iterator[str]:
    for height in range(max(map(len, row))):
        texts = [cell[height] if height < len(cell) else "" for cell in row]
        *before, last = (
            _padded(text, width, to_right=column.number)
            for text, width, column in zip(texts, widths, cells.columns, strict=True)
        )
        line = _GAP.join([*before, painted(last.rstrip(), code)]).rstrip()
        yield painted(line, "1") if bold else line


def _padded(text: str, width: int, *, to_right: bool) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if to_right else text + blanks


def in_blocks(cells: Cells, width: int, *, bold: bool) -> str:
    """Each row as a block of lines, a title and its value on each; long values begin a line of their own."""
    labels = [" ".join(title) for title in cells.titles]
    begin = max(map(cell_len, labels)) + len(_GAP)
    blocks = []
    for row in cells.rows:
        lines: list[str] = []
        for label, column, cell in zip(labels, cells.columns, row, strict=True):
            texts = [text.strip() for text in cell]
            shown = painted(label, "1") if bold else label
            if len(texts) == 1 and begin + cell_len(texts[0]) <= width:
                lines.append(f"{shown}{' ' * (begin - cell_len(label))}{texts[0]}".rstrip())
                continue
            room = max(width - len(_GAP), column.least)
            texts = texts if column.number or column.whole else _folded(texts, room)
            lines += [shown, *(f"{_GAP}{text}" for text in texts)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _folded(lines: Lines, width: int) -> list[str]:
    """Lines of at most `width` cells, broken at blanks, and within a word only where it is longer than a line."""
    folded = []
    for line in lines:
        if cell_len(line) <= width:
            folded.append(line)
            continue
        current = ""
        for word in line.split():
            joined = f"{current} {word}" if current else word
            if cell_len(joined) <= width:
                current = joined
                continue
            if current:
                folded.append(current)
            *full, current = chop_cells(word, width)
            folded += full
        folded.append(current)
    return folded
