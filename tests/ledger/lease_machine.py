"""Random histories of several programs that take leases, against a model that keeps attempts in a list."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import ledgers
from faults import ALL, AT_COMMIT, FINAL, Fault, Faults
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lease_model import (
    AMOUNTS,
    BUDGETS,
    CALLER,
    CALLERS,
    LIMITS,
    PERIODS,
    PROGRAMS,
    SECOND_US,
    START_US,
    ZONES,
    Attempt,
    Program,
    done,
)
from ledgers import DAY_US, MINUTE_US, a_charge, an_attempt, told

from costguard.budgets import Budget, Window, make_budget, window_at
from costguard.errors import LedgerError
from costguard.ledger.accounting.checkpoint import Checkpoint
from costguard.ledger.accounting.leasing import Lease, Purse
from costguard.ledger.records import Admitted, Alert, Doubt, Ending, Observation, Refused, Release, Settle
from costguard.money import to_usd
from costguard.projects import ancestors, covers, like

T = TypeVar("T")

steps = Counter[str]()
"""What was done, in all examples."""


class LeaseMachine(RuleBasedStateMachine):
    """See the module. What is asked of the ledger must be what the attempts of the model come to, at every step."""

    faults: Faults
    verifies = 8
    """The whole journal is verified at every step of so many."""

    @initialize(limit=st.sampled_from([100_000, 1_000_000]), per=st.sampled_from(PERIODS[:3]))
    def create(self, limit: int, per: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger"
        self.now = START_US
        self.attempts: list[Attempt] = []
        self.budgets: dict[tuple[str, str], Budget] = {}
        self.heard = Counter[tuple[str, str, int, str]]()
        self.is_lost = False
        self.asleep: list[tuple[Program, Lease]] = []
        self.fault: tuple[Fault, int] | None = None
        self.checkpoint = Checkpoint()
        self.count = 0
        url = str(ledgers.place(self.path))
        self.programs = [
            Program(url, leases, lambda skew=skew: self.now + skew, self.hear)  # type: ignore[misc]
            for leases, skew in PROGRAMS
        ]
        self.set_budget(0, "/", per, limit, "UTC", "block")

    def teardown(self) -> None:
        if not hasattr(self, "programs"):
            return
        try:
            for program in self.programs:
                program.ledger.end_leases()
            self.programs[0].ledger.end_leases(self.now + DAY_US)
            assert self.leases() == []
            self.count = 0
            self.everything_agrees()
        finally:
            for program in self.programs:
                program.ledger.close()
            shutil.rmtree(self.folder)

    # -- the model --------------------------------------------------------------------------------

    def inside(self, project: str, window: Window) -> list[Attempt]:
        end_us = window.end_us
        return [
            a
            for a in self.attempts
            if covers(project, a.project) and window.start_us <= a.at_us and (end_us is None or a.at_us < end_us)
        ]

    def leases(self) -> list[tuple[str, int, int]]:
        """Project, time and rest of those that are open."""
        found = ledgers.rows(self.path, "SELECT project, at_us, rest FROM leases WHERE is_open = 1")
        return [(project, at_us, rest) for project, at_us, rest in found]

    def taken(self, budget: Budget, at_us: int, leases: Sequence[tuple[str, int, int]] = ()) -> tuple[int, int]:
        """What is spent and held in a budget's window at `at_us`."""
        window = window_at(budget.per, budget.timezone, at_us)
        inside = self.inside(budget.project, window)
        rests = sum(
            rest
            for project, when, rest in leases
            if covers(budget.project, project)
            and window.start_us <= when
            and (window.end_us is None or when < window.end_us)
        )
        return sum(a.charged for a in inside), sum(a.held for a in inside) + rests

    def covering(self, project: str) -> list[Budget]:
        """Those set on the path, and the defaults of children that have none of their own."""
        found = []
        for one in ancestors(project):
            for per in PERIODS:
                own, default = self.budgets.get((one, per)), self.budgets.get((like(one) or "", per))
                if own is not None:
                    found.append(own)
                elif default is not None:
                    found.append(replace(default, project=one))
        return found

    def unfit(self, project: str, at_us: int, amounts: Sequence[int]) -> list[Budget]:
        """The hard budgets that have no room."""
        found = []
        for budget in self.covering(project):
            taken = 0 if budget.per == "task" else sum(self.taken(budget, at_us))
            requested = max(amounts) if budget.per == "task" else sum(amounts)
            if budget.hard and (budget.limit_nanos == 0 or taken + requested > budget.limit_nanos):
                found.append(budget)
        return found

    def hear(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self.heard[alert.budget.project, alert.budget.per, alert.window.start_us, str(alert.percent)] += 1

    def do(self, op: Callable[[], T], *, beside: bool = True) -> T | None:
        """Run `op`, with the fault that is due; None if it was told to fail, and nothing was done."""
        fault, self.fault = self.fault, None
        if fault is None or (not beside and fault[0] in AT_COMMIT):
            return op()
        self.is_lost |= fault[0] in AT_COMMIT
        steps[fault[0]] += 1
        with self.faults.arm(*fault):
            try:
                return op()
            except LedgerError:
                assert fault[0] in FINAL
                return None

    # -- budgets and time ---------------------------------------------------------------------------

    @precondition(lambda self: self.count % 4 == 0)
    @rule(
        of=st.integers(0, 3), project=st.sampled_from(BUDGETS), per=st.sampled_from(PERIODS), limit=LIMITS,
        zone=st.sampled_from(ZONES), action=st.sampled_from(["block", "block", "warn"]),
    )  # fmt: skip
    def set_budget(self, of: int, project: str, per: str, limit: int, zone: str, action: str) -> None:
        budget = make_budget(project, to_usd(limit), per=per, timezone=zone, action=action, warn_at=[1, 50])
        program = self.programs[of]
        if self.do(lambda: done(program.ledger.set_budget, budget, program.now), beside=False):
            self.budgets[project, per] = budget

    @precondition(lambda self: self.count % 6 == 0 and self.budgets)
    @rule(of=st.integers(0, 3), data=st.data(), remaining=st.integers(-500, 5_000))
    def set_budget_to_what_is_taken(self, of: int, data: st.DataObject, remaining: int) -> None:
        budget = data.draw(st.sampled_from(list(self.budgets.values())))
        if budget.per == "task":
            return
        program = self.programs[of]
        lower = replace(budget, limit_nanos=max(0, sum(self.taken(budget, program.now)) + remaining))
        if self.do(lambda: done(program.ledger.set_budget, lower, program.now), beside=False):
            self.budgets[budget.project, budget.per] = lower

    @precondition(lambda self: self.count % 3 == 0)
    @rule(of=st.integers(0, 3), project=st.sampled_from(BUDGETS), per=st.sampled_from(PERIODS))
    def remove_budget(self, of: int, project: str, per: str) -> None:
        program = self.programs[of]
        if (project, per) not in self.budgets:
            return
        if self.do(lambda: program.ledger.remove_budget(project, per, program.now), beside=False) is not None:
            del self.budgets[project, per]

    @rule(jump=st.sampled_from([1, 1, 2, 4, 6, 11, 60, 86_400]))
    def pass_time(self, jump: int) -> None:
        self.now += jump * SECOND_US

    @rule(fault=st.sampled_from(ALL), statement=st.integers(1, 25))
    def have_a_fault(self, fault: Fault, statement: int) -> None:
        self.fault = fault, statement

    # -- admissions -------------------------------------------------------------------------------

    @rule(of=st.integers(0, 3), project=CALLER, amounts=AMOUNTS, enforce=st.sampled_from([True, True, True, False]))
    def admit(self, of: int, project: str, amounts: list[int], enforce: bool) -> None:
        self.ask(self.programs[of], project, amounts, enforce=enforce)

    @rule(of=st.integers(0, 2), project=CALLER, amounts=AMOUNTS, times=st.integers(2, 5))
    def admit_some(self, of: int, project: str, amounts: list[int], times: int) -> None:
        for _ in range(times):
            self.ask(self.programs[of], project, amounts)

    @rule(project=CALLER, amounts=AMOUNTS)
    def admit_everywhere(self, project: str, amounts: list[int]) -> None:
        for program in self.programs:
            self.ask(program, project, amounts)

    @precondition(lambda self: any(program.leases for program in self.programs))
    @rule(data=st.data(), more=st.integers(-3, 3), parts=st.integers(1, 3))
    def admit_about_what_a_lease_has(self, data: st.DataObject, more: int, parts: int) -> None:
        program = data.draw(st.sampled_from([program for program in self.programs if program.leases]))
        lease = data.draw(st.sampled_from(program.leases))
        amounts = [max(1, lease.rest // parts)] * parts
        amounts[0] = max(1, amounts[0] + more)
        self.ask(program, lease.project, amounts)

    @precondition(lambda self: self.count % 5 == 0)
    @rule(of=st.integers(0, 3), project=CALLER, data=st.data(), more=st.integers(-1, 1))
    def admit_about_what_is_left(self, of: int, project: str, data: st.DataObject, more: int) -> None:
        program = self.programs[of]
        lefts = [b.limit_nanos - sum(self.taken(b, program.now)) for b in self.covering(project) if b.per != "task"]
        if lefts:
            self.ask(program, project, [max(1, data.draw(st.sampled_from(lefts)) + more)])

    def ask(self, program: Program, project: str, amounts: Sequence[int], *, enforce: bool = True) -> None:
        tasks = [an_attempt(amount) for amount in amounts]
        answer = self.do(lambda: program.ledger.admit(project, program.now, tasks, enforce=enforce))
        if answer is None:
            return
        unfit = self.unfit(project, program.now, amounts)
        if enforce and unfit:
            assert isinstance(answer, Refused), (answer, unfit)
            assert answer.budget in unfit
            spent, held = (0, 0) if answer.budget.per == "task" else self.taken(answer.budget, program.now)
            assert answer.remaining == answer.budget.limit_nanos - spent - held
            assert answer.held == held
            steps["refused"] += 1
            return
        assert isinstance(answer, Admitted), (answer, unfit)
        for attempt_id, task, amount in zip(answer.attempt_ids, tasks, amounts, strict=True):
            self.attempts.append(Attempt(attempt_id, task.task_uuid, project, program.now, amount))
        leases = self.leases()
        steps["admitted"] += 1
        steps["admitted with leases open"] += bool(leases)
        for budget in self.covering(project):
            if enforce and budget.hard and budget.per != "task":
                assert sum(self.taken(budget, program.now, leases)) <= budget.limit_nanos

    # -- endings ----------------------------------------------------------------------------------

    @precondition(lambda self: self.attempts)
    @rule(of=st.integers(0, 3), data=st.data(), nanos=st.integers(0, 200), how=st.sampled_from(
        ["equal", "less", "more", "much more", "assumed", "release", "doubt"]))  # fmt: skip
    def conclude(self, of: int, data: st.DataObject, nanos: int, how: str) -> None:
        some = data.draw(st.lists(st.sampled_from(self.attempts), min_size=1, max_size=3, unique_by=lambda a: a.id))
        endings: list[Ending] = []
        changes: list[tuple[Attempt, int, str]] = []
        for attempt in some:
            if how == "release":
                endings.append(Release(attempt.id, "refused"))
                changes += [(attempt, 0, "released")] if attempt.open else []
                continue
            if how == "doubt":
                endings.append(Doubt(attempt.id, "cut"))
                continue
            charged = {"equal": attempt.held, "less": attempt.held // 2, "more": attempt.held + nanos}.get(how, nanos)
            charged = charged + 5_000 if how == "much more" else charged
            charge = told(assumed=charged) if how == "assumed" else a_charge(charged)
            if attempt.basis in (None, "released", "corrected"):
                endings.append(Settle(attempt.id, charge, "i:0"))
                changes.append((attempt, charged, charge.basis))
        program = self.programs[of]
        if not endings:
            return
        if self.do(lambda: done(self.hear, program.ledger.conclude(program.now, endings))):
            self.change(changes)

    @precondition(lambda self: self.attempts)
    @rule(of=st.integers(0, 3), data=st.data(), nanos=st.integers(0, 3_000))
    def observe(self, of: int, data: st.DataObject, nanos: int) -> None:
        """What was assumed is told; or what is open, or was ended by hand."""
        attempt = data.draw(st.sampled_from(self.attempts))
        if attempt.basis == "breakdown":
            return
        program = self.programs[of]
        seen = Observation(attempt.task_uuid, (("i:0", a_charge(nanos)),))
        if self.do(lambda: done(self.hear, program.ledger.observe(program.now, seen)[0])):
            self.change([(attempt, nanos, "breakdown")])

    @precondition(lambda self: any(attempt.open for attempt in self.attempts))
    @rule(of=st.integers(0, 3), data=st.data(), nanos=st.one_of(st.none(), st.integers(0, 200)))
    def correct(self, of: int, data: st.DataObject, nanos: int | None) -> None:
        attempt = data.draw(st.sampled_from([attempt for attempt in self.attempts if attempt.open]))
        ledger = self.programs[of].ledger
        at_us = self.programs[of].now
        if self.do(lambda: done(self.hear, ledger.correct(at_us, attempt.task_uuid, nanos, "so")), beside=False):
            self.change([(attempt, nanos or 0, "released" if nanos is None else "corrected")])

    def change(self, changes: Sequence[tuple[Attempt, int, str]]) -> None:
        for attempt, charged, basis in changes:
            attempt.held, attempt.charged, attempt.basis = 0, charged, basis

    # -- leases -------------------------------------------------------------------------------------

    @rule(of=st.integers(0, 3), until=st.sampled_from([None, 0, 20 * MINUTE_US]))
    def end_leases(self, of: int, until: int | None) -> None:
        program = self.programs[of]
        self.do(lambda: program.ledger.end_leases(None if until is None else program.now + until))

    @precondition(lambda self: any(program.leases for program in self.programs))
    @rule(of=st.integers(0, 2))
    def die(self, of: int) -> None:
        """Nobody knows of its leases any more."""
        steps["died with leases"] += bool(self.programs[of].leases)
        self.programs[of].ledger._purse = Purse()

    @rule(of=st.integers(0, 2), project=st.sampled_from(CALLERS), keep=st.booleans())
    def fall_asleep(self, of: int, project: str, keep: bool) -> None:
        """With `keep` another thread of it goes on with the same lease."""
        lease = self.programs[of].ledger._purse.take(project)
        if lease is not None:
            self.asleep.append((self.programs[of], lease))
            if keep:
                self.programs[of].ledger._purse.put(lease)

    @precondition(lambda self: self.asleep)
    @rule()
    def wake_up(self) -> None:
        for program, lease in self.asleep:
            program.ledger._purse.put(lease)
        self.asleep.clear()

    @rule(of=st.integers(0, 3))
    def roll_up(self, of: int) -> None:
        self.programs[of].ledger.roll_up()

    # -- what must always hold ----------------------------------------------------------------------

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "programs"):
            return
        self.count += 1
        steps["steps"] += 1
        ledger = self.programs[3].ledger
        leases = self.leases()
        for at_us in {self.programs[self.count % 4].now, self.programs[0].now}:
            for balance in ledger.balances(at_us):
                if balance.budget.per != "task":
                    assert (balance.spent, balance.held) == self.taken(balance.budget, at_us, leases), balance
        booked = ledgers.rows(self.path, "SELECT id, held, charged FROM attempts WHERE delivery <> 'lease' ORDER BY id")
        assert booked == sorted((a.id, a.held, a.charged) for a in self.attempts)
        if self.count % self.verifies == 1:
            difference = ledger.verify().difference
            assert difference is None, difference
        elif self.count % self.verifies == 2:
            difference = ledger.verify(self.checkpoint).difference
            assert difference is None, difference
            self.checkpoint = Checkpoint.from_json(self.checkpoint.to_json())
        fired = Counter(
            ledgers.rows(
                self.path, "SELECT project, per, window_us, threshold FROM fired WHERE threshold <> 'exceeded'"
            )
        )
        assert self.heard == fired or (self.is_lost and self.heard <= fired)
