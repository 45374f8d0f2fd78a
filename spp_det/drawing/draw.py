"""Boxes and names drawn over a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spp_det.boxes import Boxes, Ints
from spp_det.drawing.font import set_text
from spp_det.drawing.palette import BLACK, Color, class_color, text_color
from spp_det.drawing.tags import Place, place_tags
from spp_det.errors import printable
from spp_det.images import RGB

LONGEST_NAME = 24  # characters
MOST_TAGS = 300  # boxes after these, by score, are drawn without a tag


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that suit one picture."""

    line: int
    font: int

    @staticmethod
    def of(width: int, height: int, boxes: Ints) -> _Style:
        """Sizes grow with the picture, a little more slowly; text shrinks where objects are small."""
        growth = (np.sqrt(width * height) / 550) ** 0.85
        font = 13.5 * growth
        if len(boxes):
            sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
            font = min(font, max(0.2 * float(np.median(sides)), 0.7 * font))
        return _Style(line=max(1, round(1.8 * growth)), font=max(10, round(font)))

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels left and right of a tag's text, and above and below it."""
        return max(2, round(0.3 * self.font)), max(2, round(0.2 * self.font))


def draw_detections(
    image: RGB, boxes: Boxes, labels: Ints, scores: npt.NDArray[np.floating] | None, classes: Sequence[str]
) -> RGB:
    """A copy of the picture with every box in the colour of its class, tagged ``name 0.87``.

    The highest score lies on top and has the first choice of a place for its tag. Where objects
    crowd, tags shrink to the score, and a tag that would hide other objects is left out; the
    colour still tells the class. Only the parts of boxes inside the picture are drawn; boxes wholly
    outside, of no size, or with NaN are not.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        boxes: float32 ``[N, 4]`` in pixels of the image (see `spp_det.boxes`).
        labels: int64 ``[N]``, indices into ``classes``.
        scores: ``[N]``, or None: tags then have names only, and small boxes lie on top.
        classes: class names, of any characters and length.

    Returns:
        RGB uint8 ``[H, W, 3]``.

    Raises:
        ValueError: ``image`` is not RGB uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    pixels, shown = visible_pixels(boxes, width, height)
    if not len(pixels):
        return image.copy()
    order = _importance(pixels, None if scores is None else scores[shown])
    pixels, shown = pixels[order], shown[order]
    drawn_labels = labels[shown].tolist()
    colors = [class_color(label) for label in drawn_labels]

    style = _Style.of(width, height, pixels)
    turns = _tagging_order(drawn_labels)[:MOST_TAGS]
    texts = [
        _texts(classes, drawn_labels[i], None if scores is None else float(scores[shown[i]]), width, style)
        for i in turns
    ]
    sizes = [[_tag_size(text, style) for text in variants] for variants in texts]
    rest = np.setdiff1d(np.arange(len(pixels)), turns)
    places = place_tags(pixels[[*turns, *rest]], sizes, width, height, style.line)

    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture, "RGBA")  # blends what is drawn, by its alpha
    for box, color in zip(reversed(pixels.tolist()), reversed(colors), strict=True):
        draw_box(canvas, box, color, style.line)
    for i, place, variants, variant_sizes in zip(turns, places, texts, sizes, strict=True):
        if place is not None:
            _draw_tag(canvas, place, variant_sizes[place.text], variants[place.text], colors[i], style)
    return np.array(picture)


def visible_pixels(boxes: Boxes, width: int, height: int) -> tuple[Ints, Ints]:
    """Boxes rounded to whole pixels and cut to the picture, ``[M, 4]``, and their indices ``[M]``."""
    x1, y1, x2, y2 = np.nan_to_num(boxes.astype(np.float64), nan=-1.0).T
    whole = np.isfinite(boxes).all(axis=1)
    shown = np.flatnonzero(whole & (x2 > x1) & (y2 > y1) & (x2 > 0) & (y2 > 0) & (x1 < width) & (y1 < height))
    cut = np.clip(boxes[shown].astype(np.float64), 0, (width, height, width, height))
    pixels = np.round(cut).astype(np.int64)
    # However thin it is, a box covers a pixel.
    pixels[:, :2] = np.minimum(pixels[:, :2], np.array([width, height]) - 1)
    pixels[:, 2:] = np.maximum(pixels[:, 2:], pixels[:, :2] + 1)
    return pixels, shown


def _importance(pixels: Ints, scores: npt.NDArray[np.floating] | None) -> Ints:
    """Indices, most important first: by score, or without scores small boxes before large ones."""
    if scores is not None:
        return np.argsort(-scores, kind="stable")
    return np.argsort((pixels[:, 2:] - pixels[:, :2]).prod(axis=1), kind="stable")


def _tagging_order(labels: Sequence[int]) -> list[int]:
    """The best box of each class comes first, so that each colour in the picture has its name somewhere."""
    firsts: dict[int, int] = {}  # label -> index
    for index, label in enumerate(labels):
        firsts.setdefault(label, index)
    return [*firsts.values(), *(index for index, label in enumerate(labels) if firsts[label] != index)]


def _texts(classes: Sequence[str], label: int, score: float | None, width: int, style: _Style) -> list[str]:
    """The texts that a tag may have, best first."""
    name = printable(classes[label])
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 1].rstrip() + "…"
    if not any(c.isalnum() for c in set_text(name, style.font)[0]):  # no font for it: "?????"
        name = f"class {label}"
    if score is None:
        return [name]
    both = f"{name} {score:.2f}"
    return [both if _tag_size(both, style)[0] <= width else name, f"{score:.2f}"]


def _tag_size(text: str, style: _Style) -> tuple[int, int]:
    shown, font = set_text(text, style.font)
    _, top, _, bottom = font.getbbox("0g", anchor="ls")
    beside, above = style.padding
    return round(font.getlength(shown)) + 2 * beside, round(bottom - top) + 2 * above


def draw_box(canvas: ImageDraw.ImageDraw, box: Sequence[int], color: Color, thickness: int) -> None:
    """A line just inside a half-open box of whole pixels, between two hairlines of the opposite lightness.

    ``canvas`` blends, as `ImageDraw.Draw(picture, "RGBA")` does; small boxes have a thinner line.
    """
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    smallest = min(right - left, bottom - top) + 1
    line = max(1, min(thickness, smallest // 6))
    hair = max(1, line // 3)
    shade = (*text_color(color), 110)
    canvas.rectangle((left - hair, top - hair, right + hair, bottom + hair), outline=shade, width=hair)
    canvas.rectangle((left, top, right, bottom), outline=(*color, 255), width=line)
    if smallest > 4 * (line + hair):
        inner = (left + line, top + line, right - line, bottom - line)
        canvas.rectangle(inner, outline=shade, width=hair)


def _draw_tag(
    canvas: ImageDraw.ImageDraw, place: Place, size: tuple[int, int], text: str, color: Color, style: _Style
) -> None:
    shown, font = set_text(text, style.font)
    _, top, _, _ = font.getbbox("0g", anchor="ls")
    beside, above = style.padding
    right, bottom = place.x + size[0] - 1, place.y + size[1] - 1
    canvas.rectangle((place.x, place.y, right, bottom), fill=(*color, 235), outline=(*BLACK, 90))
    baseline = (place.x + beside, place.y + above - top)
    canvas.text(baseline, shown, font=font, fill=(*text_color(color), 255), anchor="ls")
