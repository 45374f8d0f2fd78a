"""A font of any size for any text.

Pillow carries a font that scales but knows little beyond ASCII. Text that needs more is set in a
font of the system that has all of its characters; where there is none, accents are dropped and what
is still missing becomes "?".
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

from PIL import ImageFont

_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
_NO_CHARACTER = "\uffff"  # never assigned, so every font draws its mark for a missing one

Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=4096)
def set_text(text: str, size: int) -> tuple[str, Font]:
    """The text as it can be shown, and the font to show it in, ``size`` pixels to the em."""
    bundled = _bundled(size)
    if _has_all(bundled, text):
        return text, bundled
    for name in _SYSTEM_FONTS:
        font = _system(name, size)
        if font is not None and _has_all(font, text):
            return text, font
    return "".join(c if _has_all(bundled, c) else _plain(c, bundled) for c in text), bundled


def _plain(character: str, font: Font) -> str:
    """The character without its accents; "?" for what the font lacks even so."""
    parts = unicodedata.normalize("NFKD", character)
    return "".join(c if _has_all(font, c) else "?" for c in parts if not unicodedata.combining(c))


@lru_cache(maxsize=64)
def _bundled(size: int) -> Font:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # what asking for a size gives
    return font


@lru_cache(maxsize=64)
def _system(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_all(font: Font, text: str) -> bool:
    return text.isascii() or all(_has(font, character) for character in text if not character.isspace())


@cache
def _has(font: Font, character: str) -> bool:
    """Whether the character is drawn otherwise than a missing one."""
    drawn, missing = font.getmask(character), font.getmask(_NO_CHARACTER)
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)
