"""The words of a refusal: what was asked, what was found, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from costguard import money
from costguard.budgets import from_us
from costguard.estimating.estimate import Estimate
from costguard.ledger.records import Refused, Unpriced
from costguard.refusals import BudgetExceeded, UnpricedTask

_ADVICE = {
    True: 'Lower `maxTokens`, or set the budget\'s `wait=` or `action="clamp"`.',
    False: "Set the budget's `wait=`.",
}
"""What to do where a budget is busy, by whether an allowance of tokens could be lowered."""


def exceeded(answer: Refused, project: str, estimates: Sequence[Estimate]) -> BudgetExceeded:
    """The error for a call of `project` that a budget has no room for."""
    budget, window = answer.budget, answer.window
    resets_at = None
    if window is not None and window.end_us is not None:
        resets_at = from_us(window.end_us).astimezone(ZoneInfo(budget.timezone))
    asked = (
        f"his call may cost up to {money.to_text(answer.requested)} USD; budget {budget}"
        f" ({money.to_text(budget.limit_nanos)} USD) has {money.to_text(answer.remaining)} USD left"
    )
    message = f"{project}: t{asked}"
    if answer.busy:
        message = (
            f"{project}: the budget is busy: {money.to_text(answer.held)} USD is held for calls that are not settled."
            f" {_ADVICE[any(found.completion.upper for found in estimates)]} T{asked}"
        )
    if answer.unresolved:
        message += (
            f", {money.to_text(answer.unresolved)} USD is held with unknown outcome (`costguard reconcile` asks for it)"
        )
    if resets_at is not None:
        message += f"; it resets at {resets_at.isoformat()}"
    settings = sorted({setting for found in estimates for setting in found.unbounded})
    if settings:
        message += (
            ". Media of unknown length count as the model's whole context: state their maximum"
            f" ({', '.join(settings)}) in Guard(media_max=…) or the call's extension"
        )
    return BudgetExceeded(
        message + ". Nothing was sent.",
        project=project,
        budget=budget,
        requested=money.to_usd(answer.requested),
        remaining=money.to_usd(answer.remaining),
        unresolved=money.to_usd(answer.unresolved),
        resets_at=resets_at,
        busy=answer.busy,
    )


def unpriced(answer: Unpriced, project: str) -> UnpricedTask:
    """The error for a task of `project` without a worst case under a hard budget."""
    attempt, reason = answer.attempt, answer.attempt.unpriced or "its cost is unknown"
    return UnpricedTask(
        f"{project}: {attempt.model} cannot be sent under the hard budget {answer.budget}: {reason}. Add a price"
        f" file, or state the most a result may cost: `costguard ceiling set {attempt.model} AMOUNT`."
        " Nothing was sent.",
        project=project,
        model=attempt.model,
        reason=reason,
    )
