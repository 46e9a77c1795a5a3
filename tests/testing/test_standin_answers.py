"""The stand-in's published and generated answers, its bill, and what it refuses."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standins import FLASH, PRO, a_task, about, ask, stated

from costguard.testing import MadeRate, Received, StandIn, exact, seeds
from costguard.testing.answers import text_tokens

pytest_plugins = ("standin_fixtures",)

# --- the published examples


def test_the_eight_published_examples_are_there_with_their_exact_costs() -> None:
    costs = [str(seed.response["cost"]) for seed in seeds()]
    assert costs == ["0.01572", "0.02386", "0.02394", "0.01311", "0.00147", "0.00122", "0.00308", "0.00419"]
    assert [seed.model for seed in seeds()] == [PRO] * 4 + [FLASH] * 4
    assert all(seed.url.startswith("https://runware.ai/docs/models/google-gemini-3-") for seed in seeds())
    assert len({(seed.name, seed.model) for seed in seeds()}) == 8


def test_a_caller_may_change_a_seed_without_changing_the_next_ones() -> None:
    seeds()[0].request["settings"]["maxTokens"] = 1
    assert seeds()[0].request["settings"]["maxTokens"] == 1200


@pytest.mark.parametrize("number", range(8))
def test_a_published_request_gets_its_published_response_under_its_own_uuid(
    web: httpx.Client, url: str, number: int
) -> None:
    seed = seeds()[number]
    mine = {"taskUUID": "mine", "includeCost": True, "includeUsage": True, "seed": 5}
    response = web.post(f"{url}/v1", json=[{**seed.request, **mine}])
    assert exact.loads(response.content) == {"data": [{**seed.response, "taskUUID": "mine"}]}


def test_published_figures_keep_their_digits_on_the_wire(web: httpx.Client, url: str) -> None:
    seed = seeds()[5]
    response = web.post(f"{url}/v1", json={**seed.request, "includeCost": True, "includeUsage": True})
    for figure in ('"cost":0.00122,', '"total":0.001217,', '"cost":0.000037,', '"cost":0,'):
        assert figure in response.text


def test_a_published_request_is_billed_at_the_published_total_else_at_the_cost(standin: StandIn) -> None:
    for seed in seeds():
        ask(standin, seed.request)
    assert [str(bill.amount) for bill in standin.bill] == [
        "0.01572", "0.02386", "0.02394", "0.01311", "0.00147", "0.001217", "0.003083", "0.00419",
    ]  # fmt: skip


def test_a_slug_names_the_same_example_and_without_seeds_the_answer_is_generated() -> None:
    request = {**seeds()[5].request, "model": "google-gemini-3-flash"}
    assert ask(StandIn(), request)["data"][0]["text"] == "Resting on a weathered wooden sill"
    assert ask(StandIn(seeds=False), request)["data"][0]["text"] != "Resting on a weathered wooden sill"


# --- generated answers and the bill


def test_cost_and_usage_come_only_when_asked_for_and_are_billed_anyway(standin: StandIn) -> None:
    bare = a_task(includeCost=False)
    del bare["includeUsage"]
    assert {"cost", "usage"}.isdisjoint(ask(standin, bare)["data"][0])
    cost_only = ask(standin, a_task(includeUsage=False))["data"][0]
    assert "cost" in cost_only
    assert "usage" not in cost_only
    assert len(standin.bill) == 2
    assert standin.billed(bare["taskUUID"]) > 0


@given(
    text=st.text(min_size=1, max_size=400),
    media=st.tuples(*[st.integers(0, 3)] * 4),
    model=st.sampled_from([FLASH, PRO, "someone:else@1"]),
    tokens=st.tuples(st.integers(1, 5000), st.integers(0, 6000)),
    results=st.integers(1, 4),
)
def test_every_level_of_a_generated_breakdown_adds_up_to_the_bill(
    text: str, media: tuple[int, ...], model: str, tokens: tuple[int, int], results: int
) -> None:
    max_tokens, wanted = tokens
    standin = StandIn(completion_tokens=wanted)
    kinds = ("images", "videos", "audios", "documents")
    inputs = {kind: ["x"] * count for kind, count in zip(kinds, media, strict=True)}
    task = a_task(
        text, model=model, inputs=inputs, settings={"maxTokens": max_tokens}, numberResults=results,
        tools=[{"type": "search"}],
    )  # fmt: skip
    answer = ask(standin, task)
    assert len(answer["data"]) == len(standin.bill) == results
    assert stated(answer) == standin.billed() == standin.billed(task["taskUUID"])
    for item in answer["data"]:
        usage, parts = item["usage"], item["usage"]["costBreakdown"]
        prompt, completion = parts["tokens"]["prompt"], parts["tokens"]["completion"]
        assert prompt["cost"] == sum(leaf["cost"] for leaf in prompt["modalities"])
        assert prompt["billableTokens"] == sum(leaf["tokens"] for leaf in prompt["modalities"])
        assert parts["total"] == prompt["cost"] + completion["cost"] + parts["features"]["search"]["cost"]
        assert completion["textTokens"] + completion["reasoningTokens"] == usage["completionTokens"]
        assert usage["completionTokens"] <= max_tokens
        assert usage["totalTokens"] == usage["promptTokens"] + usage["completionTokens"]
        assert abs(item["cost"] - parts["total"]) <= Decimal("0.000005")
        assert -item["cost"].as_tuple().exponent <= 5
        assert parts["totalDisplay"] == f"{parts['total']:.6f}"


def test_media_are_counted_as_in_the_published_examples(standin: StandIn) -> None:
    inputs = {"images": ["a", "b"], "videos": ["c"]}
    prompt = ask(standin, a_task(inputs=inputs))["data"][0]["usage"]["costBreakdown"]["tokens"]["prompt"]
    tokens = {leaf["modality"]: leaf["tokens"] for leaf in prompt["modalities"]}
    assert {kind: tokens[kind] for kind in ("IMAGE", "VIDEO", "AUDIO")} == {"IMAGE": 2128, "VIDEO": 384, "AUDIO": 152}


@pytest.mark.parametrize(("tokens", "rate"), [(199_999, 2), (200_000, 2), (200_001, 4)])
def test_the_whole_request_switches_above_200_000_prompt_tokens(tokens: int, rate: int) -> None:
    standin = StandIn(count_text=lambda _: tokens)
    parts = ask(standin, a_task(model=PRO))["data"][0]["usage"]["costBreakdown"]["tokens"]
    assert parts["prompt"]["cost"] == Decimal(tokens * rate).scaleb(-6)
    assert parts["completion"]["cost"] == Decimal(
        parts["completion"]["billableTokens"] * (10 + rate if rate == 2 else 18)
    ).scaleb(-6)


@given(st.text())
def test_text_tokens_are_even_and_never_more_than_the_bytes(text: str) -> None:
    tokens = text_tokens(text)
    assert tokens % 2 == 0
    assert tokens <= len(text.encode("utf-8", "surrogatepass"))


def test_several_results_have_their_own_seeds_and_on_request_their_index() -> None:
    standin = StandIn(result_index=True)
    task = a_task(numberResults=3, seed=2**32 - 1)
    items = ask(standin, task)["data"]
    assert [item["seed"] for item in items] == [2**32 - 1, 0, 1]
    assert [item["resultIndex"] for item in items] == [0, 1, 2]
    assert [(bill.attempt, bill.result_index) for bill in standin.bill] == [(1, 0), (1, 1), (1, 2)]


def test_a_task_sent_again_is_billed_again_and_its_results_can_be_told_apart(standin: StandIn) -> None:
    for request in (a_task(), {**seeds()[3].request, "includeCost": True}):
        first, second = ask(standin, request)["data"], ask(standin, request)["data"]
        assert first != second
        details = ask(standin, about("getTaskDetails", request))["data"][0]["response"]
        assert details == {"data": first + second}
    assert [bill.attempt for bill in standin.bill] == [1, 2, 1, 2]


def test_a_task_sent_again_can_be_recognised_and_billed_once() -> None:
    standin = StandIn(bill_retries_once=True)
    task = a_task()
    assert ask(standin, task) == ask(standin, task)
    assert len(standin.bill) == 1


def test_a_task_that_is_not_text_states_its_cost_only(standin: StandIn) -> None:
    image = {"taskType": "imageInference", "taskUUID": "i", "includeCost": True, "includeUsage": True}
    (item,) = ask(standin, image)["data"]
    assert item["cost"] == Decimal("0.0019") == standin.billed("i")
    assert "usage" not in item


# --- requests that are refused, and those that are free


def test_free_tasks_are_answered_and_not_billed(standin: StandIn) -> None:
    free = ["accountManagement", "modelSearch", "mediaStorage"]
    tasks = [{"taskType": "authentication", "apiKey": "secret"}]
    tasks += [{"taskType": kind, "taskUUID": kind} for kind in free]
    data = ask(standin, *tasks)["data"]
    assert [item["taskType"] for item in data] == ["authentication", *free]
    assert "secret" not in str(data)
    assert standin.bill == []


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"numberResults": 5}, "numberResults"),
        ({"numberResults": True}, "numberResults"),
        ({"deliveryMethod": "pigeon"}, "deliveryMethod"),
        ({"messages": []}, "messages"),
        ({"model": None}, "model"),
        ({"taskUUID": ""}, "taskUUID"),
        ({"taskType": None}, "taskType"),
        ({"settings": []}, "settings"),
        ({"settings": {"maxTokens": 0}}, "settings.maxTokens"),
        ({"inputs": {"images": 3}}, "inputs.images"),
        ({"tools": ["search"]}, "tools"),
    ],
)
def test_an_invalid_task_is_refused_in_the_documented_shape(
    standin: StandIn, fields: dict[str, Any], parameter: str
) -> None:
    reply = standin.handle("POST", "/v1", {}, json.dumps(a_task(**fields)).encode())
    (error,) = exact.loads(reply.chunks[0])["errors"]
    assert reply.status == 400
    assert error["parameter"] == parameter
    assert {"code", "message", "documentation"} <= error.keys()
    assert standin.bill == []


def test_an_invalid_task_beside_a_good_one_fails_alone(standin: StandIn) -> None:
    good, bad = a_task(), a_task(numberResults=0)
    answer = ask(standin, good, bad)
    assert [item["taskUUID"] for item in answer["data"]] == [good["taskUUID"]]
    assert [error["taskUUID"] for error in answer["errors"]] == [bad["taskUUID"]]
    assert [bill.task_uuid for bill in standin.bill] == [good["taskUUID"]]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[1]", b'"task"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_task_list_is_refused(standin: StandIn, body: bytes) -> None:
    assert standin.handle("POST", "/v1", {}, body).status == 400


def test_other_addresses_and_methods_are_refused(web: httpx.Client, url: str) -> None:
    assert web.post(f"{url}/v2", json=a_task()).status_code == 404
    assert web.get(f"{url}/v1").status_code == 405


def test_what_arrived_is_kept_byte_for_byte(web: httpx.Client, standin: StandIn, url: str) -> None:
    body = b' {"taskType" : "modelSearch","taskUUID":"m" } '
    web.post(f"{url}/v1", content=iter([body[:7], body[7:]]), headers={"X-Mark": "Yes"})
    (got,) = standin.received
    assert isinstance(got, Received)
    assert (got.method, got.path, got.headers["x-mark"], got.body) == ("POST", "/v1", "Yes", body)
    assert got.tasks == [{"taskType": "modelSearch", "taskUUID": "m"}]


# --- pictures, videos and sounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "fields", "usd"),
    [
        (MadeRate(Decimal("0.02")), {}, "0.02"),
        (MadeRate(Decimal("0.02"), above=((2**20, Decimal("0.04")),)), {"width": 1024, "height": 1024}, "0.02"),
        (MadeRate(Decimal("0.02"), above=((2**20, Decimal("0.04")),)), {"width": 1024, "height": 1025}, "0.04"),
        (MadeRate(Decimal("0.003"), per="megapixel"), {"width": 1000, "height": 1500}, "0.0045"),
        (MadeRate(Decimal("0.003"), per="megapixel", begun=2**20), {"width": 1024, "height": 1025}, "0.006"),
        (MadeRate(Decimal("0.05"), per="second"), {"duration": 4.5}, "0.225"),
        (MadeRate(Decimal("0.05"), per="second", begun=1), {"duration": 4.5}, "0.25"),
        (MadeRate(Decimal("0.05"), per="second"), {}, "0.25"),
        (MadeRate(Decimal("0.05"), per="second", named={"1080p": Decimal("0.1")}), {"resolution": "1080p"}, "0.5"),
        (MadeRate(Decimal("0.05"), silent=Decimal("0.5")), {"settings": {"audio": False}}, "0.025"),
    ],
)
def test_what_is_made_is_billed_by_its_size_and_seconds(rate: MadeRate, fields: dict[str, Any], usd: str) -> None:
    standin = StandIn(made_rates={"acme:maker@1": rate})
    task = {"taskType": "videoInference", "taskUUID": "a", "model": "acme:maker@1", "includeCost": True, **fields}
    with httpx.Client(base_url="https://api.runware.ai", transport=standin.transport()) as client:
        (item,) = client.post("/v1", json=[task]).json()["data"]
    assert standin.billed() == Decimal(usd) == Decimal(str(item["cost"]))
    assert item["videoURL"].endswith(item["videoUUID"])
    assert "duration" not in item


def test_what_is_made_tells_its_size_if_it_is_to() -> None:
    standin = StandIn(tells_size=True, item_cost=Decimal("0.5"))
    tasks = [
        {"taskType": kind, "taskUUID": kind, "duration": 2, "width": 64, "height": 32}
        for kind in ("imageInference", "audioInference", "videoInference", "caption", "training")
    ]
    with httpx.Client(base_url="https://api.runware.ai", transport=standin.transport()) as client:
        items = client.post("/v1", json=tasks).json()["data"]
    told = [{key: item[key] for key in ("width", "height", "duration", "text") if key in item} for item in items]
    assert told == [
        {"width": 64, "height": 32},
        {"duration": 2},
        {"width": 64, "height": 32, "duration": 2},
        {"text": "a harbour at dusk"},
        {},
    ]
    assert standin.billed() == Decimal("2.5")
