"""The one place where money moves after admission: journal, attempt and balances."""

from __future__ import annotations

import json
import os
from collections import Counter

from costguard.ledger.accounting.attempts import Attempt
from costguard.ledger.accounting.leasing import Leasing
from costguard.ledger.accounting.rolling import roll_if_due
from costguard.ledger.accounting.sql import bounds, marks
from costguard.ledger.charges import WEAK, Charge, write_lines
from costguard.ledger.engine import Tx
from costguard.ledger.records import Alert

MEDIA_AGE_US = 90 * 86_400 * 1_000_000
"""A medium that was not billed for so long is forgotten."""

_NOTHING = 0, 0
_MEDIA_KEY = "SELECT value FROM meta WHERE key = 'media_key'"

_CHARGE = (
    "at_us, attempt_id, kind, held, spent, reason, basis, cost_nanos, total_nanos, computed_nanos, price_id,"
    " prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, cache_reading, odd, results, notes, raw,"
    " result_key, direct, replaces, is_first, lines"
)
_INSERT_CHARGE = f"INSERT INTO entries ({_CHARGE}) VALUES ({marks(_CHARGE.count(',') + 1)})"


class Posting(Leasing):
    """The part of `Ledger` that writes charges and releases."""

    _media_key: bytes | None = None

    def _post(
        self,
        tx: Tx,
        at_us: int,
        attempt: Attempt,
        held: int,
        charge: Charge | None,
        status: str,
        reason: str | None,
        *,
        ended_us: int | None = None,
        key: str | None = None,
        direct: bool = False,
        replaces: int | None = None,
        is_first: bool = False,
        by_hand: str | None = None,
    ) -> list[Alert]:
        """The one place where money moves after admission: journal, charge, attempt, balances.

        `ended_us`: when the attempt's request ended, if this is its end. `key` names the result that is
        charged, `direct` says that it is the attempt's own response. `replaces`: the charge that this one
        takes back. `is_first`: the task is known to have no other attempt and no charge yet. `by_hand`: who says that
        it is to be released, if that is an operator's word.
        """
        freed = held - attempt.held
        spent, seen = (charge.nanos, charge.results) if charge else (0, 0)
        # First of all: what moves a balance is written in the order in which it is moved.
        moves = None
        if not self._is_leased(tx, attempt, freed, spent):
            moves = self._balances(tx, attempt.project, attempt.at_us)
        if charge is None:
            by_word = ("correction", json.dumps([by_hand])) if by_hand else (None, None)
            seq = tx.insert(
                "INSERT INTO entries (at_us, attempt_id, kind, held, spent, reason, basis, notes)"
                " VALUES (?,?,'release',?,0,?,?,?)",
                "seq",
                (at_us, attempt.id, freed, reason, *by_word),
            )
            roll_if_due(tx, seq)
        else:
            figures = (key, int(direct), replaces)
            self._write_charge(tx, at_us, attempt, freed, charge, figures, reason, is_first=is_first)
            if '"media": ' in attempt.estimate:
                self._remember(tx, at_us, attempt, charge)
        tx.run(
            "UPDATE attempts SET held = ?, charged = charged + ?, seen = seen + ?, status = ?, reason = ?,"
            " ended_us = coalesce(?, ended_us), unconfirmed = coalesce(?, unconfirmed) WHERE id = ?",
            (held, spent, seen, status, reason, ended_us, _unconfirmed(charge, replaces), attempt.id),
        )
        if moves is None:
            return []
        path, balances = moves
        # A window without a balance is summed up from the attempts when it is next looked at.
        self._move(tx, path.places, spent, freed)
        if spent + freed > 0 and tx.is_shared:
            over = [
                budget.project
                for budget_id, budget, window in path.budgets
                if window
                and budget.hard
                and sum(balances.get((budget_id, *bounds(window)), _NOTHING)) > budget.limit_nanos
            ]
            if over:  # nothing more is admitted, under leases neither
                self._end_leases(tx, over)
        alerts = []
        for budget_id, budget, window in path.budgets:
            if spent and window and budget.warn_at:
                now_spent = balances.get((budget_id, *bounds(window)), _NOTHING)[0]
                if now_spent * 100 >= budget.warn_at[0] * budget.limit_nanos:
                    alerts += self._thresholds(tx, at_us, budget_id, budget, window, now_spent)
        return alerts

    @staticmethod
    def _write_charge(
        tx: Tx,
        at_us: int,
        attempt: Attempt,
        freed: int,
        charge: Charge,
        figures: tuple[str | None, int, int | None],
        reason: str | None,
        *,
        is_first: bool,
    ) -> None:
        seq = tx.insert(
            _INSERT_CHARGE,
            "seq",
            (
                at_us, attempt.id, "charge", freed, charge.nanos, reason, charge.basis, charge.cost_nanos,
                charge.total_nanos, charge.computed_nanos, charge.price_id, charge.prompt_tokens,
                charge.completion_tokens, charge.reasoning_tokens, charge.cached_tokens, charge.cache_reading,
                int(charge.odd), charge.results, json.dumps(charge.notes) if charge.notes else None, charge.raw,
                *figures, int(is_first), write_lines(charge.lines),
            ),
        )  # fmt: skip
        roll_if_due(tx, seq)

    @staticmethod
    def _remember(tx: Tx, at_us: int, attempt: Attempt, charge: Charge) -> None:
        """Keep what the task's media were billed as, where the breakdown tells them apart."""
        if charge.basis != "breakdown" or charge.odd or charge.results < 1:
            return
        tokens: Counter[str] = Counter()
        for line in charge.lines:
            if line.component in ("prompt", "cache"):
                if line.quantity is None or not line.modality:
                    return
                tokens[line.modality] += line.quantity
        for digest, billed in json.loads(attempt.estimate)["media"].items():
            counts = {m: -(-sum(tokens[name] for name in names) // charge.results) for m, names in billed.items()}
            if any(counts.values()):
                tx.run(
                    "INSERT INTO media (digest, at_us, counts) VALUES (?,?,?) ON CONFLICT (digest)"
                    " DO UPDATE SET at_us = excluded.at_us, counts = excluded.counts",
                    (digest, at_us, json.dumps(counts)),
                )
        tx.tidy("DELETE FROM media WHERE at_us < ?", (at_us - MEDIA_AGE_US,))

    def media_key(self) -> bytes:
        """The key of this ledger's media digests, made when it is first asked for."""
        if self._media_key is None:

            def make(tx: Tx) -> str:
                tx.run("INSERT INTO meta VALUES ('media_key', ?) ON CONFLICT DO NOTHING", (os.urandom(32).hex(),))
                return str((tx.one(_MEDIA_KEY) or ("",))[0])

            found = self._read(lambda tx: tx.one(_MEDIA_KEY))
            self._media_key = bytes.fromhex(found[0] if found else self._write(make))
        return self._media_key


def _unconfirmed(charge: Charge | None, replaces: int | None) -> int | None:
    """1 for a charge that is not the provider's own figure, which it may still tell."""
    return 1 if charge is not None and charge.basis in WEAK and replaces is None else None
