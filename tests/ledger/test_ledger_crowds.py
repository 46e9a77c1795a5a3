"""Many processes of many threads on one ledger, on many budgets at a time: no limit is passed, no nano-dollar lost."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import ledgers
import pytest
from ledgers import DAY_US, NOW_US, an_attempt, keep, kill, open_ledger, outcome, place, python, verified

from costguard.budgets import make_budget
from costguard.ledger.accounting import rolling
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Admitted
from costguard.money import to_usd

pytestmark = pytest.mark.usefixtures("each_engine")

BEGIN = r"""
import contextvars, os, random, sys, threading
from ledgers import *
from costguard.ledger.accounting import rolling
from costguard.ledger.engine import attempt
from costguard.ledger.records import Admitted, Doubt, Observation, Refused, Release, Settle

rolling.ROLL_EVERY, rolling.ROLL_MAX = 16, 64
place, seed = sys.argv[1], int(sys.argv[2])
ledger = open_ledger(place)

def fail(thread):
    threading.__excepthook__(thread)
    os._exit(1)

def together(some):
    "What comes of steps that write together, as an event loop's worker hands them in."
    writes = [next(steps) for steps in some]
    outcomes = ledger._engine.write_all([(contextvars.copy_context(), write) for write in writes])
    return [ended_by(steps, outcome) for steps, outcome in zip(some, outcomes)]

def ended_by(steps, outcome):
    try:
        while True:
            write = steps.throw(outcome.error) if outcome.error else steps.send(outcome.value)
            outcome = attempt(lambda: write.engine.write(write.op, beside=write.beside))
    except StopIteration as end:
        return end.value

def say(what):
    os.write(1, f"{what}\n".encode())  # whole, whatever other threads say

def crowd(work):
    threading.excepthook = fail
    threads = [threading.Thread(target=work, args=(random.Random(seed * 100 + n),)) for n in range(4)]
    say("ready")
    sys.stdin.readline()
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    ledger.close()
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a ledger in which every call that may takes a lease, on a server."""
    monkeypatch.setattr(ledgers.elsewhere, "leases", "on", raising=False)
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """One whose roll-ups follow soon."""
    monkeypatch.setattr(rolling, "ROLL_EVERY", 16)
    monkeypatch.setattr(rolling, "ROLL_MAX", 64)
    ledger = open_ledger(path)
    yield ledger
    assert verified(ledger)
    ledger.close()


Crowd = Callable[..., list[subprocess.Popen[str]]]


@pytest.fixture
def crowd(path: Path) -> Iterator[Crowd]:
    """Begins processes that run some code (with its arguments), all at once when all are ready."""
    everyone: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object, count: int = 3) -> list[subprocess.Popen[str]]:
        processes = [python(BEGIN + code, place(path), seed, *arguments) for seed in range(count)]
        everyone.extend(processes)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return processes

    yield begin
    kill([process for process in everyone if process.returncode is None])


# All at once

CALLS = """
PROJECTS = ("acme", "acme/a", "acme/b", "lab/x", "lab/y", "other")
rounds = int(sys.argv[3])
charged, freed, asked = [], [], []

def ended(chance, attempt_id, upper):
    what = chance.choice(("settle", "settle", "settle", "release", "doubt"))
    if what == "doubt":
        return Doubt(attempt_id, "timed out")
    freed.append(upper)
    if what == "release":
        return Release(attempt_id, "refused")
    cost = chance.randrange(upper + 1)
    charged.append(cost)
    return Settle(attempt_id, a_charge(cost), "0")

def work(chance):
    for n in range(rounds):
        at_us = NOW_US + n // 4 * DAY_US
        calls = [
            (chance.choice(PROJECTS), [chance.randrange(1, 1000) for _ in range(chance.randrange(1, 4))])
            for _ in range(chance.choice((1, 1, 3)))
        ]
        answers = together(
            [ledger.admission(project, at_us, [an_attempt(upper) for upper in uppers]) for project, uppers in calls]
        )
        for (_, uppers), answer in zip(calls, answers):
            if isinstance(answer, Admitted):
                asked.extend(uppers)
                ends = [ended(chance, *one) for one in zip(answer.attempt_ids, uppers)]
                chance.shuffle(ends)
                ledger.conclude(at_us, ends)
                say("ended")

crowd(work)
say(f"sums {sum(charged)} {sum(asked) - sum(freed)}")
"""

LIMITS = {
    ("/", "total"): 300_000, ("acme", "day"): 9_000, ("acme", "month"): 100_000, ("acme/a", "total"): 50_000,
    ("acme/b", "week"): 20_000, ("lab/*", "day"): 6_000, ("other", "task"): 900,
}  # fmt: skip
"""Nano-dollars, of which some are used up: a task's worst case is below 1000."""


def limit(ledger: Ledger, times: int = 1) -> None:
    for (project, per), nanos in LIMITS.items():
        ledger.set_budget(make_budget(project, to_usd(nanos * times), per=per, warn_at=(50, 90)), NOW_US)


def test_a_crowd_on_many_paths_and_days_keeps_every_promise_while_limits_change(ledger: Ledger, crowd: Crowd) -> None:
    limit(ledger)
    processes = crowd(CALLS, 16)
    times = 1
    while any(process.poll() is None for process in processes):
        times = 3 - times
        limit(ledger, times)
        assert verified(ledger)
        ledger.roll_up()
    sums = [list(map(int, outcome(process).splitlines()[-1].split()[1:])) for process in processes]
    charged, held = (sum(column) for column in zip(*sums, strict=True))
    (whole,) = [found for found in ledger.balances(NOW_US) if found.budget.project == "/"]
    assert (whole.spent, whole.held) == (charged, held)
    tasks = ledger.tasks()
    assert (sum(task.charged for task in tasks), sum(task.held for task in tasks)) == (charged, held)
    (used,) = ledger.usage((), "2026-01-01", "2028-01-01")
    assert used.nanos == charged > 0


def test_processes_killed_in_the_midst_leave_whole_calls_and_the_others_go_on(
    path: Path, ledger: Ledger, crowd: Crowd
) -> None:
    keep(path)
    limit(ledger)
    victims = crowd(CALLS, 1000, count=2)
    survivors = crowd(CALLS, 6, count=2)
    for victim in victims:
        assert victim.stdout is not None
        for _ in range(20):
            assert victim.stdout.readline() == "ended\n"
    kill(victims)
    for survivor in survivors:
        outcome(survivor)
    assert verified(ledger)
    assert len(ledger.tasks()) > 40
    limit(ledger, 99)
    assert isinstance(ledger.admit("other", NOW_US, [an_attempt(1)]), Admitted)


# A day that begins

FIRST = """
def work(chance):
    for day in range(6):
        for project in chance.sample(("acme/a", "acme/b", "acme"), 3) * 2:
            answer = ledger.admit(project, NOW_US + day * DAY_US, [an_attempt(10)])
            if isinstance(answer, Admitted):
                say(f"admitted {day}")

crowd(work)
"""


def test_a_day_that_many_begin_at_once_has_one_balance_and_its_limit_is_used_up(ledger: Ledger, crowd: Crowd) -> None:
    for project, nanos in (("acme", 200), ("acme/*", 90), ("/", 205)):
        ledger.set_budget(make_budget(project, to_usd(nanos), per="day"), NOW_US - DAY_US)
    admitted: Counter[str] = Counter()
    for process in crowd(FIRST):
        admitted.update(outcome(process).splitlines())
    assert admitted == {f"admitted {day}": 20 for day in range(6)}
    for day in range(6):
        held = {str(found.budget): found.held for found in ledger.balances(NOW_US + day * DAY_US)}
        assert held["acme per day"] == 200
        assert max(held["acme/a per day"], held["acme/b per day"]) <= 90


# One task

SAME = """
def work(chance):
    for n in range(6):
        uuid = f"task {n}"
        ways = [
            lambda: ledger.observe(NOW_US, Observation(uuid, (("s:7", told(total=7_000, prompt=10)),))),
            lambda: ledger.observe(NOW_US, Observation(uuid, (("i:0 s:7", told(cost=10_000)),))),
            lambda: ledger.conclude(NOW_US, [Settle(ledger.attempts(uuid)[0].id, told(10_000, 7_000), "i:0 s:7")]),
        ]
        chance.shuffle(ways)
        for way in ways:
            way()

crowd(work)
"""


def test_one_result_told_by_many_at_once_is_charged_once(ledger: Ledger, crowd: Crowd) -> None:
    ledger.set_budget(make_budget("acme", "1", per="total", warn_at=(1,)), NOW_US)
    for n in range(6):
        assert isinstance(ledger.admit("acme", NOW_US, [an_attempt(1000, task_uuid=f"task {n}")]), Admitted)
    for process in crowd(SAME):
        outcome(process)
    assert [(task.charged, task.held, task.status) for task in ledger.tasks()] == [(7_000, 0, "settled")] * 6
