"""Square crops of objects and of background, to pre-train a classification network on (paper, part 1)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, as_boxes, iou

Image = npt.NDArray[np.uint8]  # RGB [H, W, 3]

BACKGROUND_IOU = 0.3  # a background window overlaps every object less than this, as for the SVMs' negatives
SMALLEST_WINDOW = 16  # shorter side of a background window, pixels
TRIES = 20  # for each background window


def cut(image: Image, boxes: Boxes, size: int, context: float = 0.0) -> Image:
    """Cut each box out as a square picture that keeps its aspect.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        boxes: float32 ``[N, 4]`` in pixels of the image, of positive size.
        size: side of the crops, pixels.
        context: widens the square by this share of the box's longer side, in total.

    Returns:
        uint8 ``[N, size, size, 3]``. The square has the box's centre and longer side; beyond the edge
        of the image it continues as a mirror image.
    """
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    for crop, (x1, y1, x2, y2) in zip(crops, boxes.astype(np.float64), strict=True):
        side = max(x2 - x1, y2 - y1) * (1 + context)
        left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
        x, y = int(np.floor(left)), int(np.floor(top))
        whole = max(1, int(np.ceil(left + side)) - x), max(1, int(np.ceil(top + side)) - y)
        square = _window(image, x, y, *whole)
        shrinks = side > size
        crop[:] = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return crops


def _window(image: Image, x: int, y: int, width: int, height: int) -> Image:
    """Integer window of the image, mirrored beyond its edges however far."""
    rows = _mirror(np.arange(y, y + height), image.shape[0])
    columns = _mirror(np.arange(x, x + width), image.shape[1])
    return image[rows[:, None], columns[None, :]]


def _mirror(index: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    index = np.mod(index, 2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def jitter(rng: np.random.Generator, boxes: Boxes, amount: float) -> Boxes:
    """Boxes whose centre moves, and whose sides change, by up to ``amount`` of the side: ``[N, 4]``."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + size * rng.uniform(-amount, amount, size.shape)
    half = size * np.exp(rng.uniform(-amount, amount, size.shape)) / 2
    return as_boxes(np.concatenate([centre - half, centre + half], axis=1))


def background_windows(
    rng: np.random.Generator, width: int, height: int, boxes: Boxes, count: int
) -> Boxes:
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
