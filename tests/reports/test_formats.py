"""Formats of any document: rows that can be put together, names that stay text, charts in characters."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from decimal import Decimal
from html import unescape
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from sample_documents import HOSTILE, report

from costguard.errors import ConfigurationError
from costguard.reports import formats
from costguard.reports.document import Chart, Column, Document, Figure, Figures, Heading, Point, Table
from costguard.reports.formats import bars, table

ANY_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


def rows_of(document: Document) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(formats.named("csv").write(document))))


# -- csv ----------------------------------------------------------------------------------------


def test_every_row_says_its_period_currency_and_time() -> None:
    document = report(3)
    rows = rows_of(document)
    assert list(rows[0]) == [*document.about, *document.keys]
    for row in rows:
        assert (row["period"], row["currency"], row["as_of"]) == ("2026-11", "USD", "2026-11-22T12:00:00+00:00")


def test_rows_of_several_documents_can_be_put_together_and_summed() -> None:
    texts = [formats.named("csv").write(report(count)) for count in (2, 5)]
    stacked = texts[0] + texts[1].partition("\n")[2]
    costs = [Decimal(row["cost"]) for row in csv.DictReader(io.StringIO(stacked))]
    assert sum(costs) == sum(Decimal(str(row["cost"])) for count in (2, 5) for row in report(count).rows)


def test_a_row_goes_before_what_it_is_about() -> None:
    document = Document(
        {}, ["project", "cost"], [{"project": "a", "cost": 1}], (), about={"project": "all", "month": "x"}
    )
    assert formats.named("csv").write(document) == "month,project,cost\nx,a,1\n"


@given(ANY_TEXT)
def test_no_text_is_a_formula_in_a_name_a_header_or_what_rows_are_about(name: str) -> None:
    document = Document({}, [name, "n"], [{name: name, "n": -1}], (), about={f"{name}x": name})
    for row in csv.reader(io.StringIO(formats.named("csv").write(document))):
        for cell in row:
            assert cell == "-1" or not re.match(r"[=+\-@\t\r\n＝＋－＠]", cell)
            assert cell.removeprefix("'") in (name, f"{name}x", "n", "-1") or cell in (name, f"{name}x")


# -- markdown -----------------------------------------------------------------------------------


def read_back(text: str) -> tuple[list[list[str]], str]:
    """The cells of all tables as GitHub's reader sees them, and the page."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = reader.render(text)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [cell.strip(" \n") for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows
    ], page


def as_text(cell: str) -> str:
    return unescape(re.sub(r"</?(?:code|strong)>", "", cell)).replace("\u200b", "")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.strip() == name])
def test_a_name_is_one_cell_of_text_in_markdown(name: str) -> None:
    part = Table(
        (Column(name, name), Column("b", "B", number=True)), [{name: name, "b": Decimal("1.50")}], {name: name}
    )
    rows, page = read_back(formats.named("markdown").write(Document({}, (), (), (part,), name)))
    assert [[as_text(cell) for cell in row] for row in rows] == [[name, "B"], [name, "1.50"], [name, ""]]
    assert set(re.findall(r"</?(\w+)", page)) <= {
        "h1", "table", "thead", "tbody", "tr", "th", "td", "code", "strong",
    }  # fmt: skip


@given(ANY_TEXT)
def test_any_text_in_a_sentence_a_heading_or_a_figure_makes_nothing_of_its_own(name: str) -> None:
    parts = (f"{name} was spent.\n{name}", Heading(name), Figures([Figure(name, name, name, name)]))
    _, page = read_back(formats.named("markdown").write(Document({}, (), (), parts, f"x{name}")))
    assert set(re.findall(r"<(\w+)", page)) <= {"h1", "h2", "p", "ul", "li", "strong", "br"}
    assert "href" not in page


@pytest.mark.parametrize("name", ["@octocat", "see #1", "http://evil.example", "WWW.evil.example", "me@evil.example"])
def test_nobody_is_called_and_nothing_is_linked(name: str) -> None:
    """GitHub looks for people, issues and addresses in text that is no code, after entities were read."""
    part = Table((Column("a", "A"),), [{"a": name}])
    _, page = read_back(formats.named("markdown").write(Document({}, (), (), (name, part), name)))
    outside = unescape(re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL))
    assert not re.search(r"@\w|#\d|https?://|www\.\w", outside, re.IGNORECASE)
    assert f"<code>{name}</code>" in unescape(page)


def test_markdown_has_every_table_with_its_total_and_one_number_of_decimals() -> None:
    document = report(3)
    rows, page = read_back(formats.named("markdown").write(document))
    assert ["acme/team-000/prod", "1", "370,371", "0.010953", "1"] in rows
    assert ["<strong>total</strong>", "<strong>24</strong>", "<strong>–</strong>", "<strong>0.017041</strong>",
            "<strong>100</strong>"] in rows  # fmt: skip
    assert page.count("<table>") == 3
    assert "text-align:right" in page
    assert "<h1>What was spent in November 2026</h1>" in page


def test_a_tree_keeps_its_steps_in_markdown() -> None:
    part = Table((Column("a", "A"),), [{"a": "acme"}, {"a": "  search"}])
    rows, _ = read_back(formats.named("markdown").write(Document({}, (), (), (part,))))
    assert unescape(rows[2][0]) == "\u00a0\u00a0search"


# -- parquet ------------------------------------------------------------------------------------


def unpacked(document: Document) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(io.BytesIO(formats.binary("parquet").pack(document)))


@given(st.lists(st.decimals(-(10**12), 10**12, places=9) | st.integers(0, 10**12) | st.none(), min_size=1))
def test_amounts_are_exact_in_parquet(amounts: list[Decimal | int | None]) -> None:
    document = Document({}, ["cost"], [{"cost": each} for each in [*amounts, Decimal("0.000000001")]], ())
    found = unpacked(document)
    assert str(found.schema.field("cost").type) == "decimal128(38, 9)"
    assert found["cost"].to_pylist()[:-1] == amounts


def test_columns_have_types_and_times_are_utc() -> None:
    moment = datetime(2026, 11, 1, 0, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    row = {"n": 7, "big": 2**70, "f": 0.5, "b": True, "s": "a", "t": moment, "j": {"user": "u1"}, "none": None}
    found = unpacked(Document({}, list(row), [row, dict.fromkeys(row)], (), "A title", {"period": "2026-11"}))
    types = {field.name: str(field.type) for field in found.schema}
    assert types == {
        "period": "string", "n": "int64", "big": "decimal128(38, 9)", "f": "double", "b": "bool", "s": "string",
        "t": "timestamp[us, tz=UTC]", "j": "string", "none": "null",
    }  # fmt: skip
    first, second = found.to_pylist()
    assert first == {**row, "big": Decimal(2**70), "period": "2026-11", "j": '{"user": "u1"}',
                     "t": datetime(2026, 10, 31, 23, 30, tzinfo=UTC)}  # fmt: skip
    assert second == {**dict.fromkeys(row), "period": "2026-11"}
    assert found.schema.metadata[b"costguard.title"] == b"A title"


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'runware-costguard\[parquet\]'"):
        formats.binary("parquet").pack(report(1))


# -- tables with bars ---------------------------------------------------------------------------


def drawn(chart: Chart, monkeypatch: pytest.MonkeyPatch, *, width: int | None = None, color: bool = False) -> str:
    monkeypatch.setattr(table, "terminal_width", lambda: width)
    monkeypatch.setattr(table, "_is_bold", lambda: color)
    return formats.named("table").write(Document({}, (), (), (chart,)))


def chart_of(kind: Any, *points: Point) -> Chart:
    rows = [{"a": point.label, "b": point.value} for point in points]
    total = {"a": "total", "b": sum((point.value for point in points), Decimal(0))}
    return Chart(kind, "", points, Table((Column("a", "Name"), Column("b", "Cost USD", number=True)), rows, total))


def test_a_bar_stands_in_each_row_and_none_in_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point("a", Decimal(8)), Point("b", Decimal(1)), Point("c", Decimal("0.001")), Point("d", Decimal(0))]
    lines = drawn(chart_of("bars", *points), monkeypatch).splitlines()
    assert lines[0] == "Name   Cost USD"
    assert lines[2:6] == [
        "a         8      ████████████████████",
        "b         1      ██▌",
        "c         0.001  ▏",
        "d         0",
    ]
    assert lines[-1] == "total     9.001"


def test_a_gauge_is_yellow_from_80_percent_and_red_from_100(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(name, Decimal(used), Decimal(100)) for name, used in (("a", 79), ("b", 80), ("c", 99), ("d", 100))]
    chart = chart_of("gauges", *points)
    colored = drawn(chart, monkeypatch, color=True)
    assert re.findall(r"\x1b\[(3\d)m", colored) == ["33", "33", "31"]
    assert "███████████████░░░░░" in colored
    assert "\x1b" not in drawn(chart, monkeypatch)


def test_days_have_a_line_of_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(f"2026-11-{day:02}", Decimal(day % 8)) for day in range(1, 11)]
    assert drawn(chart_of("columns", *points), monkeypatch).splitlines()[0] == "▂▃▄▅▆▇█ ▂▃"
    assert drawn(chart_of("columns", *points[:3]), monkeypatch).splitlines()[0].startswith("Name")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_chart_is_never_wider_than_the_terminal_and_loses_no_figure(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "terminal_width", lambda: width)
    document = report(30)
    text = formats.named("table").write(
        Document({}, (), (), [part for part in document.parts if not isinstance(part, str)])
    )
    assert max(map(cell_len, text.splitlines())) <= width
    for row in document.rows:
        assert f"{row['cost']:f}" in text


def test_in_a_pipe_bars_fit_80_columns_or_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Point("x" * 70, Decimal(1))
    assert "█" not in drawn(chart_of("bars", long), monkeypatch)
    fits = Point("x" * 48, Decimal(1))
    assert max(map(cell_len, drawn(chart_of("bars", fits), monkeypatch).splitlines())) <= 80
    assert f"  {'█' * 20}" in drawn(chart_of("bars", fits), monkeypatch)


def test_points_find_their_rows_by_name_where_there_are_fewer() -> None:
    whole = chart_of("bars", Point("a", Decimal(2)), Point("b", Decimal(1)))
    some = Chart("bars", "", [Point("b", Decimal(1))], whole.table)
    assert bars.marks(some, 4) == [("", ""), ("████", "36")]
    assert bars.marks(Chart("bars", "", [Point("z", Decimal(1))], whole.table), 4) == []


@given(st.lists(st.decimals(-5, 10**9, places=9), max_size=80))
def test_a_line_of_columns_has_one_for_each_point(amounts: list[Decimal]) -> None:
    line = bars.sparkline(Point("", amount) for amount in amounts)
    assert len(line) == (len(amounts) if max(amounts, default=Decimal(0)) > 0 else 0)
    if line:
        assert line[amounts.index(max(amounts))] == "█"
        assert all((mark == " ") == (amount <= 0) for mark, amount in zip(line, amounts, strict=True))


def test_figures_are_lines_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "terminal_width", lambda: None)
    part = Figures([Figure("Spent", Decimal("1.5"), "USD", "of 2.00"), Figure("Tasks", 1234), Figure("Left", None)])
    assert formats.named("table").write(Document({}, (), (), (part,))).splitlines() == [
        "Spent      1.5  USD  of 2.00",
        "Tasks  1,234",
        "Left       –",
    ]


def test_a_terminal_obeys_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "\x1b]0;owned\x07\x1b[2J\r\tx\x9b1m"
    part = Table((Column("a", name),), [{"a": name}], {"a": name})
    chart = Chart("bars", name, [Point(name, Decimal(1))], part)
    figures = Figures([Figure(name, name, name, name)])
    monkeypatch.setattr(table, "_is_bold", lambda: False)
    text = formats.named("table").write(Document({}, (), (), (name, Heading(name), part, chart, figures)))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert text.count("\\x1b]0;owned\\x07\\x1b[2J\\x0d\\x09x\\x9b1m") == 13
