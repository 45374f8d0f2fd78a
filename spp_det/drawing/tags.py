"""Where the name tags of boxes go: beside their object, clear of other tags, inside the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spp_det.boxes import Doubles, Ints, area, intersection

# The cost of a place for a tag is a sum of shares, each with one of these weights.
_ON_TAG = 20.0  # share of the tag that lies on earlier tags
_ON_OWN = 0.6  # share of its own object that the tag covers
_ON_OTHER = 2.0  # share of another object that the tag covers
_IN_OTHER = 0.5  # share of the tag inside the boxes of other objects, which it would seem to name
_SHORTER = 0.35  # for each step to a shorter text
_WORST = 1.0  # a box whose best place costs more goes without a tag
_MOST = 0.2  # share of the picture that all tags may cover; a single tag is always allowed


class Place(NamedTuple):
    """The top left pixel of a tag, and the index of the offered text that fits there."""

    x: int
    y: int
    text: int


def place_tags(
    boxes: Ints, tag_sizes: Sequence[Sequence[tuple[int, int]]], width: int, height: int, line: int
) -> list[Place | None]:
    """Choose a place for the tag of every box; the first boxes choose first.

    Args:
        boxes: int64 ``[N, 4]``, half-open pixels, all inside the picture, most important first.
        tag_sizes: for each box the ``(width, height)`` of its texts in pixels, longest first. A box
            may have none; only the first ``len(tag_sizes)`` boxes get tags.
        width, height: of the picture, pixels.
        line: thickness of the boxes' lines, which a tag beside its box covers.

    Returns:
        One place for each box with texts, None where every place would hide too much.
    """
    frames = boxes.astype(np.float64)
    placed = np.zeros((0, 4))
    places: list[Place | None] = []
    for index, sizes in enumerate(tag_sizes):
        place = None
        lowest = _WORST
        for text, (w, h) in enumerate(sizes):
            budget = _MOST * width * height - area(placed).sum()
            if w > width or h > height or (len(placed) and w * h > budget):
                continue
            tags = _around(frames[index], w, h, line)
            tags[:, :2] = np.clip(tags[:, :2], 0, (width - w, height - h))
            tags[:, 2:] = tags[:, :2] + (w, h)
            cost = _cost(tags, index, frames, placed) + _SHORTER * text
            best = int(cost.argmin())
            if cost[best] < lowest:
                lowest = float(cost[best])
                place = Place(int(tags[best, 0]), int(tags[best, 1]), text)
        if place is not None:
            w, h = sizes[place.text]
            placed = np.append(placed, [[place.x, place.y, place.x + w, place.y + h]], axis=0)
        places.append(place)
    return places


def _around(box: Doubles, w: int, h: int, line: int) -> Doubles:
    """Places for a tag at one box, best first, ``[P, 4]``; some may reach out of the picture.

    Those outside the box lie on its line.
    """
    x1, y1, x2, y2 = box
    above, below = y1 - h + line, y2 - line
    corners = [(x, y) for y in (above, below, y1, y2 - h) for x in (x1, x2 - w)]
    corners += [(x, y) for y in (y1, y2 - h) for x in (x2 - line, x1 - w + line)]
    top_left = np.array(corners)
    return np.concatenate([top_left, top_left + np.array([w, h])], axis=1)


def _cost(tags: Doubles, index: int, boxes: Doubles, placed: Doubles) -> Doubles:
    """How much each of ``[P, 4]`` places for the tag of box ``index`` hides or misleads: ``[P]``."""
    own = boxes[index : index + 1]
    tag_area = area(tags)
    holds_own = intersection(own, boxes)[0] >= 0.9 * area(own)  # the tag's own box, and the boxes around it
    on_box = intersection(tags, boxes)  # [P, N]
    others = np.where(holds_own, 0.0, on_box)
    return np.asarray(
        0.01 * np.arange(len(tags))
        + _ON_OWN * on_box[:, index] / area(own)
        + _ON_OTHER * (others / area(boxes)).sum(axis=1)
        + _IN_OTHER * np.minimum(others.sum(axis=1) / tag_area, 1.0)
        + _ON_TAG * intersection(tags, placed).sum(axis=1) / tag_area
    )
