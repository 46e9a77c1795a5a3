"""Files for what a ledger is yet to be told: whole or not at all, one program's, and nobody else's to read."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import NOW_US, a_charge, an_attempt, outcome, python

from costguard.budgets import from_us
from costguard.errors import LedgerError
from costguard.ledger.charges import Charge
from costguard.ledger.engines import name_of
from costguard.ledger.records import Accept, Doubt, NewAttempt, Release, Settle
from costguard.ledger.spool import Lines, Spool, kept_lines, spool_folder, take_over
from costguard.ledger.spooled import Begun, Ended, Heard, Writing, degraded

PLACE = "/somewhere/costguard.db"
TEXTS = ["one", "two ö", "three"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSTGUARD_SPOOL", str(tmp_path / "spool"))
    return spool_folder(PLACE)


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    spool = Spool(folder)
    yield spool
    spool.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def texts(lines: Lines) -> list[str]:
    return [line.text for line in lines.found]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- where, and for whom ---------------------------------------------------------------------------------------


def test_files_and_folders_are_for_their_user_alone(folder: Path, spool: Spool) -> None:
    folder.chmod(0o755)
    assert spool_folder(PLACE) == folder
    spool.append(TEXTS)
    assert (mode(folder.parent), mode(folder), mode(files(folder)[0])) == (0o700, 0o700, 0o600)


def test_each_ledger_has_a_folder_of_its_own_whose_name_knows_no_password(folder: Path) -> None:
    urls = [
        "postgresql://me@db.example:5432/costs?sslmode=require",
        "postgresql://me:secret@db.example:5432/costs?sslmode=require",
        "postgresql://you@db.example:5432/costs?pool=2&schema=costguard&password=other",
        "postgres://db.example:5432/costs?leases=off",
    ]
    assert len({spool_folder(name_of(url), make=False) for url in urls}) == 1
    others = [
        "postgresql://me@db.example:5432/more",
        "postgresql://me@other.example:5432/costs",
        "postgresql://me@db.example:5432/costs?schema=another",
        PLACE,
    ]
    assert len({spool_folder(name_of(place), make=False) for place in (urls[0], *others)}) == 5
    assert files(folder.parent) == [folder], "looking makes none"


def test_ledgers_that_the_environment_tells_apart_have_folders_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(url: str, **environment: str) -> Path:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return spool_folder(name_of(url), make=False)

    assert folder.parent == named("postgresql:///costs").parent
    ledgers = [
        named("postgresql:///costs", PGHOST="one.example"),
        named("postgresql:///costs", PGHOST="two.example"),
        named("postgresql:///costs", PGHOST="one.example", PGPORT="5433"),
        named("postgresql://db.example", PGDATABASE="costs"),
        named("postgresql://me@db.example"),
        named("postgresql://you@db.example"),
    ]
    assert len(set(ledgers)) == 6
    assert named("postgresql://one.example:5432/costs") == ledgers[0]


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COSTGUARD_SPOOL", str(tmp_path / "file"))
    with pytest.raises(LedgerError, match="name another with COSTGUARD_SPOOL"):
        spool_folder(PLACE)


def test_a_folder_of_another_user_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(LedgerError, match="belongs to another user"):
        spool_folder(PLACE)


# --- what is kept ----------------------------------------------------------------------------------------------


def test_what_is_kept_comes_back_in_order_and_the_file_goes_with_it(folder: Path, spool: Spool) -> None:
    assert (spool.size, texts(spool.lines()), files(folder)) == (0, [], [])
    spool.append(TEXTS[:2])
    spool.append(TEXTS[2:])
    found = spool.lines()
    assert (texts(found), found.damaged) == (TEXTS, 0)
    assert texts(spool.lines(found.found[0].end)) == TEXTS[1:]
    assert found.found[-1].end == spool.size
    assert [line.text for line in kept_lines(folder)] == TEXTS
    spool.clear()
    assert (spool.size, files(folder)) == (0, [])


def test_what_is_to_stay_has_a_file_of_its_own_before_the_old_one_goes(
    folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(TEXTS)
    (old,) = files(folder)
    there: list[list[Path]] = []
    unlink = Path.unlink

    def watch(path: Path, *args: Any, **options: Any) -> None:
        there.append(files(folder))
        unlink(path, *args, **options)

    monkeypatch.setattr(Path, "unlink", watch)
    spool.clear(TEXTS[1:2])
    (new,) = files(folder)
    assert new != old
    assert there == [sorted([new, old])]
    assert texts(spool.lines()) == TEXTS[1:2]


@given(cut=st.integers(min_value=0), kept=st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1))
def test_whole_records_before_any_cut_are_read_and_nothing_is_called_damaged(cut: int, kept: list[str]) -> None:
    kept = [text.replace("\n", "") for text in kept]
    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name))
        spool.append(kept)
        ends = [line.end for line in spool.lines().found]
        (path,) = files(Path(name))
        cut %= spool.size + 1
        os.truncate(path, cut)
        found = spool.lines()
        assert texts(found) == kept[: sum(end <= cut for end in ends)]
        assert found.damaged == 0
        spool.close()


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_bit_that_flipped_costs_its_record_and_is_noticed(at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name))
        spool.append(TEXTS)
        (path,) = files(Path(name))
        data = bytearray(path.read_bytes())
        last = spool.lines().found[-2].end
        data[at % last] ^= 1 << bit
        path.write_bytes(data)
        found = spool.lines()
        assert set(texts(found)) < set(TEXTS)
        assert found.damaged
        spool.close()


def test_a_full_disk_keeps_nothing_of_what_it_did_not_take(
    folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(TEXTS[:1])
    write, left = os.write, [5]

    def fill(fd: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, bytes(data)[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(LedgerError, match=r"cannot be written: No space left on device; nothing was kept"):
        spool.append(TEXTS[1:])
    monkeypatch.setattr(os, "write", write)
    spool.append(TEXTS[2:])
    assert (texts(spool.lines()), spool.lines().damaged) == ([TEXTS[0], TEXTS[2]], 0)


def test_a_record_is_on_the_disk_and_its_file_in_the_folder_before_append_returns(
    folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), os.fstat(fd).st_size))
    )
    spool.append(TEXTS)
    assert [is_folder for is_folder, _ in synced] == [True, False]
    assert synced[1][1] == spool.size


# --- whose it is -----------------------------------------------------------------------------------------------


def test_a_living_programs_file_is_its_own_and_a_dead_ones_is_taken_over(folder: Path) -> None:
    spool, seen = Spool(folder), list[list[str]]()

    def take(_: Path, lines: Lines) -> bool:
        seen.append(texts(lines))
        return len(seen) > 1

    spool.append(TEXTS)
    assert (take_over(folder, take), seen) == (0, [])
    spool.close()
    assert (take_over(folder, take), seen) == (0, [TEXTS]), "what could not be told stays"
    assert (take_over(folder, take), seen) == (1, [TEXTS, TEXTS])
    assert files(folder) == []


def test_an_error_leaves_the_file_and_its_lock_to_the_next(folder: Path) -> None:
    spool = Spool(folder)
    spool.append(TEXTS)
    spool.close()

    def fail(*_: object) -> bool:
        raise LedgerError("away")

    with pytest.raises(LedgerError, match="away"):
        take_over(folder, fail)
    assert take_over(folder, lambda *_: True) == 1


def test_a_file_with_damaged_records_is_kept_beside(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(folder)
    spool.append(TEXTS)
    spool.close()
    (path,) = files(folder)
    damaged = path.read_bytes().replace(b"one", b"won")
    path.write_bytes(damaged)
    seen = list[str]()

    def take(_: Path, lines: Lines) -> bool:
        seen.extend(texts(lines))
        return True

    assert take_over(folder, take) == 1
    assert seen == TEXTS[1:]
    (kept,) = files(folder)
    assert (kept.suffix, kept.read_bytes()) == (".damaged", damaged)
    assert str(kept) in caplog.text
    assert take_over(folder, lambda *_: True) == 0


def test_a_record_that_is_no_text_is_damaged(folder: Path) -> None:
    spool_folder(PLACE)
    data = b"\xff\xfe"
    (folder / "1.spool").write_bytes(b"%08x %s\n" % (zlib.crc32(data), data))
    found = list[Lines]()

    def take(_: Path, lines: Lines) -> bool:
        found.append(lines)
        return True

    assert take_over(folder, take) == 1
    assert found == [Lines([], 1)]


def test_a_forks_child_has_a_file_of_its_own_and_leaves_the_parents_locked() -> None:
    with tempfile.TemporaryDirectory() as name:
        told = outcome(
            python(
                "import os, sys\nfrom pathlib import Path\nfrom costguard.ledger.spool import Spool, take_over\n"
                "folder = Path(sys.argv[1])\nspool = Spool(folder)\nspool.append(['parent'])\nchild = os.fork()\n"
                "if child == 0:\n    spool.append(['child'])\n    os._exit(len(spool.lines().found))\n"
                "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
                "print([line.text for line in spool.lines().found], len(list(folder.iterdir())))\n"
                "print(take_over(folder, lambda path, lines: lines.found[0].text == 'child'))\n",
                name,
            )
        )
        assert told.splitlines() == ["1", "['parent'] 2", "1"]


# --- records ---------------------------------------------------------------------------------------------------

_texts = st.text(max_size=5)
_whole = st.integers(0, 2**62)
ATTEMPTS = st.builds(
    NewAttempt,
    *[_texts] * 4,
    results=_whole,
    upper=st.none() | _whole,
    expected=st.none() | _whole,
    price_id=st.none() | _texts,
    estimate=_texts,
    tags=_texts,
    ceiling_names=st.lists(_texts, max_size=2).map(tuple),
    unpriced=st.none() | _texts,
    clamped_from=st.none() | _whole,
    host=_texts,
    spelling=st.none() | _texts,
)
CHARGES: st.SearchStrategy[Charge] = st.builds(
    lambda nanos, **told: a_charge(nanos)._replace(**told),
    _whole,
    notes=st.lists(_texts, max_size=2).map(tuple),
    raw=st.none() | _texts,
    odd=st.booleans(),
    cache_reading=st.sampled_from([None, "inside"]),
)
ENDINGS = st.one_of(
    st.builds(Settle, _whole, CHARGES, _texts, st.booleans(), st.none() | _texts),
    st.builds(Release, _whole, _texts),
    st.builds(Doubt, _whole, _texts, st.dictionaries(_texts, _texts | _whole, max_size=2), st.booleans()),
    st.builds(Accept, _whole),
)
RECORDS = st.one_of(
    st.builds(Begun, _texts, _texts, _whole, st.lists(ATTEMPTS, max_size=2).map(tuple), st.booleans()),
    st.builds(Ended, _texts, _whole, st.lists(ENDINGS, max_size=2).map(tuple)),
    st.builds(Heard, _texts, _whole, st.dictionaries(_texts, st.frozensets(_texts), max_size=2)),
)


@given(record=RECORDS)
def test_a_record_is_one_line_of_ascii_and_comes_back_as_it_was(record: Begun | Ended | Heard) -> None:
    text = Writing().text(record)
    assert text.isascii()
    assert text.isprintable()
    assert Writing().record(text) == record


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"is":"Release","attempt_id":1,"reason":""}', '{"is":"Begun"}', "7"])
def test_what_is_no_record_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Writing().record(text)


def begun(key: str, *uppers: int | None, at_us: int = NOW_US, held: bool = False) -> Begun:
    return Begun(key, "acme", at_us, tuple([an_attempt(upper) for upper in uppers]), held)


@pytest.mark.parametrize(
    ("records", "since_us", "expected"),
    [
        ([], None, None),
        ([], 5, (5, 0, Decimal("0.00"))),
        ([begun("a", 1, 2), begun("b", 4)], None, (NOW_US, 2, Decimal("0.000000007"))),
        ([begun("a", 1), begun("a", 1), Ended("a", 3, ())], None, (3, 3, Decimal("0.000000001"))),
        ([begun("a", 1, held=True)], 5, (5, 1, Decimal("0.00"))),
        ([begun("a", 1), begun("b", None)], 5, (5, 2, None)),
    ],
    ids=["nothing", "away", "sums", "told twice", "held", "unknown"],
)
def test_what_is_missed_adds_up_to_what_the_ledger_does_not_hold(
    records: list[Begun | Ended], since_us: int | None, expected: tuple[int, int, Decimal | None] | None
) -> None:
    found = degraded([Writing().text(record) for record in records], since_us)
    assert found == (expected and (from_us(expected[0]), *expected[1:]))


def test_what_a_record_of_another_version_may_cost_is_unknown_and_it_is_counted() -> None:
    others = ['{"is":"Begun","key":"k","at_us":7,"more":1}', "[1]", '{"is":"Ended","at_us":"never"}']
    assert degraded([Writing().text(begun("a", 1)), *others]) == (from_us(7), 4, None)
