"""The environments that the two commands run in are made once, and anew when they are no longer right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAKE = """#!/bin/sh
# Answers as {real} does; to `-m venv --clear DIR` it makes DIR, and notes that it was asked.
case "$*" in
  "-m venv --clear "*) mkdir -p "$4/bin"; echo "$4" >> {notes}; printf '#!/bin/sh\\n' > "$4/bin/python"
    chmod +x "$4/bin/python" ;;
  *) exec {real} "$@" ;;
esac
"""


class Checkout:
    """A checkout with nothing in it but what `scripts/venv` needs, and a Python that notes what it makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "venv", root / "scripts" / "venv")
        (root / "pyproject.toml").touch()
        os.utime(root / "pyproject.toml", (1, 1))
        self._notes = root / "notes"
        self._notes.touch()
        self.python = root / "bin" / "python3.11"
        self.python.parent.mkdir()
        self.python.write_text(FAKE.format(real=sys.executable, notes=self._notes))
        self.python.chmod(0o755)

    def venv(self, python: object = None) -> str:
        """The folder that the script names."""
        environment = {"PATH": f"{self.python.parent}:{os.environ['PATH']}"}
        if python:
            environment["PYTHON"] = str(python)
        done = subprocess.run(
            [self.root / "scripts" / "venv", "dev"], env=environment, capture_output=True, text=True, check=True
        )
        return Path(done.stdout.strip()).name

    @property
    def made(self) -> list[str]:
        """The folders that were made so far."""
        return [Path(line).name for line in self._notes.read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_an_environment_is_made_once(checkout: Checkout) -> None:
    assert [checkout.venv(), checkout.venv()] == [".venv-dev"] * 2
    assert checkout.made == [".venv-dev"]


def test_a_python_that_is_named_has_an_environment_of_its_own(checkout: Checkout) -> None:
    own = f".venv-dev-{sys.version_info.major}.{sys.version_info.minor}"
    assert [checkout.venv(), checkout.venv(checkout.python), checkout.venv()] == [".venv-dev", own, ".venv-dev"]
    assert checkout.made == [".venv-dev", own]


def test_an_environment_of_another_python_is_made_anew(checkout: Checkout) -> None:
    checkout.venv()
    (checkout.root / ".venv-dev" / "complete").write_text("/usr/bin/python3.11 3.11.2\n")
    checkout.venv()
    assert checkout.made == [".venv-dev"] * 2


def test_an_environment_older_than_the_project_is_made_anew(checkout: Checkout) -> None:
    checkout.venv()
    os.utime(checkout.root / ".venv-dev" / "complete", (0, 0))
    checkout.venv()
    assert checkout.made == [".venv-dev"] * 2


def test_a_python_that_is_too_old_is_said(checkout: Checkout, tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\necho 3.10\n")
    old.chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        checkout.venv(old)
    assert (
        refused.value.stderr
        == f"costguard needs Python 3.11 or newer, and {old} is 3.10; name another one with PYTHON=…\n"
    )
