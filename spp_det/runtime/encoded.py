"""What the bytes of a picture's file tell before a decoder sees them, or in its place.

A file of gigabytes may say that it is a small picture. Only so much of it is read as such a picture can need.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from spp_det.runtime.files import MOST_BYTES

MOST_READINGS = 2**17  # of a header; each may be of one byte
MOST_WHOLE = 2**26  # bytes of a file that its decoder reads whole, before it knows the size of the picture
_READ_WHOLE = re.compile(rb"RIFF|....ftyp", re.DOTALL)  # WebP, AVIF
_EXIF_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp")
_END_OF_IMAGE = b"\xff\xd9"
_HEADERS = (b"\xff\xc4", b"\xff\xdb", b"\xff\xda")  # Huffman tables, quantisation tables, start of scan


class Header:
    """A file that gives up after so many readings, as long as no `end` is told.

    Decoders skip what they do not know byte by byte, through gigabytes of a sparse file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = float(MOST_READINGS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """As of any file; OSError where the header has no end."""
        self._left -= 1
        if self._left < 0:
            raise OSError("its header has no end")
        return self._file.read(size)

    def end(self) -> None:
        """Let everything be read from now on."""
        self._left = math.inf


def check_bytes(file: BinaryIO) -> None:
    """Raise ValueError for an empty file, and for one that would fill the memory before it is decoded."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ValueError("the file is empty")
    if size > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES:,} bytes, which is the most that is read")
    if size > MOST_WHOLE and _READ_WHOLE.match(file.read(8)):
        raise ValueError(f"a WebP or AVIF of more than {MOST_WHOLE:,} bytes")
    file.seek(0)


def png_has_exif(file: BinaryIO) -> bool:
    """Whether any chunk of a PNG may hold EXIF data; Pillow decodes the pixels to look behind them."""
    place = 8
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return False
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(17).startswith(_EXIF_TEXTS)):
            return True
        if kind == b"IEND" or not kind.isalpha():
            return False
        place += 12 + length


def usable_jpegs(file: BinaryIO, pixels: int) -> Iterator[bytes]:
    """What may be decoded of a JPEG that is cut off, in the order in which to try: with its end marker.

    A progressive file may also be cut inside a header between two scans; the marker then takes the place of
    that header. No more is read than a JPEG of so many pixels has.
    """
    file.seek(0)
    data = file.read(2**20 + 16 * pixels)
    for usable in (data, data[: max(data.rfind(marker) for marker in _HEADERS)]):
        yield usable + _END_OF_IMAGE
