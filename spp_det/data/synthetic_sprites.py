"""One textured, shaded thing of a synthetic scene: a silhouette, a texture, a light.

A silhouette is a list of closed contours, each float64 ``[P, 2]`` around the origin; where contours
overlap they cut holes (even-odd rule). A class is told by its silhouette, or, for ``checker``, by the
texture of a disc that also occurs with other textures as clutter; colour never tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from spp_det.boxes import Floats

Contours = list[npt.NDArray[np.float64]]  # closed polygons, each [P, 2]
Rng = np.random.Generator

CLASSES = ("arrow", "checker", "crescent", "cross", "ring", "star")

SUPERSAMPLING = 2  # silhouettes and textures are drawn this much larger and averaged down
SUBPIXEL_BITS = 4  # fillPoly's fixed-point fraction


@dataclass(frozen=True, eq=False)
class Sprite:
    """A picture with a soft edge, to be laid over an image.

    Attributes:
        colour: float32 ``[h, w, 3]``, RGB in [0, 1].
        alpha: float32 ``[h, w]``, the covered part of each pixel in [0, 1].
    """

    colour: Floats
    alpha: Floats


# --- silhouettes ---------------------------------------------------------------------------------


def _ellipse(radius: float = 1.0, points: int = 72) -> npt.NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _arrow(rng: Rng) -> Contours:
    shaft, neck = rng.uniform(0.2, 0.3), rng.uniform(-0.1, 0.2)
    upper = [(-1, shaft), (neck, shaft), (neck, 0.75), (1, 0)]
    lower = [(x, -y) for x, y in upper[-2::-1]]
    return [np.array(upper + lower, np.float64)]


def _disc(rng: Rng) -> Contours:  # noqa: ARG001 - silhouettes share one signature
    return [_ellipse()]


def _crescent(rng: Rng) -> Contours:
    tip = rng.uniform(0.9, 1.25)  # half the opening angle of the bite, radians
    depth = rng.uniform(-0.3, -0.05)  # where the bite ends on the axis
    # The bite's circle passes through both tips and the point (depth, 0).
    x, y = np.cos(tip), np.sin(tip)
    centre = (x * x + y * y - depth * depth) / (2 * (x - depth))
    bite = np.arctan2(y, x - centre)
    outer = np.linspace(tip, 2 * np.pi - tip, 56)
    inner = np.linspace(2 * np.pi - bite, bite, 40)[1:-1]
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    hollow = np.stack([centre + (centre - depth) * np.cos(inner), (centre - depth) * np.sin(inner)], axis=1)
    return [np.concatenate([arc, hollow])]


def _cross(rng: Rng) -> Contours:
    a = rng.uniform(0.26, 0.38)
    arm = np.array([(a, a), (a, 1), (-a, 1)])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    return [np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])]


def _ring(rng: Rng) -> Contours:
    return [_ellipse(), _ellipse(rng.uniform(0.42, 0.62))]


def _star(rng: Rng) -> Contours:
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.4, 0.52))
    return [radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def _triangle(rng: Rng) -> Contours:
    return [np.array([(-1, -0.8), (1, -0.8), (rng.uniform(-0.8, 0.8), 0.9)])]


def _slab(rng: Rng) -> Contours:
    half_height = np.exp(rng.uniform(np.log(0.06), np.log(0.9)))  # from a stick to a square
    return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * [1, half_height]]


def _blob(rng: Rng) -> Contours:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = np.arange(2, 5)
    wobble = np.cos(angle[:, None] * waves + rng.uniform(0, 2 * np.pi, 3)) @ rng.uniform(0, 0.16, 3)
    return [_ellipse(points=64) * (1 + wobble)[:, None]]


SILHOUETTES: dict[str, Callable[[Rng], Contours]] = {
    "arrow": _arrow,
    "checker": _disc,
    "crescent": _crescent,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
}
CLUTTER_SILHOUETTES: tuple[Callable[[Rng], Contours], ...] = (_disc, _triangle, _slab, _blob)


# --- textures: where the second of two colours shows, float32 [h, w] in [0, 1] ---------------------


def _soft_step(wave: Floats, sharpness: float) -> Floats:
    return np.clip(0.5 + sharpness * wave, 0, 1)


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
    grain = noise(rng, *x.shape, cells=6)
    return np.clip(0.5 + 1.6 * grain + 0.2 * (x + y), 0, 1)


def checker(rng: Rng, x: Floats, y: Floats) -> Floats:
    """The texture that makes a disc a `checker`."""
    f = rng.uniform(4.5, 7.5)  # 3 to 5 squares across
    sharpness = 6.0
    return _soft_step(
        np.sin(f * x + rng.uniform(0, 6.3)) * np.sin(f * y + rng.uniform(0, 6.3)), sharpness
    )


TEXTURES: tuple[Callable[[Rng, Floats, Floats], Floats], ...] = (_plain, _stripes, _dots, _rings, _mottle)


def noise(rng: Rng, height: int, width: int, cells: int, octaves: int = 3) -> Floats:
    """Smooth fractal noise, float32 ``[height, width]``, about [-0.5, 0.5], ``cells`` waves a side."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        n = cells * 2**octave
        grid = rng.random((n + 1, n + 1), np.float32) - 0.5
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


# --- drawing -------------------------------------------------------------------------------------


def random_paint(rng: Rng) -> Floats:
    """A colour, float32 ``[3]`` CIE Lab: every hue equally likely to the eye, which HSV is not."""
    return _lch(rng.uniform(35, 85), rng.uniform(10, 60), rng.uniform(0, 2 * np.pi))


def related_paint(rng: Rng, paint: Floats) -> Floats:
    """A neighbour in hue, darker or lighter: what the other half of a pattern is painted in (Lab)."""
    lightness, a, b = paint
    step = rng.uniform(15, 35) * (-1 if lightness > 60 else 1)
    return _lch(lightness + step, np.hypot(a, b) * rng.uniform(0.6, 1.1), np.arctan2(b, a) + rng.normal(0, 0.4))


def _lch(lightness: float, chroma: float, hue: float) -> Floats:
    return np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], np.float32)


def to_rgb(paint: Floats) -> Floats:
    """Lab ``[3]`` to float32 RGB ``[3]`` in [0, 1]."""
    return np.clip(cv2.cvtColor(paint[None, None], cv2.COLOR_LAB2RGB)[0, 0], 0, 1)


def to_lab(rgb: Floats) -> Floats:
    """RGB ``[3]`` in [0, 1] to float32 Lab ``[3]``."""
    return np.asarray(cv2.cvtColor(rgb[None, None], cv2.COLOR_RGB2LAB)[0, 0], np.float32)


def _shade(alpha: Floats, light: Floats, bevel: float) -> tuple[Floats, Floats]:
    """Diffuse gain and highlight, ``[h, w]`` each, of a rounded body with that silhouette."""
    depth = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    height = np.sqrt(1 - (1 - np.minimum(depth / bevel, 1)) ** 2) * bevel
    height = cv2.GaussianBlur(height, (0, 0), max(0.6, bevel / 6))
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)])
    normal /= np.linalg.norm(normal, axis=0)
    facing = np.maximum((light[:, None, None] * normal).sum(axis=0), 0)
    halfway = light + np.array([0, 0, 1], np.float32)
    halfway /= np.linalg.norm(halfway)
    gleam = np.maximum((halfway[:, None, None] * normal).sum(axis=0), 0) ** 40
    return np.asarray(0.45 + 0.7 * facing, np.float32), np.asarray(gleam, np.float32)


def draw(
    rng: Rng,
    contours: Contours,
    size: float,
    paints: tuple[Floats, Floats],
    light: Floats,
    texture: Callable[[Rng, Floats, Floats], Floats],
) -> Sprite:
    """Draw a silhouette at a random angle and aspect, textured and lit.

    Args:
        rng: source of angle, aspect and texture.
        contours: the silhouette.
        size: the longer side of its upright box, pixels.
        paints: the two colours that the texture mixes, float32 Lab ``[3]`` each.
        light: float32 ``[3]`` unit vector towards the light; x right, y down, z to the viewer.
        texture: ``(rng, x, y) -> [h, w]`` share of the second colour; coordinates turn with the body.
    """
    angle = rng.uniform(0, 2 * np.pi)
    stretch = float(np.exp(rng.uniform(-0.2, 0.2)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    body = np.diag([stretch, 1 / stretch])
    turned = [contour @ body @ turn.T for contour in contours]
    low = np.min([c.min(axis=0) for c in turned], axis=0)
    high = np.max([c.max(axis=0) for c in turned], axis=0)
    scale = size / (high - low).max()
    offset = 2 + rng.uniform(0, 1, 2) - low * scale  # a margin, at any subpixel phase
    width, height = np.ceil(high * scale + offset).astype(int) + 2

    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    unit = SUPERSAMPLING * 2**SUBPIXEL_BITS
    polygons = [np.round((contour * scale + offset) * unit).astype(np.int32) for contour in turned]
    cv2.fillPoly(canvas, polygons, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    alpha = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    rows, columns = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    points = np.stack([columns, rows], axis=-1) / SUPERSAMPLING - offset.astype(np.float32)
    local = points @ (turn / scale).astype(np.float32)
    share = texture(rng, local[..., 0], local[..., 1])
    share = cv2.resize(share, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    first, second = map(to_rgb, paints)
    colour = first + share * (second - first)

    gain, gleam = _shade(alpha, light, bevel=max(2.0, size * rng.uniform(0.06, 0.16)))
    colour = colour * gain[..., None] + rng.uniform(0, 0.5) * gleam[..., None]
    return Sprite(np.clip(colour, 0, 1).astype(np.float32), alpha)
