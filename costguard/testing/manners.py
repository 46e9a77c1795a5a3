"""The manners of a stand-in: every way to tell the same bill, all of them met in the field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from costguard.testing import answers
from costguard.testing.made import MadeRate

Told = Literal["all", "cost", "breakdown", "tokens"]
"""Which figures a road tells: all, `cost` alone, `usage.costBreakdown` alone, or the token counts alone."""


@dataclass(kw_only=True, eq=False)
class Manners:
    """How results are made, billed and told. Every one may be changed between requests.

    What is done and billed:

    - `seeds`: answer the published examples with their published responses.
    - `bill_retries_once`: a taskUUID sent again is answered from memory and not billed again.
    - `count_text`: prompt tokens of a text; `completion_tokens`: those a result would like to have;
      `media_s`: seconds of every video and sound.
    - `item_cost`: USD for a result that is not text and has no rate in `made_rates`, which has those of models and
      task types (`costguard.testing.MadeRate`). `made_s`: its seconds where the task does not say; `tells_size`: such
      results tell their `width`, `height` and `duration`. `search_cost`: USD for each `search` tool.

    How results are told, whichever the road:

    - `result_index`: items carry `resultIndex`, counted over all attempts of a task.
    - `uuid_case`: `upper` or `lower`: `taskUUID` is answered in that case, and understood in both.
    - `figures_as_text`: money as text, six decimals or more (`"0.000300"`); `counts_as_text`: tokens and
      counts as text.
    - `breakdown_total`: False leaves `total` out of the breakdown; its leaves are there.
    - `usage_cost`: `usage.cost` in the place of `cost`.
    - `blank_error`: results carry `"error": " "`, and are a success all the same.
    - `content_encoding`: bodies of answers and streams are encoded: `gzip`, `deflate`, `deflate-raw` (its
      header says `deflate`), `br`, `zstd`, or several (`"deflate, gzip"`); streams are flushed per chunk.
      Needs the packages `brotli` and `zstandard` for the two named after them.
    - `stream_figures`, `poll_figures`, `webhook_figures`: what that road tells: `all`, `cost`,
      `breakdown` or `tokens`.

    The paths of OpenAI's and Anthropic's form (`/v1/chat/completions`, `/v1/responses`, `/v1/messages`):

    - `tells_cost`: their `usage` tells `cost`; False: tokens only.
    - `cached_tokens`: so many tokens of a prompt, at most all but one, are told as read from a cache (and cost the
      same).

    Polls, `getTaskDetails` and webhooks. The statuses known are `success`, `processing` and `error`; older
    pages have `pending` and `queued` too:

    - `poll_statuses`: what the first polls of an async task say, one each and with `cost: 0`:
      `("queued", "pending")`, or a word nobody knows.
    - `polls_until_done`: polls after those that say `processing`; then each brings one result more.
    - `done_status`: the word for a result in polls and webhooks.
    - `details_until_done`: answers of `getTaskDetails` for a task that still say `processing`.
    - `details_with_cost`: whether `getTaskDetails` keeps `cost` and `usage`.
    - `not_found_status`: status of a reply that holds nothing but unknown tasks.
    - `webhook_times`: how often each webhook is sent; `webhook_envelope`: as `{"data":[item]}`. A streamed
      task with a `webhookURL` is owed its webhooks too.

    The lines of streams:

    - `sse_crlf`, `sse_space` (after `data:`), `sse_heartbeats` (comment lines), `sse_pings` (events named
      `ping`), `sse_bom` (a byte order mark first), `sse_single_newline` (no blank line between frames),
      `sse_bare` (JSON lines without `data:`), `sse_done` (False: no `[DONE]`).
    - `sse_content_type`: None sends none. `stream_whole`: a streamed task is answered with whole JSON.
    - `chunk_bytes`: re-cut streams, as encoded, into pieces of that size.

    The frames of streams:

    - `sse_envelope`: `object` for `{"data": {…}}`, `list` for `{"data": […]}` with up to three in one frame.
    - `sse_late_cost`: cost on a frame after the one with `finishReason`; `sse_split_usage`: prompt tokens on
      the first frame, the other counts on the last, then the breakdown, then the cost.
    - `sse_trailing_zeros`: a last frame whose figures are all zero; `sse_repeat_figures`: the last figures
      once more, on a frame without `resultIndex`.
    - `sse_chunk_index`: `resultIndex` counts the frames of the task. `sse_empty_uuid`: `taskUUID` is empty.

    Times, with `serve()` only: `latency_s`, `chunk_delay_s`: seconds before an answer and between chunks.
    """

    seeds: bool = True
    bill_retries_once: bool = False
    count_text: Callable[[str], int] = answers.text_tokens
    completion_tokens: int = 120
    media_s: Decimal = Decimal("6.08")
    item_cost: Decimal = Decimal("0.0019")
    made_rates: Mapping[str, MadeRate] = field(default_factory=dict)
    made_s: Decimal = Decimal(5)
    tells_size: bool = False
    search_cost: Decimal = Decimal("0.014")

    result_index: bool = False
    uuid_case: Literal["upper", "lower"] | None = None
    figures_as_text: bool = False
    counts_as_text: bool = False
    breakdown_total: bool = True
    usage_cost: bool = False
    blank_error: bool = False
    content_encoding: str | None = None
    stream_figures: Told = "all"
    poll_figures: Told = "all"
    webhook_figures: Told = "all"

    tells_cost: bool = True
    cached_tokens: int = 0

    poll_statuses: tuple[str, ...] = ()
    polls_until_done: int = 1
    done_status: str = "success"
    details_until_done: int = 0
    details_with_cost: bool = True
    not_found_status: int = 404
    webhook_times: int = 1
    webhook_envelope: bool = False

    sse_crlf: bool = False
    sse_space: bool = True
    sse_heartbeats: bool = True
    sse_pings: bool = False
    sse_bom: bool = False
    sse_single_newline: bool = False
    sse_bare: bool = False
    sse_done: bool = True
    sse_content_type: str | None = "text/event-stream"
    stream_whole: bool = False
    chunk_bytes: int | None = None

    sse_envelope: Literal["object", "list"] | None = None
    sse_late_cost: bool = False
    sse_split_usage: bool = False
    sse_trailing_zeros: bool = False
    sse_repeat_figures: bool = False
    sse_chunk_index: bool = False
    sse_empty_uuid: bool = False

    latency_s: float = 0
    chunk_delay_s: float = 0
