"""Small real media files, made by hand: the headers that readers go by, and mutations of them."""

from __future__ import annotations

import base64
import io
import random
import struct
import wave
import zlib
from collections.abc import Callable, Iterator


def b64(data: bytes) -> str:
    """Plain base64."""
    return base64.b64encode(data).decode()


def png(width: int, height: int) -> bytes:
    """A PNG up to its pixels."""
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(32)
    )


def jpeg(width: int, height: int) -> bytes:
    """A JPEG up to its pixels, with an EXIF segment before its frame header."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(600)
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\x01\x22\0\x02\x11\x01\x03\x11\x01"
    segments = ((0xE1, exif), (0xC0, frame))
    body = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return b"\xff\xd8" + body + b"\xff\xda" + bytes(40) + b"\xff\xd9"


def gif(width: int, height: int) -> bytes:
    """A GIF up to its pixels."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(40)


def webp(width: int, height: int) -> bytes:
    """An extended WebP up to its pixels."""
    head = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(head)) + head + bytes(40)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of MP4 or HEIF."""
    data = b"".join(parts)
    return struct.pack(">I", len(data) + 8) + name + data


def avif(width: int, height: int) -> bytes:
    """An AVIF up to its pixels."""
    size = box(b"ispe", struct.pack(">III", 0, width, height))
    properties = box(b"iprp", box(b"ipco", size), box(b"ipma", struct.pack(">IIHBB", 0, 1, 1, 1, 0x81)))
    meta = box(b"meta", bytes(4), box(b"pitm", struct.pack(">IH", 0, 1)), properties)
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + meta + box(b"mdat", bytes(40))


def mp4(milliseconds: int, *, brand: bytes = b"isom", payload: int = 2000, header_last: bool = False) -> bytes:
    """A video of that length, its header before or behind `payload` bytes of content."""
    mvhd = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, milliseconds), bytes(80))
    moov, mdat = box(b"moov", mvhd, box(b"trak", box(b"tkhd", bytes(84)))), box(b"mdat", bytes(payload))
    return box(b"ftyp", brand, bytes(4), brand) + (mdat + moov if header_last else moov + mdat)


def wav(seconds: float, rate: int = 8000) -> bytes:
    """A silent WAV: 16 bits, mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(bytes(2 * round(seconds * rate)))
    return file.getvalue()


def mp3(frames: int, *, cover: int = 0) -> bytes:
    """An MP3 of that many frames of 1152 samples (26.1 ms at 44.1 kHz), behind `cover` bytes of picture."""
    tag = b""
    if cover:
        size = cover + 10
        tag = b"ID3\x03\0\0" + bytes((size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127))
        tag += b"APIC" + struct.pack(">IH", cover, 0) + bytes(cover)
    return tag + (b"\xff\xfb\x90\xc0" + bytes(413)) * frames  # 128 kbit/s: 417 bytes a frame


def ogg(pages: int, *, samples: int = 48_000) -> bytes:
    """An Opus file: its two headers, then pages of a second each with fifty packets of 20 bytes."""

    def page(number: int, granule: int, packets: list[bytes], kind: int = 0) -> bytes:
        sizes = bytes(len(packet) for packet in packets)
        head = b"OggS\0" + struct.pack("<BqIIIB", kind, granule, 7, number, 0, len(packets))
        return head + sizes + b"".join(packets)

    opus = b"OpusHead\x01\x01" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 4) + b"test" + struct.pack("<I", 0)
    sound = [page(n + 2, (n + 1) * samples, [bytes(20)] * 50, kind=4 if n + 1 == pages else 0) for n in range(pages)]
    return page(0, 0, [opus], kind=2) + page(1, 0, [tags]) + b"".join(sound)


def flac(seconds: int, rate: int = 44_100) -> bytes:
    """A FLAC up to its sound."""
    packed = rate << 44 | 0 << 41 | 15 << 36 | seconds * rate
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + struct.pack(">Q", packed) + bytes(16)
    return b"fLaC\x80" + len(info).to_bytes(3, "big") + info + bytes(1000)


def pdf(pages: int, *, packed: bool = False, count: int | None = None, extra: bytes = b"") -> bytes:
    """A PDF of empty pages, plain or (`packed`) in a compressed object stream, as most writers make them.

    `count` is what its page tree claims, `extra` goes before its end.
    """
    kids = b" ".join(b"%d 0 R" % (number + 3) for number in range(pages))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type /Pages /Kids [%s] /Count %d>>" % (kids, pages if count is None else count),
        *[b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9]>>"] * pages,
    ]
    if packed:
        at, index = 0, []
        for number, text in enumerate(objects, start=1):
            index.append(b"%d %d" % (number, at))
            at += len(text) + 1
        head = b" ".join(index) + b"\n"
        body = zlib.compress(head + b"\n".join(objects))
        stream = b"<</Type/ObjStm/N %d/First %d/Filter/FlateDecode/Length %d>>" % (len(objects), len(head), len(body))
        plain = b"%d 0 obj\n%s\nstream\r\n%s\nendstream\nendobj\n" % (len(objects) + 1, stream, body)
    else:
        plain = b"".join(b"%d 0 obj\n%s\nendobj\n" % (n, text) for n, text in enumerate(objects, start=1))
    return b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n" + plain + extra + b"trailer <</Root 1 0 R>>\nstartxref\n9\n%%EOF\n"


KINDS: dict[str, tuple[str, bytes]] = {
    "png": ("images", png(800, 600)),
    "jpeg": ("images", jpeg(800, 600)),
    "gif": ("images", gif(800, 600)),
    "webp": ("images", webp(800, 600)),
    "avif": ("images", avif(800, 600)),
    "mp4": ("videos", mp4(6080)),
    "m4a": ("audios", mp4(6080, brand=b"M4A ", header_last=True)),
    "wav": ("audios", wav(0.2)),
    "mp3": ("audios", mp3(40, cover=300)),
    "ogg": ("audios", ogg(6)),
    "flac": ("audios", flac(6)),
    "pdf": ("documents", pdf(7)),
    "packed pdf": ("documents", pdf(7, packed=True)),
}
"""One file of each kind, and the kind of input it is."""


def mutated(data: bytes, times: int, seed: int) -> Iterator[bytes]:
    """`times` damaged copies: bytes changed, numbers made huge, pieces cut out, doubled or swapped."""
    chance = random.Random(seed)
    for _ in range(times):
        copy = bytearray(data)
        for _ in range(chance.choice((1, 2, 4, 30))):
            at, length = chance.randrange(len(copy)), chance.choice((1, 1, 4, 8, 200))
            match chance.randrange(6):
                case 0:
                    copy[at] ^= 1 << chance.randrange(8)
                case 1:
                    copy[at : at + length] = chance.randbytes(length)
                case 2:
                    copy[at : at + length] = chance.choice((b"\xff", b"\0", b"\x7f")) * length
                case 3:
                    del copy[at : at + length]
                case 4:
                    copy[at:at] = copy[at : at + length] * chance.choice((1, 1, 50))
                case _:
                    del copy[at + 1 :]
            copy = copy or bytearray(b"\0")
        yield bytes(copy)


def _box_file(brand: bytes, *boxes: bytes) -> bytes:
    return box(b"ftyp", brand, bytes(4)) + b"".join(boxes)


def _avif_of(name: bytes, data: bytes) -> bytes:
    return _box_file(b"avif", box(b"meta", bytes(4), data if name == b"" else box(name, data)))


def _ogg_page(sizes: bytes, data: bytes) -> bytes:
    return b"OggS\0" + bytes(21) + bytes((len(sizes),)) + sizes + data


def _object_stream(size: int) -> bytes:
    return b"9 0 obj <</Type/ObjStm/Filter/FlateDecode>> stream\n%s\nendstream\n" % zlib.compress(bytes(size), 9)


_XREF = b"1 0 obj <</Type /XRef /Size 1900000 /W [1 2 1] /Root 2 0 R /Filter /FlateDecode>> stream\n%s\nendstream"
_EMPTY_BLOCKS = b"\x01\0\0\0" * 250_000
_LINKS = struct.pack(">II", 0, 2**32 - 1) + b"\0\x01\0" * 20_000
_EXTENTS = bytes((2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0)) + (b"\0\0\0\x01" + bytes(4) + b"\xff\xff") * 10_000

BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a video of empty boxes": ("videos", lambda: _box_file(b"isom", b"\0\0\0\x08free" * 500_000)),
    "a video nested in itself": (
        "videos",
        lambda: _box_file(b"isom", b"\0\xff\xff\xffmoov\0\xff\xff\xfftrak" * 200_000),
    ),
    "a video header of 2 MB": ("videos", lambda: _box_file(b"isom", box(b"moov", box(b"mvhd", bytes(2_000_000))))),
    "an mp3 of nothing": ("audios", lambda: b"\xff\xfb" + bytes(2_000_000)),
    "an mp3 of broken frames": ("audios", lambda: b"\xff\xe0\0\0" * 500_000),
    "a wav of empty chunks": ("audios", lambda: b"RIFF\0\0\0\0WAVE" + b"LIST\0\0\0\0" * 250_000),
    "an ogg of one long packet": (
        "audios",
        lambda: (
            _ogg_page(b"\xff" * 255, b"\x7fFLAC\x01\0\0\0fLaC" + _EMPTY_BLOCKS[:65_012])
            + _ogg_page(b"\xff" * 252, _EMPTY_BLOCKS[:64_260]) * 2
            + _ogg_page(b"\xff" * 200 + b"\0", _EMPTY_BLOCKS[:51_000])
        ),
    ),
    "an ogg of empty comments": (
        "audios",
        lambda: (
            _ogg_page(b"\xff" * 255, b"OpusTags" + bytes(4) + b"\xff\xff\xff\x7f" + bytes(65_009))
            + _ogg_page(b"\xff" * 255, bytes(65_025)) * 2
            + _ogg_page(b"\xff" * 200 + b"\0", bytes(51_000))
        ),
    ),
    "a flac of empty blocks": ("audios", lambda: b"fLaC" + _EMPTY_BLOCKS),
    "a jpeg of empty segments": ("images", lambda: b"\xff\xd8" + b"\xff\xe0\0\x02" * 500_000),
    "a jpeg of padding": ("images", lambda: b"\xff\xd8" + b"\xff" * 2_000_000),
    "an avif of extents": ("images", lambda: _avif_of(b"iloc", _EXTENTS)),
    "an avif of associations": ("images", lambda: _avif_of(b"", box(b"iprp", box(b"ipma", _LINKS)))),
    "a netpbm of digits": ("images", lambda: b"P6 " + b"9" * 2_000_000),
    "a pdf that unpacks to 200 MB": ("documents", lambda: pdf(1, extra=_object_stream(200_000_000))),
    "a pdf of many bombs": ("documents", lambda: pdf(1, extra=_object_stream(5_000_000) * 500)),
    "a pdf of slashes": ("documents", lambda: pdf(1, extra=b"/" * 8_000_000)),
    "a pdf of counts": ("documents", lambda: pdf(1, extra=b"/Count 1 " * 290_000)),
    "a pdf of types": ("documents", lambda: pdf(1, extra=b"/Type" * 1_600_000)),
    "a pdf of object streams in each other": ("documents", lambda: pdf(1, extra=b"/Type/ObjStm stream\n" * 140_000)),
    "a pdf of 12 MB": ("documents", lambda: pdf(1, extra=bytes(12_000_000))),
}
"""Files made to take for ever or to fill the memory, none of which tells its length; with their kind of input."""

TRAPS: dict[str, Callable[[], bytes]] = {
    "blanks": lambda: pdf(1, extra=b"/Type" + b" " * 8_000_000),
    "counts": lambda: pdf(1, extra=b"/Count 1 " * 39_000),
    "nesting": lambda: pdf(1, extra=b"[<<" * 2_000_000),
    "a cross-reference that unpacks to 70 MB": lambda: pdf(1, extra=_XREF % zlib.compress(bytes(70_000_000), 9)),
}
"""PDFs of one page that hold up a reader who does what they say."""
