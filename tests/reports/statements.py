"""What the tests of statements share: a ledger of three months, and what it was charged, counted another way."""

from __future__ import annotations

import json
import random
import sqlite3
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from ledgers import a_charge, an_attempt, open_ledger

from costguard.budgets import make_budget, to_us
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Line
from costguard.ledger.records import Admitted, Observation, Refused, Release, Settle, Unpriced

ZONE = "Europe/Berlin"
PROJECTS = ("acme/search/prod", "acme/search", "acme/chat", "acme", "kunde/müller & söhne", "=1+1", "/", "acme2")
MODELS = ("google:gemini@3-flash", "google:gemini@3.1-pro")
TAGS = ("{}", *(json.dumps({"user": user, "team": team}) for user in ("u1", "u_1", 'ü"%') for team in ("a", "b")))
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOW_US = to_us(NOW)


class Charged(NamedTuple):
    """What an attempt was charged, in nano-USD."""

    at_us: int
    project: str
    tags: dict[str, str]
    nanos: int

    def day(self, zone: str) -> date:
        """The local day by arithmetic of the standard library alone."""
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.at_us)).astimezone(ZoneInfo(zone)).date()


def make_ledger(path: Path, calls: int = 240) -> Ledger:
    """Calls from September on: some open, corrected, released, sent twice or billed anew, with odd sums and tags."""
    ledger = open_ledger(path, timezone=ZONE, now_us=NOW_US)
    chance = random.Random(11)
    start = to_us(datetime(2026, 9, 3, tzinfo=UTC))
    for n in range(calls):
        at_us = start + (NOW_US - start) * n // calls
        project, tags = chance.choice(PROJECTS), chance.choice(TAGS)
        uuid = str(UUID(int=n // 2 if n % 17 == 0 else n))
        attempt = an_attempt(10**9, task_uuid=uuid)._replace(
            model=chance.choice(MODELS), tags=tags, task_type=chance.choice(["textInference", "imageInference"])
        )
        admitted = ledger.admit(project, at_us, [attempt])
        assert isinstance(admitted, Admitted)
        (attempt_id,) = admitted.attempt_ids
        if n % 11 == 0:
            continue
        if n % 13 == 0:
            ledger.conclude(at_us, [Release(attempt_id, "refused")])
            continue
        nanos = chance.randrange(1, 40_000_000)
        if n % 23 == 0:
            ledger.correct(at_us, uuid, nanos, "told by telephone")
            continue
        odd = chance.randrange(-3, 4)
        lines = (
            Line("prompt", "TEXT", 10, nanos // 3), Line("prompt", "IMAGE", 5, nanos // 7),
            Line("completion", "", 20, nanos - nanos // 3 - nanos // 7 - odd), Line("rounding", "", None, odd),
        )  # fmt: skip
        charge = a_charge(nanos, lines=lines)._replace(
            reasoning_tokens=7,
            computed_nanos=nanos - odd if n % 3 else None,
            basis=chance.choice(["breakdown", "cost"]),
        )
        ledger.conclude(at_us, [Settle(attempt_id, charge, f"i:{n}")])
        if n % 19 == 0:
            ledger.observe(at_us, Observation(uuid, ((f"i:{n} s:9", a_charge(nanos + 8)),)))
    budget = make_budget("acme", "3", timezone=ZONE)
    ledger.set_budget(budget, NOW_US)
    for n in range(40):
        upper = None if n % 5 == 0 else chance.randrange(1, 40_000_000)
        task = an_attempt(upper)._replace(model=chance.choice(MODELS), expected=upper and upper // 3)
        why = Unpriced(task, budget) if upper is None else Refused(budget, None, upper, 0, 0, 0)
        ledger.count_refusal(why, chance.choice(PROJECTS), start + (NOW_US - start) * n // 40, [task])
    return ledger


def charged(ledger: Ledger) -> list[Charged]:
    """Every attempt as its own row says, without a roll-up."""
    with sqlite3.connect(ledger._engine.path) as connection:  # type: ignore[attr-defined]
        rows = connection.execute("SELECT at_us, project, tags, charged FROM attempts").fetchall()
    connection.close()
    return [Charged(at_us, project, json.loads(tags), nanos) for at_us, project, tags, nanos in rows]
