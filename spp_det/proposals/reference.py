"""Selective search by OpenCV: the reference for our own search.

The groupings are spelled out here, instead of OpenCV's one-call presets, so that the groupings of one image
can run on several cores.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Ints
from spp_det.images import RGB
from spp_det.proposals.presets import SIGMA, Preset, in_colour
from spp_det.runtime.opencv import cv2

BYTES_OF_TURNED = 6.5  # measured: the memory of a pixel of that square, whose side is width plus height
VERSION = 2  # of the windows that this file computes from given pixels; part of their cache key


def search_by_opencv(image: RGB, preset: Preset, threads: int) -> Ints:
    """All windows of an image RGB uint8 ``[H, W, 3]``: int64 ``[N, 4]``, (x, y, width, height), unsorted.

    OpenCV turns the image by 45 degrees, into a square. Raises MemoryError where that square takes more than
    128 MiB and 96 bytes a pixel of the image, as it does for a picture of extreme shape.
    """
    height, width = image.shape[:2]
    turned = BYTES_OF_TURNED * (height + width) ** 2
    if turned > 2**27 + 96 * height * width:
        raise MemoryError(
            f"OpenCV's engine would take {turned / 2**30:.1f} GiB, proposals.engine=native does not"
        )
    bgr = np.ascontiguousarray(image[:, :, ::-1])

    def group(job: tuple[str, int]) -> Ints:
        colour, k = job
        return _group(bgr, in_colour(bgr, colour), k, preset)

    # One job a segmentation: its strategies share it. Large granularities are quick and even out the end.
    jobs = [(colour, k) for k in preset.granularities for colour in preset.colours]
    with ThreadPoolExecutor(min(len(jobs), threads)) as pool:  # OpenCV releases the GIL in process()
        return np.concatenate(list(pool.map(group, jobs)))


def _group(bgr: RGB, converted: npt.NDArray[np.uint8], k: int, preset: Preset) -> Ints:
    """Windows ``[N, 4]`` as (x, y, width, height) of one segmentation merged by every strategy."""
    module = cv2.ximgproc.segmentation
    segmentation = module.createGraphSegmentation()
    segmentation.setSigma(SIGMA)
    segmentation.setK(k)
    segmentation.setMinSize(preset.min_region(k))
    # All objects are new: a search that is used twice returns the windows of its first image.
    searcher = module.createSelectiveSearchSegmentation()
    searcher.setBaseImage(bgr)
    searcher.addImage(converted)
    searcher.addGraphSegmentation(segmentation)
    # Strategies run one after the other, and each resets its cues. So they can share the cues, and the
    # texture of each pixel is computed only once.
    cues = {
        "C": module.createSelectiveSearchSegmentationStrategyColor(),
        "F": module.createSelectiveSearchSegmentationStrategyFill(),
        "T": module.createSelectiveSearchSegmentationStrategyTexture(),
        "S": module.createSelectiveSearchSegmentationStrategySize(),
    }
    several = module.createSelectiveSearchSegmentationStrategyMultiple
    for strategy in preset.strategies:
        parts = [cues[cue] for cue in strategy]
        searcher.addStrategy(parts[0] if len(parts) == 1 else several(*parts))
    return np.asarray(searcher.process(), dtype=np.int64).reshape(-1, 4)
