"""The stand-in's other paths: OpenAI's chat completions and responses, Anthropic's messages.

By their own documentation: https://platform.openai.com/docs/api-reference and https://docs.anthropic.com/en/api. Errors
are in Runware's form, which these paths keep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from costguard.testing import exact, refusals, sse
from costguard.testing.manners import Manners
from costguard.testing.records import Reply
from costguard.testing.replies import json_reply

UNBILLED = ("error_entry", "item_error")
"""Kinds of fault that answer with an error before any work; `item_error` as an entry here, too."""

_WORDS_PER_EVENT = 8
_UNTOLD = ("no_cost", "stream_no_cost")
_CUT = ("stream_cut", "stream_error")

Event = tuple[str, Any]
"""Name ("" for none) and data; text as it is."""


class Done(NamedTuple):
    """A request that was worked on: `completion` counts the tokens of all choices, `cost` is USD, None to tell none."""

    name: str
    model: str
    words: list[str]
    choices: int
    prompt: int
    cached: int
    completion: int
    is_short: bool
    cost: Decimal | None

    @property
    def text(self) -> str:
        """What each choice says."""
        return " ".join(self.words)

    @property
    def pieces(self) -> list[str]:
        """The same, in pieces that join to it."""
        listed = [self.words[at : at + _WORDS_PER_EVENT] for at in range(0, len(self.words), _WORDS_PER_EVENT)]
        return [(" " if at else "") + " ".join(piece) for at, piece in enumerate(listed)]


class Form(ABC):
    """One path: how it is asked and how it answers."""

    prefix: str
    """Of the names it gives its answers."""
    asked_in: str
    """The field that the model is asked in."""
    limits: tuple[str, ...]
    """The fields that may bound the completion."""
    last = ""
    """What ends its streams after all events."""

    def problem(self, asked: object) -> str:
        """What is wrong with a request; "" if it is fine."""
        if not isinstance(asked, dict):
            return "an object is required"
        if not isinstance(asked.get("model"), str):
            return "'model': a string is required"
        if not isinstance(asked.get(self.asked_in), (str, list)):
            return f"'{self.asked_in}' is required"
        return ""

    def allowed(self, asked: Mapping[str, Any]) -> int | None:
        """The completion tokens of a choice at most, None if nothing is said."""
        return next((int(asked[key]) for key in self.limits if asked.get(key) is not None), None)

    def text(self, asked: Mapping[str, Any]) -> str:
        """All text of the prompt."""
        return "".join(part for part in _parts(asked, self.asked_in) if isinstance(part, str))

    def images(self, asked: Mapping[str, Any]) -> int:
        """How many images there are in the prompt."""
        return sum(not isinstance(part, str) for part in _parts(asked, self.asked_in))

    @abstractmethod
    def whole(self, done: Done, told: bool) -> dict[str, Any]:
        """The answer; `told`: with its usage."""

    @abstractmethod
    def events(self, done: Done, asked: Mapping[str, Any], told: bool) -> list[Event]:
        """The events of its stream; `told`: with its usage."""


class _Chat(Form):
    prefix = "chatcmpl-"
    asked_in = "messages"
    limits = ("max_completion_tokens", "max_tokens")
    last = "[DONE]"

    def whole(self, done: Done, told: bool) -> dict[str, Any]:
        message = {"role": "assistant", "content": done.text}
        choices = [{"index": at, "message": message, "finish_reason": _reason(done)} for at in range(done.choices)]
        found = {"id": done.name, "object": "chat.completion", "created": 1, "model": done.model, "choices": choices}
        return {**found, "usage": _usage(done)} if told else found

    def events(self, done: Done, asked: Mapping[str, Any], told: bool) -> list[Event]:
        head = {"id": done.name, "object": "chat.completion.chunk", "created": 1, "model": done.model}
        options = asked.get("stream_options")
        is_asked = isinstance(options, dict) and options.get("include_usage") is True
        beside = {"usage": None} if is_asked else {}
        deltas: list[tuple[int, dict[str, str], str | None]] = [
            (at, {"content": piece}, None) for at in range(done.choices) for piece in done.pieces
        ]
        deltas += [(at, {}, _reason(done)) for at in range(done.choices)]
        found: list[Event] = [
            ("", {**head, "choices": [{"index": at, "delta": delta, "finish_reason": reason}], **beside})
            for at, delta, reason in deltas
        ]
        return [*found, ("", {**head, "choices": [], "usage": _usage(done)})] if is_asked and told else found


class _Responses(Form):
    prefix = "resp_"
    asked_in = "input"
    limits = ("max_output_tokens",)

    def whole(self, done: Done, told: bool) -> dict[str, Any]:
        status = "incomplete" if done.is_short else "completed"
        output = [self._item(done, status, [self._part(done.text)])]
        return {**self._head(done, status), "output": output, "usage": self._usage(done) if told else None}

    def events(self, done: Done, asked: Mapping[str, Any], told: bool) -> list[Event]:  # noqa: ARG002
        whole = self.whole(done, told)
        (item,) = whole["output"]
        begun = {**self._head(done, "in_progress"), "output": [], "usage": None}
        at = {"output_index": 0}
        within = {**at, "item_id": item["id"], "content_index": 0}
        kinds: list[Event] = [("response.created", {"response": begun})]
        kinds.append(("response.output_item.added", {**at, "item": self._item(done, "in_progress", [])}))
        kinds.append(("response.content_part.added", {**within, "part": self._part("")}))
        kinds += [("response.output_text.delta", {**within, "delta": piece, "logprobs": []}) for piece in done.pieces]
        kinds.append(("response.output_text.done", {**within, "text": done.text, "logprobs": []}))
        kinds.append(("response.content_part.done", {**within, "part": self._part(done.text)}))
        kinds.append(("response.output_item.done", {**at, "item": item}))
        kinds.append((f"response.{whole['status']}", {"response": whole}))
        return [(kind, {"type": kind, "sequence_number": n, **more}) for n, (kind, more) in enumerate(kinds)]

    @staticmethod
    def _item(done: Done, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": f"msg_{done.name}", "type": "message", "status": status, "role": "assistant", "content": content}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": []}

    @staticmethod
    def _head(done: Done, status: str) -> dict[str, Any]:
        return {"id": done.name, "object": "response", "status": status, "model": done.model, "error": None}

    @staticmethod
    def _usage(done: Done) -> dict[str, Any]:
        found = {
            "input_tokens": done.prompt,
            "input_tokens_details": {"cached_tokens": done.cached},
            "output_tokens": done.completion,
            "output_tokens_details": {"reasoning_tokens": done.completion // 2},
            "total_tokens": done.prompt + done.completion,
        }
        return found if done.cost is None else {**found, "cost": done.cost}


class _Messages(Form):
    prefix = "msg_"
    asked_in = "messages"
    limits = ("max_tokens",)

    def whole(self, done: Done, told: bool) -> dict[str, Any]:
        content = [{"type": "text", "text": done.text}]
        found = {**self._head(done), "content": content, "stop_reason": _stop(done)}
        return {**found, "usage": {**self._opening(done), **self._end(done)}} if told else found

    def events(self, done: Done, asked: Mapping[str, Any], told: bool) -> list[Event]:  # noqa: ARG002
        opening = {**self._opening(done), "output_tokens": 1} if told else {}
        message = {**self._head(done), "content": [], "stop_reason": None, "usage": opening}
        kinds: list[Event] = [("message_start", {"message": message})]
        block = {"type": "text", "text": ""}
        kinds.append(("content_block_start", {"index": 0, "content_block": block}))
        kinds += [
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}})
            for piece in done.pieces
        ]
        kinds.append(("content_block_stop", {"index": 0}))
        delta = {"delta": {"stop_reason": _stop(done), "stop_sequence": None}}
        kinds.append(("message_delta", {**delta, "usage": self._end(done) if told else {}}))
        kinds.append(("message_stop", {}))
        return [(kind, {"type": kind, **more}) for kind, more in kinds]

    @staticmethod
    def _head(done: Done) -> dict[str, Any]:
        return {"id": done.name, "type": "message", "role": "assistant", "model": done.model}

    @staticmethod
    def _opening(done: Done) -> dict[str, Any]:
        """Its `input_tokens` leave out what was read from a cache."""
        return {
            "input_tokens": done.prompt - done.cached,
            "cache_read_input_tokens": done.cached,
            "cache_creation_input_tokens": 0,
        }

    @staticmethod
    def _end(done: Done) -> dict[str, Any]:
        found = {"output_tokens": done.completion}
        return found if done.cost is None else {**found, "cost": done.cost}


FORMS: Mapping[str, Form] = {
    "/v1/chat/completions": _Chat(),
    "/v1/responses": _Responses(),
    "/v1/messages": _Messages(),
}
"""The form of each path."""


def reply(form: Form, asked: Mapping[str, Any], done: Done, kind: str, manners: Manners) -> Reply:
    """The reply to a request that was worked on, as a fault of `kind` ("" for none) makes it."""
    told = kind not in _UNTOLD
    if kind == "error_timeout":
        return json_reply(504, {"errors": [refusals.by_fault(kind, {})]})
    if not asked.get("stream") or manners.stream_whole:
        return json_reply(200, {} if kind == "forget" else form.whole(done, told))
    listed = [] if kind == "forget" else form.events(done, asked, told)
    listed = listed[: len(listed) // 2] if kind in _CUT else listed
    if kind == "stream_error":
        listed.append(("", {"errors": [refusals.by_fault(kind, {})]}))
    texts = [(name, exact.dumps(data)) for name, data in listed]
    if form.last and kind != "stream_cut" and manners.sse_done:
        texts.append(("", form.last))
    content_type = manners.sse_content_type
    return Reply(200, {} if content_type is None else {"content-type": content_type}, sse.events(texts, manners))


def _usage(done: Done) -> dict[str, Any]:
    found = {
        "prompt_tokens": done.prompt,
        "completion_tokens": done.completion,
        "total_tokens": done.prompt + done.completion,
        "prompt_tokens_details": {"cached_tokens": done.cached},
        "completion_tokens_details": {"reasoning_tokens": done.completion // 2},
    }
    return found if done.cost is None else {**found, "cost": done.cost}


def _reason(done: Done) -> str:
    return "length" if done.is_short else "stop"


def _stop(done: Done) -> str:
    return "max_tokens" if done.is_short else "end_turn"


def _parts(asked: Mapping[str, Any], key: str) -> Iterator[object]:
    """Every text of a prompt, and None for every image."""
    for value in (asked.get("instructions"), asked.get("system"), asked.get(key)):
        yield from _within(value)


def _within(node: Any) -> Iterator[object]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for one in node:
            yield from _within(one)
    elif isinstance(node, dict):
        if "image" in str(node.get("type")):
            yield None
        else:
            yield from _within(node.get("content", node.get("text")))
