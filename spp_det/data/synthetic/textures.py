"""Paints, and the patterns in which a body shows two of them.

A texture is ``(rng, x, y) -> [h, w]``: the share in [0, 1] of the second paint at points of the body,
whose coordinates, float32 ``[h, w]``, lie within about [-1, 1] and turn with it. Colours are drawn
without regard to the class, so they never tell it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spp_det.boxes import Floats
from spp_det.runtime.opencv import cv2

Rng = np.random.Generator
Texture = Callable[[Rng, Floats, Floats], Floats]


def _soft_step(wave: Floats, sharpness: float) -> Floats:
    return np.asarray(np.clip(0.5 + sharpness * wave, 0, 1), np.float32)


def _plain(rng: Rng, x: Floats, y: Floats) -> Floats:
    return np.clip(0.5 + rng.uniform(-0.5, 0.5) * x + rng.uniform(-0.5, 0.5) * y, 0, 1)


def _stripes(rng: Rng, x: Floats, y: Floats) -> Floats:
    return _soft_step(np.sin(rng.uniform(6, 13) * x + rng.uniform(0, 1.5) * y), 2.5)


def _dots(rng: Rng, x: Floats, y: Floats) -> Floats:
    f = rng.uniform(8, 13)
    return _soft_step(np.cos(f * x) + np.cos(f * y) - 0.7, 2.5)


def _rings(rng: Rng, x: Floats, y: Floats) -> Floats:
    return _soft_step(np.sin(rng.uniform(9, 15) * np.hypot(x - rng.uniform(-1, 1), y)), 2.5)


def _mottle(rng: Rng, x: Floats, y: Floats) -> Floats:
    height, width = x.shape
    grain = noise(rng, height, width, cells=6)
    return np.clip(0.5 + 1.6 * grain + 0.2 * (x + y), 0, 1)


def checker(rng: Rng, x: Floats, y: Floats) -> Floats:
    """The texture that makes a disc a `checker`."""
    f = rng.uniform(4.5, 7.5)  # 3 to 5 squares across
    across, along = np.sin(f * x + rng.uniform(0, 6.3)), np.sin(f * y + rng.uniform(0, 6.3))
    return _soft_step(across * along, sharpness=6)


TEXTURES: tuple[Texture, ...] = (_plain, _stripes, _dots, _rings, _mottle)


def noise(rng: Rng, height: int, width: int, cells: int, octaves: int = 3) -> Floats:
    """Smooth fractal noise, float32 ``[height, width]``, about [-0.5, 0.5], ``cells`` waves a side."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        n = cells * 2**octave
        grid = rng.random((n + 1, n + 1), np.float32) - 0.5
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


def random_paint(rng: Rng) -> Floats:
    """A colour, float32 ``[3]`` CIE Lab: every hue equally likely to the eye, which HSV is not."""
    return _lch(rng.uniform(35, 85), rng.uniform(10, 60), rng.uniform(0, 2 * np.pi))


def related_paint(rng: Rng, paint: Floats, contrast: float) -> Floats:
    """A neighbour in hue, darker or lighter by ``contrast``: what the rest of a pattern is painted in."""
    lightness, a, b = paint
    step = contrast * (-1 if lightness > 60 else 1)
    return _lch(
        lightness + step, np.hypot(a, b) * rng.uniform(0.6, 1.1), np.arctan2(b, a) + rng.normal(0, 0.4)
    )


def _lch(lightness: float, chroma: float, hue: float) -> Floats:
    return np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], np.float32)


def to_rgb(paint: Floats) -> Floats:
    """Lab ``[3]`` to float32 RGB ``[3]`` in [0, 1]."""
    return np.asarray(np.clip(cv2.cvtColor(paint[None, None], cv2.COLOR_LAB2RGB)[0, 0], 0, 1), np.float32)


def to_lab(rgb: Floats) -> Floats:
    """RGB ``[3]`` in [0, 1] to float32 Lab ``[3]``."""
    return np.asarray(cv2.cvtColor(rgb[None, None], cv2.COLOR_RGB2LAB)[0, 0], np.float32)
