"""Runware's native tasks as a dialect: what the rest of the house asks, answered by the files beside this one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from costguard.tasks import Task
from costguard.wire import sse
from costguard.wire.dialect import Answers, Dialogue, Judgement, Listener, Named, Problem, Request, Target
from costguard.wire.runware import answers, endings, problems, requests
from costguard.wire.runware.dialogue import Messages
from costguard.wire.runware.hosts import PATH, is_runware
from costguard.wire.runware.stream import Reader, read_events

_REFUSED_WHOLE = frozenset((400, 404, 413, 422))
"""Statuses that may be the fault of one task in a batch."""


class Runware:
    """See `Dialect`."""

    name = "runware"
    prefix = ""

    def claims(self, target: Target) -> bool | None:
        """True for native endpoints; any other POST may hold tasks, on whatever host."""
        if target.path in (PATH, target.endpoint) and (target.endpoint is not None or is_runware(target.host)):
            return True
        return None

    def recognises(self, body: bytes) -> bool:
        """See `Dialect`."""
        return requests.looks_guarded(body)

    def problem(self, problem: Problem, body: bytes) -> bytes:
        """See `Known`."""
        return problems.write(problem, body)

    def shows_tasks(self, body: bytes) -> bool:
        """See `Dialect`."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return False
        entries = value if isinstance(value, list) else [value]
        return any(isinstance(entry, dict) and "taskType" in entry for entry in entries)

    def read(self, body: bytes) -> Request:
        """See `Dialect`."""
        return requests.parse_request(body)

    def name_tasks(self, body: bytes) -> Named | None:
        """See `Dialect`."""
        return requests.name_tasks(body)

    def task(self, told: Mapping[str, Any]) -> Task:
        """See `Dialect`."""
        return requests.from_dict(told)

    def is_stream(self, tasks: Sequence[Task], status: int, content_type: str) -> bool:
        """A task that asked for a stream is answered by one, whatever it is labelled as."""
        if not 200 <= status < 300:
            return False
        return content_type == sse.EVENT_STREAM or "stream" in [task.delivery for task in tasks]

    def judge(self, tasks: Sequence[Task], status: int, body: bytes) -> Judgement:
        """See `Dialect`. A body of events is read as such, whatever it is labelled as."""
        envelope = answers.parse_response(body)
        if envelope is None and 200 <= status < 300:
            reader = Reader(tasks)
            reader.feed(body)
            judgement = reader.judge(None)
            if reader.has_heard:
                return judgement
        return endings.judge(tasks, status, read_events(body) if envelope is None else envelope)

    def listen(self, tasks: Sequence[Task]) -> Listener:
        """See `Dialect`."""
        return Reader(tasks)

    def dialogue(self) -> Dialogue:
        """See `Dialect`."""
        return Messages()

    def sieve(self, tasks: Sequence[Task]) -> None:
        """Figures come on frames of a result, which are the caller's."""

    def observe(self, payload: object) -> Judgement | None:
        """See `Dialect`."""
        envelope = answers.read_payload(payload)
        return None if envelope is None else endings.outcomes(envelope)

    def question(self, spellings: Iterable[str], request: Request | None) -> bytes | None:
        """`getTaskDetails` for each, behind the key that `request` carries in its body, if it does."""
        keys = [task.raw for task in request.tasks if task.task_type == "authentication"] if request else []
        return json.dumps([*keys, *({"taskType": "getTaskDetails", "taskUUID": name} for name in spellings)]).encode()

    def answers(self, task_uuids: Iterable[str], status: int, body: bytes) -> Answers:
        """See `Dialect`."""
        succeeded = 200 <= status < 300
        # Any other status, 401 above all, speaks of the question: "key not found" must release nothing.
        envelope = answers.parse_response(body) if succeeded or status in (400, 404) else None
        general = f"the provider answered http {status}"
        if envelope is None:
            turned_away = answers.parse_response(body) if status in _REFUSED_WHOLE else None
            refused = turned_away is not None and bool(turned_away.errors) and not turned_away.details
            return Answers({}, frozenset(), {}, general, refused_whole=refused, told=False)
        errors = {error.task_uuid: error for error in envelope.errors}
        asked = set(task_uuids)
        unknown = frozenset(uuid for uuid, error in errors.items() if uuid in asked and error.not_found)
        refusals = {
            uuid: f"the provider answered {error.code or f'http {status}'}"
            for uuid, error in errors.items()
            if uuid in asked and uuid not in unknown
        }
        if "" in errors:
            general = f"the provider answered {errors[''].code or f'http {status}'}"
        else:
            general = "the provider's answer does not mention it"
        return Answers(
            {details.task_uuid: endings.record(details) for details in envelope.details},
            unknown,
            refusals,
            general,
            refused_whole=status in _REFUSED_WHOLE and bool(envelope.errors) and not envelope.details,
            told=succeeded,
        )
