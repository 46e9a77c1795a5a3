"""Three programs on one ledger, one bill, and another hand among the files: what was sent is recorded or it is said."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from ledgers import python

from costguard import Guard
from costguard.errors import LedgerError
from costguard.exchange.opening import open_ledger
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines.copying import back_up
from costguard.money import to_usd
from costguard.testing import StandIn

LIMIT = "0.2"
"""USD; about 700 calls."""

PROGRAM = """
import logging, shutil, sys, threading, uuid
from conftest import a_task
import httpx
from costguard import BudgetExceeded, CostguardError, Guard
logging.disable(logging.CRITICAL)
path, url, seed = sys.argv[1:]
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()

def say(what, task):
    print(what, task["taskUUID"], flush=True)

def work():
    n = refusals = 0
    with Guard(path, "acme") as guard, guard.wrap(httpx.Client(base_url=url)) as client:
        while not stop.is_set() and refusals < 5:
            n += 1
            task = a_task()
            say("begun", task)
            try:
                client.post("/v1", json=[task])
            except BudgetExceeded:
                say("refused", task)
                stop.wait(0.02)
            except CostguardError:
                say("refused", task)
                refusals += 1
                stop.wait(0.01)
            else:
                say("answered", task)
                refusals = 0
            if n % 7 == int(seed):
                for suffix in ("", "-wal", "-shm"):  # a copy made by the program itself: SQLite's own locks are lost
                    try:
                        open(path + suffix, "rb").read()
                    except OSError:
                        pass
            stop.wait(0.005)

while not stop.is_set():
    try:
        work()
    except CostguardError as error:
        stop.wait(0.05)
"""


class World:
    """A ledger's folder, the server with its bill, the programs, and what each of them said."""

    def __init__(self, folder: Path, standin: StandIn, url: str, seed: int) -> None:
        self.path = folder / "used" / "ledger.db"
        self.aside = folder / "aside"
        self.path.parent.mkdir()
        self.aside.mkdir()
        self.standin, self.url, self.rng = standin, url, random.Random(seed)
        self.said: list[str] = []
        self.programs: list[subprocess.Popen[str]] = []
        self.losses = 0
        with Guard(self.path) as guard:
            guard.set_budget("/", LIMIT, per="total")

    def start(self) -> None:
        """One more program."""
        self.programs.append(python(PROGRAM, self.path, self.url, len(self.programs) % 3))

    def run(self, calls: int) -> None:
        """Wait until the server billed that many more."""
        goal = len(self.standin.bill) + calls
        deadline = time.monotonic() + 30
        while len(self.standin.bill) < goal:
            assert time.monotonic() < deadline, "the programs hang"
            time.sleep(0.01)

    def stop(self) -> None:
        """All programs end in good order."""
        for program in self.programs:
            program.send_signal(signal.SIGCONT)
            self._end(program)
        self.programs.clear()

    def kill(self) -> None:
        """One of them is killed."""
        program = self.programs.pop(self.rng.randrange(len(self.programs)))
        program.kill()
        self._end(program)

    def _end(self, program: subprocess.Popen[str]) -> None:
        out, err = program.communicate(timeout=60)
        assert "Traceback" not in err, err
        self.said += out.splitlines()

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def remove(self, *suffixes: str) -> None:
        for suffix in suffixes:
            self.beside(suffix).unlink(missing_ok=True)

    def remove_lock(self) -> None:
        """Not where records are missing: there it is how a user says that they are lost for good."""
        with contextlib.suppress(LedgerError):
            open_ledger(self.path, read_only=True).close()
            self.remove("-lock")

    def look(self) -> None:
        """A report finds one whole history, or says that there is none to be had."""
        with contextlib.suppress(LedgerError):
            ledger = open_ledger(self.path, read_only=True)
            assert ledger.verify().difference is None

    def freeze(self) -> None:
        program = self.rng.choice(self.programs)
        program.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0, 0.2))
        program.send_signal(signal.SIGCONT)

    def link(self) -> None:
        other = self.aside / "ledger.db"
        other.hardlink_to(self.path)
        with pytest.raises(LedgerError, match="second name"):
            Guard(other)
        other.unlink()

    def copy(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                shutil.copy(self.beside(suffix), self.aside / f"copy{suffix}")

    def opened(self) -> Ledger:
        """The ledger, once nobody uses it: without what is said to be lost, with a program that was killed."""
        try:
            return open_ledger(self.path)
        except LedgerError as error:
            if "is not whole" not in str(error):
                raise
            self.losses += 1
            self.beside("-lock").unlink()
            return open_ledger(self.path)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    standin = StandIn()
    with standin.serve() as url:
        world = World(tmp_path, standin, url, request.param)
        try:
            yield world
        finally:
            for program in world.programs:
                program.kill()
                program.communicate()


def check(world: World) -> None:
    """Every call was recorded or refused before it was sent; and ledger = bill, unless it said that it is not whole."""
    refused = {line.split()[1] for line in world.said if line.startswith("refused")}
    answered = {line.split()[1] for line in world.said if line.startswith("answered")}
    bill = {each.task_uuid: each.amount for each in world.standin.bill}
    assert not refused & bill.keys()
    assert answered <= bill.keys()
    assert len(answered) > 20
    assert sum(bill.values()) <= Decimal(LIMIT)
    ledger = world.opened()
    assert ledger.verify().difference is None
    tasks = {task.task_uuid: task for task in ledger.tasks()}
    (balance,) = ledger.balances(time.time_ns() // 1000)
    ledger.close()
    if not world.losses:
        assert balance.spent + balance.held <= balance.budget.limit_nanos
        for uuid, amount in bill.items():
            task = tasks[uuid]
            if task.status == "settled":
                assert to_usd(task.charged) == amount
            else:
                assert task.status in ("held", "unresolved")
                assert to_usd(task.held) >= amount


@pytest.mark.parametrize("world", [1, 2], indirect=True)
def test_whatever_another_hand_does_to_the_files_every_call_is_recorded_or_refused(world: World) -> None:
    for _ in range(3):
        world.start()
    world.run(5)
    hands: list[Callable[[], None]] = [
        world.look,
        world.copy,
        world.link,
        world.freeze,
        lambda: world.remove("-wal"),
        lambda: world.remove("-shm"),
        lambda: world.remove("-wal", "-shm"),
        world.remove_lock,
    ]
    deadline = time.monotonic() + 6
    killed_at = time.monotonic() + 3
    while time.monotonic() < deadline:
        world.rng.choice(hands)()
        time.sleep(world.rng.uniform(0, 0.15))
        if time.monotonic() > killed_at:
            killed_at = deadline
            world.kill()
            world.start()
    world.stop()
    check(world)


def copied_over(world: World, backup: Path) -> None:
    shutil.copyfile(backup, world.path)


def moved_over(world: World, backup: Path) -> None:
    aside = world.path.with_name("restored")
    shutil.copyfile(backup, aside)
    aside.replace(world.path)


def copied_over_alone(world: World, backup: Path) -> None:
    copied_over(world, backup)
    world.remove("-wal", "-shm")


def moved_over_alone(world: World, backup: Path) -> None:
    world.remove("-wal", "-shm")
    moved_over(world, backup)


@pytest.mark.parametrize(
    ("restore", "raw"),
    [
        (copied_over, True),
        (moved_over, True),
        (copied_over, False),
        (copied_over_alone, True),
        (moved_over_alone, False),
    ],
)
@pytest.mark.parametrize("world", [3], indirect=True)
def test_a_copy_restored_under_running_programs_is_never_blended_with_what_came_after(
    world: World, raw: bool, restore: Callable[[World, Path], None]
) -> None:
    """What holds then: nothing is sent unrecorded; the calls after the copy and before its restoring are not in it."""
    for _ in range(2):
        world.start()
    world.run(30)
    backup = world.aside / "backup.db"
    if raw:
        world.stop()
        shutil.copyfile(world.path, backup)
        world.start()
        world.start()
    else:
        back_up(world.path, backup, lambda _: None)
    world.run(20)
    before = {each.task_uuid for each in world.standin.bill}
    restore(world, backup)
    world.look()
    time.sleep(0.6)
    world.look()
    world.stop()
    try:
        open_ledger(world.path).close()
    except LedgerError as error:
        if "-shm away" not in str(error):
            raise
        world.remove("-wal", "-shm")
    ledger = open_ledger(world.path)
    assert ledger.verify().difference is None
    bill = {each.task_uuid: each.amount for each in world.standin.bill}
    refused = {line.split()[1] for line in world.said if line.startswith("refused")}
    assert not refused & bill.keys()
    tasks = {task.task_uuid: task for task in ledger.tasks()}
    for task in tasks.values():
        assert task.status != "settled" or to_usd(task.charged) == bill[task.task_uuid]
    ledger.close()
    missing = bill.keys() - before - tasks.keys()
    assert len(missing) <= 2  # on their way at that moment, admitted before it
    world.said.clear()
    world.start()
    world.run(5)
    world.stop()
    answered = {line.split()[1] for line in world.said if line.startswith("answered")}
    ledger = open_ledger(world.path)
    assert answered
    assert answered <= {task.task_uuid for task in ledger.tasks()}
    assert ledger.verify().difference is None
    ledger.close()
