"""Every change of a budget or ceiling is logged with who made it; what changes nothing is no change."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, open_ledger, verified

from costguard.budgets import make_budget
from costguard.errors import ConfigurationError
from costguard.ledger import owner
from costguard.ledger.absent import NoLedger
from costguard.ledger.accounting.book import Ledger

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    assert verified(ledger)
    ledger.close()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    owner.who.cache_clear()
    yield monkeypatch
    owner.who.cache_clear()


def test_changes_are_told_in_order_with_who_made_them(ledger: Ledger, program: pytest.MonkeyPatch) -> None:
    program.setattr(getpass, "getuser", lambda: "ada")
    program.setattr(socket, "gethostname", lambda: "build7")
    program.setattr(sys, "argv", ["/opt/app/serve.py", "--secret"])
    one, two = make_budget("acme", 1, warn_at=(5,)), make_budget("acme", 2)
    ledger.set_budget(one, NOW_US)
    ledger.set_ceiling("painter", 7, NOW_US + 1)
    ledger.set_budget(two, NOW_US + 2)
    ledger.remove_ceiling("painter", NOW_US + 3)
    ledger.remove_budget("acme", "month", NOW_US + 4)
    told = ledger.changes()
    assert [(one.change, one.budget, one.ceiling, one.nanos) for one in told] == [
        ("set", one, None, None),
        ("set", None, "painter", 7),
        ("set", two, None, None),
        ("remove", None, "painter", None),
        ("remove", None, None, None),
    ]
    assert (told[-1].project, told[-1].per) == ("acme", "month")
    assert {change.who for change in told} == {"ada@build7, serve.py"}


def test_what_changes_nothing_is_not_logged(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.set_budget(make_budget("acme", 1), NOW_US)
        ledger.set_ceiling("painter", 7, NOW_US)
        ledger.set_budget(make_budget("acme/*", 1), NOW_US)
    assert not ledger.remove_budget("other", "month", NOW_US)
    assert len(ledger.changes()) == 3


@pytest.mark.parametrize("name", ["a\nb", "x\u2028y", "\x85", "a\u200bb", "\udcff"])
def test_a_ceiling_for_a_name_that_nothing_can_have_is_refused(ledger: Ledger, name: str) -> None:
    for found in (ledger, NoLedger("gone")):
        with pytest.raises(ConfigurationError, match=r"^ceiling: .* contains the"):
            found.set_ceiling(name, 1, NOW_US)
    assert ledger.ceilings() == {}


@pytest.mark.parametrize(
    ("argv", "name"),
    [(["-c"], "python"), ([], "python"), (["/x/costguard/__main__.py"], "costguard"), ([""], "python")],
)
def test_a_program_is_named_by_what_was_started(argv: list[str], name: str, program: pytest.MonkeyPatch) -> None:
    program.setattr(sys, "argv", argv)
    assert owner.who().endswith(f", {name}")


def test_a_user_without_a_name_is_told_by_number(program: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    program.setattr(getpass, "getuser", nobody)
    assert owner.who().startswith("uid ")


def test_a_change_that_cannot_be_made_changes_nothing(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", 1), NOW_US)

    def refuse(*, old: object) -> object:
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError):
        ledger.change_budget("acme", "month", refuse, NOW_US)  # type: ignore[arg-type]
    assert len(ledger.changes()) == 1
