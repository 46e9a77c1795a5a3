"""One charge in another's place: what is told better of a result, an operator's word that the truth undoes, and a
response of the guard's own whose record was imported before.
"""

from __future__ import annotations

from collections.abc import Sequence

from costguard.ledger.accounting.attempts import IMPORTED, OPEN, UNKNOWN_AGE_US, Attempt
from costguard.ledger.accounting.naming import Names
from costguard.ledger.accounting.posting import Posting
from costguard.ledger.accounting.results import Same, merged_key, retells, same_results
from costguard.ledger.accounting.sql import CHARGES_OF_TASK, OF_TASK, of_task
from costguard.ledger.charges import WEAK, Basis, Charge, Line, merged
from costguard.ledger.engine import Tx
from costguard.ledger.records import Alert, Settle


class Improving(Posting):
    """The part of `Ledger` that puts a charge in the place of another."""

    def _improve(self, tx: Tx, at_us: int, same: Same, key: str, charge: Charge) -> list[Alert] | None:
        """What is told anew of a known result takes the place of its charge, line by line; None if nothing is."""
        seq, attempt_id, old_key, _, _, direct = same.booked
        old = self._charge(tx, seq)
        found = merged(old, charge) if same.tells else None
        if found is None:
            return None
        attempt = self._attempt(tx, attempt_id)
        back = _taken_back(old)
        alerts = self._post(tx, at_us, attempt, attempt.held, back, attempt.status, attempt.reason, replaces=seq)
        attempt = self._attempt(tx, attempt_id)
        own = old.basis in WEAK and found.basis not in WEAK
        alerts += self._post(
            tx, at_us, attempt, attempt.held, found, attempt.status,
            "the provider's own figure came" if own else attempt.reason,
            key=merged_key(old_key, key, found, named=same.named), direct=direct,
        )  # fmt: skip
        weak = [one for one in self._booked(tx, attempt.task_uuid) if one.basis in WEAK]
        if not any(one.attempt_id == attempt.id for one in weak):
            tx.run("UPDATE attempts SET unconfirmed = NULL WHERE id = ?", (attempt.id,))
        return alerts

    def _withdraw(self, tx: Tx, at_us: int, task_uuid: str) -> list[Alert]:
        """The truth came after an operator's word: take back what was booked by hand."""
        alerts = []
        for attempt in self._attempts(tx, task_uuid):
            row = tx.one(
                "SELECT coalesce(sum(nanos), 0) FROM charges WHERE attempt_id = ? AND basis = 'correction'",
                (attempt.id,),
            )
            if row and row[0]:
                back, reason = correction(-row[0]), "the provider's figure came"
                alerts += self._post(tx, at_us, attempt, attempt.held, back, attempt.status, reason)
        return alerts

    def _give_way(
        self, tx: Tx, at_us: int, attempt: Attempt, name: str, settles: Sequence[Settle]
    ) -> list[Alert] | None:
        """End an attempt whose response, `name`, was imported while its own ending was on its way: one charge stays.

        That is the record's, with what `settles` tell better, and the hold goes back. None if it is none such: the
        record was there before the attempt, tells otherwise, or other calls were answered by that name.
        """
        told = self._attempts(tx, name)
        names = Names.read(tx)
        if attempt.status not in OPEN or attempt.seen or self._called(tx, name) != [attempt.task_uuid]:
            return None
        if not all(_is_record_of(attempt, one, names) for one in told):
            return None
        row = tx.one(f"SELECT min(c.at_us) FROM {CHARGES_OF_TASK}", of_task(name))
        if row is None or row[0] is None or row[0] < attempt.at_us:
            return None
        booked = self._booked(tx, name)
        results = [(settle.key, settle.charge.nanos) for settle in settles]
        pairs = zip(settles, same_results(booked, results, capacity=len(booked) + len(results)), strict=True)
        found = [(one, same) for one, same in pairs if same and retells(same.booked, one.key, one.charge)]
        if len(found) < len(settles):
            return None
        alerts = []
        for one, same in found:
            alerts += self._improve(tx, at_us, same, one.key, one.charge) or []
        self._ask_nobody(tx, name)
        reason = f"its response was imported as {name}, and is charged there"
        return alerts + self._post(tx, at_us, attempt, 0, None, "released", reason, ended_us=at_us)

    @staticmethod
    def _ask_nobody(tx: Tx, task_uuid: str) -> None:
        """Whoever was sent an imported task is not known, nor with which key: its figure stays ours."""
        tx.run(f"UPDATE attempts SET unconfirmed = NULL WHERE {OF_TASK} AND unconfirmed = 1", of_task(task_uuid))


def _is_record_of(attempt: Attempt, imported: Attempt, names: Names) -> bool:
    """Whether an import may have told of an attempt's response: by its project and its time."""
    return (
        imported.delivery == IMPORTED
        and names.present(imported.project) == names.present(attempt.project)
        and abs(imported.at_us - attempt.at_us) <= UNKNOWN_AGE_US
    )


def correction(nanos: int) -> Charge:
    """What an operator says that a task came to, in nano-USD."""
    return _bare_charge("correction", (Line("correction", "", None, nanos),), 0)


def _taken_back(charge: Charge) -> Charge:
    """A charge that undoes another one in every sum."""
    lines = tuple([Line(c, m, None if q is None else -q, -nanos) for c, m, q, nanos in charge.lines])
    computed, reasoning = (None if n is None else -n for n in (charge.computed_nanos, charge.reasoning_tokens))
    return _bare_charge(charge.basis, lines, -charge.results)._replace(
        computed_nanos=computed, price_id=charge.price_id, reasoning_tokens=reasoning
    )


def _bare_charge(basis: Basis, lines: tuple[Line, ...], results: int) -> Charge:
    """A charge by lines alone, without any figure of the provider's."""
    return Charge(
        nanos=sum(line.nanos for line in lines),
        basis=basis,
        lines=lines,
        cost_nanos=None,
        total_nanos=None,
        computed_nanos=None,
        price_id=None,
        prompt_tokens=None,
        completion_tokens=None,
        reasoning_tokens=None,
        cached_tokens=None,
        cache_reading=None,
        odd=False,
        notes=(),
        raw=None,
        results=results,
    )
