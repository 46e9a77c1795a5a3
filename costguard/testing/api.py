"""The stand-in itself, without I/O: a request in, a reply out, and a bill kept on the side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, overload

from costguard.testing import encodings, exact, faults, forms, refusals, replies, requests, spoiling, sse, websockets
from costguard.testing.delivery import Delivery
from costguard.testing.faults import Fault
from costguard.testing.manners import Manners
from costguard.testing.memory import AsyncTransport, Transport
from costguard.testing.records import Bill, Received, Reply, Task, Webhook
from costguard.testing.replies import Answer, refusal
from costguard.testing.server import serve
from costguard.testing.work import Work

if TYPE_CHECKING:
    import httpx
    import httpx2


@dataclass(kw_only=True, eq=False)
class StandIn(Manners):
    """An API that answers like Runware's `POST /v1` and its neighbours, bills like it, and fails when told to.

    Every setting is an attribute and may be changed between requests: see `Manners`. Request bodies may be
    encoded as gzip. Any number of threads may use one stand-in.
    """

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._work = Work(self)
        self._delivery = Delivery(self, self._work)
        self._faults: list[Fault] = []
        self._received: list[Received] = []
        self._webhooks: list[Webhook] = []

    @property
    def bill(self) -> list[Bill]:
        """All that was billed so far, in order; the truth that a ledger is compared with."""
        with self._lock:
            return list(self._work.bill)

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
        return Transport(self, module)

    @overload
    def async_transport(self, module: Literal["httpx"] = "httpx") -> httpx.AsyncBaseTransport: ...
    @overload
    def async_transport(self, module: Literal["httpx2"]) -> httpx2.AsyncBaseTransport: ...
    def async_transport(self, module: str = "httpx") -> Any:
        """The same as `transport`, for that module's `AsyncClient`."""
        return AsyncTransport(self, module)

    def serve(self) -> AbstractContextManager[str]:
        """Serve HTTP/1.1 on a free port of 127.0.0.1: `with standin.serve() as url: ...`.

        On leaving, webhooks owed are sent, open connections closed and all threads ended.
        """
        return serve(self)

    def serve_websocket(self, *, apart: bool = False, conflicts: bool = False) -> AbstractContextManager[str]:
        """Serve a websocket on a free port of 127.0.0.1: `with standin.serve_websocket() as url: ...`.

        Each task of a message is answered by a frame; with `apart` each of its results is, and with `conflicts` one
        that was sent before is turned away with `conflictTaskUUID`. The faults that drop or cut a reply end the
        connection, before a frame or within it; a status is not told. Any key will do. Needs the package `websockets`.
        """
        return websockets.serve(self, apart=apart, conflicts=conflicts)

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request. What it bills is billed when this returns, whatever the carrier does then."""
        with self._lock:
            lower = {name.lower(): value for name, value in headers.items()}
            self._received.append(Received(method, path, lower, body))
            return replies.encoded(self._reply(method, path, lower.get("content-encoding"), body), self)

    def _reply(self, method: str, path: str, encoding: str | None, body: bytes) -> Reply:
        address = path.partition("?")[0].rstrip("/")
        if address not in ("/v1", *forms.FORMS):
            return refusal(404, refusals.error("notFound", f"there is no {path} here; POST to /v1"))
        if method != "POST":
            return refusal(405, refusals.error("methodNotAllowed", f"{method} is not served; POST to /v1"))
        try:
            parsed = exact.loads(encodings.decode(body, encoding))
        except NotImplementedError:
            said = f"content encoding {encoding} is not served; gzip is"
            return refusal(415, refusals.error("unsupportedEncoding", said))
        except (ValueError, RecursionError):
            return refusal(400, refusals.error("invalidJson", "the body is not JSON"))
        if address != "/v1":
            return self._answer_form(address, parsed)
        tasks = parsed if isinstance(parsed, list) else [parsed]
        if not tasks or not all(isinstance(task, dict) for task in tasks):
            return refusal(400, refusals.error("invalidBody", "the body is not a task, nor a list of tasks"))
        return self._answer(path, tasks)

    def _answer(self, path: str, tasks: list[Task]) -> Reply:
        first = [(task, self._waiting(task)) for task in tasks]
        victim, striking = next(((t, f) for t, f in first if f and f.strikes_request), (None, None))
        if striking:
            self._use(striking)
            if striking.before_work:
                return spoiling.before_work(striking, path, tasks)
        answer = Answer()
        for task in tasks:
            fault = None if task is victim else self._waiting(task, task_only=True)
            if fault:
                self._use(fault)
            self._serve(task, fault, answer)
        self._webhooks += answer.webhooks
        reply = replies.reply(answer, self)
        return spoiling.after_work(striking, reply, tasks) if striking else reply

    def _answer_form(self, address: str, asked: object) -> Reply:
        """Answer a request in OpenAI's or Anthropic's form: a task without a name of its own, and of no other kind."""
        form = forms.FORMS[address]
        problem = form.problem(asked)
        if problem or not isinstance(asked, dict):
            return refusal(400, refusals.error("invalidParameter", problem))
        delivery = "stream" if asked.get("stream") else "sync"
        task: Task = {"taskType": "textInference", "deliveryMethod": delivery, "model": asked["model"]}
        fault = self._waiting(task)
        if fault:
            self._use(fault)
            if fault.before_work:
                return spoiling.before_work(fault, address, [task])
        kind = fault.kind if fault else ""
        if kind in forms.UNBILLED:
            return refusal(fault.status if fault else 400, refusals.by_fault(kind, task))
        done = self._work.do_form(form, asked)
        plain = forms.reply(form, asked, done, kind, self)
        carried = replies.encoded(plain, self)
        if asked.get("stream"):
            carried = replace(carried, chunks=sse.recut(carried.chunks, self.chunk_bytes))
        return spoiling.after_work(fault, carried, [task]) if fault and fault.strikes_request else carried

    def _waiting(self, task: Task, *, task_only: bool = False) -> Fault | None:
        """The first fault in order that fits the task."""
        billable = task.get("taskType") not in requests.FREE
        for fault in self._faults:
            if not (task_only and fault.strikes_request) and fault.fits(task, billable=billable):
                return fault
        return None

    def _use(self, fault: Fault) -> None:
        fault.left -= 1
        if not fault.left:
            self._faults.remove(fault)

    def _serve(self, task: Task, fault: Fault | None, answer: Answer) -> None:
        """Answer one task into `answer`; work on it and bill it if it is billable."""
        problem = requests.problem(task)
        if problem:
            answer.errors.append((400, problem))
        elif task["taskType"] in requests.FREE:
            self._delivery.serve_free(task, fault, answer)
        else:
            attempt = self._work.do(task, fault.kind if fault else "")
            self._delivery.deliver(attempt, fault, answer)
