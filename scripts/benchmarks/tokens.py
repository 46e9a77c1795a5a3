"""How fast text is counted, against tiktoken with OpenAI's o200k_base on the same text in the same run.

o200k_base's table is not on PyPI by itself: it is taken out of litellm's wheel (41 MB, fetched once with pip
into the user's cache folder). Without it, what is compared to it is left out, and standard error says so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import platformdirs

from costguard.estimating import tokens
from scripts.benchmarks.runner.measurement import Measurement

SIZE = 1_000_000
O200K_WHEEL = "litellm==1.109.1"
O200K_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"  # tiktoken's own name for it in a cache folder
O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

PROSE = (
    "The lighthouse keeper wrote the log by hand, every evening at nine, and never missed a day.\n"
    "“We have seen no ship since Tuesday,” he noted; the storm (the third in 2 weeks) had kept them away.\n\n"
    "Il faut cultiver notre jardin. Über allen Gipfeln ist Ruh. Жили-были старик со старухой у моря.\n"
)
CJK = (
    "人工智能是计算机科学的一个分支，它企图了解智能的实质，并生产出一种新的智能机器。\n"
    "灯台守は毎晩九時に日誌を書いた。嵐のために船は来なかった。コンピューターで処理します。\n"
    "등대지기는 매일 밤 아홉 시에 일지를 썼다. 폭풍 때문에 배가 오지 않았다.\n"
)


def results() -> Iterator[Measurement]:
    """How long counting takes, and for how long it stops others."""
    cache = _o200k_folder()
    if cache is None:
        print(f"o200k_base is not to be had ({O200K_WHEEL}): no comparison with it", file=sys.stderr)
    else:
        os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
        yield from _against_o200k()
    yield from _seen_before()
    yield from _stalls()


def _against_o200k() -> Iterator[Measurement]:
    import tiktoken

    first = "from costguard.estimating.tokens import count; count('first')"
    first_o200k = "import tiktoken; tiktoken.get_encoding('o200k_base').encode_ordinary('first')"
    pairs = [(_fresh_s(first), _fresh_s(first_o200k)) for _ in range(5)]
    ours_s, theirs_s = map(min, zip(*pairs, strict=True))
    yield Measurement("first count in a process, imports and loading included", ours_s / theirs_s, 2, "o200k_base")

    o200k = tiktoken.get_encoding("o200k_base")
    for bound, texts in ((1.3, _texts()), (2.5, _lines())):
        for name, text in texts.items():
            ours_s, theirs_s = _fastest(partial(_count_anew, text), partial(_encode, o200k, text))
            if theirs_s == float("inf"):
                print(f"count, {name}: {ours_s * 1e3:.0f} ms; o200k_base crashes on it", file=sys.stderr)
            else:
                yield Measurement(f"count: {name}", ours_s / theirs_s, bound, "o200k_base")


def _seen_before() -> Iterator[Measurement]:
    turns = [f"{number} {PROSE * 8}"[:2000] for number in range(SIZE // 2000)]
    conversation = "".join(turns).encode()
    news = iter(f"{number} new {PROSE * 8}"[:2000] for number in range(10**6))

    def count_all() -> int:
        return sum(map(tokens.count, turns)) + tokens.count(next(news))

    count_all()
    ours_s, digest_s = _fastest(count_all, lambda: sha256(conversation).digest(), rounds=20)
    yield Measurement("count, 500 messages of 2 KB seen before and a new one", ours_s / digest_s, 3, "sha256 of them")
    ours_s, digest_s = _fastest(
        partial(tokens.count, conversation.decode()), lambda: sha256(conversation).digest(), rounds=20
    )
    yield Measurement("count, one message of 1 MB seen before", ours_s / digest_s, 3, "sha256 of it")


def _stalls() -> Iterator[Measurement]:
    texts = _texts() | _lines()
    for name, text in texts.items():
        stall_s = min(asyncio.run(_longest_stall(text)) for _ in range(3))
        yield Measurement(f"an event loop stalls, counting in a thread: {name}", stall_s * 1e3, 20, "a clock", "ms")


async def _longest_stall(text: str) -> float:
    """The longest pause, in seconds, between two turns of the loop while a thread counts the text."""
    counting = asyncio.ensure_future(asyncio.to_thread(_count_anew, text))
    longest, last = 0.0, time.perf_counter()
    while not counting.done():
        await asyncio.sleep(0.0005)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def _texts() -> dict[str, str]:
    code = Path(random.__file__).read_text() + Path(json.__file__).read_text() + Path(__file__).read_text()
    return {
        "1 MB of prose": _fill(PROSE, SIZE),
        "1 MB of code": _fill(code, SIZE),
        "1 MB of CJK": _fill(CJK, SIZE * 2 // 5),
    }


def _lines() -> dict[str, str]:
    """Texts of 1 MB without a newline, most of them without a space."""
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = [{"id": number, "name": f"user{number}", "score": number / 7} for number in range(20_000)]
    return {
        "a line of one letter": "a" * SIZE,
        "a line of zeros": "0" * SIZE,
        "a line of blanks": " " * SIZE,
        "a line of 450 KB of blanks": " " * (SIZE * 9 // 20),
        "a line of U+3000": "\u3000" * (SIZE // 3),
        "a line of random letters": "".join(rng.choices(letters, k=SIZE)),
        "a line of random letters in both cases": "".join(rng.choices(letters + letters.upper(), k=SIZE)),
        "a line of joined words": _fill(PROSE.replace(" ", "").replace("\n", ""), SIZE),
        "a line of CamelCase": "LighthouseKeeper" * (SIZE // 16),
        "a line of joined Cyrillic words": "ЖилиБылиСтарикСоСтарухой" * (SIZE // 48),
        "a line of base64": base64.b64encode(rng.randbytes(SIZE * 3 // 4)).decode(),
        "a line of hexadecimal": rng.randbytes(SIZE // 2).hex(),
        "a line of JSON": json.dumps(rows, separators=(",", ":"))[:SIZE],
        "a line of random printable ASCII": "".join(map(chr, rng.choices(range(33, 127), k=SIZE))),
        "a line of punctuation": "".join(rng.choices("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", k=SIZE)),
        "a line of =": "=" * SIZE,
        "a line of > </": "> </" * (SIZE // 4),
        "a line of Han characters": "".join(map(chr, rng.choices(range(0x4E00, 0x9FA6), k=SIZE // 3))),
        "a line of Hangul": "".join(map(chr, rng.choices(range(0xAC00, 0xD7A4), k=SIZE // 3))),
        "a line of Chinese prose": _fill(CJK.partition("\n")[0], SIZE // 3),
        "a line of Thai": _fill("การพัฒนาระบบคอมพิวเตอร์สำหรับผู้ใช้งาน", SIZE // 3),
        "a line of emoji": "".join(map(chr, rng.choices(range(0x1F300, 0x1F650), k=SIZE // 4))),
    }


def _fill(text: str, characters: int) -> str:
    return (text * (characters // len(text) + 1))[:characters]


def _count_anew(text: str) -> int:
    tokens._counts = ({}, {})  # nothing remembered
    return tokens.count(text)


def _encode(encoding: object, text: str) -> None:
    """Encode with OpenAI's pattern, whose panic on long runs of blanks is no Exception."""
    try:
        encoding.encode_ordinary(text)  # type: ignore[attr-defined]
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _CrashedError from None


class _CrashedError(Exception):
    """What is compared to cannot do it at all."""


def _fresh_s(code: str) -> float:
    """Seconds that code takes in a new interpreter, without the interpreter's own start."""
    timed = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True).stdout)


def _fastest(*calls: Callable[[], object], rounds: int = 5) -> list[float]:
    """Seconds per call of each, the best of `rounds`, taken in turn so that noise hits all alike."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            try:
                call()
            except _CrashedError:
                continue
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def _o200k_folder() -> Path | None:
    """A folder for TIKTOKEN_CACHE_DIR that holds o200k_base, fetched if need be; None if it cannot be."""
    folder = platformdirs.user_cache_path("costguard-bench")
    target = folder / O200K_FILE
    if target.exists() and sha256(target.read_bytes()).hexdigest() == O200K_SHA256:
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        try:
            subprocess.run([*command, "--dest", scratch, O200K_WHEEL], check=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                table = wheel.read(f"litellm/litellm_core_utils/tokenizers/{O200K_FILE}")
        except (OSError, subprocess.CalledProcessError, StopIteration, KeyError) as error:
            print(f"fetching {O200K_WHEEL}: {error}", file=sys.stderr)
            return None
    if sha256(table).hexdigest() != O200K_SHA256:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(table)
    return folder
