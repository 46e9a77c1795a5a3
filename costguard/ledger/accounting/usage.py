"""What was used and billed, for reports and expectations: groups of charges, settled attempts, media."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta

from costguard.budgets import day_of
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.reading import Reading
from costguard.ledger.accounting.sql import STANDING, covered, marks
from costguard.ledger.engine import Tx
from costguard.ledger.records import Settled, UsageRow
from costguard.projects import ancestors, is_default, parent_of

TOKEN_COMPONENTS = ("prompt", "cache", "completion", "unitemized")
"""Components whose quantity counts tokens; the others count uses, or nothing."""

GROUPS = ("project", "model", "day", "modality", "basis")
"""What usage can be grouped by; `modality` gives two keys, component and modality."""

HISTORY_DAYS = 30
"""Days of history that expectations are learned from."""


class Usage(Reading):
    """The part of `Ledger` that sums up charges; every method is one snapshot."""

    def usage(self, by: Sequence[str], first_day: str, end_day: str, project: str | None = None) -> list[UsageRow]:
        """Charges of the days in [first_day, end_day) of the reporting zone, from the roll-ups.

        `by` is any of GROUPS; rows are sorted by their keys. ISO dates.
        """
        columns = group_columns(by)
        keys = ", ".join(columns)
        condition, parameters = covered(project) if project is not None else ("1=1", ())
        count = "sum(tasks)" if "modality" in by else "sum(lead_tasks)"
        tokens = ", ".join(f"'{component}'" for component in TOKEN_COMPONENTS)
        rows = self._read(
            lambda tx: tx.all(
                f"SELECT {keys + ',' if keys else ''} {count},"
                f" sum(CASE WHEN component IN ({tokens}) THEN quantity ELSE 0 END), sum(nanos)"
                f" FROM rollups WHERE day >= ? AND day < ? AND {condition}"
                + (f" GROUP BY {keys} ORDER BY {keys}" if keys else " HAVING count(*) > 0"),
                (first_day, end_day, *parameters),
            )
        )
        return [UsageRow(tuple(row[:-3]), row[-3], row[-2], row[-1]) for row in rows]

    def usage_lines(
        self, by: Sequence[str], timezone: str, start_us: int, end_us: int, project: str | None = None
    ) -> list[UsageRow]:
        """As `usage`, for the days of another zone: reads every line of [start_us, end_us), slower."""
        condition, parameters = covered(project, "a.project") if project is not None else ("1=1", ())
        columns = group_columns(by)

        def op(tx: Tx) -> list[UsageRow]:
            groups: dict[tuple[str, ...], tuple[set[str], list[int]]] = {}
            for uuid, at_us, project_, model, component, modality, basis, quantity, nanos in tx.each(
                "SELECT a.task_uuid, a.at_us, a.project, a.model, coalesce(l.component, 'unitemized'),"
                " coalesce(l.modality, ''), c.basis, coalesce(l.quantity, 0), coalesce(l.nanos, 0)"
                " FROM attempts a JOIN charges c ON c.attempt_id = a.id"
                " LEFT JOIN lines l ON l.charge_seq = c.seq"
                f" WHERE a.at_us >= ? AND a.at_us < ? AND {condition}",
                (start_us, end_us, *parameters),
            ):
                values = {
                    "project": project_, "model": model, "component": component, "modality": modality,
                    "basis": basis, "day": day_of(timezone, at_us) if "day" in columns else "",
                }  # fmt: skip
                uuids, sums = groups.setdefault(tuple(values[c] for c in columns), (set(), [0, 0]))
                uuids.add(uuid)
                sums[0] += quantity if component in TOKEN_COMPONENTS else 0
                sums[1] += nanos
            return [UsageRow(keys, len(uuids), *sums) for keys, (uuids, sums) in sorted(groups.items())]

        return self._read(op)

    def mean_completion(self, project: str, model: str, at_us: int) -> int | None:
        """Mean completion tokens of a result of this project and model over `HISTORY_DAYS`; None without any."""
        today = date.fromisoformat(day_of(self.timezone, at_us))
        # Each day by its name: a few rows of the key, where a range of days would be all projects' rows.
        days = [(today - timedelta(days=n)).isoformat() for n in range(HISTORY_DAYS + 1)]
        row = self._read(
            lambda tx: tx.one(
                "SELECT sum(quantity), sum(results) FROM rollups"
                f" WHERE day IN ({marks(len(days))}) AND project = ? AND model = ? AND component = 'completion'",
                (*days, project, model),
            )
        )
        return -(-row[0] // row[1]) if row and row[1] else None

    def settled(self, start_us: int, end_us: int, project: str | None = None) -> list[Settled]:
        """The settled attempts admitted in [start_us, end_us) that the provider's own figures were charged for."""
        condition, parameters = covered(project, "a.project") if project is not None else ("1=1", ())

        def op(tx: Tx) -> list[Settled]:
            found: dict[int, Settled] = {}
            own: set[int] = set()
            for attempt_id, *attempt, nanos, basis, component, modality, quantity, n in tx.each(
                "SELECT a.id, a.model, a.results, a.seen, a.expected, a.upper, a.estimate, c.nanos, c.basis,"
                " coalesce(l.component, ''), coalesce(l.modality, ''), l.quantity, coalesce(l.n, 0)"
                " FROM attempts a JOIN charges c ON c.attempt_id = a.id LEFT JOIN lines l ON l.charge_seq = c.seq"
                f" WHERE a.status = 'settled' AND a.at_us >= ? AND a.at_us < ? AND {condition} AND {STANDING}"
                " ORDER BY a.id, c.seq, l.n",
                (start_us, end_us, *parameters),
            ):
                one = found.get(attempt_id) or Settled._make((*attempt, 0, {}))
                if basis not in ("breakdown", "cost"):
                    own.add(attempt_id)
                tokens = one.tokens
                name = {"prompt": modality, "cache": modality, "completion": "completion"}.get(component)
                if component == "unitemized" or name == "" or (name and quantity is None):
                    tokens = None
                elif name and tokens is not None:
                    tokens[name] = tokens.get(name, 0) + quantity
                found[attempt_id] = one._replace(nanos=one.nanos + (0 if n else nanos), tokens=tokens)
            return [one for attempt_id, one in found.items() if attempt_id not in own]

        return self._read(op)

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
                    f"SELECT {column} FROM rollups UNION"
                    f" SELECT {column} FROM attempts WHERE status IN ('held', 'unresolved')"
                )
            }
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


def group_columns(by: Sequence[str]) -> list[str]:
    """The roll-up's columns for the groups of `by`, in their order."""
    columns: list[str] = []
    for group in by:
        if group not in GROUPS:
            raise ConfigurationError(f"by: {group!r} is not one of {', '.join(GROUPS)}")
        columns += ["component", "modality"] if group == "modality" else [group]
    return list(dict.fromkeys(columns))
