"""The work: a task becomes results, results become bills, and what was done is remembered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from costguard.testing import answers, exact, faults, made, refusals
from costguard.testing.forms import Done, Form
from costguard.testing.manners import Manners
from costguard.testing.published import content, seeds
from costguard.testing.records import Bill, Task


@dataclass
class Attempt:
    """One sending of a task: its results as kept (`kept`), as shown, and what was said instead."""

    task: Task
    kept: list[dict[str, Any]]
    shown: list[dict[str, Any]]
    errors: list[dict[str, Any]] = field(default_factory=list)
    refusal: dict[str, Any] | None = None


@dataclass
class Job:
    """All that is known of one taskUUID."""

    attempts: list[Attempt] = field(default_factory=list)
    polls: int = 0
    inquiries: int = 0

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The results of all attempts, as the provider keeps them."""
        return [item for attempt in self.attempts for item in attempt.kept]


class Work:
    """The jobs so far and their `bill`. Not safe for threads by itself."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._published = [(content(exact.loads(json.dumps(seed.request))), seed.response) for seed in seeds()]
        self._jobs: dict[str, Job] = {}
        self.bill: list[Bill] = []

    def job(self, task_uuid: str) -> Job | None:
        """What is known of a task; a UUID is the same in either case."""
        return self._jobs.get(task_uuid.lower())

    def do(self, task: Task, kind: str) -> Attempt:
        """Do a billable task: its results, their bills, and what a fault of `kind` ("" for none) makes of them."""
        job = self._jobs.setdefault(task["taskUUID"].lower(), Job())
        if kind in ("error_entry", "item_error"):
            refusal = refusals.by_fault(kind, task)
            attempt = Attempt(task, kept=[], shown=[], refusal=refusal)
            if kind == "item_error":
                attempt.shown = [{"status": "error", **refusal}]
            else:
                attempt.errors = [refusal]
            job.attempts.append(attempt)
            return attempt
        before = job.kept
        if before and self._manners.bill_retries_once:
            last = next(attempt for attempt in reversed(job.attempts) if attempt.kept)
            return Attempt(task, last.kept, *_shown(kind, last.kept, task))
        kept = []
        for index in range(len(before), len(before) + task.get("numberResults", 1)):
            item = faults.truth(kind, self._result(task, index))
            model = str(task.get("model", task["taskType"]))
            self.bill.append(Bill(task["taskUUID"], len(job.attempts) + 1, index, _amount(item), model))
            kept.append({key: value for key, value in item.items() if key not in _unasked(task)})
        job.attempts.append(Attempt(task, kept, *_shown(kind, kept, task)))
        return job.attempts[-1]

    def do_form(self, form: Form, asked: dict[str, Any]) -> Done:
        """Do a request in another form, and bill all its choices together, under the name that it is answered by."""
        manners = self._manners
        number = len(self.bill) + 1
        prompt = manners.count_text(form.text(asked)) + answers.IMAGE_TOKENS * form.images(asked)
        allowed = form.allowed(asked)
        wanted = manners.completion_tokens + number % 16
        completion = wanted if allowed is None else min(wanted, allowed)
        choices = asked.get("n") or 1
        rate = answers.rates(asked["model"], prompt)
        nanos = prompt * rate.prompt + choices * completion * rate.completion
        done = Done(
            name=f"{form.prefix}{number:06}",
            model=asked["model"],
            words=answers.words(number, completion),
            choices=choices,
            prompt=prompt,
            cached=max(min(manners.cached_tokens, prompt - 1), 0),
            completion=choices * completion,
            is_short=allowed is not None and wanted >= allowed,
            cost=Decimal(nanos).scaleb(-9) if manners.tells_cost else None,
        )
        self.bill.append(Bill(done.name, 1, 0, Decimal(nanos).scaleb(-9), done.model))
        return done

    def _result(self, task: Task, index: int) -> dict[str, Any]:
        """Result number `index` of a task, with all its figures."""
        manners = self._manners
        seed = answers.item_seed(task, index)
        published = self._published_for(task)
        if published:
            item = {**published, "taskUUID": task["taskUUID"]}
            if index:
                item["seed"] = seed  # results of later attempts can be told apart, as everywhere
        elif task["taskType"] == "textInference":
            text = manners.count_text(answers.prompt_text(task))
            item = answers.text_item(
                task,
                seed=seed,
                prompt=answers.prompt_tokens(task, text, manners.media_s),
                completion_tokens=manners.completion_tokens,
                search_cost=manners.search_cost,
            )
        else:
            item = made.item(
                task,
                seed=seed,
                rates=manners.made_rates,
                cost=manners.item_cost,
                length_s=manners.made_s,
                tells_size=manners.tells_size,
            )
        return {**item, "resultIndex": index} if manners.result_index else item

    def _published_for(self, task: Task) -> dict[str, Any] | None:
        asked = content(task)
        found = (response for request, response in self._published if self._manners.seeds and request == asked)
        return next(found, None)


def _shown(kind: str, kept: list[dict[str, Any]], task: Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items and the errors by which the client learns of results, as the fault has them."""
    if kind == "error_timeout":
        return [], [refusals.by_fault(kind, task)]
    # What was changed before it was billed is shown as it is.
    return (kept if kind in faults.TRUE_KINDS else [faults.distort(kind, item) for item in kept]), []


def _amount(item: dict[str, Any]) -> Decimal:
    """What a result is billed at: the exact total; `cost` where there is none, or where it is far larger."""
    cost = Decimal(item["cost"])
    total = Decimal(item.get("usage", {}).get("costBreakdown", {}).get("total", cost))
    return max(cost, total) if abs(cost - total) > Decimal("0.000005") else total


def _unasked(task: Task) -> set[str]:
    asked = {"cost": task.get("includeCost"), "usage": task.get("includeUsage")}
    return {figure for figure, included in asked.items() if included is not True}
