"""A raised limit arms alerts again, each for one firing, and nothing is deleted for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, a_charge, hold, open_ledger, verified

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Settle

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def ledger(tmp_path: Path, each_engine: str) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    verified(ledger)
    ledger.close()


def limit(ledger: Ledger, usd: str, timezone: str = "UTC") -> None:
    ledger.set_budget(make_budget("acme", usd, per="month", warn_at=(50, 80), timezone=timezone), NOW_US)


def spend(ledger: Ledger, nanos: int) -> list[int | None]:
    """The percents that fire."""
    (held,) = hold(ledger, nanos)
    return [alert.percent for alert in ledger.conclude(NOW_US, [Settle(held, a_charge(nanos), "0")])]


def test_each_fires_once_more_for_a_raised_limit_and_only_then(ledger: Ledger) -> None:
    limit(ledger, "0.000001")
    assert spend(ledger, 600) == [50]
    assert spend(ledger, 10) == []
    limit(ledger, "0.0000012")
    assert spend(ledger, 10) == [50]
    assert spend(ledger, 10) == []
    assert spend(ledger, 400) == [80]
    limit(ledger, "0.0000011")
    assert spend(ledger, 1) == []
    limit(ledger, "0.0000012")
    assert spend(ledger, 1) == [50, 80]
    assert spend(ledger, 1) == []


def test_in_another_zone_what_has_fired_stays_fired_and_what_is_armed_stays_armed(ledger: Ledger) -> None:
    limit(ledger, "0.000001")
    assert spend(ledger, 600) == [50]
    limit(ledger, "0.000001", timezone="Asia/Tokyo")
    assert spend(ledger, 10) == []
    limit(ledger, "0.0000011", timezone="Asia/Tokyo")
    limit(ledger, "0.0000011", timezone="UTC")
    assert spend(ledger, 10) == [50]
    limit(ledger, "0.0000011", timezone="Asia/Tokyo")
    assert spend(ledger, 10) == []
