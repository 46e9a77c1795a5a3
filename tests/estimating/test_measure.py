"""Inline media measured: what headers say, what is not believed, and what hostile files cannot do."""

from __future__ import annotations

import base64
import binascii
import builtins
import io
import random
import textwrap
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from conftest import FLASH, a_task
from hypothesis import given
from hypothesis import strategies as st
from media_files import BOMBS, KINDS, TRAPS, avif, b64, flac, gif, jpeg, mp3, mp4, mutated, ogg, pdf, png, wav, webp
from pypdf import PdfWriter

from costguard import Guard
from costguard.estimating import inline, lengths
from costguard.estimating import pdf as pdfs
from costguard.estimating.counts import Count
from costguard.estimating.kinds import audios, images, videos
from costguard.estimating.media import MediaMax, count_media
from costguard.prices.book import PriceBook
from costguard.prices.model import MediaTokens

CONTEXT = 1_048_576
CLIP = mp4(6080)


def gemini() -> MediaTokens:
    found = PriceBook.load().find(FLASH)
    assert found is not None
    return found.media


def count(inputs: dict[str, list[Any]], stated: MediaMax = MediaMax()) -> dict[str, Count]:  # noqa: B008
    counts = count_media(inputs, gemini(), stated, CONTEXT).counts
    return {modality: found for modality, found in counts.items() if found.upper}


def seconds(text: str, kind: str) -> Decimal | None:
    """What a medium says of its length."""
    if kind == "audios":
        return lengths.length_s(text, audios.BITRATE_MAX)
    return lengths.length_s(text, videos.BITRATE_MAX, videos.HEAD)


WHOLE = Count(CONTEXT, CONTEXT)
UNKNOWN = {
    "videos": {"VIDEO": WHOLE, "AUDIO": WHOLE},
    "audios": {"AUDIO": WHOLE},
    "documents": {"DOCUMENT": WHOLE},
}


# --- video and sound --------------------------------------------------------------------------------------


def test_the_published_64_x_6_video_and_152_audio_tokens_follow_from_a_clip_of_6_08_s() -> None:
    found = count({"videos": [f"data:video/mp4;base64,{b64(CLIP)}"]})
    assert found == {"VIDEO": Count(384, 7 * 70), "AUDIO": Count(152, 177)}


@pytest.mark.parametrize(
    "item",
    [
        b64(CLIP),
        b64(CLIP).rstrip("="),
        base64.urlsafe_b64encode(CLIP).decode(),
        base64.encodebytes(CLIP).decode(),
        "\r\n".join(textwrap.wrap(b64(CLIP), 64)),
        f"  {b64(CLIP)}\n",
        f"data:video/mp4;base64,{b64(CLIP)}",
        f"DATA:video/mp4;codecs=avc1;BASE64,{b64(CLIP)}",
        f"data:;base64,{b64(CLIP)}",
    ],
)
def test_every_way_to_write_base64_is_read(item: str) -> None:
    assert count({"videos": [item]})["VIDEO"].expected == 384


@pytest.mark.parametrize(
    "item",
    [
        "data:video/mp4,%00%01",
        "data:video/mp4;base64,",
        f"data:video/mp4;base64;{b64(CLIP)}",
        f"{b64(CLIP)[:40]}*{b64(CLIP)[40:]}",
        f"{b64(CLIP)[:40]}é{b64(CLIP)[40:]}",
        "A",
        "====",
        {"base64": b64(CLIP)},
        7,
        b64(b"RIFF0000AVI LIST" + bytes(100)),
        b64(b"\x1a\x45\xdf\xa3webm" + bytes(100)),
        b64(wav(1)),
    ],
)
def test_a_video_that_cannot_be_read_counts_as_of_unknown_length(item: object) -> None:
    assert count({"videos": [item]}) == UNKNOWN["videos"]


@pytest.mark.parametrize(
    ("data", "long"),
    [
        (wav(6.08), "6.080"),
        (mp4(6080, brand=b"M4A "), "6.080"),
        (mp4(6080, header_last=True), "6.080"),
        (mp3(38 * 60), "59.559"),
        (mp3(38 * 60, cover=2_000_000), "59.559"),
        (ogg(6), "6.000"),
        (ogg(1800), "1800.000"),
        (flac(61), "61.000"),
    ],
)
def test_the_length_of_a_sound_is_read_from_its_header(data: bytes, long: str) -> None:
    assert seconds(b64(data), "audios") == pytest.approx(Decimal(long), abs=Decimal("0.03"))


def test_only_what_is_read_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    decode = binascii.a2b_base64

    def counting(chars: str, **options: bool) -> bytes:
        nonlocal decoded
        decoded += len(chars)
        return decode(chars, **options)

    monkeypatch.setattr("costguard.estimating.inline.a2b_base64", counting)
    assert seconds(b64(mp4(6080, payload=3_000_000, header_last=True)), "videos") == Decimal("6.08")
    assert decoded < 50_000


@pytest.mark.parametrize(
    ("kind", "data"), [("videos", mp4(0)), ("audios", wav(0)), ("videos", mp4(1, payload=200_000))]
)
def test_a_length_of_zero_or_too_short_for_the_bytes_is_not_believed(kind: str, data: bytes) -> None:
    assert seconds(b64(data), kind) is None
    assert count({kind: [b64(data)]}) == UNKNOWN[kind]


def test_a_sound_that_claims_an_endless_length_is_as_long_as_its_bytes() -> None:
    piped = bytearray(wav(3))
    piped[40:44] = b"\xff\xff\xff\xff"
    found = seconds(b64(bytes(piped)), "audios")
    assert found is not None
    assert 3 <= found < Decimal("3.01")


def test_a_measured_length_goes_before_a_stated_maximum_which_bounds_the_unknown() -> None:
    short, long = MediaMax(video_s=Decimal(1)), MediaMax(video_s=Decimal(60))
    assert (
        count({"videos": [b64(CLIP)]}, short) == count({"videos": [b64(CLIP)]}, long) == count({"videos": [b64(CLIP)]})
    )
    assert count({"videos": ["unreadable"]}, long)["VIDEO"] == Count(60 * 64, 60 * 70)


# --- images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [png, jpeg, gif, webp, avif])
def test_an_image_of_4_to_3_counts_1064_as_published(make: Callable[[int, int], bytes]) -> None:
    assert images.image_size(b64(make(800, 600))) == (800, 600)
    assert count({"images": [b64(make(800, 600))]}) == {"IMAGE": Count(1064, 1120)}


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_the_tokens_of_an_image_of_any_size_stay_within_the_published_maximum(width: int, height: int) -> None:
    found = count({"images": [b64(png(width, height))]})["IMAGE"]
    assert 0 < found.expected <= found.upper == 1120
    assert found == count({"images": [b64(png(height, width))]})["IMAGE"]


@pytest.mark.parametrize("item", ["unreadable", b64(png(0, 9)), b64(png(9, 9)[:20]), b64(b"BM"), "https://host/x.png"])
def test_an_image_whose_size_cannot_be_read_counts_as_published(item: str) -> None:
    assert count({"images": [item]}) == {"IMAGE": Count(1064, 1120)}


def test_a_model_that_does_not_scale_images_counts_them_all_alike() -> None:
    flat = gemini()._replace(flags={"image_grid": False})
    found = count_media({"images": [b64(png(9000, 9))]}, flat, MediaMax(), CONTEXT).counts["IMAGE"]
    assert found == Count(1064, 1120)


# --- documents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pages", [1, 7, 300])
def test_the_pages_of_a_pdf_are_counted_plain_or_packed(pages: int, packed: bool) -> None:
    data = pdf(pages, packed=packed)
    assert pdfs.pdf_pages(b64(data)) == (pages, pages)
    assert count({"documents": [b64(data)]}) == {"DOCUMENT": Count(pages * 560, pages * 560)}


def test_the_pages_of_a_pdf_by_another_writer_are_counted() -> None:
    writer, file = PdfWriter(), io.BytesIO()
    for _ in range(12):
        writer.add_blank_page(100, 100)
    writer.write(file)
    assert pdfs.pdf_pages(b64(file.getvalue())) == (12, 12)


def test_a_pdf_that_is_encrypted_shows_its_pages_unless_they_are_packed() -> None:
    assert pdfs.pdf_pages(b64(pdf(3, extra=b"/Encrypt 9 0 R"))) == (3, 3)
    secret = b"9 0 obj <</Type/ObjStm/Filter/FlateDecode>> stream\n" + random.Random(1).randbytes(99) + b"\nendstream\n"
    assert pdfs.pdf_pages(b64(pdf(3, extra=secret))) is None


def test_the_larger_of_pages_and_claim_bounds_a_pdf() -> None:
    assert pdfs.pdf_pages(b64(pdf(3, count=1))) == (3, 3)
    assert pdfs.pdf_pages(b64(pdf(3, count=100))) == (3, 100)


def test_names_written_in_codes_hide_no_page() -> None:
    hidden = pdf(3, count=1).replace(b"/Type /Page ", b"/T#79pe\0/#50age ").replace(b"/Count", b"/Coun#74")
    assert pdfs.pdf_pages(b64(hidden)) == (3, 3)
    assert pdfs.pdf_pages(b64(pdf(3, packed=True).replace(b"/ObjStm", b"/Obj#53tm"))) == (3, 3)


@pytest.mark.parametrize(
    "data",
    [
        pdf(0, count=0),
        pdf(1, count=30_000),
        pdf(1).replace(b"/Count 1", b"/Count 9 0 R"),
        pdf(2, packed=True).replace(b"endstream", b"nothing"),
        pdf(2)[20:],
        b"",
        b"%PDF-1.7",
    ],
)
def test_a_pdf_that_does_not_tell_its_pages_counts_as_of_unknown_length(data: bytes) -> None:
    assert pdfs.pdf_pages(b64(data)) is None
    assert count({"documents": [b64(data) or "=="]}) == UNKNOWN["documents"]
    assert count({"documents": [b64(data) or "=="]}, MediaMax(pdf_pages=Decimal(4))) == {"DOCUMENT": Count(2240, 2240)}


# --- hostile files ----------------------------------------------------------------------------------------


def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a read past the bounds fail the test."""
    decode = inline.Window._decode

    def checked(window: Any, first: int, blocks: int) -> bytes:
        assert window._reads <= lengths.READ_MAX.reads
        assert window._bytes <= lengths.READ_MAX.bytes
        assert blocks * 768 <= pdfs.BYTES_MAX + 768
        return decode(window, first, blocks)

    monkeypatch.setattr(inline.Window, "_decode", checked)


@pytest.mark.parametrize("name", KINDS)
def test_a_thousand_damaged_files_are_measured_or_unknown_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded(monkeypatch)
    kind, data = KINDS[name]
    tokens = gemini()
    for damaged in mutated(data, 1000, seed=len(name)):
        found = count_media({kind: [b64(damaged)]}, tokens, MediaMax(), CONTEXT).counts
        assert all(0 <= each.expected <= each.upper for each in found.values())
        if kind == "images":
            assert found["IMAGE"].upper == 1120


@pytest.mark.parametrize("what", BOMBS)
def test_a_file_made_to_hurt_is_given_up(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded(monkeypatch)
    kind, make = BOMBS[what]
    assert count({kind: [b64(make())]}) == UNKNOWN.get(kind, {"IMAGE": Count(1064, 1120)})


@pytest.mark.parametrize("what", TRAPS)
def test_a_pdf_is_not_read_as_it_says(what: str) -> None:
    assert pdfs.pdf_pages(b64(TRAPS[what]())) == (1, 1)


@given(st.binary(max_size=300), st.sampled_from(["images", "videos", "audios", "documents"]))
def test_any_bytes_are_measured_or_unknown(data: bytes, kind: str) -> None:
    for head in (
        b"",
        b"\0\0\0\x10ftypisom",
        b"OggS\0",
        b"\xff\xd8\xff",
        b"%PDF-/Type/ObjStm stream\n",
        b"ID3\x03",
        b"fLaC",
    ):
        count({kind: [b64(head + data)]})


def test_without_the_extra_sound_and_video_are_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name in ("imagesize", "tinytag"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert count({"videos": [b64(CLIP)]}) == UNKNOWN["videos"]
    assert count({"images": [b64(png(9000, 9))]}) == {"IMAGE": Count(1064, 1120)}
    assert count({"documents": [b64(pdf(2))]}) == {"DOCUMENT": Count(1120, 1120)}


def test_a_guard_measures_what_is_in_the_request(guard: Guard) -> None:
    found = guard.estimate(a_task(inputs={"videos": [b64(CLIP)], "documents": [b64(pdf(2))]}))
    assert (found.prompt["VIDEO"], found.prompt["AUDIO"]) == (Count(384, 490), Count(152, 177))
    assert found.prompt["DOCUMENT"] == Count(1120, 1120)
    assert not found.unbounded
