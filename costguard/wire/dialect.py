"""What the rest of the house knows of a wire: one protocol, and the neutral words that it is spoken in.

A dialect turns bytes into tasks, and whatever comes back into endings. Everything that names a field of a
provider's JSON stays inside its folder or file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from costguard.errors import InvalidRequest
from costguard.ledger.charges import Line
from costguard.outputs import Output
from costguard.tasks import Task


class NotTasks(InvalidRequest):
    """A readable body in which nothing is a task of the dialect that read it."""


class Target(NamedTuple):
    """Where a POST goes. `host` as `normal_host` gives it, `path` without a trailing slash.

    `endpoint`: the path of native tasks there, if the caller named the host in `Guard(endpoints=…)`.
    """

    host: str
    path: str
    endpoint: str | None = None


class Figures(NamedTuple):
    """What a provider told of one result. Money in nano-USD; None is untold or unusable, never zero.

    `cost` is its figure for the whole, `total` the sum of its own breakdown, which is more exact. `prompt` and
    `cache` are the breakdown's leaves by modality, `rest` those of the completion and of features; `rest` is
    None where nothing is itemized. `reasoning_tokens` are a part of `completion_tokens`. `odd`: something told
    was unusable or does not add up, as `notes` say.
    """

    cost: int | None = None
    total: int | None = None
    prompt: tuple[Line, ...] = ()
    cache: tuple[Line, ...] = ()
    rest: tuple[Line, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    total_tokens: int | None = None
    odd: bool = False
    notes: tuple[str, ...] = ()
    raw: Callable[[], str] = str
    """Gives what was told as compact JSON, without any text of an answer: kept where a charge is odd."""
    written_percent: int = 0
    """What writing tokens of the prompt to a cache costs beyond the input rate, in percent of one token's."""
    made: Output = Output()
    """What a result is that is no text, as far as it is told."""


class Result(NamedTuple):
    """One result of a task: what it is called, as far as it is told, and its figures."""

    result_index: int | None
    seed: int | None
    figures: Figures

    @property
    def names(self) -> str:
        """What this result is called within its task: its index and its seed, as far as they are told."""
        index = "" if self.result_index is None else f"i:{self.result_index}"
        seed = "" if self.seed is None else f"s:{self.seed}"
        return f"{index} {seed}".strip()


class Success(NamedTuple):
    """Results came: settle them. `partial`: more may come or be billed, so the rest of the hold stays."""

    results: tuple[Result, ...]
    partial: bool = False
    reason: str = ""
    failed: bool = False
    """No further result is to come, unless `partial`: an error of the task came beside them, or they are all."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Accepted and under way: the hold stays until the results come."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Refused before work: release."""

    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Possibly billed: unresolved. `evidence`: what was seen of it, never a text."""

    reason: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    taken: bool = False
    """What came shows that the provider took the task."""


Ending = Success | Ack | Refused | Doubt


class Record(NamedTuple):
    """What the provider's own record says of a past task.

    `results` is None where the record holds none yet, and `waiting` says that more are to come: the task stays
    open, for `reason`. Otherwise `results` are all there ever were, and `reason` says why the rest is released.
    """

    task_uuid: str
    results: tuple[Result, ...] | None
    waiting: bool
    reason: str


class Told(NamedTuple):
    """What a recorded response tells of one task; `model` and `task_type` are "" where it does not say."""

    task_uuid: str
    model: str
    task_type: str
    ending: Ending | Record


class Judgement(NamedTuple):
    """What something that came back says, by task.

    `endings`: how it ends each billable task of its request. `others`: what it tells of further tasks;
    `listed`: those of them whose results it lists so far, so that equal ones are different results. `aliases`: what
    the provider calls the response to a task of its request, where it has a name of its own.
    """

    endings: Mapping[str, Ending]
    others: Mapping[str, Ending] = {}
    listed: frozenset[str] = frozenset()
    records: tuple[Record, ...] = ()
    aliases: Mapping[str, str] = {}


class Answers(NamedTuple):
    """What the provider answered to the question what became of some tasks.

    `unknown`: tasks that it says it does not know. `refusals`: why it would not tell of a task. `general`: why
    it told nothing of the others. `refused_whole`: it turned the question itself away, perhaps for one task.
    """

    records: Mapping[str, Record]
    unknown: frozenset[str]
    refusals: Mapping[str, str]
    general: str
    refused_whole: bool
    told: bool
    """True if the question was answered at all."""


class Request(Protocol):
    """The tasks of one POST, and the bytes that ask for them."""

    tasks: tuple[Task, ...]
    changed: bool
    """The bytes to send are not the caller's own."""

    def body(self) -> bytes:
        """The bytes to send. InvalidRequest if they cannot be written: ask before holding money."""

    def lower(self, task: Task, tokens: int) -> None:
        """Lower the allowance of one of its tasks to `tokens` completion tokens."""


class Named(NamedTuple):
    """A body whose billable tasks have names, and nothing else done to it.

    `body`: None if it is the caller's own. `tasks`: name and model (else task type) of each.
    """

    body: bytes | None
    tasks: tuple[tuple[str, str], ...]


class Problem(NamedTuple):
    """Why a call was not served, for whoever made it: the HTTP status, its kind in a few words, and all of it.

    `kind` in lower case, joined by underscores, as `budget_exceeded`.
    """

    status: int
    kind: str
    message: str


class Listener(Protocol):
    """What hears a stream that answers some tasks. Nothing raises, no text is kept."""

    def feed(self, chunk: bytes) -> None:
        """One chunk of decoded bytes, as it came; never blocks."""

    def judge(self, cut: str | None) -> Judgement:
        """No more bytes will come: `cut` says how the stream was cut, None if it was read to its end."""


class Heard(NamedTuple):
    """What one message of a connection tells.

    `ended`: how tasks end that were sent on it, each as it was given to `Dialogue.sent`. `judgement`: what it tells of
    all others; it has no endings.
    """

    ended: tuple[tuple[Task, Ending], ...]
    judgement: Judgement


class Dialogue(Protocol):
    """What hears the messages of one connection, on which tasks are sent and answered in any order. No I/O, no text is
    kept, and nothing raises.
    """

    def sent(self, tasks: Sequence[Task]) -> None:
        """These are on their way: told before they are sent, for an answer may be faster than a sender."""

    def unsent(self, tasks: Sequence[Task]) -> None:
        """These never left, after all."""

    def unanswered(self, task_uuid: str) -> Sequence[Task]:
        """What was sent by that name and has no ending yet."""

    def hear(self, message: bytes) -> Heard:
        """One message."""

    def end(self, cut: str) -> tuple[tuple[Task, Ending], ...]:
        """No more messages come, as `cut` says: how what is still unanswered ends."""


class Sieve(Protocol):
    """Keeps from the caller of a stream what came because the guard asked for it; all else passes byte for byte."""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller is to have of some decoded bytes, and of those held back before."""

    def end(self) -> bytes:
        """What is left when the stream is over."""


class Known(Protocol):
    """A wire whose paths are known."""

    name: str

    def claims(self, target: Target) -> bool | None:
        """True if a POST there is surely of this wire, None if its body decides, False if it is not."""

    def recognises(self, body: bytes) -> bool:
        """Whether a body may be of this wire: cheap, and only a hint; where there is a `read`, it decides."""

    def problem(self, problem: Problem, body: bytes) -> bytes:
        """A problem as this wire tells errors, in JSON; raises nothing. `body`: the request's, as far as it is read."""


class Dialect(Known, Protocol):
    """One wire: whose requests are its own, and what is asked and told in them. No I/O."""

    prefix: str
    """What the names of its tasks begin with, if it makes them all itself; "" if callers do."""

    def shows_tasks(self, body: bytes) -> bool:
        """Whether a body that `read` refused shows tasks all the same, so that sending it may cost money."""

    def read(self, body: bytes) -> Request:
        """The tasks of a POST's body, made ready to be billed.

        `NotTasks` for what is readable and of another kind, InvalidRequest for what cannot be read.
        """

    def name_tasks(self, body: bytes) -> Named | None:
        """Name the billable tasks that have no name, for a POST that nothing is recorded of; raises nothing.

        None for what cannot be read, or is of another kind: it is to be sent as it is.
        """

    def task(self, told: Mapping[str, Any]) -> Task:
        """One task as a caller wrote it, made ready to be billed; the mapping is not changed. InvalidRequest."""

    def is_stream(self, tasks: Sequence[Task], status: int, content_type: str) -> bool:
        """Whether a response is to be heard as it comes, and not read whole."""

    def judge(self, tasks: Sequence[Task], status: int, body: bytes) -> Judgement:
        """A whole response to `tasks`: every billable one of them gets exactly one ending."""

    def listen(self, tasks: Sequence[Task]) -> Listener:
        """What hears the stream that answers `tasks`."""

    def dialogue(self) -> Dialogue | None:
        """What hears a connection of messages (a websocket); None if this wire has none."""

    def sieve(self, tasks: Sequence[Task]) -> Sieve | None:
        """What the stream that answers `tasks` passes through on its way to the caller; None if all of it is theirs."""

    def observe(self, payload: object) -> Judgement | None:
        """What a result from anywhere tells (a webhook's body, a log line); None if it is not of this wire."""

    def question(self, spellings: Iterable[str], request: Request | None) -> bytes | None:
        """The body of a POST that asks what became of tasks, in the sender's own spelling of their names.

        `request`: one that goes to the same place, whose credentials it may carry. None: this wire has no such
        question.
        """

    def answers(self, task_uuids: Iterable[str], status: int, body: bytes) -> Answers:
        """What the answer to `question` says of each of `task_uuids`."""
