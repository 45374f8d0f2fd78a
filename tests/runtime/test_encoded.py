"""Files of gigabytes that say they are small pictures: neither read whole nor scanned byte by byte."""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from spp_det.images import UnreadableImageError, image_size, read_image
from spp_det.runtime.encoded import MOST_WHOLE, Header, png_has_exif, usable_jpegs
from tests.stress.memory import MIB, growth, measurable

KINDS = ["JPEG", "PNG", "GIF", "TIFF", "JPEG2000", "BMP", "PPM", "WEBP"] + (
    ["AVIF"] if "avif" in features.modules else []
)
READERS = [read_image, image_size]
pytestmark = pytest.mark.skipif(not measurable(), reason="no peak of memory is told here")


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, kind)
    return file.getvalue()


def sparse(path: Path, data: bytes, size: int) -> Path:
    """A file that begins with data and goes on with zeros that take no place."""
    path.write_bytes(data)
    os.truncate(path, size)
    return path


def frugal(path: Path, reader) -> str:
    """The refusal, if there is one; little memory is taken in any case."""
    said = []

    def call() -> None:
        try:
            reader(path)
        except UnreadableImageError as error:
            said.append(str(error))

    assert growth(call) < 100 * MIB
    return "".join(said)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 1.0])
def test_zeros_behind_a_picture_cost_nothing(tmp_path, reader, kind, share):
    data = picture(kind)
    path = sparse(tmp_path / "a", data[: max(4, int(share * len(data)))], 2**28)
    said = frugal(path, reader)
    if kind in ("WEBP", "AVIF") and share > 0.1:
        assert "more than" in said
    elif share == 1 and reader is read_image:
        assert said == ""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "start", [b"", b"\xff\xd8\xff\xe0", b"P6 #", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0\x08\0\0\0"]
)
def test_a_sparse_file_of_terabytes_is_refused_at_once(tmp_path, reader, start):
    assert "larger than" in frugal(sparse(tmp_path / "a", start, 2**40), reader)


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (60_000, 16_000)])
def test_tiles_larger_than_the_picture_are_refused(tmp_path, width, height):
    data = zlib.compress(bytes(2**20), 9)
    tags = [
        *((256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, width // 16 * 16)),
        *((323, height // 16 * 16), (324, 8), (325, len(data))),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(tags)) + directory + bytes(4))
    assert "tiles" in frugal(tmp_path / "a.tif", read_image)


@pytest.mark.parametrize(
    ("chunks", "has"),
    [
        ([], False),
        ([(b"tEXt", b"Comment\0hello")], False),
        ([(b"tEXt", b"Comment\0hello"), (b"eXIf", b"MM")], True),
        ([(b"zTXt", b"Raw profile type exif\0\0x")], True),
        ([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0")], True),
    ],
)
def test_chunks_behind_the_pixels_are_found(chunks, has):
    behind = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    plain = picture("PNG")
    whole = plain[:-12] + b"".join(behind) + plain[-12:]
    assert png_has_exif(io.BytesIO(whole)) == has
    for end in range(8, len(whole)):
        png_has_exif(io.BytesIO(whole[:end]))


def test_no_more_of_a_jpeg_is_read_than_its_pixels_need():
    file = io.BytesIO(b"\xff\xd8\xff\xda" + bytes(2**21))
    first, second = usable_jpegs(file, pixels=10)
    assert len(first) == 2**20 + 160 + 2
    assert second == b"\xff\xd8\xff\xd9"


def test_a_header_has_an_end():
    header = Header(io.BytesIO(bytes(MOST_WHOLE)))
    with pytest.raises(OSError, match="no end"):
        list(iter(partial(header.read, 1), b""))
    header.end()
    assert len(header.read()) > 2**20
    assert header.tell() == MOST_WHOLE
