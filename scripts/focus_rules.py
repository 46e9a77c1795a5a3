"""Run the FOCUS validator on exports, and tell apart what is known to fail from what is not.

    scripts/focus_check [FILE…]      in an environment that has the validator

Each CSV is looked at twice: as it is, and with marks in its null columns `ChargeClass` and `CommitmentDiscountStatus`.
The validator asks `ChargeClass <> 'Correction'` in SQL, which is not true of a null, so that it passes over what it is
to check: list prices, quantities and SKUs of every row that is no correction.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

FOCUS = "1.2"
CRITERIA = (
    "PUBLIC_PRICE_LIST_SUPPORTED",
    "UNIT_PRICING_SUPPORTED",
    "USAGE_MEASUREMENT_SUPPORTED",
    "TAGGING_SUPPORTED",
    "BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED",
    "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED",
)
"""What is true of the provider, by the specification's names; the last two so that the columns of resources are looked
at, too."""

MARK = "Looked At"
"""Stands for a null in the second look."""


class Known(NamedTuple):
    """Rules that fail for a reason that is not the export's."""

    rules: str
    """A regular expression."""
    why: str


ALWAYS = (
    Known(
        r"InvoiceId-C-005-C",
        "asked of every row, where the specification asks it of charges that are on an invoice: the ledger has none",
    ),
    Known(
        r"CostAndUsage-D-0(4[678]|5[0-6])-C|PricingCurrency\w+-C-\d+-\w",
        "columns of providers with virtual currencies: asked if any of a rule's criteria holds, not all",
    ),
)
AS_IT_IS = Known(
    r"ConsumedQuantity-C-00[03456]-[CM]",
    "cannot be asked without a column CommitmentDiscountStatus, which is for providers with such discounts; the second"
    " look asks it",
)
MARKED = Known(r"ChargeClass-C-00[05]-[CM]", "the mark itself")
UNKNOWN = Known(
    r"(ListUnitPrice-C-00[035]|SkuPriceId-C-00[035]|PricingQuantity-C-00[035]|ConsumedQuantity-C-00[0356])-[CM]",
    "a price or a count that is not known is null: of what was billed without its parts, or has no price list",
)

_RULE = re.compile(r"^❌ ([\w-]+): FAIL", re.M)
_TOTAL = re.compile(r"^Total: .*$", re.M)


def validate(file: Path, folder: Path) -> str:
    """What the validator says of a file. It looks for a list of its own from where it is run, and logs there."""
    place = folder / "focus_validator"
    if not place.exists():
        found = find_spec("focus_validator")
        if found is None or found.origin is None:
            sys.exit("there is no focus-validator here; scripts/focus_check installs it")
        place.symlink_to(Path(found.origin).parent)
    command = [
        str(Path(sys.executable).with_name("focus-validator")), "--data-file", str(file.resolve()),
        "--block-download", "--validate-version", FOCUS, "--applicability-criteria", ",".join(CRITERIA),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not _TOTAL.search(done.stdout):
        sys.exit(f"{file}: the validator came to no result:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def marked(file: Path, folder: Path) -> tuple[Path, int]:
    """A copy of a CSV without nulls in the columns that hide others; how many of its rows have no list price."""
    copy, unknown = folder / f"marked-{file.name}", 0
    with file.open(newline="", encoding="utf-8") as source, copy.open("w", newline="", encoding="utf-8") as target:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, [*(rows.fieldnames or ()), "CommitmentDiscountStatus"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            unknown += row["ChargeCategory"] == "Usage" and not row["ListUnitPrice"]
            writer.writerow({**row, "ChargeClass": row["ChargeClass"] or MARK, "CommitmentDiscountStatus": MARK})
    return copy, unknown


def tell(title: str, said: str, known: Sequence[Known], found: dict[Known, set[str]]) -> bool:
    """Print what a file came to; whether nothing failed that is not `known`. What is goes to `found`."""
    total = _TOTAL.search(said)
    failed = set(_RULE.findall(said))
    for each in known:
        rules = {rule for rule in failed if re.fullmatch(each.rules, rule)}
        found.setdefault(each, set()).update(rules)
        failed -= rules
    print(f"{title}\n  {total[0] if total else ''} | Not known: {len(failed)}")
    for rule in sorted(failed):
        line = re.search(rf"^❌ {re.escape(rule)}: .*$", said, re.M)
        print(f"  {line[0] if line else rule}")
    return not failed


def made(folder: Path) -> list[Path]:
    """Exports of a ledger with a month of calls told in full, and one of all else: each a task, and an hour, a row."""
    db = folder / "made.db"
    spend(db)
    files = []
    for month, per, ending in product(("2026-10", "2026-11"), ("task", "hour"), ("csv", "parquet")):
        file = folder / f"{month}-{per}.{ending}"
        options = ["--month", month, "--per", per, "-o", str(file)]
        command = [sys.executable, "-m", "costguard", "--db", str(db), "export", "focus", *options]
        subprocess.run(command, check=True, capture_output=True)
        files.append(file)
    return files


def spend(db: Path) -> None:
    """Make a ledger: October's calls are itemized, November's told in every manner, some corrected in December."""
    import httpx

    from costguard import Guard
    from costguard.testing import StandIn

    logging.getLogger("costguard").addHandler(logging.NullHandler())
    standin, now = StandIn(seeds=False), datetime(2026, 10, 5, 9, tzinfo=UTC)
    with (
        Guard(db, "acme/search", timezone="Europe/Berlin", media_max={"video_s": 60}, clock=lambda: now) as guard,
        guard.wrap(httpx.Client(base_url="https://api.runware.ai", transport=standin.transport())) as client,
    ):

        def call(**fields: object) -> None:
            nonlocal now
            now += timedelta(minutes=25)
            task = {
                "taskType": "textInference",
                "taskUUID": str(uuid4()),
                "model": "google:gemini@3-flash",
                "messages": [{"role": "user", "content": "Describe the harbour in one line."}],
                "settings": {"maxTokens": 200},
            }
            with contextlib.suppress(httpx.HTTPError), guard.scope(tags={"user": "ann", "=1+1": 'a "quoted" one'}):
                client.post("/v1", json=[task | fields])

        for model in ("google:gemini@3-flash", "google:gemini@3.1-pro"):
            call(model=model)
            call(model=model, numberResults=3)
            call(model=model, inputs={"images": [str(uuid4())], "videos": [str(uuid4())]})
            call(model=model, deliveryMethod="stream")
        now = datetime(2026, 11, 5, 9, tzinfo=UTC)
        for fault in (
            "",
            "cost_only",
            "usage_only",
            "no_cost",
            "odd_total",
            "bad_breakdown",
            "drop_after",
            "drop_after",
        ):
            if fault:
                standin.fault(fault)
            call()
        call(taskType="imageInference", model="painter:1@1", positivePrompt="a boat", messages=None, settings=None)
        now = datetime(2026, 12, 5, 9, tzinfo=UTC)
        (lost, *_) = guard.ledger.tasks(status="unresolved")
        guard.resolve(lost.task_uuid, charged="0.001", reason="told by telephone")
        guard.reconcile(client)


def main() -> int:
    """Look at each file."""
    print(f"focus-validator {version('focus-validator')}, FOCUS {FOCUS}, applicable:\n  {', '.join(CRITERIA)}")
    good = True
    found: dict[Known, set[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in [Path(each) for each in sys.argv[1:]] or made(folder):
            good &= tell(file.name, validate(file, folder), (*ALWAYS, AS_IT_IS), found)
            if file.suffix == ".csv":
                copy, unknown = marked(file, folder)
                known = (*ALWAYS, MARKED, UNKNOWN) if unknown else (*ALWAYS, MARKED)
                title = f"{file.name}, nulls marked; without a list price: {unknown}"
                good &= tell(title, validate(copy, folder), known, found)
    for each, rules in found.items():
        if rules:
            print(f"\nKnown: {each.why}\n{textwrap.fill(' '.join(sorted(rules)), 110, break_on_hyphens=False)}")
    print("\nNothing failed that is not known." if good else "\nA rule failed that is not known.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
