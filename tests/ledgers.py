"""What the ledger's tests share: ledgers, attempts and charges, without a guard or a client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elsewhere import Elsewhere, Files

from costguard.budgets import to_us
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Basis, Charge, Line
from costguard.ledger.engines import open_engine
from costguard.ledger.records import Admitted, NewAttempt, Observation, Release, Settle

NOW_US = to_us(datetime(2026, 11, 22, 12, tzinfo=UTC))
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


elsewhere: Elsewhere = Files()
"""Where the ledgers are; set by the fixture `each_engine`."""


def open_ledger(path: Path | str, *, timezone: str | None = None, now_us: int = NOW_US) -> Ledger:
    """A ledger that survives the kill of its process, and never waits for the disk; `path` may be a URL."""
    engine = open_engine(elsewhere.place(path) if isinstance(path, Path) else path, durability="normal")
    return Ledger(engine, timezone=timezone, now_us=lambda: now_us)


def an_attempt(
    upper: int | None,
    *,
    task_uuid: str | None = None,
    model: str = "google:gemini@3-flash",
    results: int = 1,
    ceiling_names: tuple[str, ...] = (),
) -> NewAttempt:
    """A task that may cost `upper` nano-dollars."""
    return NewAttempt(
        task_uuid=task_uuid or str(uuid.uuid4()),
        task_type="textInference",
        model=model,
        delivery="sync",
        results=results,
        upper=upper,
        expected=upper,
        price_id=None,
        estimate="{}",
        tags="{}",
        ceiling_names=ceiling_names,
        unpriced=None if upper is not None else "no price",
    )


def a_charge(nanos: int, *, results: int = 1, lines: tuple[Line, ...] | None = None) -> Charge:
    """A charge of `nanos`, by default on two lines."""
    if lines is None:
        lines = (Line("prompt", "TEXT", 10, nanos // 3), Line("completion", "", 20, nanos - nanos // 3))
    return Charge(
        nanos=nanos,
        basis="breakdown",
        lines=lines,
        cost_nanos=nanos,
        total_nanos=nanos,
        computed_nanos=None,
        price_id=None,
        prompt_tokens=10,
        completion_tokens=20,
        reasoning_tokens=None,
        cached_tokens=None,
        cache_reading=None,
        odd=False,
        notes=(),
        raw=None,
        results=results,
    )


def told(
    cost: int | None = None,
    total: int | None = None,
    prompt: int | None = None,
    completion: int | None = None,
    *,
    assumed: int = 0,
) -> Charge:
    """What a telling with these figures (nano-dollars, tokens) is charged: its total, its cost, or what is assumed."""
    nanos = assumed if total is cost is None else total if total is not None else cost
    assert nanos is not None
    basis: Basis = "assumed" if total is cost is None else "cost" if total is None else "breakdown"
    lines = (Line("prompt", "TEXT", prompt, nanos),) if total is not None else (Line("unitemized", "", None, nanos),)
    return a_charge(nanos, lines=lines)._replace(
        basis=basis, cost_nanos=cost, total_nanos=total, prompt_tokens=prompt, completion_tokens=completion
    )


def hold(
    ledger: Ledger, *uppers: int | None, project: str = "acme/search", at_us: int = NOW_US, enforce: bool = True
) -> list[int]:
    """Hold attempts in one admission, which must not be refused; their ids."""
    admitted = ledger.admit(project, at_us, [an_attempt(upper) for upper in uppers], enforce=enforce)
    assert isinstance(admitted, Admitted), admitted
    return list(admitted.attempt_ids)


def balance(ledger: Ledger, project: str = "/", per: str = "total", at_us: int = NOW_US) -> tuple[int, int]:
    """(spent, held) of one budget's window, in nano-dollars."""
    (found,) = [b for b in ledger.balances(at_us) if (b.budget.project, b.budget.per) == (project, per)]
    return found.spent, found.held


def work(ledger: Ledger, calls: int, start: int = 0) -> None:
    """So many calls, some sent twice, answered by two roads, corrected or released."""
    for n in range(start, start + calls):
        task_uuid = str(uuid.UUID(int=n // 3 if n % 5 == 0 else n))
        at_us = NOW_US + n * 7 * MINUTE_US
        attempt = an_attempt(1000, task_uuid=task_uuid)._replace(model=f"m{n % 2}")
        admitted = ledger.admit(f"acme/{n % 3}", at_us, [attempt])
        assert isinstance(admitted, Admitted)
        (attempt_id,) = admitted.attempt_ids
        lines = (Line("prompt", "TEXT", 5, n), Line("completion", "", n % 4, 7))
        if n % 7 == 0:
            ledger.conclude(at_us, [Release(attempt_id, "refused")])
        elif n % 11 == 0:
            ledger.correct(at_us, task_uuid, 3, "told by telephone")
        else:
            charge = a_charge(n + 7, lines=lines)
            ledger.conclude(at_us, [Settle(attempt_id, charge, f"i:{n}")])
        if n % 13 == 0:
            ledger.observe(at_us, Observation(task_uuid, ((f"i:{n} s:9", a_charge(n + 8)),)))


def place(path: Path) -> Path | str:
    """What another process opens the ledger at `path` by; it has no fixtures."""
    return elsewhere.place(path)


def keep(path: Path) -> None:
    """Whoever uses the ledger at `path` is to be killed: what is on its way then comes to no other ledger."""
    elsewhere.keep(path)


def damage(path: Path, statement: str) -> None:
    """Change rows of the ledger at `path` as nobody may, past the guards of its tables."""
    elsewhere.damage(path, statement)


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query of the ledger at `path` gives, past the library."""
    return elsewhere.rows(path, sql)


def tables(path: Path) -> set[str]:
    """The tables of the ledger at `path`."""
    return {str(name) for (name,) in rows(path, elsewhere.tables)}


def verified(ledger: Ledger) -> bool:
    """Every promise holds; fails by naming the first that does not."""
    difference = ledger.verify().difference
    assert difference is None, difference
    return True


def python(code: str, *args: object, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A fresh interpreter that runs `code` (under another command), with the tests' modules and pipes at hand."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}
    return subprocess.Popen(
        [*under, sys.executable, "-c", code, *map(str, args)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> str:
    """What a process wrote, once it has ended well."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    """`kill -9`, then wait until they are gone and their pipes closed."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=60)
