"""The log tells what happened beside the calls, once, in order, and keeps what was armed again or removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, hold, open_ledger, verified

from costguard.budgets import make_budget
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.history import KINDS, Event
from costguard.ledger.accounting.importing import Batch, Importer, Mark, Recorded, Source
from costguard.ledger.engines.files import blend
from costguard.ledger.owner import who
from costguard.ledger.records import Doubt, Refused, Settle

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def ledger(tmp_path: Path, each_engine: str) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    assert verified(ledger)
    if each_engine == "sqlite":  # which looks for the like in its own files
        assert ledger._engine.read(blend) is None
    ledger.close()


def told(events: list[Event]) -> list[tuple[object, ...]]:
    return [(event.what, event.change, event.project, event.about, event.amount) for event in events]


def test_everything_is_told_in_the_order_in_which_it_happened(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.0000001", warn_at=(50,)), NOW_US)
    ledger.set_ceiling("painter", 9, NOW_US + 1)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US + 2, [Settle(attempt, a_charge(60))])
    ledger.set_budget(make_budget("acme", "0.0000002", warn_at=(50,)), NOW_US + 3)
    ledger.call_project("acme/search", "acme/find", NOW_US + 4)
    source = Source("calls.jsonl", "acme/search", "{}", "{}")
    task = Recorded("a", "textInference", "m", NOW_US, (("", a_charge(7)),))
    Importer(ledger, source).add(NOW_US + 5, Batch([task], 1, frozenset(), Mark(1, 1, "d")))
    assert told(ledger.events()) == [
        ("budget", "set", "acme", "month", 100),
        ("ceiling", "set", None, "painter", 9),
        ("alert", "50 %", "acme", "month", 60),
        ("budget", "set", "acme", "month", 200),
        ("project", "renamed", "acme/search", "acme/find", None),
        ("import", "imported", "acme/find", "calls.jsonl", 7),
    ]
    assert {event.who for event in ledger.events() if event.what != "alert"} == {who()}
    assert [event.before for event in ledger.events(what=("budget",))] == [None, 100]
    assert [event.limit for event in ledger.events(what=("alert",))] == [100]


def test_an_alert_is_kept_when_it_is_armed_again_and_when_its_budget_is_removed(ledger: Ledger) -> None:
    for limit in ("0.0000001", "0.0000002"):
        ledger.set_budget(make_budget("acme", limit, warn_at=(50,)), NOW_US)
        (attempt,) = hold(ledger, 60)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(60))])
    ledger.remove_budget("acme", "month", NOW_US)
    assert [(event.change, event.amount) for event in ledger.events(what=("alert",))] == [("50 %", 60), ("50 %", 120)]


def test_the_first_refusal_of_a_window_is_told_as_its_alert(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.00000001"), NOW_US)
    for _ in range(2):
        tasks = [an_attempt(100)]
        refused = ledger.admit("acme/search", NOW_US, tasks)
        assert isinstance(refused, Refused)
        ledger.count_refusal(refused, "acme/search", NOW_US, tasks)
    assert told(ledger.events(what=("alert",))) == [("alert", "refused", "acme", "month", 0)]


def test_corrections_say_who_and_why_those_that_release_too(ledger: Ledger) -> None:
    for uuid, charged in (("a", 7), ("b", None)):
        admitted = ledger.admit("acme/search", NOW_US, [an_attempt(10, task_uuid=uuid)])
        assert not isinstance(admitted, Refused)
        ledger.conclude(NOW_US, [Doubt(admitted.attempt_ids[0], "timeout")])  # type: ignore[union-attr]
        ledger.correct(NOW_US + 1, uuid, charged, f"seen on invoice {uuid}")
    found = ledger.events(what=("correction",))
    assert told(found) == [
        ("correction", "charged", "acme/search", "a", 7),
        ("correction", "released", "acme/search", "b", None),
    ]
    assert [(event.who, event.reason) for event in found] == [
        (who(), "seen on invoice a"), (who(), "seen on invoice b"),
    ]  # fmt: skip
    assert [row.nanos for row in ledger.usage(("basis",), "2026-11-01", "2026-12-01")] == [7]


def test_what_the_provider_takes_back_of_a_correction_is_told(ledger: Ledger) -> None:
    (attempt,) = hold(ledger, 10)
    ledger.conclude(NOW_US, [Doubt(attempt, "timeout")])
    uuid = ledger.tasks()[0].task_uuid
    ledger.correct(NOW_US, uuid, 7, "seen on the invoice")
    ledger.conclude(NOW_US + 1, [Settle(attempt, a_charge(5))])
    found = ledger.events(what=("correction",))
    assert [(event.change, event.amount, event.who) for event in found] == [
        ("charged", 7, who()), ("taken back", -7, None),
    ]  # fmt: skip


def test_times_kinds_and_projects_choose(ledger: Ledger) -> None:
    for n, project in enumerate(("acme", "acme/search", "acmeter", "lab")):
        ledger.set_budget(make_budget(project, 1), NOW_US + n * DAY_US)
    ledger.set_ceiling("painter", 9, NOW_US)
    assert [event.project for event in ledger.events(NOW_US + DAY_US, NOW_US + 3 * DAY_US)] == [
        "acme/search",
        "acmeter",
    ]
    assert [event.project for event in ledger.events(project="acme")] == ["acme", "acme/search"]
    assert [event.what for event in ledger.events(what=("ceiling",))] == ["ceiling"]


def test_the_command_offers_every_kind() -> None:
    from costguard.cli import log

    assert log.KINDS == KINDS


def test_a_project_is_found_by_its_present_name_and_by_the_one_it_was_booked_on(ledger: Ledger) -> None:
    (attempt,) = hold(ledger, 10)
    ledger.conclude(NOW_US, [Doubt(attempt, "timeout")])
    ledger.correct(NOW_US, ledger.tasks()[0].task_uuid, 7, "seen on the invoice")
    ledger.call_project("acme", "umbrella", NOW_US)
    for name in ("umbrella", "umbrella/search", "acme", "acme/search"):
        assert [event.project for event in ledger.events(project=name, what=("correction",))] == ["umbrella/search"]
    assert ledger.events(project="umbrella/other") == []


def test_a_project_may_be_renamed_by_its_present_name_and_back(ledger: Ledger) -> None:
    hold(ledger, 10)
    ledger.call_project("acme/search", "acme/find", NOW_US)
    ledger.call_project("acme/find", "acme/seek", NOW_US)
    ledger.call_project("acme/seek", "acme/search", NOW_US)
    assert [(move.project, move.name) for move in ledger.moves()] == [
        ("acme/search", "acme/find"), ("acme/find", "acme/seek"), ("acme/seek", "acme/search"),
    ]  # fmt: skip
    with pytest.raises(ConfigurationError):
        ledger.call_project("acme/nothing", "lab", NOW_US)
