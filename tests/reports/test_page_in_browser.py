"""The page as Chromium shows and prints it: at phone and desktop widths, in both themes, with hostile names."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest
from sample_documents import HOSTILE, report

from costguard.reports.document import Document
from costguard.reports.formats import page
from costguard.rows import shown
from scripts import browser
from scripts.browser import Browser

PHONE, DESKTOP = 390, 1280

DOCUMENTS = {
    "one project": report(1),
    "six projects": report(6),
    "hostile names": report(len(HOSTILE) + 2, HOSTILE),
    "500 projects": report(500),
}

VIEWS = [(width, dark) for width in (PHONE, DESKTOP) for dark in (False, True)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for all tests; without it they are skipped, but never in CI."""
    program = browser.find()
    if program is None:
        assert os.environ.get("CI") != "true", "there is no Chromium; scripts/chromium installs it"
        pytest.skip("there is no Chromium; scripts/chromium installs it")
    with Browser(program) as found:
        yield found


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Any:
    """Opens a document's page and returns the browser."""

    def opened(document: Document, width: int = DESKTOP, *, dark: bool = False) -> Browser:
        file = tmp_path / "page.html"
        file.write_text(page.write(document), encoding="utf-8")
        chromium.open(file, width=width, dark=dark)
        return chromium

    return opened


def asked(chromium: Browser, script: str) -> Any:
    """What a function body gives, by way of JSON."""
    return json.loads(chromium.value(f"JSON.stringify((() => {{ {script} }})())"))


OUTSIDE = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width > 1 && box.height > 1 && (box.right > wide + 0.5 || box.left < -0.5);
}).map(each => each.outerHTML.slice(0, 120));
"""

TOUCHING = """
const found = [];
for (const chart of document.querySelectorAll('svg')) {
  const boxes = [...chart.querySelectorAll('text')].map(each => [each.textContent, each.getBoundingClientRect()])
    .filter(([text, box]) => text.trim() && box.width > 0);
  boxes.forEach(([text, a], at) => boxes.slice(at + 1).forEach(([other, b]) => {
    if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2)
      found.push([text, other]);
  }));
}
return found;
"""

READABLE = """
const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
const paper = light(getComputedStyle(document.body).backgroundColor);
const poor = [];
for (const each of document.querySelectorAll('body *')) {
  if (![...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
  if (each.closest('title, desc')) continue;
  const style = getComputedStyle(each), ink = light(each.closest('svg') ? style.fill : style.color);
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (contrast < 4.5 || parseFloat(style.fontSize) < 12) poor.push([each.outerHTML.slice(0, 90), contrast]);
}
return poor;
"""


@pytest.mark.parametrize(("width", "dark"), VIEWS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_outside_of_the_page_and_no_words_of_a_chart_touch(
    show: Any, name: str, width: int, dark: bool
) -> None:
    chromium = show(DOCUMENTS[name], width, dark=dark)
    assert chromium.value("document.documentElement.scrollWidth") == width
    assert asked(chromium, OUTSIDE) == []
    assert asked(chromium, TOUCHING) == []


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_all_text_has_contrast_and_size_enough_to_be_read(show: Any, width: int, dark: bool) -> None:
    assert asked(show(DOCUMENTS["six projects"], width, dark=dark), READABLE) == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_theme_is_the_readers(show: Any, width: int) -> None:
    papers = []
    for dark in (False, True):
        chromium = show(DOCUMENTS["six projects"], width, dark=dark)
        papers.append(chromium.value("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(255, 255, 255)", "rgb(17, 20, 23)"]


@pytest.mark.parametrize("name", ["six projects", "hostile names"])
def test_nothing_is_asked_for_nothing_runs_and_nothing_is_refused(show: Any, name: str) -> None:
    chromium = show(DOCUMENTS[name])
    asked_for = [
        event["params"]["request"]["url"]
        for event in chromium.told
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert len(asked_for) == 1
    assert asked_for[0].startswith("file://")
    methods = {event.get("method") for event in chromium.told}
    assert not methods & {"Log.entryAdded", "Page.javascriptDialogOpening", "Runtime.exceptionThrown"}
    assert chromium.value("document.scripts.length + document.images.length + document.links.length") == 0
    assert chromium.value("getComputedStyle(document.body).maxWidth") == "880px", "the style sheet is allowed"


def test_the_policy_would_stop_what_a_name_brought_in(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    hostile = (
        '<script>document.title = "ran"</script><p id="styled" style="color: red">x</p><img src="http://127.0.0.1:1/x">'
    )
    file.write_text(page.write(report(1)).replace("<header>", f"{hostile}<header>"), encoding="utf-8")
    chromium.open(file, width=DESKTOP)
    assert chromium.value("document.title") == "What was spent in November 2026"
    assert chromium.value("getComputedStyle(document.getElementById('styled')).color") != "rgb(255, 0, 0)"
    told = " ".join(
        event["params"]["entry"]["text"] for event in chromium.told if event.get("method") == "Log.entryAdded"
    )
    assert "script" in told
    assert "style" in told
    assert "image" in told


def test_names_are_shown_as_they_are(show: Any) -> None:
    chromium = show(DOCUMENTS["hostile names"])
    shown = asked(chromium, "return [...document.querySelectorAll('tbody th bdi')].map(each => each.textContent)")
    # The parser of a page gives no carriage returns or NULs, and none of the names has one.
    assert set(HOSTILE) <= {*shown, "\t=1"}


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_digits_stand_under_each_other(show: Any, width: int) -> None:
    script = """
      const range = document.createRange();
      const figures = [...document.querySelectorAll('figure')];
      return figures.map(figure => [...figure.querySelectorAll('tbody tr')].map(row => {
        const cell = [...row.querySelectorAll('.n')].at(-1);
        range.selectNodeContents(cell);
        const text = cell.textContent, box = range.getBoundingClientRect();
        return [text.length, Math.round(box.width * 10), Math.round(box.right)];
      }))[2];
    """
    chromium = show(DOCUMENTS["six projects"], width)
    chromium.value("document.querySelector('details').open = true")
    found = asked(chromium, script)
    assert len({right for _, _, right in found}) == 1
    widths: dict[int, set[int]] = {}
    for length, wide, _ in found:
        widths.setdefault(length, set()).add(wide)
    assert all(len(each) == 1 for each in widths.values()), "all digits are of one width"


def test_on_a_phone_the_columns_of_a_wide_table_are_named_in_every_row(show: Any) -> None:
    chromium = show(DOCUMENTS["six projects"], PHONE)
    script = "return [...document.querySelectorAll('.many td')].map(each => getComputedStyle(each, '::before').content)"
    names = set(asked(chromium, script))
    assert names == {'"Tasks"', '"Tokens"', '"Cost USD"', '"Rank"'}


def test_it_prints_on_a4_with_every_row_whole_and_a_heading_on_each_sheet(show: Any) -> None:
    document = DOCUMENTS["500 projects"]
    printed = pypdf.PdfReader(io.BytesIO(show(document).pdf()))
    assert all(
        (round(float(sheet.mediabox.width)), round(float(sheet.mediabox.height))) == (595, 842)
        or abs(float(sheet.mediabox.width) - 595.3) < 1.5
        for sheet in printed.pages
    )
    sheets = [re.sub(r"\s+", " ", sheet.extract_text()) for sheet in printed.pages]
    for row in document.rows:
        line = " ".join(shown(row[key]) for key in ("project", "tasks", "tokens", "cost"))
        assert sum(line in sheet for sheet in sheets) == 1, line
    with_rows = [sheet for sheet in sheets if re.search(r"acme/team-\d+/prod [\d,]+ [\d,]+ ", sheet)]
    assert len(with_rows) > 3
    assert all("Project Tasks Tokens Cost USD" in sheet for sheet in with_rows)
    assert f"1 / {len(sheets)}" in sheets[0]


def test_what_is_folded_away_on_the_screen_is_printed(show: Any) -> None:
    chromium = show(DOCUMENTS["six projects"])
    assert chromium.value("document.querySelector('details').open") is False
    text = " ".join(sheet.extract_text() for sheet in pypdf.PdfReader(io.BytesIO(chromium.pdf())).pages)
    assert all(f"2026-11-{day:02}" in text for day in range(1, 31))
    assert "The same in figures" not in text


def test_paper_is_white_in_the_dark_theme_too(show: Any) -> None:
    chromium = show(DOCUMENTS["six projects"], dark=True)
    chromium.ask(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    try:
        assert chromium.value("getComputedStyle(document.body).color") == "rgb(22, 25, 29)"
        assert chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        chromium.ask("Emulation.setEmulatedMedia", media="")
