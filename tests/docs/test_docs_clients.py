"""The tables of clients and deliveries know every client, and every test they name exists."""

from __future__ import annotations

import pytest
from tables import check_cell, page, tables

from costguard.clients import ADAPTERS

TEXT = page("clients.md")
CELLS = [
    (row[0], column, cell)
    for head, body in tables(TEXT)
    for row in body
    for column, cell in zip(head[1:], row[1:], strict=True)
]


def test_every_library_that_can_be_wrapped_has_a_row() -> None:
    named = " ".join(client.lower() for client, _, _ in CELLS)
    assert [library for library in ADAPTERS if library not in named] == []


@pytest.mark.parametrize(("client", "column", "cell"), CELLS)
def test_every_cell_names_a_test_that_exists_or_says_why_there_is_none(client: str, column: str, cell: str) -> None:
    check_cell(TEXT, f"{client}, {column}", cell)
