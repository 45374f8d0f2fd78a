"""Pictures with captions, row by row on one white sheet."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from spp_det.drawing.font import set_text
from spp_det.drawing.palette import BLACK, WHITE, Color
from spp_det.errors import printable
from spp_det.images import RGB

MARGIN, GAP = 20, 14  # pixels: around the sheet, between panels
TITLE, NOTE, CAPTION = 20, 14, 13  # sizes of text
LEADING = 1.45  # distance between lines, in sizes of their text
NARROWEST = 640  # least width of a sheet in pixels, for its notes
SLOT = 72  # least width of a panel in pixels, for its caption
GRAY: Color = (90, 90, 90)


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture, RGB uint8 ``[H, W, 3]``, and its caption, a single line above it."""

    picture: RGB
    caption: str


def compose(title: str, notes: Sequence[str], rows: Sequence[Sequence[Panel]]) -> RGB:
    """One sheet: the title, the notes, then every row of panels side by side, their tops in line.

    Nothing is clipped: a title or caption that is too long ends in an ellipsis, a note goes on in the next
    line.
    """
    slots = [[max(panel.picture.shape[1], SLOT) for panel in row] for row in rows]
    width = max([*(sum(row) + GAP * (len(row) - 1) for row in slots), NARROWEST])
    texts = [(shortened(title, TITLE, width), TITLE, BLACK)]
    texts += [(line, NOTE, GRAY) for note in notes for line in wrapped(note, NOTE, width)]
    tops = np.cumsum([MARGIN, *(round(LEADING * size) for _, size, _ in texts)]).tolist()
    above = round(LEADING * CAPTION)
    heights = [above + max(panel.picture.shape[0] for panel in row) for row in rows]
    bottom = tops[-1] + sum(GAP + height for height in heights)
    sheet = Image.new("RGB", (width + 2 * MARGIN, bottom + MARGIN), WHITE)
    canvas = ImageDraw.Draw(sheet)
    for y, (text, size, color) in zip(tops, texts, strict=False):
        write(canvas, (MARGIN, y), text, size, color)
    y = tops[-1]
    for row, row_slots, height in zip(rows, slots, heights, strict=True):
        x, y = MARGIN, y + GAP
        for panel, slot in zip(row, row_slots, strict=True):
            write(canvas, (x, y), shortened(panel.caption, CAPTION, slot), CAPTION)
            sheet.paste(Image.fromarray(panel.picture), (x, y + above))
            x += slot + GAP
        y += height
    return np.array(sheet)


def write(
    canvas: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, size: int, color: Color = BLACK
) -> None:
    """Write a line of text with its top left corner at ``corner``."""
    shown, font = set_text(text, size)
    canvas.text(corner, shown, font=font, fill=color, anchor="la")


def text_width(text: str, size: int) -> float:
    """The width of a line of text in pixels."""
    shown, font = set_text(text, size)
    return float(font.getlength(shown))


def shortened(text: str, size: int, width: float) -> str:
    """The printable text, cut with an ellipsis where it is wider than ``width`` pixels."""
    text = printable(text)
    if text_width(text, size) <= width:
        return text
    fits = bisect_right(range(len(text)), width, key=lambda length: text_width(text[:length] + "…", size))
    return text[: max(0, fits - 1)].rstrip() + "…"


def wrapped(text: str, size: int, width: float) -> list[str]:
    """The text in lines of at most ``width`` pixels, broken between words."""
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shortened(line, size, width) for line in lines]
