"""What goes into the ledger and comes out of it: admissions, endings, observations, balances, rows of reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from costguard.budgets import Budget, Window
from costguard.ledger.charges import Charge
from costguard.money import to_text


class NewAttempt(NamedTuple):
    """A task that asks to be sent: one more possible bill. Amounts are nano-USD for all results."""

    task_uuid: str
    task_type: str
    model: str
    """The model's AIR, or what the caller wrote if no price file names it, or the task type."""
    delivery: str
    results: int
    upper: int | None
    """Worst case; None if unknown (then a ceiling is looked up)."""
    expected: int | None
    price_id: str | None
    estimate: str
    """JSON: tokens by modality, expected and upper."""
    tags: str
    """JSON object of the caller's tags."""
    ceiling_names: tuple[str, ...] = ()
    """Where a ceiling may be set for it, nearest first."""
    unpriced: str | None = None
    """Why `upper` is unknown."""
    clamped_from: int | None = None
    """The `maxTokens` the caller asked for, if a budget lowered it."""
    host: str = ""
    """Where it is sent: only there is it asked for by itself."""
    spelling: str | None = None
    """How the caller writes `task_uuid`; None: as it is. The provider is asked by it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget's threshold was passed, or (`percent` None) a window's first call was refused."""

    budget: Budget
    window: Window
    percent: int | None
    spent_nanos: int
    held_nanos: int = 0
    """Of a refusal: held for calls that are not settled."""
    busy: bool = False
    """Of a refusal: the call would fit should all held money come back."""

    def __str__(self) -> str:
        what = f"passed {self.percent} %"
        if self.percent is None:
            what = "is busy and refused a call" if self.busy else "refused a call"
        spent = f"{to_text(self.spent_nanos)} of {to_text(self.budget.limit_nanos)} USD spent"
        held = f", {to_text(self.held_nanos)} USD held for calls that are not settled" if self.busy else ""
        return f"budget {self.budget} {what}: {spent}{held}"


class Admitted(NamedTuple):
    """The attempts are held, in the order they were asked for."""

    attempt_ids: tuple[int, ...]
    uppers: tuple[int | None, ...]
    over: tuple[Budget, ...] = ()
    """Hard budgets that did not fit but were not enforced (mode `observe`)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was held: `budget` is the one with the least remaining of those that did not fit."""

    budget: Budget
    window: Window | None
    requested: int
    remaining: int
    unresolved: int
    """The part of `held` whose outcome is unknown."""
    held: int

    @property
    def busy(self) -> bool:
        """True if the call would fit should all held money come back."""
        return self.requested <= self.remaining + self.held and self.budget.limit_nanos > 0


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Nothing was held: `attempt` has no known worst case and `budget` is hard."""

    attempt: NewAttempt
    budget: Budget


class Settle(NamedTuple):
    """A result in the attempt's own response: charge it. With `keep_rest` the unseen results stay held.

    A response with several results is as many of these, one after the other; the last one's `keep_rest` counts.
    """

    attempt_id: int
    charge: Charge
    key: str = ""
    """The result's names, see `results`."""
    keep_rest: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Surely not billed: the hold goes back."""

    attempt_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Sent, outcome unknown: stays held until the truth is known."""

    attempt_id: int
    reason: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    taken: bool = False
    """The provider took the task."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The provider took the task and answers later: it stays held, but no request is under way."""

    attempt_id: int


class Called(NamedTuple):
    """What the provider calls the response to an attempt, told beside how it ended: by it a record is known again."""

    attempt_id: int
    name: str


Ending = Settle | Release | Doubt | Accept | Called


@dataclass(frozen=True, slots=True)
class Observation:
    """What came back of a task by another road than its own response."""

    task_uuid: str
    results: tuple[tuple[str, Charge | None], ...] = ()
    """Each result's key, and its charge unless none can be told."""
    whole: bool = False
    """`results` are all that the provider has on record for the task."""
    settled_all: bool = False
    """No further result is to come: attempts with some results are settled."""
    over: frozenset[int] | None = None
    """The attempts that may be settled or released so: those without a request under way when the provider was
    asked; None: those without one now."""
    release: str | None = None
    """With `settled_all`: why attempts without any result are released, None to leave them."""
    unknown_age_us: int | None = None
    """With `whole`: attempts beyond what is on record are released once admitted so long ago; None: never."""
    taken: bool = False
    """The provider is at work on it: what is open of it is never released for being unknown."""
    reason: str | None = None


class Balance(NamedTuple):
    """A budget's window: nano-USD spent, held and remaining (may be negative after an overrun)."""

    budget: Budget
    window: Window
    spent: int
    held: int

    @property
    def remaining(self) -> int:
        """`limit − spent − held` in nano-USD."""
        return self.budget.limit_nanos - self.spent - self.held


class Change(NamedTuple):
    """A budget or a ceiling was set or removed. Of a budget `project` and `per`, of a ceiling its name."""

    at_us: int
    who: str | None
    """User, host and program; None if it was not kept yet."""
    change: str
    """`set` or `remove`."""
    project: str | None
    per: str | None
    budget: Budget | None
    """As it was set."""
    ceiling: str | None
    nanos: int | None
    """What a ceiling was set to, nano-USD per result."""


class Move(NamedTuple):
    """What was booked on `project` and below it is shown as `name` by reports."""

    at_us: int
    project: str
    name: str
    who: str


class TaskRow(NamedTuple):
    """A task with all its attempts, as reports show it. Amounts in nano-USD."""

    task_uuid: str
    project: str
    model: str
    task_type: str
    delivery: str
    status: str
    """`held`, `settled`, `released` or `unresolved`."""
    held: int
    charged: int
    basis: str | None
    expected: int | None
    upper: int | None
    attempts: int
    at_us: int
    day: str
    reason: str | None
    odd: bool
    tags: str
    clamped_from: int | None


class UsageRow(NamedTuple):
    """One group of a report: its keys, distinct tasks, tokens and nano-USD.

    `reasoning`: the completion's tokens that were spent on reasoning. `priced`: what was charged where our own price
    for it is known, `computed`: that price. `results` and `quantity` are those of the group's lines: the latter says
    something of lines of one component alone, whose parts it counts.
    """

    keys: tuple[str, ...]
    tasks: int
    tokens: int
    nanos: int
    reasoning: int = 0
    priced: int = 0
    computed: int = 0
    results: int = 0
    quantity: int = 0


class EstimateSum(NamedTuple):
    """What attempts of a model were estimated at, and what was billed for them, in all.

    `what` is a modality of the prompt or `completion`, in tokens, or `cost`, in nano-USD. `over`: how many were billed
    above their upper.
    """

    model: str
    what: str
    attempts: int
    expected: int
    upper: int
    billed: int
    over: int


class Verification(NamedTuple):
    """What `verify` found: `difference` names the first broken promise, None if all hold."""

    difference: str | None
    checked: dict[str, int]
    """How many rows each promise was recomputed from."""

    @property
    def ok(self) -> bool:
        """True if every promise holds."""
        return self.difference is None
