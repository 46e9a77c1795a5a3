"""Events are read right however their bytes are split and their lines are divided."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wires import split

from costguard.wire.sse import DONE, EVENT_STREAM, FRAME_MAX, Event, EventParser


def events(*chunks: bytes) -> list[Event]:
    """All events of a stream that came in these chunks."""
    parser = EventParser()
    found = [event for chunk in chunks for event in parser.feed(chunk)]
    return found + list(parser.end())


def parse(*chunks: bytes) -> list[bytes]:
    return [event.data for event in events(*chunks)]


# What opens as JSON does may be an event by itself.
data_lines = st.binary(max_size=12).map(lambda raw: bytes(byte for byte in raw if byte not in b"\r\n{["))
endings = st.sampled_from([b"\n", b"\r\n", b"\r"])
wanted_events = st.lists(st.lists(data_lines, min_size=1, max_size=3), max_size=4)
cuts = st.lists(st.integers(0, 10_000), max_size=8)


def test_the_names_of_the_standard() -> None:
    assert (EVENT_STREAM, DONE) == ("text/event-stream", b"[DONE]")


@given(wanted_events, endings, st.booleans(), cuts, st.booleans(), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_events(
    wanted: list[list[bytes]], ending: bytes, space: bool, cuts: list[int], heartbeats: bool, bom: bool
) -> None:
    lines = []
    for event in wanted:
        if heartbeats:
            lines += [b": keep-alive", b""]
        # A value that begins with a blank needs the blank that is dropped.
        lines += [b"data:" + (b" " if space or line.startswith(b" ") else b"") + line for line in event] + [b""]
    stream = b"\xef\xbb\xbf" * bom + b"".join(line + ending for line in lines)
    assert events(*split(stream, cuts)) == [Event(b"\n".join(event)) for event in wanted]


PIECES = [
    b"data: a\n", b"data:b\r\n", b": c\r", b"data\n", b"\n", b"\r", b"\r\n", b"data: {}\n", b'{"a":1}\r', b"{\r\n",
    b"}\n", b"[DONE]\n", b"data: [DONE]\n", b"\xef\xbb\xbf",
]  # fmt: skip


@example([b"data: a\r\n", b"\n", b"data:b\n"])
@example([b"\xef\xbb\xbf", b"data: a\n"])
@given(st.lists(st.sampled_from(PIECES)))
def test_one_byte_at_a_time_is_as_good_as_all_at_once(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert events(*(stream[at : at + 1] for at in range(len(stream)))) == events(stream)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_of_the_standard_is_one(ending: bytes) -> None:
    assert parse(ending.join([b"data: one", b"", b": heartbeat", b"", b"data:two", b"data: three", b"", b""])) == [
        b"one",
        b"two\nthree",
    ]


def test_an_event_without_its_blank_line_counts_at_the_end_of_the_stream() -> None:
    assert parse(b"data: one\n\ndata: two") == [b"one", b"two"]


def test_other_fields_and_blanks_beyond_the_first_are_as_the_standard_says() -> None:
    assert parse(b"event: x\nid: 7\nretry: 5\ndata:  two blanks\n\n") == [b" two blanks"]


def test_a_byte_order_mark_is_dropped_at_the_beginning_alone() -> None:
    assert events(b'\xef\xbb\xbf{"a":1}\n') == [Event(b'{"a":1}', bare=True)]
    assert parse(b"\xef\xbb", b"\xbfdata: one\n\n") == [b"one"]
    assert parse(b"data: one\n\n\xef\xbb\xbfdata: two\n\n") == [b"one"]


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
documents = st.lists(
    st.dictionaries(st.text(max_size=5), values, max_size=3) | st.lists(values, max_size=3), max_size=4
)


@given(documents, endings, cuts, st.booleans())
def test_events_divided_by_single_newlines_are_events(
    wanted: list[Any], ending: bytes, cuts: list[int], heartbeats: bool
) -> None:
    written = [json.dumps(value).encode() for value in wanted] + [DONE]
    stream = b"".join((b": alive" + ending) * heartbeats + b"data: " + data + ending for data in written)
    assert events(*split(stream, cuts)) == [Event(data) for data in written]


@given(documents, endings, cuts, st.booleans())
def test_lines_of_bare_json_are_events(wanted: list[Any], ending: bytes, cuts: list[int], blank: bool) -> None:
    written = [json.dumps(value).encode() for value in wanted] + [DONE]
    stream = b"".join(data + ending + ending * blank for data in written)
    assert events(*split(stream, cuts)) == [Event(data, bare=True) for data in written]


@given(documents, endings, cuts, st.sampled_from([None, 1, 2, "\t"]), st.booleans())
def test_a_document_over_several_lines_is_one_event(
    wanted: list[Any], ending: bytes, cuts: list[int], indent: Any, in_data: bool
) -> None:
    # A blank entry of a document would be a line of its own, and is told apart by what follows.
    written = [json.dumps(value, indent=indent).encode() for value in wanted]
    lines = [data.replace(b"\n", ending + (b"data: " if in_data else b"")) for data in written]
    stream = b"".join((b"data: " + data + ending if in_data else data) + ending for data in lines)
    assert events(*split(stream, cuts)) == [Event(data, bare=not in_data) for data in written]


def test_what_is_no_json_is_no_part_of_the_json_after_it() -> None:
    stream = b'data: ping\ndata: {"a":1}\ndata: "[DONE]"\ndata: {"b":2}\n'
    assert parse(stream) == [b"ping", b'{"a":1}', b'"[DONE]"', b'{"b":2}']


@pytest.mark.parametrize("entries", [1, 100])
@pytest.mark.parametrize("prefix", [b"data: ", b""])
def test_a_long_list_over_many_lines_is_one_event_and_ends_by_itself(entries: int, prefix: bytes) -> None:
    document = json.dumps([{"a": n} for n in range(entries)], indent=1).encode()
    lines = [prefix + line for line in [*document.split(b"\n"), b'{"b":2}']]
    assert parse(b"\n".join(lines)) == [document, b'{"b":2}']


@pytest.mark.parametrize("line", [b"data: [1]", b"]", b'data: {"a"}', b"data: {"])
def test_what_never_becomes_whole_is_not_tried_at_every_line(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []

    def refuse(data: bytes) -> None:
        tried.append(data)
        raise ValueError

    monkeypatch.setattr(json, "loads", refuse)
    assert parse(b"{\n" * (not line.startswith(b"data")) + (line + b"\n") * 1000)
    assert len(tried) <= 8


def test_bare_json_and_events_may_take_turns() -> None:
    stream = b'data: {"a":1}\n{"b":2}\n{\n"c":3\n}\ndata: {"d":4}\n: alive\n[DONE]\n'
    assert events(stream) == [
        Event(b'{"a":1}'),
        Event(b'{"b":2}', bare=True),
        Event(b'{\n"c":3\n}', bare=True),
        Event(b'{"d":4}'),
        Event(b"[DONE]", bare=True),
    ]


def test_a_document_that_was_cut_is_told_at_the_end() -> None:
    assert events(b'{\n"a": [\n') == [Event(b'{\n"a": [', bare=True)]


def test_a_frame_beyond_all_bounds_is_dropped_and_what_follows_is_heard() -> None:
    piece = b"x" * 2**20
    parser = EventParser()
    found = list(parser.feed(b"data: "))
    for _ in range(FRAME_MAX // 2**20 + 2):
        found += parser.feed(piece)
    assert sum(map(len, parser._rest)) <= FRAME_MAX
    found += parser.feed(b"\n\ndata: next\n\n")
    assert [event.data for event in found] == [b"next"]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 2**20 + b"\n", b"[" + b" " * 2**20 + b"\n"])
def test_an_event_of_lines_beyond_all_bounds_is_not_kept(line: bytes) -> None:
    parser = EventParser()
    for _ in range(FRAME_MAX // 2**20 + 5):
        assert not list(parser.feed(line))
    assert sum(map(len, [*parser._data, *parser._bare])) <= FRAME_MAX + 2 * len(line)
    found = [event.data for event in parser.feed(b'\ndata: {"a":1}\n\n')]
    assert found[-1] == b'{"a":1}'
