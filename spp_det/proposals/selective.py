"""Selective search: the windows of an image that may hold an object (P section 4.1).

OpenCV does the work. A search is a list of groupings: an image in some colour space is segmented at
some granularity ``k``, and each strategy merges those segments in its own order; every region that ever
existed is a window. The groupings are spelled out here, instead of OpenCV's one-call presets, so
that those of one image can run on several cores; the set of windows is the same as the presets'.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Ints
from spp_det.images import RGB
from spp_det.proposals.shrunk import search_shrunk
from spp_det.runtime.opencv import cv2
from spp_det.runtime.threads import cores

SearchMode = Literal["fast", "paper", "quality"]
MODES: tuple[SearchMode, ...] = get_args(SearchMode)

VERSION = 1  # of the windows that this file computes from given pixels; part of their cache key


@dataclass(frozen=True)
class _Search:
    colours: tuple[str, ...]
    granularities: tuple[int, ...]
    strategies: tuple[str, ...]  # each a set of cues: Colour, Fill, Texture, Size
    min_region: Callable[[int], int]  # smallest segment in pixels, from k
    min_side: int = 1  # windows with a shorter side are dropped


_SEARCHES: dict[str, _Search] = {
    # OpenCV's switchToSelectiveSearchFast
    "fast": _Search(("hsv", "lab"), (150, 300, 450), ("CFTS", "FTS"), lambda k: 100),  # noqa: ARG005
    # the authors' fast mode: finer segments, tiny windows dropped
    "paper": _Search(("hsv", "lab"), (50, 100), ("CFTS", "FTS"), lambda k: k, min_side=20),
    # OpenCV's switchToSelectiveSearchQuality; the plain blue channel stands where hue was meant
    "quality": _Search(
        ("hsv", "lab", "gray", "blue", "rg-gray"),
        (150, 300, 450, 600, 750),
        ("CFTS", "FTS", "F", "S"),
        lambda k: 100,  # noqa: ARG005
    ),
}
_SIGMA = 0.8  # of the Gaussian before the segmentation, in pixels


def selective_search(
    image: RGB, mode: SearchMode = "fast", max_side: int | None = None, threads: int | None = None
) -> Boxes:
    """The windows of one image: RGB uint8 ``[H, W, 3] -> float32 [N, 4]``, sorted by (x1, y1, x2, y2).

    Args:
        image: at least one pixel; a uniform one gives the window of the whole image.
        mode: ``fast`` (OpenCV's preset), ``paper`` (the authors') or ``quality`` (slow, most windows).
        max_side: search in a copy shrunk to this longer side in pixels; the windows come back in
            the coordinates of ``image``.
        threads: cores to use on this one image; None means all.

    The windows are a pure function of the pixels, ``mode`` and ``max_side``; no two are equal. Raises
    ValueError on an array that is not such an image, or an unknown mode.

    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> image[20:50, 10:60] = 255
    >>> [10, 20, 60, 50] in selective_search(image).tolist()
    True
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    search = _SEARCHES[mode]
    return search_shrunk(image, max_side, lambda shrunk: _search(shrunk, search, threads))


def _search(image: RGB, search: _Search, threads: int | None) -> Ints:
    """Windows ``[N, 4]`` as (x, y, width, height)."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])

    def group(job: tuple[str, int]) -> Ints:
        colour, k = job
        return _group(bgr, _in_colour(bgr, colour), k, search)

    # One job a segmentation: its strategies share it. Large granularities are quick and even out the end.
    jobs = [(colour, k) for k in search.granularities for colour in search.colours]
    threads = min(len(jobs), threads or cores())
    if threads == 1:
        found = [group(job) for job in jobs]
    else:
        with ThreadPoolExecutor(threads) as pool:  # OpenCV releases the GIL in process()
            found = list(pool.map(group, jobs))
    xywh = np.concatenate(found)
    return xywh[(xywh[:, 2:] >= search.min_side).all(axis=1)]


def _in_colour(bgr: RGB, colour: str) -> npt.NDArray[np.uint8]:
    codes = {"hsv": cv2.COLOR_BGR2HSV, "lab": cv2.COLOR_BGR2Lab, "gray": cv2.COLOR_BGR2GRAY}
    if colour in codes:
        return np.asarray(cv2.cvtColor(bgr, codes[colour]), dtype=np.uint8)
    if colour == "blue":
        return np.ascontiguousarray(bgr[:, :, 0])
    return np.dstack([bgr[:, :, 2], bgr[:, :, 1], _in_colour(bgr, "gray")])


def _group(bgr: RGB, converted: npt.NDArray[np.uint8], k: int, search: _Search) -> Ints:
    """Windows ``[N, 4]`` as (x, y, width, height) of one segmentation merged by every strategy."""
    module = cv2.ximgproc.segmentation
    segmentation = module.createGraphSegmentation()
    segmentation.setSigma(_SIGMA)
    segmentation.setK(k)
    segmentation.setMinSize(search.min_region(k))
    # All objects are fresh: a re-used search returns the windows of its former image.
    searcher = module.createSelectiveSearchSegmentation()
    searcher.setBaseImage(bgr)
    searcher.addImage(converted)
    searcher.addGraphSegmentation(segmentation)
    # Every strategy starts its cues anew, one after the other: they can share them, and with them the texture
    # of each pixel, which a cue computes once an image.
    cues = {
        "C": module.createSelectiveSearchSegmentationStrategyColor(),
        "F": module.createSelectiveSearchSegmentationStrategyFill(),
        "T": module.createSelectiveSearchSegmentationStrategyTexture(),
        "S": module.createSelectiveSearchSegmentationStrategySize(),
    }
    several = module.createSelectiveSearchSegmentationStrategyMultiple
    for strategy in search.strategies:
        parts = [cues[cue] for cue in strategy]
        searcher.addStrategy(parts[0] if len(parts) == 1 else several(*parts))
    return np.asarray(searcher.process(), dtype=np.int64).reshape(-1, 4)
