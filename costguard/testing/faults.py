"""The faults a stand-in can be told to commit, and whether the task is billed all the same.

=====================  ======  ===============================================================
kind                   billed  what the client meets
=====================  ======  ===============================================================
status:NNN             no      status NNN with `errors`, before work
singular_error         no      400 with one `{"error": {...}}`
redirect:NNN           no      status NNN with `Location` to the same address
drop_before            no      the connection is dropped before work
status_billed:NNN      yes     status NNN with `errors`, after work
no_content_400         yes     400 that says "no content": thinking ate the allowance
html                   yes     200 with a page of HTML in the answer's place
cut                    yes     the body ends half way and the connection closes
hang                   yes     no answer (a stream: half of it), the connection stays open
drop_after             yes     the connection is dropped after work
error_entry            no      an `errors` entry for the task
item_error             no      a `data` item with status `error`
error_timeout          yes     an `errors` entry that speaks of a provider timeout
forget                 yes     200 that does not mention the task
no_cost                yes     success without `cost` and `usage`
cost_only              yes     success with `cost` only; the rounded figure is what is billed
usage_only             yes     success with token counts only
odd_total              yes     `cost` one cent above `total`; the larger is billed
item_and_error         yes     a result with text and figures, and an `error` of its own besides
bad_breakdown          yes     the parts of the breakdown pass its `total` by a tenth of a cent
negative               yes     `cost` and `total` are -1
nan                    yes     `cost` and `total` are NaN, bare words in the JSON
huge                   yes     `cost` and `total` are 10^12
stream_cut             yes     the stream ends half way, without `[DONE]`
stream_error           yes     half of the stream, then an error frame that blames the provider
stream_error_cost      yes     half of the text, then a frame of the task with `error`, `cost` and `usage`
stream_error_alone     yes     the same frame, and no text before it
stream_no_cost         yes     the stream ends well and names no cost
=====================  ======  ===============================================================

The first ten strike a whole request (all its tasks), the rest one task; those named `stream_` wait for a
streamed task. NNN is a status; `singular_error`, `error_entry`, `error_timeout` take one too
(`error_entry:400`). `getTaskDetails` tells the truth about every task that was worked on.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from costguard.errors import ConfigurationError
from costguard.testing import figures

_BEFORE = {"status": None, "singular_error": 400, "redirect": 308, "drop_before": None}
_AFTER = {
    "status_billed": 500, "no_content_400": None, "html": None, "cut": None, "hang": None, "drop_after": None,
}  # fmt: skip
_TASK = {
    "error_entry": 200, "item_error": None, "error_timeout": 200, "forget": None, "no_cost": None,
    "cost_only": None, "usage_only": None, "odd_total": None, "bad_breakdown": None, "negative": None,
    "nan": None, "huge": None, "item_and_error": None, "stream_cut": None, "stream_error": None,
    "stream_error_cost": None, "stream_error_alone": None, "stream_no_cost": None,
}  # fmt: skip

KINDS = (*_BEFORE, *_AFTER, *_TASK)
"""Every kind of fault; the table in this module says what each does and which are billed."""

_STATUSES = {**_BEFORE, **_AFTER, **_TASK}
_TAKES_STATUS = {kind for kind, status in _STATUSES.items() if status is not None} | {"status"}


TRUE_KINDS = ("cost_only", "odd_total")
"""Kinds that change what is billed, and not only what is shown."""


@dataclass
class Fault:
    """A fault waiting for its task: `left` more times, for those that `fits`."""

    kind: str
    status: int
    left: int
    task_uuid: str | None
    match: Callable[[dict[str, Any]], bool] | None

    @property
    def strikes_request(self) -> bool:
        """Whether it spoils the answer to all tasks of a request."""
        return self.kind in _BEFORE or self.kind in _AFTER

    @property
    def before_work(self) -> bool:
        """Whether no task of the request is worked on, and none billed."""
        return self.kind in _BEFORE

    def fits(self, task: dict[str, Any], *, billable: bool) -> bool:
        """Whether it is meant for this task; free tasks are struck only by an explicit `match`."""
        if self.task_uuid is not None and task.get("taskUUID") != self.task_uuid:
            return False
        if self.kind.startswith("stream_") and task.get("deliveryMethod") != "stream":
            return False
        return self.match(task) if self.match else billable


def parse(spec: str, *, times: int, task_uuid: str | None, match: Callable[[dict[str, Any]], bool] | None) -> Fault:
    """Read a kind such as `cut` or `status:503`; ConfigurationError says which kinds there are."""
    kind, _, number = spec.partition(":")
    if kind not in KINDS:
        raise ConfigurationError(f"fault {spec!r} is not known; the kinds are: {', '.join(KINDS)}")
    if number and (kind not in _TAKES_STATUS or not re.fullmatch("[2-5][0-9][0-9]", number)):
        raise ConfigurationError(f"fault {spec!r}: only {', '.join(sorted(_TAKES_STATUS))} take a status, 200-599")
    if kind == "status" and not number:
        raise ConfigurationError("fault 'status' needs its number, such as 'status:503'")
    if times < 1:
        raise ConfigurationError(f"fault {spec!r}: times is {times}; state 1 or more")
    return Fault(kind, int(number or _STATUSES[kind] or 200), times, task_uuid, match)


def distort(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """A result as the fault shows it: a changed copy, or the same content where the kind changes none."""
    shown = copy.deepcopy(item)
    breakdown = shown.get("usage", {}).get("costBreakdown", {})
    if kind in ("no_cost", "stream_no_cost"):
        shown.pop("cost", None)
        shown.pop("usage", None)
    elif kind in ("cost_only", "usage_only"):
        return figures.tell(shown, "cost" if kind == "cost_only" else "tokens")
    elif kind == "item_and_error":
        shown["error"] = {"code": "outputFiltered", "message": "A part of the output was held back."}
    elif kind == "odd_total":
        shown["cost"] = breakdown.get("total", shown["cost"]) + Decimal("0.01")
    elif kind == "bad_breakdown" and breakdown:
        breakdown["tokens"]["prompt"]["modalities"][0]["cost"] += Decimal("0.001")
    elif kind in ("negative", "nan", "huge"):
        shown["cost"] = {"negative": Decimal(-1), "nan": Decimal("NaN"), "huge": Decimal(10**12)}[kind]
        if breakdown:
            breakdown["total"] = shown["cost"]
    return shown


def truth(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """The result as the provider keeps and bills it."""
    return distort(kind, item) if kind in TRUE_KINDS else item
