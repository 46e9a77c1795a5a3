"""Faults that strike a whole request: what the client meets in the place of a reply."""

from __future__ import annotations

from dataclasses import replace

from costguard.testing import refusals
from costguard.testing.faults import Fault
from costguard.testing.records import Reply, Task
from costguard.testing.replies import json_reply, refusal


def before_work(fault: Fault, path: str, tasks: list[Task]) -> Reply:
    """The reply to a request that is turned away."""
    if fault.kind == "drop_before":
        return Reply(502, {}, [], fault="drop")
    if fault.kind == "redirect":
        return Reply(fault.status, {"location": path, "content-length": "0"}, [])
    errors = [refusals.by_status(fault.status, task) for task in tasks]
    if fault.kind == "singular_error":
        return json_reply(fault.status, {"error": errors[0]})
    return refusal(fault.status, *errors)


def after_work(fault: Fault, reply: Reply, tasks: list[Task]) -> Reply:
    """The fault in the reply's place; the work is done, and its webhooks stay owed."""
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
        spoiled = refusal(400, *(refusals.error("providerNoContent", said, task) for task in tasks))
    else:
        spoiled = refusal(fault.status, *(refusals.by_status(fault.status, task) for task in tasks))
    return replace(spoiled, webhooks=reply.webhooks)


def _half(chunks: list[bytes]) -> list[bytes]:
    return chunks[: max(1, len(chunks) // 2)]
