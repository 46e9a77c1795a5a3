"""A task, the unit of billable work, as every room knows it that does not speak its wire."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from costguard.outputs import Output

Delivery = Literal["sync", "async", "stream"]

TEXT_INFERENCE = "textInference"
"""The task type of text generation, in price files and in the ledger, whatever a dialect calls it."""


_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def canonical(uuid: str) -> str:
    """The one spelling of a task's name: a UUID is the same in any case, other names are as they are."""
    lower = uuid.lower()
    return lower if lower != uuid and _UUID.fullmatch(uuid) else uuid


class Prompt(NamedTuple):
    """What a model reads for one result of a task, as far as it can be counted before it is sent.

    `texts` are its texts, one for each message or other piece that a provider frames by itself. `media` lists
    UUIDs, URLs, data URIs or base64 by kind ("images", …); what is of no known kind counts as the whole
    context. `features` are the billed features that the task may use, by the name of their fee. `is_open`: the
    model may read text that is not in the request, up to its context. `percent`: what a token of it may cost, in
    percent of the input rate; more than 100 where it may be written to a cache.
    """

    texts: tuple[str, ...] = ()
    media: object = None
    features: tuple[str, ...] = ()
    is_open: bool = False
    percent: int = 100


@dataclass(slots=True)
class Task:
    """One task of a request. `raw` is its own dialect's form of it, and nobody else's to look into.

    `uuid` is the ledger's name of it, in its one spelling. `model` is as the caller wrote it, None if none is
    named. `results` is how many are asked for; `max_tokens` the allowance of completion tokens of each, None where
    none is stated; then `default_tokens` holds, unless the model's price file knows better. A task that is not
    `billable` is passed on untouched; `asks` says of one that it asks what became of others, so that its answer
    is read.
    """

    uuid: str
    task_type: str
    model: str | None
    billable: bool
    delivery: Delivery
    results: int
    max_tokens: int | None
    raw: dict[str, Any] = field(repr=False)
    prompt: Prompt = field(default=Prompt(), repr=False)
    default_tokens: int = 0
    asks: bool = False
    webhook: bool = False
    """The results are sent to an address of the caller's."""
    goes_on: bool = False
    """Without a stated allowance a result may grow to the most that its model can write."""
    told_more: bool = False
    """The guard asked for figures in its stream that the caller did not ask for."""
    output: Output = field(default=Output(), repr=False)
    """What one result is to be, where it is no text."""
    spelling: str | None = None
    """How the caller wrote `uuid`, where that is not its one spelling: the provider is asked by it."""
