"""What was used and billed, for reports and expectations: groups of charges, settled attempts, media."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any

from costguard.budgets import day_of, window_at
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.reading import Reading
from costguard.ledger.accounting.rolling import SLOT_US, Leaf, Sums, add, gather, gather_times, rolled
from costguard.ledger.accounting.sql import FOREVER_US, covered, marks
from costguard.ledger.engine import Tx
from costguard.ledger.records import EstimateSum, UsageRow
from costguard.projects import ancestors, covers, is_default, parent_of

TOKEN_COMPONENTS = ("prompt", "cache", "completion", "unitemized")
"""Components whose quantity counts tokens; the others count uses, or nothing."""

GROUPS = ("project", "model", "task_type", "day", "modality", "basis")
"""What usage can be grouped by; `modality` gives two keys, component and modality."""

HISTORY_DAYS = 30
"""Days of history that expectations are learned from."""


class Usage(Reading):
    """The part of `Ledger` that sums up charges; every method is one snapshot."""

    def usage(self, by: Sequence[str], first_day: str, end_day: str, project: str | None = None) -> list[UsageRow]:
        """Charges of the days in [first_day, end_day) of the reporting zone, from the daily roll-ups.

        `by` is any of GROUPS; rows are sorted by their keys. ISO dates.
        """

        def op(tx: Tx) -> list[UsageRow]:
            tail = gather(tx, rolled(tx), FOREVER_US).days
            beyond = [(day, leaf, sums) for (day, leaf), sums in tail.items() if first_day <= day < end_day]
            return _grouped(tx, "rollups", "day", (first_day, end_day), by, project, str, beyond)

        return self._read(op)

    def usage_in(
        self, by: Sequence[str], timezone: str, start_us: int, end_us: int, project: str | None = None
    ) -> list[UsageRow]:
        """As `usage`, for the days of another zone: charges of what was admitted in [start_us, end_us).

        From roll-ups by quarters of an hour; where a day of that zone begins between two, from the journal itself.
        """

        def day(slot: int) -> str:
            return day_of(timezone, slot * SLOT_US)

        first, end = start_us // SLOT_US, end_us // SLOT_US

        def op(tx: Tx) -> list[UsageRow]:
            if not all(cut % SLOT_US == 0 for cut in _cuts(timezone, start_us, end_us)):
                charges = gather_times(tx, start_us, end_us, timezone)
                return _grouped(tx, None, "", (), by, project, str, charges)
            tail = gather(tx, rolled(tx), FOREVER_US).slots
            beyond = [(day(slot), leaf, sums) for (slot, leaf), sums in tail.items() if first <= slot < end]
            return _grouped(tx, "slots", "slot", (first, end), by, project, day, beyond)

        return self._read(op)

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
            for (day, leaf), sums in gather(tx, rolled(tx), FOREVER_US).days.items():
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
            for (day, *keys), sums in gather(tx, rolled(tx), FOREVER_US).estimates.items():
                if first_day <= day < end_day and (project is None or covers(project, keys[0])):
                    rows.append((*keys, *sums))
            for _, model, what, *sums in rows:
                add(found[model, what], sums)
            return [EstimateSum(*key, *sums) for key, sums in sorted(found.items()) if any(sums)]

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
                    f"SELECT DISTINCT {column} FROM {'rollups' if what == 'month' else 'leaves'} UNION"
                    f" SELECT {column} FROM attempts WHERE status IN ('held', 'unresolved')"
                )
            }
            for day, leaf in gather(tx, rolled(tx), FOREVER_US).days:
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


def group_columns(by: Sequence[str]) -> list[str]:
    """The roll-up's columns for the groups of `by`, in their order."""
    columns: list[str] = []
    for group in by:
        if group not in GROUPS:
            raise ConfigurationError(f"by: {group!r} is not one of {', '.join(GROUPS)}")
        columns += ["component", "modality"] if group == "modality" else [group]
    return list(dict.fromkeys(columns))


def _grouped(
    tx: Tx,
    table: str | None,
    column: str,
    period: tuple[object, ...],
    by: Sequence[str],
    project: str | None,
    day: Callable[[Any], str],
    beyond: Iterable[tuple[str, Leaf, Sums]],
) -> list[UsageRow]:
    """Rows of the roll-up `table` whose time `column` is in `period`, and what is `beyond` it, added up by `by`.

    `day` makes a day of a roll-up's time; what is beyond has its day already.
    """
    columns = group_columns(by)
    of_leaf = [name for name in columns if name != "day"]
    keys = [*([f"r.{column}"] if "day" in columns else []), *(f"l.{name}" for name in of_leaf)]
    condition, parameters = covered(project, "l.project") if project is not None else ("1=1", ())
    tokens = ", ".join(f"'{component}'" for component in TOKEN_COMPONENTS)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    rows = (
        tx.each(
            f"SELECT {''.join(f'{key},' for key in keys)}"
            f" sum({'r.tasks' if 'modality' in by else 'r.lead_tasks'}),"
            f" sum(CASE WHEN l.component IN ({tokens}) THEN r.quantity ELSE 0 END), sum(r.nanos)"
            f" FROM {table} r JOIN leaves l ON l.id = r.leaf_id"
            f" WHERE r.{column} >= ? AND r.{column} < ? AND {condition}"
            + (f" GROUP BY {', '.join(keys)}" if keys else " HAVING count(*) > 0"),
            (*period, *parameters),
        )
        if table
        else iter(())
    )
    days: dict[object, str] = {}
    for *key, tasks, counted, nanos in rows:
        told = dict(zip(of_leaf, key[-len(of_leaf) :] if of_leaf else [], strict=True))
        if "day" in columns:
            told["day"] = days.get(key[0]) or days.setdefault(key[0], day(key[0]))
        add(groups[tuple([told[name] for name in columns])], (tasks, counted, nanos))
    for when, leaf, (lead, tasks, _, quantity, nanos) in beyond:
        if project is None or covers(project, leaf.project):
            told = {**leaf._asdict(), "day": when}
            counted = quantity if leaf.component in TOKEN_COMPONENTS else 0
            group = groups[tuple([told[name] for name in columns])]
            add(group, (tasks if "modality" in by else lead, counted, nanos))
    return [UsageRow(key, *sums) for key, sums in sorted(groups.items())]


def _cuts(timezone: str, start_us: int, end_us: int) -> Iterator[int]:
    """Where the days of a zone begin in [start_us, end_us], and those two."""
    yield from (start_us, end_us)
    at_us = start_us
    while at_us < end_us:
        window = window_at("day", timezone, at_us)
        yield window.start_us
        at_us = window.end_us or end_us
