"""The frame of every search for windows: a smaller copy of the image, if wanted, and sorted windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spp_det.boxes import Boxes, Ints, as_boxes
from spp_det.images import RGB
from spp_det.runtime.opencv import cv2


def search_shrunk(image: RGB, max_side: int | None, search: Callable[[RGB], Ints]) -> Boxes:
    """Search a copy whose longer side is at most ``max_side`` pixels (None: the image itself).

    ``search`` returns windows int64 ``[N, 4]`` as (x, y, width, height) in pixels of the copy, in any order.
    They come back as boxes in pixels of ``image``, float32 ``[N, 4]``, sorted by (x1, y1, x2, y2), without
    duplicates. Raises ValueError where ``image`` is not RGB uint8 ``[H, W, 3]`` with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"image must be uint8 [H, W, 3] and not empty, got {image.dtype} {list(image.shape)}"
        )
    shrunk = _shrink(image, max_side)
    xywh = search(shrunk)
    # OpenCV finds the same set of windows every time, but in another order.
    boxes = np.unique(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), axis=0)
    enlarge = np.array(image.shape[1::-1]) / np.array(shrunk.shape[1::-1])  # x, y
    return as_boxes(boxes * np.tile(enlarge, 2))


def _shrink(image: RGB, max_side: int | None) -> RGB:
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    factor = max_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
