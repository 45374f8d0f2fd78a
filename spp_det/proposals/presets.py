"""The presets of selective search (Uijlings et al., IJCV 2013, section 5.1), for our search and OpenCV's.

A search is a list of groupings: an image in some colour space is segmented at some granularity ``k``, and
each strategy, a set of cues, merges the segments in an order of its own. Every region that exists at any time
is a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from spp_det.images import RGB
from spp_det.runtime.opencv import cv2

SearchMode = Literal["fast", "paper", "quality"]
MODES: tuple[SearchMode, ...] = get_args(SearchMode)
SIGMA = float(np.float32(0.8))  # of the Gaussian before the segmentation, in pixels, as OpenCV rounds it


@dataclass(frozen=True)
class Preset:
    """The settings of a search.

    Attributes:
        colours: spaces that the image is segmented and described in, names for `in_colour`.
        granularities: the ``k`` of the segmentations in each of them.
        strategies: each a set of cues, by their first letters: Colour, Fill, Texture, Size.
        min_region: gives, for ``k``, the smallest segment in pixels.
        min_side: windows with a shorter side in pixels are dropped.
    """

    colours: tuple[str, ...]
    granularities: tuple[int, ...]
    strategies: tuple[str, ...]
    min_region: Callable[[int], int]
    min_side: int = 1


PRESETS: dict[str, Preset] = {
    # OpenCV's switchToSelectiveSearchFast
    "fast": Preset(("hsv", "lab"), (150, 300, 450), ("CFTS", "FTS"), lambda k: 100),  # noqa: ARG005
    # the authors' fast mode: finer segments, tiny windows dropped
    "paper": Preset(("hsv", "lab"), (50, 100), ("CFTS", "FTS"), lambda k: k, min_side=20),
    # OpenCV's switchToSelectiveSearchQuality, which takes the blue channel where the paper takes hue
    "quality": Preset(
        ("hsv", "lab", "rg-gray", "gray", "blue"),
        (150, 300, 450, 600, 750),
        ("CFTS", "FTS", "F", "S"),
        lambda k: 100,  # noqa: ARG005
    ),
}


def in_colour(bgr: RGB, colour: str) -> npt.NDArray[np.uint8]:
    """An image BGR uint8 ``[H, W, 3]`` in another colour space: uint8 ``[H, W, C]``, C 3 or 1."""
    codes = {"hsv": cv2.COLOR_BGR2HSV, "lab": cv2.COLOR_BGR2Lab, "gray": cv2.COLOR_BGR2GRAY}
    if colour in codes:
        converted = np.asarray(cv2.cvtColor(bgr, codes[colour]), dtype=np.uint8)
        return converted.reshape(*bgr.shape[:2], -1)
    if colour == "blue":
        return np.ascontiguousarray(bgr[:, :, :1])
    return np.dstack([bgr[:, :, 2], bgr[:, :, 1], in_colour(bgr, "gray")])
