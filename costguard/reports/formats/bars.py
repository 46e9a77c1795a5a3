"""Charts in block characters: a bar or a gauge of its limit for each row of a table, and a line of columns."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from costguard.reports.document import Chart, Level, Point
from costguard.rows import shown

WIDTHS = (20, 10)
"""Cells of the longest bar, where there is room and where there is less."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_COLUMNS = "▁▂▃▄▅▆▇█"
_FULL, _EMPTY, _AHEAD = "█", "░", "▒"

CODES: dict[Level, str] = {"": "", "near": "33", "over": "31"}
"""Colours of terminals, by how far a limit is used: yellow, red."""

_ACCENT = "36"
"""Cyan: of bars that have no limit."""


def marks(chart: Chart, width: int) -> list[tuple[str, str]]:
    """A bar of at most `width` for each row of the chart's table, and its colour's code; none if no row is a point.

    Points are the rows in their order, or those whose first text is the point's label.
    """
    points: list[Point | None] = list(chart.points)
    if len(points) != len(chart.table.rows):
        named = {point.label: point for point in chart.points}
        points = [named.get(shown(row[chart.table.columns[0].key])) for row in chart.table.rows]
    if not any(points):
        return []
    most = max(point.value for point in chart.points)
    return [("", "") if point is None else _mark(chart, point, most, width) for point in points]


def _mark(chart: Chart, point: Point, most: Decimal, width: int) -> tuple[str, str]:
    if chart.kind == "gauges":
        return _gauge(point, width), CODES[point.level]
    return _bar(point, most, width), _ACCENT


def sparkline(points: Iterable[Point]) -> str:
    """A column of eighths for each point, in one line; "" if nothing is above zero."""
    values = [max(point.value, Decimal(0)) for point in points]
    most = max(values, default=Decimal(0))
    if not most:
        return ""
    top = len(_COLUMNS) - 1
    return "".join(_COLUMNS[int(value / most * top)] if value else " " for value in values)


def _bar(point: Point, most: Decimal, width: int) -> str:
    """To the scale of `most`; anything above zero has a mark."""
    if point.value <= 0 or not most:
        return ""
    eighths = max(int(point.value / most * width * 8), 1)
    if point.is_forecast:
        return _AHEAD * max(eighths // 8, 1)
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _gauge(point: Point, width: int) -> str:
    used = point.used_percent
    if used is None:
        return ""
    full = min(max(int(used * width / 100), int(used > 0)), width)
    return _FULL * full + _EMPTY * (width - full)
