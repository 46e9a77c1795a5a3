"""Media that were billed before: a UUID counts as billed, a URL is expected to, and neither is ever written down."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, PRO, Clock, a_task, audit

from costguard import BudgetExceeded, Guard
from costguard.estimating.counts import Count
from costguard.testing import StandIn, exact

CONTEXT = 1_048_576
WHOLE = Count(CONTEXT, CONTEXT)
URL = "https://media.example/harbour.mp4?signature=swordfish"
MakeGuard = Callable[..., Guard]


@pytest.fixture
def open_guard(make_guard: MakeGuard) -> Guard:
    """A guard without a budget, so that media of unknown length are sent."""
    return make_guard()


def send(guard: Guard, standin: StandIn, inputs: Any, **fields: Any) -> None:
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=[a_task(inputs=inputs, **fields)])


def counts(guard: Guard, inputs: Any, **fields: Any) -> dict[str, Count]:
    found = guard.estimate(a_task(inputs=inputs, **fields)).prompt
    return {modality: count for modality, count in found.items() if count.upper and modality != "TEXT"}


def rows(guard: Guard) -> int:
    return int(guard.ledger._engine.read(lambda tx: tx.one("SELECT count(*) FROM media"))[0])


def test_a_uuid_that_was_billed_counts_as_it_was_billed(open_guard: Guard, standin: StandIn) -> None:
    video = str(uuid.uuid4())
    assert counts(open_guard, {"videos": [video]}) == {"VIDEO": WHOLE, "AUDIO": WHOLE}
    send(open_guard, standin, {"videos": [video]})
    billed = {"VIDEO": Count(384, 384), "AUDIO": Count(152, 152)}
    assert counts(open_guard, {"videos": [video]}) == billed
    assert counts(open_guard, {"videos": [video.upper()]}) == billed
    assert not open_guard.estimate(a_task(inputs={"videos": [video]})).unbounded
    assert counts(open_guard, {"videos": [str(uuid.uuid4())]}) == {"VIDEO": WHOLE, "AUDIO": WHOLE}
    audit(open_guard, standin)


def test_a_url_that_was_billed_lends_its_count_to_expected_only(open_guard: Guard, standin: StandIn) -> None:
    send(open_guard, standin, {"videos": [URL]})
    assert counts(open_guard, {"videos": [URL]}) == {"VIDEO": Count(384, CONTEXT), "AUDIO": Count(152, CONTEXT)}
    found = open_guard.estimate(a_task(inputs={"videos": [URL]}), media_max={"video_s": 2})
    assert (found.prompt["VIDEO"], found.prompt["AUDIO"]) == (Count(140, 140), Count(50, 50))
    assert open_guard.estimate(a_task(inputs={"videos": [URL]})).unbounded == ("video_s",)


@pytest.mark.parametrize(
    ("kind", "billed"), [("images", {"IMAGE": 1064}), ("audios", {"AUDIO": 152}), ("documents", {"DOCUMENT": 560})]
)
def test_every_kind_of_medium_is_remembered(
    kind: str, billed: dict[str, int], open_guard: Guard, standin: StandIn
) -> None:
    medium = str(uuid.uuid4())
    send(open_guard, standin, {kind: [medium]}, numberResults=3)
    assert counts(open_guard, {kind: [medium]}) == {modality: Count(n, n) for modality, n in billed.items()}


def test_a_document_that_is_billed_as_images_is_remembered_as_a_document(open_guard: Guard) -> None:
    medium = str(uuid.uuid4())
    item = {"taskType": "textInference", "cost": Decimal("0.00056"), "usage": usage(1120)}
    answer(open_guard, a_task(inputs={"documents": [medium]}), item)
    assert counts(open_guard, {"documents": [medium]}) == {"DOCUMENT": Count(1120, 1120)}


@pytest.mark.parametrize(
    "inputs",
    [
        {"videos": [URL, str(uuid.uuid4())]},
        {"videos": [URL], "audios": ["https://media.example/a.mp3"]},
        {"images": [URL], "documents": [URL]},
        {"videos": [URL], "holograms": ["x"]},
    ],
)
def test_nothing_is_learned_where_the_bill_does_not_tell_media_apart(
    inputs: dict[str, list[str]], open_guard: Guard, standin: StandIn
) -> None:
    send(open_guard, standin, inputs)
    assert rows(open_guard) == 0


def test_media_of_different_modalities_in_one_task_are_all_remembered(open_guard: Guard, standin: StandIn) -> None:
    send(open_guard, standin, {"videos": [URL], "images": ["https://media.example/a.png"]})
    assert rows(open_guard) == 2


@pytest.mark.parametrize("figures", [{"usage": None}, {"cost": Decimal("0.5")}])
def test_nothing_is_learned_from_a_bill_that_is_odd_or_not_itemized(
    figures: dict[str, object], open_guard: Guard
) -> None:
    item = {"taskType": "textInference", "cost": Decimal("0.00056"), "usage": usage(1120), **figures}
    answer(open_guard, a_task(inputs={"images": [URL]}), item)
    assert rows(open_guard) == 0


def test_a_count_is_that_of_its_model_and_kind(open_guard: Guard, standin: StandIn) -> None:
    medium = str(uuid.uuid4())
    send(open_guard, standin, {"audios": [medium]})
    assert counts(open_guard, {"audios": [medium]}, model=PRO) == {"AUDIO": WHOLE}
    assert counts(open_guard, {"videos": [medium]}) == {"VIDEO": WHOLE, "AUDIO": WHOLE}
    assert counts(open_guard, {"audios": [medium]}, model="google-gemini-3-flash") == {"AUDIO": Count(152, 152)}


def test_a_poll_teaches_another_process(make_guard: MakeGuard, standin: StandIn) -> None:
    sender, poller = make_guard(), make_guard()
    task = a_task(inputs={"videos": [URL]}, deliveryMethod="async")
    with httpx.Client(base_url=API, transport=sender.transport(standin.transport())) as client:
        client.post("/v1", json=[task])
    assert rows(sender) == 0
    with httpx.Client(base_url=API, transport=poller.transport(standin.transport())) as client:
        for _ in range(3):
            client.post("/v1", json=[{"taskType": "getResponse", "taskUUID": task["taskUUID"]}])
    assert counts(sender, {"videos": [URL]})["VIDEO"] == Count(384, CONTEXT)
    audit(poller, standin)


def test_a_remembered_uuid_is_sent_under_a_budget_that_refused_it_unknown(open_guard: Guard, standin: StandIn) -> None:
    video = str(uuid.uuid4())
    open_guard.set_budget("/", "0.01", per="task")
    with pytest.raises(BudgetExceeded, match="video_s"):
        send(open_guard, standin, {"videos": [video]})
    open_guard.set_budget("/", "0.01", per="task", action="warn")
    send(open_guard, standin, {"videos": [video]})
    open_guard.set_budget("/", "0.01", per="task")
    send(open_guard, standin, {"videos": [video]})
    assert len(standin.bill) == 2


def test_no_url_and_no_uuid_of_a_medium_reaches_the_ledger(open_guard: Guard, standin: StandIn, ledger: Path) -> None:
    medium = str(uuid.uuid4())
    send(open_guard, standin, {"videos": [URL], "images": [medium]})
    send(open_guard, standin, {"videos": [URL, medium]})
    assert rows(open_guard) == 2
    open_guard.close()
    written = b"".join(file.read_bytes() for file in ledger.parent.iterdir() if file.name.startswith(ledger.name))
    for secret in ("media.example", "swordfish", medium, medium.replace("-", "")):
        assert secret.encode() not in written


def test_two_ledgers_write_the_same_medium_differently(make_guard: MakeGuard, standin: StandIn, tmp_path: Path) -> None:
    digests = set()
    for name in ("one.db", "two.db"):
        guard = make_guard(path=tmp_path / name)
        send(guard, standin, {"videos": [URL]})
        digests.add(guard.ledger._engine.read(lambda tx: tx.one("SELECT digest FROM media")))
        assert rows(guard) == 1
    assert len(digests) == 2


def test_a_medium_is_one_row_and_is_forgotten_after_90_days(open_guard: Guard, standin: StandIn, clock: Clock) -> None:
    for _ in range(3):
        send(open_guard, standin, {"videos": [URL]})
    assert rows(open_guard) == 1
    clock.now += timedelta(days=89)
    send(open_guard, standin, {"images": ["https://media.example/a.png"]})
    assert rows(open_guard) == 2
    clock.now += timedelta(days=2)
    send(open_guard, standin, {"images": ["https://media.example/a.png"]})
    assert rows(open_guard) == 1


def test_a_call_without_media_reads_and_writes_nothing_of_them(
    open_guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("media_key", "media_counts", "_remember"):
        monkeypatch.setattr(open_guard.ledger, name, lambda *_, name=name: asked.append(name))
    send(open_guard, standin, None)
    send(open_guard, standin, {"images": ["AAAA"]})
    assert not asked


def usage(image_tokens: int) -> dict[str, Any]:
    """A breakdown of 0.00056 USD for a document that is reported as images."""
    modalities = [{"modality": "IMAGE", "tokens": image_tokens, "cost": Decimal("0.00056")}]
    breakdown = {
        "tokens": {
            "prompt": {"modalities": modalities, "billableTokens": image_tokens, "cost": Decimal("0.00056")},
            "cache": {"billableTokens": 0, "cost": 0},
            "completion": {"billableTokens": 0, "cost": 0},
        },
        "total": Decimal("0.00056"),
    }
    return {"promptTokens": image_tokens, "completionTokens": 0, "costBreakdown": breakdown}


def answer(guard: Guard, task: dict[str, Any], item: dict[str, Any]) -> None:
    """Send `task` and have it answered with `item`."""
    reply = exact.dumps({"data": [{**item, "taskUUID": task["taskUUID"]}]})
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=reply))
    with httpx.Client(base_url=API, transport=guard.transport(transport)) as client:
        client.post("/v1", json=[task])
