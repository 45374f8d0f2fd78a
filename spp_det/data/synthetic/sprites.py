"""One textured, shaded thing of a scene, drawn by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spp_det.boxes import Floats
from spp_det.data.synthetic.shapes import Contours
from spp_det.data.synthetic.textures import Rng, Texture, to_rgb
from spp_det.runtime.opencv import cv2

SUPERSAMPLING = 2  # silhouettes and textures are drawn this much larger and averaged down
SUBPIXEL_BITS = 4  # fillPoly's fixed-point fraction
TILT = np.pi / 5  # a thing leans this far to either side: like in photos, it has an up and a down


@dataclass(frozen=True, eq=False)
class Sprite:
    """A picture with a soft edge, to be laid over an image.

    Attributes:
        colour: float32 ``[h, w, 3]``, RGB in [0, 1].
        alpha: float32 ``[h, w]``, the covered part of each pixel in [0, 1].
    """

    colour: Floats
    alpha: Floats


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
    rng: Rng, contours: Contours, size: float, paints: tuple[Floats, Floats], light: Floats, texture: Texture
) -> Sprite:
    """Draw a silhouette at a random tilt and aspect, textured and lit.

    Args:
        rng: source of tilt, aspect and texture.
        contours: the silhouette.
        size: the longer side of its upright box, pixels.
        paints: the two colours that the texture mixes, float32 Lab ``[3]`` each.
        light: float32 ``[3]`` unit vector towards the light; x right, y down, z to the viewer.
        texture: where the second colour shows.
    """
    angle = rng.uniform(-TILT, TILT)
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
    covered = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    alpha = covered.astype(np.float32) / np.float32(255)

    rows, columns = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    points = np.stack([columns, rows], axis=-1) / SUPERSAMPLING - offset.astype(np.float32)
    local = points @ (turn / scale).astype(np.float32)
    fine = texture(rng, local[..., 0], local[..., 1])
    share = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    first, second = map(to_rgb, paints)
    colour = first + share * (second - first)

    gain, gleam = _shade(alpha, light, bevel=max(2.0, size * rng.uniform(0.06, 0.16)))
    colour = colour * gain[..., None] + rng.uniform(0, 0.5) * gleam[..., None]
    return Sprite(np.clip(colour, 0, 1).astype(np.float32), alpha)
