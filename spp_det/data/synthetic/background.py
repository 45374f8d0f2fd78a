"""Photographic backgrounds for synthetic scenes, cut from the two photos that scikit-learn ships."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from sklearn.datasets import load_sample_images

from spp_det.boxes import Floats
from spp_det.data.synthetic.textures import Rng, noise
from spp_det.runtime.opencv import cv2


@lru_cache(maxsize=1)
def _photos() -> list[Floats]:
    """`china.jpg` and `flower.jpg`, float32 ``[427, 640, 3]``, RGB in [0, 1]."""
    return [photo.astype(np.float32) / 255 for photo in load_sample_images().images]


def _crop(rng: Rng, width: int, height: int, part: tuple[float, float]) -> Floats:
    """A jittered crop, float32 ``[height, width, 3]``, from columns ``part`` (fractions) of one photo."""
    photos = _photos()
    photo = photos[rng.integers(len(photos))]
    columns = photo.shape[1]
    photo = photo[:, round(part[0] * columns) : round(part[1] * columns)]
    largest = min(photo.shape[1] / width, photo.shape[0] / height)
    zoom = largest * rng.uniform(0.55, 1.0)  # photo pixels a scene pixel
    w, h = int(width * zoom), int(height * zoom)
    x = rng.integers(photo.shape[1] - w + 1)
    y = rng.integers(photo.shape[0] - h + 1)
    crop = photo[y : y + h, x : x + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if zoom > 1 else cv2.INTER_CUBIC
    resized = cv2.resize(crop, (width, height), interpolation=method)
    return _recolour(rng, np.clip(resized, 0, 1).astype(np.float32))


def _recolour(rng: Rng, image: Floats) -> Floats:
    """Another hue, saturation, gamma and white balance."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 25)) % 360
    hsv[..., 1] = hsv[..., 1] * rng.uniform(0.3, 1.1)
    rgb = np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1) ** np.float32(rng.uniform(0.65, 1.5))
    return np.asarray(rgb * rng.uniform(0.85, 1.05, 3).astype(np.float32), np.float32)


def background(rng: Rng, width: int, height: int, part: tuple[float, float] = (0.0, 1.0)) -> Floats:
    """A new photographic background, float32 ``[height, width, 3]``, RGB in [0, 1].

    One crop, or two that meet along a soft, irregular line. ``part`` is the range of photo columns,
    as fractions, that crops may come from: disjoint parts give disjoint pixels.
    """
    image = _crop(rng, width, height, part)
    if rng.random() < 0.5:
        other = _crop(rng, width, height, part)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        side = np.cos(angle) * x + np.sin(angle) * y + 1.2 * noise(rng, height, width, cells=2)
        share = np.clip(0.5 + rng.uniform(1, 6) * side, 0, 1)[..., None]
        image = image + share * (other - image)
    return np.asarray(np.clip(image, 0, 1), np.float32)
