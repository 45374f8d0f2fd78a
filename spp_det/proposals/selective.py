"""Selective search (Uijlings et al., IJCV 2013): windows of an image that may hold an object (P section 4.1).

The image is converted into several colour spaces. In each of them its edges are sorted and its texture is
computed once; every granularity segments it along these edges (`segmentation`) and describes the segments
(`regions`); every strategy merges them until one is left (`grouping`). Every region is a window.

The windows are those of OpenCV's selective search, which `reference` calls, found in a tenth of the time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spp_det.boxes import Boxes, Ints
from spp_det.images import RGB
from spp_det.proposals.grouping import group
from spp_det.proposals.presets import MODES, PRESETS, Preset, SearchMode, in_colour
from spp_det.proposals.reference import search_by_opencv
from spp_det.proposals.regions import Bytes, Texture, describe, texture_of
from spp_det.proposals.segmentation import Graph, agree, segment
from spp_det.proposals.shrunk import search_shrunk
from spp_det.runtime.threads import cores

Engine = Literal["native", "opencv"]
VERSION = 1  # of the windows that this search finds in given pixels; part of their key in the cache


def selective_search(
    image: RGB,
    mode: SearchMode = "fast",
    max_side: int | None = None,
    threads: int | None = None,
    engine: Engine = "native",
) -> Boxes:
    """The windows of one image: RGB uint8 ``[H, W, 3] -> float32 [N, 4]``, sorted by (x1, y1, x2, y2).

    Args:
        image: at least one pixel; a uniform one gives the window of the whole image.
        mode: ``fast`` (OpenCV's preset), ``paper`` (the authors') or ``quality`` (slow, most windows).
        max_side: search in a copy shrunk to this longer side in pixels; the windows come back in
            the coordinates of ``image``.
        threads: cores to use on this one image; None means all.
        engine: ``native``, this search, or ``opencv``, the reference.

    The windows are a pure function of the pixels, ``mode``, ``max_side`` and ``engine``; no two are equal.
    The native search needs at most 32 MB and 400 bytes a pixel for each thread, whatever the shape of the
    image. Raises ValueError on an array that is not such an image, or an unknown mode or engine.

    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> image[20:50, 10:60] = 255
    >>> [10, 20, 60, 50] in selective_search(image).tolist()
    True
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if engine not in ("native", "opencv"):
        raise ValueError(f"engine must be native or opencv, got {engine!r}")
    preset = PRESETS[mode]
    find = _search if engine == "native" else search_by_opencv

    def search(shrunk: RGB) -> Ints:
        xywh = find(shrunk, preset, threads or cores())
        return xywh[(xywh[:, 2:] >= preset.min_side).all(axis=1)]

    return search_shrunk(image, max_side, search)


@dataclass(frozen=True, eq=False)
class _View:
    """What all segmentations of an image in one colour space share."""

    image: Bytes
    graph: Graph
    texture: Texture


def _search(image: RGB, preset: Preset, threads: int) -> Ints:
    """All windows ``[N, 4]`` as (x, y, width, height)."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    found: list[Ints] = []

    def view(colour: str) -> _View:
        converted = in_colour(bgr, colour)
        graph = agree(converted, min(preset.granularities), max(preset.granularities))
        return _View(converted, graph, texture_of(converted))

    def windows(job: tuple[int, _View]) -> Ints:
        k, view = job
        labels, count = segment(view.graph, k, preset.min_region(k))
        regions = describe(view.image, labels, count, view.texture)
        made = [group(regions, strategy, labels.size) for strategy in preset.strategies]
        return np.concatenate([regions.boxes, *made])

    with ThreadPoolExecutor(threads) as pool:
        each = map if threads == 1 else pool.map
        for first in range(0, len(preset.colours), threads):  # at most as many views at a time as threads
            views = list(each(view, preset.colours[first : first + threads]))
            found += each(windows, [(k, view) for k in preset.granularities for view in views])
    boxes = np.concatenate(found)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
