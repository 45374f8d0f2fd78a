"""Square crops of objects and of background, to pre-train a classification network on (paper, part 1)."""

from __future__ import annotations

import numpy as np

from spp_det.boxes import Boxes, Ints, as_boxes, iou
from spp_det.data.records import Record
from spp_det.images import RGB
from spp_det.runtime.opencv import cv2

BACKGROUND_IOU = 0.3  # a background window overlaps every object less than this, as for the SVMs' negatives
SMALLEST_WINDOW = 16  # shorter side of a background window, pixels
TRIES = 20  # for each background window


def record_crops(
    rng: np.random.Generator,
    image: RGB,
    record: Record,
    background_label: int,
    size: int,
    backgrounds: int = 2,
    shake: float = 0.08,
    context: float = 0.0,
) -> tuple[RGB, Ints]:
    """The crops of one image: each object once, jittered, and some background.

    Difficult and crowd objects are left out, but no background lies on them either. Every call draws
    new crops, so that each epoch may see its own.

    Args:
        rng: source of the jitter and of the background windows.
        image: the record's image, RGB uint8 ``[H, W, 3]``.
        record: its annotation.
        background_label: the label of background, usually the number of classes.
        size: side of the crops, pixels.
        backgrounds: how many background crops to draw; see `background_windows`.
        shake: the ``amount`` of `jitter`.
        context: see `cut`.

    Returns:
        uint8 ``[N, size, size, 3]`` and their labels, int64 ``[N]``; objects first.
    """
    height, width = image.shape[:2]
    usable = ~(record.difficult | record.crowd)
    objects = jitter(rng, record.boxes[usable], shake)
    empty = background_windows(rng, width, height, record.boxes, backgrounds)
    labels = np.concatenate([record.labels[usable], np.full(len(empty), background_label, np.int64)])
    return cut(image, np.concatenate([objects, empty]), size, context), labels


def cut(image: RGB, boxes: Boxes, size: int, context: float = 0.0) -> RGB:
    """Cut each box out as a square picture that keeps its aspect.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        boxes: float32 ``[N, 4]`` in pixels of the image, of positive size.
        size: side of the crops, pixels.
        context: widens the square by this share of the box's longer side, in total.

    Returns:
        uint8 ``[N, size, size, 3]``. The square has the box's longer side and its centre, but moves to
        lie inside the image; where the image is smaller than it, it continues as a mirror image.
    """
    height, width = image.shape[:2]
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    for crop, (x1, y1, x2, y2) in zip(crops, boxes.astype(np.float64), strict=True):
        side = max(1, round(max(x2 - x1, y2 - y1) * (1 + context)))
        columns = _pixels(round((x1 + x2 - side) / 2), side, width)
        rows = _pixels(round((y1 + y2 - side) / 2), side, height)
        square = image[rows[:, None], columns[None, :]]
        method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        crop[:] = cv2.resize(square, (size, size), interpolation=method)
    return crops


def _pixels(start: int, count: int, length: int) -> Ints:
    """``count`` neighbouring indices from about ``start``, inside ``[0, length)`` or mirrored into it."""
    if count <= length:
        start = min(max(start, 0), length - count)
    index = np.arange(start, start + count) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def jitter(rng: np.random.Generator, boxes: Boxes, amount: float) -> Boxes:
    """Boxes whose centre moves, and whose sides change, by up to ``amount`` of the side: ``[N, 4]``."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + size * rng.uniform(-amount, amount, size.shape)
    half = size * np.exp(rng.uniform(-amount, amount, size.shape)) / 2
    return as_boxes(np.concatenate([centre - half, centre + half], axis=1))


def background_windows(rng: np.random.Generator, width: int, height: int, boxes: Boxes, count: int) -> Boxes:
    """Windows that overlap every object with IoU < 0.3, float32 ``[M, 4]``, ``M <= count``.

    Every other one is an object's box pushed aside, so that parts of objects count as background too;
    the rest lie anywhere, of any size. ``boxes`` ``[G, 4]`` are all objects, difficult ones included.
    Fewer are returned where objects leave no room, none where the image is under 16 pixels wide or high.
    """
    kept: list[Boxes] = []
    if min(width, height) < SMALLEST_WINDOW:
        return as_boxes([])
    for number in range(count):
        for _ in range(TRIES):
            if number % 2 and len(boxes):
                window = _beside(rng, boxes[rng.integers(len(boxes))], width, height)
            else:
                window = _anywhere(rng, width, height)
            inside = (window[:, 2:] - window[:, :2]).min() >= SMALLEST_WINDOW
            if inside and iou(window, boxes).max(initial=0) < BACKGROUND_IOU:
                kept.append(window)
                break
    return np.concatenate(kept) if kept else as_boxes([])


def _beside(rng: np.random.Generator, box: Boxes, width: int, height: int) -> Boxes:
    size = box[2:] - box[:2]
    moved = np.tile(rng.uniform(-1, 1, 2) * size, 2) + box
    return as_boxes([np.clip(moved, 0, [width, height, width, height])])


def _anywhere(rng: np.random.Generator, width: int, height: int) -> Boxes:
    low, high = np.log(SMALLEST_WINDOW), np.log([width, height])
    size = np.exp(rng.uniform(low, high))
    corner = rng.uniform(0, [width, height] - size)
    return as_boxes([np.concatenate([corner, corner + size])])
