"""A ledger of a released costguard is brought up to date as it is opened, with all that is in it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, a_charge, an_attempt, open_ledger, verified

from costguard.ledger.engines import schema
from costguard.ledger.records import Admitted, Observation, Refused

LOWER = "aaaaaaaa-0000-4000-8000-00000000000a"
UPPER = LOWER.upper()

RELEASED = """
INSERT INTO meta VALUES ('timezone', 'UTC');
INSERT INTO owners VALUES (1, 'gone', 'boot', 7, 'start');
INSERT INTO attempts (id, task_uuid, project, task_type, model, delivery, results, at_us, day, upper, expected,
  estimate, tags, host, owner_id, status, held, charged, seen)
  VALUES (1, 'an-old-task', 'acme', 'textInference', 'm', 'sync', 1, 1795348800000000, '2026-11-22', 100, 100,
  '{}', '{}', '', 1, 'unresolved', 100, 0, 0);
INSERT INTO entries (at_us, attempt_id, kind, held, spent) VALUES (1795348800000000, 1, 'hold', 100, 0);
"""
"""What schema 2 keeps of one open attempt."""


BEFORE_7 = """
UPDATE meta SET value = '1' WHERE key = 'days_since';
INSERT INTO days VALUES ('2026-11-22', 1795305600000000, 1795392000000000, 'UTC');
INSERT INTO budget_changes (at_us, change, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms)
  VALUES (1795348800000000, 'set', '/', 'month', 1000, 'UTC', 'block', '[]', 16, 0),
         (1795348800000000, 'set', 'acme', 'task', 500, 'UTC', 'block', '[]', 16, 0);
INSERT INTO budgets (id, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms)
  VALUES (1, '/', 'month', 1000, 'UTC', 'block', '[]', 16, 0), (2, 'acme', 'task', 500, 'UTC', 'block', '[]', 16, 0);
INSERT INTO balances VALUES (1, 1793491200000000, 1796083200000000, 90, 110);
INSERT INTO attempts (id, task_uuid, project, task_type, model, delivery, results, at_us, day, upper, expected,
  estimate, tags, host, owner_id, status, held, charged, seen, ended_us)
  VALUES (2, 'a-settled-task', 'acme/search', 'textInference', 'm', 'sync', 1, 1795348800000000, '2026-11-22', 100, 80,
  '{"TEXT": [5, 9], "completion": [7, 7]}', '{}', '', 1, 'settled', 0, 90, 1, 1795348800000000),
  (3, 'a-second-task', 'acme/search', 'textInference', 'm', 'sync', 1, 1795348800000000, '2026-11-22', 10, 10,
  '{}', '{}', '', 1, 'unresolved', 10, 0, 0, 1795348800000000);
INSERT INTO entries (seq, at_us, attempt_id, kind, held, spent) VALUES
  (2, 1795348800000000, 2, 'hold', 100, 0), (4, 1795348800000000, 3, 'hold', 10, 0);
INSERT INTO entries (seq, at_us, attempt_id, kind, held, spent, basis, odd, results, result_key, direct)
  VALUES (3, 1795348800000000, 2, 'charge', -100, 90, 'breakdown', 0, 1, 'i:0', 1);
INSERT INTO holds VALUES (2, 1, '/', 'month', 1793491200000000, 1796083200000000, 1000, 0, 100, 1),
  (2, 2, 'acme', 'task', 0, NULL, 500, 0, 0, 1),
  (3, 1, '/', 'month', 1793491200000000, 1796083200000000, 1000, 90, 100, 1),
  (3, 2, 'acme', 'task', 0, NULL, 500, 0, 0, 1);
INSERT INTO lines VALUES
  (3, 0, 'prompt', 'TEXT', 5, 50), (3, 1, 'completion', '', 7, 42), (3, 2, 'rounding', '', NULL, -2);
INSERT INTO rollups VALUES ('2026-11-22', 'acme/search', 'm', 'prompt', 'TEXT', 'breakdown', 1, 1, 1, 5, 50),
  ('2026-11-22', 'acme/search', 'm', 'completion', '', 'breakdown', 0, 1, 1, 7, 42),
  ('2026-11-22', 'acme/search', 'm', 'rounding', '', 'breakdown', 0, 1, 1, 0, -2);
"""
"""What schema 6 keeps of two more, one of them settled."""


@pytest.fixture(params=["a blank file", "schema 2"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "ledger.db"
    if request.param == "schema 2":
        at_schema(path, 2, monkeypatch, RELEASED)
    yield path
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    connection.close()


def test_what_an_older_schema_holds_is_still_there_and_can_be_settled(path: Path) -> None:
    ledger = open_ledger(path)
    for task in ledger.tasks():
        assert (task.task_uuid, task.status, task.held) == ("an-old-task", "unresolved", 100)
        assert ledger.spellings(["an-old-task"]) == {"an-old-task": "an-old-task"}
        ledger.observe(NOW_US, Observation(task.task_uuid, (("", a_charge(30)),)))
        assert [(one.charged, one.held) for one in ledger.tasks()] == [(30, 0)]
    assert verified(ledger)
    ledger.close()


def test_a_task_is_known_by_one_name_and_asked_for_as_its_caller_wrote_it(path: Path) -> None:
    ledger = open_ledger(path)
    plain, shouted = an_attempt(7, task_uuid="plain"), an_attempt(7, task_uuid=LOWER)._replace(spelling=UPPER)
    assert isinstance(ledger.admit("a", NOW_US, [plain, shouted]), Admitted)
    assert [attempt.spelling for attempt in ledger.attempts(LOWER)] == [UPPER]
    assert ledger.spellings(["plain", LOWER, "unheard of"]) == {"plain": "plain", LOWER: UPPER}
    assert ledger.spellings([]) == {}
    assert {attempt.task_uuid: attempt.spelling for attempt in ledger.open_attempts("a")} == {
        "plain": None,
        LOWER: UPPER,
    }
    assert verified(ledger)
    ledger.close()


def test_a_task_sent_again_in_another_spelling_is_asked_for_in_the_newest(path: Path) -> None:
    ledger = open_ledger(path)
    for spelling in (UPPER, None):
        ledger.admit("a", NOW_US, [an_attempt(7, task_uuid=LOWER)._replace(spelling=spelling)])
    assert ledger.spellings([LOWER]) == {LOWER: LOWER}
    ledger.close()


BUDGETED = """
INSERT INTO budgets VALUES (1, 'acme', 'month', 1000, 'Asia/Almaty', 'block', '[50]', 1, 0);
INSERT INTO budget_changes (at_us, change, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms)
  VALUES (1795348800000000, 'set', 'acme', 'month', 1000, 'Asia/Almaty', 'block', '[50]', 1, 0);
INSERT INTO balances VALUES (1, 1793473200000000, 0, 100);
INSERT INTO holds VALUES (1, 1, 'acme', 'month', 1793473200000000, 1796065200000000, 1000, 0, 0, 1);
"""
"""And what schema 3 keeps of a budget that it was admitted under."""


def test_balances_of_an_older_schema_begin_anew_with_what_their_windows_contain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        schema.migrate(connection)
    connection.executescript(RELEASED + BUDGETED)
    connection.close()
    ledger = open_ledger(path)
    assert verified(ledger)
    assert [(one.spent, one.held) for one in ledger.balances(NOW_US)] == [(0, 100)]
    assert isinstance(ledger.admit("acme", NOW_US, [an_attempt(901)]), Refused)
    assert isinstance(ledger.admit("acme", NOW_US, [an_attempt(900)]), Admitted)
    assert [change.who for change in ledger.changes()] == [None]
    assert verified(ledger)
    ledger.close()


def test_days_that_were_booked_before_they_were_kept_must_be_near_their_admission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        schema.migrate(connection)
    connection.executescript(RELEASED)
    connection.close()
    ledger = open_ledger(path)
    with sqlite3.connect(path) as connection:
        for day, fits in (("2026-11-23", True), ("2026-11-24", False), ("2026-11-20", False), ("2026-11-21", True)):
            connection.execute("UPDATE attempts SET day = ?", (day,))
            connection.commit()
            assert ledger.verify().ok is fits
    connection.close()
    ledger.close()


FIRST_CALL = """
import sys
import httpx
from costguard import Guard
from costguard.testing import StandIn
with (
    Guard(sys.argv[1], durability="normal") as guard,
    httpx.Client(base_url="https://api.runware.ai", transport=StandIn().transport()) as client,
):
    guard.set_budget("/", "1")
    task = {"taskType": "textInference", "model": "google:gemini@3-flash", "settings": {"maxTokens": 9}}
    guard.wrap(client).post("/v1", json=[{**task, "messages": [{"role": "user", "content": "Hello"}]}])
    assert guard.verify().ok
    assert guard.ledger.balances(guard.now_us())[0].spent > 0
print(*sorted({"sqlite_utils", "numpy"} & set(sys.modules)))
"""


def heavy(path: Path) -> str:
    """What of the heavy libraries a program has imported after a first call under the ledger at `path`."""
    command = [sys.executable, "-c", FIRST_CALL, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_what_runs_migrations_is_imported_only_where_there_are_some_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, older = tmp_path / "ledger.db", tmp_path / "older.db"
    connection = sqlite3.connect(older, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:-1])
        schema.migrate(connection)
    connection.close()
    for each in (path, older):
        assert "sqlite_utils" in heavy(each)  # which imports numpy where that is installed
        assert heavy(each) == ""


def at_schema(path: Path, number: int, monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:number])
        schema.migrate(connection)
    for script in scripts:
        connection.executescript(script)
    connection.close()


def test_charges_admissions_and_reports_are_the_same_after_lines_moved_into_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    at_schema(path, 6, monkeypatch, RELEASED, BEFORE_7)
    ledger = open_ledger(path)
    assert [row[:4] for row in ledger.usage(("modality",), "2026-11-01", "2026-12-01")] == [
        (("completion", ""), 1, 7, 42), (("prompt", "TEXT"), 1, 5, 50), (("rounding", ""), 1, 0, -2),
    ]  # fmt: skip
    assert [row[:4] for row in ledger.usage((), "2026-11-01", "2026-12-01")] == [((), 1, 12, 90)]
    assert [(one.what, one.expected, one.billed) for one in ledger.estimates("2026-11-01", "2026-12-01")] == [
        ("TEXT", 5, 5), ("completion", 7, 7), ("cost", 80, 90),
    ]  # fmt: skip
    assert verified(ledger)
    ledger.roll_up()
    assert [row[:4] for row in ledger.usage((), "2026-11-01", "2026-12-01")] == [((), 1, 12, 90)]
    assert isinstance(
        ledger.admit("acme/search", NOW_US, [an_attempt(7, task_uuid="a-settled-task")._replace(model="m")]), Admitted
    )
    ledger.observe(NOW_US, Observation("a-settled-task", (("i:1", a_charge(3)),)))
    (whole,) = ledger.usage((), "2026-11-01", "2026-12-01")
    assert (whole.tasks, whole.nanos) == (1, 93)
    assert verified(ledger)
    ledger.close()


TAKEN_BACK = """
INSERT INTO entries (seq, at_us, attempt_id, kind, held, spent, basis, computed_nanos, reasoning_tokens, odd, results,
  result_key, direct, replaces) VALUES
  (5, 1795348800000000, 3, 'charge', -10, 7, 'computed', 7, 4, 0, 1, '', 1, NULL),
  (6, 1795348800000000, 3, 'charge', 0, -7, 'computed', NULL, NULL, 0, -1, NULL, 0, 5),
  (7, 1795348800000000, 3, 'charge', 0, 6, 'cost', 7, 4, 0, 1, '', 1, NULL);
INSERT INTO lines VALUES
  (5, 0, 'completion', '', 4, 7), (6, 0, 'completion', '', -4, -7), (7, 0, 'completion', '', 4, 6);
INSERT INTO rollups VALUES ('2026-11-22', 'acme/search', 'm', 'completion', '', 'computed', 1, 1, 0, 0, 0),
  ('2026-11-22', 'acme/search', 'm', 'completion', '', 'cost', 0, 0, 1, 4, 6);
UPDATE attempts SET held = 0, charged = 6, seen = 1, status = 'settled' WHERE id = 3;
UPDATE balances SET spent = spent + 6, held = held - 10;
"""
"""Schema 6 took a charge back without the figures that are no lines."""


def test_figures_of_a_charge_that_was_taken_back_are_not_counted_twice_after_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    at_schema(path, 6, monkeypatch, RELEASED, BEFORE_7, TAKEN_BACK)
    ledger = open_ledger(path)
    for _ in range(2):
        (whole,) = ledger.usage((), "2026-11-01", "2026-12-01")
        assert (whole.nanos, whole.reasoning, whole.priced, whole.computed) == (96, 4, 6, 7)
        assert verified(ledger)
        ledger.roll_up()
    ledger.close()
