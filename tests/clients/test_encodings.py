"""Compressed bodies: what the client's own library can decode, the guard can read."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import zstandard
from conftest import FLASH, AnyClient, a_task, audit, module_of, only_task
from roads import DONE, SSE, Scripted, charged, frame, read_stream

from costguard import Guard, InvalidRequest
from costguard.clients import encodings

ANSWER = {"text": "hi", "finishReason": "stop", "cost": 0.0002}


def flate(bits: int) -> Callable[[list[bytes]], list[bytes]]:
    def squeeze(chunks: list[bytes]) -> list[bytes]:
        packer = zlib.compressobj(wbits=bits)
        return [*(packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks), packer.flush()]

    return squeeze


def brotlied(chunks: list[bytes]) -> list[bytes]:
    packer = brotli.Compressor()
    return [*(packer.process(chunk) + packer.flush() for chunk in chunks), packer.finish()]


def zstandarded(chunks: list[bytes]) -> list[bytes]:
    packer = zstandard.ZstdCompressor().compressobj()
    flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return [*(packer.compress(chunk) + packer.flush(flush) for chunk in chunks), packer.flush()]


ENCODINGS: dict[str, tuple[str, Callable[[list[bytes]], list[bytes]]]] = {
    "gzip": ("gzip", flate(31)),
    "zlib": ("deflate", flate(15)),
    "raw deflate": ("deflate", flate(-15)),
    "br": ("br", brotlied),
    "zstd": ("zstd", zstandarded),
    "deflate, then gzip": ("deflate, gzip", lambda chunks: flate(31)(flate(15)(chunks))),
    "br, then gzip": ("br, gzip", lambda chunks: flate(31)(brotlied(chunks))),
    "identity": ("identity", list),
}


def sent(packed: list[bytes], encoding: str, **headers: str) -> Scripted:
    return Scripted([piece for piece in packed if piece], headers={**SSE, "content-encoding": encoding, **headers})


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_stream_in_any_encoding_is_heard_and_passed_on_as_it_came(
    name: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    encoding, squeeze = ENCODINGS[name]
    task = a_task(deliveryMethod="stream")
    packed = squeeze([frame(task, text="hi"), frame(task, finishReason="stop", cost=0.0002), DONE])
    client = make_client(kind, guard, transport=sent(packed, encoding))
    got: list[bytes] = []
    read_stream(client, task, on_chunk=got.append)
    assert b"".join(got) == b"".join(packed)
    assert (only_task(guard).status, str(charged(guard))) == ("settled", "0.000200000")
    audit(guard)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_reader_who_leaves_at_the_end_s_mark_has_heard_all_in_any_encoding(
    name: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    encoding, squeeze = ENCODINGS[name]
    task = a_task(deliveryMethod="stream")
    packed = squeeze([frame(task, finishReason="stop", cost=0.0002), DONE])
    client = make_client(kind, guard, transport=sent([*packed[:2], *packed[2:]], encoding))
    read_stream(client, task, chunks=2)
    assert only_task(guard).status == "settled"


def test_a_stream_whose_encoding_is_broken_is_unresolved_and_costs_the_caller_its_own_error_only(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(deliveryMethod="stream")
    client = make_client(kind, guard, transport=sent([b"this is no gzip", b"at all"], "gzip"))
    got: list[bytes] = []
    read_stream(client, task, on_chunk=got.append)
    assert got == [b"this is no gzip", b"at all"]
    row = only_task(guard)
    assert (row.status, row.reason) == ("unresolved", "the stream's encoding cannot be read")


@pytest.mark.parametrize("name", ["gzip", "raw deflate", "br", "zstd", "deflate, then gzip"])
def test_a_whole_answer_in_any_encoding_is_read(
    name: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    encoding, squeeze = ENCODINGS[name]
    task = a_task()
    body = json.dumps({"data": [{"taskUUID": task["taskUUID"], **ANSWER}]}).encode()
    headers = {"content-type": "application/json", "content-encoding": encoding}
    client = make_client(kind, guard, transport=Scripted(squeeze([body]), headers=headers))
    assert client.post(task).json()["data"][0]["text"] == "hi"
    assert only_task(guard).status == "settled"


class Recorder:
    """A mock transport's handler that keeps what was sent and answers the tasks in it."""

    def __init__(self, kind: str) -> None:
        self.module = module_of(kind)
        self.requests: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if request.headers.get("content-encoding") == "gzip":
            tasks = json.loads(gzip.decompress(request.content))
        else:
            tasks = json.loads(request.content)
        data = [{"taskUUID": task["taskUUID"], **ANSWER} for task in tasks]
        return self.module.Response(200, json={"data": data})


GZIPPED = {"content-type": "application/json", "content-encoding": "gzip"}


@pytest.mark.parametrize("url", ["https://api.runware.ai/v1", "https://gateway.test/llm"])
def test_a_compressed_request_is_read_held_for_and_sent_plain_where_it_is_changed(
    url: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    recorder = Recorder(kind)
    client = make_client(kind, guard, transport=recorder.module.MockTransport(recorder))
    client.post(url=url, content=gzip.compress(json.dumps([a_task()]).encode()), headers=GZIPPED)
    (request,) = recorder.requests
    assert "content-encoding" not in request.headers
    assert request.headers["content-length"] == str(len(request.content))
    assert json.loads(request.content)[0]["includeCost"] is True
    assert only_task(guard).status == "settled"


def test_a_compressed_request_that_needs_no_change_goes_out_byte_for_byte(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    recorder = Recorder(kind)
    client = make_client(kind, guard, transport=recorder.module.MockTransport(recorder))
    body = gzip.compress(json.dumps([a_task(includeCost=True, includeUsage=True)]).encode())
    client.post(content=body, headers=GZIPPED)
    (request,) = recorder.requests
    assert (request.content, request.headers["content-encoding"]) == (body, "gzip")
    assert only_task(guard).status == "settled"


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "compress", "gzip, rot13"])
def test_an_undecodable_body_to_the_native_endpoint_is_refused_and_nothing_sent(
    encoding: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    recorder = Recorder(kind)
    client = make_client(kind, guard, transport=recorder.module.MockTransport(recorder))
    with pytest.raises(InvalidRequest, match="Content-Encoding"):
        client.post(content=b"\x00" * 40, headers={**GZIPPED, "content-encoding": encoding})
    assert (recorder.requests, guard.ledger.tasks()) == ([], [])


@pytest.mark.parametrize("encoding", ["gzip", "gzip, rot13"])
def test_in_observe_an_undecodable_body_is_sent_as_it_is_and_said(
    encoding: str, kind: str, make_guard: Callable[..., Guard], make_client: Callable[..., AnyClient], caplog: Any
) -> None:
    guard = make_guard(mode="observe")
    requests: list[Any] = []
    module = module_of(kind)

    def handler(request: Any) -> Any:
        requests.append(request)
        return module.Response(200, json={"data": []})

    client = make_client(kind, guard, transport=module.MockTransport(handler))
    client.post(content=b"\x00" * 40, headers={**GZIPPED, "content-encoding": encoding})
    (request,) = requests
    assert (request.content, request.headers["content-encoding"]) == (b"\x00" * 40, encoding)
    assert guard.ledger.tasks() == []
    assert "not recorded, sent all the same (mode observe): request body: its Content-Encoding" in caplog.text


def test_an_undecodable_body_to_somebody_else_passes_untouched(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    seen: list[bytes] = []
    module = module_of(kind)

    def handler(request: Any) -> Any:
        seen.append(request.content)
        return module.Response(204)

    client = make_client(kind, guard, transport=module.MockTransport(handler))
    client.post(url="https://logs.test/push", content=b"\x00junk", headers=GZIPPED)
    assert seen == [b"\x00junk"]


@pytest.mark.parametrize("url", ["https://api.runware.ai/v1", "https://gateway.test/llm"])
def test_a_body_that_unpacks_beyond_all_bounds_is_refused_where_it_shows_tasks(
    url: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "DECODED_MAX", 100_000)
    recorder = Recorder(kind)
    client = make_client(kind, guard, transport=recorder.module.MockTransport(recorder))
    body = gzip.compress(json.dumps([a_task("a" * 200_000)]).encode())
    with pytest.raises(InvalidRequest, match="unpacks to more than"):
        client.post(url=url, content=body, headers=GZIPPED)
    assert (recorder.requests, guard.ledger.tasks()) == ([], [])


def test_a_compressed_task_is_estimated_like_the_same_one_sent_plain(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    recorder = Recorder(kind)
    client = make_client(kind, guard, transport=recorder.module.MockTransport(recorder))
    task = a_task(model=FLASH)
    expected = guard.estimate(task).upper
    response = client.post(content=gzip.compress(json.dumps([task]).encode()), headers=GZIPPED)
    assert response.extensions["costguard"].held == expected


def test_a_stream_in_an_encoding_the_client_does_not_know_is_unresolved_and_says_so(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(deliveryMethod="stream")
    client = make_client(kind, guard, transport=sent([b"\x00\x01", b"\x02"], "compress"))
    read_stream(client, task)
    row = only_task(guard)
    assert (row.status, row.reason) == ("unresolved", "the stream's encoding is none that this client can read")
