"""Programs that go on without their ledger: killed, forked, sent to another process, and met by the command line."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from conftest import API, a_task, audit
from ledgers import kill as kill_9
from ledgers import outcome, python
from spools import spool_files, weather

from costguard import Guard
from costguard.cli import main
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]

PROGRAM = """
import logging, os, sys, uuid
import httpx
from costguard import Guard

logging.disable()
bill = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def answer(request):
    (task,) = __import__("json").loads(request.content)
    amount = 1000 + int(task["taskUUID"][:4], 16)
    os.write(bill, f"{task['taskUUID']} {amount}\\n".encode())
    item = {"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "x", "cost": f"{amount / 10**8:.8f}"}
    return httpx.Response(200, json={"data": [item]})

guard = Guard(sys.argv[1], "acme", durability="normal", on_ledger_error="allow", ledger_wait=0)
client = httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(httpx.MockTransport(answer)))
print("ready", flush=True)
while True:
    name = str(uuid.uuid4())
    message = {"role": "user", "content": "x"}
    task = {"taskType": "textInference", "model": "google:gemini@3-flash", "taskUUID": name, "messages": [message]}
    client.post("/v1", json=[{**task, "settings": {"maxTokens": 20}}])
    print(name, flush=True)
"""
"""Calls without end; each is billed in a file before it is answered."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSTGUARD_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


def line(program: subprocess.Popen[str]) -> str:
    """The next line that a program writes."""
    assert program.stdout is not None
    found = program.stdout.readline().strip()
    assert found, program.communicate()[1]
    return found


def keep(ledger: Path) -> int:
    """Take the ledger's lock, as a program does that is stopped; `os.close` gives it back."""
    fd = os.open(f"{ledger}-lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_whenever_a_program_is_killed_another_one_tells_what_it_left(
    ledger: Path, tmp_path: Path, folder: Path
) -> None:
    answered: set[str] = set()
    with Guard(ledger, durability="normal") as guard:
        guard.set_budget("acme", 100, per="total")
    for calls_before, calls_away, calls_after in ((3, 9, 0), (0, 4, 0), (2, 5, 30), (0, 1, 1)):
        program = python(PROGRAM, ledger, tmp_path / "bill")
        assert line(program) == "ready"
        answered |= {line(program) for _ in range(calls_before)}
        lock = keep(ledger)
        answered |= {line(program) for _ in range(calls_away)}
        os.close(lock)
        answered |= {line(program) for _ in range(calls_after)}
        kill_9([program])
    assert spool_files(folder)
    with Guard(ledger, durability="normal") as guard:
        assert spool_files(folder) == []
        audit(guard)
        rows = {row.task_uuid: row for row in guard.ledger.tasks()}
        billed = {
            name: int(amount) * 10 for name, amount in map(str.split, (tmp_path / "bill").read_text().splitlines())
        }
        assert answered <= billed.keys() <= rows.keys()
        for name, row in rows.items():
            assert row.attempts == 1
            if name in answered:
                assert (row.status, row.charged) == ("settled", billed[name])
            else:
                assert row.charged + row.held >= billed.get(name, 0)
                assert row.status in ("settled", "unresolved"), "nobody is at it any more"
        (budget,) = guard.status()
        assert budget.spent * 10**9 == sum(row.charged for row in rows.values())
        assert budget.held * 10**9 == sum(row.held for row in rows.values())


def test_what_a_dead_program_did_not_hear_the_end_of_stays_held(ledger: Path, folder: Path) -> None:
    program = python(
        PROGRAM.replace("os.write(bill", "print('sent', flush=True); sys.stdin.readline(); os.write(bill"),
        ledger,
        folder.parent / "bill",
    )
    assert line(program) == "ready"
    lock = keep(ledger)
    assert line(program) == "sent"
    kill_9([program])
    os.close(lock)
    with Guard(ledger) as guard:
        (row,) = guard.ledger.tasks()
        assert (row.status, row.held) == ("unresolved", row.upper)
        assert row.reason == "the program that sent it ended before its outcome was written"
        audit(guard)


def test_a_forks_child_goes_on_by_itself_and_its_parents_file_is_its_parents(ledger: Path, folder: Path) -> None:
    told = outcome(
        python(
            PROGRAM.partition("print(")[0]
            + """
import fcntl
from costguard.exchange import outage
def call():
    task = {"taskType": "textInference", "taskUUID": str(uuid.uuid4()), "messages": []}
    client.post("/v1", json=[{**task, "model": "google:gemini@3-flash"}])
outage.PAUSE_S = (3600.0, 3600.0)
lock = os.open(sys.argv[1] + "-lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
call()
child = os.fork()
call()
if child == 0:
    print(guard.degraded.records, len(os.listdir(guard._spool_folder)), flush=True)
    os.kill(os.getpid(), 9)
os.waitpid(child, 0)
fcntl.flock(lock, fcntl.LOCK_UN)
guard.close()
""",
            ledger,
            folder.parent / "bill",
        )
    )
    assert told.split()[1] == "2"
    assert spool_files(folder) == [], "the parent told its own, and its child's"
    with Guard(ledger) as guard:
        assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 3
        audit(guard)


def test_a_guard_that_travels_takes_its_settings_along(ledger: Path) -> None:
    guard = Guard(ledger, on_ledger_error="allow", ledger_wait="3s")
    packed = pickle.dumps(guard)
    guard.close()
    with pickle.loads(packed) as anew:
        assert (anew._allows, anew._wait_s) == (True, 3)


# --- the command line --------------------------------------------------------------------------------------------


def degrade(guard: Guard) -> None:
    """Two calls go on without the ledger."""
    with httpx.Client(base_url=API, transport=guard.transport(StandIn().transport())) as client:
        for _ in range(2):
            client.post("/v1", json=[a_task()])


def test_status_says_what_the_ledger_is_yet_to_be_told_and_writing_commands_tell_it(
    make_guard: MakeGuard, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: str, code: int = 0) -> Any:
        result = CliRunner().invoke(main, ["--db", str(ledger), *args])
        assert result.exit_code == code, result.output
        return result

    def told() -> Any:
        return json.loads(run("status", "--format", "json").stdout)

    with weather() as sky:
        guard = make_guard(on_ledger_error="allow")
        guard.set_budget("acme", 1)
        assert told()["degraded"] is None
        sky.away = True
        degrade(guard)
        sky.away = False
        found = told()
        assert (found["budgets"][0]["spent"], found["degraded"]["records"]) == ("0.00", 4)
        upper = guard.estimate(a_task()).upper
        assert upper is not None
        assert Decimal(found["degraded"]["upper"]) == 2 * upper
        line = "Degraded since 2026-11-22 12:00 UTC: programs on this host went on without the ledger."
        shown = run("status").stdout
        assert line in " ".join(shown.split())
        assert "acme" in shown

        ledger.rename(ledger.with_suffix(".gone"))
        failed = run("status", "--format", "json", code=1)
        assert json.loads(failed.stdout) == {
            "schema": 1,
            "budgets": None,
            "defaults": None,
            "degraded": found["degraded"],
        }
        assert failed.stderr.startswith("Error: no ledger at")
        assert "Budgets: unknown" in run("status", code=1).stdout
        ledger.with_suffix(".gone").rename(ledger)

        run("budget", "set", "acme", "2")
        assert told()["degraded"] is not None, "its program runs, and will tell it"
        sky.away = True
        guard.close()
        sky.away = False
        assert told()["degraded"] is not None, "reading tells nothing"
        run("budget", "set", "acme", "3")
        assert told()["degraded"] is None
        assert told()["budgets"][0]["spent"] != "0.00"
