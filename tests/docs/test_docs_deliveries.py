"""The table of deliveries and endings is complete, and every test it names exists."""

from __future__ import annotations

import pytest
from tables import ROOT, check_cell, page, tables

TEXT = page("deliveries.md")
COLUMNS = ("sync", "async and polls", "stream", "webhook", "reconcile")
((HEAD, BODY),) = tables(TEXT)
CELLS = [(row[0], column, cell) for row in BODY for column, cell in zip(COLUMNS, row[1:], strict=True)]


def test_the_table_has_a_column_for_every_delivery_and_a_cell_for_every_ending() -> None:
    assert tuple(HEAD) == ("ending", *COLUMNS)
    assert len(BODY) > 20
    assert len({row[0] for row in BODY}) == len(BODY)


@pytest.mark.parametrize(("ending", "column", "cell"), CELLS)
def test_every_cell_names_a_test_that_exists_or_says_why_there_is_none(ending: str, column: str, cell: str) -> None:
    check_cell(TEXT, f"{ending}, {column}", cell)


def test_every_fault_of_the_stand_in_has_an_ending() -> None:
    """The faults are told by kind in the tests that the table names; this keeps them from being forgotten there."""
    from costguard.testing import KINDS

    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert [kind for kind in KINDS if f'"{kind}' not in sources] == []
