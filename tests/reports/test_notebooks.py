"""What a notebook shows of a report, of budgets and of an estimate: a table; and a DataFrame of each."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from html.parser import HTMLParser

import httpx
import pytest
from conftest import API, a_task
from hypothesis import given
from hypothesis import strategies as st
from sample_documents import HOSTILE, report

from costguard import ConfigurationError, Guard, reports, rows
from costguard.rows import visible
from costguard.testing import StandIn


class Cells(HTMLParser):
    """The texts of an HTML table, row by row; AssertionError for an element that is no part of one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"table", "thead", "tbody", "tr", "th", "td", "p", "h4"}
        assert attrs == []
        if tag == "tr":
            self.rows.append([])
        self._open = tag in {"td", "th"}
        if self._open:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data


def test_budgets_are_a_list_and_a_table(guard: Guard) -> None:
    guard.set_budget("acme", "12.50", warn_at=(50,))
    found = guard.status("acme")
    assert isinstance(found, list)
    table = Cells(found._repr_html_()).rows
    assert table[0][:2] == ["Project", "Per"]
    assert [row[0] for row in table[1:]] == [each.project for each in found] == ["/", "acme"]
    assert table[2][table[0].index("Limit USD")] == "12.50"


def test_an_estimate_is_a_table_of_tokens_and_cost(guard: Guard) -> None:
    found = guard.estimate(a_task())
    table = Cells(found._repr_html_()).rows
    assert table[0] == [found.model, "Expected", "Upper", "Unit"]
    assert table[-1] == ["cost", f"{found.expected:f}", f"{found.upper:f}", "USD"]
    assert ["completion", "200", "200", "tokens"] in table


def test_a_report_is_its_texts_and_tables_and_every_name_is_text() -> None:
    document = report(len(HOSTILE), HOSTILE)
    shown = {row[0] for row in Cells(document._repr_html_()).rows}
    assert set(map(visible, HOSTILE)) <= shown
    assert "total" in shown


@pytest.mark.parametrize("library", rows.LIBRARIES)
def test_a_frame_has_every_row_with_what_it_is_about_and_amounts_stay_exact(library: str) -> None:
    pytest.importorskip(library)
    document = report(5)
    frame = document.to_frame(library)
    assert list(frame.columns) == [*document.about, *document.keys]
    assert len(frame) == len(document.rows)
    costs = list(frame["cost"])
    assert all(isinstance(cost, Decimal) for cost in costs)
    assert sum(costs) == sum(Decimal(str(row["cost"])) for row in document.rows)
    assert set(frame["period"]) == {"2026-11"}


@pytest.mark.parametrize("library", rows.LIBRARIES)
def test_budgets_and_estimates_are_frames_too(library: str, guard: Guard) -> None:
    pytest.importorskip(library)
    assert list(guard.status().to_frame(library)["limit"]) == [Decimal(1)]
    frame = guard.estimate(a_task()).to_frame(library)
    assert list(frame["what"])[-2:] == ["completion", "cost"]
    assert list(frame["upper"])[-1] == guard.estimate(a_task()).upper


@given(st.lists(st.decimals(0, 10**9, places=9), min_size=1, max_size=20))
def test_no_library_loses_a_nano_dollar(amounts: list[Decimal]) -> None:
    found = [{"cost": amount} for amount in amounts]
    for library in rows.LIBRARIES:
        assert list(rows.to_frame(["cost"], found, library)["cost"]) == amounts


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigurationError, match="a DataFrame needs polars; install it"):
        rows.to_frame(["a"], [{"a": 1}], "polars")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match="a DataFrame needs pandas or polars"):
        rows.to_frame(["a"], [{"a": 1}])
    with pytest.raises(ConfigurationError, match="expected pandas or polars, found 'numpy'"):
        rows.to_frame(["a"], [{"a": 1}], "numpy")


@pytest.mark.parametrize(("loaded", "taken"), [("polars", "polars"), ("pandas", "pandas"), ("sys", "pandas")])
def test_the_library_is_the_one_that_the_program_has_loaded(loaded: str, taken: str) -> None:
    code = (
        f"import {loaded}; from costguard import rows\n"
        "print(type(rows.to_frame(['a'], [{'a': 1}])).__module__.partition('.')[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == taken


def test_neither_library_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, costguard, costguard.reports.document; costguard.Guard\n"
        "print([name for name in ('pandas', 'polars', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_report_of_a_period_is_a_document_with_the_rows_of_the_command(guard: Guard, standin: StandIn) -> None:
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=[a_task()], extensions={"costguard": {"project": "acme", "tags": {"user": "u1"}}})
    for period in (None, "2026-11", "2026-Q4", "2026", "last 7 days"):
        found = reports.report(guard, period)
        assert [row["project"] for row in found.rows] == ["acme"]
        assert list(found.to_frame("pandas")["cost"]) == [found.record["total"]]
    assert reports.report(guard, "last month").rows == []
    by_user = reports.report(guard, by=["tag:user"], tags={"user": "u1"}, project="acme", per="day")
    assert {"day", "tag:user"} <= set(by_user.keys)
    for wrong in ("2026-13", "yesterday", "last decade", "2026-Q9"):
        with pytest.raises(ConfigurationError):
            reports.report(guard, wrong)
