"""`costguard accuracy`: what was expected and held against what was billed, exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from conftest import API, FLASH, NOW, PRO, Clock, a_task
from media_files import b64, mp4, pdf

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.ledger.accounting.comparing import Compared, Estimated, compare
from costguard.ledger.accounting.rolling import add
from costguard.ledger.charges import Line
from costguard.ledger.records import EstimateSum
from costguard.reports.accuracy import AccuracyRow, over_line
from costguard.reports.accuracy import accuracy as rows_of
from costguard.testing import StandIn, seeds

MONTH = f"{NOW:%Y-%m}"
CLIP = b64(mp4(6080))


def settled(**fields: Any) -> tuple[str, list[Compared]]:
    """A settled attempt of one result: its model, and what is compared of it."""
    told = {
        "model": FLASH, "asked": 1, "seen": 1, "expected": 1000, "upper": 3000, "nanos": 2000,
        "estimate": json.dumps({"TEXT": [10, 20], "completion": [100, 200]}),
        "tokens": {"TEXT": 11, "completion": 50}, **fields,
    }  # fmt: skip
    tokens = told["tokens"]
    lines = [Line("unitemized", "", 9, 0)] if tokens is None else [
        Line("completion", "", n, 0) if what == "completion" else Line("prompt", what, n, 0)
        for what, n in tokens.items()
    ]  # fmt: skip
    estimated = Estimated(told["asked"], told["seen"], told["expected"], told["upper"], told["estimate"])
    return told["model"], compare(estimated, [("breakdown", told["nanos"], lines)])


def accuracy(attempts: list[tuple[str, list[Compared]]]) -> list[AccuracyRow]:
    """The rows of some attempts, added up as the ledger does."""
    sums: dict[tuple[str, str], list[int]] = {}
    for model, compared in attempts:
        for one in compared:
            add(
                sums.setdefault((model, one.what), [0] * 5),
                (1, one.expected, one.upper, one.billed, one.billed > one.upper),
            )
    return rows_of([EstimateSum(*key, *values) for key, values in sums.items()])


def send(guard: Guard, standin: StandIn, *tasks: dict[str, Any], project: str = "acme/search") -> None:
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        for task in tasks:
            client.post("/v1", json=[task], extensions={"costguard": {"project": project}})


def test_sums_ratio_and_overruns_are_by_model_and_modality() -> None:
    over = settled(nanos=3001, tokens={"TEXT": 21, "completion": 50})
    other = settled(model=PRO, tokens={"TEXT": 10, "completion": 200})
    rows = accuracy([settled(), over, other])
    assert rows == [
        AccuracyRow(FLASH, "TEXT", 2, 20, 40, 32, Decimal("1.600"), 1),
        AccuracyRow(FLASH, "completion", 2, 200, 400, 100, Decimal("0.500"), 0),
        AccuracyRow(
            FLASH, "cost", 2, Decimal("0.000002"), Decimal("0.000006"), Decimal("0.000005001"), Decimal("2.500"), 1
        ),
        AccuracyRow(PRO, "TEXT", 1, 10, 20, 10, Decimal("1.000"), 0),
        AccuracyRow(PRO, "completion", 1, 100, 200, 200, Decimal("2.000"), 0),
        AccuracyRow(PRO, "cost", 1, Decimal("0.000001"), Decimal("0.000003"), Decimal("0.000002"), Decimal("2.000"), 0),
    ]  # fmt: skip
    assert over_line(rows).startswith(
        "Billed above upper: 1 of 3 attempts in USD, 1 times in the tokens of a modality."
    )


def test_as_many_results_are_compared_as_were_charged() -> None:
    rows = accuracy([settled(asked=4, seen=2, expected=4000, upper=12000, tokens={"TEXT": 22, "completion": 100})])
    assert [(row.what, row.expected, row.upper, row.billed) for row in rows] == [
        ("TEXT", 20, 40, 22),
        ("completion", 200, 400, 100),
        ("cost", Decimal("0.000002"), Decimal("0.000006"), Decimal("0.000002")),
    ]


def test_what_has_no_estimate_or_no_breakdown_is_left_out() -> None:
    assert accuracy([settled(expected=None), settled(upper=None), settled(seen=0)]) == []
    assert [row.what for row in accuracy([settled(tokens=None)])] == ["cost"]
    assert over_line(accuracy([settled(tokens=None)])) == "Billed above upper: never, in 1 attempts."


def test_a_modality_that_was_billed_and_not_expected_is_shown_as_an_overrun() -> None:
    rows = accuracy([settled(tokens={"TEXT": 10, "SMELL": 5, "completion": 50})])
    assert AccuracyRow(FLASH, "SMELL", 1, 0, 0, 5, None, 1) in rows


def test_pages_of_a_document_may_be_billed_as_images() -> None:
    estimate = json.dumps({"TEXT": [10, 20], "IMAGE": [1064, 1120], "DOCUMENT": [560, 560], "completion": [1, 1]})
    rows = accuracy([settled(estimate=estimate, tokens={"TEXT": 10, "IMAGE": 1624, "completion": 1})])
    assert AccuracyRow(FLASH, "IMAGE", 1, 1624, 1680, 1624, Decimal("1.000"), 0) in rows
    assert all(row.what != "DOCUMENT" for row in rows)


@pytest.fixture
def run(ledger: Any, clock: Clock) -> Callable[..., str]:
    def invoke(*args: str) -> str:
        result = CliRunner().invoke(main, ["accuracy", *args], obj=Session(ledger, clock))
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def test_measured_media_are_billed_as_expected(guard: Guard, standin: StandIn, run: Callable[..., str]) -> None:
    media = {"videos": [CLIP], "images": ["AAAA"], "documents": [b64(pdf(1))]}
    send(guard, standin, a_task(inputs=media), a_task(inputs=media, numberResults=2), a_task(inputs={"audios": [CLIP]}))
    document = json.loads(run("--format", "json"))
    assert (document["schema"], document["month"], document["project"], document["over"]) == (1, MONTH, None, 0)
    found = {row["what"]: row for row in document["rows"]}
    assert found["VIDEO"] == {
        "model": FLASH, "what": "VIDEO", "attempts": 2, "expected": 3 * 384, "upper": 3 * 490, "billed": 3 * 384,
        "ratio": "1.000", "over": 0, "unit": "tokens",
    }  # fmt: skip
    assert [found[what]["ratio"] for what in ("IMAGE", "AUDIO", "DOCUMENT")] == ["1.000"] * 3
    assert Decimal(found["cost"]["billed"]) == standin.billed()
    assert found["cost"]["unit"] == "USD"
    assert list(found) == ["TEXT", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT", "completion", "cost"]


def test_the_published_examples_are_billed_below_their_upper(guard: Guard, standin: StandIn) -> None:
    guard.set_budget("/", "100", per="total")
    send(guard, standin, *({**seed.request, "taskUUID": None} for seed in seeds()))
    rows = rows_of(guard.ledger.estimates("2026-01-01", "2027-01-01"))
    texts = {row.model: row for row in rows if row.what == "TEXT"}
    assert texts[FLASH].billed == texts[FLASH].expected == 74 + 108
    assert all(row.over == 0 for row in rows)


def test_the_table_and_the_csv_say_the_same(guard: Guard, standin: StandIn, run: Callable[..., str]) -> None:
    send(guard, standin, a_task(inputs={"images": ["AAAA"]}))
    table = run().splitlines()
    assert table[0].split() == [
        "Model",
        "What",
        "Unit",
        "Attempts",
        "Expected",
        "Upper",
        "Billed",
        "Billed",
        "/",
        "expected",
        "Above",
        "upper",
    ]
    assert next(line for line in table if "IMAGE" in line).split() == [
        FLASH, "IMAGE", "tokens", "1", "1,064", "1,120", "1,064", "1.000", "0",
    ]  # fmt: skip
    assert table[-1] == "Billed above upper: never, in 1 attempts."
    lines = run("--format", "csv").splitlines()
    assert lines[0] == "model,what,unit,attempts,expected,upper,billed,ratio,over"
    assert f"{FLASH},IMAGE,tokens,1,1064,1120,1064,1.000,0" in lines


def test_project_and_month_choose_what_is_compared(
    guard: Guard, standin: StandIn, run: Callable[..., str], clock: Clock
) -> None:
    send(guard, standin, a_task())
    send(guard, standin, a_task(), project="other")
    clock.now = clock.now.replace(month=12)
    send(guard, standin, a_task())

    def attempts(*args: str) -> int:
        rows = json.loads(run(*args, "--format", "json"))["rows"]
        return int(sum(row["attempts"] for row in rows if row["what"] == "cost"))

    assert attempts() == 1
    assert attempts("--month", MONTH) == 2
    assert attempts("--month", MONTH, "--project", "acme") == 1
    assert run("--month", "2026-01") == "Nothing was settled in 2026-01.\n"


def test_only_settled_attempts_with_the_providers_figures_are_compared(
    guard: Guard, standin: StandIn, run: Callable[..., str]
) -> None:
    lost = a_task()
    standin.fault("drop_after")
    with pytest.raises(httpx.ReadError):
        send(guard, standin, lost)
    guard.resolve(lost["taskUUID"], charged="0.5", reason="by the invoice")
    send(guard, standin, a_task(deliveryMethod="async"))
    assert json.loads(run("--format", "json"))["rows"] == []
