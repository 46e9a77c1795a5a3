"""Streams pass through as they come, and end in the ledger as the provider billed them."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from conftest import (
    CLIENTS,
    AnyClient,
    Clock,
    a_task,
    audit,
    every_client,
    memory,
    module_of,
    only_task,
    raised_by,
)
from loopback import LOOPBACK
from roads import DONE, SSE, Provider, Scripted, agree, charged, evidence, frame, ledger_bytes, read_stream, status

from costguard import Guard
from costguard.ledger.engines.postgres.naming import POOL_MAX
from costguard.testing import StandIn

MakeClient = Callable[..., AnyClient]

MANNERS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "CRLF": {"sse_crlf": True},
    "no blank after data:": {"sse_space": False},
    "no heartbeats": {"sse_heartbeats": False},
    "cost on a late frame": {"sse_late_cost": True},
    "empty taskUUID": {"sse_empty_uuid": True},
    "one byte at a time": {"chunk_bytes": 1},
    "cut anywhere": {"chunk_bytes": 7, "sse_crlf": True},
    "resultIndex": {"result_index": True},
}


def a_stream(**fields: Any) -> dict[str, Any]:
    """A streamed task that already asks for its cost, so that it goes out as it is."""
    return a_task(deliveryMethod="stream", includeCost=True, includeUsage=True, **fields)


def flush(guard: Guard) -> None:
    """Wait until the guard's own thread has done what it was asked."""
    done = threading.Event()
    guard.later(done.set)
    assert done.wait(10)


# --- passing through ---


@every_client
@pytest.mark.parametrize("manner", MANNERS)
def test_a_stream_is_passed_on_byte_for_byte_and_settled_at_the_bill(
    manner: str, kind: str, guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    for setting, value in MANNERS[manner].items():
        setattr(standin, setting, value)
    standin.bill_retries_once = True  # so that both clients are told the very same
    task = a_stream()
    bare: list[bytes] = []
    guarded: list[bytes] = []
    read_stream(make_client(kind, transport=memory(standin, kind)), task, on_chunk=bare.append)
    read_stream(make_client(kind, guard, transport=memory(standin, kind)), task, on_chunk=guarded.append)
    assert b"".join(guarded) == b"".join(bare)
    if kind not in LOOPBACK:
        assert guarded == bare
    assert status(guard) == ("settled", 1)
    assert only_task(guard).basis == "breakdown"
    assert agree(guard, standin)


def test_each_chunk_arrives_before_the_next_is_sent(kind: str, guard: Guard, make_client: MakeClient) -> None:
    task = a_stream()
    sent = [*(frame(task, text=f"word {n}") for n in range(5)), frame(task, finishReason="stop", cost=0.0001), DONE]
    arrived: list[bytes] = []
    lags: list[int] = []
    transport = Scripted(sent, before=lambda n: lags.append(n - len(arrived)))
    read_stream(make_client(kind, guard, transport=transport), task, on_chunk=arrived.append)
    assert arrived == sent
    assert lags == [0] * len(sent)
    assert transport.closed


@every_client
def test_the_first_byte_arrives_while_the_server_still_writes(
    kind: str, guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    standin.chunk_delay_s = 0.01
    with standin.serve() as url:
        reached: list[int] = []
        client = make_client(kind, guard, base_url=url)
        task = a_stream(settings={"maxTokens": 400})
        standin.completion_tokens = 400
        read_stream(client, task, on_chunk=lambda chunk: reached.append(chunk.count(b"data:")))
    assert len(reached) > 3, "a buffered stream comes in one piece"
    assert agree(guard, standin)


@pytest.mark.parametrize("kind", [kind for kind in CLIENTS if "Async" in kind])
def test_200_streams_at_once_need_no_thread_each(
    kind: str, each_engine: str, guard: Guard, make_client: MakeClient, clock: Clock
) -> None:
    guard.set_budget("/", "100", per="total")
    tasks = [a_stream() for _ in range(200)]
    client = make_client(kind)
    threads: set[int] = set()

    async def main() -> None:
        all_open = asyncio.Event()
        is_open = 0

        async def one(task: dict[str, Any]) -> None:
            transport = Scripted(
                [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001), DONE],
                before=lambda n: all_open.wait() if n else None,
            )
            async with client.module.AsyncClient(base_url="https://api.runware.ai", transport=transport) as own:
                guard.wrap(own)
                async with own.stream("POST", "/v1", json=[task]) as response:
                    async for chunk in response.aiter_raw():
                        nonlocal is_open
                        is_open += b"grey" in chunk
                        if is_open == len(tasks):
                            threads.add(threading.active_count())
                            all_open.set()

        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(one(task))

    before = threading.active_count()
    client.call(main)
    assert threads
    own = {"sqlite": 2, "postgresql": 2 + 2 * POOL_MAX}[each_engine]
    assert max(threads) <= before + own, "the guard has one thread for its ledger, or as many as connections"
    assert {row.status for row in guard.ledger.tasks()} == {"settled"}
    assert guard.verify().ok


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_stream_is_read_on_the_side(
    encoding: str, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()
    squeeze = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    chunks = (frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001), DONE)
    sent = [squeeze.compress(chunk) + squeeze.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks] + [squeeze.flush()]
    headers = {"content-type": "text/event-stream; charset=utf-8", "content-encoding": encoding}
    arrived: list[bytes] = []
    client = make_client(kind, guard, transport=Scripted(sent, headers=headers))
    read_stream(client, task, on_chunk=arrived.append)
    assert arrived == sent
    assert (status(guard), charged(guard)) == (("settled", 1), Decimal("0.0001"))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-encoding": "br"}, b"\x0b\x02\x80"),
        ({"content-encoding": "gzip"}, b"this is not gzip"),
        ({"content-encoding": "gzip"}, gzip.compress(b"data: x", mtime=0)[:-9]),
    ],
)
def test_a_stream_in_an_encoding_that_cannot_be_read_is_unresolved_and_passed_on(
    headers: dict[str, str], body: bytes, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    arrived: list[bytes] = []
    transport = Scripted([body], headers={"content-type": "text/event-stream", **headers})
    read_stream(make_client(kind, guard, transport=transport), a_stream(), on_chunk=arrived.append)
    assert arrived == [body]
    assert status(guard) == ("unresolved", 1)


# --- what a stream tells ---


@every_client
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("results", [2, 4])
def test_all_results_of_a_stream_are_charged(
    index: bool, results: int, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.result_index = index
    read_stream(client, a_stream(numberResults=results, seed=7))
    assert len(standin.bill) == results
    assert agree(guard, standin)


@every_client
@pytest.mark.parametrize(
    ("fault", "basis"),
    [("cost_only", "cost"), ("usage_only", "computed"), ("stream_no_cost", "assumed"), ("odd_total", "breakdown"),
     ("bad_breakdown", "breakdown"), ("negative", "computed"), ("nan", "computed"), ("huge", "computed")],
)  # fmt: skip
def test_a_stream_is_charged_at_the_best_figure_it_tells(
    fault: str, basis: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    read_stream(client, a_stream())
    task = only_task(guard)
    assert (task.status, task.basis) == ("settled", basis)
    assert task.charged > 0
    if basis == "assumed":
        assert task.charged == task.expected
    else:
        assert agree(guard, standin)


@every_client
def test_text_in_a_stream_without_its_cost_is_charged_as_expected_and_corrected_by_the_provider(
    client: AnyClient, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    standin.fault("stream_no_cost")
    read_stream(client, a_stream(numberResults=2))
    assert only_task(guard).basis == "assumed"
    assert guard.reconcile(httpx.Client(base_url="https://x/v1", transport=standin.transport()), min_age=0).left == []
    assert only_task(guard).basis == "breakdown"
    assert agree(guard, standin)


@every_client
def test_what_has_neither_figure_nor_price_stays_held(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    guard.set_ceiling("other:1@1", "0.01")
    standin.fault("stream_no_cost")
    read_stream(client, a_stream(model="other:1@1"))
    assert (status(guard), only_task(guard).held) == (("unresolved", 1), 10_000_000)
    guard.reconcile(httpx.Client(base_url="https://x/v1", transport=standin.transport()))
    assert agree(guard, standin)


@every_client
@pytest.mark.parametrize("fault", ["error_entry", "item_error"])
def test_an_error_frame_alone_releases(fault: str, client: AnyClient, guard: Guard, standin: StandIn) -> None:
    standin.fault(fault)
    assert read_stream(client, a_stream()).status_code == 200
    assert status(guard) == ("released", 1)
    assert agree(guard, standin)


@every_client
@pytest.mark.parametrize("fault", ["error_timeout", "stream_error", "stream_cut", "forget"])
def test_a_stream_that_breaks_is_unresolved_until_the_provider_tells(
    fault: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    read_stream(client, a_stream())
    task = only_task(guard)
    assert (task.status, task.held, task.charged) == ("unresolved", task.upper, 0)
    guard.reconcile(httpx.Client(base_url="https://x/v1", transport=standin.transport()))
    assert agree(guard, standin)


def test_a_stream_that_never_left_is_released(kind: str, guard: Guard, make_client: MakeClient) -> None:
    def fail(_: Any) -> Any:
        raise module_of(kind).ConnectError("nobody there")

    with pytest.raises(module_of(kind).ConnectError):
        read_stream(make_client(kind, guard, transport=Provider(fail)), a_stream())
    assert status(guard) == ("released", 1)


@every_client
def test_a_stream_billed_above_its_hold_is_charged_in_full(kind: str, guard: Guard, make_client: MakeClient) -> None:
    task = a_stream()
    sent = [frame(task, finishReason="stop", cost=1.5), DONE]
    read_stream(make_client(kind, guard, transport=Scripted(sent)), task)
    assert (charged(guard), guard.remaining()) == (Decimal("1.5"), Decimal("-0.5"))
    assert guard.verify().difference is None


@every_client
@pytest.mark.parametrize("fault", ["cut", "hang", "drop_after"])
def test_a_connection_that_breaks_in_a_stream_is_unresolved(
    fault: str, kind: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    with pytest.raises(raised_by(kind, "TransportError")):
        read_stream(client, a_stream())
    assert status(guard) == ("unresolved", 1)


TOTAL = {"costBreakdown": {"total": 0.0001}}


@every_client
@pytest.mark.parametrize("ending", ["cut", "error", "unfinished"])
def test_a_result_that_came_whole_is_charged_and_the_one_that_did_not_stays_held(
    ending: str, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream(numberResults=2)
    chunks = [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001, usage=TOTAL)]
    if ending == "error":
        chunks.append(b'data: {"errors":[{"code":"providerStreamInterrupted","taskUUID":"%s"}]}\n\n'
                      % task["taskUUID"].encode())  # fmt: skip
    if ending == "unfinished":
        chunks.append(frame(task, text="water"))
    if ending != "cut":
        chunks.append(DONE)
    read_stream(make_client(kind, guard, transport=Scripted(chunks)), task)
    row = only_task(guard)
    assert row.upper is not None
    assert (row.status, row.charged, row.held) == ("unresolved", 100_000, row.upper // 2)


@every_client
def test_a_stream_that_ends_without_done_but_told_its_exact_total_is_settled(
    kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()
    chunks = [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001, usage=TOTAL)]
    read_stream(make_client(kind, guard, transport=Scripted(chunks)), task)
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 100_000)


@every_client
def test_a_stream_that_ends_without_done_and_told_a_rounded_cost_only_is_unresolved(
    kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()
    chunks = [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001)]
    read_stream(make_client(kind, guard, transport=Scripted(chunks)), task)
    assert status(guard) == ("unresolved", 1)


@every_client
def test_an_older_sdk_that_stops_at_the_finish_reason_is_settled_too(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    seen: list[bytes] = []

    class Finished(Exception):
        pass

    def stop(chunk: bytes) -> None:
        seen.append(chunk)
        if b"finishReason" in chunk:
            raise Finished

    with pytest.raises(Finished):
        read_stream(client, a_stream(), on_chunk=stop)
    assert DONE not in seen
    assert agree(guard, standin)


@every_client
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("status:400", "released"), ("status:429", "released"), ("singular_error", "released"),
     ("status:503", "unresolved"), ("status_billed:500", "unresolved"), ("no_content_400", "unresolved"),
     ("html", "unresolved"), ("drop_before", "unresolved")],
)  # fmt: skip
def test_a_streamed_task_that_is_answered_otherwise_ends_as_any_other(
    fault: str, outcome: str, kind: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    try:
        read_stream(client, a_stream())
    except raised_by(kind, "TransportError"):
        assert fault == "drop_before"
    assert status(guard) == (outcome, 1)


@every_client
def test_a_streamed_task_that_is_answered_with_json_is_settled(
    kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()
    body = json.dumps(
        {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "x", "cost": 0.0001}]}
    )
    transport = Scripted([body.encode()], headers={"content-type": "application/json"})
    read_stream(make_client(kind, guard, transport=transport), task)
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 100_000)


@every_client
def test_tasks_that_share_a_post_with_a_stream_are_each_charged(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    read_stream(client, a_stream(), a_task(), a_stream(numberResults=2), a_task(numberResults=3))
    assert len(standin.bill) == 7
    assert agree(guard, standin)


@every_client
def test_of_tasks_that_share_a_cut_stream_only_the_cut_one_is_in_doubt(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    whole, cut = a_stream(), a_stream()
    standin.fault("stream_cut", task_uuid=cut["taskUUID"])
    read_stream(client, whole, cut)
    assert [row.status for row in guard.ledger.tasks()] == ["settled", "unresolved"]
    guard.reconcile(httpx.Client(base_url="https://x/v1", transport=standin.transport()))
    assert agree(guard, standin)


# --- cut by the caller ---


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_stream_closed_early_is_unresolved_with_its_evidence(
    chunks: int, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.sse_heartbeats = False
    lengths: list[int] = []

    def count(chunk: bytes) -> None:
        lengths.append(len(json.loads(chunk.removeprefix(b"data: "))["delta"].get("text", "")))

    read_stream(client, a_stream(), chunks=chunks, on_chunk=count)
    task = only_task(guard)
    assert (task.status, task.held, task.charged, task.reason) == ("unresolved", task.upper, 0, "closed early")
    assert evidence(guard) == {"frames": chunks, "text_length": sum(lengths)}


@pytest.mark.usefixtures("each_engine")
def test_a_stream_that_nobody_reads_is_unresolved(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    if client.is_async:

        async def leave() -> None:
            async with client.bare.stream("POST", "/v1", json=[a_stream()]):
                pass

        client.call(leave)
    else:
        with client.bare.stream("POST", "/v1", json=[a_stream()]):
            pass
    assert status(guard) == ("unresolved", 1)
    assert evidence(guard) == {"frames": 0, "text_length": 0}


@pytest.mark.parametrize("read", [0, 2])
def test_a_stream_dropped_without_being_closed_is_unresolved(
    read: int, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()
    transport = Scripted([frame(task, text="grey"), frame(task, text="water"), DONE])
    client = make_client(kind, guard, transport=transport)
    request = client.bare.build_request("POST", "/v1", json=[task])

    def drop() -> None:
        response = client.bare.send(request, stream=True)
        for _, _ in zip(range(read), response.iter_raw(), strict=False):
            pass

    async def adrop() -> None:
        response = await client.bare.send(request, stream=True)
        chunks = response.aiter_raw()
        for _ in range(read):
            await anext(chunks)

    client.call(adrop if client.is_async else drop)
    for _ in range(2 if client.is_async else 1):
        gc.collect()
        if client.is_async:  # an event loop ends the generators that were dropped on it
            client.call(asyncio.sleep, 0)
    flush(guard)
    assert (status(guard), only_task(guard).held) == (("unresolved", 1), only_task(guard).upper)
    assert evidence(guard)["frames"] == read


def test_a_stream_read_to_its_end_and_never_closed_is_settled(kind: str, guard: Guard, make_client: MakeClient) -> None:
    task = a_stream()
    client = make_client(kind, guard, transport=Scripted([frame(task, finishReason="stop", cost=0.0001), DONE]))
    request = client.bare.build_request("POST", "/v1", json=[task])

    async def aread() -> None:
        response = await client.bare.send(request, stream=True)
        async for _ in response.aiter_raw():
            pass

    def read() -> None:
        for _ in client.bare.send(request, stream=True).iter_raw():
            pass

    client.call(aread if client.is_async else read)
    assert status(guard) == ("settled", 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["in the stream", "in the reader"])
def test_an_interrupt_while_a_stream_is_read_leaves_it_unresolved(
    error: type[BaseException], where: str, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()
    chunks: list[Any] = [frame(task, text="grey"), frame(task, text="water"), DONE]
    if where == "in the stream":
        chunks[1] = error()

    def interrupt(chunk: bytes) -> None:
        if where == "in the reader":
            raise error

    transport = Scripted(chunks)
    client = make_client(kind, guard, transport=transport)
    with pytest.raises(error):
        read_stream(client, task, on_chunk=interrupt)
    assert status(guard) == ("unresolved", 1)
    assert transport.closed


@pytest.mark.parametrize("kind", [kind for kind in CLIENTS if "Async" in kind])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_stream_cancelled_while_it_waits_for_a_chunk_is_unresolved(
    how: str, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_stream()

    async def main() -> None:
        waiting = asyncio.Event()

        async def for_ever() -> None:
            waiting.set()
            await asyncio.Event().wait()

        transport = Scripted(
            [frame(task, text="grey"), frame(task, text="water")], before=lambda n: for_ever() if n else None
        )
        async with client.module.AsyncClient(base_url="https://api.runware.ai", transport=transport) as own:
            guard.wrap(own)

            async def read() -> None:
                async with own.stream("POST", "/v1", json=[task]) as response:
                    async for _ in response.aiter_raw():
                        pass

            if how == "timeout":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await read()
                return
            reading = asyncio.create_task(read())
            await waiting.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    client = make_client(kind)
    client.call(main)
    assert status(guard) == ("unresolved", 1)
    assert evidence(guard) == {"frames": 1, "text_length": 4}


# httpx leaves its generators to the collector, guarded or not, and trio says so.
@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.parametrize("module_name", ["httpx", "httpx2"])
def test_streams_settle_and_end_early_under_trio_too(module_name: str, guard: Guard, standin: StandIn) -> None:
    module = module_of(f"{module_name}.AsyncClient")
    tasks = [a_stream() for _ in range(3)]

    async def main() -> None:
        transport: Any = standin.async_transport(module_name)  # type: ignore[call-overload]
        async with module.AsyncClient(base_url="https://api.runware.ai", transport=transport) as client:
            guard.wrap(client)
            async with client.stream("POST", "/v1", json=[tasks[0]]) as response:
                async for _ in response.aiter_raw():
                    pass
            async with client.stream("POST", "/v1", json=[tasks[1]]) as response:
                async for _ in response.aiter_raw():
                    break
            with trio.CancelScope() as scope:
                async with client.stream("POST", "/v1", json=[tasks[2]]) as response:
                    async for _ in response.aiter_raw():
                        scope.cancel()
                        await trio.sleep_forever()
            assert scope.cancelled_caught
            await guard.areconcile(client)

    trio.run(main)
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 3
    assert agree(guard, standin)


KILLED = """
import sys, httpx
from costguard import Guard
path, url, task = sys.argv[1:]
client = Guard(path, "acme/search", durability="normal").wrap(httpx.Client(base_url=url, timeout=60))
with client.stream("POST", "/v1", content=task, headers={"Content-Type": "application/json"}) as response:
    for chunk in response.iter_raw():
        print("heard", flush=True)
"""


@pytest.mark.usefixtures("each_engine")
def test_a_process_killed_while_it_streams_leaves_its_task_unresolved_and_recoverable(
    ledger: Path, standin: StandIn, make_guard: Callable[..., Guard]
) -> None:
    guard = make_guard(clock=None)
    guard.set_budget("/", "1", per="total")
    standin.fault("hang")
    with standin.serve() as url:
        command = [sys.executable, "-c", KILLED, str(ledger), url, json.dumps([a_stream()])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"heard\n"
            assert status(guard) == ("held", 1)
            child.send_signal(signal.SIGKILL)
        assert status(guard) == ("unresolved", 1)
        with httpx.Client(base_url=url) as client:
            guard.reconcile(client, min_age=0)
    assert agree(guard, standin)


# --- what is kept ---


@pytest.mark.usefixtures("each_engine")
def test_neither_prompt_nor_streamed_text_reaches_the_ledger(
    client: AnyClient, guard: Guard, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    secret = "the heron's own secret"
    said: list[str] = []

    def hear(chunk: bytes) -> None:
        frames = [json.loads(line[6:]) for line in chunk.splitlines() if line.startswith(b"data: {")]
        said.extend(frame["delta"].get("text", "") for frame in frames)

    read_stream(client, a_stream(messages=[{"role": "user", "content": secret}]), on_chunk=hear)
    read_stream(client, a_stream(messages=[{"role": "user", "content": secret}]), chunks=6, on_chunk=hear)
    kept = ledger_bytes(guard)
    words = [words for words in said if len(words) > 12]
    assert words
    for text in (secret, *words):
        assert text.encode() not in kept
        assert text not in caplog.text


def test_a_listener_that_fails_to_write_costs_nobody_the_stream(
    kind: str, guard: Guard, standin: StandIn, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from costguard.errors import LedgerError

    client = make_client(kind, guard, transport=memory(standin, kind))
    conclude = guard.ledger.conclusion

    def full(*_: Any) -> Any:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(guard.ledger, "conclusion", full)
    arrived: list[bytes] = []
    read_stream(client, a_stream(), on_chunk=arrived.append)
    assert arrived[-1] == DONE
    assert status(guard) == ("held", 1)
    monkeypatch.setattr(guard.ledger, "conclusion", conclude)
    client.post(a_task())
    assert agree(guard, standin)


def test_a_stream_that_something_below_has_read_already_settles_too(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(deliveryMethod="stream")
    body = frame(task, text="hi") + frame(task, finishReason="stop", cost=0.0002) + DONE
    module = module_of(kind)
    transport = module.MockTransport(lambda request: module.Response(200, headers=SSE, content=body))
    client = make_client(kind, guard, transport=transport)
    assert client.post(task).content == body
    assert (only_task(guard).status, str(charged(guard))) == ("settled", "0.000200000")
    audit(guard)
