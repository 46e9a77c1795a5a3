"""A file of JSON is cut into the same pieces however it is written, in flat memory, and a broken one costs no other."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.exchange import pieces
from costguard.exchange.pieces import HEAD, TOO_LONG, UNENDED, Pieces

TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", "{", "}", "[", "]", ",", "\n", '\\"{', "\u2028", "ä"])
RECORDS = st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS, max_size=2), max_size=3), max_size=6)


def cut(text: bytes) -> list[tuple[int, bytes, str]]:
    found = []
    reader = Pieces(io.BytesIO(text), text[:HEAD])
    for piece in reader:
        assert reader.number == piece.number
        found.append((piece.number, piece.text, piece.why))
    assert reader.offset == len(text), "all of it was read"
    return found


def values(text: bytes) -> list[Any]:
    """The records in it; a line may be a list of them."""
    found = []
    for _, part, why in cut(text):
        assert not why
        value = json.loads(part)
        found += value if isinstance(value, list) else [value]
    return found


@given(RECORDS)
def test_lines_and_arrays_in_any_layout_give_the_same_records(records: list[Any]) -> None:
    by_line = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()
    assert values(by_line) == records
    for layout in ({}, {"indent": 1}, {"indent": 1, "ensure_ascii": False}, {"separators": (",", ":")}):
        assert values(json.dumps(records, **layout).encode()) == records
    one_a_line = "[\n" + ",\n".join(json.dumps(each) for each in records) + "\n]\n"
    assert values(one_a_line.encode()) == records


@given(RECORDS, st.integers(1, 40))
def test_objects_are_found_whatever_is_read_at_once(records: list[Any], chunk: int) -> None:
    before = pieces.CHUNK
    pieces.CHUNK = chunk
    try:
        assert values(json.dumps([{"a": 1}, *records], indent=1).encode()) == [{"a": 1}, *records]
    finally:
        pieces.CHUNK = before


def test_one_object_over_many_lines_is_one_piece() -> None:
    envelope = {"data": [{"taskUUID": "a"}, {"taskUUID": "b"}]}
    assert values(json.dumps(envelope, indent=2).encode()) == [envelope]


def test_blank_lines_and_a_byte_order_mark_are_no_pieces_and_are_counted() -> None:
    assert cut(b'\xef\xbb\xbf{"a":1}\n\n  \n{"b":2}') == [(1, b'{"a":1}', ""), (4, b'{"b":2}', "")]
    assert cut(b"") == []


@pytest.mark.parametrize("broken", [b"not json", b'{"a":', b"[1, 2", b'{"a":1}}', b'"', b"\xff\xfe"])
def test_a_broken_line_is_a_piece_like_any_other(broken: bytes) -> None:
    text = b'{"a":1}\n' + broken + b'\n{"b":2}\n'
    assert [part for _, part, _ in cut(text)] == [b'{"a":1}', broken, b'{"b":2}']
    if broken.startswith(b"["):
        return  # as an array begins
    first = broken + b'\n{"b":2}\n{"c":3}\n'
    assert [part for _, part, _ in cut(first)][-1] == b'{"c":3}'


def test_an_object_of_an_array_that_has_no_end_costs_no_other() -> None:
    text = b'[\n{"a":1},\n{"b":{"x":1,\n{"c":3},\n{"d":4}\n]\n'
    assert [(part, why) for _, part, why in cut(text)] == [
        (b'{"a":1}', ""), (b"", UNENDED), (b'{"c":3}', ""), (b'{"d":4}', ""),
    ]  # fmt: skip


def test_no_part_of_a_broken_object_is_taken_for_another() -> None:
    records = [{"a": 1}, {"usage": [{"cost": 1}, {"cost": 2}]}, {"d": 4}]
    text = json.dumps(records, indent=2).replace('"cost": 1', '"cost": {').encode()
    found = cut(text)
    assert [json.loads(part) for _, part, why in found if not why] == [{"a": 1}, {"d": 4}]
    assert [why for _, _, why in found] == ["", UNENDED, ""]


@pytest.mark.parametrize(
    "broken", [b'[{"a":1},{"b":{"c":2},{"d":3}]', b'[{"a":1}},{"d":3}]', b'[{"a":1},"usage":{"d":3}]']
)
def test_what_cannot_be_told_apart_behind_a_broken_object_is_left_out_and_said(broken: bytes) -> None:
    (first, last) = cut(broken)
    assert first == (1, b'{"a":1}', "")
    assert last[1] == b""
    assert last[2].endswith("nothing behind it was read")


def test_what_stands_in_an_array_and_is_no_object_is_a_piece() -> None:
    assert [part for _, part, _ in cut(b'[{"a":1}, 7, "text", null,\n{"b":2}]\n')] == [
        b'{"a":1}', b"7", b'"text"', b"null", b'{"b":2}',
    ]  # fmt: skip


def test_a_line_or_object_that_is_too_long_is_left_out_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_MAX", 100)
    monkeypatch.setattr(pieces, "CHUNK", 32)
    long = json.dumps({"text": "x" * 500}).encode()
    assert [why for _, _, why in cut(b'{"a":1}\n' + long + b'\n{"b":2}\n')] == ["", TOO_LONG, ""]
    assert [why for _, _, why in cut(b'{"a":1}\n' + long)] == ["", TOO_LONG]
    found = cut(b'[\n{"a":1},\n' + long + b',\n{"b":2}]')
    assert [(part, bool(why)) for _, part, why in found] == [(b'{"a":1}', False), (b"", True), (b'{"b":2}', False)]


@given(RECORDS.filter(bool), st.data(), st.booleans())
def test_reading_goes_on_after_any_piece_and_begins_anew_where_what_was_read_has_changed(
    records: list[Any], data: st.DataObject, by_line: bool
) -> None:
    text = ("".join(json.dumps(each) + "\n" for each in records) if by_line else json.dumps(records, indent=1)).encode()
    stop = data.draw(st.integers(1, len(records)))
    first = Pieces(io.BytesIO(text), text[:HEAD])
    for piece in first:
        if piece.number >= stop:
            break
    second = Pieces(io.BytesIO(text), text[:HEAD])
    assert second.skip(first.offset, first.number, first.digest)
    rest = [json.loads(piece.text) for piece in second]
    assert rest == records[len(records) - len(rest) :]
    assert len(rest) == len(records) - stop
    changed = b" " + text[1:]
    third = Pieces(io.BytesIO(changed), text[:HEAD])
    assert not third.skip(first.offset, first.number, first.digest)
    assert (third.offset, third.number) == (0, 0)
