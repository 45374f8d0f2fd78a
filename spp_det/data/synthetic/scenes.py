"""One scene: objects and clutter laid over a photograph from back to front, with exact visible masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Floats, Ints, as_boxes
from spp_det.data.synthetic.background import background
from spp_det.data.synthetic.shapes import CLUTTER, OBJECTS
from spp_det.data.synthetic.sprites import Sprite, draw
from spp_det.data.synthetic.textures import TEXTURES, Rng, checker, random_paint, related_paint, to_lab
from spp_det.images import RGB
from spp_det.runtime.opencv import cv2

CLASSES = tuple(OBJECTS)
Mask = npt.NDArray[np.bool_]  # [H, W]

SIZES = ((320, 240), (240, 320), (352, 264), (288, 288))  # (width, height)
SMALLEST_SIDE = 96  # of an image, pixels
SMALLEST = 36.0  # longer side of the smallest object, pixels
LARGEST = 0.6  # longer side of the largest object, share of the image's shorter side

DIFFICULT_BELOW = 0.5  # an object with a smaller visible share is marked difficult
LEAST_VISIBLE = 0.15  # nothing is laid where an object would keep a smaller visible share

FAINT, BOLD = (8.0, 20.0), (30.0, 40.0)  # steps of lightness within a pattern
CONTRAST = 40.0  # least Lab distance that an object's colours keep from their surroundings, if they can
OVERLAP = 0.15  # share of the objects that are laid over another object where possible
MOST_COVERED = 0.5  # share of an object's visible pixels that an object laid over it may hide
EDGE = 0.3  # the centre of an object keeps this share of its size from the image's edge
TRIES = 20  # to find a place for an object


@dataclass(frozen=True, eq=False)
class Scene:
    """One generated image and its exact annotation.

    Attributes:
        image: RGB uint8 ``[H, W, 3]``.
        boxes: float32 ``[G, 4]`` with integer corners: the tight half-open boxes of ``masks``.
        labels: int64 ``[G]``, indices into `CLASSES`.
        difficult: bool ``[G]``; less than half of the object is visible.
        masks: bool ``[G, H, W]``; the pixels where the object is seen: it covers at least half of the
            pixel and nothing in front of it does.
    """

    image: RGB
    boxes: Boxes
    labels: Ints
    difficult: npt.NDArray[np.bool_]
    masks: npt.NDArray[np.bool_]


def tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """The half-open box ``(x1, y1, x2, y2)`` of the true pixels of ``[H, W]``; there must be one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class _Canvas:
    """A scene being painted from back to front; every sprite hides what it covers."""

    def __init__(self, image: Floats, light: Floats) -> None:
        self.image = image
        self.light = light
        self.labels: list[int] = []
        self.masks: list[Mask] = []  # visible pixels of each object so far
        self.areas: list[int] = []  # pixels of each object if nothing hid it and the image had no end

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def local_colour(self, x: float, y: float, size: float) -> Floats:
        """The mean colour of the square of that side around a point inside the image, float32 ``[3]``."""
        left, top = max(0, int(x - size / 2)), max(0, int(y - size / 2))
        square = self.image[top : int(y + size / 2) + 1, left : int(x + size / 2) + 1]
        return np.asarray(square.mean(axis=(0, 1)), np.float32)

    def lay(self, sprite: Sprite, x: float, y: float, label: int | None, most_hidden: float = 1.0) -> bool:
        """Lay a sprite with its centre at a point, and its shadow on what lies below.

        Refused, with nothing changed and False returned, where an object would keep less than
        `LEAST_VISIBLE` of itself, or would lose more than the share ``most_hidden`` of its visible pixels.
        ``label`` is the class of an object, None for clutter.
        """
        width, height = self.size
        reach = 0.08 * max(sprite.alpha.shape)  # the shadow is longer and softer for larger things
        margin = int(3 * reach) + 3
        alpha = np.pad(sprite.alpha, margin)
        h, w = alpha.shape
        left, top = round(x - w / 2), round(y - h / 2)
        here = np.s_[max(0, top) : min(height, top + h), max(0, left) : min(width, left + w)]
        there = np.s_[here[0].start - top : here[0].stop - top, here[1].start - left : here[1].stop - left]

        covers = np.zeros((height, width), np.bool_)
        covers[here] = alpha[there] >= 0.5
        full = int((alpha >= 0.5).sum())
        if label is not None and covers.sum() < LEAST_VISIBLE * full:
            return False
        kept = [mask & ~covers for mask in self.masks]
        for before, after, area in zip(self.masks, kept, self.areas, strict=True):
            least = max(LEAST_VISIBLE * area, (1 - most_hidden) * before.sum())
            if after.sum() < least:
                return False
        self.masks = kept
        if label is not None:
            self.labels.append(label)
            self.masks.append(covers)
            self.areas.append(full)

        fall = np.array([[1, 0, -self.light[0] * reach], [0, 1, -self.light[1] * reach]], np.float32)
        shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, fall, (w, h)), (0, 0), 0.7 + 0.5 * reach)
        below = self.image[here] * (1 - 0.5 * shadow[there][..., None])
        colour = np.pad(sprite.colour, ((margin, margin), (margin, margin), (0, 0)))[there]
        self.image[here] = below + alpha[there][..., None] * (colour - below)
        return True


def _paints(rng: Rng, around: Floats, contrast: float, bold: bool = False) -> tuple[Floats, Floats]:
    """Two related colours (Lab), both ``contrast`` from an RGB colour, or the best of a few tries.

    They make a faint pattern, or where ``bold`` a pattern that shows at any size.
    """
    pattern = rng.uniform(*(BOLD if bold else FAINT))
    tries = []
    for _ in range(12):
        first = random_paint(rng)
        second = related_paint(rng, first, pattern)
        distance = min(float(np.linalg.norm(paint - to_lab(around))) for paint in (first, second))
        tries.append((distance, first, second))
        if distance >= contrast:
            break
    _, first, second = max(tries, key=lambda found: found[0])
    return first, second


def _add_clutter(rng: Rng, canvas: _Canvas, largest: float, most_hidden: float) -> None:
    """One thing of no class: a disc, triangle, slab or blob with any texture but a checkered one."""
    width, height = canvas.size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    size = float(np.exp(rng.uniform(np.log(SMALLEST / 2), np.log(largest))))
    contours = CLUTTER[rng.integers(len(CLUTTER))](rng)
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    paints = _paints(rng, canvas.local_colour(x, y, size), contrast=0)
    canvas.lay(draw(rng, contours, size, paints, canvas.light, texture), x, y, None, most_hidden)


def _add_object(rng: Rng, canvas: _Canvas) -> None:
    """One object of a random class, clear of the others or over one of them; left out if none fits."""
    width, height = canvas.size
    label = int(rng.integers(len(CLASSES)))
    name = CLASSES[label]
    size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST * min(width, height)))))
    texture = checker if name == "checker" else TEXTURES[rng.integers(len(TEXTURES))]
    over = bool(canvas.masks) and rng.random() < OVERLAP
    for _ in range(TRIES):
        low, high = EDGE * size, np.array([width, height]) - EDGE * size
        point = rng.uniform(low, high)
        if over:
            x1, y1, x2, y2 = tight_box(canvas.masks[rng.integers(len(canvas.masks))])
            point = np.clip(
                rng.uniform((x1 - size / 3, y1 - size / 3), (x2 + size / 3, y2 + size / 3)), low, high
            )
        x, y = point
        paints = _paints(rng, canvas.local_colour(x, y, size), CONTRAST, bold=texture is checker)
        sprite = draw(rng, OBJECTS[name](rng), size, paints, canvas.light, texture)
        if canvas.lay(sprite, x, y, label, MOST_COVERED if over else 0.03):
            return


def scene(
    rng: Rng, sizes: Sequence[tuple[int, int]] = SIZES, part: tuple[float, float] = (0.0, 1.0)
) -> Scene:
    """Draw one scene.

    Args:
        rng: the only source of randomness: an equal generator gives an equal scene.
        sizes: the (width, height) to choose from, pixels; each side at least 96.
        part: the range of columns of the photographs, as fractions, that the background comes from;
            disjoint parts share no background pixel.

    Raises:
        ValueError: a side is under 96 pixels, or ``part`` is not a range inside [0, 1].
    """
    if min(min(size) for size in sizes) < SMALLEST_SIDE or not 0 <= part[0] < part[1] <= 1:
        raise ValueError(f"sizes must be at least {SMALLEST_SIDE} and part inside [0, 1]: {sizes}, {part}")
    width, height = sizes[int(rng.integers(len(sizes)))]
    azimuth, altitude = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.2)
    light = np.array(
        [np.cos(azimuth) * np.cos(altitude), np.sin(azimuth) * np.cos(altitude), np.sin(altitude)], np.float32
    )
    canvas = _Canvas(background(rng, width, height, part), light)
    for _ in range(rng.integers(1, 5)):
        _add_clutter(rng, canvas, largest=0.5 * min(width, height), most_hidden=0)
    for _ in range(rng.integers(1, 6)):
        _add_object(rng, canvas)
    for _ in range(rng.integers(0, 3)):
        _add_clutter(rng, canvas, largest=2 * SMALLEST, most_hidden=0.4)

    masks = np.array(canvas.masks, np.bool_).reshape(-1, height, width)
    visible = masks.sum(axis=(1, 2)) / np.array(canvas.areas, np.float64)
    return Scene(
        image=_photograph(rng, canvas.image, light),
        boxes=as_boxes([tight_box(mask) for mask in masks]),
        labels=np.array(canvas.labels, np.int64),
        difficult=visible < DIFFICULT_BELOW,
        masks=masks,
    )


def _photograph(rng: Rng, image: Floats, light: Floats) -> RGB:
    """Uneven light, exposure, lens blur and sensor noise: ``[H, W, 3]`` in [0, 1] to uint8."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    falloff = 1 + rng.uniform(0, 0.25) * (light[0] * x + light[1] * y)
    exposed = image * (rng.uniform(0.75, 1.15) * falloff)[..., None].astype(np.float32)
    exposed = cv2.GaussianBlur(exposed, (0, 0), rng.uniform(0.3, 0.8))
    exposed = exposed + rng.uniform(0.005, 0.025) * rng.standard_normal(exposed.shape, np.float32)
    return np.asarray(np.round(np.clip(exposed, 0, 1) * 255), np.uint8)
