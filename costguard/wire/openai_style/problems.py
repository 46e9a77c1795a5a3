"""Errors in OpenAI's form and in Anthropic's.

Sources: https://platform.openai.com/docs/guides/error-codes, https://docs.anthropic.com/en/api/errors
"""

from __future__ import annotations

from costguard.wire import strict
from costguard.wire.dialect import Problem

_OPENAI = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error"}
"""Status -> `type`; others by their class."""

_ANTHROPIC = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    504: "timeout_error",
}


def openai(problem: Problem) -> bytes:
    """`{"error": {"message", "type", "code", "param"}}`."""
    kind = _OPENAI.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    return strict.write({"error": {"message": problem.message, "type": kind, "code": problem.kind, "param": None}})


def anthropic(problem: Problem) -> bytes:
    """`{"type": "error", "error": {"type", "message"}}`."""
    kind = _ANTHROPIC.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    return strict.write({"type": "error", "error": {"type": kind, "message": problem.message}})
