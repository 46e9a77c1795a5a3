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
from costguard.estimating import tokens

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
    vocabulary = tokens._load()
    return int(vocabulary.weights[vocabulary.encode([text.replace("▁", " ")])].sum())


def pieces() -> Iterator[str]:
    """Every piece of the shipped table."""
    table = tokens._read_table()
    helpers, count = (int.from_bytes(table[at : at + 4], "little") for at in (0, 4))
    start = 8 + helpers + count + sum(table[8 : 8 + helpers])
    for size in table[8 + helpers : 8 + helpers + count]:
        yield table[start : start + size].decode()
        start += size


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
    vocabulary = tokens._load()
    every = list(pieces())
    assert len(every) > 255_000
    ranks = vocabulary.encode(every)
    assert len(ranks) == 2 * len(every) - 1, "a piece, a mark, a piece, a mark, ..."


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
    assert tokens._count_in_blocks(line, tokens._load()) == whole(line)
    monkeypatch.setattr(tokens, "_count_in_blocks", lambda *_: -1)
    assert tokens.count(line) == -1
    assert tokens.count("It has places enough to cut. " * 500) > 0


def test_blocks_that_do_not_fit_together_are_noticed() -> None:
    # Runs of 31 newlines are one token each: shifted by one, no block ends where a token does.
    line = "x" + "\n" * 5000
    assert tokens._count_in_blocks(line, tokens._load()) is None
    assert tokens.count(line) == whole(line)


def test_mended_seams_are_exact_or_given_up_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_SEAM_BYTES", 3)
    rng = random.Random(1)
    given_up = 0
    for alphabet in ["etaoinshrdlu", "的一是不了人我在有", "=-_/'"] * 40:
        line = "".join(rng.choices(alphabet, k=1500))
        found = tokens._count_in_blocks(line, tokens._load())
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
    original = tokens._build

    def build(table: bytes) -> tokens._Vocabulary:
        built.append(threading.get_ident())
        return original(table)

    monkeypatch.setattr(tokens, "_vocabulary", None)
    monkeypatch.setattr(tokens, "_build", build)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: tokens.preload(), range(8)))
        assert list(pool.map(tokens.count, ["Hello world"] * 8)) == [2] * 8
    assert len(built) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_child_forked_while_the_vocabulary_loads_can_count() -> None:
    program = """
import os, sys, threading
from costguard.estimating import tokens
loading = threading.Event()
read = tokens._read_table
def slow():
    loading.set()
    return read()
tokens._read_table = slow
thread = threading.Thread(target=tokens.preload)
thread.start()
loading.wait()
child = os.fork()
if child == 0:
    os._exit(0 if tokens.count("Hello world") == 2 else 1)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shipped_table_is_the_pinned_one() -> None:
    assert sha256(tokens._read_table()).hexdigest() == tokens.TABLE_SHA256


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
    monkeypatch.setattr(tokens, "_vocabulary", None)
    with pytest.raises(CostguardError, match=r"gemma4\.gz is damaged or missing .*install .* again"):
        tokens.count("anything")


def test_importing_the_module_loads_neither_tiktoken_nor_numpy_nor_the_vocabulary() -> None:
    program = """
import sys
from costguard.estimating import tokens
assert tokens._vocabulary is None
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
