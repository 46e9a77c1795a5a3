"""One true bill, told over any roads in any order and detail: what the ledger charges, after each telling.

The roads: an attempt's own response, once; an observation of one result or of several; the whole record, last.
Each telling leaves out what it likes: names, figures, or both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import NOW_US, an_attempt, open_ledger, told, verified

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.results import result_key
from costguard.ledger.charges import BEYOND_NOTE, COST_GAP_NANOS, Charge
from costguard.ledger.records import Admitted, Doubt, Observation, Settle

pytestmark = pytest.mark.usefixtures("each_engine")

UPPER = 1_000_000
"""Worst case of one result, which no true bill passes; also what is assumed of one that tells no figure."""

UUID = "task"


@dataclass(frozen=True)
class Result:
    """A result as it was truly billed. `total` in nano-dollars; `cost` is that rounded to 5 decimals."""

    index: int | None
    seed: int | None
    total: int
    completion: int

    @property
    def cost(self) -> int:
        return (self.total + 5_000) // 10_000 * 10_000


@dataclass(frozen=True)
class Told:
    """What a telling mentions of a result: its names, its figures."""

    index: bool
    seed: bool
    cost: bool
    total: bool
    tokens: bool

    def of(self, result: Result) -> tuple[str, Charge]:
        names = []
        if self.index and result.index is not None:
            names.append(f"i:{result.index}")
        if self.seed and result.seed is not None:
            names.append(f"s:{result.seed}")
        charge = told(
            result.cost if self.cost else None,
            result.total if self.total else None,
            10 if self.tokens else None,
            result.completion if self.tokens else None,
            assumed=UPPER,
        )
        return " ".join(names), charge


ALL = Told(True, True, True, True, True)
amounts = st.integers(1, UPPER // 1_000).map(lambda micros: micros * 1_000)
tellings = st.builds(Told, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans())


@st.composite
def bills(draw: st.DrawFn, *, named: bool = False, attempts: int = 3, results: int = 3) -> list[list[Result]]:
    """Attempts, each with the results it was billed for."""
    width, count = draw(st.integers(1, results)), draw(st.integers(1, attempts))
    first = draw(st.sampled_from([0, 1]))
    seeds = "own" if named else draw(st.sampled_from(["own", "the caller's", "none"]))
    indexes = draw(st.sampled_from(["counted", "chunks", "none"]))
    few = draw(st.lists(amounts, min_size=1, max_size=width * count))
    names = {"counted": range(first, first + width), "chunks": range(100, 100 + 7 * width, 7), "none": [None] * width}
    return [
        [
            Result(
                index,
                {"own": attempt * width + n, "the caller's": 7, "none": None}[seeds],
                draw(st.sampled_from(few)),  # often the same
                draw(st.integers(1, 3)),
            )
            for n, index in enumerate(names[indexes])
        ]
        for attempt in range(count)
    ]


@contextmanager
def a_ledger(bill: Sequence[Sequence[Result]]) -> Iterator[tuple[Ledger, list[int]]]:
    """A ledger in which the task was sent as often as it was billed, with its attempts' ids."""
    with tempfile.TemporaryDirectory() as folder, closing(open_ledger(Path(folder) / "ledger.db")) as ledger:
        ledger.set_budget(make_budget("/", "1", per="total", warn_at=(50, 100)), NOW_US)
        ids: list[int] = []
        for results in bill:
            new = an_attempt(UPPER * len(results), task_uuid=UUID, results=len(results))
            admitted = ledger.admit("a", NOW_US, [new])
            assert isinstance(admitted, Admitted)
            ids += admitted.attempt_ids
        yield ledger, ids


def answer(ledger: Ledger, attempt_id: int, results: Sequence[tuple[str, Charge]]) -> None:
    """The attempt's own response."""
    ledger.conclude(NOW_US, [Settle(attempt_id, charge, result_key(names, charge)) for names, charge in results])


def observe(ledger: Ledger, results: Sequence[tuple[str, Charge]], *, of: Sequence[int] | None = None) -> int:
    """An observation, or with `of` (all attempts) the whole record; how much it changed."""
    seen = Observation(
        UUID,
        tuple((result_key(names, charge), charge) for names, charge in results),
        whole=of is not None,
        settled_all=of is not None,
        over=None if of is None else frozenset(of),
        release=None if of is None else "there is no more",
        unknown_age_us=0,
    )
    return ledger.observe(NOW_US, seen)[1]


def money(ledger: Ledger) -> tuple[int, int]:
    """(charged, held) of the task."""
    task = ledger.task(UUID)
    assert task is not None
    assert verified(ledger)
    return task.charged, task.held


def best(charges: Sequence[Charge]) -> int:
    """What a result that was told so is charged: its total if any told it, else its cost, else what is assumed."""
    totals = [c.total_nanos for c in charges if c.total_nanos is not None]
    costs = [c.cost_nanos for c in charges if c.cost_nanos is not None]
    return max(totals or costs or [UPPER])


@given(bills(attempts=1, results=1), st.lists(st.tuples(tellings, st.booleans()), min_size=1, max_size=5))
def test_a_single_result_is_charged_the_best_that_was_told_of_it(
    bill: list[list[Result]], told_as: list[tuple[Told, bool]]
) -> None:
    """After each telling, to the nano-dollar; nothing is held once it was told at all."""
    (result,) = bill[0]
    with a_ledger(bill) as (ledger, ids):
        heard: list[Charge] = []
        for telling, is_direct in told_as:
            names, charge = telling.of(result)
            heard.append(charge)
            if is_direct:
                answer(ledger, ids[0], [(names, charge)])
            else:
                observe(ledger, [(names, charge)])
            assert money(ledger) == (best(heard), 0)
        observe(ledger, [ALL.of(result)], of=ids)
        assert money(ledger) == (result.total, 0)
        assert observe(ledger, [ALL.of(result)], of=ids) == 0


@given(st.lists(st.tuples(amounts, st.booleans(), st.sampled_from(["", "s:7"])), min_size=1, max_size=5))
def test_a_cumulative_figure_of_a_single_result_is_charged_at_its_highest_in_any_order(
    told_as: list[tuple[int, bool, str]],
) -> None:
    with a_ledger([[Result(None, None, 1, 1)]]) as (ledger, ids):
        for n, (total, is_direct, names) in enumerate(told_as, start=1):
            road = (names, told(total=total, prompt=10))
            if is_direct:
                answer(ledger, ids[0], [road])
            else:
                observe(ledger, [road])
            assert money(ledger) == (max(total for total, _, _ in told_as[:n]), 0)


@given(bills(named=True), st.data())
def test_results_told_with_their_own_seed_are_each_charged_the_best_that_was_told_of_them(
    bill: list[list[Result]], data: st.DataObject
) -> None:
    """After each telling, to the nano-dollar, whatever else is left out; and never an unknown one."""
    every = [result for results in bill for result in results]
    heard: dict[Result, list[Charge]] = {}
    with a_ledger(bill) as (ledger, ids):
        answered: set[int] = set()
        for _ in range(data.draw(st.integers(0, 5))):
            telling = data.draw(tellings)
            named = Told(telling.index, True, telling.cost, telling.total, telling.tokens)
            n = data.draw(st.integers(0, len(bill) - 1))
            if data.draw(st.booleans()) and n not in answered:
                answered.add(n)
                chosen = bill[n]
                answer(ledger, ids[n], [named.of(result) for result in chosen])
            else:
                chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=3, unique=True))
                observe(ledger, [named.of(result) for result in chosen])
            for result in chosen:
                heard.setdefault(result, []).append(named.of(result)[1])
            charged, held = money(ledger)
            assert charged == sum(map(best, heard.values()))
            untold = sum(result.total for result in every if result not in heard)
            assert held >= untold
        observe(ledger, data.draw(st.permutations([ALL.of(result) for result in every])), of=ids)
        assert money(ledger) == (sum(result.total for result in every), 0)
        assert observe(ledger, [ALL.of(result) for result in every], of=ids) == 0


@given(bills(), st.data())
def test_however_little_is_told_no_money_is_free_and_none_is_charged_for_more_than_was_asked(
    bill: list[list[Result]], data: st.DataObject
) -> None:
    """After each telling: charged and held cover the bill, but for the rounding of `cost`; no result is charged
    beyond those asked for without saying so. After the whole record nothing is held and the bill is charged: to the
    nano-dollar of a task sent once, unless a charge says that nobody asked for it; of one sent again, whose
    attempts may repeat an index or a seed, never less.
    """
    every = [result for results in bill for result in results]
    true = sum(result.total for result in every)
    with a_ledger(bill) as (ledger, ids):
        answered: set[int] = set()
        for _ in range(data.draw(st.integers(0, 5))):
            telling = data.draw(tellings)
            n = data.draw(st.integers(0, len(bill) - 1))
            road = data.draw(st.sampled_from(["direct", "lost", "observed", "listed"]))
            if road in ("direct", "lost") and n not in answered:
                answered.add(n)
                if road == "lost":
                    ledger.conclude(NOW_US, [Doubt(ids[n], "lost")])
                else:
                    answer(ledger, ids[n], [telling.of(result) for result in bill[n]])
            else:
                observe(ledger, [telling.of(result) for result in (every if road == "listed" else [bill[n][0]])])
            charged, held = money(ledger)
            assert charged + held >= true - COST_GAP_NANOS * len(every)
            assert charges_beyond(ledger) >= booked(ledger) - len(every)
        observe(ledger, data.draw(st.permutations([ALL.of(result) for result in every])), of=ids)
        charged, held = money(ledger)
        assert held == 0
        assert charged >= true
        if not charges_beyond(ledger) and len(bill) == 1:
            assert charged == true


def booked(ledger: Ledger) -> int:
    """How many results of the task are charged."""
    return sum(attempt.seen for attempt in ledger.attempts(UUID))


def charges_beyond(ledger: Ledger) -> int:
    """How many charges say that nobody asked for their result."""
    rows = ledger._engine.read(lambda tx: tx.all("SELECT notes FROM charges WHERE odd = 1"))
    return sum(BEYOND_NOTE in (notes or "") for (notes,) in rows)
