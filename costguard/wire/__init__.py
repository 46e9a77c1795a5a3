"""The wires that are spoken: one folder or file a dialect, and this list of them. No I/O."""

from __future__ import annotations

from costguard.wire.dialect import Dialect, Known
from costguard.wire.openai_style.chat import Chat
from costguard.wire.openai_style.messages import Messages
from costguard.wire.openai_style.paths import OpenAIStyle
from costguard.wire.openai_style.responses import Responses
from costguard.wire.runware.dialect import Runware
from costguard.wire.runware.hosts import SOCKETS as SOCKETS

NATIVE: Dialect = Runware()
"""The dialect of tasks that callers hand over without a request, and of results from anywhere."""

DIALECTS: tuple[Dialect, ...] = (Chat(), Responses(), Messages(), NATIVE)
"""Every dialect, in the order that they are asked whether a POST is theirs."""

UNMETERED: tuple[Known, ...] = (OpenAIStyle(), OpenAIStyle(by_path=True))
"""Wires whose paths are known and whose costs are not read yet: a hard budget refuses them. The last that may have a
POST is asked."""


def dialect_of(task_uuid: str) -> Dialect:
    """The dialect that a task of the ledger is of, by its name."""
    return next((one for one in DIALECTS if one.prefix and task_uuid.startswith(one.prefix)), NATIVE)
