"""What a task may cost before it is sent: tokens by modality and USD, expected and worst case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from costguard import money, rows
from costguard.errors import ConfigurationError
from costguard.estimating import tokens
from costguard.estimating.counts import Count
from costguard.estimating.making import Making, measure
from costguard.estimating.media import MediaCount, MediaMax, Recalled, Reference, count_media
from costguard.modalities import MODALITIES
from costguard.outputs import OUTPUT, Output, in_units
from costguard.prices.book import PriceBook
from costguard.prices.model import AnyPrice, ModelPrices
from costguard.prices.output import OutputPrice
from costguard.prices.price import Price
from costguard.tasks import TEXT_INFERENCE, Prompt, Task

_NOTHING = dict.fromkeys(MODALITIES, Count(0, 0))
_NO_MEDIA = MediaCount(_NOTHING, (), {})
_UNSAID = Output()


_TITLES = {"what": "What", "expected": "Expected", "upper": "Upper", "unit": "Unit"}


class Estimate(NamedTuple):
    """Tokens are per result; `expected` and `upper` are USD for all `results`, None if unpriced."""

    model: str
    """The model's AIR, or what the task names if no price file does, or its task type."""
    results: int
    prompt: Mapping[str, Count]
    """Tokens by modality: all of `costguard.modalities.MODALITIES`, in that order."""
    completion: Count
    """`upper` is the allowance; `expected` too, unless the ledger has history to learn from."""
    learned: bool
    """True if `completion.expected` is the mean of the project's own calls of this model."""
    expected_nanos: int | None
    upper_nanos: int | None
    price: AnyPrice | None
    unpriced: str | None
    """Why there is no worst case, None if there is one."""
    unbounded: tuple[str, ...]
    """Settings of `media_max` that would bound media of unknown length in this task."""
    context_tokens: int
    fees_nanos: int
    """Worst case of the features the task may use, per result."""
    teaches: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """Media whose count the bill will tell, as in `MediaCount`."""
    percent: int = 100
    """What the prompt may cost at worst, in percent of the input rates: see `Prompt`."""
    output: Output = Output()
    """What one result is to be, where it is no text."""
    making: Making | None = None
    """What is priced of it, where that is not tokens."""

    @property
    def reckoning(self) -> str | None:
        """The worst case in words, such as `2 results × 5 seconds × 0.05 USD per second`; None where tokens count."""
        return None if self.making is None else self.making.words

    @property
    def expected(self) -> Decimal | None:
        """The likely cost in USD, None if unpriced."""
        return None if self.expected_nanos is None else money.to_usd(self.expected_nanos)

    @property
    def upper(self) -> Decimal | None:
        """The worst case in USD, None if unpriced."""
        return None if self.upper_nanos is None else money.to_usd(self.upper_nanos)

    def to_json(self) -> str:
        """Counts of one result as the ledger keeps them, [expected, upper] by modality, or parts of a meter;
        "media" -> `teaches`, "output" -> what is to be made. `read_kept` reads it.
        """
        counts = [f'"{m}": [{n.expected}, {n.upper}]' for m, n in self.prompt.items() if n.upper]
        counts.append(f'"completion": [{self.completion.expected}, {self.completion.upper}]')
        if self.making is not None:
            counts.append(f'"{self.making.meter}": [{self.making.parts.expected}, {self.making.parts.upper}]')
        if self.output != _UNSAID:
            counts.append(f'"{OUTPUT}": {json.dumps(self.output.to_row())}')
        if self.teaches:
            counts.append(f'"media": {json.dumps(self.teaches)}')
        return f"{{{', '.join(counts)}}}"

    def to_frame(self, library: str | None = None) -> Any:
        """A DataFrame of `what`, `expected`, `upper` and `unit`: see `costguard.rows.to_frame`."""
        return rows.to_frame(list(_TITLES), self._rows(), library)

    def _repr_html_(self) -> str:
        """Tokens per result and what all results cost, as notebooks show them."""
        return rows.to_html({**_TITLES, "what": self.model}, self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        counts = {**{modality: count for modality, count in self.prompt.items() if count.upper},
                  **({"completion": self.completion} if self.completion.upper else {})}  # fmt: skip
        tokens = [{"what": what, **count._asdict(), "unit": "tokens"} for what, count in counts.items()]
        if self.making is not None:
            meter = self.making.meter
            made = {bound: in_units(meter, parts) for bound, parts in self.making.parts._asdict().items()}
            tokens = [{"what": meter, **made, "unit": meter}]
        return [*tokens, {"what": "cost", "expected": self.expected, "upper": self.upper, "unit": "USD"}]

    def allowing(self, tokens: int) -> Estimate:
        """The same task with an allowance of at most `tokens` completion tokens."""
        if not isinstance(self.price, Price) or tokens >= self.completion.upper:
            return self
        completion = Count(min(self.completion.expected, tokens), tokens)
        expected, upper = _cost(self.price, self.prompt, completion, self.context_tokens, self.percent)
        return self._replace(
            completion=completion,
            expected_nanos=expected * self.results,
            upper_nanos=(upper + self.fees_nanos) * self.results,
        )


def estimate(
    task: Task,
    book: PriceBook,
    at_us: int,
    media_max: MediaMax = MediaMax(),  # noqa: B008
    mean_completion: int | None = None,
    recalled: Mapping[Reference, Recalled] | None = None,
) -> Estimate:
    """Estimate a billable task at the prices of the instant `at_us` (UTC microseconds).

    `mean_completion`: completion tokens of a result as learned from history, None without any. `recalled`:
    what the ledger has of the task's `media.references`.
    ConfigurationError if the prices themselves forbid a figure, such as an absurd `maxTokens`.
    """
    known = book.of(task.model, task.task_type)
    if known is None:
        known = book.find(task.model) if task.model else None
        named = f"model {task.model!r}" if task.model else f"task type {task.task_type!r}"
        reason = f"no price is known for {named}"
        name = known.model if known else task.model or task.task_type
        prompt: Mapping[str, Count] = _NOTHING
        completion = Count(0, 0)
        if task.task_type == TEXT_INFERENCE:
            prompt = {**_NOTHING, "TEXT": _count_text(task.prompt.texts, exact=False)}
            completion = Count(*(task.max_tokens or task.default_tokens,) * 2)
        return Estimate(
            name, task.results, prompt, completion, False, None, None, None, reason, (), 0, 0, output=task.output
        )  # fmt: skip
    if known.outputs:
        return _made(task, known, at_us)
    price = unpriced = expected = upper = None
    try:
        price = known.at(at_us)
    except ConfigurationError as error:
        unpriced = str(error)
    prompt, media = _prompt(task.prompt, known, price, media_max, recalled)
    allowed = task.max_tokens
    if allowed is None:
        allowed = known.completion_max if task.goes_on else known.completion_default
    completion = Count(allowed if mean_completion is None else min(mean_completion, allowed), allowed)
    fees = 0
    if price is not None:
        try:
            fees = _fees(task.prompt.features, price)
            expected, upper = _cost(price, prompt, completion, known.context_tokens, task.prompt.percent)
        except ConfigurationError as error:
            unpriced = str(error)
    return Estimate(
        model=known.model,
        results=task.results,
        prompt=prompt,
        completion=completion,
        learned=mean_completion is not None,
        expected_nanos=None if expected is None else expected * task.results,
        upper_nanos=None if upper is None else (upper + fees) * task.results,
        price=price,
        unpriced=unpriced,
        unbounded=media.unbounded,
        context_tokens=known.context_tokens,
        fees_nanos=fees,
        teaches=media.teaches,
        percent=task.prompt.percent,
    )


def _made(task: Task, known: ModelPrices, at_us: int) -> Estimate:
    """A task that is priced by what it makes."""
    name = task.model or task.task_type if known.is_any else known.model
    price: OutputPrice | None = None
    making = unpriced = None
    try:
        found = known.entry(at_us)
        if isinstance(found, OutputPrice):
            price = found
            making = measure(task.output, task.results, found)
    except ConfigurationError as error:
        unpriced = str(error)
    return Estimate(
        model=name,
        results=task.results,
        prompt=_NOTHING,
        completion=Count(0, 0),
        learned=False,
        expected_nanos=None if making is None else making.nanos.expected * task.results,
        upper_nanos=None if making is None else making.nanos.upper * task.results,
        price=price,
        unpriced=unpriced,
        unbounded=(),
        context_tokens=0,
        fees_nanos=0,
        output=task.output,
        making=making,
    )


class Kept(NamedTuple):
    """What the ledger kept of an estimate: expected tokens of one result's prompt by modality, and its output."""

    prompt: Mapping[str, int]
    output: Output


def read_kept(estimate: str) -> Kept:
    """Read what `Estimate.to_json` wrote."""
    counts = json.loads(estimate)
    return Kept({m: counts[m][0] for m in MODALITIES if m in counts}, Output(**counts.get(OUTPUT, {})))


def _cost(
    price: Price, prompt: Mapping[str, Count], completion: Count, context_tokens: int, percent: int
) -> tuple[int, int]:
    """(expected, worst) nano-USD of one result, without fees."""
    likely, most = {}, {}
    for modality, (expected, upper) in prompt.items():
        if upper:  # without it nothing is expected either
            likely[modality], most[modality] = expected, upper
    worst = price.worst_nanos(most, completion.upper, context_tokens)
    if percent > 100:
        worst += -(-price.worst_nanos(most, 0, context_tokens) * (percent - 100) // 100)
    if sum(likely.values()) > context_tokens:
        return price.worst_nanos(likely, completion.expected, context_tokens), worst
    return price.nanos(likely, completion.expected), worst


def _prompt(
    prompt: Prompt,
    known: ModelPrices,
    price: Price | None,
    media_max: MediaMax,
    recalled: Mapping[Reference, Recalled] | None,
) -> tuple[Mapping[str, Count], MediaCount]:
    text_count = _count_text(prompt.texts, exact=known.tokenizer == "gemma4")
    if prompt.is_open:
        text_count = text_count._replace(upper=max(text_count.upper, known.context_tokens))
    if not prompt.media:
        return {**_NOTHING, "TEXT": text_count}, _NO_MEDIA
    priced = price.tiers[0].prompt if price is not None else ()
    media = count_media(prompt.media, known.media, media_max, known.context_tokens, recalled, priced)
    return {**media.counts, "TEXT": text_count}, media


def _count_text(texts: Sequence[str], *, exact: bool) -> Count:
    """TEXT tokens; without the model's own vocabulary (`exact`) only bytes are a bound."""
    size = expected = 0
    for text in texts:
        size += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        expected += tokens.count(text)
    likely = min(expected, size)
    return Count(likely, tokens.text_upper(size, likely if exact else size, len(texts)))


def _fees(features: Sequence[str], price: Price) -> int:
    """Worst case of the features a task may use, nano-USD per result; unpriced ones raise."""
    total = 0
    for name in features:
        fee = price.fee(name)
        if fee is None:
            raise ConfigurationError(f"no fee is known for the tool {name!r} in price {price.id}")
        total += fee.nanos_per_unit * fee.max_per_request
    return total
