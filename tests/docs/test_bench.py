"""The benchmarks' figures are told, kept and compared as they are; a benchmark of constants stands for real ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.benchmarks.__main__ import main
from scripts.benchmarks.runner import compare, saved
from scripts.benchmarks.runner.measurement import Measurement, Repeated, repeat
from scripts.benchmarks.runner.run import choose
from scripts.benchmarks.runner.surroundings import Surroundings, describe

ROOT = Path(__file__).parents[2]
WHERE = Surroundings("2026-11-26", "abc1234", True, "A processor", 2, "Linux 6", 0.1, {"Python": "3.11.7"})

FAKE = """
import os
from costguard import FACTOR, NAME
from scripts.benchmarks.runner.measurement import Measurement

def results():
    with open(os.environ["BENCH_LOG"], "a+") as log:
        log.seek(0)
        run = log.read().count(NAME)
        log.write(f"{NAME}\\n")
    yield Measurement("steady", FACTOR * (4, 2, 6)[run % 3], BOUND, "a constant", detail=f"run {run}")
    yield Measurement("nothing", 0, 0, "a constant", "ms")
"""


class Tree:
    """A checkout with the real runner, one benchmark `fake`, and a package that is two constants."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self._log = root, log
        benchmarks = root / "scripts" / "benchmarks"
        shutil.copytree(
            ROOT / "scripts" / "benchmarks" / "runner",
            benchmarks / "runner",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for package in (root / "scripts", benchmarks):
            (package / "__init__.py").touch()
        for folder in ("costguard", "docs", "pricing", "tests"):
            (root / folder).mkdir()
        (root / ".gitignore").write_text("__pycache__/\n")
        self.page = root / "docs" / "benchmarks.md"
        self.page.write_text(f"Before.\n\n{saved.BEGIN}\nold\n{saved.END}\n\nAfter.\n")
        self.json = root / "docs" / "benchmarks.json"
        self.fake(bound=5)
        self.package("old", 1)
        self.git("init", "--quiet", "--initial-branch=main")

    def fake(self, bound: float, more: str = "") -> None:
        """Write the benchmark."""
        text = FAKE.replace("BOUND", str(bound)) + more
        (self.root / "scripts" / "benchmarks" / "fake.py").write_text(text)

    def package(self, name: str, factor: float) -> None:
        """Write the package."""
        (self.root / "costguard" / "__init__.py").write_text(f"NAME, FACTOR = {name!r}, {factor}\n")

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *words], cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")
        return self.git("rev-parse", "HEAD")

    @property
    def ran(self) -> list[str]:
        """Whose code was measured, run by run."""
        return self._log.read_text().split() if self._log.exists() else []


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BENCH_LOG", str(tmp_path / "log"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (tmp_path / "tree").mkdir()
    return Tree(tmp_path / "tree", tmp_path / "log")


def is_clean(tree: Tree) -> bool:
    """Whether a comparison left nothing: no worktree, no temporary folder."""
    return len(tree.git("worktree", "list").splitlines()) == 1 and not list(Path(tempfile.gettempdir()).iterdir())


# -- the figures of the project ---------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_file() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    entries = saved.read(ROOT / "docs" / "benchmarks.json")
    assert page == saved.with_tables(page, entries), "make them anew: scripts/bench --tables"
    assert sorted(entries) == choose(ROOT, [])


# -- running ----------------------------------------------------------------------------------------


def test_a_run_tells_median_spread_and_bound_of_so_many_runs(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "3", "fake"], tree.root) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("20")
    assert [" ".join(line.split()) for line in told[1:]] == [
        "ok 4 × 2 – 6 at most 5 × fake: steady (run 0), against a constant",
        "ok 0 ms 0 – 0 at most 0 ms fake: nothing, against a constant",
    ]
    assert tree.ran == ["old"] * 3
    assert not tree.json.exists()


def test_a_median_over_its_bound_is_an_exit_code(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.fake(bound=3.9)
    assert main(["--runs", "3"], tree.root) == 1
    assert "OVER" in capsys.readouterr().out


def test_what_is_saved_is_every_value_and_where_it_is_from(tree: Tree) -> None:
    commit = tree.commit()
    assert main(["--runs", "3", "--save"], tree.root) == 0
    kept = json.loads(tree.json.read_text())["fake"]
    assert kept["runs"] == 3
    assert commit.startswith(kept["where"]["commit"])
    assert kept["where"]["is_clean"] is True
    assert kept["where"]["cores"] == os.cpu_count()
    assert {"Python", "SQLite", "httpx", "tiktoken"} <= kept["where"]["versions"].keys()
    assert kept["measurements"][0] == {
        "what": "steady", "bound": 5, "against": "a constant", "unit": "×",
        "values": [4, 2, 6], "details": ["run 0", "run 1", "run 2"],
    }  # fmt: skip
    page = tree.page.read_text()
    assert page.startswith("Before.\n")
    assert page.endswith("\nAfter.\n")
    assert "| steady (run 0) | a constant | 4 × | 2 – 6 | 5 × |" in page
    assert "old" not in page


def test_what_was_saved_before_is_no_change_to_the_tree_and_anything_else_is(tree: Tree) -> None:
    tree.commit()
    for change in (None, "new"):
        main(["--runs", "1", "--save"], tree.root)
        assert saved.read(tree.json)["fake"].where.is_clean is True
        if change:
            tree.package(change, 1)
    main(["--runs", "1", "--save"], tree.root)
    assert saved.read(tree.json)["fake"].where.is_clean is False


def test_figures_may_be_kept_elsewhere(tree: Tree, tmp_path: Path) -> None:
    page = tree.page.read_text()
    main(["--runs", "1", "--to", str(tmp_path / "elsewhere.json")], tree.root)
    assert saved.read(tmp_path / "elsewhere.json")["fake"].measurements[0].values == [4]
    assert not tree.json.exists()
    assert tree.page.read_text() == page


def test_the_tables_are_made_anew_without_a_run(tree: Tree) -> None:
    saved.save(tree.json, {"other": saved.Entry(1, WHERE, [Repeated("x", 2, "y", values=[1], details=[""])])})
    assert main(["--tables"], tree.root) == 0
    assert "| x | y | 1 × | | 2 × |" in tree.page.read_text()
    assert tree.ran == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("    raise LookupError('no such thing')\n", "fake: LookupError: no such thing"),
        ("    yield Measurement('steady', 1, 1, 'x')\n", "fake: two measurements are named 'steady'"),
    ],
)
def test_a_benchmark_that_fails_is_one_line(
    tree: Tree, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    tree.fake(5, more)
    assert main(["--runs", "1"], tree.root) == 2
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_benchmark_that_is_not_there_is_said(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"], tree.root) == 2
    assert capsys.readouterr().err == "no benchmark 'nothing'; there are fake\n"


# -- figures ----------------------------------------------------------------------------------------


def test_runs_are_put_together_by_name_and_the_strictest_bound_counts() -> None:
    runs = [
        [Measurement("a", 1, 9, "x", "s", "first"), Measurement("b", 5, 5, "x")],
        [Measurement("a", 3, 8, "x", "s", "second")],
        [Measurement("a", 2, 9, "x", "s", "third")],
    ]
    a, b = repeat(runs)
    assert (a.values, a.median, a.detail, a.bound, a.is_met) == ([1, 3, 2], 2, "third", 8, True)
    assert (b.values, b.is_met) == ([5], True)


@pytest.mark.parametrize(("load", "cores", "is_busy"), [(0.6, 2, False), (0.7, 2, True), (0.7, 4, False)])
def test_a_machine_is_busy_by_its_load_per_core(load: float, cores: int, is_busy: bool) -> None:
    where = replace(WHERE, load=load, cores=cores)
    assert where.is_busy is is_busy
    assert ("(busy)" in describe(where)) is is_busy


def test_what_is_not_known_of_the_surroundings_is_not_made_up() -> None:
    bare = Surroundings("2026-11", None, None, None, None, None, None, {})
    assert describe(bare) == "2026-11, commit unknown"
    assert not bare.is_busy


def test_a_busy_machine_is_warned_of(
    tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for load, is_busy in ((0.0, False), (1e3, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        main(["--runs", "1"], tree.root)
        assert ("The machine is busy" in capsys.readouterr().err) is is_busy


def test_saving_keeps_the_entries_of_other_benchmarks(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    one, other = (saved.Entry(1, WHERE, [Repeated("x", 2, "y", values=[n], details=[""])]) for n in (1, 2))
    saved.save(file, {"b": one, "a": one})
    saved.save(file, {"b": other})
    assert saved.read(file) == {"a": one, "b": other}


def test_of_many_of_a_kind_the_tables_show_the_worst() -> None:
    many = [Repeated(f"count: kind {n}", 2, "y", values=[value], details=[""]) for n, value in enumerate((1, 3, 2, 1))]
    few = [Repeated(f"cost: kind {n}", 2, "y", values=[1], details=[""]) for n in range(3)]
    rows = saved.tables({"some": saved.Entry(1, WHERE, many + few)}).splitlines()[6:]
    assert rows == [
        "| count: the worst of 4, kind 1 | y | 3 × | | 2 ×, **missed** |",
        *(f"| cost: kind {n} | y | 1 × | | 2 × |" for n in range(3)),
    ]


@pytest.mark.parametrize(
    "page",
    ["", saved.BEGIN, f"{saved.END}{saved.BEGIN}", f"{saved.BEGIN}{saved.END}" * 2, f"{saved.BEGIN * 2}{saved.END}"],
)
def test_a_page_without_its_two_markers_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="has one line"):
        saved.with_tables(page, {})


# -- comparing --------------------------------------------------------------------------------------


def test_two_sides_take_turns_and_each_runs_its_own_code(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.commit()
    tree.package("new", 0.5)
    assert main(["compare", "--runs", "3"], tree.root) == 0
    assert tree.ran == ["old", "new"] * 3
    head, _, *table = capsys.readouterr().out.splitlines()[1:]
    assert f"A is {tree.git('rev-parse', 'HEAD')[:9]}, B is the working tree; 3 of each in turns" in head
    assert [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in table] == [
        ["what", "A", "B", "B / A", "least – most"],
        ["fake: steady", "4 ×", "2 ×", "0.5", "0.5 – 0.5"],
        ["fake: nothing", "0 ms", "0 ms", "none"],
    ]
    assert is_clean(tree)


def test_the_benchmarks_of_the_newer_commit_measure_both(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    old = tree.commit()
    tree.package("new", 3)
    tree.fake(5, "    yield Measurement('added', FACTOR, 9, 'x')\n")
    new = tree.commit()
    for commits in ((old, new), (new, old)):
        assert main(["compare", *commits, "--runs", "1", "--only", "fake"], tree.root) == 0
        told = capsys.readouterr().out
        assert f"by the benchmarks of {new[:9]}." in told
        assert "fake: added" in told
    assert tree.ran == ["old", "new", "new", "old"]
    assert is_clean(tree)


def test_a_comparison_leaves_the_working_tree_alone(tree: Tree) -> None:
    commit = tree.commit()
    tree.package("new", 1)
    before = tree.git("status", "--porcelain"), tree.git("rev-parse", "HEAD")
    main(["compare", commit, "--runs", "1"], tree.root)
    assert (tree.git("status", "--porcelain"), tree.git("rev-parse", "HEAD")) == before
    assert tree.git("branch", "--list") == "* main"


def test_a_tree_whose_modules_are_elsewhere_is_one_line_before_anything_is_run(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.root / "costguard" / "__init__.py").write_text("")
    old = tree.commit()[:9]
    tree.package("new", 1)
    assert main(["compare", "--runs", "1"], tree.root) == 2
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "busy" not in line)
    assert said.startswith(f"{old} cannot be measured by the benchmarks of the working tree: fake: ImportError: ")
    assert tree.ran == []
    assert is_clean(tree)


def test_a_tree_without_the_package_or_the_runner_is_said(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    (tree.root / "costguard" / "__init__.py").unlink()
    (tree.root / "scripts" / "benchmarks" / "runner" / "child.py").unlink()
    old = tree.commit()[:9]
    assert main(["compare", old, old], tree.root) == 2
    assert capsys.readouterr().err.endswith(f"{old} has no benchmarks that can be run with another tree\n")
    (tree.root / "scripts" / "benchmarks" / "runner" / "child.py").touch()
    tree.package("new", 1)
    assert main(["compare", old], tree.root) == 2
    assert capsys.readouterr().err.endswith(f"{old} has no package costguard where it is looked for\n")
    assert is_clean(tree)


def test_a_commit_that_is_not_there_is_said(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    commit = tree.commit()
    assert main(["compare", commit, "nowhere"], tree.root) == 2
    assert capsys.readouterr().err.endswith("there is no commit 'nowhere'\n")


def test_whatever_ends_a_comparison_leaves_nothing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = tree.commit()

    def interrupted(*_: object) -> list[Measurement]:
        assert not is_clean(tree)
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["compare", commit, commit], tree.root)
    assert is_clean(tree)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no process is bound to a core here")
def test_both_sides_run_on_one_core_alone(tree: Tree, tmp_path: Path) -> None:
    cores = tmp_path / "cores"
    tree.fake(5, f"    open({str(cores)!r}, 'a').write(f'{{sorted(os.sched_getaffinity(0))}}\\n')\n")
    tree.commit()
    mine = os.sched_getaffinity(0)
    assert main(["compare", "--runs", "1"], tree.root) == 0
    assert cores.read_text() == f"[{max(mine)}]\n" * 2
    assert os.sched_getaffinity(0) == mine


def test_the_command_runs_from_the_root_of_the_project() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"no benchmark 'nothing'; there are {', '.join(choose(ROOT, []))}\n"
