"""Charts as SVG inside of a page: they grow with it, and its style gives them their colours.

Places are in percent of the width, sizes in pixels, so that texts keep their size on any screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from html import escape

from rich.cells import cell_len, set_cell_size

from costguard.reports.document import Chart, Point
from costguard.reports.formats.texts import lined_up
from costguard.rows import shown, visible

MOST = 12
"""Bars and gauges of a chart; its table has them all."""

_WIDE, _NARROW = {"bars": 52, "gauges": 64}, {"bars": 26, "gauges": 32}
"""Cells of a label on a wide page, and on a phone's."""

_LINE, _GAUGE = 46, 66
"""Pixels from one bar to the next, and from one gauge: its label, the bar, a gauge's amounts, and room."""

_REST = 20
"""Pixels of the line that says how many are left out."""

_HEIGHT, _TOP, _BOTTOM = 208, 16, 24
"""Pixels of a chart of columns, and of the room above and below them."""

_DIGITS = Decimal("0.1")


def draw(chart: Chart, number: int) -> str:
    """The picture, named for those who cannot see it; `number` tells it from others of the page. "" for no points."""
    if not chart.points:
        return ""
    columns = chart.kind == "columns"
    points = list(chart.points) if columns else list(chart.points[:MOST])
    left = len(chart.points) - len(points)
    body = "".join(_columns(points) if columns else _lines(chart, points, left))
    height = _HEIGHT if columns else _height_of(chart) * len(points) + (_REST if left else 0)
    return (
        f'<svg class="chart {chart.kind}" role="img" aria-labelledby="chart{number} about{number}" width="100%"'
        f' height="{height}"><title id="chart{number}">{text(chart.title)}</title>'
        f'<desc id="about{number}">{text(_told(chart, points))}</desc>{body}</svg>'
    )


def _told(chart: Chart, points: Sequence[Point]) -> str:
    """The picture in words."""
    if chart.kind == "columns":
        highest = max(points, key=lambda point: point.value)
        said = [
            f"{len(points)} columns, {points[0].label} to {points[-1].label}",
            f"highest: {highest.label} with {shown(highest.value)}",
        ]
    else:
        used = ["" if point.used_percent is None else f", {point.used_percent} %" for point in points]
        said = [f"{point.label}: {_of_limit(point)}{percent}" for point, percent in zip(points, used, strict=True)]
    return f"{'; '.join(said)}. All figures are in the table below."


def _height_of(chart: Chart) -> int:
    return _GAUGE if chart.kind == "gauges" else _LINE


def _lines(chart: Chart, points: Sequence[Point], left: int) -> Iterator[str]:
    """A label, what it comes to, and a bar below them: of the largest, or of a limit on a track.

    Nothing is said of shares, nor of what is left out: points may be parts of each other, as projects are.
    """
    most = max(point.value for point in points)
    values = lined_up([point.value for point in points])
    for index, (point, value) in enumerate(zip(points, values, strict=True)):
        y = index * _height_of(chart)
        yield _label(chart.kind, point.label, y + 15)
        yield from _gauge(point, y) if chart.kind == "gauges" else _bar(point, value, y, most)
    if left:
        y = len(points) * _height_of(chart)
        yield f'<text class="amounts" x="0" y="{y + 15}">{left:,} more in the table</text>'


def _bar(point: Point, value: str, y: int, most: Decimal) -> Iterator[str]:
    yield f'<text class="value" x="100%" y="{y + 15}" text-anchor="end">{value}</text>'
    yield _mark(y, _percent(point.value, most), "mark ahead" if point.is_forecast else "mark")


def _gauge(point: Point, y: int) -> Iterator[str]:
    used = point.used_percent
    if used is not None:
        kind = f"value {point.level}".rstrip()
        yield f'<text class="{kind}" x="100%" y="{y + 15}" text-anchor="end">{used:f} %</text>'
    if point.limit is not None:
        yield _mark(y, Decimal(100), "track")
    yield _mark(y, min(used or Decimal(0), Decimal(100)), f"mark {point.level}".rstrip())
    yield f'<text class="amounts" x="0" y="{y + 48}">{_of_limit(point)}</text>'


def _mark(y: int, percent: Decimal, kind: str) -> str:
    """A bar; none for nothing."""
    if percent <= 0:
        return ""
    return f'<rect class="{kind}" x="0" y="{y + 24}" width="{percent:f}%" height="8" rx="4"/>'


def _label(kind: str, label: str, y: int) -> str:
    """Twice: one for wide pages, one for narrow ones."""
    wide, narrow = _clipped(label, _WIDE[kind]), _clipped(label, _NARROW[kind])
    if wide == narrow:
        return f'<text x="0" y="{y}">{text(wide)}</text>'
    return (
        f'<text class="wide" x="0" y="{y}">{text(wide)}</text><text class="narrow" x="0" y="{y}">{text(narrow)}</text>'
    )


def _of_limit(point: Point) -> str:
    return shown(point.value) if point.limit is None else f"{shown(point.value)} of {shown(point.limit)}"


def _percent(part: Decimal, whole: Decimal) -> Decimal:
    """To a tenth, never below 0."""
    return max((part * 100 / whole).quantize(_DIGITS), Decimal(0)) if whole > 0 else Decimal(0)


def _columns(points: Sequence[Point]) -> Iterator[str]:
    """Columns on a scale of their own, its half and its top; what is expected is lighter, with a line for its range."""
    amounts = [amount for point in points for amount in (point.value, point.most, point.limit) if amount is not None]
    top = _round_up(max(amounts))
    ground, room = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP

    def y_of(amount: Decimal) -> Decimal:
        return (ground - max(amount, Decimal(0)) / top * room).quantize(_DIGITS)

    step = Decimal(100) / max(len(points), 6)
    for part in (top, top / 2):
        yield f'<line class="grid" x1="0" x2="100%" y1="{y_of(part)}" y2="{y_of(part)}"/>'
    for index, point in enumerate(points):
        y = y_of(point.value)
        if point.value > 0:
            kind = "mark ahead" if point.is_forecast else "mark"
            yield (
                f'<rect class="{kind}" x="{index * step + step / 8:.3f}%" y="{y}" width="{step * 3 / 4:.3f}%"'
                f' height="{max(ground - y, 1)}"/>'
            )
        if point.least is not None and point.most is not None:
            x = f"{(index + Decimal('0.5')) * step:.3f}%"
            yield f'<line class="range" x1="{x}" x2="{x}" y1="{y_of(point.most)}" y2="{y_of(point.least)}"/>'
        if point.limit is not None:
            yield (
                f'<line class="limit" x1="{index * step:.3f}%" x2="{(index + 1) * step:.3f}%" y1="{y_of(point.limit)}"'
                f' y2="{y_of(point.limit)}"/>'
            )
    yield f'<line class="ground" x1="0" x2="100%" y1="{ground}" y2="{ground}"/>'
    for part in (top, top / 2):
        yield f'<text class="scale" x="0" y="{y_of(part) - 4}">{_short(part)}</text>'
    yield from _dates(points, step)


def _dates(points: Sequence[Point], step: Decimal) -> Iterator[str]:
    """At most five labels, each in the middle of its column but for those at the edges."""
    every = -(-len(points) // 5)
    for index in range(0, len(points), every):
        middle = (index + Decimal("0.5")) * step
        anchor = "start" if middle < 8 else "end" if middle > 92 else "middle"
        x = index * step if anchor == "start" else middle
        yield (
            f'<text class="scale" x="{x:.3f}%" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
            f"{text(_short_date(points[index].label))}</text>"
        )


def _short_date(label: str) -> str:
    """A day as `3 Nov`, a month as `Nov 2026`; anything else is cut."""
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", label):
            day = date.fromisoformat(label)
            return f"{day.day} {_MONTHS[day.month - 1]}"
        if re.fullmatch(r"\d{4}-\d\d", label):
            return f"{_MONTHS[int(label[5:]) - 1]} {label[:4]}"
    except (ValueError, IndexError):
        pass
    return _clipped(label, 9)


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _round_up(amount: Decimal) -> Decimal:
    """The next round number, of which the half is one, too; 1 for nothing."""
    if amount <= 0:
        return Decimal(1)
    decade = Decimal(1).scaleb(amount.adjusted())
    return next(
        decade * part / 10 for part in (10, 15, 20, 25, 30, 40, 50, 60, 80, 100) if decade * part / 10 >= amount
    )


def _short(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _clipped(label: str, cells: int) -> str:
    """Cut in the middle, where paths are alike least."""
    label = " ".join(visible(label).split())
    if cell_len(label) <= cells:
        return label
    begin, end = set_cell_size(label, cells // 2 - 1), set_cell_size(label[::-1], cells - cells // 2)[::-1]
    return f"{begin.rstrip()}…{end.lstrip()}"


def text(words: str) -> str:
    """Escaped, with control characters, which pages must not have, in writing."""
    return escape(_LONE.sub("\ufffd", visible(words)))


_LONE = re.compile(r"[\ud800-\udfff]")
