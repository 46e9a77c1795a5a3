"""Pictures, videos, sounds and all else that is no text: estimated, held, charged and reported to the nano-dollar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import ledgers
import pytest
from click.testing import CliRunner
from conftest import API, CLIENTS, LIMIT, NOW, AnyClient, Clock, a_task, memory, only_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import CLIP, PAINTER, SKETCHER, VOICE, a_maker, picture, sound, video, write_prices
from roads import Provider, agree, details

from costguard import BudgetExceeded, Guard, UnpricedTask
from costguard.cli import main
from costguard.ledger.charges import Line
from costguard.reports.accuracy import accuracy
from costguard.reports.facts import state
from costguard.reports.focus import Month, rows
from costguard.reports.periods import month
from costguard.reports.reprice import reprice
from costguard.reports.skus import Catalogue
from costguard.reports.statement import document
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_prices(tmp_path)


@pytest.fixture
def guard(make_guard: MakeGuard, folder: Path) -> Guard:
    """As everywhere, and with prices of what is made."""
    guard = make_guard(prices=folder)
    guard.set_budget("/", LIMIT, per="total")
    return guard


@pytest.fixture
def standin() -> StandIn:
    return a_maker()


@pytest.fixture
def plain(guard: Guard, standin: StandIn) -> Iterator[httpx.Client]:
    """One guarded client."""
    with guard.wrap(httpx.Client(base_url=API, transport=standin.transport())) as client:
        yield client


def over(answer: Callable[[list[dict[str, Any]]], tuple[int, Any]]) -> httpx.Client:
    """A client of a provider that answers so."""
    transport: Any = Provider(answer)
    return httpx.Client(base_url=API, transport=transport)


def poll(task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": "getResponse", "taskUUID": task["taskUUID"]}


def lines(guard: Guard) -> list[Line]:
    """The lines of everything charged, in the journal's order."""
    span = month("2026-11").span("UTC")
    return [line for found in guard.ledger.charged(span) for charge in found.charges for line in charge.lines]


def bases(guard: Guard) -> set[str | None]:
    return {row.basis for row in guard.ledger.tasks()}


# --- estimates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "expected", "upper", "words"),
    [
        (picture(), "0.02", "0.02", "1 result × 0.02 USD per result (up to 1024x1024)"),
        (picture(width=1536, numberResults=3), "0.123", "0.123", "3 results × 0.041 USD per result (up to 2048x2048)"),
        (picture(width=None), "0.02", "0.041", "1 result × 0.041 USD per result (up to 2048x2048)"),
        (picture(width=None, height=None), "0.02", "0.041", "1 result × 0.041 USD per result (up to 2048x2048)"),
        (
            picture(model=SKETCHER, width=1000, height=1001),
            "0.001339038",
            "0.001339038",
            "1 result × 1.001 megapixels × 0.0013377 USD per megapixel",
        ),
        (video(duration=4.1), "0.3", "0.3", "1 result × 5 seconds × 0.06 USD per second (720p with audio)"),
        (video(duration=None), "0.3", "0.6", "1 result × 10 seconds × 0.06 USD per second (720p with audio)"),
        (video(duration="auto"), "0.3", "0.6", "1 result × 10 seconds × 0.06 USD per second (720p with audio)"),
        (
            video(resolution=None, settings=None),
            "0.6",
            "0.6",
            "1 result × 5 seconds × 0.12 USD per second (1080p with audio)",
        ),
        (
            video(settings=None, providerSettings={"acme": {"generateAudio": False}}),
            "0.225",
            "0.225",
            "1 result × 5 seconds × 0.045 USD per second (720p without audio)",
        ),
        (sound(), "0.00875", "0.00875", "1 result × 12.5 seconds × 0.0007 USD per second"),
        (picture(taskType="upscale", model="any:model@1"), "0.0016", "0.0016", "1 result × 0.0016 USD per result"),
        (picture(taskType="upscale", model=None), "0.0016", "0.0016", "1 result × 0.0016 USD per result"),
    ],
)
def test_a_task_is_estimated_by_its_size_or_length_and_says_how(
    guard: Guard, task: dict[str, Any], expected: str, upper: str, words: str
) -> None:
    found = guard.estimate(task)
    assert (found.expected, found.upper, found.reckoning) == (Decimal(expected), Decimal(upper), words)
    assert guard.estimate(a_task()).reckoning is None


def test_an_estimate_is_shown_as_a_frame_of_what_is_made(guard: Guard) -> None:
    shown = guard.estimate(video(duration=None))._rows()
    assert shown == [
        {"what": "seconds", "expected": 5, "upper": 10, "unit": "seconds"},
        {"what": "cost", "expected": Decimal("0.3"), "upper": Decimal("0.6"), "unit": "USD"},
    ]


# --- the gate --------------------------------------------------------------------------------------------------


def test_what_no_budget_has_room_for_is_not_sent(guard: Guard, standin: StandIn, plain: httpx.Client) -> None:
    guard.set_budget("acme", "0.05", per="total")
    with pytest.raises(BudgetExceeded) as stop:
        plain.post("/v1", json=[picture(numberResults=3)])
    assert (stop.value.requested, standin.received) == (Decimal("0.06"), [])


def test_a_length_that_nothing_bounds_is_refused_with_what_to_do_and_sent_under_a_ceiling(
    guard: Guard, standin: StandIn, plain: httpx.Client
) -> None:
    endless = sound(duration=None)
    with pytest.raises(UnpricedTask, match="the length of a result is not known: state duration in the task, or max_s"):
        plain.post("/v1", json=[endless])
    assert standin.received == []
    guard.set_ceiling(VOICE, "0.1")
    assert plain.post("/v1", json=[endless]).extensions["costguard"].charged == Decimal("0.0035")
    assert agree(guard, standin)


def test_a_model_with_a_price_for_another_type_of_task_has_none_for_this_one(guard: Guard, plain: httpx.Client) -> None:
    with pytest.raises(UnpricedTask, match=f"no price is known for model '{PAINTER}'"):
        plain.post("/v1", json=[picture(taskType="photoMaker")])


# --- every road ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_engine")
def test_a_length_that_only_the_result_tells_is_charged_at_the_price_whichever_road_tells_it(guard: Guard) -> None:
    guard.set_ceiling(VOICE, "0.1")
    tasks = [sound(duration=None), sound(duration=None, deliveryMethod="async")]

    def told(task: dict[str, Any]) -> dict[str, Any]:
        own = {key: task[key] for key in ("taskType", "taskUUID")}
        return {**own, "audioURL": "https://x.example/a.mp3", "duration": 10.5}

    def answer(sent: list[dict[str, Any]]) -> tuple[int, Any]:
        return 200, {"data": [told(tasks[0]), {key: tasks[1][key] for key in ("taskType", "taskUUID")}]}

    with guard.wrap(over(answer)) as client:
        client.post("/v1", json=tasks)
    guard.observe({"data": [told(tasks[1])]})
    assert [(row.status, row.charged, row.basis) for row in guard.ledger.tasks()] == [
        ("settled", 7_350_000, "computed")
    ] * 2


@pytest.mark.parametrize("delivery", [None, "async"])
def test_each_image_of_a_sequence_is_held_and_what_was_made_of_it_is_charged(
    guard: Guard, clock: Clock, delivery: str | None
) -> None:
    task = picture(deliveryMethod=delivery, providerSettings={"bytedance": {"maxSequentialImages": 5}})
    own = {key: task[key] for key in ("taskType", "taskUUID")}
    made = [{**own, "imageURL": f"https://x.example/{n}.png", "seed": n, "cost": 0.02} for n in range(3)]

    def answer(sent: list[dict[str, Any]]) -> tuple[int, Any]:
        if sent[0]["taskType"] == "getTaskDetails":
            return 200, {"data": [details(task, *made)]}
        assert only_task(guard).held == 100_000_000
        return 200, {"data": [own] if delivery else made}

    with guard.wrap(over(answer)) as client:
        client.post("/v1", json=[task])
        if delivery:
            guard.observe({"data": [{**each, "status": "success"} for each in made]})
            assert (only_task(guard).charged, only_task(guard).held) == (60_000_000, 40_000_000)  # more may come
            clock.now += timedelta(minutes=5)
            guard.reconcile(client)
    found = only_task(guard)
    assert (found.status, found.charged, found.held, found.odd) == ("settled", 60_000_000, 0, False)


@pytest.mark.parametrize("kind", CLIENTS)
def test_all_types_in_one_post_are_charged_as_they_are_billed(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    client = make_client(kind, guard, transport=memory(standin, kind))
    tasks = [
        picture(numberResults=2), picture(model=SKETCHER), video(deliveryMethod=None), sound(),
        picture(taskType="upscale", model="any:model@1"), a_task(),
    ]  # fmt: skip
    client.post(*tasks)
    assert agree(guard, standin)
    assert bases(guard) == {"cost", "breakdown"}
    assert [(line.component, line.modality, line.quantity) for line in lines(guard)[:5]] == [
        ("results", "up to 1024x1024", 1),
        ("results", "up to 1024x1024", 1),
        ("megapixels", "", 786_432),
        ("seconds", "720p with audio", 5000),
        ("seconds", "", 12_500),
    ]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_video_is_held_from_its_acknowledgement_until_a_poll_brings_it(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    standin.polls_until_done = 2
    client = make_client(kind, guard, transport=memory(standin, kind))
    task = video(numberResults=2)
    client.post(task)
    held = []
    for _ in range(5):
        held.append((only_task(guard).status, only_task(guard).held))
        client.post(poll(task))
    assert held == [("held", 600_000_000)] * 3 + [("held", 300_000_000), ("settled", 0)]
    assert agree(guard, standin)


def test_a_video_is_settled_by_its_webhook_and_a_second_one_changes_nothing(
    guard: Guard, standin: StandIn, plain: httpx.Client
) -> None:
    standin.webhook_times = 2
    plain.post("/v1", json=[video(webhookURL="https://hooks.example/x", numberResults=2)])
    assert only_task(guard).held == 600_000_000
    for webhook in standin.webhooks:
        guard.observe(webhook.body)
    assert agree(guard, standin)


@pytest.mark.usefixtures("each_engine")
def test_calls_without_an_answer_are_found_out_by_reconcile(
    guard: Guard, standin: StandIn, plain: httpx.Client, clock: Clock
) -> None:
    guard.set_budget("/", 9, per="total")
    for kind in ("drop_after", "status_billed:500", "html", "forget"):
        standin.fault(kind)
        for task in (picture(), video()):
            with suppress(httpx.TransportError):
                plain.post("/v1", json=[task])
    assert any(row.status == "unresolved" for row in guard.ledger.tasks())
    clock.now += timedelta(minutes=5)
    guard.reconcile(plain)
    assert agree(guard, standin)


# --- what is charged -------------------------------------------------------------------------------------------


def test_what_the_provider_says_is_charged_whatever_our_price(
    guard: Guard, standin: StandIn, plain: httpx.Client
) -> None:
    standin.made_rates = {}
    standin.item_cost = Decimal("0.0171717")
    plain.post("/v1", json=[picture()])
    assert agree(guard, standin)
    assert lines(guard) == [Line("results", "up to 1024x1024", 1, 17_171_700)]
    (found,) = guard.ledger.charged(month("2026-11").span("UTC"))
    assert [(charge.basis, charge.price_id) for charge in found.charges] == [("cost", f"{PAINTER}/2025-01-01")]


@pytest.mark.parametrize("tells_size", [True, False])
def test_without_a_figure_what_was_made_is_charged_at_the_price_list(
    guard: Guard, standin: StandIn, plain: httpx.Client, *, tells_size: bool
) -> None:
    standin.tells_size = tells_size
    standin.fault("no_cost", times=9)
    plain.post("/v1", json=[picture(numberResults=3), picture(model=SKETCHER), video(deliveryMethod=None), sound()])
    assert bases(guard) == {"computed"}
    assert agree(guard, standin)


def test_what_is_delivered_counts_before_what_was_asked_for(guard: Guard, clock: Clock) -> None:
    task = video(deliveryMethod=None)

    def answer(tasks: list[dict[str, Any]]) -> tuple[int, Any]:
        item = {"taskType": "videoInference", "taskUUID": tasks[0]["taskUUID"], "videoURL": "https://x.example/v.mp4"}
        return 200, {"data": [{**item, "duration": 3.04}]}

    with guard.wrap(over(answer)) as client:
        client.post("/v1", json=[task])
    assert lines(guard) == [Line("seconds", "720p with audio", 4000, 240_000_000)]
    assert (only_task(guard).status, bases(guard)) == ("settled", {"computed"})


def test_what_is_neither_told_nor_asked_for_is_charged_as_expected_and_says_so(
    guard: Guard, standin: StandIn, plain: httpx.Client
) -> None:
    standin.fault("no_cost")
    plain.post("/v1", json=[video(deliveryMethod=None, duration=None)])
    assert bases(guard) == {"assumed"}
    assert agree(guard, standin)  # the stand-in makes the five seconds that the price file expects


@pytest.mark.usefixtures("each_engine")
def test_what_is_told_after_prices_changed_is_charged_at_those_of_when_it_was_sent(
    make_guard: MakeGuard, folder: Path, clock: Clock
) -> None:
    file = folder / "painter.toml"
    text = file.read_text(encoding="utf-8")
    later = text[text.index("[[prices]]") :].replace("2025-01-01", f"{NOW + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}")
    file.write_text(f"{text}{later.replace('0.02', '0.03')}", encoding="utf-8")
    guard = make_guard(prices=folder)
    task = picture(deliveryMethod="async", numberResults=3)
    own = {key: task[key] for key in ("taskType", "taskUUID")}
    with guard.wrap(over(lambda _: (200, {"data": [own]}))) as client:
        client.post("/v1", json=[task])
    made = [{**own, "imageURL": f"https://x.example/{seed}.png", "seed": seed} for seed in range(3)]
    guard.observe({"data": made[:1]})
    clock.now += timedelta(hours=1)
    guard.observe({"data": [made[1], {**made[2], "width": 2000, "height": 2000}]})
    guard.observe({"data": made})
    assert [line.nanos for line in lines(guard)] == [20_000_000, 20_000_000, 41_000_000]
    assert (only_task(guard).status, only_task(guard).held) == ("settled", 0)
    assert guard.estimate(picture()).upper == Decimal("0.03")


def test_results_of_several_sizes_beside_an_error_are_each_charged_at_their_own(guard: Guard) -> None:
    task = picture(numberResults=4)
    own = {key: task[key] for key in ("taskType", "taskUUID")}
    sides = (512, 2000, 9000)
    made = [{**own, "imageURL": "https://x.example/a.png", "seed": s, "width": s, "height": s} for s in sides]
    with guard.wrap(over(lambda _: (200, {"data": made, "errors": [{**own, "code": "contentBlocked"}]}))) as client:
        client.post("/v1", json=[task])
    assert lines(guard) == [
        Line("results", "up to 1024x1024", 1, 20_000_000),
        Line("results", "up to 2048x2048", 1, 41_000_000),
        Line("unitemized", "", None, 20_000_000),  # no rate is for it: as expected, and said to be
    ]
    assert (only_task(guard).status, only_task(guard).held, bases(guard)) == ("settled", 0, {"assumed"})


def test_while_observing_everything_is_sent_and_charged_at_the_providers_figure(
    make_guard: MakeGuard, folder: Path, standin: StandIn
) -> None:
    guard = make_guard(prices=folder, mode="observe")
    guard.set_budget("/", "0.01", per="total")
    unpriced = [sound(duration=None), picture(width=5000, height=5000), picture(model="no:model@1")]
    with guard.wrap(httpx.Client(base_url=API, transport=standin.transport())) as client:
        client.post("/v1", json=[picture(), *unpriced, {"taskType": "removeBackground", "inputImage": "x"}])
    assert agree(guard, standin)
    assert [row.upper for row in guard.ledger.tasks()] == [20_000_000, None, None, None, None]


@pytest.mark.usefixtures("each_engine")
def test_a_computed_charge_gives_way_to_the_figure_that_comes_later(
    guard: Guard, standin: StandIn, plain: httpx.Client, clock: Clock
) -> None:
    standin.poll_figures = "tokens"
    standin.polls_until_done = 0
    task = video()
    plain.post("/v1", json=[task])
    plain.post("/v1", json=[poll(task)])
    assert (bases(guard), only_task(guard).charged) == ({"computed"}, 300_000_000)

    def answer(tasks: list[dict[str, Any]]) -> tuple[int, Any]:
        kept = {"videoURL": "https://x.example/v.mp4", "cost": 0.31}
        return 200, {"data": [details(task, kept)]}

    with over(answer) as client:
        clock.now += timedelta(minutes=5)
        guard.reconcile(client)
        guard.observe({"data": [{"taskUUID": task["taskUUID"], "taskType": "videoInference", "cost": "0.31"}]})
    assert (bases(guard), only_task(guard).charged) == ({"cost"}, 310_000_000)
    assert lines(guard)[-1] == Line("seconds", "720p with audio", 5000, 310_000_000)
    assert guard.verify().difference is None


def test_an_upload_that_is_stated_to_be_free_costs_nothing_and_ends(make_guard: MakeGuard, folder: Path) -> None:
    text = (folder / "upscale.toml").read_text(encoding="utf-8").replace("0.0016", "0")
    (folder / "upload.toml").write_text(text.replace("upscale", "imageUpload"), encoding="utf-8")
    guard = make_guard(prices=folder)
    guard.set_budget("/", "0.000000001", per="total")

    def answer(tasks: list[dict[str, Any]]) -> tuple[int, Any]:
        return 200, {"data": [{**{key: tasks[0][key] for key in ("taskType", "taskUUID")}, "imageUUID": "x"}]}

    with guard.wrap(over(answer)) as client:
        client.post("/v1", json=[{"taskType": "imageUpload", "image": "https://x.example/a.png"}])
    task = only_task(guard)
    assert (task.status, task.charged, task.basis, task.model) == ("settled", 0, "computed", "imageUpload")


# --- any mix ---------------------------------------------------------------------------------------------------

_TASKS = st.one_of(
    st.builds(
        picture,
        model=st.sampled_from([PAINTER, "acme-painter", SKETCHER]),
        width=st.integers(64, 2048),
        height=st.integers(64, 2048),
        numberResults=st.integers(1, 4),
    ),
    st.builds(
        video,
        duration=st.sampled_from([1, 5, 6.08, 9.999]),
        resolution=st.sampled_from(["720p", "1080p"]),
        settings=st.sampled_from([{"audio": True}, {"audio": False}]),
        deliveryMethod=st.sampled_from(["async", "sync"]),
    ),
    st.builds(sound, duration=st.integers(1, 60_000).map(lambda ms: ms / 1000), numberResults=st.integers(1, 4)),
    st.builds(picture, taskType=st.just("upscale"), model=st.sampled_from(["any:model@1", None])),
)


@given(
    st.lists(
        st.tuples(_TASKS, st.sampled_from(["", "", "no_cost", "drop_after", "forget", "error_entry"])), max_size=6
    ),
    st.booleans(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("each_engine")
def test_after_any_mix_and_one_reconcile_the_ledger_is_the_bill(
    tmp_path_factory: pytest.TempPathFactory, mix: list[tuple[dict[str, Any], str]], tells_size: bool
) -> None:
    home = tmp_path_factory.mktemp("mix")
    standin, clock = a_maker(tells_size=tells_size, polls_until_done=0), Clock(NOW)
    with (
        Guard(
            ledgers.place(home / "l.db"), "acme", durability="normal", clock=clock, prices=write_prices(home)
        ) as guard,
        guard.wrap(httpx.Client(base_url=API, transport=standin.transport())) as client,
    ):
        guard.set_budget("/", 100, per="total")
        for task, fault in mix:
            own = {**task, "taskUUID": picture()["taskUUID"]}
            if fault:
                standin.fault(fault)
            with suppress(httpx.TransportError):
                client.post("/v1", json=[own])
                client.post("/v1", json=[poll(own)])
        uppers = {row.task_uuid: row.upper or 0 for row in guard.ledger.tasks()}
        clock.now += timedelta(hours=1)
        guard.reconcile(client)
        assert agree(guard, standin)
        assert all(standin.billed(uuid) <= Decimal(upper).scaleb(-9) for uuid, upper in uppers.items())


# --- reports ---------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(each_engine: str, guard: Guard, standin: StandIn, plain: httpx.Client) -> Guard:
    """A guard whose ledger has some of everything."""
    guard.set_ceiling("caption", "0.01")
    task = video(duration=4.5)
    plain.post("/v1", json=[picture(numberResults=3), picture(width=2000), picture(model=SKETCHER), sound(), a_task()])
    plain.post("/v1", json=[{"taskType": "caption", "inputImage": "https://x.example/a.png"}, task])
    standin.polls_until_done = 0
    plain.post("/v1", json=[poll(task)])
    assert agree(guard, standin)
    return guard


def test_the_report_says_what_was_made_by_kind_of_task_and_model(busy: Guard) -> None:
    found = state(busy.ledger, month("2026-11"), at_us=busy.now_us())
    record = document(found).record
    assert [(row["task_type"], row["model"], row["quantity"], row["unit"]) for row in record["made"]] == [
        ("videoInference", CLIP, Decimal(5), "seconds"),
        ("imageInference", PAINTER, Decimal(4), "results"),
        ("audioInference", VOICE, Decimal("12.5"), "seconds"),
        ("caption", "caption", Decimal(1), "results"),
        ("imageInference", SKETCHER, Decimal("0.786432"), "megapixels"),
    ]
    text = sum(row["cost"] for row in record["task_types"] if row["task_type"] == "textInference")
    assert sum(row["cost"] for row in record["made"]) + text == record["total"]


def test_accuracy_compares_what_was_made(busy: Guard) -> None:
    rows_of = {(row.model, row.what): row for row in accuracy(busy.ledger.estimates("2026-11-01", "2026-12-01"))}
    seconds = rows_of[CLIP, "seconds"]
    assert (seconds.unit, seconds.expected, seconds.upper, seconds.billed) == ("seconds", 5, 5, 5)
    assert rows_of[PAINTER, "results"].billed == 4
    assert rows_of[SKETCHER, "megapixels"].billed == Decimal("0.786432")
    assert all(row.over == 0 for row in rows_of.values())


def test_focus_prices_results_seconds_and_megapixels(busy: Guard) -> None:
    span = month("2026-11").span("UTC")
    found = list(rows(busy.ledger.charged(span), Month(span, "a", busy.now_us()), "task", Catalogue(busy.prices)))
    shown = {row["SkuId"]: row for row in found if row["x_TaskType"] != "textInference"}
    clip = shown[f"{CLIP}/seconds/720p with audio"]
    assert (clip["PricingUnit"], clip["PricingQuantity"], clip["ConsumedUnit"], clip["ConsumedQuantity"]) == (
        "Seconds",
        5,
        "Seconds",
        5,
    )
    assert (clip["ListUnitPrice"], clip["ListCost"], clip["BilledCost"]) == (
        Decimal("0.06"),
        Decimal("0.3"),
        Decimal("0.3"),
    )
    sketch = shown[f"{SKETCHER}/megapixels"]
    assert (sketch["PricingUnit"], sketch["PricingQuantity"]) == ("Megapixels", Decimal("0.786432"))
    small, large = (shown[f"{PAINTER}/results/up to {size}"] for size in ("1024x1024", "2048x2048"))
    assert [(row["PricingUnit"], row["PricingQuantity"], row["ListUnitPrice"]) for row in (small, large)] == [
        ("Results", 3, Decimal("0.02")),
        ("Results", 1, Decimal("0.041")),
    ]
    assert all(row["ListCost"].quantize(Decimal("1e-9")) == row["BilledCost"] for row in found if row["SkuPriceId"])
    assert (shown["caption/unitemized"]["PricingUnit"], shown["caption/unitemized"]["ListUnitPrice"]) == (
        "Results",
        None,
    )


def test_other_prices_are_shown_of_what_was_made(busy: Guard, folder: Path, make_guard: MakeGuard) -> None:
    text = (folder / "clip.toml").read_text(encoding="utf-8").replace('"0.06"', '"0.08"')
    (folder / "clip.toml").write_text(text, encoding="utf-8")
    prices = make_guard(prices=folder).prices
    found, why = reprice(busy.ledger.charged(month("2026-11").span("UTC")), prices, busy.now_us())
    computed = {row.model: (row.charged, row.computed) for row in found if row.compared}
    assert computed[CLIP] == (300_000_000, 400_000_000)
    assert computed[PAINTER] == (101_000_000, 101_000_000)
    assert computed[SKETCHER][0] == computed[SKETCHER][1]
    assert why == {"no price": 1}


def test_the_command_shows_what_was_made_in_its_page_of_text(busy: Guard, ledger: Path) -> None:
    shown = CliRunner().invoke(main, ["report", "--month", "2026-11"], env={"COSTGUARD_DB": str(ledger)})
    assert shown.exit_code == 0, shown.output
    part = shown.output.partition("What was made")[2]
    assert [line.split()[:5] for line in part.splitlines() if "Inference" in line][:2] == [
        ["videoInference", CLIP, "1", "5", "seconds"],
        ["imageInference", PAINTER, "2", "4", "results"],
    ]


def test_no_prompt_reaches_the_ledger_and_sizes_do(busy: Guard) -> None:
    kept = [found.estimate for found in busy.ledger.charged(month("2026-11").span("UTC"))]
    assert json.loads(kept[0])["output"] == {"width": 1024, "height": 768}
    assert not any("harbour" in text or "storm" in text for text in kept)
