"""Projects that were renamed or merged are shown by their present names; what was booked stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import NOW_US, a_charge, hold, open_ledger

from costguard.ledger.accounting.naming import Names
from costguard.ledger.accounting.reporting import Asked
from costguard.ledger.accounting.spending import Span
from costguard.ledger.records import Settle
from costguard.projects import parse_project

pytestmark = pytest.mark.usefixtures("each_engine")

NOVEMBER = Span("UTC", 1793491200000000, 1796083200000000, ("2026-11-01", "2026-12-01"))
PATHS = st.sampled_from(["a", "b", "c", "a/x", "a/x/y", "b/x", "c/z", "/"])


@pytest.mark.parametrize(
    ("moves", "booked", "shown"),
    [
        ([], "acme/search", "acme/search"),
        ([("acme", "north")], "acme/search", "north/search"),
        ([("acme", "north")], "acme2", "acme2"),
        ([("acme", "north"), ("acme", "south")], "acme", "south"),
        ([("acme", "north"), ("acme", "acme")], "acme/x", "acme/x"),
        ([("a", "b"), ("b", "c")], "a/x", "c/x"),
        ([("b", "c"), ("a", "b")], "a", "b"),
        ([("a", "b"), ("b", "a")], "a", "a"),
        ([("acme", "north"), ("acme/search", "lab")], "acme/search/prod", "lab/prod"),
        ([("acme/search", "lab"), ("acme", "north")], "acme/search/prod", "lab/prod"),
        ([("acme/search", "/")], "acme/search", "/"),
        ([("acme/search", "/")], "acme/search/prod", "prod"),
        ([("/", "all")], "acme", "all/acme"),
    ],
)
def test_the_newest_word_on_the_nearest_project_counts(moves: list[tuple[str, str]], booked: str, shown: str) -> None:
    assert Names(moves).present(booked) == shown


@given(st.lists(st.tuples(PATHS, PATHS), max_size=6), PATHS)
def test_moves_in_any_order_end_at_a_path(moves: list[tuple[str, str]], booked: str) -> None:
    shown = Names(moves).present(booked)
    assert parse_project(shown) == shown


def test_a_report_shows_merged_projects_as_one_and_is_asked_for_by_either_name(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    for project, nanos in (("acme/search", 5), ("lab", 7), ("other", 11)):
        (attempt,) = hold(ledger, 20, project=project)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(nanos), "0")])
    hold(ledger, 3, project="acme/search")
    ledger.call_project("acme/search", "lab", NOW_US)
    for asked in ("lab", "acme/search"):
        found = ledger.report(Asked(NOVEMBER, project=asked), NOW_US)
        assert [(row.keys, row.nanos) for row in found.rows] == [(("lab",), 12)]
        assert (found.project, found.open.held, found.is_known) == ("lab", 3, True)
    assert ledger.report(Asked(NOVEMBER, project="nobody"), NOW_US).project == "nobody"
    everything = ledger.report(Asked(NOVEMBER), NOW_US)
    assert [(row.keys, row.nanos) for row in everything.rows] == [(("lab",), 12), (("other",), 11)]
    assert [row.keys[0] for row in ledger.usage(("project",), "2026-11-01", "2026-12-01")] == [
        "acme/search", "lab", "other",
    ]  # fmt: skip
    assert ledger.verify().difference is None
    ledger.close()


def test_after_names_were_swapped_each_means_the_project_that_is_shown_under_it(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    for project, nanos in (("north/x", 5), ("south", 7)):
        (attempt,) = hold(ledger, 20, project=project)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(nanos), "0")])
    for name, called in (("north", "aside"), ("south", "north"), ("aside", "south")):
        ledger.call_project(name, called, NOW_US)
    for rolls in (False, True):
        if rolls:
            ledger.roll_up()
        for asked, shown, nanos in (("north", "north", 7), ("south", "south", 5), ("south/x", "south/x", 5)):
            found = ledger.report(Asked(NOVEMBER, project=asked), NOW_US)
            assert (found.project, sum(row.nanos for row in found.rows)) == (shown, nanos)
    gone = ledger.report(Asked(NOVEMBER, project="north/x"), NOW_US)
    assert (gone.project, [row.nanos for row in gone.rows]) == ("south/x", [5]), "nothing is shown under north/x"
    assert ledger.verify().difference is None
    ledger.close()
