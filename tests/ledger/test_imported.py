"""What is imported stands beside what was sent: told from it, never enforced, never alerted, and never booked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, balance, open_ledger, told, verified

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.attempts import IMPORTED
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.importing import Batch, Booking, Importer, Mark, Recorded, Source
from costguard.ledger.accounting.results import result_key
from costguard.ledger.charges import Charge
from costguard.ledger.records import Admitted, Doubt, Refused, Settle

pytestmark = pytest.mark.usefixtures("each_engine")

SOURCE = Source("calls.jsonl", "acme/search", '{"run": "42"}', "{}")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    assert verified(ledger)
    ledger.close()


def recorded(task_uuid: str, *charges: Charge, at_us: int = NOW_US, names: str = "") -> Recorded:
    results = tuple((result_key(names, charge), charge) for charge in charges)
    return Recorded(task_uuid, "textInference", "google:gemini@3-flash", at_us, results)


def add(ledger: Ledger, *tasks: Recorded, source: Source = SOURCE) -> Booking:
    return Importer(ledger, source).add(NOW_US, Batch(tasks, len(tasks), frozenset(), Mark(10, len(tasks), "d")))[0]


def test_an_imported_task_is_settled_at_once_and_told_from_one_that_was_sent(ledger: Ledger) -> None:
    assert add(ledger, recorded("a", a_charge(7))) == Booking(1, 1, 7, 0, 0)
    (task,) = ledger.tasks()
    assert (task.status, task.held, task.charged, task.delivery) == ("settled", 0, 7, IMPORTED)
    assert (task.reason, task.tags, task.expected, task.upper) == ("import 1", '{"run": "42"}', None, None)
    (attempt,) = ledger.attempts("a")
    assert (attempt.host, attempt.ended_us) == ("", NOW_US)
    assert ledger.open_attempts() == []


def test_no_budget_refuses_it_and_the_next_call_finds_the_money_spent(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.00000001"), NOW_US)
    add(ledger, recorded("a", a_charge(700)))
    assert balance(ledger, "acme", "month") == (700, 0)
    assert isinstance(ledger.admit("acme/search", NOW_US, [an_attempt(1)]), Refused)


def test_its_alerts_are_left_to_the_next_call_that_is_charged(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.000001", warn_at=(50, 80), action="warn"), NOW_US)
    add(ledger, recorded("a", a_charge(900)))
    assert ledger.events(what=("alert",)) == []
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(1)])
    assert isinstance(admitted, Admitted)
    alerts = ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(1))])
    assert [alert.percent for alert in alerts] == [50, 80]


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 10**6)), max_size=8), st.data())
def test_every_window_and_day_has_what_was_sent_in_it(spans: list[tuple[int, int]], data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder, "ledger.db"))
        when = data.draw(st.integers(0, len(spans)))
        for n, (days, nanos) in enumerate(spans):
            if n == when:
                for per in ("day", "month", "total"):
                    ledger.set_budget(make_budget("acme", 1, per=per, warn_at=(1,)), NOW_US)
            add(ledger, recorded(f"task-{n}", a_charge(nanos), at_us=NOW_US - days * DAY_US))
        for n in range(len(spans) if when < len(spans) else 0):
            at_us = NOW_US - spans[n][0] * DAY_US
            for found in ledger.balances(at_us):
                start, end = found.window
                spent = sum(
                    nanos for days, nanos in spans if start <= NOW_US - days * DAY_US and (
                        end is None or NOW_US - days * DAY_US < end)
                )  # fmt: skip
                assert (found.spent, found.held) == (spent, 0)
        assert verified(ledger)
        ledger.close()


def test_a_result_of_a_call_that_was_sent_is_not_booked_again(ledger: Ledger) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    charge = told(7, 7, 10, 20)
    ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], charge, result_key("s:7", charge))])
    assert add(ledger, recorded("a", charge)) == Booking(0, 0, 0, 1, 0)
    assert [task.charged for task in ledger.tasks()] == [7]


def test_a_call_whose_answer_was_lost_is_settled_by_its_record(ledger: Ledger) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Doubt(admitted.attempt_ids[0], "timeout")])
    ledger.set_budget(make_budget("acme", "0.000000001", warn_at=(50,)), NOW_US)
    assert add(ledger, recorded("a", told(7, 7, 10, 20))) == Booking(settled=1, changed=7)
    (task,) = ledger.tasks()
    assert (task.status, task.held, task.charged, task.delivery) == ("settled", 0, 7, "sync")
    assert ledger.events(what=("alert",)) == []


def conflicts(ledger: Ledger, *tasks: Recorded, source: Source = SOURCE) -> list[str]:
    before = ledger.tasks()
    found, conflicts = Importer(ledger, source).add(NOW_US, Batch(tasks, len(tasks), frozenset(), Mark(10, 1, "d")))
    assert found == Booking()
    assert ledger.tasks() == before
    return [conflict.why for conflict in conflicts]


def test_the_providers_figure_of_a_call_that_was_sent_is_never_replaced(ledger: Ledger) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], told(7, 7, 10, 20))])
    (why,) = conflicts(ledger, recorded("a", told(4_500_000_000, None)))
    assert "booked 0.000000007 USD on acme/search" in why
    assert "this says 4.50 USD" in why


def test_a_providers_cost_is_not_replaced_by_a_breakdown_that_somebody_recorded(ledger: Ledger) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], told(7_000, prompt=10))])
    assert add(ledger, recorded("a", told(7_000, 7_000, 10, 20))) == Booking(known=1)
    assert [row.keys for row in ledger.usage(("basis",), "2026-01-01", "2027-01-01")] == [("cost",)]
    assert conflicts(ledger, recorded("a", told(9_000_000, 9_000_000, 10, 20)))


def test_what_was_assumed_of_a_call_that_was_sent_gives_way_only_on_its_own_project(ledger: Ledger) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], told(assumed=50))])
    assert conflicts(ledger, recorded("a", told(7, 7, 10, 20)), source=SOURCE._replace(project="lab"))
    assert conflicts(ledger, recorded("a", told(7, 7, 10, 20))._replace(model="acme:writer@1"))
    assert conflicts(ledger, recorded("a", told(7, 7, 10, 20), at_us=NOW_US - 2 * DAY_US))
    assert add(ledger, recorded("a", told(7, 7, 10, 20))) == Booking(known=1, improved=1, changed=-43)


def test_an_open_call_of_another_project_is_not_settled_by_a_record(ledger: Ledger) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Doubt(admitted.attempt_ids[0], "timeout")])
    assert conflicts(ledger, recorded("a", a_charge(7)), source=SOURCE._replace(project="lab"))
    ledger.call_project("acme/search", "lab", NOW_US)
    assert add(ledger, recorded("a", a_charge(7)), source=SOURCE._replace(project="lab")).settled == 1, (
        "so it is called"
    )


@pytest.mark.parametrize("said", [None, 5])
def test_a_correction_by_hand_stays_as_it_is(ledger: Ledger, said: int | None) -> None:
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(100, task_uuid="a")])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Doubt(admitted.attempt_ids[0], "timeout")])
    ledger.correct(NOW_US, "a", said, "seen on the invoice")
    assert conflicts(ledger, recorded("a", a_charge(7)))
    if said is not None:
        assert add(ledger, recorded("a", a_charge(said))) == Booking(known=1)


def test_equal_results_of_one_record_are_several_and_of_two_records_the_same(ledger: Ledger) -> None:
    one = told(7, None)
    assert add(ledger, recorded("a", one)).results == 1
    assert add(ledger, recorded("a", one, one)) == Booking(0, 1, 7, 1, 0)
    assert add(ledger, recorded("a", one), recorded("a", one, one)) == Booking(0, 0, 0, 3, 0)


def test_results_of_other_seeds_are_others(ledger: Ledger) -> None:
    one = told(7, None)
    booked = add(ledger, recorded("a", one, names="s:1"), recorded("a", one, names="s:2"))
    assert booked == Booking(1, 2, 14, 0, 0)


def test_an_import_that_fails_books_nothing_of_its_lines_and_can_be_tried_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = Importer(ledger, SOURCE)
    batch = Batch([recorded("a", a_charge(7)), recorded("b", a_charge(7))], 2, frozenset(), Mark(10, 2, "d"))
    post = importer._post

    def fail(*args: object, **options: object) -> object:
        monkeypatch.setattr(importer, "_post", post)
        raise LookupError

    monkeypatch.setattr(importer, "_post", fail)
    with pytest.raises(LedgerError):
        importer.add(NOW_US, batch)
    assert (ledger.tasks(), ledger.imports()) == ([], [])
    assert importer.add(NOW_US, batch)[0] == Booking(2, 2, 14, 0, 0)


def test_each_run_is_one_row_and_the_last_clean_one_says_where_to_go_on(ledger: Ledger) -> None:
    importer = Importer(ledger, SOURCE)
    assert importer.last() == Mark()
    for end in (10, 20):
        importer.add(NOW_US, Batch([recorded(str(end), a_charge(7))], 3, frozenset(), Mark(end, end, "d")))
    assert Importer(ledger, SOURCE).last() == Mark(20, 20, "d")
    (row,) = ledger.imports()
    assert (row.file, row.project, row.lines, row.bad, row.tasks, row.results, row.nanos) == (
        "calls.jsonl", "acme/search", 6, 0, 2, 2, 14,
    )  # fmt: skip
    Importer(ledger, SOURCE).add(NOW_US, Batch([], 1, frozenset({3}), Mark(30, 30, "e", clean=False)))
    assert Importer(ledger, SOURCE).last() == Mark(20, 20, "d"), "what was left out is tried again"
    assert Importer(ledger, SOURCE._replace(project="lab")).last() == Mark()
