"""Edge Boxes (Zitnick and Dollár, ECCV 2014): windows that enclose whole contours, in OpenCV's version.

The edges come from a structured forest (Dollár and Zitnick, ICCV 2013). OpenCV keeps its model file in the
repository ``opencv_extra`` as ``testdata/cv/ximgproc/model.yml.gz``, not in its wheels.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from spp_det.boxes import Boxes, Ints
from spp_det.errors import UserError
from spp_det.images import RGB
from spp_det.proposals.shrunk import search_shrunk
from spp_det.runtime.cache import file_digest
from spp_det.runtime.opencv import cv2

VERSION = 1  # of the windows that this file computes from given pixels; part of their cache key
PATIENCE = 120  # seconds for the trial of a model, which takes one
_TRIAL = """
import sys, cv2, numpy
forest = cv2.ximgproc.createStructuredEdgeDetection(sys.argv[1])
generator = numpy.random.default_rng(0)
for cell in (1, 4, 16, 48):  # from noise to slopes: the more leaves of the trees are met, the better
    coarse = generator.random((192 // cell, 256 // cell, 3), numpy.float32)
    image = cv2.resize(coarse, (256, 192), interpolation=cv2.INTER_LINEAR if cell % 3 else cv2.INTER_NEAREST)
    forest.edgesNms(edges := forest.detectEdges(image), forest.computeOrientation(edges))
"""
MOST = 2000  # windows of one image, the best by Edge Boxes' own score; as many as selective search gives (P)


class EdgeBoxes:
    """Edge Boxes with one model of edges. One object may search on several threads at once.

    >>> windows = EdgeBoxes("model.yml.gz")(image)             # doctest: +SKIP
    """

    def __init__(self, model: str | Path) -> None:
        """Read OpenCV's model; UserError, one line, where the file is absent or no such model.

        OpenCV follows the numbers in it unchecked, and a wrong one may end the process. So another process
        tries the model first. That finds damage, not malice: take models from people you trust.
        """
        path = Path(model)
        try:
            self.digest = file_digest(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        try:
            _try(path)
            self.patch = _patch_side(path)
            self.forest = cv2.ximgproc.createStructuredEdgeDetection(str(path))
        except (cv2.error, ValueError, OverflowError, SystemError, subprocess.SubprocessError) as error:
            raise UserError(f"{path} is not a model of OpenCV's structured edges (model.yml.gz)") from error

    def __call__(self, image: RGB, max_side: int | None = None) -> Boxes:
        """The windows of one image: RGB uint8 ``[H, W, 3] -> float32 [N, 4]``, sorted by (x1, y1, x2, y2).

        At most `MOST`; none where there are no edges. An image with a side that is shorter than a patch of
        the forest (32 pixels) has the one window of the whole. ``max_side``: see `search_shrunk`.
        """
        return search_shrunk(image, max_side, self._search)

    def _search(self, image: RGB) -> Ints:
        height, width = image.shape[:2]
        if min(height, width) < self.patch:  # OpenCV does not look whether a patch fits
            return np.array([[0, 0, width, height]], np.int64)
        edges = self.forest.detectEdges(image.astype(np.float32) / 255)  # [H, W]
        orientation = self.forest.computeOrientation(edges)
        thin = self.forest.edgesNms(edges, orientation)
        boxes, _ = cv2.ximgproc.createEdgeBoxes(maxBoxes=MOST).getBoundingBoxes(thin, orientation)
        return np.asarray(boxes, dtype=np.int64).reshape(-1, 4)


def _try(path: Path) -> None:
    """Search an image by the model, in a process that may die of it: SubprocessError where it does."""
    command = [sys.executable, "-P", "-c", _TRIAL, str(path.absolute())]  # -P: nothing of the current folder
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


def _patch_side(path: Path) -> int:
    """The side in pixels of a patch. ValueError where OpenCV would divide by zero or read beyond an array."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    try:
        options = storage.getNode("options")
        names = ("patchSize", "patchInnerSize", "shrinkNumber", "stride", "selfsimilarityGridSize")
        values = [
            int(options.getNode(name).real())
            for name in (*names, "numberOfGradientOrientations", "numberOfTrees", "numberOfTreesToEvaluate")
        ]
        tables = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
        if min(values) < 1 or min(storage.getNode(name).size() for name in tables) < 1:
            raise ValueError("an option or a table is missing")
        return values[0]
    finally:
        storage.release()
