"""Whatever happens to the ledger and to the program, and when: what was billed is in the ledger, once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, a_task
from hypothesis import given, settings
from hypothesis import strategies as st
from spools import KilledError, Weather, kill, look, spool_files, weather

from costguard import BudgetExceeded, Guard
from costguard.testing import StandIn

FAULTS = (None, None, None, "cost_only", "drop_before", "drop_after", "status:500", "error_entry", "cut")

EVENTS = st.one_of(
    st.tuples(st.just("call"), st.sampled_from(FAULTS), st.integers(1, 2)),
    st.sampled_from([("away",), ("back",), ("lost",), ("look",), ("open",)]),
    st.tuples(st.just("kill"), st.integers(0, 6), st.booleans()),
)


class World:
    """A program that is started anew whenever it is killed, over one ledger and one bill."""

    def __init__(self, folder: Path, sky: Weather) -> None:
        self.folder = folder
        self.sky = sky
        self.standin = StandIn()
        self.posted: set[str] = set()
        self.answered: set[str] = set()
        self.refused: set[str] = set()
        self.guard = self.open()
        self.guard.set_budget("/", "0.004", per="total", warn_at=(10, 50))
        self.guard.set_budget("acme/*", "1", per="day")

    def open(self) -> Guard:
        return Guard(self.folder / "costguard.db", "acme/search", durability="normal", on_ledger_error="allow")

    def run(self, do: Callable[[], object]) -> None:
        with suppress(KilledError, httpx.HTTPError, BudgetExceeded):
            do()
        if self.sky.dead:
            kill(self.guard)
            self.sky.dead, self.sky.left = False, None
            self.guard = self.open()

    def call(self, fault: str | None, tasks: int) -> None:
        if fault is not None:
            self.standin.fault(fault)
        posted = [a_task() for _ in range(tasks)]
        self.posted.update(task["taskUUID"] for task in posted)
        with httpx.Client(base_url=API, transport=self.guard.transport(self.standin.transport())) as client:
            response = client.post("/v1", json=posted)
        if response.status_code == 200 and response.content.endswith(b"}"):  # not one that was cut
            told = response.json()
            self.answered.update(item["taskUUID"] for item in told.get("data", []))
            self.refused.update(item["taskUUID"] for item in told.get("errors", []))

    def another(self) -> None:
        with self.open():
            pass

    def happen(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("call", fault, tasks):
                self.run(lambda: self.call(fault, tasks))
            case ("away" | "back" | "lost" as name,):
                self.sky.away, self.sky.lost = name == "away", name == "lost"
            case ("look",):
                self.run(lambda: look(self.guard))
            case ("open",):
                if self.sky.left is None:  # it is this program that is to be killed
                    self.run(self.another)
            case ("kill", left, after):
                self.sky.left, self.sky.after = left, after

    def end(self) -> None:
        """Fair weather: the program ends well, and another one writes what others left."""
        self.sky.away = self.sky.lost = False
        self.sky.left = None
        self.guard.close()
        self.guard = self.open()


@settings(max_examples=150)
@given(events=st.lists(EVENTS, min_size=3, max_size=24))
def test_the_ledger_has_the_bill_once_whatever_goes_away_or_is_killed_and_when(events: list[tuple[Any, ...]]) -> None:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSTGUARD_SPOOL", f"{folder}/spool")
        sky = stack.enter_context(weather())
        world = World(Path(folder), sky)
        for event in events:
            world.happen(event)
        world.end()
        guard, standin = world.guard, world.standin
        assert spool_files(Path(folder, "spool")) == []
        assert guard.verify().difference is None
        rows = {row.task_uuid: row for row in guard.ledger.tasks()}
        billed = {bill.task_uuid for bill in standin.bill}
        assert billed <= rows.keys() <= world.posted
        for uuid, row in rows.items():
            assert row.attempts == 1, "held once"
            bill = standin.billed(uuid) * 10**9
            assert row.charged in (0, bill), "charged once, or not yet"
            assert row.charged + row.held >= bill, "nothing is lost"
            if uuid in world.answered:
                assert (row.status, Decimal(row.charged), row.held) == ("settled", bill, 0)
            elif uuid in world.refused:
                assert (row.status, row.charged, row.held) == ("released", 0, 0)
        guard.close()
