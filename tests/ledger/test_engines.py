"""Engines are registered by the scheme of their URLs: one line each, and nothing else has to know."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from ledgers import NOW_US, a_charge, hold, outcome, python, verified

from costguard import ConfigurationError, Guard
from costguard.budgets import make_budget
from costguard.exchange.opening import open_ledger
from costguard.ledger import engines
from costguard.ledger.engine import Engine
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Settle


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | Path, str]]:
    """What the engine `fake://` was asked to open."""
    asked: list[tuple[str | Path, str]] = []

    def open_engine(target: str | Path, *, durability: str) -> Engine:
        asked.append((target, durability))
        return SqliteEngine(tmp_path / "elsewhere.db", durability=durability)

    module = ModuleType("a_fake_engine")
    module.open_engine = open_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_fake_engine", module)
    monkeypatch.setitem(engines.ENGINES, "fake", "a_fake_engine")
    return asked


def test_a_registered_engine_holds_a_ledger_and_nothing_else_has_to_change(
    opened: list[tuple[str | Path, str]],
) -> None:
    ledger = open_ledger("fake://host/name?x=1", durability="normal")
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US, [Settle(attempt, a_charge(30))])
    assert verified(ledger)
    ledger.close()
    assert opened == [("fake://host/name?x=1", "normal")]


def test_a_guard_takes_the_url_of_an_engine(opened: list[tuple[str | Path, str]]) -> None:
    with Guard("FAKE://host/name") as guard:
        guard.set_budget("/", "1")
        assert guard.verify().ok
    assert opened == [("FAKE://host/name", "full")]


def test_a_scheme_that_nobody_registered_is_refused_and_the_known_ones_are_named(
    opened: list[tuple[str | Path, str]],
) -> None:
    with pytest.raises(ConfigurationError, match=r"mystery:// .* known are: .*fake://"):
        open_ledger("mystery://host/name")
    assert opened == []


def test_a_path_is_a_file_however_it_looks(tmp_path: Path) -> None:
    for name in ("ledger.db", "odd:name.db", "fake.db"):
        open_ledger(str(tmp_path / name)).close()
        assert (tmp_path / name).is_file()


def test_an_engine_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, costguard.ledger.engines; print('costguard.ledger.engines.sqlite' in sys.modules)"
    assert outcome(python(code)) == "False"
