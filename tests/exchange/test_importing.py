"""An import books each recorded result once, at what was billed, however often and in whatever order it comes."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, FLASH, a_task
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DAY_US, NOW_US, open_ledger, verified
from recordings import PRICES, a_record, an_item, import_text, lines

from costguard.budgets import make_budget
from costguard.exchange import importing
from costguard.exchange.pieces import Piece
from costguard.exchange.recorded import Reader
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.importing import Batch, Booking, Conflict, Importer
from costguard.money import NANOS
from costguard.testing import StandIn

COSTS = st.integers(1, 10**6)
STYLES = ("seeded", "unnamed results", "chat", "without a name")


@st.composite
def a_log(draw: st.DrawFn) -> tuple[list[dict[str, Any]], int]:
    """Records of a log, and the provider's bill for them, in nano-USD."""
    records, bill = [], 0
    for n in range(draw(st.integers(1, 6))):
        style, day = draw(st.sampled_from(STYLES)), draw(st.integers(1, 20))
        costs = draw(st.lists(COSTS, min_size=1, max_size=3))
        told = [f"{cost * 1000 / NANOS:.9f}" for cost in costs]
        name = f"task-{n}"
        if style == "seeded":
            # Each result is told by itself, or all are told in one response.
            items = [an_item(name, cost, seed=seed) for seed, cost in enumerate(told)]
            found = [a_record(item, day=day) for item in items] if draw(st.booleans()) else [a_record(*items, day=day)]
        elif style == "unnamed results":
            found = [a_record(*(an_item(name, cost) for cost in told), day=day)]
        elif style == "chat":
            costs = costs[:1]
            usage = {"prompt_tokens": n + 1, "completion_tokens": 5, "cost": told[0]}
            found = [{"at": a_record(day=day)["at"], "id": name, "model": FLASH, "usage": usage}]
        else:
            costs = costs[:1]
            found = [a_record(an_item(None, told[0], text=name), day=day)]
        records += found
        bill += sum(cost * 1000 for cost in costs)
    return records, bill


def a_chat(name: str | int | None, day: int = 1, **usage: Any) -> dict[str, Any]:
    """An OpenAI-style record of usage."""
    record = {"at": a_record(day=day)["at"], "id": name, "model": FLASH, "usage": {"total_tokens": None, **usage}}
    return {key: value for key, value in record.items() if value is not None}


def sums(ledger: Ledger) -> tuple[int, Counter[tuple[Any, ...]]]:
    """All that was charged, and each task with its time and amount."""
    rows = ledger.tasks()
    return sum(row.charged for row in rows), Counter((row.task_uuid, row.at_us, row.charged) for row in rows)


@settings(max_examples=40)
@given(a_log(), st.randoms(use_true_random=False), st.data())
def test_in_any_order_in_pieces_and_again_an_import_is_the_bill(
    log: tuple[list[dict[str, Any]], int], order: random.Random, data: st.DataObject
) -> None:
    records, bill = log
    with tempfile.TemporaryDirectory() as folder:
        once, often = open_ledger(Path(folder, "once.db")), open_ledger(Path(folder, "often.db"))
        import_text(once, lines(records))
        assert sums(once)[0] == bill
        again = [*records, *data.draw(st.lists(st.sampled_from(records), max_size=6))]
        order.shuffle(again)
        while again:
            size = order.randint(1, len(again))
            piece, again = again[:size], again[size:]
            text = lines(piece) if order.random() < 0.5 else json.dumps(piece, indent=1).encode()
            import_text(often, text, file=str(order.random()))
        assert sums(often) == sums(once)
        for ledger in (once, often):
            assert sum(row.nanos for row in ledger.usage(("day",), "2026-11-01", "2026-12-01")) == bill
            assert verified(ledger)
            ledger.close()


@pytest.mark.parametrize("results", [1, 3])
def test_what_the_stand_in_answered_is_imported_at_its_bill(tmp_path: Path, standin: StandIn, results: int) -> None:
    records = []
    with httpx.Client(base_url=API, transport=standin.transport()) as client:
        for n in range(10):
            task = a_task(numberResults=results, includeCost=True, includeUsage=True)
            answer = client.post("/v1", json=[task]).text
            records.append({**a_record(day=1 + n), "request": [task], "response": answer})
    ledger = open_ledger(tmp_path / "ledger.db")
    found = import_text(ledger, lines(records))
    assert (found.booking.tasks, found.booking.results, found.bad) == (10, 10 * results, 0)
    assert found.booking.nanos == standin.billed() * NANOS
    assert sums(ledger)[0] == found.booking.nanos
    (row,) = ledger.usage(("model", "basis"), "2026-11-01", "2026-12-01")
    assert row.keys == (FLASH, "breakdown")
    assert verified(ledger)
    ledger.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    assert verified(ledger)
    ledger.close()


def test_a_broken_line_is_named_and_costs_no_other(ledger: Ledger) -> None:
    text = lines([a_record(an_item("a"))]) + b"nonsense\n" + lines([a_record(an_item("b"))])
    found = import_text(ledger, text)
    assert (found.lines, found.bad, found.booking.tasks) == (3, 1, 2)
    assert [fault.number for fault in found.faults] == [2]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("nonsense", "not an object"),
        ({"hello": 1}, "nothing in it is a result"),
        ({"taskUUID": "a", "cost": 1}, "at: not there"),
        ({"at": "yesterday", "taskUUID": "a", "cost": 1}, "is no time"),
        ({"at": True, "taskUUID": "a", "cost": 1}, "is no time"),
        ({"at": "2026-11-24T12:00Z", "taskUUID": "a", "cost": 1}, "yet to come"),
        ({"at": "1926-11-23", "taskUUID": "a", "cost": 1}, "not in the years"),
        ({"at": 1793534, "taskUUID": "a", "cost": 1}, "was read as 1970-01-21T18:12:14Z, which is long before"),
        ({"at": "2014-12-31", "taskUUID": "a", "cost": 1}, "long before any call"),
        ({"at": "2026-11-24T12:00:01Z", "taskUUID": "a", "cost": 1}, "was read as 2026-11-24T12:00:01Z, which is yet"),
        ({"at": 10**40, "taskUUID": "a", "cost": 1}, "is no time"),
        ({"at": -1, "taskUUID": "a", "cost": 1}, "not in the years"),
        (a_record(an_item("a", None)), "no cost, and no tokens"),
        (a_record(an_item("a", "-1")), "cost is unusable, and no tokens"),
        (
            {"at": 1793534400, "model": "acme:writer@1", "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
            "no cost, and no price is known of acme:writer@1",
        ),
        (a_chat("a", prompt_tokens=5), "no cost, and no tokens of the completion"),
        (a_chat("a", prompt_tokens=0, completion_tokens=0), "no tokens of the prompt: the usage is not known"),
        (
            a_chat("a", prompt_tokens=5, completion_tokens=5, prompt_tokens_details={"cached_tokens": 6}),
            "its usage cannot be priced: more tokens are cached than the prompt has",
        ),
        (a_chat("a", prompt_tokens=5, cost="-1"), "cost is unusable, and no tokens of the completion"),
        (a_record(an_item("a", "NaN")), "cost is unusable, and no tokens"),
        ({**a_record(), "response": {"errors": [{"taskUUID": "a", "code": "timeout"}]}}, "may have been billed"),
    ],
)  # fmt: skip
def test_what_cannot_be_booked_is_said_and_never_charged_as_nothing(ledger: Ledger, record: Any, why: str) -> None:
    found = import_text(ledger, lines([record]))
    (fault,) = found.faults
    assert why in fault.why
    assert (found.bad, found.booking.tasks) == (1, 0)
    assert ledger.tasks() == []


def test_what_was_refused_or_is_under_way_is_no_fault_and_no_charge(ledger: Ledger) -> None:
    refused = {**a_record(), "response": {"errors": [{"taskUUID": "a", "code": "invalidModel"}]}}
    ack = a_record({"taskType": "textInference", "taskUUID": "b"})
    chunk = {"at": a_record()["at"], "id": "c", "object": "chat.completion.chunk", "choices": []}
    found = import_text(ledger, lines([refused, ack, chunk]))
    assert (found.lines, found.bad, found.idle, found.booking.tasks) == (3, 0, 3, 0)


@pytest.mark.parametrize(
    "at",
    ["2026-11-01T12:00:00Z", "2026-11-01T13:00:00+01:00", "2026-11-01T12:00", 1793534400, "1793534400", 1793534400.0,
     1793534400000, 1793534400000000, 1793534400000000000],
)  # fmt: skip
def test_a_time_is_read_as_programs_write_it(ledger: Ledger, at: Any) -> None:
    import_text(ledger, lines([{"meta": {"times": [{"sent": at}]}, **an_item("a")}]), at="meta.times.sent")
    (task,) = ledger.tasks()
    assert task.at_us == 1793534400 * 10**6


def test_usage_without_a_cost_is_charged_at_the_price_of_its_time(ledger: Ledger) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    found = import_text(
        ledger, lines([{"at": a_record()["at"], "id": "a", "model": "google-gemini-3-flash", "usage": usage}])
    )
    assert found.booking.nanos == 1000 * 500 + 100 * 3000
    (task,) = ledger.tasks()
    assert (task.basis, task.model, task.task_type, task.status) == ("computed", FLASH, "textInference", "settled")
    assert ledger.unconfirmed(NOW_US) == [], "nobody is asked for it"


def test_a_model_may_be_stated_for_records_that_name_none(ledger: Ledger) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    import_text(ledger, lines([{"at": a_record()["at"], "id": "a", "usage": usage}]), model=FLASH)
    assert [task.model for task in ledger.tasks()] == [FLASH]


def test_an_import_goes_on_where_it_was_and_reads_a_changed_file_anew(ledger: Ledger) -> None:
    records = [a_record(an_item(f"task-{n}")) for n in range(3)]
    import_text(ledger, lines(records[:2]), go_on=True)
    more = import_text(ledger, lines(records), go_on=True)
    assert (more.after, more.lines, more.booking.tasks) == (2, 1, 1)
    changed = import_text(ledger, lines(records[::-1]), go_on=True)
    assert (changed.after, changed.lines, changed.booking.known, changed.booking.tasks) == (0, 3, 3, 0)
    other = import_text(ledger, lines(records), go_on=True, project="lab")
    assert (other.after, other.booking.known) == (0, 3), "it is of another project, and they are booked already"


def test_an_import_that_was_stopped_has_booked_what_it_said_and_goes_on_behind_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_LINES", 2)
    text = lines([a_record(an_item(f"task-{n}")) for n in range(5)])
    add = Importer.add
    batches: list[Batch] = []

    def stop(importer: Importer, at_us: int, batch: Batch) -> tuple[Booking, list[Conflict]]:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(batch)
        return add(importer, at_us, batch)

    monkeypatch.setattr(Importer, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        import_text(ledger, text)
    assert len(ledger.tasks()) == 4
    assert verified(ledger)
    monkeypatch.setattr(Importer, "add", add)
    found = import_text(ledger, text, go_on=True)
    assert (found.after, found.lines, found.booking.tasks) == (4, 1, 1)


KEYS = st.sampled_from(
    ["data", "errors", "error", "response", "request", "body", "usage", "cost", "costBreakdown", "total", "tokens",
     "id", "prompt_tokens", "input_tokens", "completion_tokens", "prompt_tokens_details", "audio_tokens",
     "cached_tokens", "taskUUID", "taskType", "model", "seed", "resultIndex", "status", "text", "at", "modalities",
     "object"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["getTaskDetails", "textInference", "1e999999999", "2026-11-01", FLASH, "chat.completion.chunk"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300)
@given(VALUES, st.sampled_from(["at", "data.at", "response.0.at", "usage"]))
def test_whatever_a_line_holds_it_is_read_or_said_and_the_sum_is_that_of_its_results(value: Any, at: str) -> None:
    reader = Reader(PRICES, at=at, model=FLASH, timezone="UTC", now_us=lambda: NOW_US)
    told = reader.read(Piece(1, json.dumps(value).encode()))
    for task in told.tasks:
        assert task.task_uuid
        assert task.results
        for _, charge in task.results:
            assert charge.nanos == sum(line.nanos for line in charge.lines)
            assert charge.nanos >= 0


@pytest.mark.parametrize("number", ["1e999999999", "-1e999999999", "NaN", "Infinity", "1e400"])
def test_a_number_beyond_all_bounds_is_no_time_and_costs_nothing_to_refuse(ledger: Ledger, number: str) -> None:
    found = import_text(ledger, f'{{"taskUUID": "a", "cost": 1, "at": {number}}}'.encode())
    assert "is no time" in found.faults[0].why


def test_what_was_left_out_is_tried_again(ledger: Ledger) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    text = lines([a_record(an_item("a")), {"at": a_record()["at"], "id": "b", "usage": usage}])
    assert import_text(ledger, text, go_on=True).bad == 1
    again = import_text(ledger, text, go_on=True)
    assert (again.after, again.bad, again.booking.known) == (0, 1, 1)


def test_a_figure_of_our_own_gives_way_to_the_providers_and_that_to_nothing(ledger: Ledger) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    import_text(ledger, lines([a_chat("a", **usage)]))
    found = import_text(ledger, lines([a_chat("a", cost="0.5", **usage)]))
    assert found.booking == Booking(known=1, improved=1, changed=500_000_000 - 800_000)
    for other, bad in (("0.5", 0), ("0.6", 1), (None, 0)):
        again = import_text(ledger, lines([a_chat("a", cost=other, **usage)]))
        assert (again.bad, again.booking.improved, again.booking.changed) == (bad, 0, 0)
    (task,) = ledger.tasks()
    assert (task.charged, task.basis) == (500_000_000, "cost")


SIXES = {"prompt_tokens": 6, "completion_tokens": 6}
FIVES = a_chat(7, prompt_tokens=5, completion_tokens=5)


@pytest.mark.parametrize(
    ("booked", "comes", "project"),
    [
        (a_chat(7, cost="0.1"), a_chat(7, cost="0.2"), "acme/search"),
        (a_chat(7, cost="0.1"), a_chat("7", cost="0.2"), "acme/search"),
        (a_chat(7, cost="0.1"), a_chat(7, cost="0.2", day=20), "lab"),
        (a_chat(7, cost="0.1"), a_chat(7, cost="0.1", day=20), "acme/search"),
        (FIVES, FIVES | {"usage": SIXES}, "acme/search"),
        (FIVES, FIVES | {"usage": SIXES | {"cost": "1"}}, "acme/search"),
        (FIVES, FIVES | {"usage": FIVES["usage"] | {"cost": "1"}}, "lab"),
        (FIVES, FIVES | {"usage": FIVES["usage"] | {"cost": "1"}, "model": "acme:writer@1"}, "acme/search"),
        (a_record(an_item("7", "0.1")), a_record(an_item("7", "0.2"), day=20), "acme/search"),
        (a_record(an_item("7", "0.1", seed=1)), a_record(an_item("7", "0.2", seed=2)), "lab"),
    ],
)  # fmt: skip
def test_what_is_booked_otherwise_is_a_conflict_that_tells_both_and_changes_nothing(
    ledger: Ledger, booked: Any, comes: Any, project: str
) -> None:
    import_text(ledger, lines([booked]))
    before = sums(ledger)
    found = import_text(ledger, lines([a_record(an_item("other")), comes]), project=project, file="other.jsonl")
    (fault,) = found.faults
    assert (found.bad, fault.number, found.booking.tasks, found.booking.changed) == (1, 2, 1, 0)
    assert "task 7: booked 0." in fault.why
    assert "on acme/search at 2026-11-01T12:00:00Z" in fault.why
    assert "and this says" in fault.why
    assert before[1] <= sums(ledger)[1]
    row = ledger.imports()[-1]
    assert (row.bad, row.tasks, row.nanos) == (1, 1, 1_220_000)
    assert import_text(ledger, lines([comes]), project=project, file="other.jsonl", go_on=True).bad == 1, "tried again"


def test_the_same_name_twice_in_one_file_is_one_if_it_says_the_same_and_else_a_conflict(ledger: Ledger) -> None:
    text = lines([a_chat(n % 2, cost=cost) for n, cost in enumerate(("0.1", "0.2", "0.1", "0.3"))])
    found = import_text(ledger, text)
    assert (found.booking.tasks, found.booking.known, found.bad) == (2, 1, 1)
    assert [(fault.number, "booked 0.20 USD" in fault.why, "0.30 USD" in fault.why) for fault in found.faults] == [
        (4, True, True)
    ]
    assert sums(ledger)[0] == 300_000_000


def test_equal_records_without_a_name_are_one_and_counted(ledger: Ledger) -> None:
    nameless = a_chat(None, cost="0.1")
    found = import_text(ledger, lines([nameless, nameless, a_chat(7, cost="0.1"), a_chat(7, cost="0.1"), nameless]))
    assert (found.booking.tasks, found.booking.known, found.booking.repeated) == (2, 3, 2)
    assert import_text(ledger, lines([nameless]), file="again.jsonl").booking.repeated == 0


def test_a_record_without_a_model_is_booked_without_one(ledger: Ledger) -> None:
    item = {"at": a_record()["at"], **an_item("a", "0.5")}
    import_text(ledger, lines([item]))
    (task,) = ledger.tasks()
    assert (task.model, task.task_type) == ("", "textInference")


def test_no_text_of_an_answer_and_no_prompt_reaches_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    secret = "the harbour of Rotterdam"
    record = {
        **a_record(an_item("a", text=secret), an_item(None, "odd", text=secret)),
        "request": [{"positivePrompt": secret, "apiKey": secret}],
    }
    import_text(ledger, lines([record, {secret: secret, "at": 0, "taskUUID": "b"}]))
    ledger.verify()
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_the_budgets_windows_of_its_own_time_have_it_and_no_alert_fires(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.001", warn_at=(50, 100)), NOW_US)
    import_text(ledger, lines([a_record(an_item("a"), day=1), a_record(an_item("b"), day=-20)]))
    (now,) = [one for one in ledger.balances(NOW_US) if one.budget.per == "month"]
    (before,) = [one for one in ledger.balances(NOW_US - 40 * DAY_US) if one.budget.per == "month"]
    assert (now.spent, before.spent) == (1_220_000, 1_220_000)
    assert (now.held, before.held) == (0, 0)
    assert ledger.events(what=("alert",)) == []
