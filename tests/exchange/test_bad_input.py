"""Bad input: a clear error that names what and where, nothing lost, and never a hold leaked."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import FLASH, LIMIT, AnyClient, a_task, audit, module_of, only_task

from costguard import ConfigurationError, Guard, InvalidRequest, LedgerError, PriceFileError, UnpricedTask
from costguard.testing import StandIn

TEXT = '"taskType":"textInference","model":"google:gemini@3-flash"'

BODIES = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n", "it is empty"),
    "not JSON": (b"hello", "not JSON"),
    "cut": (b'[{"taskType":"textInf', "not JSON"),
    "not UTF-8": (b'[{"taskType":"\xff"}]', "byte 14 is not UTF-8"),
    "byte order mark": ("\ufeff[]".encode(), "byte order mark"),
    "two values": (b"[] []", "not JSON: Extra data"),
    "a number": (b"7", "found a number"),
    "a text": (b'"taskType"', "found a text"),
    "null": (b"null", "found null"),
    "an empty list": (b"[]", "found an empty array"),
    "a list of lists": (f"[[{{{TEXT}}}]]".encode(), "element 0 is an array"),
    "no taskType": (b'[{"model":"x"}]', "element 0 is an object without 'taskType'"),
    "one of two without": (f'[{{{TEXT}}},{{"model":"x"}}]'.encode(), "element 1 is an object without 'taskType'"),
    "taskType of no text": (b'[{"taskType":7}]', "'taskType' is a number"),
    "NaN": (f'[{{{TEXT},"settings":{{"temperature":NaN}}}}]'.encode(), "NaN, which is not JSON"),
    "Infinity": (f'[{{{TEXT},"seed":-Infinity}}]'.encode(), "-Infinity, which is not JSON"),
    "beyond all floats": (f'[{{{TEXT},"x":1e999}}]'.encode(), "too large"),
    "a key twice": (f'[{{{TEXT},"model":"other"}}]'.encode(), "model"),
    "too deep": (f'[{{{TEXT},"x":{"[" * 100_000}{"]" * 100_000}}}]'.encode(), "nested too deeply"),
    "no results": (f'[{{{TEXT},"numberResults":0}}]'.encode(), "numberResults: expected a whole number from 1"),
    "negative results": (f'[{{{TEXT},"numberResults":-4}}]'.encode(), "numberResults"),
    "absurd results": (f'[{{{TEXT},"numberResults":1000000}}]'.encode(), "numberResults"),
    "half a result": (f'[{{{TEXT},"numberResults":1.5}}]'.encode(), "numberResults"),
    "results as text": (f'[{{{TEXT},"numberResults":"2"}}]'.encode(), "numberResults"),
    "negative maxTokens": (f'[{{{TEXT},"settings":{{"maxTokens":-1}}}}]'.encode(), "settings.maxTokens"),
    "absurd maxTokens": (f'[{{{TEXT},"settings":{{"maxTokens":{10**30}}}}}]'.encode(), "settings.maxTokens"),
    "true maxTokens": (f'[{{{TEXT},"settings":{{"maxTokens":true}}}}]'.encode(), "settings.maxTokens"),
    "unknown delivery": (f'[{{{TEXT},"deliveryMethod":"pigeon"}}]'.encode(), "deliveryMethod"),
    "taskUUID of no text": (f'[{{{TEXT},"taskUUID":7}}]'.encode(), "task 0: taskUUID"),
    "taskUUID of control characters": (f'[{{{TEXT},"taskUUID":"a\\u0000b"}}]'.encode(), "printable"),
    "taskUUID without end": (f'[{{{TEXT},"taskUUID":"{"a" * 201}"}}]'.encode(), "1 to 200"),
    "one name twice": (f'[{{{TEXT},"taskUUID":"a"}},{{{TEXT},"taskUUID":"a"}}]'.encode(), "task 1 has the taskUUID"),
}


@pytest.mark.parametrize("key", ["model", "taskType", "taskUUID"])
@pytest.mark.parametrize("character", ["\n", "\x1b", "\x9b", "\u2028", "\u202e"], ids=ascii)
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_name_that_could_not_be_printed_never_reaches_the_ledger(
    mode: str, character: str, key: str, make_guard: Callable[..., Guard], standin: StandIn, make_client: Any
) -> None:
    guard = make_guard(mode=mode)
    client = make_client("httpx.Client", guard, transport=standin.transport())
    body = json.dumps([a_task(**{key: f"a{character}b"})]).encode()
    if mode == "enforce":
        with pytest.raises(InvalidRequest, match=f"{key}: expected 1 to 200 printable"):
            client.post(content=body, headers={"content-type": "application/json"})
    else:
        client.post(content=body, headers={"content-type": "application/json"})
    assert (len(standin.received), guard.ledger.tasks()) == (int(mode == "observe"), [])


def test_an_operator_s_reason_is_one_line_that_can_be_printed(guard: Guard) -> None:
    with pytest.raises(ConfigurationError, match=r"reason: .* control character U\+001B"):
        guard.resolve("a", reason="a\x1b[31mb")


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_task_list_is_refused_at_the_native_endpoint(
    name: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    body, said = BODIES[name]
    with pytest.raises(InvalidRequest) as refused:
        client.post(content=body, headers={"content-type": "application/json"})
    assert said in str(refused.value)
    assert "nothing was sent" in str(refused.value)
    assert not standin.received
    assert not guard.ledger.tasks()


def test_a_multipart_post_to_the_native_endpoint_is_refused(client: AnyClient, standin: StandIn) -> None:
    with pytest.raises(InvalidRequest):
        client.post(files={"f": json.dumps([a_task()]).encode()})
    assert not standin.received


@pytest.mark.parametrize("model", ["google:gemini@9", "", "GOOGLE:GEMINI@3-FLASH"])
def test_an_unknown_model_is_refused_by_name(model: str, client: AnyClient, guard: Guard, standin: StandIn) -> None:
    with pytest.raises((UnpricedTask, InvalidRequest), match=model or "model"):
        client.post(a_task(model=model))
    assert not standin.received
    assert not guard.ledger.tasks()


# --- odd figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "basis", "odd"),
    [
        ("odd_total", "breakdown", True),
        ("bad_breakdown", "breakdown", True),
        ("negative", "computed", True),
        ("nan", "computed", True),
        ("huge", "computed", True),
        ("usage_only", "computed", False),
        ("cost_only", "cost", False),
        ("no_cost", "assumed", False),
    ],
)
def test_what_was_billed_is_recorded_even_when_its_figures_are_odd(
    fault: str, basis: str, odd: bool, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    assert client.post(a_task()).status_code == 200
    task = only_task(guard)
    assert (task.status, task.basis, task.odd, task.held) == ("settled", basis, odd, 0)
    if basis != "assumed":
        assert task.charged == standin.billed() * 10**9
    audit(guard, standin)


def test_one_odd_result_among_many_is_charged_with_them(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    standin.fault("nan")
    client.post(a_task(numberResults=3), a_task(numberResults=2))
    odd, even = guard.ledger.tasks()
    assert (odd.basis, odd.odd, even.basis, even.odd) == ("computed", True, "breakdown", False)
    assert odd.charged + even.charged == standin.billed() * 10**9
    audit(guard, standin)


ODD_ANSWERS: dict[str, Any] = {
    "usage of another shape": {"usage": [1, {"a": None}], "cost": "0.0002"},
    "breakdown of another shape": {"usage": {"costBreakdown": {"tokens": [], "total": {}}}, "cost": 0.0002},
    "parts of another shape": {"usage": {"costBreakdown": {"tokens": {"prompt": "x"}, "total": 0.0002}}},
    "negative parts": {
        "usage": {"costBreakdown": {"tokens": {"completion": {"cost": -1, "billableTokens": -5}}, "total": 0.0002}}
    },
    "counts beyond all bounds": {"usage": {"promptTokens": 10**40, "completionTokens": -3}, "cost": 0.0002},
    "cost of a list": {"cost": [0.0002], "usage": {"promptTokens": 5, "completionTokens": 5}},
    "cost of a boolean": {"cost": True, "usage": {"promptTokens": 5, "completionTokens": 5}},
    "tiny": {"cost": 1e-30},
    "nothing": {"cost": 0},
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_figures_of_any_shape_settle_and_add_up(
    name: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    module = module_of(kind)

    def answer(request: Any) -> Any:
        (task,) = json.loads(request.content)
        item = {"taskType": task["taskType"], "taskUUID": task["taskUUID"], "text": "x", **ODD_ANSWERS[name]}
        return module.Response(200, json={"data": [item]})

    client = make_client(kind, guard, transport=module.MockTransport(answer))
    assert client.post(a_task()).status_code == 200
    task = only_task(guard)
    assert (task.status, task.held) == ("settled", 0)
    assert (task.charged == 0) == (name in ("tiny", "nothing"))
    audit(guard)


@pytest.mark.parametrize(
    "body",
    [b"null", b"7", b'"x"', b"[]", b"{}", b"[null]", b'{"data":null}', b'{"data":{}}', b'{"data":[7]}', b"\xff\xfe",
     b'{"data":[{"taskUUID":7}]}', b"[" * 100_000, b'{"errors":{}}', b'{"errors":[null]}', b'{"error":7}'],
)  # fmt: skip
def test_an_answer_that_says_nothing_leaves_the_call_unresolved(
    body: bytes, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    module = module_of(kind)
    client = make_client(kind, guard, transport=module.MockTransport(lambda _: module.Response(200, content=body)))
    assert client.post(a_task()).content == body
    task = only_task(guard)
    assert (task.status, task.held) == ("unresolved", task.upper)
    audit(guard)


# --- ledgers and settings ------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes (text)")
    db.close()


def newer(path: Path) -> None:
    Guard(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()


def a_folder(path: Path) -> None:
    path.mkdir()


def truncated(path: Path) -> None:
    Guard(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3] + b"\x00" * 1000)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (garbage, "not a SQLite file"),
        (foreign, "another program"),
        (newer, "upgrade costguard"),
        (a_folder, "is a folder"),
        (truncated, "damaged"),
    ],
)
def test_a_file_that_is_no_ledger_is_named_and_kept(make: Callable[[Path], None], said: str, ledger: Path) -> None:
    make(ledger)
    before = ledger.read_bytes() if ledger.is_file() else None
    with pytest.raises(LedgerError, match=said) as refused:
        Guard(ledger)
    assert str(ledger) in str(refused.value)
    assert before is None or ledger.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="must exist"):
        Guard(tmp_path / "nowhere" / "costguard.db")


def test_a_full_disk_refuses_what_it_cannot_hold_and_loses_nothing(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    engine: Any = guard.ledger._engine
    (pages,) = engine._writer.execute("PRAGMA page_count").fetchone()
    engine._writer.execute(f"PRAGMA max_page_count = {pages + 2}")

    def post_without_end() -> None:
        while True:
            assert client.post(a_task()).status_code == 200

    with pytest.raises(LedgerError, match="disk is full"):
        post_without_end()
    sent = len(standin.received)
    assert sent == len(guard.ledger.tasks())
    engine._writer.execute("PRAGMA max_page_count = 1000000")
    client.post(a_task())
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * (sent + 1)
    assert standin.billed() == LIMIT - (guard.remaining() or 0)
    audit(guard, standin)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"durability": "fast"}, "durability: 'fast'"),
        ({"mode": "strict"}, "mode: 'strict'"),
        ({"project": "a//b"}, "project"),
        ({"media_max": {"video": 3}}, "unknown key 'video'"),
    ],
)
def test_an_unusable_setting_is_named(options: dict[str, Any], said: str, ledger: Path) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Guard(ledger, **options)


def test_the_reporting_zone_is_fixed_at_creation(make_guard: Callable[..., Guard]) -> None:
    make_guard(timezone="Asia/Tokyo")
    make_guard()
    with pytest.raises(ConfigurationError, match="reports in Asia/Tokyo"):
        make_guard(timezone="UTC")


def test_a_malformed_price_file_is_named_with_its_key(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "acme.toml").write_text('model = "acme:1@1"\nalias = []\n', encoding="utf-8")
    with pytest.raises(PriceFileError, match=r"acme\.toml"):
        Guard(ledger, prices=tmp_path / "mine")


@pytest.mark.parametrize(
    ("amount", "error"),
    [("-1", ConfigurationError), ("NaN", ConfigurationError), ("1e-10", ConfigurationError), (0.1, TypeError),
     ("ten", ConfigurationError), (True, TypeError), (None, TypeError), ("1e99", ConfigurationError)],
)  # fmt: skip
def test_an_amount_that_is_none_is_refused(amount: Any, error: type[Exception], guard: Guard) -> None:
    for call in (lambda: guard.set_budget("acme", amount), lambda: guard.set_ceiling(FLASH, amount)):
        with pytest.raises(error):
            call()
    assert [str(budget) for budget in guard.budgets()] == ["/ in total"]
    assert not guard.ceilings()
    assert guard.remaining() == Decimal(1)


@pytest.mark.parametrize("task", [None, [], "textInference", {}, {"taskType": 7}, {"taskType": ""}])
def test_only_a_task_can_be_estimated(task: Any, guard: Guard) -> None:
    with pytest.raises(InvalidRequest):
        guard.estimate(task)
