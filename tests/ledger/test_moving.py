"""A ledger that is moved to another database: all of it, once, and not while it is half there."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, balance, hold, kill, open_ledger, python, verified

from costguard import tokens
from costguard.budgets import make_budget
from costguard.cli import main
from costguard.cli.app import Session
from costguard.cli.database import LedgerType
from costguard.errors import LedgerError
from costguard.ledger import moving
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Line
from costguard.ledger.engine import Engine
from costguard.ledger.engines import open_engine
from costguard.ledger.engines.files import blend
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.moving import MOVING, TABLES, move
from costguard.ledger.records import Admitted, Called, Doubt, Observation, Release, Settle

REPORTS = (
    ("report", "--month", "2026-11"),
    ("report", "--month", "2026-11", "--timezone", "Asia/Kathmandu", "--by", "model", "--by", "day"),
    ("status",),
    ("tasks",),
    ("log",),
    ("accuracy",),
)


def fill(ledger: Ledger, calls: int = 150, seed: int = 1) -> None:
    """Some of everything."""
    chance = random.Random(seed)
    for project, per in (("/", "total"), ("acme", "month"), ("acme/*", "day"), ("acme", "task"), ("tiny", "day")):
        ledger.set_budget(make_budget(project, "0.000001" if project == "tiny" else 5, per=per), NOW_US)
    ledger.set_ceiling("x:y@z", 5, NOW_US)
    for n in range(calls):
        at_us = NOW_US - chance.randrange(20) * DAY_US + n
        tasks = [an_attempt(chance.randrange(1, 900)) for _ in range(chance.randrange(1, 3))]
        project = chance.choice(("acme/a", "acme/b", "other", "tiny"))
        found = ledger.admit(project, at_us, tasks)
        if not isinstance(found, Admitted):
            ledger.count_refusal(found, project, at_us, tasks)
            continue
        for attempt_id in found.attempt_ids:
            end = chance.random()
            charge = a_charge(chance.randrange(1, 900))._replace(basis=chance.choice(("breakdown", "assumed")))
            ledger.conclude(
                at_us,
                [Settle(attempt_id, charge)]
                if end < 0.7
                else [Release(attempt_id, "refused")]
                if end < 0.85
                else [Doubt(attempt_id, "cut", {"bytes": 7}), Called(attempt_id, f"chatcmpl-{attempt_id}")],
            )
    ledger.observe(NOW_US, Observation(ledger.tasks()[0].task_uuid, (("i:0", a_charge(77)),)))
    ledger.call_project("acme/b", "bee", NOW_US)
    ledger.remove_budget("tiny", "day", NOW_US)
    for name in ("kept", "gone"):
        ledger.add_token(tokens.make("acme", name, NOW_US, "somebody")[1])
    ledger.revoke_token(ledger.tokens()[0].id, NOW_US)
    for estimate, line in (
        ('{"seconds": [5000, 9000], "output": {"resolution": "720p"}}', Line("seconds", "720p", 5000, 500)),
        ("{}", Line("unitemized", "", None, 500)),  # as a ledger has it from before such tasks had prices
    ):
        task = an_attempt(900, model="acme:clip@1")._replace(task_type="videoInference", estimate=estimate)
        found = ledger.admit("other", NOW_US, [task])
        assert isinstance(found, Admitted)
        charge = a_charge(500, lines=(line,))._replace(basis="cost", prompt_tokens=None, completion_tokens=None)
        ledger.conclude(NOW_US, [Settle(found.attempt_ids[0], charge)])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that is only read."""
    path = tmp_path_factory.mktemp("filled") / "ledger.db"
    ledger = open_ledger(path, timezone="Europe/Berlin")
    fill(ledger)
    ledger.close()
    return path


def noon() -> datetime:
    """When the reports are made."""
    return datetime(2026, 11, 22, 12, tzinfo=UTC)


def no_bar(*_: object) -> None:
    """Nobody looks."""


def rows_of(engine: Engine, table: str) -> list[tuple[Any, ...]]:
    """All rows of a table, in its columns' order of names."""
    names = sorted(engine.read(lambda tx: tx.columns(table)))
    order = ", ".join(TABLES[table])
    return engine.read(lambda tx: tx.all(f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}"))


def same(one: Engine, other: Engine) -> bool:
    """Both hold the same, but for what is a database's own."""
    for table in TABLES:
        here, there = rows_of(one, table), rows_of(other, table)
        if table == "meta":
            here, there = ([row for row in rows if row[0] not in moving._OWN] for rows in (here, there))
        assert here == there, table
    return True


def test_there_and_back_every_report_is_the_same_to_the_byte(
    filled: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = tmp_path / "back.db"
    bare = postgres_url.replace(postgres_url.split("//")[1].split("@", maxsplit=1)[0], "costguard")
    monkeypatch.setenv("PGPASSWORD", "p@ss/w:rd%")
    for source, target in ((str(filled), bare), (bare, str(back))):
        done = CliRunner().invoke(main, ["--db", source, "migrate", target])
        assert (done.exit_code, done.output.splitlines()[-1][:7]) == (0, "Copied "), done.output
        assert "all promises hold in both" in done.output
    told: dict[tuple[str, ...], set[str]] = {}
    for place in (str(filled), bare, str(back)):
        for words in REPORTS:
            shown = CliRunner().invoke(main, [*words, "--format", "table"], obj=Session(LedgerType()(place), noon))
            assert shown.exit_code == 0, shown.output
            told.setdefault(words, set()).add(shown.output)
    (report,) = told[REPORTS[0]]
    made = [line.split() for line in report.partition("What was made")[2].splitlines() if "videoInference" in line]
    assert [line[3:] for line in made[:2]] == [["1", "results", "0.0000005"], ["5", "seconds", "0.0000005"]]
    assert {words: len(outputs) for words, outputs in told.items()} == dict.fromkeys(REPORTS, 1)


@pytest.mark.parametrize("there", ["sqlite", "postgresql"])
def test_a_copy_goes_on_as_the_ledger_would_have(
    filled: Path, tmp_path: Path, request: pytest.FixtureRequest, there: str
) -> None:
    target = request.getfixturevalue("postgres_url") if there == "postgresql" else tmp_path / "copy.db"
    source, copy = SqliteEngine(filled), open_engine(target)
    rows = move(source, copy, no_bar)
    assert rows > 500
    assert same(source, copy)
    source.close()
    ledger = Ledger(copy, now_us=lambda: NOW_US)
    assert ledger.timezone == "Europe/Berlin"
    before = balance(ledger)
    attempts = hold(ledger, 5, 7, project="acme/a")
    ledger.conclude(NOW_US, [Settle(attempts[0], a_charge(3))])
    assert balance(ledger) == (before[0] + 3, before[1] + 7)
    ledger.set_budget(make_budget("/", 9, per="month"), NOW_US)
    assert verified(ledger)
    ledger.close()


def test_a_copy_that_came_back_from_numbers_with_gaps_is_one_history(
    filled: Path, tmp_path: Path, postgres_url: str
) -> None:
    source, between, back = SqliteEngine(filled), open_engine(postgres_url), SqliteEngine(tmp_path / "back.db")
    move(source, between, no_bar)
    ledger = Ledger(between, now_us=lambda: NOW_US, leases="on")
    fill(ledger, 20, seed=2)
    ledger.end_leases()
    assert verified(ledger)
    ledger.close()
    between = open_engine(postgres_url)
    move(between, back, no_bar)
    assert same(between, back)
    assert back.read(blend) is None
    with_gaps = back.read(lambda tx: tx.one("SELECT max(seq) - count(*) FROM entries"))
    assert with_gaps is not None
    assert with_gaps[0] > 0
    for engine in (source, between):
        engine.close()
    ledger = Ledger(back, now_us=lambda: NOW_US)
    hold(ledger, 1)
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("there", ["sqlite", "postgresql"])
def test_one_that_was_stopped_anywhere_goes_on_and_ends_as_if_it_had_not_been(
    filled: Path, tmp_path: Path, request: pytest.FixtureRequest, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PAGE", 40)
    target = request.getfixturevalue("postgres_url") if there == "postgresql" else tmp_path / "copy.db"
    source = SqliteEngine(filled)
    stops = 0
    while True:
        copy = open_engine(target)
        left = 7

        def stop(what: str, done: int, of: int) -> None:
            nonlocal left
            left -= 1
            if left == 0 and what == "Copying":
                raise KeyboardInterrupt

        try:
            move(source, copy, stop)
        except KeyboardInterrupt:
            stops += 1
            with pytest.raises(LedgerError, match="not whole yet"):
                Ledger(copy)
            copy.close()
        else:
            break
    assert stops >= 3
    assert same(source, copy)
    source.close()
    copy.close()


def test_one_that_was_killed_goes_on(filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    code = """
import sys, time
from pathlib import Path
from costguard.ledger import moving
from costguard.ledger.engines import open_engine
moving.PAGE = 20
def slow(what, done, of):
    print(done, flush=True)
    time.sleep(0.02)
moving.move(open_engine(Path(sys.argv[1])), open_engine(Path(sys.argv[2]), durability="normal"), slow)
"""
    process = python(code, filled, copy)
    assert process.stdout is not None
    for _ in range(12):
        process.stdout.readline()
    kill([process])
    done = CliRunner().invoke(main, ["--db", str(filled), "migrate", str(copy)])
    assert done.exit_code == 0, done.output
    assert same(SqliteEngine(filled), SqliteEngine(copy))


def write_a_call(path: Path) -> None:
    """One more call in the ledger at `path`."""
    ledger = open_ledger(path)
    hold(ledger, 3)
    ledger.close()


def change_an_attempt(path: Path) -> None:
    """Something that no count tells."""
    engine = SqliteEngine(path)
    engine.write(lambda tx: tx.run("UPDATE attempts SET reason = 'another' WHERE id = 3"))
    engine.close()


@pytest.mark.parametrize("change", [write_a_call, change_an_attempt])
@pytest.mark.parametrize("when", ["meanwhile", "before it goes on"])
def test_a_source_that_is_written_to_makes_no_copy_that_can_be_used(
    tmp_path: Path, change: Callable[[Path], None], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PAGE", 20)
    path = tmp_path / "ledger.db"
    ledger = open_ledger(path)
    fill(ledger, 60)
    ledger.close()
    source, copy = SqliteEngine(path), SqliteEngine(tmp_path / "copy.db")
    calls = 0

    def meanwhile(what: str, done: int, of: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 14:
            change(path)
            if when != "meanwhile":
                raise KeyboardInterrupt

    with pytest.raises(LedgerError if when == "meanwhile" else KeyboardInterrupt):
        move(source, copy, meanwhile)
    with pytest.raises(LedgerError, match="was written to since this was begun"):
        move(source, copy, no_bar)
    with pytest.raises(LedgerError, match="not whole yet"):
        Ledger(copy)
    assert copy.read(lambda tx: tx.one("SELECT 1 FROM meta WHERE key = ?", (MOVING,))) == (1,)
    source.close()
    copy.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda ledger: hold(ledger, 1),
        lambda ledger: ledger.set_budget(make_budget("/", 1), NOW_US),
        lambda ledger: ledger.set_ceiling("google:gemini@3-flash", 1, NOW_US),
    ],
)
def test_a_ledger_that_is_in_use_is_nothing_to_move_to(
    filled: Path, tmp_path: Path, use: Callable[[Ledger], object]
) -> None:
    other = open_ledger(tmp_path / "other.db")
    use(other)
    other.close()
    before = (tmp_path / "other.db").stat().st_size
    done = CliRunner().invoke(main, ["--db", str(filled), "migrate", str(tmp_path / "other.db")])
    assert done.exit_code == 1
    assert "is not empty" in done.output
    assert (tmp_path / "other.db").stat().st_size == before


def test_a_ledger_is_not_moved_to_itself_and_none_that_is_not_whole_is_moved(tmp_path: Path, filled: Path) -> None:
    done = CliRunner().invoke(main, ["--db", str(filled), "migrate", str(filled)])
    assert (done.exit_code, "is the ledger itself" in done.output) == (1, True)
    path = tmp_path / "broken.db"
    ledger = open_ledger(path)
    fill(ledger, 10)
    ledger._engine.write(lambda tx: tx.run("UPDATE balances SET spent = spent + 1"))
    ledger.close()
    done = CliRunner().invoke(main, ["--db", str(path), "migrate", str(tmp_path / "copy.db")])
    assert (done.exit_code, "a promise does not hold here" in done.output) == (1, True)
    assert not (tmp_path / "copy.db").exists()


def test_leases_that_are_open_are_not_moved(tmp_path: Path, postgres_url: str) -> None:
    ledger = Ledger(open_engine(postgres_url), now_us=lambda: NOW_US, leases="on")
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
    hold(ledger, 5)
    refuse = functools.partial(move, ledger._engine, SqliteEngine(tmp_path / "copy.db"), no_bar)
    with pytest.raises(LedgerError, match="leases are still open"):
        refuse()
    ledger.end_leases()
    refuse()
    ledger.close()


def test_every_table_of_the_ledger_is_moved(filled: Path) -> None:
    engine = SqliteEngine(filled)
    rows = engine.read(lambda tx: tx.all("SELECT name FROM sqlite_master WHERE type = 'table'"))
    engine.close()
    assert {name for (name,) in rows if not name.startswith(("sqlite_", "_sqlite_"))} == set(TABLES)
