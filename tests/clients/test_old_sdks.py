"""The SDKs' major versions before those of the environment, each set in a folder of its own: see `scripts/sdks`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).with_name("test_sdks.py")


def folders() -> list[Path]:
    """Where they are; a test that cannot have them is skipped, but fails in CI."""
    found = subprocess.run([ROOT / "scripts/sdks", sys.executable], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        if os.environ.get("CI") == "true":
            pytest.fail(found.stderr)
        pytest.skip("older versions of the SDKs cannot be installed here; scripts/sdks does it")
    return [Path(line) for line in found.stdout.splitlines()]


@pytest.mark.timeout(900)
def test_all_that_holds_for_the_sdks_holds_for_older_versions_of_them() -> None:
    listed = folders()
    assert listed
    for folder in listed:
        paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COSTGUARD_SDKS": str(folder)}
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(TESTS)]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{folder.name}:\n{run.stdout}\n{run.stderr}"
