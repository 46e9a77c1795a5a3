"""The stand-in itself, without I/O: a request in, a reply out, and a bill kept on the side."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, overload

from costguard.testing import answers, exact, faults, sse
from costguard.testing.faults import Fault
from costguard.testing.published import content, seeds

if TYPE_CHECKING:
    import httpx
    import httpx2

_FREE = {
    "getResponse", "getTaskDetails", "accountManagement", "modelSearch", "mediaStorage", "authentication",
}  # fmt: skip
_DOCUMENTATION = "https://runware.ai/docs"

Task = dict[str, Any]


@dataclass(frozen=True)
class Bill:
    """One result that was billed: `amount` in USD, exact.

    `attempt` counts from 1 the sendings of `task_uuid` that were not turned away before work,
    `result_index` the results of that task over all its attempts from 0; `model` is as the task named it,
    or its task type.
    """

    task_uuid: str
    attempt: int
    result_index: int
    amount: Decimal
    model: str


@dataclass(frozen=True)
class Received:
    """One request as it came in; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def tasks(self) -> list[Task]:
        """Its tasks, fractions as Decimal. ValueError when the body is not JSON."""
        tasks = exact.loads(self.body)
        return tasks if isinstance(tasks, list) else [tasks]


@dataclass(frozen=True)
class Webhook:
    """One result owed to a task's `webhookURL`: the JSON to POST there."""

    url: str
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What a carrier has to send.

    A `content-length` header is there unless the body is a stream, whose `chunks` go out one by one.
    `fault` is what happens to the connection: `drop` (send nothing, close), `cut` (send the chunks, fewer
    than announced, close), `hang` (send the chunks if any, then keep silent), None (all is well).
    """

    status: int
    headers: dict[str, str]
    chunks: list[bytes]
    fault: Literal["drop", "cut", "hang"] | None = None
    webhooks: tuple[Webhook, ...] = ()


@dataclass
class _Attempt:
    """One sending of a task: its results as kept (`kept`), as shown, and what was said instead."""

    task: Task
    kept: list[dict[str, Any]]
    shown: list[dict[str, Any]]
    errors: list[dict[str, Any]] = field(default_factory=list)
    refusal: dict[str, Any] | None = None


@dataclass
class _Job:
    """All that is known of one taskUUID."""

    attempts: list[_Attempt] = field(default_factory=list)
    polls: int = 0
    inquiries: int = 0

    def kept(self) -> list[dict[str, Any]]:
        return [item for attempt in self.attempts for item in attempt.kept]


@dataclass
class _Answer:
    """The parts of one reply as they gather."""

    data: list[dict[str, Any]] = field(default_factory=list)
    errors: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    webhooks: list[Webhook] = field(default_factory=list)
    streams: bool = False
    frames: list[str] = field(default_factory=list)
    stream_done: bool = True


@dataclass(kw_only=True, eq=False)
class StandIn:
    """An API that answers like Runware's `POST /v1`, bills like it, and fails when told to.

    Every setting is an attribute and may be changed between requests:

    - `seeds`: answer the published examples with their published responses.
    - `polls_until_done`: polls of an async task that say `processing`; then each brings one result more.
    - `details_until_done`: answers of `getTaskDetails` for a task that still say `processing`.
    - `details_with_cost`: whether `getTaskDetails` keeps `cost` and `usage`.
    - `not_found_status`: status of a reply that holds nothing but unknown tasks.
    - `bill_retries_once`: a taskUUID sent again is answered from memory and not billed again.
    - `result_index`: items carry `resultIndex`, counted over all attempts of a task.
    - `count_text`: prompt tokens of a text; `completion_tokens`: those a result would like to have;
      `media_s`: seconds of every video and sound.
    - `item_cost`: USD for a result that is not text; `search_cost`: USD for each `search` tool.
    - `webhook_times`: how often each webhook is sent; `webhook_envelope`: as `{"data":[item]}`.
    - `sse_crlf`, `sse_space`, `sse_heartbeats`, `sse_late_cost` (cost on a frame after the one with
      `finishReason`), `sse_empty_uuid`, `chunk_bytes` (re-cut streams into pieces of that size): the
      manners of streams.
    - `latency_s`, `chunk_delay_s`: seconds before an answer and between chunks; `serve()` only.

    Any number of threads may use one stand-in.
    """

    seeds: bool = True
    polls_until_done: int = 1
    details_until_done: int = 0
    details_with_cost: bool = True
    not_found_status: int = 404
    bill_retries_once: bool = False
    result_index: bool = False
    count_text: Callable[[str], int] = answers.text_tokens
    completion_tokens: int = 120
    media_s: Decimal = Decimal("6.08")
    item_cost: Decimal = Decimal("0.0019")
    search_cost: Decimal = Decimal("0.014")
    webhook_times: int = 1
    webhook_envelope: bool = False
    sse_crlf: bool = False
    sse_space: bool = True
    sse_heartbeats: bool = True
    sse_late_cost: bool = False
    sse_empty_uuid: bool = False
    chunk_bytes: int | None = None
    latency_s: float = 0
    chunk_delay_s: float = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._published = [(content(exact.loads(json.dumps(seed.request))), seed.response) for seed in seeds()]
        self._faults: list[Fault] = []
        self._jobs: dict[str, _Job] = {}
        self._bill: list[Bill] = []
        self._received: list[Received] = []
        self._webhooks: list[Webhook] = []

    @property
    def bill(self) -> list[Bill]:
        """All that was billed so far, in order; the truth that a ledger is compared with."""
        with self._lock:
            return list(self._bill)

    def billed(self, task_uuid: str | None = None) -> Decimal:
        """USD billed so far, in all or for one task."""
        return sum((b.amount for b in self.bill if task_uuid in (None, b.task_uuid)), Decimal(0))

    @property
    def received(self) -> list[Received]:
        """Every request that arrived, in order, those answered with a fault included."""
        with self._lock:
            return list(self._received)

    @property
    def webhooks(self) -> list[Webhook]:
        """Every webhook owed so far; `serve()` sends those for loopback addresses, nobody the others."""
        with self._lock:
            return list(self._webhooks)

    def fault(
        self,
        kind: str,
        *,
        task_uuid: str | None = None,
        times: int = 1,
        match: Callable[[Task], bool] | None = None,
    ) -> None:
        """Commit a fault on the next `times` tasks it fits, after the faults ordered before it.

        It fits a task with that `task_uuid` (any, if None) for which `match(task)` is true; without `match`
        only billable tasks count, with it polls and `getTaskDetails` too; it may be asked twice. The kinds,
        and which are billed, are in the table of `costguard.testing.faults`. ConfigurationError for an
        unknown kind.
        """
        fault = faults.parse(kind, times=times, task_uuid=task_uuid, match=match)
        with self._lock:
            self._faults.append(fault)

    @overload
    def transport(self, module: Literal["httpx"] = "httpx") -> httpx.BaseTransport: ...
    @overload
    def transport(self, module: Literal["httpx2"]) -> httpx2.BaseTransport: ...
    def transport(self, module: str = "httpx") -> Any:
        """An in-memory transport for that module's `Client`; faults raise that module's exceptions.

        `drop` is ReadError, `hang` is ReadTimeout (at once), `cut` is RemoteProtocolError. Webhooks are not
        sent; take them from `webhooks`.
        """
        from costguard.testing.memory import Transport

        return Transport(self, module)

    @overload
    def async_transport(self, module: Literal["httpx"] = "httpx") -> httpx.AsyncBaseTransport: ...
    @overload
    def async_transport(self, module: Literal["httpx2"]) -> httpx2.AsyncBaseTransport: ...
    def async_transport(self, module: str = "httpx") -> Any:
        """The same as `transport`, for that module's `AsyncClient`."""
        from costguard.testing.memory import AsyncTransport

        return AsyncTransport(self, module)

    def serve(self) -> AbstractContextManager[str]:
        """Serve HTTP/1.1 on a free port of 127.0.0.1: `with standin.serve() as url: ...`.

        On leaving, webhooks owed are sent, open connections closed and all threads ended.
        """
        from costguard.testing.server import serve

        return serve(self)

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request. What it bills is billed when this returns, whatever the carrier does then."""
        with self._lock:
            lower = {name.lower(): value for name, value in headers.items()}
            self._received.append(Received(method, path, lower, body))
            if path.partition("?")[0].rstrip("/") != "/v1":
                return _refusal(404, _error("notFound", f"there is no {path} here; POST to /v1"))
            if method != "POST":
                return _refusal(405, _error("methodNotAllowed", f"{method} is not served; POST to /v1"))
            try:
                parsed = exact.loads(body)
            except (ValueError, RecursionError):
                return _refusal(400, _error("invalidJson", "the body is not JSON"))
            tasks = parsed if isinstance(parsed, list) else [parsed]
            if not tasks or not all(isinstance(task, dict) for task in tasks):
                return _refusal(400, _error("invalidBody", "the body is not a task, nor a list of tasks"))
            return self._answer(path, tasks)

    def _answer(self, path: str, tasks: list[Task]) -> Reply:
        first = [(task, self._waiting(task)) for task in tasks]
        victim, striking = next(((t, f) for t, f in first if f and f.strikes_request), (None, None))
        if striking:
            self._use(striking)
            if striking.before_work:
                return self._spoil_before(striking, path, tasks)
        answer = _Answer()
        for task in tasks:
            fault = None if task is victim else self._waiting(task, task_only=True)
            if fault:
                self._use(fault)
            self._serve(task, fault, answer)
        self._webhooks += answer.webhooks
        reply = self._reply(answer)
        return self._spoil_after(striking, reply, tasks) if striking else reply

    def _waiting(self, task: Task, *, task_only: bool = False) -> Fault | None:
        """The first fault in order that fits the task."""
        billable = task.get("taskType") not in _FREE
        for fault in self._faults:
            if not (task_only and fault.strikes_request) and fault.fits(task, billable=billable):
                return fault
        return None

    def _use(self, fault: Fault) -> None:
        fault.left -= 1
        if not fault.left:
            self._faults.remove(fault)

    def _spoil_before(self, fault: Fault, path: str, tasks: list[Task]) -> Reply:
        if fault.kind == "drop_before":
            return Reply(502, {}, [], fault="drop")
        if fault.kind == "redirect":
            return Reply(fault.status, {"location": path, "content-length": "0"}, [])
        errors = [_status_error(fault.status, task) for task in tasks]
        if fault.kind == "singular_error":
            return _json_reply(fault.status, {"error": errors[0]})
        return _refusal(fault.status, *errors)

    def _spoil_after(self, fault: Fault, reply: Reply, tasks: list[Task]) -> Reply:
        """Put the fault in the reply's place; the work is done, and its webhooks stay owed."""
        if fault.kind == "drop_after":
            return replace(reply, chunks=[], fault="drop")
        whole = "content-length" in reply.headers
        if fault.kind == "hang":
            return replace(reply, chunks=[] if whole else _half(reply.chunks), fault="hang")
        if fault.kind == "cut":
            body = reply.chunks[0]
            return replace(reply, chunks=[body[: len(body) // 2]] if whole else _half(reply.chunks), fault="cut")
        if fault.kind == "html":
            page = b"<!doctype html><title>Sign in</title><p>This network asks you to sign in first.</p>"
            headers = {"content-type": "text/html; charset=utf-8", "content-length": str(len(page))}
            spoiled = Reply(200, headers, [page])
        elif fault.kind == "no_content_400":
            said = "The model returned no content: its thinking used up the allowance of tokens."
            spoiled = _refusal(400, *(_error("providerNoContent", said, task) for task in tasks))
        else:
            spoiled = _refusal(fault.status, *(_status_error(fault.status, task) for task in tasks))
        return replace(spoiled, webhooks=reply.webhooks)

    def _serve(self, task: Task, fault: Fault | None, answer: _Answer) -> None:
        """Answer one task into `answer`; work on it and bill it if it is billable."""
        problem = _problem(task)
        if problem:
            answer.errors.append((400, problem))
        elif task["taskType"] in _FREE:
            self._serve_free(task, fault, answer)
        else:
            self._deliver(self._work(task, fault), fault, answer)

    def _serve_free(self, task: Task, fault: Fault | None, answer: _Answer) -> None:
        if fault and fault.kind in _REFUSING:
            answer.errors.append((fault.status, _refused(fault.kind, task)))
        elif fault and fault.kind == "forget":
            return
        elif task["taskType"] == "getResponse":
            self._poll(task, answer)
        elif task["taskType"] == "getTaskDetails":
            self._tell_details(task, answer)
        else:
            answer.data.append({key: task[key] for key in ("taskType", "taskUUID") if key in task})

    def _poll(self, task: Task, answer: _Answer) -> None:
        job = self._jobs.get(task["taskUUID"])
        if not job:
            answer.errors.append((self.not_found_status, _unknown(task)))
            return
        job.polls += 1
        ready = job.polls - self.polls_until_done
        if ready > 0:
            answer.errors += [(200, error) for attempt in job.attempts for error in attempt.errors]
        items = [item for attempt in job.attempts for item in attempt.shown]
        answer.data += [{"status": "success", **item} for item in items[: max(ready, 0)]]
        if ready <= 0 or ready < len(items):
            answer.data.append(_processing(job))

    def _tell_details(self, task: Task, answer: _Answer) -> None:
        job = self._jobs.get(task["taskUUID"])
        if not job:
            answer.errors.append((self.not_found_status, _unknown(task)))
            return
        job.inquiries += 1
        kept = job.kept()
        response: dict[str, Any]
        if job.inquiries <= self.details_until_done:
            response = {"data": [_processing(job)]}
        elif kept:
            hidden = () if self.details_with_cost else ("cost", "usage")
            response = {"data": [{k: v for k, v in item.items() if k not in hidden} for item in kept]}
        else:
            response = {"errors": [attempt.refusal for attempt in job.attempts]}
        answer.data.append(
            {
                "taskType": "getTaskDetails",
                "taskUUID": task["taskUUID"],
                "request": job.attempts[-1].task,
                "response": response,
            }
        )

    def _work(self, task: Task, fault: Fault | None) -> _Attempt:
        """Do a billable task: its results, their bills, and what the fault makes of them."""
        kind = fault.kind if fault else ""
        job = self._jobs.get(task["taskUUID"]) or _Job()
        if kind in ("error_entry", "item_error"):
            refusal = _refused(kind, task)
            attempt = _Attempt(task, kept=[], shown=[], refusal=refusal)
            if kind == "item_error":
                attempt.shown = [{"status": "error", **refusal}]
            else:
                attempt.errors = [refusal]
            return self._remember(job, attempt)
        before = job.kept()
        if before and self.bill_retries_once:
            last = next(attempt for attempt in reversed(job.attempts) if attempt.kept)
            return _Attempt(task, last.kept, *_shown(kind, last.kept, task))
        kept = []
        for index in range(len(before), len(before) + task.get("numberResults", 1)):
            item = faults.truth(kind, self._result(task, index))
            model = str(task.get("model", task["taskType"]))
            self._bill.append(Bill(task["taskUUID"], len(job.attempts) + 1, index, _amount(item), model))
            kept.append({key: value for key, value in item.items() if key not in _unasked(task)})
        return self._remember(job, _Attempt(task, kept, *_shown(kind, kept, task)))

    def _remember(self, job: _Job, attempt: _Attempt) -> _Attempt:
        job.attempts.append(attempt)
        self._jobs[attempt.task["taskUUID"]] = job
        return attempt

    def _result(self, task: Task, index: int) -> dict[str, Any]:
        """Result number `index` of a task, with all its figures."""
        seed = answers.item_seed(task, index)
        published = self._published_for(task)
        if published:
            item = {**published, "taskUUID": task["taskUUID"]}
            if index:
                item["seed"] = seed  # results of later attempts can be told apart, as everywhere
        elif task["taskType"] == "textInference":
            text = self.count_text(answers.prompt_text(task))
            item = answers.text_item(
                task,
                seed=seed,
                prompt=answers.prompt_tokens(task, text, self.media_s),
                completion_tokens=self.completion_tokens,
                search_cost=self.search_cost,
            )
        else:
            item = answers.other_item(task, seed=seed, cost=self.item_cost)
        return {**item, "resultIndex": index} if self.result_index else item

    def _published_for(self, task: Task) -> dict[str, Any] | None:
        asked = content(task)
        return next((response for request, response in self._published if self.seeds and request == asked), None)

    def _deliver(self, attempt: _Attempt, fault: Fault | None, answer: _Answer) -> None:
        task, kind = attempt.task, fault.kind if fault else ""
        later = task.get("deliveryMethod") == "async" or "webhookURL" in task
        if task.get("deliveryMethod") == "stream":
            self._stream(attempt, kind, answer)
        elif later and kind != "error_entry":
            if kind != "forget":
                answer.data.append({"taskType": task["taskType"], "taskUUID": task["taskUUID"]})
            if "webhookURL" in task:
                answer.webhooks += self._owed(attempt)
        elif kind != "forget":
            answer.data += attempt.shown
            answer.errors += [(fault.status if fault else 400, error) for error in attempt.errors]

    def _owed(self, attempt: _Attempt) -> Iterator[Webhook]:
        results = [{"status": "success", **item} for item in attempt.shown]
        bodies = [{"data": [item]} if self.webhook_envelope else item for item in results]
        bodies += [{"errors": [error]} for error in attempt.errors]
        for body in bodies:
            webhook = Webhook(attempt.task["webhookURL"], exact.dumps(body).encode())
            yield from [webhook] * self.webhook_times

    def _stream(self, attempt: _Attempt, kind: str, answer: _Answer) -> None:
        answer.streams = True
        if kind == "forget":
            return
        frames = [
            exact.dumps(payload)
            for item in attempt.shown
            for payload in (
                [item]
                if item.get("status") == "error"
                else sse.payloads(item, late_cost=self.sse_late_cost, empty_uuid=self.sse_empty_uuid)
            )
        ]
        frames += [exact.dumps({"errors": [error]}) for error in attempt.errors]
        if kind in ("stream_cut", "stream_error"):
            frames = frames[: len(frames) // 2]
            answer.stream_done = answer.stream_done and kind != "stream_cut"
        if kind == "stream_error":
            frames.append(exact.dumps({"errors": [_refused(kind, attempt.task)]}))
        answer.frames += frames

    def _reply(self, answer: _Answer) -> Reply:
        owed = tuple(answer.webhooks)
        if not answer.streams:
            body: dict[str, Any] = {}
            if answer.data or not answer.errors:
                body["data"] = answer.data
            if answer.errors:
                body["errors"] = [error for _, error in answer.errors]
            reply = _json_reply(200, body)
            # Errors alone carry their status; beside results the reply is a success.
            status = 200 if answer.data or not answer.errors else answer.errors[0][0]
            return Reply(status, reply.headers, reply.chunks, None, owed)
        frames = answer.frames + [exact.dumps(item) for item in answer.data]
        frames += [exact.dumps({"errors": [error]}) for _, error in answer.errors]
        if answer.stream_done:
            frames.append("[DONE]")
        chunks = []
        for at, data in enumerate(frames):
            if self.sse_heartbeats and at % 4 == 0:
                chunks.append(sse.heartbeat(crlf=self.sse_crlf))
            chunks.append(sse.event(data, crlf=self.sse_crlf, space=self.sse_space))
        if self.chunk_bytes:
            whole = b"".join(chunks)
            chunks = [whole[at : at + self.chunk_bytes] for at in range(0, len(whole), self.chunk_bytes)]
        return Reply(200, {"content-type": "text/event-stream"}, chunks, None, owed)


_REFUSING = {
    "error_entry": ("contentRejected", "This task was rejected before any work."),
    "item_error": ("contentRejected", "This task was rejected before any work."),
    "error_timeout": ("timeoutProvider", "The external provider did not respond within the timeout window."),
    "stream_error": ("providerStreamInterrupted", "The provider interrupted the stream."),
}

_STATUS_WORDS = {
    400: ("invalidRequest", "The request is not valid."),
    401: ("invalidApiKey", "The API key is not valid."),
    402: ("insufficientCredits", "The account's balance does not cover this task."),
    403: ("forbidden", "This account may not do this."),
    404: ("notFound", "No such thing here."),
    429: ("tooManyRequests", "The queue is full; try again later."),
    503: ("serviceUnavailable", "The service is not available at the moment."),
    504: ("gatewayTimeout", "The gateway waited too long for the service."),
}


def _error(code: str, message: str, task: Task | None = None, parameter: str = "") -> dict[str, Any]:
    """An error in the documented shape."""
    error: dict[str, Any] = {"code": code, "message": message}
    if parameter:
        error["parameter"] = parameter
    for key in ("taskType", "taskUUID"):
        if task and key in task:
            error[key] = task[key]
    return {**error, "documentation": _DOCUMENTATION}


def _refused(kind: str, task: Task) -> dict[str, Any]:
    code, message = _REFUSING[kind]
    return _error(code, message, task)


def _status_error(status: int, task: Task) -> dict[str, Any]:
    code, message = _STATUS_WORDS.get(status, ("serverError", f"The server answered {status}."))
    return _error(code, message, task)


def _unknown(task: Task) -> dict[str, Any]:
    return _error("taskNotFound", f"Task {task['taskUUID']} was not found.", task, "taskUUID")


def _processing(job: _Job) -> dict[str, Any]:
    task = job.attempts[-1].task
    return {"taskType": task["taskType"], "taskUUID": task["taskUUID"], "status": "processing"}


def _problem(task: Task) -> dict[str, Any] | None:
    """What is wrong with a task, by the documented request parameters; None when it is fine."""

    def invalid(parameter: str, why: str) -> dict[str, Any]:
        return _error("invalidParameter", f"Invalid value for '{parameter}': {why}.", task, parameter)

    if not isinstance(task.get("taskType"), str):
        return invalid("taskType", "a string is required")
    if task["taskType"] == "authentication":
        return None
    if not isinstance(task.get("taskUUID"), str) or not task["taskUUID"]:
        return invalid("taskUUID", "a UUID v4 is required")
    if task["taskType"] in _FREE:
        return None
    if not _whole(task.get("numberResults", 1), 1, 4):
        return invalid("numberResults", "an integer from 1 to 4 is required")
    if task.get("deliveryMethod", "sync") not in ("sync", "async", "stream"):
        return invalid("deliveryMethod", "one of sync, async, stream is required")
    if task["taskType"] != "textInference":
        return None
    if not isinstance(task.get("model"), str):
        return invalid("model", "a string is required")
    messages = task.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return invalid("messages", "an array of objects is required")
    tools = task.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return invalid("tools", "an array of objects is required")
    for group in ("settings", "inputs"):
        if not isinstance(task.get(group, {}), dict):
            return invalid(group, "an object is required")
    for kind, media in task.get("inputs", {}).items():
        if not isinstance(media, list):
            return invalid(f"inputs.{kind}", "an array of strings is required")
    if not _whole(task.get("settings", {}).get("maxTokens", 1), 1, 128_000):
        return invalid("settings.maxTokens", "an integer from 1 to 128000 is required")
    return None


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _amount(item: dict[str, Any]) -> Decimal:
    """What a result is billed at: the exact total; `cost` where there is none, or where it is far larger."""
    cost = Decimal(item["cost"])
    total = Decimal(item.get("usage", {}).get("costBreakdown", {}).get("total", cost))
    return max(cost, total) if abs(cost - total) > Decimal("0.000005") else total


def _unasked(task: Task) -> set[str]:
    asked = {"cost": task.get("includeCost"), "usage": task.get("includeUsage")}
    return {figure for figure, included in asked.items() if included is not True}


def _shown(kind: str, kept: list[dict[str, Any]], task: Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items and the errors by which the client learns of results, as the fault has them."""
    if kind == "error_timeout":
        return [], [_refused(kind, task)]
    # What was changed before it was billed is shown as it is.
    return (kept if kind in faults.TRUE_KINDS else [faults.distort(kind, item) for item in kept]), []


def _half(chunks: list[bytes]) -> list[bytes]:
    return chunks[: max(1, len(chunks) // 2)]


def _json_reply(status: int, body: dict[str, Any]) -> Reply:
    payload = exact.dumps(body).encode()
    headers = {"content-type": "application/json; charset=utf-8", "content-length": str(len(payload))}
    return Reply(status, headers, [payload])


def _refusal(status: int, *errors: dict[str, Any]) -> Reply:
    return _json_reply(status, {"errors": list(errors)})
