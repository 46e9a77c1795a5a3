"""Text to tokens: exact, bounded, quick the second time, and safe whatever the text, thread or process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costguard.errors import CostguardError
from costguard.estimating import encoder, tokens

VECTORS = json.loads((Path(__file__).parent / "data" / "gemma4_vectors.json").read_text())["vectors"]

# The text of two requests whose TEXT tokens the provider published: system prompt, then message.
CAPTION = (
    "You are a precise multimodal captioning assistant. Base the caption only on visible evidence, making"
    " careful and plausible inferences without overstating certainty.",
    "Write a vivid 2-3 sentence caption for this image as if it were displayed in a maritime museum. Identify"
    " the main objects, infer what may have happened recently, and mention at least two visible clues that"
    " support the inference.",
)
INSPECTION = (
    "You are a meticulous infrastructure inspection assistant. Describe only observable evidence, avoid"
    " speculation, and organize findings clearly for operations staff.",
    "Analyze this harbor inspection video for emergency response planning. Provide: 1) a concise scene"
    " summary, 2) a bullet list of visible damage, 3) immediate safety hazards, 4) the top 3 repair"
    " priorities in order, and 5) a final severity rating from Low, Moderate, High, or Critical. Base your"
    " answer only on what is visible in the video and note any uncertainty clearly.",
)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_counts", ({}, {}))


def whole(text: str) -> int:
    """Gemma's tokens of a text, encoded in one go."""
    return encoder.load().encode([text.replace("▁", " ")]).weight()


def pieces() -> Iterator[str]:
    """Every piece of the shipped table."""
    _, found = encoder.read_table().split(b"\xff\xff")
    yield from (piece.decode() for piece in found.split(b"\xff"))


@pytest.mark.parametrize(("text", "expected"), VECTORS)
def test_the_reference_texts_count_as_published(text: str, expected: int) -> None:
    assert tokens.count(text) == expected


@pytest.mark.parametrize(("texts", "billed"), [(CAPTION, 74), (INSPECTION, 108)])
def test_two_published_requests_count_exactly_as_billed(texts: tuple[str, ...], billed: int) -> None:
    assert sum(map(tokens.count, texts)) == billed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" YYYY", 3),  # in the vocabulary, but merging never reaches it
        ("▁▁▁", 1),  # Gemma's own mark for a space is a space
        ("a▁b", 2),
        ("> </", 1),  # the one piece with a space after something else
        ("<td>", 3),  # Gemma 3 holds HTML tags as single tokens; Gemma 4 does not
        ("2026", 4),
        ("\U00013000", 4),  # not in the vocabulary: a token for each byte
        ("\u2d30\u2d31", 2),
        ("\n" * 31, 1),
        ("\n" * 32, 2),
    ],
)
def test_oddities_of_the_vocabulary_are_counted_as_gemma_does(text: str, expected: int) -> None:
    assert tokens.count(text) == expected


def test_the_split_pattern_cuts_no_piece_of_the_vocabulary() -> None:
    every = list(pieces())
    assert len(every) > 255_000
    encoded = encoder.load().encode(every)
    assert len(encoded.ranks) == 2 * len(every) - 1, "a piece, a mark, a piece, a mark, ..."


@given(st.text())
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    assert tokens.count(text) <= len(text.encode())


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_with_surrogates_has_more_tokens_than_bytes(text: str) -> None:
    assert tokens.count(text) <= len(text.encode("utf-8", "surrogatepass"))


def test_surrogates_count_as_what_a_reader_of_the_json_sees() -> None:
    assert tokens.count("\ud83e\udd99.cpp") == tokens.count("🦙.cpp")
    assert tokens.count("a\ud800b") == tokens.count("a\ufffdb")
    assert tokens.count("\udc00") == tokens.count("\ufffd")


@given(st.text(max_size=200))
def test_a_remembered_count_equals_a_fresh_one(text: str) -> None:
    assert [tokens.count(text), tokens.count(text)] == [whole(text)] * 2


PARTS = st.sampled_from(
    ["Keeper", "light", "é", "的", "灯台", "か", "한국", "ไทย", "> </", "</", ">", "=", "()", "🦙", "\U00013000", "▁"]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=12), st.integers(1000, 5000), st.text(max_size=5))
def test_a_long_text_without_a_place_to_cut_counts_as_in_one_go(parts: list[str], size: int, start: str) -> None:
    line = start + "".join(parts) * (size // len("".join(parts)) + 1)
    assert tokens.count(line) == whole(line)


@pytest.mark.parametrize("alphabet", ["abcdefgh", "ABcdEFgh", "的一是不了人我在有", "กขคงาิี่้", "=-_/'\"<>", " \n\ta"])
def test_a_long_random_line_counts_as_in_one_go(alphabet: str) -> None:
    rng = random.Random(alphabet)
    for _ in range(5):
        line = "".join(rng.choice(alphabet) * rng.choice((1, 1, 1, 40, 700)) for _ in range(200))
        assert tokens.count(line) == whole(line)


def test_a_line_that_has_no_place_to_cut_is_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    line = "".join(rng.choices("etaoinshrdlu", k=20_000))
    assert tokens._count_in_blocks(line, encoder.load()) == whole(line)
    monkeypatch.setattr(tokens, "_count_in_blocks", lambda *_: -1)
    assert tokens.count(line) == -1
    assert tokens.count("It has places enough to cut. " * 500) > 0


def test_blocks_that_do_not_fit_together_are_noticed() -> None:
    # Runs of 31 newlines are one token each: shifted by one, no block ends where a token does.
    line = "x" + "\n" * 5000
    assert tokens._count_in_blocks(line, encoder.load()) is None
    assert tokens.count(line) == whole(line)


def test_mended_seams_are_exact_or_given_up_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_SEAM_BYTES", 3)
    rng = random.Random(1)
    given_up = 0
    for alphabet in ["etaoinshrdlu", "的一是不了人我在有", "=-_/'"] * 40:
        line = "".join(rng.choices(alphabet, k=1500))
        found = tokens._count_in_blocks(line, encoder.load())
        given_up += found is None
        assert found in (None, whole(line))
    assert 0 < given_up < 120


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (" ", 32_259),
        ("\n", 32_259),
        ("\t", 32_259),
        ("a", 125_000),
        ("0", 1_000_000),
        ("\u3000", 999_999),
        ("\r\n", 1_000_000),
        ("> </", 250_001),
        ("\U00013000", 1_000_000),
    ],
)
def test_a_megabyte_of_one_thing_is_counted_without_a_crash(unit: str, expected: int) -> None:
    assert tokens.count(unit * (1_000_000 // len(unit.encode()))) == expected


def test_a_text_seen_before_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokens.count("seen before")
    monkeypatch.setattr(tokens, "_count", lambda text: pytest.fail(f"counted again: {text}"))
    assert tokens.count("seen before") == first


def test_the_memory_of_counts_is_bounded_and_keeps_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CACHE_ENTRIES_MAX", 100)
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(counted)

    monkeypatch.setattr(tokens, "_count", count)
    for number in range(1000):
        tokens.count(f"text {number}")
        tokens.count("system prompt")
    assert sum(map(len, tokens._counts)) <= 100
    assert counted.count("system prompt") == 1


def test_the_memory_of_counts_holds_digests_and_never_the_text() -> None:
    tokens.count("a secret")
    assert tokens._counts[0] == {sha256(b"a secret").digest(): 2}


def test_many_threads_load_the_vocabulary_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = encoder.build

    def build(table: bytes, *, is_whole: bool) -> encoder.Vocabulary:
        built.append(threading.get_ident())
        return original(table, is_whole=is_whole)

    monkeypatch.setattr(encoder, "_vocabulary", None)
    monkeypatch.setattr(encoder, "build", build)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: tokens.preload(), range(8)))
        assert list(pool.map(tokens.count, ["Hello world"] * 8)) == [2] * 8
    assert len(built) == 1


def run(program: str) -> None:
    """Run a program in an interpreter of its own; it must end well and say nothing."""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SLOW = """
import os, sys, threading, time
from costguard.estimating import encoder, tokens
loading, may_end = threading.Event(), threading.Event()
read = encoder.read_table
def slow():
    loading.set()
    may_end.wait(MAY_WAIT)
    return read()
encoder.read_table = slow
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("text", ["Hello world", "你好"])
@pytest.mark.parametrize("begin", ["threading.Thread(target=tokens.preload).start()", "encoder.preload_soon()"])
def test_a_child_forked_while_the_vocabulary_loads_can_count(begin: str, text: str) -> None:
    run(
        SLOW.replace("MAY_WAIT", "0.05")
        + f"""
{begin}
loading.wait()
child = os.fork()
found = tokens.count({text!r})
if child == 0:
    os._exit(found)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != found)
"""
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_child_forked_before_the_thread_began_to_load_can_begin_anew_and_count() -> None:
    run(
        SLOW.replace("MAY_WAIT", "0")
        + """
at_door, go = threading.Event(), threading.Event()
def quietly(load=encoder._load_quietly):
    at_door.set()
    go.wait()
    load()
encoder._load_quietly = quietly
encoder.preload_soon()
at_door.wait()
child = os.fork()
go.set()
if child == 0:
    encoder.preload_soon()
    assert encoder._loader.is_alive() or encoder._vocabulary
    os._exit(tokens.count("Hello world"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 2)
"""
    )


@pytest.mark.parametrize("moment", ["loading.wait()", "pass", "may_end.set(); time.sleep(0.03)"])
def test_an_interpreter_that_ends_meanwhile_does_not_wait_and_says_nothing(moment: str) -> None:
    # Were it waited for, this would not end: nothing lets the load go on.
    run(SLOW.replace("MAY_WAIT", "") + f"encoder.preload_soon()\n{moment}\n")


def test_the_first_count_waits_for_the_load_under_way_and_there_is_one_load() -> None:
    run(
        SLOW.replace("MAY_WAIT", "")
        + """
begun = []
build = encoder.build
def counted(*args, **kwargs):
    begun.append(threading.current_thread().name)
    return build(*args, **kwargs)
encoder.build = counted
for _ in range(3):
    encoder.preload_soon()
loading.wait()
threading.Timer(0.05, may_end.set).start()
assert tokens.count("Hello world") == 2
encoder.preload_soon()
assert begun == ["costguard-vocabulary"], begun
"""
    )


def test_a_load_that_fails_in_the_background_is_said_where_a_text_is_counted() -> None:
    run(
        """
from costguard import CostguardError
from costguard.estimating import encoder, tokens
encoder.TABLE_SHA256 = "another"
encoder.preload_soon()
encoder._loader.join()
try:
    tokens.count("anything")
except CostguardError as error:
    assert "damaged or missing" in str(error)
else:
    raise AssertionError("counted")
"""
    )


def test_wrap_begins_to_load_in_the_background_and_in_mode_off_does_not(tmp_path: Path) -> None:
    run(
        f"""
import httpx
from costguard import Guard
from costguard.estimating import encoder
with Guard({str(tmp_path / "ledger.db")!r}, mode="off") as guard, httpx.Client() as client:
    guard.wrap(client)
    assert encoder._loader is None and encoder._vocabulary is None
with Guard({str(tmp_path / "ledger.db")!r}) as guard, httpx.Client() as client:
    guard.wrap(client)
    encoder._loader.join()
    assert not encoder._vocabulary.is_whole
"""
    )


EUROPEAN = st.characters(max_codepoint=0x27F) | st.characters(min_codepoint=0x2000, max_codepoint=0x2FFF)


@pytest.fixture(scope="module")
def part() -> encoder.Vocabulary:
    """The European part of the vocabulary."""
    return encoder.build(encoder.read_table(), is_whole=False)


@given(st.lists(EUROPEAN | st.sampled_from(["light", "keeper", " the", "> </", " → "])).map("".join))
def test_a_european_text_counts_the_same_with_the_european_part(part: encoder.Vocabulary, text: str) -> None:
    assert part.covers(text.encode())
    assert part.encode([text.replace("▁", " ")]).weight() == whole(text)


@given(st.text(min_size=1))
def test_the_part_covers_no_text_with_another_character(part: encoder.Vocabulary, text: str) -> None:
    is_european = all(ord(one) < 0x280 or 0x2000 <= ord(one) < 0x3000 for one in text)
    assert part.covers(text.encode()) is is_european


def test_a_text_beyond_the_european_part_brings_the_whole(
    part: encoder.Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_vocabulary", part)
    assert tokens.count("Hello world") == 2
    assert encoder._vocabulary is part
    assert tokens.count("灯台守は毎晩") < len("灯台守は毎晩".encode()) // 2
    assert encoder._vocabulary is not part
    assert encoder.load().is_whole


@pytest.mark.parametrize("text", ["Hello world", "灯台 \U00013000\u2d30", "", "0" * 5000])
def test_a_tiktoken_without_its_buffer_of_ranks_counts_the_same(text: str) -> None:
    loaded = encoder.load()

    class Public:
        encode = loaded.encoding.encode

    bare = loaded._replace(encoding=Public())  # type: ignore[arg-type]
    assert bare.encode([text, text]) == loaded.encode([text, text])


def test_the_shipped_table_is_the_pinned_one() -> None:
    assert sha256(encoder.read_table()).hexdigest() == encoder.TABLE_SHA256


@pytest.mark.parametrize("damage", ["changed", "cut", "not gzip", "missing"])
def test_a_damaged_table_is_refused_by_name_with_what_to_do(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip
    import importlib.resources

    shipped = (importlib.resources.files("costguard.estimating") / "vocabulary" / "gemma4.gz").read_bytes()
    (tmp_path / "vocabulary").mkdir()
    content = {
        "changed": gzip.compress(b"another table"),
        "cut": shipped[:1000],
        "not gzip": b"version https://git-lfs.github.com/spec/v1",
    }
    if damage in content:
        (tmp_path / "vocabulary" / "gemma4.gz").write_bytes(content[damage])
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    monkeypatch.setattr(encoder, "_vocabulary", None)
    with pytest.raises(CostguardError, match=r"gemma4\.gz is damaged or missing .*install .* again"):
        tokens.count("anything")


def test_importing_the_module_loads_neither_tiktoken_nor_numpy_nor_the_vocabulary() -> None:
    program = """
import sys
from costguard.estimating import encoder, tokens
assert encoder._vocabulary is None
assert not {"tiktoken", "numpy", "regex"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("text_bytes", "expected", "messages", "upper"),
    [
        (1000, 100, 1, 113),
        (1000, 101, 1, 115),  # 5.05 rounds up to 6
        (1000, 74, 2, 94),
        (50, 49, 3, 74),  # 5 % are cut off at the bytes, the framing is not
        (0, 0, 1, 8),
        (0, 0, 0, 0),
    ],
)
def test_upper_is_five_percent_within_the_bytes_and_eight_a_message(
    text_bytes: int, expected: int, messages: int, upper: int
) -> None:
    assert tokens.text_upper(text_bytes, expected, messages) == upper


@given(texts=st.lists(st.text(max_size=40), max_size=30))
def test_upper_has_room_for_the_framing_of_every_message(texts: list[str]) -> None:
    size, expected = sum(len(text.encode()) for text in texts), sum(map(tokens.count, texts))
    assert tokens.text_upper(size, expected, len(texts)) >= expected + 8 * len(texts)
    assert tokens.text_upper(size, size, len(texts)) == size + 8 * len(texts)  # a token for each byte
