"""The page: one file that needs nothing, allows nothing, and takes every name for text."""

from __future__ import annotations

import base64
import hashlib
import re
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_documents import HOSTILE, report

from costguard.reports.document import Chart, Column, Document, Figure, Figures, Heading, Part, Point, Table
from costguard.reports.formats import page, svg

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "h1", "h2", "p", "div",
    "dl", "dt", "dd", "bdi", "span", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "figure", "figcaption",
    "details", "summary", "svg", "desc", "rect", "line", "text",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "scope", "data-title", "role", "aria-labelledby", "id",
    "width", "height", "x", "y", "x1", "x2", "y1", "y2", "rx", "text-anchor",
}  # fmt: skip
EMPTY = {"meta", "rect", "line"}


class Read(HTMLParser):
    """A page as a browser reads it: elements, attributes, and the text in each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)
            self.texts.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[str]:
        return [text for kind, text in self.texts if kind == tag and text]


def written(*parts: Part) -> str:
    return page.write(Document({}, (), (), parts, "x"))


def named(name: str) -> Document:
    """A document in which everything that can be named has that name."""
    table = Table((Column("a", name), Column("b", name, number=True)), [{"a": name, "b": Decimal(1)}], {"a": name})
    points = [Point(name, Decimal(1), Decimal(2))]
    parts: list[Part] = [name, Heading(name), Figures([Figure(name, name, name, name)]), table]
    parts += [Chart("bars", name, points, table), Chart("gauges", name, points, table)]
    parts += [Chart("columns", name, points, table)]
    return Document({}, (), (), parts, name, {name: name})


def test_the_policy_allows_the_page_its_own_style_sheet_and_nothing_else() -> None:
    text = page.write(report())
    (style,) = Read(text).all("style")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(found["content"] for _, found in Read(text).elements if "http-equiv" in found)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_the_style_sheet_names_no_address() -> None:
    (style,) = Read(page.write(report())).all("style")
    assert not re.search(r"url\(|@import|@font-face|//", style)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_wherever_it_stands(name: str) -> None:
    found = Read(page.write(named(name)))
    assert {tag for tag, _ in found.elements} <= ALLOWED
    assert {key for _, attributes in found.elements for key in attributes} <= ATTRIBUTES
    assert found.comments == []
    assert len(found.all("style")) == 1
    for _, attributes in found.elements:
        assert set(attributes.get("class") or "") <= set("abcdefghijklmnopqrstuvwxyz0123456789 ")
    if "\t" not in name and name.strip():
        assert name in found.all("title")
        assert name in found.all("bdi")


@given(st.text(max_size=60))
def test_any_text_at_all_leaves_the_page_what_it_is(name: str) -> None:
    text = page.write(named(name))
    found = Read(text)
    assert {tag for tag, _ in found.elements} <= ALLOWED
    assert {key for _, attributes in found.elements for key in attributes} <= ATTRIBUTES
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
    text.encode()


def test_every_picture_has_a_name_and_says_in_words_what_it_shows() -> None:
    found = Read(page.write(report()))
    pictures = [attributes for tag, attributes in found.elements if tag == "svg"]
    assert len(pictures) == 3
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= set(ids)
    assert "acme, per month: 0.110762 of 0.1218382, 90.9 %" in " ".join(found.all("desc"))


def test_every_figure_of_a_chart_is_in_a_table_too() -> None:
    document = report(40)
    cells = set(Read(page.write(document)).all("td"))
    for part in document.parts:
        if isinstance(part, Chart):
            for row in part.table.rows:
                for value in row.values():
                    if isinstance(value, Decimal):
                        assert any(Decimal(cell) == value for cell in cells if re.fullmatch(r"[\d.]+", cell))


def test_a_picture_of_many_bars_shows_the_first_and_says_how_many_are_left() -> None:
    text = page.write(report(500))
    assert f"{500 - svg.MOST:,} more in the table" in text
    pictures = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert pictures.count('class="value"') == svg.MOST + 1  # and one gauge that is far from its limit
    assert all(f"acme/team-{n:03}/prod" in text for n in range(500))


@pytest.mark.parametrize(
    ("value", "limit", "level", "percent"),
    [
        ("0", "1", "", "0.0"),
        ("0.799999999", "1", "", "79.9"),
        ("0.8", "1", "near", "80.0"),
        ("0.999999999", "1", "near", "99.9"),
        ("1", "1", "over", "100.0"),
        ("2.5", "1", "over", "250.0"),
        ("0", "0", "over", None),
        ("1", None, "", None),
    ],
)
def test_a_gauge_is_plain_then_near_its_limit_then_over_it(
    value: str, limit: str | None, level: str, percent: str | None
) -> None:
    point = Point("x", Decimal(value), None if limit is None else Decimal(limit))
    assert point.level == level
    assert point.used_percent == (None if percent is None else Decimal(percent))


def test_a_bar_is_as_long_as_its_share_of_the_longest_and_never_longer_than_its_room() -> None:
    table = Table((Column("a", "A"),), [{"a": "x"}])
    points = [Point("a", Decimal(4)), Point("b", Decimal(1)), Point("c", Decimal(0)), Point("d", Decimal(-1))]
    widths = re.findall(r'<rect class="mark"[^>]* width="([\d.]+)%"', svg.draw(Chart("bars", "", points, table), 1))
    assert widths == ["100.0", "25.0"]
    gauges = [Point("a", Decimal(3), Decimal(1)), Point("b", Decimal(1), Decimal(4))]
    widths = re.findall(r'<rect class="mark[^>]* width="([\d.]+)%"', svg.draw(Chart("gauges", "", gauges, table), 1))
    assert widths == ["100", "25.0"]


@given(st.lists(st.decimals(0, 10**9, places=9), min_size=1, max_size=400))
def test_columns_stay_within_their_picture(amounts: list[Decimal]) -> None:
    points = [Point(f"{n}", amount) for n, amount in enumerate(amounts)]
    text = svg.draw(Chart("columns", "", points, Table((Column("a", "A"),), [])), 1)
    marks = re.findall(r'<rect class="mark" x="([\d.]+)%" y="([\d.]+)" width="([\d.]+)%" height="([\d.]+)"/>', text)
    assert len(marks) == sum(amount > 0 for amount in amounts)
    places = [[float(each) for each in mark] for mark in marks]
    for x, y, width, height in places:
        assert 0 <= x <= x + width <= 100.01
        assert 15.9 <= y <= y + height <= 186
    assert all(first[0] + first[2] <= second[0] + 0.01 for first, second in pairwise(places))


def test_amounts_of_a_column_have_one_number_of_decimals() -> None:
    table = Table((Column("a", "A", number=True),), [{"a": Decimal("0.5")}, {"a": Decimal(12)}, {"a": None}], {"a": 1})
    assert Read(written(table)).all("td") == ["0.5", "12.0", "–", "1"]


def test_rows_of_a_tree_are_set_in_and_keep_their_names() -> None:
    table = Table((Column("a", "A"),), [{"a": "acme"}, {"a": "  search"}, {"a": "    prod"}, {"a": " " * 30 + "deep"}])
    found = Read(written(table))
    classes = [
        attributes.get("class") for tag, attributes in found.elements if tag == "th" and "row" in attributes.values()
    ]
    assert classes == [None, "in1", "in2", "in4 long"]
    assert [text.strip() for text in found.all("bdi")][1:] == ["acme", "search", "prod", "deep"]


def contrast(first: str, second: str) -> float:
    """As WCAG 2 has it, of two colours such as #aabbcc."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_every_colour_of_text_can_be_read_in_both_themes() -> None:
    (style,) = Read(page.write(report())).all("style")
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    themes = [theme for theme in themes if theme]
    assert len(themes) == 2
    for theme in themes:
        for name in ("ink", "soft", "accent", "near", "over"):
            assert contrast(theme[name], theme["paper"]) >= 4.5, name
