"""What a caller is told of what went wrong."""

from __future__ import annotations

import logging

import httpx

from costguard.clients.httpx.messages import is_never_sent
from costguard.errors import ConfigurationError, InvalidRequest, LedgerError
from costguard.refusals import BudgetExceeded, UnpricedTask
from costguard.serving.caller import TooLargeError
from costguard.serving.upstream import BODY_BYTES_MAX, NotPlainError
from costguard.wire.dialect import Problem

SENT = "it may have been billed: if it is guarded, its worst case stays held as unresolved"
"""Of a call that had gone out."""

_LOG = "the proxy's log says why"


log = logging.getLogger("costguard")


class TurnedAwayError(Exception):
    """A call is not let in, for `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: Exception, upstream: str) -> Problem | None:
    """What to say of an error to whoever made the call to `upstream`; None if it is none that is expected."""
    match error:
        case TurnedAwayError():
            return error.problem
        case BudgetExceeded():
            return Problem(402, "budget_exceeded", str(error))
        case UnpricedTask():
            return Problem(402, "unpriced_task", str(error))
        case InvalidRequest():
            return Problem(400, "invalid_request", str(error))
        case LedgerError():
            # Its words name files and hosts, which are the operator's to know.
            log.error("a call was refused: %s", error)
            return Problem(503, "ledger_unavailable", f"the ledger cannot be used; {_LOG}; nothing was sent")
        case ConfigurationError():
            log.error("a call was refused: %s", error)
            return Problem(500, "configuration", f"the proxy is not set up for this call; {_LOG}; nothing was sent")
        case TooLargeError():
            most = f"{BODY_BYTES_MAX // 2**20} MiB"
            return Problem(413, "body_too_large", f"the body is longer than {most}; nothing was sent")
        case NotPlainError():
            said = (
                "the path is spelled in a way that others may read otherwise; write it plainly, such as /v1/responses"
            )
            return Problem(400, "path_not_plain", f"{said}; nothing was sent")
        case httpx.HTTPError():
            name = type(error).__name__
            if is_never_sent(error):
                return Problem(502, "upstream_unreachable", f"{upstream} cannot be reached ({name}); nothing was sent")
            if isinstance(error, httpx.TimeoutException):
                return Problem(504, "upstream_timeout", f"{upstream} did not answer in time ({name}); {SENT}")
            return Problem(502, "upstream_failed", f"the answer of {upstream} broke off ({name}); {SENT}")
    return None


def where(error: Exception) -> str:
    """An error by its kind and place: its words may hold what must reach no log."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
