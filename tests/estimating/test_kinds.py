"""The registry of kinds of media: whole, and all that another kind needs."""

from __future__ import annotations

import json
import pkgutil
import shutil
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

import costguard
from costguard.estimating import kinds
from costguard.estimating.kinds import counter
from costguard.modalities import KINDS, MEDIA_MAX, MODALITIES, Kind
from costguard.prices.model import MediaTokens

TOKENS = MediaTokens({key: 7 for kind in KINDS.values() for key in kind.tokens})


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_is_counted_in_the_modalities_it_is_registered_with(kind: Kind) -> None:
    counts = counter(kind.name)(None, TOKENS, Decimal(1))
    assert counts is not None
    assert counts.keys() == kind.billed.keys()
    assert (counter(kind.name)(None, TOKENS, None) is None) == bool(kind.maximum)


def test_every_file_of_a_kind_is_registered_and_no_name_twice() -> None:
    assert {module.name for module in pkgutil.iter_modules(kinds.__path__)} == KINDS.keys()
    stated = Counter(key for kind in KINDS.values() for key in (*kind.tokens, *kind.flags))
    assert set(stated.values()) == {1}
    assert len(set(MEDIA_MAX)) == len(MEDIA_MAX)


def test_every_modality_of_a_kind_has_tokens_in_the_price_files_and_may_be_reported_as_itself() -> None:
    stated = {modality for kind in KINDS.values() for modality in kind.tokens.values()}
    assert ("TEXT", *[name for name in MODALITIES if name in stated]) == MODALITIES
    for kind in KINDS.values():
        assert all(reported[0] == modality for modality, reported in kind.billed.items())


# --- a sixth modality --------------------------------------------------------------------------------------

ENTRY = 'Kind("meshes", billed={"MESH": ("MESH",)}, tokens={"mesh_face": "MESH"}, maximum="mesh_faces"),'
FILE = '''"""Meshes: tokens a face."""

from decimal import Decimal
from costguard.estimating.counts import Count, up


def count(inline, tokens, stated):
    faces = Decimal(inline.count("F")) if inline else stated
    return None if faces is None else {"MESH": Count(*[up(faces * tokens.counts["mesh_face"])] * 2)}
'''
PROGRAM = """
import json, sys
from costguard.errors import PriceFileError
from costguard.estimating.estimate import estimate
from costguard.estimating.media import parse_media_max
from costguard.modalities import MODALITIES
from costguard.prices.book import PriceBook
from costguard.wire.runware.requests import from_dict

def of(model="acme:sculptor@1", media_max={}, **media):
    task = {"taskType": "textInference", "taskUUID": "a", "model": model, "settings": {"maxTokens": 10}, **media}
    found = estimate(from_dict(task), book, 1_795_000_000_000_000, parse_media_max(media_max))
    cost = None if found.upper is None else str(found.upper.normalize())
    return [found.prompt["MESH"], cost, found.unbounded, found.prompt["TEXT"].upper, found.unpriced]

book = PriceBook.load(sys.argv[1])
try:
    PriceBook.load(sys.argv[2])
except PriceFileError as error:
    refused = str(error)
print(json.dumps({
    "modalities": MODALITIES,
    "unknown": of(inputs={"meshes": ["https://example.com/m.obj"]}),
    "stated": of(media_max={"mesh_faces": 100}, inputs={"meshes": ["https://example.com/m.obj"]}),
    "inline": of(inputs={"meshes": ["FFFF", "data:model/obj;base64,FF"]}),
    "at the top": of(meshes=["FFFF"]),
    "without a rate": of("google:gemini@3-flash", meshes=["FFFF"]),
    "usage": str(book.cost("acme:sculptor@1", prompt={"MESH": 1000}).total),
    "refused": refused,
}))
"""


def authored(model: str, *, faces: bool) -> str:
    """FLASH's prices, and a rate for MESH."""
    text = (Path(costguard.__file__).parents[1] / "pricing" / "google-gemini-3-flash.toml").read_text(encoding="utf-8")
    text = text.replace("google:gemini@3-flash", model).replace("google-gemini-3-flash", "sculptor")
    assert "prompt = { " in text
    text = text.replace("prompt = { ", 'prompt = { MESH = "2", ')
    return text.replace("[media]", "[media]\nmesh_face = 3\n#") if faces else text


def test_a_sixth_modality_is_one_file_one_entry_and_rates_in_the_price_files(tmp_path: Path) -> None:
    package = tmp_path / "costguard"
    shutil.copytree(Path(costguard.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(costguard.__file__).parents[1] / "pricing", tmp_path / "pricing")
    registry = package / "modalities.py"
    text = registry.read_text(encoding="utf-8")
    assert text.count("\n_ALL = (\n") == 1
    registry.write_text(text.replace("\n_ALL = (\n", f"\n_ALL = (\n    {ENTRY}\n"), encoding="utf-8")
    (package / "estimating" / "kinds" / "meshes.py").write_text(FILE, encoding="utf-8")
    for folder, faces in (("mine", True), ("wrong", False)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.toml").write_text(authored("acme:sculptor@1", faces=faces), encoding="utf-8")

    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "mine"), str(tmp_path / "wrong")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)

    assert found["modalities"] == ["TEXT", "MESH", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT"]
    whole = 1_048_576
    # USD: ten tokens of completion at 3 a million, and those of MESH at 2.
    assert found["unknown"] == [[whole, whole], "2.097182", ["mesh_faces"], 0, None]
    assert found["stated"] == [[300, 300], "0.00063", [], 0, None]
    assert found["inline"] == [[18, 18], "0.000066", [], 0, None]
    assert found["at the top"] == [[12, 12], "0.000054", [], 0, None]
    assert found["without a rate"][1] is None
    assert "no rate for this modality" in found["without a rate"][4]
    assert Decimal(found["usage"]) == Decimal("0.002")
    assert "s.toml: media.mesh_face: missing; MESH is priced" in found["refused"]
