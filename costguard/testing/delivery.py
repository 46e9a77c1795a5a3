"""How what was done is delivered: at once, as a stream, by polls, by `getTaskDetails`, by webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from costguard.testing import exact, figures, refusals, sse
from costguard.testing.faults import Fault
from costguard.testing.manners import Manners, Told
from costguard.testing.records import Task, Webhook
from costguard.testing.replies import Answer
from costguard.testing.work import Attempt, Job, Work


class Delivery:
    """Puts what `work` did into answers, in the manners it is told."""

    def __init__(self, manners: Manners, work: Work) -> None:
        self._manners = manners
        self._work = work

    def deliver(self, attempt: Attempt, fault: Fault | None, answer: Answer) -> None:
        """What the sending of a task is answered with, and the webhooks it is owed."""
        task, kind = attempt.task, fault.kind if fault else ""
        streams = task.get("deliveryMethod") == "stream"
        later = task.get("deliveryMethod") == "async" or "webhookURL" in task
        if "webhookURL" in task and kind != "error_entry":
            answer.webhooks += self._owed(attempt)
        if streams and not self._manners.stream_whole:
            self._stream(attempt, kind, answer)
        elif later and not streams and kind != "error_entry":
            if kind != "forget":
                answer.data.append({"taskType": task["taskType"], "taskUUID": task["taskUUID"]})
        elif kind != "forget":
            answer.data += self._told(attempt.shown, self._manners.stream_figures if streams else "all")
            answer.errors += [(fault.status if fault else 400, error) for error in attempt.errors]

    def serve_free(self, task: Task, fault: Fault | None, answer: Answer) -> None:
        """Answer a task that costs nothing."""
        if fault and fault.kind in refusals.REFUSING:
            answer.errors.append((fault.status, refusals.by_fault(fault.kind, task)))
        elif fault and fault.kind == "forget":
            return
        elif task["taskType"] not in ("getResponse", "getTaskDetails"):
            answer.data.append({key: task[key] for key in ("taskType", "taskUUID") if key in task})
        elif (job := self._work.job(task["taskUUID"])) is None:
            answer.errors.append((self._manners.not_found_status, refusals.unknown(task)))
        elif task["taskType"] == "getResponse":
            self._poll(job, answer)
        else:
            self._tell_details(task, job, answer)

    def _poll(self, job: Job, answer: Answer) -> None:
        manners = self._manners
        waited, job.polls = job.polls, job.polls + 1
        ready = job.polls - len(manners.poll_statuses) - manners.polls_until_done
        if ready > 0:
            answer.errors += [(200, error) for attempt in job.attempts for error in attempt.errors]
        items = self._told([item for attempt in job.attempts for item in attempt.shown], manners.poll_figures)
        answer.data += [{"status": manners.done_status, **item} for item in items[: max(ready, 0)]]
        if waited < len(manners.poll_statuses):
            answer.data.append(_unfinished(job, manners.poll_statuses[waited]) | {"cost": 0})
        elif ready <= 0 or ready < len(items):
            answer.data.append(_unfinished(job, "processing"))

    def _tell_details(self, task: Task, job: Job, answer: Answer) -> None:
        job.inquiries += 1
        response: dict[str, Any]
        if job.inquiries <= self._manners.details_until_done:
            response = {"data": [_unfinished(job, "processing")]}
        elif kept := self._told(job.kept, "all"):
            hidden = () if self._manners.details_with_cost else ("cost", "usage")
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

    def _owed(self, attempt: Attempt) -> Iterator[Webhook]:
        manners = self._manners
        items = self._told(attempt.shown, manners.webhook_figures)
        results = [{"status": manners.done_status, **item} for item in items]
        bodies = [{"data": [item]} if manners.webhook_envelope else item for item in results]
        bodies += [{"errors": [error]} for error in attempt.errors]
        for body in bodies:
            webhook = Webhook(attempt.task["webhookURL"], exact.dumps(figures.spell(body, manners)).encode())
            yield from [webhook] * manners.webhook_times

    def _stream(self, attempt: Attempt, kind: str, answer: Answer) -> None:
        answer.streams = True
        if kind == "forget":
            return
        items = self._told(attempt.shown, self._manners.stream_figures)
        if kind in ("stream_error_cost", "stream_error_alone"):
            error = refusals.by_fault(kind, attempt.task)
            answer.frames += sse.failed(items, error, self._manners, with_text=kind == "stream_error_cost")
            return
        frames = sse.payloads(items, self._manners)
        frames += [{"errors": [error]} for error in attempt.errors]
        if kind in ("stream_cut", "stream_error"):
            frames = frames[: len(frames) // 2]
            answer.stream_done = answer.stream_done and kind != "stream_cut"
        if kind == "stream_error":
            frames.append({"errors": [refusals.by_fault(kind, attempt.task)]})
        answer.frames += frames

    def _told(self, items: list[dict[str, Any]], told: Told) -> list[dict[str, Any]]:
        """Results as one road tells them; those that failed stay as they are."""
        if not self._manners.blank_error:
            return [figures.tell(item, told) for item in items]
        return [figures.tell(item if item.get("error") else {**item, "error": " "}, told) for item in items]


def _unfinished(job: Job, status: str) -> dict[str, Any]:
    task = job.attempts[-1].task
    return {"taskType": task["taskType"], "taskUUID": task["taskUUID"], "status": status}
