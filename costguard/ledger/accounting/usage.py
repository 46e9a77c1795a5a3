"""What was used and billed, for reports and expectations: groups of charges, settled attempts, media."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta

from costguard.budgets import day_of
from costguard.ledger.accounting.reading import Reading
from costguard.ledger.accounting.rolling import add, beyond
from costguard.ledger.accounting.spending import EVERYTHING, Scope, Span, grouped, parts_of, spent
from costguard.ledger.accounting.sql import covered, marks
from costguard.ledger.engine import Tx
from costguard.ledger.records import EstimateSum, UsageRow
from costguard.projects import ancestors, covers, is_default, parent_of

HISTORY_DAYS = 30
"""Days of history that expectations are learned from."""


class Usage(Reading):
    """The part of `Ledger` that sums up charges; every method is one snapshot."""

    def usage(self, by: Sequence[str], first_day: str, end_day: str, project: str | None = None) -> list[UsageRow]:
        """Charges of the days in [first_day, end_day) of the reporting zone; ISO dates.

        `by` is any of `spending.GROUPS` and `tag:NAME`; rows are sorted by their keys.
        """
        return self._usage(by, Span(self.timezone, 0, 0, (first_day, end_day)), project)

    def usage_in(
        self, by: Sequence[str], timezone: str, start_us: int, end_us: int, project: str | None = None
    ) -> list[UsageRow]:
        """As `usage`, for the days of any zone: charges of what was admitted in [start_us, end_us)."""
        return self._usage(by, Span(timezone, start_us, end_us), project)

    def _usage(self, by: Sequence[str], span: Span, project: str | None) -> list[UsageRow]:
        parts = parts_of(by)  # names what cannot be grouped by before anything is read
        scope = EVERYTHING if project is None else Scope(project)
        rows = self._read(lambda tx: spent(tx, self.timezone, span, parts, scope=scope))
        return grouped(rows, by)

    def mean_completion(self, project: str, model: str, at_us: int) -> int | None:
        """Mean completion tokens of a result of this project and model over `HISTORY_DAYS`; None without any."""
        today = date.fromisoformat(day_of(self.timezone, at_us))
        # Each day by its name: a few rows of the key, where a range of days would be all projects' rows.
        days = [(today - timedelta(days=n)).isoformat() for n in range(HISTORY_DAYS + 1)]

        def op(tx: Tx) -> tuple[int, int]:
            row = tx.one(
                "SELECT coalesce(sum(r.quantity), 0), coalesce(sum(r.results), 0) FROM leaves l JOIN rollups r"
                f" ON r.leaf_id = l.id AND r.day IN ({marks(len(days))})"
                " WHERE l.project = ? AND l.model = ? AND l.component = 'completion'",
                (*days, project, model),
            )
            quantity, results = row or (0, 0)
            for (day, leaf), sums in beyond(tx).days.items():
                if day in days and leaf[:2] == (project, model) and leaf.component == "completion":
                    results, quantity = results + sums[2], quantity + sums[3]
            return quantity, results

        quantity, results = self._read(op)
        return -(-quantity // results) if results else None

    def estimates(self, first_day: str, end_day: str, project: str | None = None) -> list[EstimateSum]:
        """What was estimated and billed on the days in [first_day, end_day) of the reporting zone, by model and `what`.

        Sums over settled attempts that the provider's own figures were charged for; see `compare`.
        """
        condition, parameters = covered(project) if project is not None else ("1=1", ())

        def op(tx: Tx) -> list[EstimateSum]:
            found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 5)
            rows = tx.all(
                "SELECT project, model, what, sum(attempts), sum(expected), sum(upper), sum(billed), sum(over)"
                f" FROM estimates WHERE day >= ? AND day < ? AND {condition} GROUP BY project, model, what",
                (first_day, end_day, *parameters),
            )
            for (day, *keys), sums in beyond(tx, estimates=True).estimates.items():
                if first_day <= day < end_day and (project is None or covers(project, keys[0])):
                    rows.append((*keys, *sums))
            for _, model, what, *sums in rows:
                add(found[model, what], sums)
            return [EstimateSum(*key, *sums) for key, sums in sorted(found.items()) if any(sums)]

        return self._read(op)

    def refused(self) -> dict[tuple[str, str], int]:
        """Tasks that were refused so far, by project and reason (`refusing`)."""
        sql = "SELECT project, reason, sum(tasks) FROM refusals GROUP BY project, reason ORDER BY project, reason"
        return self._read(lambda tx: {(project, reason): int(count) for project, reason, count in tx.all(sql)})

    def named(self, what: str) -> list[str]:
        """Every project, model or month (`YYYY-MM`) that something was charged or is held of, sorted.

        Of projects also those above them, and those with a budget, or a default.
        """
        column = {"project": "project", "model": "model", "month": "substr(day, 1, 7)"}[what]

        def op(tx: Tx) -> set[str]:
            # Few rows, however many attempts there were.
            found = {
                name
                for (name,) in tx.each(
                    f"SELECT DISTINCT {column} FROM {'rollups' if what == 'month' else 'leaves'} UNION"
                    f" SELECT {column} FROM attempts WHERE status IN ('held', 'unresolved')"
                )
            }
            for day, leaf in beyond(tx).days:
                found.add({"project": leaf.project, "model": leaf.model, "month": day[:7]}[what])
            if what == "project":
                found |= {name for (name,) in tx.each("SELECT project FROM budgets WHERE like_id IS NULL")}
                defaults = {name for name in found if is_default(name)}
                below = {*(found - defaults), *map(parent_of, defaults)}
                found = defaults | {path for name in below for path in ancestors(name)}
            return found

        return sorted(self._read(op))

    def media_counts(self, digests: Sequence[str]) -> dict[str, dict[str, int]]:
        """What the media with these digests were billed as: digest -> tokens of one result by modality."""
        sql = f"SELECT digest, counts FROM media WHERE digest IN ({marks(len(digests))})"
        return self._read(lambda tx: {digest: json.loads(counts) for digest, counts in tx.all(sql, digests)})
