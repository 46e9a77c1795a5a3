"""Documents to write down: a month's report with as many projects as wanted, and names that mean harm."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from costguard.reports.document import Chart, Column, Document, Figure, Figures, Heading, Point, Table

HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "'; DROP TABLE charges; --",
    "=HYPERLINK(\"http://evil.example\",\"click\")",
    "+1+1", "-2+3", "@SUM(A1)", "\t=1", "＝1+1",
    "a|b|c", "a\\|b", "`x`", "**bold** _it_ ~~no~~", "[link](http://evil.example)", "![x](http://evil.example/x.png)",
    "@octocat", "#1", "http://evil.example", "www.evil.example", "me@evil.example", "&lt;b&gt; &amp; &#60;",
    "{{7*7}} ${7*7} $$x$$", "]]>", "<!--", "--> <b>", "https://evil.example/<x>",
    "検索/ランキング", "مشروع/عربي", "e\u0301\u0301\u0301\u0301", "🛰/🧪", "x" * 200, "long/" * 30 + "end",
    "a\u00a0b", " ",
)  # fmt: skip
"""Names as somebody might give them to a project, tag or model."""

AS_OF = datetime(2026, 11, 22, 12, tzinfo=UTC)


def report(projects: int = 6, names: tuple[str, ...] = (), days: int = 30) -> Document:
    """A month by project, day and budget; `names` are the first projects' names."""
    called = [*names[:projects], *(f"acme/team-{n:03}/prod" for n in range(len(names), projects))]
    rows = [
        {"project": name, "tasks": 7 * n + 1, "tokens": None if n == 1 else 123_457 * (projects - n),
         "cost": Decimal(1217 * (projects - n) ** 2 + n).scaleb(-6), "share": Decimal(n + 1)}
        for n, name in enumerate(called)
    ]  # fmt: skip
    total = {
        "project": "total",
        "tasks": sum(int(str(row["tasks"])) for row in rows),
        "tokens": None,
        "cost": sum((Decimal(str(row["cost"])) for row in rows), Decimal(0)),
        "share": Decimal(100),
    }
    by_project = Table(
        (
            Column("project", "Project"),
            Column("tasks", "Tasks", number=True),
            Column("tokens", "Tokens", number=True),
            Column("cost", "Cost USD", number=True),
            Column("share", "Rank", number=True),
        ),
        rows,
        total,
    )
    spent = Decimal(str(total["cost"]))
    dates = [f"2026-11-{day:02}" for day in range(1, days + 1)]
    amounts = [spent * ((day * 37) % 23 + 3) / 400 for day in range(days)]
    by_day = Table(
        (Column("day", "Day"), Column("cost", "Cost USD", number=True)),
        [{"day": day, "cost": amount} for day, amount in zip(dates, amounts, strict=True)],
    )
    limits = [spent * 2, spent * Decimal("1.1"), spent * Decimal("0.9"), None]
    called_budgets = ["all projects, per month", "acme, per month", "acme/team-000, per quarter", "no limit"]
    by_budget = Table(
        (Column("budget", "Budget"), Column("spent", "Spent", number=True), Column("limit", "Limit", number=True)),
        [{"budget": name, "spent": spent, "limit": limit} for name, limit in zip(called_budgets, limits, strict=True)],
    )
    record: dict[str, Any] = {"month": "2026-11", "total": spent, "rows": rows, "as_of": AS_OF}
    return Document(
        record,
        tuple(column.key for column in by_project.columns),
        rows,
        (
            Figures(
                [
                    Figure("Spent", spent, "USD", "12.4 % more than in October"),
                    Figure("Budget", limits[1], "USD", "90.9 % of it is used", "near"),
                    Figure("Expected at the end", spent * Decimal("1.25"), "USD", "between 5.10 and 6.42"),
                    Figure("Tasks", total["tasks"]),
                ]
            ),
            "Charged at the provider's own figures, but for 0.0031 USD that is assumed.\nNothing is unresolved.",
            Heading("Budgets"),
            Chart("gauges", "Use of each limit",
                  [Point(name, spent, limit) for name, limit in zip(called_budgets, limits, strict=True)], by_budget),
            Heading("Projects"),
            Chart("bars", "Cost by project, USD",
                  [Point(str(row["project"]), Decimal(str(row["cost"]))) for row in rows], by_project),
            Heading("Days"),
            Chart("columns", "Cost by day, USD",
                  [Point(day, amount, is_forecast=n > 21, least=amount / 2 if n > 21 else None,
                         most=amount * 3 / 2 if n > 21 else None)
                   for n, (day, amount) in enumerate(zip(dates, amounts, strict=True))], by_day),
        ),
        title="What was spent in November 2026",
        about={"period": "2026-11", "since": "2026-11-01", "until": "2026-12-01", "timezone": "UTC", "currency": "USD",
               "as_of": AS_OF},
    )  # fmt: skip
