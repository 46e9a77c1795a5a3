"""The carriers of the stand-in: in memory for both libraries, and a server on loopback."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal

import httpx
import httpx2
from standins import a_task, stated, stream_events

from costguard.testing import StandIn, exact

pytest_plugins = ("standin_fixtures",)


def test_httpx2_is_served_like_httpx(standin: StandIn, url: str) -> None:
    task = a_task(seed=1)
    with httpx2.Client(base_url=url) as client:
        over_socket = exact.loads(client.post("/v1", json=[task]).content)
    with httpx2.Client(base_url="http://standin", transport=StandIn().transport("httpx2")) as client:
        in_memory = exact.loads(client.post("/v1", json=[task]).content)
    assert over_socket == in_memory
    assert stated(over_socket) == standin.billed()


def test_async_clients_are_served_in_memory(standin: StandIn) -> None:
    async def calls() -> list[bytes]:
        async with httpx.AsyncClient(base_url="http://standin", transport=standin.async_transport()) as client:
            tasks = [a_task(), a_task(deliveryMethod="stream")]
            return [(await client.post("/v1", json=task)).content for task in tasks]

    plain, stream = asyncio.run(calls())
    assert stated(exact.loads(plain)) == standin.bill[0].amount
    assert stream_events(stream)[-1] == "[DONE]"


def test_many_threads_get_one_bill_each(standin: StandIn, url: str) -> None:
    totals: list[Decimal] = []

    def work() -> None:
        with httpx.Client(base_url=url) as client:
            answers = [client.post("/v1", json=[a_task()]) for _ in range(10)]
        totals.extend(stated(exact.loads(answer.content)) for answer in answers)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(standin.bill) == 80
    assert sum(totals) == standin.billed()


def test_one_connection_is_kept_for_many_calls(standin: StandIn, url: str) -> None:
    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1)) as client:
        streams = [client.post("/v1", json=a_task()).extensions["network_stream"] for _ in range(3)]
        ports = {stream.get_extra_info("client_addr") for stream in streams}
    assert len(ports) == 1


def test_leaving_the_server_ends_hanging_calls_and_all_its_threads(web: httpx.Client, standin: StandIn) -> None:
    before = set(threading.enumerate())
    standin.fault("hang")
    endings: list[str] = []

    def call(url: str) -> None:
        try:
            web.post(f"{url}/v1", json=a_task(), timeout=None)
        except httpx.TransportError as error:
            endings.append(type(error).__name__)

    idle = httpx.Client()
    with standin.serve() as url:
        idle.get(f"{url}/v1")
        caller = threading.Thread(target=call, args=(url,))
        caller.start()
        while not standin.bill:
            threading.Event().wait(0.01)
    caller.join()
    idle.close()
    assert len(endings) == 1
    assert set(threading.enumerate()) == before
