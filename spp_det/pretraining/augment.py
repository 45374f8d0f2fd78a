"""What a classification network learns from: random crops, mirrored, of varied colour (P section 3.1)."""

from __future__ import annotations

import numpy as np

from spp_det.boxes import Floats
from spp_det.images import RGB
from spp_det.pretraining.classifier import MARGIN
from spp_det.runtime.opencv import cv2

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def augmented(rng: np.random.Generator, image: RGB, size: int, flip: bool = True, colour: float = 0.2) -> RGB:
    """A random square of an image, uint8 ``[size, size, 3]``.

    In the image its side is 224/256 of the shorter one, whatever ``size`` is: training at several sizes
    sees the same content, larger or smaller (P section 2.3).

    Args:
        image: RGB uint8 ``[H, W, 3]``, any size.
        flip: mirror the square in half of the cases.
        colour: the amount of `recoloured`; 0 leaves the colours alone.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) / MARGIN))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = image[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    crop = np.asarray(cv2.resize(square, (size, size), interpolation=method), np.uint8)
    if flip and rng.random() < 0.5:
        crop = crop[:, ::-1]
    return recoloured(rng, crop, colour) if colour else np.ascontiguousarray(crop)


def recoloured(rng: np.random.Generator, image: RGB, amount: float) -> RGB:
    """An image, RGB uint8 ``[H, W, 3]``, with other brightness, contrast and saturation.

    Each of them is multiplied by a factor from ``1 - amount`` to ``1 + amount``. Contrast is the distance of
    the pixels from the image's mean grey, saturation the distance of a pixel's channels from its own grey.
    """
    brightness, contrast, saturation = 1 + amount * rng.uniform(-1, 1, 3).astype(np.float32)
    x: Floats = image * brightness
    grey = x @ LUMA
    x = grey[..., None] + saturation * (x - grey[..., None])
    x = grey.mean() + contrast * (x - grey.mean())
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
