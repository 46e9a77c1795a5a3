"""The rows of a FOCUS 1.2 export: what a month's tasks were charged, meter by meter.

The specification is the FinOps Open Cost and Usage Specification; docs/focus.md says how each of its columns is filled.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Literal, NamedTuple

from costguard.budgets import from_us
from costguard.ledger.accounting.charged import BookedCharge, ChargedAttempt
from costguard.ledger.accounting.rolling import NO_TAGS
from costguard.ledger.accounting.spending import TOKEN_COMPONENTS, Span
from costguard.ledger.charges import Line
from costguard.money import to_usd
from costguard.outputs import PARTS
from costguard.reports.document import Row
from costguard.reports.skus import EXACT, Catalogue, Meter, Sku, prompt_tokens

VERSION = "1.2"
"""Of the specification."""

PROVIDER = "Runware"
"""Who sells what is charged, runs it, and sends the invoice for it."""

Kind = Literal["text", "amount", "moment", "count"]
Per = Literal["task", "hour"]

COLUMNS: dict[str, Kind] = {
    "BilledCost": "amount", "BillingAccountId": "text", "BillingAccountName": "text", "BillingCurrency": "text",
    "BillingPeriodEnd": "moment", "BillingPeriodStart": "moment", "ChargeCategory": "text", "ChargeClass": "text",
    "ChargeDescription": "text", "ChargeFrequency": "text", "ChargePeriodEnd": "moment",
    "ChargePeriodStart": "moment", "ConsumedQuantity": "amount", "ConsumedUnit": "text", "ContractedCost": "amount",
    "EffectiveCost": "amount", "InvoiceId": "text", "InvoiceIssuerName": "text", "ListCost": "amount",
    "ListUnitPrice": "amount",
    "PricingCategory": "text", "PricingQuantity": "amount", "PricingUnit": "text", "ProviderName": "text",
    "PublisherName": "text", "ResourceId": "text", "ResourceName": "text", "ResourceType": "text",
    "ServiceCategory": "text", "ServiceName": "text", "ServiceSubcategory": "text", "SkuId": "text",
    "SkuMeter": "text", "SkuPriceDetails": "text", "SkuPriceId": "text", "Tags": "text", "x_Project": "text",
    "x_TaskId": "text", "x_TaskType": "text", "x_Component": "text", "x_Modality": "text", "x_Basis": "text",
    "x_Tokens": "count", "x_ReasoningTokens": "count", "x_RecordedAt": "moment", "x_AsOf": "moment",
}  # fmt: skip
"""The columns in their order, those of FOCUS first, and what is in them: amounts are Decimal, moments aware UTC."""

_HOUR_US = 3_600 * 1_000_000
_SECOND_US = 1_000_000
_NO_LINES = (Line("unitemized", "", None, 0),)
_WHY = {
    "rounding": "rounding by the provider",
    "unexplained": "charged beyond what is itemized",
    "correction": "correction by hand",
}
"""What is said of lines that are no use of anything."""


class Month(NamedTuple):
    """What all rows of an export have in common: the billing period, its account, and when the ledger was read."""

    span: Span
    account: str
    as_of_us: int


class _Key(NamedTuple):
    """What rows are added up by."""

    task_uuid: str | None
    project: str
    task_type: str
    model: str
    tags: str
    basis: str
    line: tuple[str, str]
    sku: Sku | None
    is_correction: bool


class _Sums:
    """What the lines of one row add up to. A count is unknown as long as more that is not counted came than went."""

    __slots__ = ("nanos", "quantity", "reasoning", "recorded_us", "results", "unknown")

    def __init__(self) -> None:
        self.nanos = self.quantity = self.unknown = self.reasoning = self.results = self.recorded_us = 0

    @property
    def counted(self) -> int | None:
        return None if self.unknown else self.quantity

    @property
    def is_nothing(self) -> bool:
        """Whether all that was charged was taken back."""
        return not (self.nanos or self.results or self.quantity or self.unknown)


def rows(attempts: Iterable[ChargedAttempt], month: Month, per: Per, catalogue: Catalogue) -> Iterator[Row]:
    """A row for each meter of each attempt, or of each hour's attempts of a project, model, task type and tags.

    `attempts` come in the order of their admission; only those of one hour are kept in mind. BilledCost adds up to
    what was charged, exactly: what was taken back is netted, or if that came after the month's end has rows of its own.
    """
    bucket = (lambda found: found.at_us // _HOUR_US) if per == "hour" else (lambda found: found.id)
    for _, together in groupby(attempts, key=bucket):
        found: dict[_Key, _Sums] = {}
        at_us = 0
        for attempt in together:
            at_us = attempt.at_us
            _add(found, attempt, month, per, catalogue)
        period = _charge_period(at_us, month, per)
        for key, sums in found.items():
            if not sums.is_nothing:
                yield _row(key, sums, month, period, catalogue)


def _add(found: dict[_Key, _Sums], attempt: ChargedAttempt, month: Month, per: Per, catalogue: Catalogue) -> None:
    before: BookedCharge | None = None
    is_change = False
    for charge in attempt.charges:
        # What takes the place of a charge is written right after it was taken back, in the same transaction.
        is_change = _takes_back(charge) or (
            is_change and before is not None and _takes_back(before) and before.at_us == charge.at_us
        )
        before = charge
        is_correction = charge.at_us >= month.span.end_us and (is_change or charge.basis == "correction")
        price = catalogue.price(attempt.model, attempt.task_type, charge.price_id, attempt.at_us)
        prompt = prompt_tokens(charge.lines)
        reasoning = charge.reasoning or 0
        known = catalogue.model(attempt.model)
        sold = known.model if known else attempt.model or attempt.task_type
        for line in charge.lines or _NO_LINES:
            key = _Key(
                attempt.task_uuid if per == "task" else None,
                attempt.project,
                attempt.task_type,
                attempt.model,
                attempt.tags,
                charge.basis,
                line[:2],
                catalogue.sku(sold, price, line, prompt),
                is_correction,
            )
            sums = found.get(key)
            if sums is None:
                sums = found[key] = _Sums()
            sums.nanos += line.nanos
            sums.results += charge.results
            sums.quantity += line.quantity or 0
            sums.unknown += charge.results if line.quantity is None else 0
            sums.recorded_us = max(sums.recorded_us, charge.at_us)
            if line.component == "completion":
                sums.reasoning += reasoning
                reasoning = 0


def _takes_back(charge: BookedCharge) -> bool:
    return charge.replaces is not None or (charge.basis == "correction" and charge.nanos < 0)


def _charge_period(at_us: int, month: Month, per: Per) -> tuple[datetime, datetime]:
    """The second of an admission, or its hour as far as it is of the month."""
    if per == "task":
        start_us = at_us // _SECOND_US * _SECOND_US
        return _moment(start_us), _moment(start_us + _SECOND_US)
    start_us = at_us // _HOUR_US * _HOUR_US
    end_us = start_us + _HOUR_US
    if start_us < month.span.start_us < end_us:
        start_us = month.span.start_us
    if start_us < month.span.end_us < end_us:
        end_us = month.span.end_us
    return _moment(start_us), _moment(end_us)


def _row(key: _Key, sums: _Sums, month: Month, period: tuple[datetime, datetime], catalogue: Catalogue) -> Row:
    billed = to_usd(sums.nanos)
    sku = key.sku
    component, modality = key.line
    known = catalogue.model(key.model)
    sold = known.model if known else key.model
    tokens = sums.counted if component in TOKEN_COMPONENTS else None
    quantity, consumed, unit = _quantities(sku.meter, sums, tokens) if sku else (None, None, None)
    unit_price = sku.unit_price if sku else None
    listed = billed if unit_price is None or quantity is None else EXACT.multiply(unit_price, quantity)
    what = sku.meter.name if sku else _WHY.get(component, component)
    return {
        "BilledCost": billed,
        "BillingAccountId": month.account,
        "BillingAccountName": None,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _moment(month.span.end_us),
        "BillingPeriodStart": _moment(month.span.start_us),
        "ChargeCategory": "Usage" if sku else "Adjustment",
        "ChargeClass": "Correction" if key.is_correction else None,
        "ChargeDescription": f"{key.task_type} with {known.name if known else key.model or 'no model'}: {what}",
        "ChargeFrequency": "Usage-Based" if sku else "One-Time",
        "ChargePeriodEnd": period[1],
        "ChargePeriodStart": period[0],
        "ConsumedQuantity": consumed,
        "ConsumedUnit": unit,
        "ContractedCost": billed,
        "EffectiveCost": billed,
        "InvoiceId": None,
        "InvoiceIssuerName": PROVIDER,
        "ListCost": listed,
        "ListUnitPrice": unit_price,
        "PricingCategory": "Standard" if sku else None,
        "PricingQuantity": quantity,
        "PricingUnit": sku.meter.pricing_unit if sku and quantity is not None else None,
        "ProviderName": PROVIDER,
        "PublisherName": PROVIDER,
        "ResourceId": sold or None,
        "ResourceName": known.name if known else None,
        "ResourceType": "Model" if sold else None,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{PROVIDER} Inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku.id if sku else None,
        "SkuMeter": sku.meter.name if sku else None,
        "SkuPriceDetails": sku.details if sku else None,
        "SkuPriceId": sku.price_id if sku else None,
        "Tags": key.tags if key.tags not in ("", NO_TAGS) else None,
        "x_Project": key.project,
        "x_TaskId": key.task_uuid,
        "x_TaskType": key.task_type,
        "x_Component": component,
        "x_Modality": modality or None,
        "x_Basis": key.basis,
        "x_Tokens": tokens,
        "x_ReasoningTokens": sums.reasoning if component == "completion" else None,
        "x_RecordedAt": _moment(sums.recorded_us),
        "x_AsOf": _moment(month.as_of_us),
    }


def _quantities(meter: Meter, sums: _Sums, tokens: int | None) -> tuple[Decimal | None, Decimal | None, str | None]:
    """What is priced, in pricing units, and what was consumed, with its unit; None where that is not known.

    A result that is not itemized is priced as a whole; the tokens that it took are known now and then.
    """
    if meter.unit == "Results":
        count = _whole(sums.results)
        return (count, count, meter.unit) if tokens is None else (count, _whole(tokens), "Tokens")
    if sums.counted is None:
        return None, None, None
    if meter.component:
        amount = EXACT.divide(_whole(sums.counted), PARTS[meter.component])
        return amount, amount, meter.unit
    consumed = _whole(sums.counted)
    return (consumed if meter.per == 1 else EXACT.divide(Decimal(sums.counted), meter.per)), consumed, meter.unit


def _whole(count: int) -> Decimal:
    """With a decimal point, by which readers that guess at types know a decimal column."""
    return Decimal(f"{count}.0")


@functools.lru_cache(maxsize=1024)
def _moment(at_us: int) -> datetime:
    """An instant, down to the second: FOCUS writes no fractions of one."""
    return from_us(at_us // _SECOND_US * _SECOND_US)
