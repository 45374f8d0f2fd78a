"""Silhouettes: the outlines of the six classes, and of the clutter that belongs to none.

A silhouette is a list of closed contours, each float64 ``[P, 2]`` with the origin inside and the
farthest point about 1 away; where contours overlap they cut holes (even-odd rule).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Contour = npt.NDArray[np.float64]  # [P, 2]
Contours = list[Contour]
Rng = np.random.Generator


def _ellipse(radius: float = 1.0, points: int = 72) -> Contour:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _arrow(rng: Rng) -> Contours:
    shaft, neck = rng.uniform(0.2, 0.3), rng.uniform(-0.1, 0.2)
    upper = [(-1, shaft), (neck, shaft), (neck, 0.75), (1, 0)]
    lower = [(x, -y) for x, y in upper[-2::-1]]
    return [np.array(upper + lower, np.float64)]


def _disc(_rng: Rng) -> Contours:
    return [_ellipse()]


def _crescent(rng: Rng) -> Contours:
    tip = rng.uniform(0.65, 0.95)  # half the opening angle of the bite, radians
    depth = rng.uniform(-0.45, -0.2)  # where the bite ends on the axis
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


OBJECTS: dict[str, Callable[[Rng], Contours]] = {
    "arrow": _arrow,
    "checker": _disc,
    "crescent": _crescent,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
}
CLUTTER: tuple[Callable[[Rng], Contours], ...] = (_disc, _triangle, _slab, _blob)
